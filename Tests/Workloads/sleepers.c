#include "workload.h"
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/select.h>

// A task asleep in the kernel must not notice a dump or a restore: no EINTR, and the time asked for, not less and not twice.
// Frozen time may come on top (the time that was left is what goes on).  `workload sleepers poll` runs one kind only.

static double asked = 2.5;
static struct timespec asked_time(void) { return (struct timespec){(time_t)asked, (asked - (time_t)asked) * 1e9}; }

static long nanosleep_null(void) {
    struct timespec time = asked_time();
    return syscall(SYS_nanosleep, &time, NULL);
}
static long nanosleep_rem(void) {
    struct timespec time = asked_time(), left = {77, 77};
    long result = syscall(SYS_nanosleep, &time, &left);
    // Left alone by an uninterrupted sleep.
    if (result == 0) check(left.tv_sec == 77, "nanosleep wrote its second argument");
    return result;
}
static long clock_relative(void) {
    struct timespec time = asked_time();
    return syscall(SYS_clock_nanosleep, CLOCK_REALTIME, 0, &time, NULL);
}
static long clock_absolute(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += (time_t)asked, time.tv_nsec += (asked - (time_t)asked) * 1e9;
    if (time.tv_nsec >= 1000000000) time.tv_sec++, time.tv_nsec -= 1000000000;
    return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}
static long poll_timeout(void) {
    int ends[2];
    must(pipe(ends));
    struct pollfd set = {ends[0], POLLIN, 0};
    return syscall(SYS_poll, &set, 1, (int)(asked * 1000));
}
static long poll_nothing(void) { return syscall(SYS_poll, NULL, 0, (int)(asked * 1000)); }
static long ppoll_timeout(void) {
    struct timespec time = asked_time();
    return syscall(SYS_ppoll, NULL, 0, &time, NULL, 8);
}
static long select_timeout(void) {
    int ends[2];
    must(pipe(ends));
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    struct timeval time = {(time_t)asked, (asked - (time_t)asked) * 1e6};
    return syscall(SYS_select, ends[0] + 1, &set, NULL, NULL, &time);
}
static long pselect_mask(void) {
    struct timespec time = asked_time();
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigset_t before, after;
    sigprocmask(SIG_BLOCK, NULL, &before);
    long result = pselect(0, NULL, NULL, NULL, &time, &mask);
    sigprocmask(SIG_BLOCK, NULL, &after);
    check(sigismember(&after, SIGUSR1) == sigismember(&before, SIGUSR1), "pselect left its mask behind");
    return result;
}
static long epoll_timeout(void) {
    int ends[2], set = must(epoll_create1(0));
    must(pipe(ends));
    struct epoll_event event = {.events = EPOLLIN};
    must(epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event));
    return syscall(SYS_epoll_wait, set, &event, 1, (int)(asked * 1000));
}
static long futex_timeout(void) {
    static uint32_t word;
    struct timespec time = asked_time();
    long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
    return result == -1 && errno == ETIMEDOUT ? 0 : result;
}
static long signal_timeout(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct timespec time = asked_time();
    long result = syscall(SYS_rt_sigtimedwait, &set, NULL, &time, 8);
    return result == -1 && errno == EAGAIN ? 0 : result;
}
static long receive_timeout(void) {
    int ends[2];
    char byte;
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    struct timeval time = {(time_t)asked, (asked - (time_t)asked) * 1e6};
    must(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    long result = syscall(SYS_recvfrom, ends[0], &byte, 1, 0, NULL, NULL);
    return result == -1 && errno == EAGAIN ? 0 : result;
}
/// Without a time-out: somebody else ends the sleep.
static pid_t helper;
static long read_pipe(void) {
    int ends[2];
    char byte;
    must(pipe(ends));
    if (!(helper = must(fork()))) {
        nanosleep_null();
        if (write(ends[1], "x", 1) != 1) _exit(1);
        _exit(0);
    }
    long result = syscall(SYS_read, ends[0], &byte, 1);
    return result == 1 ? 0 : -1;
}
static long receive_socket(void) {
    int ends[2];
    char byte;
    must(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    if (!(helper = must(fork()))) {
        nanosleep_null();
        if (write(ends[1], "x", 1) != 1) _exit(1);
        _exit(0);
    }
    long result = syscall(SYS_recvfrom, ends[0], &byte, 1, 0, NULL, NULL);
    return result == 1 ? 0 : -1;
}
static long wait_child(void) {
    if (!(helper = must(fork()))) {
        nanosleep_null();
        _exit(0);
    }
    int status;
    long result = syscall(SYS_wait4, helper, &status, 0, NULL);
    int failed = result != helper || status;
    helper = 0;
    return failed ? -1 : 0;
}
static long write_full_pipe(void) {
    int ends[2];
    char block[4096] = {0};
    must(pipe(ends));
    for (int i = 0; i < 16; i++) must(write(ends[1], block, sizeof block));
    if (!(helper = must(fork()))) {
        nanosleep_null();
        if (read(ends[0], block, sizeof block) != sizeof block) _exit(1);
        _exit(0);
    }
    return syscall(SYS_write, ends[1], block, sizeof block) == sizeof block ? 0 : -1;
}

static const struct kind {
    const char *name;
    long (*sleep)(void);
} kinds[] = {{"nanosleep", nanosleep_null}, {"nanosleep-rem", nanosleep_rem}, {"clock", clock_relative},
             {"clock-absolute", clock_absolute}, {"poll", poll_timeout}, {"poll-nothing", poll_nothing},
             {"ppoll", ppoll_timeout}, {"select", select_timeout}, {"pselect", pselect_mask}, {"epoll", epoll_timeout},
             {"futex", futex_timeout}, {"sigtimedwait", signal_timeout}, {"recv-timeout", receive_timeout},
             {"read", read_pipe}, {"recv", receive_socket}, {"wait4", wait_child}, {"write", write_full_pipe}};
enum { kind_count = sizeof kinds / sizeof *kinds };

static void sleeper(void *argument) {
    const struct kind *kind = argument;
    double start = now();
    settle();
    errno = 0;
    long result = kind->sleep();
    int error = errno;
    double elapsed = now() - start;
    check(result == 0, "%s returns %ld (%s) after %.3f s of %.3f", kind->name, result, strerror(error), elapsed, asked);
    // 20 ms: a helper that sleeps first starts a little later, clocks are rounded
    check(elapsed > asked - 0.02, "%s slept only %.3f s of %.3f", kind->name, elapsed, asked);
    check(elapsed < asked + 20, "%s slept %.3f s instead of %.3f", kind->name, elapsed, asked);
    if (helper) reap(helper);
}

static void sleep_in_all_ways(int argc, char **argv) {
    if (getenv("WORKLOAD_SLEEP")) asked = atof(getenv("WORKLOAD_SLEEP"));
    pid_t children[kind_count];
    int count = 0;
    for (int i = 0; i < kind_count; i++)
        if (argc < 2 || strcmp(argv[1], kinds[i].name) == 0) children[count++] = fork_child(sleeper, (void *)&kinds[i]);
    check(count, "no kind of sleeping is called that");
    await_settled(count);
    for (int i = 0; i < count; i++) await_asleep(children[i]);
    ready();
    for (int i = 0; i < count; i++) reap(children[i]);
}

WORKLOAD(sleepers, "17 ways of sleeping with and without a time-out: no EINTR, the right time", .slow = true) {
    sleep_in_all_ways(argc, argv);
}

WORKLOAD(sleepers_blocked, "the same with all signals blocked", .slow = true) {
    sigset_t all;
    sigfillset(&all);
    must(sigprocmask(SIG_SETMASK, &all, NULL));
    sleep_in_all_ways(argc, argv);
}

static const struct kind *thread_kinds[] = {&kinds[0], &kinds[4], &kinds[9], &kinds[10]};
static void *sleeping_thread(void *kind) {
    sleeper(kind);
    return NULL;
}

WORKLOAD(sleeping_threads, "four ways of sleeping, each in a thread", .slow = true) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) must0(pthread_create(&threads[i], NULL, sleeping_thread, (void *)thread_kinds[i]));
    await_settled(4);
    pause_ms(20);
    ready();
    for (int i = 0; i < 4; i++) must0(pthread_join(threads[i], NULL));
}

static volatile int handled;
static void handler(int number) { handled = number; }
/// Handles SIGUSR1, without SA_RESTART, and blocks it; the mask of before.
static sigset_t block_handled(void) {
    struct sigaction action = {.sa_handler = handler};
    must(sigaction(SIGUSR1, &action, NULL));
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    must(sigprocmask(SIG_BLOCK, &set, &old));
    return old;
}

WORKLOAD(interrupted, "a handler without SA_RESTART still interrupts a sleep after the restore: pause, sigsuspend, read") {
    sigset_t old = block_handled();
    pid_t children[3];
    for (int i = 0; i < 3; i++) {
        if ((children[i] = must(fork()))) continue;
        int ends[2];
        char byte;
        must(pipe(ends));
        if (i) must(sigprocmask(SIG_SETMASK, &old, NULL));
        settle();
        long result = i == 0 ? sigsuspend(&old) : i == 1 ? pause() : read(ends[0], &byte, 1);
        check(result == -1 && errno == EINTR, "sleeper %d returns %ld, %s", i, result, strerror(errno));
        check_equal(handled, SIGUSR1, "signal handled");
        sigset_t after;
        must(sigprocmask(SIG_BLOCK, NULL, &after));
        check_equal(sigismember(&after, SIGUSR1), i == 0, "SIGUSR1 blocked after the call");
        _exit(0);
    }
    await_settled(3);
    for (int i = 0; i < 3; i++) await_asleep(children[i]);
    ready();
    for (int i = 0; i < 3; i++) {
        pause_ms(5);
        must(kill(children[i], SIGUSR1));
        reap(children[i]);
    }
}

// How a call ends that a signal finds waiting behind a stop: as if the task had never been anything but asleep.
static long wait_in(int way, const sigset_t *unblocked) {
    struct timespec long_time = {1000, 0}, left = {7, 7};
    char byte;
    int ends[2], poller = epoll_create1(0), word = 5;
    must(pipe(ends));
    struct pollfd set = {ends[0], POLLIN, 0};
    struct epoll_event event = {.events = EPOLLIN};
    must(epoll_ctl(poller, EPOLL_CTL_ADD, ends[0], &event));
    long result;
    switch (way) {
    case 0: return pause();
    case 1: return sigsuspend(unblocked);
    case 2: return poll(&set, 1, -1);
    case 3: return poll(&set, 1, 1000000);
    case 4: return syscall(SYS_nanosleep, &long_time, NULL);
    case 5:
        result = syscall(SYS_nanosleep, &long_time, &left);
        check(left.tv_sec > 900 && left.tv_sec < 1000, "nanosleep says that %ld s are left", (long)left.tv_sec);
        return result;
    case 6: return -(errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &long_time, NULL)) ? -1 : 0;
    case 7: return syscall(SYS_futex, &word, FUTEX_WAIT, 5, &long_time);
    case 8: return syscall(SYS_futex, &word, FUTEX_WAIT, 5, NULL);
    case 9: return epoll_wait(poller, &event, 1, -1);
    case 10: return ppoll(&set, 1, NULL, unblocked);
    default: return read(ends[0], &byte, 1);
    }
}

WORKLOAD(interrupted_stopped, "a signal that waits while its task is stopped ends the call that the task sleeps in, or the task; so it does after a restore") {
    enum { ways = 12 };
    sigset_t old = block_handled();
    pid_t children[ways];
    for (int way = 0; way < ways; way++) {
        if ((children[way] = must(fork()))) continue;
        if (way != 1 && way != 10) must(sigprocmask(SIG_SETMASK, &old, NULL));
        settle();
        long result = wait_in(way, &old);
        check(result == -1 && errno == EINTR, "way %d: %ld, %s", way, result, strerror(errno));
        check_equal(handled, SIGUSR1, "signal handled");
        _exit(0);
    }
    // And one whose handler has its call start again.
    int ends[2];
    must(pipe(ends));
    pid_t again = must(fork());
    if (!again) {
        char byte = 0;
        struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
        must(sigaction(SIGUSR1, &action, NULL));
        must(sigprocmask(SIG_SETMASK, &old, NULL));
        settle();
        check_equal(must(read(ends[0], &byte, 1)), 1, "bytes of the pipe");
        check_equal(handled, SIGUSR1, "signal handled");
        _exit(byte != 'x');
    }
    pid_t doomed = must(fork());
    if (!doomed) {
        signal(SIGTERM, SIG_DFL);
        settle();
        for (;;) pause();
    }
    await_settled(ways + 2);
    int status;
    await_asleep(doomed);
    must(kill(doomed, SIGSTOP));
    check_equal(must(waitpid(doomed, &status, WUNTRACED)), doomed, "stopped child");
    must(kill(doomed, SIGTERM));
    for (int i = 0; i <= ways; i++) {
        pid_t child = i < ways ? children[i] : again;
        await_asleep(child);
        must(kill(child, SIGSTOP));
        check_equal(must(waitpid(child, &status, WUNTRACED)), child, "stopped child");
        must(kill(child, SIGUSR1));
    }
    ready();
    for (int i = 0; i < ways; i++) must(kill(children[i], SIGCONT)), reap(children[i]);
    must(kill(again, SIGCONT));
    must(write(ends[1], "x", 1));
    reap(again);
    check(*status_field(doomed, "State") == 'T', "the child that is to die is in state %s", status_field(doomed, "State"));
    must(kill(doomed, SIGCONT));
    check_equal(must(waitpid(doomed, &status, 0)), doomed, "the child that is to die");
    check(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "it ended with %#x", status);
}
