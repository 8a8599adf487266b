import ImageMessages
import Kinds
import Linux

/// In which order the processes of a tree come into being, so that parents, sessions and groups are as they were. Pure data.
///
/// A session can only be entered by birth, so a child of another session than its parent's is born before its parent leaves
/// that session, or is made by a member of that session as a sibling (CLONE_PARENT). A session or group whose leader is gone
/// is led by a helper for a moment. Memory comes before children: pages that parent and child share are shared again by fork.
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
        /// A zombie dies as it did.
        case die(Int32)

        package var description: String {
            switch self {
            case .memory(let pid): "memory of \(pid)"
            case .fork(let child, let maker, let sibling): "fork \(child) by \(maker)" + (sibling ? " as its sibling" : "")
            case .newSession(let pid): "\(pid) leads a session"
            case .joinGroup(let pid, let group): "\(pid) joins group \(group)"
            case .end(let helper): "helper \(helper) ends"
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
    /// Session and group that the root takes from us (--shell-job); nil when it leads its own.
    private let adoptedSession: Int32?, adoptedGroup: Int32?

    /// - Parameter shellJob: the root need not lead its session: it joins ours.
    package init(_ members: [Member], shellJob: Bool) throws {
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
        try build(root, bornIn: adoptedSession ?? -1)
        try joinGroups()
        for member in members where member.dead { steps.append(.die(member.pid)) }
    }

    private mutating func build(_ process: Member, bornIn session: Int32) throws {
        if !process.dead { steps.append(.memory(process.pid)) }
        var rest = children[process.pid] ?? []
        var current = session
        if process.session == process.pid {
            // Born before the parent leaves: members of the session that it comes from.
            for child in rest where child.session == session && child.session != process.pid { try fork(child, by: process.pid, in: session) }
            rest.removeAll { $0.session == session && $0.session != process.pid }
            steps.append(.newSession(process.pid))
            current = process.pid
        } else if process.session != session {
            throw CheckpointError("restore", .image("pstree.img"), "task \(process.pid) is in session \(process.session), which nobody it could come from is in")
        }
        // Leaders first: they may have to make siblings.
        for child in rest where child.session == current || child.session == child.pid { try fork(child, by: process.pid, in: current) }
        let others = rest.filter { $0.session != current && $0.session != $0.pid }
        for session in Set(others.map(\.session)).sorted() {
            let orphans = others.filter { $0.session == session }
            if let leader = rest.first(where: { $0.pid == session && !$0.dead }) {
                for child in orphans { try fork(child, by: leader.pid, in: session, sibling: true) }
            } else if byPid[session] == nil || byPid[session]!.dead {
                guard byPid[session] == nil, !helpers.contains(session) else {
                    throw CheckpointError("restore", .image("pstree.img"), "session \(session) has a dead leader and members under several parents: not supported yet")
                }
                helpers.insert(session)
                steps.append(.fork(child: session, maker: process.pid, sibling: false))
                steps.append(.newSession(session))
                for child in orphans { try fork(child, by: session, in: session, sibling: true) }
                steps.append(.end(helper: session))
            } else {
                throw CheckpointError("restore", .image("pstree.img"), "task \(orphans[0].pid) is in session \(session) of a task that is not its parent: not supported yet")
            }
        }
    }

    private mutating func fork(_ child: Member, by maker: Int32, in session: Int32, sibling: Bool = false) throws {
        steps.append(.fork(child: child.pid, maker: maker, sibling: sibling))
        try build(child, bornIn: session)
    }

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
