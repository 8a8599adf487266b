// workload NAME [ARG...]             builds its state, says ready, waits, checks itself (workload.h)
// workload --list                    name, options for the dump, for the restore, speed, description; tab-separated
// workload --detached NAME [ARG...]  the same in a session of its own with stdio on /dev/null; prints its pid
// workload --detached-exec PROGRAM [ARG...]
#include "workload.h"

int run_workload(const char *name, int argc, char **argv);
void list_workloads(void);

/// Forks; returns in the child, a session leader without a terminal whose parent has gone.
static void detach(void) {
    pid_t parent = getpid(), child = must(fork());
    if (child) {
        printf("%d\n", child);
        fflush(stdout);
        _exit(0);
    }
    must(setsid());
    sigset_t none;  // whoever starts us may have blocked signals in its threads, as libdispatch does
    sigemptyset(&none);
    must(sigprocmask(SIG_SETMASK, &none, NULL));
    int null = must(open("/dev/null", O_RDWR));
    for (int fd = 0; fd < 3; fd++) must(dup2(null, fd));
    must(close_range(3, ~0U, 0));
    while (getppid() == parent) pause_ms(1);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        list_workloads();
        return 0;
    }
    if (argc > 2 && strcmp(argv[1], "--detached-exec") == 0) {
        detach();
        execvp(argv[2], argv + 2);
        fail("exec %s: %s", argv[2], strerror(errno));
    }
    if (argc > 2 && strcmp(argv[1], "--detached") == 0) {
        detach();
        return run_workload(argv[2], argc - 2, argv + 2);
    }
    if (argc > 1 && argv[1][0] != '-') return run_workload(argv[1], argc - 1, argv + 1);
    fprintf(stderr, "usage: workload --list | [--detached] NAME [ARG...] | --detached-exec PROGRAM [ARG...]\n");
    return 2;
}
