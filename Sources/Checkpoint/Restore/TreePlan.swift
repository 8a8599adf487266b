import ImageMessages
import Kinds
import Linux

/// In which order the processes of a tree come into being, so that parents, sessions and groups are as they were. Pure data.
///
/// A session can only be entered by birth. A process whose parent is not in its session is born in one of four ways (`Birth`). A session or
/// group whose leader is gone is led by a helper for a moment. Memory comes before children: pages that parent and child share are shared again by fork.
package struct TreePlan: Equatable, Sendable {
    package enum Step: Equatable, Sendable, CustomStringConvertible {
        /// Restore the memory of the process; its children are copies of it.
        case memory(Int32)
        /// `child` is made by `maker`: as its child, or with `sibling` as a child of its parent.
        case fork(child: Int32, maker: Int32, sibling: Bool)
        case newSession(Int32)
        case joinGroup(Int32, group: Int32)
        /// A helper ends; its parent reaps it.
        case end(helper: Int32)
        /// A helper ends, and its child becomes one of `reaper`, an ancestor.
        case leave(helper: Int32, to: Int32)
        /// A zombie dies as it did.
        case die(Int32)

        package var description: String {
            switch self {
            case .memory(let pid): "memory of \(pid)"
            case .fork(let child, let maker, let sibling): "fork \(child) by \(maker)" + (sibling ? " as its sibling" : "")
            case .newSession(let pid): "\(pid) leads a session"
            case .joinGroup(let pid, let group): "\(pid) joins group \(group)"
            case .end(let helper): "helper \(helper) ends"
            case .leave(let helper, let reaper): "helper \(helper) ends and leaves its child to \(reaper)"
            case .die(let pid): "\(pid) dies"
            }
        }
    }

    package struct Member: Equatable, Sendable {
        package var pid: Int32, parent: Int32, group: Int32, session: Int32, dead: Bool, threads: [Int32]
        package init(pid: Int32, parent: Int32, group: Int32, session: Int32, dead: Bool = false, threads: [Int32]? = nil) {
            (self.pid, self.parent, self.group, self.session, self.dead) = (pid, parent, group, session, dead)
            self.threads = threads ?? [pid]
        }
    }

    package private(set) var steps: [Step] = []
    package private(set) var helpers: Set<Int32> = []
    package let members: [Member]
    /// Every id that must be free.
    package var ids: Set<Int32> { Set(members.flatMap(\.threads)).union(members.map(\.pid)).union(helpers) }

    private var children: [Int32: [Member]] = [:]
    private var byPid: [Int32: Member] = [:]
    private var births = Births()
    /// Those that nobody but a session's leader can bring into it.
    private var byLeaders: [Member] = []
    /// Session and group that the root takes from us (--shell-job); nil when it leads its own.
    private let adoptedSession: Int32?, adoptedGroup: Int32?

    /// How a process comes into the session that it is born in.
    private enum Birth {
        /// Its parent is in that session.
        case direct
        /// Its parent, a leader, was in that session before it made its own.
        case beforeParentLeaves
        /// The leader, a child of the same parent, makes it as its sibling (CLONE_PARENT).
        case besideLeader
        /// A helper below the leader makes it and ends; it is left to its parent, an ancestor.
        case leftByHelper
    }
    private struct Births: Equatable, Sendable {
        /// Of processes that are not born directly.
        var ways: [Int32: Birth] = [:]
        /// The session that a leader is born in, where that matters.
        var sessions: [Int32: Int32] = [:]
        /// The parent of each session's leader. A leader that is gone had one of our choice.
        var leaderParents: [Int32: Int32] = [:]
    }

    /// - Parameter shellJob: the root need not lead its session: it joins ours.
    /// - Parameter spare: an id for a helper, none of those given.
    package init(_ members: [Member], shellJob: Bool, spare: (Set<Int32>) -> Int32 = SpareID.find) throws {
        self.members = members
        guard let root = members.first else { throw CheckpointError("restore", .image("pstree.img"), "it has no entry") }
        if root.session != root.pid, !shellJob {
            throw CheckpointError(
                "restore", .task(.init(root.pid)), "its session \(root.session) is led by a process outside the images",
                remedy: "give --shell-job on dump and restore, to make it a job of this terminal", option: "--shell-job")
        }
        adoptedSession = root.session == root.pid ? nil : root.session
        let pids = Set(members.map(\.pid))
        adoptedGroup = pids.contains(root.group) ? nil : root.group
        for member in members {
            byPid[member.pid] = member
            if member.pid != root.pid { children[member.parent, default: []].append(member) }
        }
        try findBirths()
        byLeaders = members.filter { births.ways[$0.pid] == .besideLeader || births.ways[$0.pid] == .leftByHelper }
        build(root, spare)
        try joinGroups()
        for member in members where member.dead { steps.append(.die(member.pid)) }
    }

    // MARK: how each is born

    private mutating func findBirths() throws {
        let root = members[0]
        for member in members where member.session == member.pid && member.pid != root.pid { births.leaderParents[member.pid] = member.parent }
        var stray: [Int32: [Member]] = [:]
        for member in members.dropFirst() where member.session != member.pid && byPid[member.parent]?.session != member.session {
            stray[member.session, default: []].append(member)
        }
        for (session, strays) in stray.sorted(by: { $0.key < $1.key }) {
            if byPid[session] != nil || session == adoptedSession {
                for member in strays where !findBirth(of: member, in: session) { throw unreachable(member) }
                continue
            }
            // Its leader is gone, and could have been anywhere: the deepest place leaves the others to ancestors.
            helpers.insert(session)
            let places = Set(strays.map(\.parent)).sorted { (depth($0), $0) > (depth($1), $1) }
            let before = births
            let found = places.contains { place in
                births = before
                births.leaderParents[session] = place
                return strays.allSatisfy { findBirth(of: $0, in: session) }
            }
            if !found { throw unreachable(strays[0]) }
        }
    }

    private mutating func findBirth(of child: Member, in session: Int32) -> Bool {
        guard child.pid != members[0].pid, let parent = byPid[child.parent] else { return false }
        if parent.session == session { return true }
        if births.sessions[parent.pid] == session {
            births.ways[child.pid] = .beforeParentLeaves
        } else if births.leaderParents[session] == parent.pid {
            births.ways[child.pid] = .besideLeader
        } else if let other = births.leaderParents[session], isAncestor(parent.pid, of: other) {
            births.ways[child.pid] = .leftByHelper
        } else if parent.session == parent.pid, births.sessions[parent.pid] == nil, findBirth(of: parent, in: session) {
            births.sessions[parent.pid] = session
            births.ways[child.pid] = .beforeParentLeaves
        } else { return false }
        return true
    }

    private func unreachable(_ member: Member) -> CheckpointError {
        CheckpointError("restore", .image("pstree.img"), "task \(member.pid) is in session \(member.session), which no child of task \(member.parent) can get into")
    }
    private func isAncestor(_ pid: Int32, of other: Int32) -> Bool {
        var at = byPid[other]?.parent
        while let next = at {
            if next == pid { return true }
            at = next == members[0].pid ? nil : byPid[next]?.parent
        }
        return false
    }
    private func depth(_ pid: Int32) -> Int { members.reduce(0) { $0 + (isAncestor($1.pid, of: pid) ? 1 : 0) } }

    // MARK: the steps

    private mutating func build(_ process: Member, _ spare: (Set<Int32>) -> Int32) {
        if !process.dead { steps.append(.memory(process.pid)) }
        let own = children[process.pid] ?? []
        func born(_ way: Birth) -> [Member] { own.filter { (births.ways[$0.pid] ?? .direct) == way } }
        for child in born(.beforeParentLeaves) { fork(child, by: process.pid, spare) }
        if process.session == process.pid { lead(process.pid, spare) }
        // Leaders first, so that processes are made in the order of their sessions.
        let direct = born(.direct)
        for child in direct.filter({ $0.session == $0.pid }) + direct.filter({ $0.session != $0.pid }) { fork(child, by: process.pid, spare) }
        for session in helpers.sorted() where births.leaderParents[session] == process.pid {
            steps.append(.fork(child: session, maker: process.pid, sibling: false))
            lead(session, spare)
            steps.append(.end(helper: session))
        }
    }

    /// A session comes into being, and with it those of its processes that nobody but its leader can bring into it.
    private mutating func lead(_ leader: Int32, _ spare: (Set<Int32>) -> Int32) {
        steps.append(.newSession(leader))
        for child in byLeaders where (births.sessions[child.pid] ?? child.session) == leader {
            if births.ways[child.pid] == .besideLeader {
                fork(child, by: leader, spare, sibling: true)
                continue
            }
            let helper = spare(ids)
            helpers.insert(helper)
            steps.append(.fork(child: helper, maker: leader, sibling: false))
            steps.append(.fork(child: child.pid, maker: helper, sibling: false))
            steps.append(.leave(helper: helper, to: child.parent))
            build(child, spare)
        }
    }

    private mutating func fork(_ child: Member, by maker: Int32, _ spare: (Set<Int32>) -> Int32, sibling: Bool = false) {
        steps.append(.fork(child: child.pid, maker: maker, sibling: sibling))
        build(child, spare)
    }

    // MARK: groups

    /// A group is led by the process of its number, in the same session; one whose leader is gone by a helper for a moment.
    private mutating func joinGroups() throws {
        var groups: [Int32: [Member]] = [:]
        for member in members where member.group != adoptedGroup { groups[member.group, default: []].append(member) }
        for (group, members) in groups.sorted(by: { $0.key < $1.key }) {
            if let leader = members.first(where: { $0.pid == group }) {
                if leader.session != leader.pid { steps.append(.joinGroup(group, group: group)) }
                for member in members where member.pid != group { steps.append(.joinGroup(member.pid, group: group)) }
                continue
            }
            if helpers.contains(group) {
                // Its leader led the session, too, and is gone by now: members were born into the group.
                continue
            }
            guard byPid[group] == nil, let first = members.first(where: { !$0.dead }) ?? members.first else {
                throw CheckpointError("restore", .image("pstree.img"), "group \(group) is led by a task that is not in it")
            }
            helpers.insert(group)
            steps.append(.fork(child: group, maker: first.pid, sibling: false))
            steps.append(.joinGroup(group, group: group))
            for member in members { steps.append(.joinGroup(member.pid, group: group)) }
            steps.append(.end(helper: group))
        }
    }
}

/// An id that no process has just now.
package enum SpareID {
    package static func find(not taken: Set<Int32>) -> Int32 {
        var id = Int32(clamping: Files.number("/proc/sys/kernel/pid_max") ?? 32768)
        // The kernel gives ids in ascending order: the highest are given last.
        repeat { id -= 1 } while taken.contains(id) || (try? Files.status("/proc/\(id)")) != nil
        return id
    }
}
