#include "workload.h"

// A child between vfork and exec blocks its parent in the kernel: that parent can't stop before the child goes on.
// The child here sleeps a second and then execs, so a dump must wait (or see both before or after).

WORKLOAD(vfork, "a child that sleeps in vfork and then execs while its parent is blocked", .slow = true) {
    say_ready();
    struct timespec second = {1, 0};
    volatile int stage = 1;
    pid_t child = vfork();
    if (!child) {
        stage = 2;
        nanosleep(&second, NULL);
        execl("/bin/sleep", "sleep", "0.2", NULL);
        _exit(127);
    }
    check(child > 0, "vfork: %s", strerror(errno));
    check_equal(stage, 2, "variable written by the child in vfork");
    reap(child);
    await_go();
}
