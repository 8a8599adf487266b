@testable import Checkpoint
import Kinds
import Testing

@Suite("tree plan") struct TreePlanTests {
    typealias Member = TreePlan.Member

    @Test("a child of its parent's first session is born before the parent leaves it")
    func childBornBeforeSession() throws {
        let plan = try TreePlan([Member(pid: 10, parent: 0, group: 10, session: 10), Member(pid: 11, parent: 10, group: 11, session: 11),
                                 Member(pid: 12, parent: 11, group: 10, session: 10)], shellJob: false)
        #expect(plan.steps == [
            .memory(10), .newSession(10), .fork(child: 11, maker: 10, sibling: false), .memory(11), .fork(child: 12, maker: 11, sibling: false),
            .memory(12), .newSession(11), .joinGroup(12, group: 10),
        ])
    }

    @Test("a session whose leader is gone is led by a helper that makes its members as siblings")
    func goneLeader() throws {
        let plan = try TreePlan([Member(pid: 10, parent: 0, group: 10, session: 10), Member(pid: 12, parent: 10, group: 11, session: 11)], shellJob: false)
        #expect(plan.helpers == [11])
        #expect(plan.steps == [
            .memory(10), .newSession(10), .fork(child: 11, maker: 10, sibling: false), .newSession(11), .fork(child: 12, maker: 11, sibling: true),
            .memory(12), .end(helper: 11),
        ])
    }

    @Test("zombies die last, after they have led their groups")
    func zombieLeadsGroup() throws {
        let plan = try TreePlan([Member(pid: 10, parent: 0, group: 10, session: 10), Member(pid: 11, parent: 10, group: 11, session: 10, dead: true),
                                 Member(pid: 12, parent: 10, group: 11, session: 10)], shellJob: false)
        #expect(Array(plan.steps.suffix(3)) == [.joinGroup(11, group: 11), .joinGroup(12, group: 11), .die(11)])
    }

    @Test("a root that follows a shell is refused without --shell-job, and takes our session and group with it")
    func shellJob() throws {
        let members = [Member(pid: 10, parent: 0, group: 9, session: 5), Member(pid: 11, parent: 10, group: 9, session: 5)]
        #expect(throws: (any Error).self) { try TreePlan(members, shellJob: false) }
        let plan = try TreePlan(members, shellJob: true)
        #expect(plan.steps == [.memory(10), .fork(child: 11, maker: 10, sibling: false), .memory(11)])
    }

    @Test("a job left to an ancestor of its session's leader is made below the leader, by a helper that leaves it to the ancestor")
    func leftToAncestor() throws {
        let plan = try TreePlan([Member(pid: 10, parent: 0, group: 10, session: 10), Member(pid: 11, parent: 10, group: 11, session: 11),
                                 Member(pid: 12, parent: 11, group: 12, session: 12), Member(pid: 14, parent: 10, group: 12, session: 12)],
                                shellJob: false, spare: { ids in ids.max()! + 100 })
        #expect(plan.steps == [
            .memory(10), .newSession(10), .fork(child: 11, maker: 10, sibling: false), .memory(11), .newSession(11),
            .fork(child: 12, maker: 11, sibling: false), .memory(12), .newSession(12),
            .fork(child: 114, maker: 12, sibling: false), .fork(child: 14, maker: 114, sibling: false), .leave(helper: 114, to: 10), .memory(14),
            .joinGroup(14, group: 12),
        ])
        #expect(plan.ids.contains(114))
    }

    @Test("a session whose leader is gone has members under two parents: it is led below the deeper one")
    func goneLeaderInTwoPlaces() throws {
        let plan = try TreePlan([Member(pid: 10, parent: 0, group: 10, session: 10), Member(pid: 12, parent: 10, group: 11, session: 11),
                                 Member(pid: 13, parent: 10, group: 13, session: 13), Member(pid: 14, parent: 13, group: 11, session: 11)],
                                shellJob: false, spare: { ids in ids.max()! + 100 })
        #expect(plan.steps == [
            .memory(10), .newSession(10), .fork(child: 13, maker: 10, sibling: false), .memory(13), .newSession(13),
            .fork(child: 11, maker: 13, sibling: false), .newSession(11), .fork(child: 114, maker: 11, sibling: false),
            .fork(child: 12, maker: 114, sibling: false), .leave(helper: 114, to: 10), .memory(12),
            .fork(child: 14, maker: 11, sibling: true), .memory(14), .end(helper: 11),
        ])
    }

    @Test("two leaders' children in the session of a leader that is gone: one leader is born in that session")
    func goneLeaderOfCousins() throws {
        let plan = try TreePlan([Member(pid: 10, parent: 0, group: 10, session: 10), Member(pid: 12, parent: 10, group: 12, session: 12),
                                 Member(pid: 13, parent: 12, group: 11, session: 11), Member(pid: 14, parent: 10, group: 14, session: 14),
                                 Member(pid: 15, parent: 14, group: 11, session: 11)], shellJob: false, spare: { ids in ids.max()! + 100 })
        let born = plan.steps.firstIndex(of: .fork(child: 12, maker: 115, sibling: false))
        let child = plan.steps.firstIndex(of: .fork(child: 13, maker: 12, sibling: false))
        let leaves = plan.steps.firstIndex(of: .newSession(12))
        #expect(born != nil && child != nil && leaves != nil && born! < child! && child! < leaves!)
        #expect(plan.steps.contains(.leave(helper: 115, to: 10)))
        #expect(plan.steps.contains(.fork(child: 15, maker: 11, sibling: true)))
    }

    @Test("a member of a session that nobody above it was in is refused by name")
    func unreachable() throws {
        let members = [Member(pid: 10, parent: 0, group: 10, session: 10), Member(pid: 11, parent: 10, group: 11, session: 11),
                       Member(pid: 12, parent: 10, group: 10, session: 10), Member(pid: 13, parent: 12, group: 11, session: 11)]
        let error = #expect(throws: CheckpointError.self) { try TreePlan(members, shellJob: false) }
        #expect("\(error!)".contains("task 13 is in session 11, which no child of task 12 can get into"))
    }
}
