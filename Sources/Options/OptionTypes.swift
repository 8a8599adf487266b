/// `--manage-cgroups`: what a restore does about cgroups.
package enum ManageCgroups: String, Sendable, CaseIterable { case ignore, none, props, soft, full, strict }

/// `--file-validation`: how a restore sees that a file is still the one that was dumped.
package enum FileValidation: String, Sendable, CaseIterable { case filesize, buildid }

/// `--network-lock`: how packets are held between dump and restore; skip and none are the same.
package enum NetworkLock: String, Sendable, CaseIterable { case iptables, nftables, skip, none }

/// `--pre-dump-mode`.
package enum PreDumpMode: String, Sendable, CaseIterable { case splice, read }

/// `--cpu-cap`.
package struct CPUCapabilities: OptionSet, Sendable, Hashable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    package static let fpu = CPUCapabilities(rawValue: 1)
    package static let cpu = CPUCapabilities(rawValue: 2)
    package static let ins = CPUCapabilities(rawValue: 4)
    package static let all: CPUCapabilities = [.fpu, .cpu, .ins]
}

/// `--inherit-fd fd[N]:RESOURCE`: restore uses our open descriptor N for what the images call RESOURCE.
package struct InheritedDescriptor: Sendable, Equatable {
    package var descriptor: Int32
    /// "pipe:[INODE]", "tty[RDEV:DEV]", "path/without/leading/slash", "/memfd:NAME", ...
    package var resource: String
    package init(descriptor: Int32, resource: String) {
        self.descriptor = descriptor
        self.resource = resource
    }
}

/// `--external KIND[ID][:VALUE]`: a resource that is not part of the tree.
package struct External: Sendable, Equatable {
    package enum Kind: String, Sendable, CaseIterable { case mnt, dev, file, tty, unix, net, pid, veth, macvlan, netdev }
    package var kind: Kind
    package var id: String
    package var value: String?
    package init(kind: Kind, id: String, value: String?) {
        self.kind = kind
        self.id = id
        self.value = value
    }

    /// As it was given: "KIND[ID]:VALUE".
    package var text: String { "\(kind.rawValue)[\(id)]" + (value.map { ":" + $0 } ?? "") }
}

/// `--join-ns NS:{PID|FILE}[,OPTIONS]`.
package struct JoinedNamespace: Sendable, Equatable {
    package enum Kind: String, Sendable, CaseIterable { case net, uts, ipc, time, mnt, user }
    package var kind: Kind
    package var target: String
    package var extra: String?
}

/// `--cgroup-root [CONTROLLER:]/PATH`; without a controller the default for all.
package struct CgroupRoot: Sendable, Equatable {
    package var controller: String?
    package var path: String
}

/// `--ext-unix-sk [INODE,...]`: sockets whose peer may be outside the tree.
package enum ExternalUnixSockets: Sendable, Equatable {
    case none, all, inodes([UInt64])
    /// As --external says it.
    package var named: [String] { if case .inodes(let inodes) = self { inodes.map { "unix[\($0)]" } } else { [] } }
}
