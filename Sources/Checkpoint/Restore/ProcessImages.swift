import Glibc
import ImageMessages
import Images
import Kinds
import Linux

/// The images of one process, checked and at hand.
struct ProcessImages {
    let pstree: PstreeEntry
    let core: CoreEntry
    /// In the order of pstree, without the leader.
    let threads: [(id: Int32, core: CoreEntry)]
    let ids: TaskKobjIdsEntry
    let mm: MmEntry
    let fs: FsEntry
    let pages: PageImage
    /// All that it was found in.
    let set: ImageSet

    var pid: Int32 { Int32(bitPattern: pstree.pid) }
    var isDead: Bool { core.tc.taskState == 2 }
    /// The wait status of a leader that ended before its threads.
    var endedLeader: Int32? { core.tc.stasis.hasLeaderStatus ? Int32(bitPattern: core.tc.stasis.leaderStatus) : nil }
    /// The set of cgroups of the process; nil where the dump ignored them.
    var cgroupSet: UInt32? {
        let set = core.threadCore.hasCgSet ? core.threadCore.cgSet : core.tc.cgSet
        return set == 0 ? nil : set
    }
}
