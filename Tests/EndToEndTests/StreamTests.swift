import Foundation
import Testing

extension EndToEnd {
    /// --stream, against a streamer of a few lines that speaks criu-image-streamer's protocol and keeps the images in a folder.
    @Suite("images through a streamer", .serialized) struct Streams {
        private func run(_ workload: String, _ body: @escaping (Run) throws -> Void) throws {
            try Run.live(workload, again: "swift test --filter EndToEnd.Streams", as: "\(workload)-streamed") { run in
                try body(run)
                try run.checkItself()
            }
        }

        @Test("a tree is dumped into one, and restored from it", arguments: ["memory-private", "memory-shared", "tree", "unix-rights", "ghosts", "memfds"])
        func roundTrip(workload: String) throws { try roundTrip(workload) { _ in ([], []) } }

        @Test("encrypted images are opened when they are back", arguments: ["memory-shared", "ghosts"]) func encrypted(workload: String) throws {
            try roundTrip(workload) { run in
                let keys = try Keys(in: run.scratch)
                return (["--encrypt", keys.file], ["--decrypt", keys.file])
            }
        }

        private func roundTrip(_ workload: String, _ options: @escaping (Run) throws -> (dump: [String], restore: [String])) throws {
            try run(workload) { run in
                let options = try options(run)
                let streamer = Streamer(run)
                try streamer.start("capture", in: run.scratch + "/1")
                let dumped = try run.dumpCommand(["--stream"] + options.dump).run(within: 60)
                guard dumped.succeeded else { throw Failure("dump: \(dumped)") }
                try streamer.awaitEnd()
                #expect(exists(streamer.folder + "/inventory.img") && !exists(run.images + "/inventory.img"))
                guard eventually(within: 3, { kill(run.root, 0) != 0 }) else { throw Failure("task \(run.root) is still there") }
                try streamer.start("serve", in: run.images)
                try run.restore(["--stream"] + options.restore)
                try streamer.awaitEnd()
            }
        }

        @Test("a streamer that is not there, or goes away, leaves the tree as it was") func lost() throws {
            try run("memory-private") { run in
                let alone = try run.dumpCommand(["--stream"]).run(within: 60)
                #expect(!alone.succeeded && alone.output.contains("start criu-image-streamer"), "\(alone)")
                let streamer = Streamer(run)
                try streamer.start("capture", in: run.scratch + "/2", images: 5)
                let cut = try run.dumpCommand(["--stream"]).run(within: 60)
                #expect(!cut.succeeded && cut.output.contains("cannot stream image"), "\(cut)")
                #expect(Task(run.root).map { !"Tt".contains($0.state) } == true)
            }
        }

        @Test("images that lack one are not restored") func incomplete() throws {
            try run("pipes") { run in
                let streamer = Streamer(run)
                try FileManager.default.createDirectory(atPath: run.scratch + "/0", withIntermediateDirectories: true)
                try streamer.start("serve", in: run.images)
                let result = try run.restoreCommand(["--stream"]).run(within: 60)
                #expect(!result.succeeded && result.output.contains("no inventory.img"), "\(result)")
            }
        }
    }
}

/// The other end, in Python.
private final class Streamer {
    let folder: String
    private var process: Process?
    init(_ run: Run) {
        folder = run.scratch + "/streamed"
        try? FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    }

    /// - Parameter images: goes away behind so many.
    func start(_ direction: String, in place: String, images: Int = 1 << 30) throws {
        let script = """
            import array, os, socket, struct, sys
            direction, place, folder, left = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
            listener = socket.socket(socket.AF_UNIX); listener.bind(f"{place}/streamer-{direction}.sock"); listener.listen(1)
            line = listener.accept()[0]; listener.close()
            def descriptor():
                data, control, _, _ = line.recvmsg(1, socket.CMSG_SPACE(4))
                return array.array("i", control[0][2][:4])[0]
            given = set()
            while left > 0 and (size := line.recv(4, socket.MSG_WAITALL)):
                left -= 1
                message = line.recv(struct.unpack("<I", size)[0], socket.MSG_WAITALL)
                assert message[0] == 10 and message[1] == len(message) - 2 < 128
                name = message[2:].decode()
                path = f"{folder}/{name}"
                if direction == "capture":
                    with open(descriptor(), "rb") as pipe, open(path, "xb") as file:
                        while data := pipe.read(65536): file.write(data)
                    continue
                assert name not in given, name
                there = os.path.exists(path)
                line.sendall(struct.pack("<I", 2) + bytes([8, there]))
                if there:
                    given.add(name)
                    with open(descriptor(), "wb") as pipe, open(path, "rb") as file: pipe.write(file.read())
            """
        try FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: true)
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["python3", "-c", script, direction, place, folder, "\(images)"]
        process.standardInput = FileHandle.nullDevice
        try process.run()
        self.process = process
        guard eventually(within: 20, { exists(place + "/streamer-\(direction).sock") }) else { throw Failure("the streamer does not listen") }
    }

    func awaitEnd() throws {
        guard let process else { return }
        guard eventually(within: 20, { !process.isRunning }), process.terminationStatus == 0 else { throw Failure("the streamer does not end well") }
    }
    deinit { if let process, process.isRunning { kill(process.processIdentifier, SIGKILL) } }
}
