#include "workload.h"

static void on_signal(int number, siginfo_t *info, void *context) { (void)number, (void)info, (void)context; }
static void plain_handler(int number) { (void)number; }

/// The kernel's own view of an action: glibc hides the restorer.
struct kernel_action {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

static void take_actions(struct kernel_action *actions) {
    for (int i = 1; i <= 64; i++) must(syscall(SYS_rt_sigaction, i, NULL, &actions[i], 8));
}

WORKLOAD(signal_actions, "actions of all 64 signals with flags and masks, the mask and the alternate stack") {
    int flags[] = {0, SA_RESTART, SA_NODEFER | SA_RESETHAND, SA_ONSTACK, SA_NOCLDSTOP, SA_NOCLDWAIT};
    for (int i = 1; i < 65; i++) {
        if (i == SIGKILL || i == SIGSTOP || i == 32 || i == 33) continue;
        struct sigaction action = {.sa_flags = flags[i % 6]};
        sigemptyset(&action.sa_mask);
        for (int j = 1; j < 65; j++)
            if ((i * j) % 5 == 1) sigaddset(&action.sa_mask, j);
        if (i % 4 == 0) action.sa_handler = SIG_IGN;
        else if (i % 4 == 1) action.sa_handler = SIG_DFL;
        else if (i % 4 == 2) action.sa_handler = plain_handler;
        else action.sa_sigaction = on_signal, action.sa_flags |= SA_SIGINFO;
        must(sigaction(i, &action, NULL));
    }
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack, .ss_flags = 1U << 31 /* SS_AUTODISARM */}, alternate_now;
    must(sigaltstack(&alternate, NULL));
    sigset_t mask, mask_now;
    sigemptyset(&mask);
    for (int i = 1; i < 65; i += 3) sigaddset(&mask, i);
    must(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8));
    must(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8));
    static struct kernel_action before[65], after[65];
    take_actions(before);
    ready();
    take_actions(after);
    for (int i = 1; i <= 64; i++) {
        check(before[i].handler == after[i].handler, "handler of %d", i);
        check_equal(after[i].flags, before[i].flags, "flags of an action");
        check(before[i].restorer == after[i].restorer, "restorer of %d", i);
        check_equal(after[i].mask, before[i].mask, "mask of an action");
    }
    must(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask_now, 8));
    check(memcmp(&mask, &mask_now, 8) == 0, "mask is %#lx, was %#lx", *(long *)&mask_now, *(long *)&mask);
    must(sigaltstack(NULL, &alternate_now));
    check(alternate_now.ss_sp == stack, "alternate stack at %p", alternate_now.ss_sp);
    check_equal(alternate_now.ss_size, sizeof stack, "size of the alternate stack");
    check_equal(alternate_now.ss_flags, alternate.ss_flags, "flags of the alternate stack");
}

static volatile sig_atomic_t deep;
static void on_alternate_stack(int number) {
    (void)number;
    deep = 1;
    ready();  // taken inside a signal handler, on the alternate stack
    deep = 2;
}

WORKLOAD(signal_handler, "a task inside a signal handler on its alternate stack, with its mask, returns to where it was") {
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    must(sigaltstack(&alternate, NULL));
    struct sigaction action = {.sa_handler = on_alternate_stack, .sa_flags = SA_ONSTACK};
    sigaddset(&action.sa_mask, SIGRTMAX);
    must(sigaction(SIGUSR1, &action, NULL));
    must(raise(SIGUSR1));
    check_equal(deep, 2, "stage of the handler");
    char *blocked = status_field(getpid(), "SigBlk");
    check(strcmp(blocked, "0000000000000000") == 0, "blocked after the handler: %s", blocked);
}

struct queued {
    int number, code, value;
};

static void queue_one(pid_t process, pid_t thread, struct queued one) {
    siginfo_t info = {.si_signo = one.number, .si_code = one.code};
    info.si_pid = getpid() + one.value, info.si_uid = 1000 + one.value;
    info.si_value.sival_ptr = (void *)(0x1234567800000000 + one.value);
    if (thread) must(syscall(SYS_rt_tgsigqueueinfo, process, thread, one.number, &info));
    else must(syscall(SYS_rt_sigqueueinfo, process, one.number, &info));
}

static void check_next(int number, struct queued one, const char *whose) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    siginfo_t info;
    struct timespec zero = {0, 0};
    int got = sigtimedwait(&set, &info, &zero);
    check(got == number, "%s signal %d (value %d) is not pending: %s", whose, number, one.value, strerror(errno));
    check_equal(info.si_code, one.code, "si_code");
    check_equal(info.si_pid, getpid() + one.value, "si_pid");
    check_equal(info.si_uid, 1000 + one.value, "si_uid");
    check_equal((long)info.si_value.sival_ptr, 0x1234567800000000 + one.value, "si_value");
}

static const struct queued for_thread[] = {{40, SI_QUEUE, 1}, {40, SI_QUEUE, 2}, {40, SI_MESGQ, 3}, {SIGUSR1, SI_QUEUE, 4}};
static const struct queued for_process[] = {{45, SI_QUEUE, 11}, {45, SI_QUEUE, 12}, {44, SI_QUEUE, 13}, {SIGUSR2, SI_QUEUE, 14}};

static void *thread_with_pending(void *unused __attribute__((unused))) {
    for (int i = 0; i < 4; i++) queue_one(getpid(), syscall(SYS_gettid), for_thread[i]);
    settle();
    await_go();
    check_next(SIGUSR1, for_thread[3], "thread's");
    for (int i = 0; i < 3; i++) check_next(40, for_thread[i], "thread's");
    char *left = status_field(syscall(SYS_gettid), "SigPnd");
    check(strcmp(left, "0000000000000000") == 0, "more signals pending for the thread: %s", left);
    return NULL;
}

WORKLOAD(signals_pending, "queues of pending signals of the process and of a thread: order, codes, values; SI_USER and SI_KERNEL too") {
    sigset_t all;
    sigfillset(&all);
    must(sigprocmask(SIG_SETMASK, &all, NULL));
    pthread_t thread;
    must0(pthread_create(&thread, NULL, thread_with_pending, NULL));
    for (int i = 0; i < 4; i++) queue_one(getpid(), 0, for_process[i]);
    must(kill(getpid(), SIGHUP));  // SI_USER
    must(kill(getpid(), SIGTERM));
    must(syscall(SYS_tgkill, getpid(), getpid(), SIGTRAP));  // SI_TKILL
    await_settled(1);
    char *shared = status_field(getpid(), "ShdPnd"), *own = status_field(getpid(), "SigPnd");
    ready();
    check(strcmp(shared, status_field(getpid(), "ShdPnd")) == 0, "pending for the process: not %s", shared);
    check(strcmp(own, status_field(getpid(), "SigPnd")) == 0, "pending for the leader: not %s", own);
    check_next(SIGUSR2, for_process[3], "process's");
    check_next(44, for_process[2], "process's");
    check_next(45, for_process[0], "process's");
    check_next(45, for_process[1], "process's");
    sigset_t set;
    siginfo_t info;
    struct timespec zero = {0, 0};
    int numbers[] = {SIGHUP, SIGTERM, SIGTRAP}, codes[] = {SI_USER, SI_USER, SI_TKILL};
    for (int i = 0; i < 3; i++) {
        sigemptyset(&set);
        sigaddset(&set, numbers[i]);
        check_equal(must(syscall(SYS_rt_sigtimedwait, &set, &info, &zero, 8)), numbers[i], "pending signal");  // glibc hides SI_TKILL
        check_equal(info.si_code, codes[i], "si_code");
        check_equal(info.si_pid, getpid(), "si_pid");
    }
    must0(pthread_join(thread, NULL));
    sigfillset(&set);
    check(sigtimedwait(&set, &info, &zero) == -1 && errno == EAGAIN, "signal %d is pending too", info.si_signo);
}

static void death_child(void *unused __attribute__((unused))) {
    must(prctl(PR_SET_PDEATHSIG, SIGRTMIN + 3));
    settle();
    await_go();
    int number;
    must(prctl(PR_GET_PDEATHSIG, &number));
    check_equal(number, SIGRTMIN + 3, "signal at the parent's death");
}

WORKLOAD(parent_death_signal, "the signal that a child gets when its parent dies") {
    pid_t child = fork_child(death_child, NULL);
    await_settled(1);
    ready();
    reap(child);
}
