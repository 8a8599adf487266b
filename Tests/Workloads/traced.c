#include "workload.h"
#include <sys/ptrace.h>

// For the safety tests: a task that its own child traces can't be dumped by anybody else.

static void tracer(void *root) {
    pid_t target = *(pid_t *)root;
    must(ptrace(PTRACE_SEIZE, target, NULL, NULL));
    settle();
    await_go();
}

WORKLOAD(traced, "for the safety tests: traced by its own child, so no dump is possible", .untreated = true) {
    pid_t self = getpid(), child = fork_child(tracer, &self);
    await_settled(1);
    ready();
    reap(child);
    check(strcmp(status_field(getpid(), "TracerPid"), "0") == 0, "still traced");
}
