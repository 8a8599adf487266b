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

// Processes and threads that begin and end all the time: whatever stage a dump finds them in, each is there once, and ends once.

static void check_status(pid_t child, int code) {
    int status;
    check_equal(must(waitpid(child, &status, 0)), child, "the child that ended");
    check_equal(status, code << 8, "status of a child");
}

static void forks(void *unused __attribute__((unused))) {
    settle();
    for (int round = 0; !may_go(); round++) {
        pid_t child = must(fork());
        if (!child) _exit(round & 0x7f);
        check_status(child, round & 0x7f);
        check(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "a child came twice");
    }
}

static void vforks(void *unused __attribute__((unused))) {
    settle();
    while (!may_go()) {
        pid_t child = vfork();
        if (!child) {
            execl("/bin/true", "true", NULL);
            _exit(127);
        }
        check(child > 0, "vfork: %s", strerror(errno));
        check_status(child, 0);
    }
}

static void *doubled(void *number) { return (void *)(2 * (intptr_t)number); }

static void makes_threads(void *unused __attribute__((unused))) {
    settle();
    for (intptr_t round = 1; !may_go(); round++) {
        pthread_t thread;
        void *result;
        must0(pthread_create(&thread, NULL, doubled, (void *)round));
        must0(pthread_join(thread, &result));
        check_equal((intptr_t)result, 2 * round, "result of a thread");
    }
}

WORKLOAD(churn, "processes and threads that begin and end all the time, by fork, vfork and clone") {
    pid_t children[] = {fork_child(forks, NULL), fork_child(vforks, NULL), fork_child(makes_threads, NULL)};
    await_settled(3);
    ready();
    for (int i = 0; i < 3; i++) reap(children[i]);
}
