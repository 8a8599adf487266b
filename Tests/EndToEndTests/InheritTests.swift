import Foundation
import Testing

/// What --inherit-fd gives takes the place of what was there: a pipe, an end of a socket pair, a terminal.
@Suite("descriptors from outside", .serialized) final class InheritTests {
    private let directory = NSTemporaryDirectory() + "stasis-inherit-\(UUID().uuidString.prefix(8))"
    init() throws { try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true) }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    @Test("a pipe that does not block, a socket named by --ext-unix-sk=INODE, a controlling terminal")
    func given() throws {
        try """
            import fcntl, os, socket, subprocess, sys, termios, time
            def wait_for(what):
                while not os.path.exists(what): time.sleep(0.01)
            def ends():
                reading, writing = os.pipe()
                ours, theirs = socket.socketpair()
                master, slave = os.openpty()
                return reading, writing, ours, theirs, master, slave
            reading, writing, ours, theirs, master, slave = ends()
            child = os.fork()
            if child == 0:
                os.setsid()
                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
                os.set_blocking(writing, False)
                for other in reading, ours.fileno(), master: os.close(other)
                open('ready', 'w').close()
                wait_for('go')
                theirs.send(b'hello')
                with open('/dev/tty', 'wb', buffering=0) as terminal: terminal.write(b'here')
                os.write(writing, b'waits' if os.get_blocking(writing) else b'does not wait')
                os._exit(0)
            wait_for('ready')
            pipe, peer = os.readlink(f'/proc/self/fd/{writing}'), os.fstat(theirs.fileno()).st_ino
            status = os.fstat(slave)
            terminal = f'tty[{status.st_rdev:x}:{status.st_dev:x}]'
            os.close(writing); os.close(slave); theirs.close()
            stasis = sys.argv[1]
            subprocess.run([stasis, 'dump', '-t', str(child), '-D', 'd', '-v1', f'--ext-unix-sk={peer}', '--external', terminal], check=True)
            os.waitpid(child, 0)
            reading, writing, ours, theirs, master, slave = ends()
            given = writing, theirs.fileno(), slave
            subprocess.run([stasis, 'restore', '-D', 'd', '-d', '-v1', '-x'] + [word for number, key in zip(given, (pipe, f'socket:[{peer}]', terminal)) for word in ('--inherit-fd', f'fd[{number}]:{key}')],
                           check=True, pass_fds=given)
            for number in given: os.close(number)
            open('go', 'w').close()
            print(ours.recv(100).decode(), os.read(master, 100).decode(), os.read(reading, 100).decode())

            """.write(toFile: directory + "/program.py", atomically: false, encoding: .utf8)
        let script = """
            cd \(directory); for n in $(ls /proc/$$/fd); do [ $n -gt 2 -a $n -ne 255 ] && eval "exec $n>&-"; done
            mkdir d; timeout 30 python3 program.py \(Binaries.stasis) < /dev/null 2>&1
            """
        let result = try Command("/usr/bin/unshare", ["-m", "-pf", "--mount-proc", "--kill-child", "/bin/bash", "-c", script], in: directory).run(within: 60)
        #expect(result.output == "hello here does not wait\n", "\(result)")
    }
}
