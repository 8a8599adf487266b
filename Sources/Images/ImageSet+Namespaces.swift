import ImageMessages

// Control groups and namespaces (format 15 and 16).
extension ImageSet {
    func checkCgroups(_ findings: inout Findings) {
        let host = inventory.hasRootCgSet ? inventory.rootCgSet : nil
        let place = Place(file: "cgroup.img", entry: 0)
        var sets = Set<UInt32>()
        for (index, set) in cgroup?.sets.enumerated() ?? [].enumerated() {
            place.expect(sets.insert(set.id).inserted, "sets[\(index)].id", "\(set.id) is there twice", &findings)
            for (member, controller) in set.ctls.enumerated() {
                let place = place.inside("sets[\(index)].ctls[\(member)]")
                place.text(controller.name, upTo: Limits.path, "name", &findings)
                checkGroupPath(controller.path, place, "path", &findings)
                place.expect(UInt64(controller.cgnsPrefix) <= UInt64(controller.path.utf8.count), "cgns_prefix", "\(controller.cgnsPrefix) is longer than the path", &findings)
            }
        }
        for (index, controller) in cgroup?.controllers.enumerated() ?? [].enumerated() {
            for (directory, entry) in controller.dirs.enumerated() {
                checkGroup(entry, place.inside("controllers[\(index)].dirs[\(directory)]"), &findings)
            }
        }
        for task in tasks where !task.isDead {
            for (id, core) in [(task.pid, task.core)] + task.threads.map({ ($0.id, $0.core) }) {
                let set = core.threadCore.hasCgSet ? core.threadCore.cgSet : core.tc.cgSet
                guard core.threadCore.hasCgSet || core.tc.hasCgSet else { continue }
                let place = Place(file: ImageFile<CoreEntry>.core.name(id), entry: 0)
                place.expect(host != nil, "thread_core.cg_set", "it is \(set), but inventory.img has no root_cg_set", &findings)
                place.expect(set == host || sets.contains(set), "thread_core.cg_set", "cgroup.img has no set \(set)", &findings)
            }
        }
    }

    /// Paths become directories below the cgroup mount: none may lead out of it.
    private func checkGroupPath(_ path: String, _ place: Place, _ field: String, _ findings: inout Findings) {
        place.text(path, upTo: Limits.path, field, &findings)
        place.expect(!path.split(separator: "/").contains(".."), field, "\"\(path)\" leads upwards", &findings)
    }

    private func checkGroup(_ group: CgroupDirEntry, _ place: Place, _ findings: inout Findings) {
        checkGroupPath(group.dirName, place, "dir_name", &findings)
        for (index, property) in group.properties.enumerated() {
            place.text(property.name, upTo: 255, "properties[\(index)].name", &findings)
            place.expect(!property.name.utf8.contains(UInt8(ascii: "/")), "properties[\(index)].name", "\"\(property.name)\" is not the name of a file", &findings)
        }
        for (index, child) in group.children.enumerated() { checkGroup(child, place.inside("children[\(index)]"), &findings) }
    }

    func checkNamespaces(_ findings: inout Findings) {
        for (id, entry) in namespaces.uts {
            let place = Place(file: ImageFile<UtsnsEntry>.utsNamespace.name(id), entry: 0)
            place.text(entry.nodename, upTo: 64, "nodename", &findings)  // __NEW_UTS_LEN
            place.text(entry.domainname, upTo: 64, "domainname", &findings)
        }
        for (id, entry) in namespaces.user {
            let place = Place(file: ImageFile<UsernsEntry>.userNamespace.name(id), entry: 0)
            for (map, field) in [(entry.uidMap, "uid_map"), (entry.gidMap, "gid_map")] {
                place.expect(map.count <= 340, field, "\(map.count) lines are more than the kernel takes", &findings)  // user_namespaces(7)
                for (index, extent) in map.enumerated() {
                    let last = max(UInt64(extent.first), UInt64(extent.lowerFirst)) + UInt64(extent.count)
                    place.expect(extent.count > 0 && last <= 1 << 32, "\(field)[\(index)].count", "the range is empty or too long", &findings)
                }
            }
        }
        for (id, mounts) in namespaces.mounts { checkMounts(mounts, ImageFile<MntEntry>.mountpoints.name(id), &findings) }
        for (id, ipc) in namespaces.ipc {
            for (index, segment) in ipc.sharedMemory.enumerated() {
                let place = Place(file: ImageFile<IpcShmEntry>.ipcSharedMemory.name(id), entry: index)
                place.expect(segment.entry.desc.id <= UInt32(Int32.max), "desc.id", "\(segment.entry.desc.id) is no id", &findings)
                checkSegment(segment.entry.desc.id, size: segment.entry.size, &findings)
            }
            let variables = Place(file: ImageFile<IpcVarEntry>.ipcVariables.name(id), entry: 0)
            variables.expect(ipc.variables.semCtls.count == 4, "sem_ctls", "it has \(ipc.variables.semCtls.count) words, 4 are needed", &findings)
        }
        for (id, net) in namespaces.net {
            for (index, sysctl) in net.entry.sysctls.enumerated() {
                let place = Place(file: ImageFile<NetnsEntry>.netNamespace.name(id), entry: 0), name = sysctl.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                place.text(sysctl, upTo: Limits.path, "sysctls[\(index)]", &findings)
                let isName = name.count == 2 && name[0].split(separator: "/", omittingEmptySubsequences: false).allSatisfy { !["", ".", ".."].contains($0) }
                place.expect(isName, "sysctls[\(index)]", "\"\(sysctl)\" is no NAME=VALUE below /proc/sys/net", &findings)
            }
            for (index, device) in net.devices.enumerated() {
                let place = Place(file: ImageFile<NetDeviceEntry>.netDevices.name(id), entry: index)
                place.text(device.name, upTo: 15, "name", &findings)  // IFNAMSIZ
                // It becomes a directory of /proc/sys/net (net/core/dev.c, dev_valid_name).
                place.expect(!["", ".", ".."].contains(device.name) && !device.name.utf8.contains(UInt8(ascii: "/")), "name", "\"\(device.name)\" is no name of an interface", &findings)
                place.expect(device.address.count <= 32, "address", "it has \(device.address.count) bytes, 32 are the most", &findings)
            }
        }
    }

    /// A tree: every mount but one hangs below another, without circles.
    private func checkMounts(_ mounts: [MntEntry], _ file: String, _ findings: inout Findings) {
        var parents: [UInt32: UInt32] = [:]
        var roots = 0
        let ids = Set(mounts.map(\.mntID))
        for (index, mount) in mounts.enumerated() {
            let place = Place(file: file, entry: index)
            place.expect(parents.updateValue(mount.parentMntID, forKey: mount.mntID) == nil, "mnt_id", "\(mount.mntID) is there twice", &findings)
            if !ids.contains(mount.parentMntID) || mount.parentMntID == mount.mntID { roots += 1 }
            for (text, field) in [(mount.root, "root"), (mount.mountpoint, "mountpoint"), (mount.source, "source"), (mount.extKey, "ext_key")] {
                place.text(text, upTo: Limits.path, field, &findings)
            }
            place.text(mount.options, upTo: Limits.path, "options", &findings)
            place.expect(mount.mountpoint.hasPrefix("/"), "mountpoint", "\"\(mount.mountpoint)\" is not an absolute path", &findings)
        }
        let whole = Place(file: file, entry: nil)
        whole.expect(roots == 1, "parent_mnt_id", "\(roots) mounts have no parent here, one must", &findings)
        var sound = Set<UInt32>()
        for mount in mounts {
            var path: [UInt32] = [], met = Set<UInt32>(), id = mount.mntID
            while let parent = parents[id], parent != id, !sound.contains(id) {
                guard met.insert(id).inserted else {
                    return whole.expect(false, "parent_mnt_id", "mount \(id) is its own ancestor", &findings)
                }
                path.append(id)
                id = parent
            }
            sound.formUnion(path)
        }
    }
}
