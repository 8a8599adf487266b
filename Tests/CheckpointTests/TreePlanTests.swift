@testable import Checkpoint
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
}
