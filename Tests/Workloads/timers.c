#include "workload.h"
#include <sys/timerfd.h>

// Timers. Values left are compared with a tolerance: what passes while frozen may or may not count.

static double seconds(struct timespec time) { return time.tv_sec + time.tv_nsec / 1e9; }

WORKLOAD(itimers, "the three interval timers: value left, interval; they fire") {
    signal(SIGALRM, SIG_IGN), signal(SIGVTALRM, SIG_IGN), signal(SIGPROF, SIG_IGN);
    struct itimerval set[3] = {{{7, 250000}, {1000, 0}}, {{0, 0}, {2000, 0}}, {{3, 5}, {3000, 0}}};
    for (int i = 0; i < 3; i++) must(setitimer(i, &set[i], NULL));
    ready();
    struct itimerval value;
    for (int i = 0; i < 3; i++) {
        must(getitimer(i, &value));
        check_equal(value.it_interval.tv_sec, set[i].it_interval.tv_sec, "interval, seconds");
        check_equal(value.it_interval.tv_usec, set[i].it_interval.tv_usec, "interval, microseconds");
        long left = value.it_value.tv_sec;
        check(left <= set[i].it_value.tv_sec && left > set[i].it_value.tv_sec - 60, "itimer %d: %ld s left", i, left);
    }
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    must(sigprocmask(SIG_BLOCK, &alarm_only, NULL));
    signal(SIGALRM, SIG_DFL);
    struct itimerval soon = {{0, 0}, {0, 1000}};
    must(setitimer(ITIMER_REAL, &soon, NULL));
    check_equal(sigwaitinfo(&alarm_only, NULL), SIGALRM, "signal of the timer");
}

static int alarms;
static void on_alarm(int number) { (void)number, alarms++; }

WORKLOAD(alarm, "an alarm set before the dump comes once, not earlier than asked for", .slow = true) {
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    must(sigaction(SIGALRM, &action, NULL));
    double start = now();
    alarm(2);
    ready();
    while (!alarms && now() - start < 20) pause_ms(5);
    double elapsed = now() - start;
    check(elapsed > 1.99 && elapsed < 12, "the alarm came after %.3f s", elapsed);
    pause_ms(50);
    check_equal(alarms, 1, "number of alarms");
}

WORKLOAD(posix_timers, "posix timers: ids with gaps, clocks, intervals, notification, values; periodic ones go on") {
    struct expected {
        clockid_t clock;
        int notify, number;
        long value, interval;
    } wanted[] = {{CLOCK_REALTIME, SIGEV_SIGNAL, 40, 1000, 7}, {CLOCK_MONOTONIC, SIGEV_NONE, 0, 2000, 0},
                  {CLOCK_BOOTTIME, SIGEV_SIGNAL, 41, 0, 0},    {CLOCK_MONOTONIC, SIGEV_THREAD_ID, 42, 3000, 11},
                  {CLOCK_REALTIME, SIGEV_NONE, 0, 4000, 0},    {CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, 43, 5000, 0}};
    enum { count = sizeof wanted / sizeof *wanted };
    int ids[count], spare;
    sigset_t block;
    sigfillset(&block);
    must(sigprocmask(SIG_SETMASK, &block, NULL));
    for (int i = 0; i < count; i++) {
        struct sigevent event = {.sigev_notify = wanted[i].notify, .sigev_signo = wanted[i].number};
        event.sigev_value.sival_ptr = (void *)(0xabcd00000000 + i);
        event._sigev_un._tid = syscall(SYS_gettid);
        must(syscall(SYS_timer_create, wanted[i].clock, &event, &ids[i]));
        must(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, &spare));  // leaves a gap
        must(syscall(SYS_timer_delete, spare));
        struct itimerspec value = {{wanted[i].interval, 5}, {wanted[i].value, 0}};
        if (!wanted[i].interval) value.it_interval.tv_nsec = 0;
        if (wanted[i].value) must(syscall(SYS_timer_settime, ids[i], 0, &value, NULL));
    }
    int periodic;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = 44};
    event.sigev_value.sival_int = 99;
    must(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &periodic));
    struct itimerspec often = {{0, 3000000}, {0, 3000000}};  // 3 ms; its signal stays pending and overruns grow
    must(syscall(SYS_timer_settime, periodic, 0, &often, NULL));
    pause_ms(30);
    char *table = slurp("/proc/self/timers");
    ready();
    char *table_now = slurp("/proc/self/timers");
    check(strcmp(table, table_now) == 0, "timers are now\n%swere\n%s", table_now, table);
    for (int i = 0; i < count; i++) {
        struct itimerspec value;
        must(syscall(SYS_timer_gettime, ids[i], &value));
        check_equal(value.it_interval.tv_sec, wanted[i].interval, "interval");
        double left = seconds(value.it_value);
        check(left <= wanted[i].value && left > wanted[i].value - 60 - !wanted[i].value, "timer %d: %f s left of %ld", i,
              left, wanted[i].value);
    }
    sigset_t only;
    sigemptyset(&only);
    sigaddset(&only, 44);
    siginfo_t info;
    struct timespec second = {1, 0};
    pause_ms(30);  // the kernel tells nobody the overruns of a signal that waits; those after a restore count
    check_equal(sigtimedwait(&only, &info, &second), 44, "signal of the periodic timer");
    check_equal(info.si_code, SI_TIMER, "si_code of a timer's signal");
    check_equal(info.si_value.sival_int, 99, "its value");
    check(info.si_overrun >= 5, "overrun is %d after at least 30 ms of a 3 ms timer", info.si_overrun);
    check_equal(sigtimedwait(&only, &info, &second), 44, "next signal of the periodic timer");
}

WORKLOAD(timerfds, "timerfd: one shot, periodic, absolute, expired and unread, cancel-on-set; CRIU loses one that fires while frozen") {
    struct timespec mono;
    clock_gettime(CLOCK_MONOTONIC, &mono);
    int once = must(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK)), periodic = must(timerfd_create(CLOCK_MONOTONIC, 0)),
        absolute = must(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)), expired = must(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK)),
        idle = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)), ended = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    struct itimerspec often = {{0, 20000000}, {0, 20000000}}, far = {{0, 0}, {1000, 0}}, soon = {{0, 0}, {0, 1000000}};
    struct itimerspec at = {{0, 0}, {mono.tv_sec + 500, 0}}, hourly = {{3600, 0}, {0, 1000000}};
    must(timerfd_settime(once, 0, &far, NULL));
    must(timerfd_settime(periodic, 0, &often, NULL));
    must(timerfd_settime(absolute, TFD_TIMER_ABSTIME, &at, NULL));
    must(timerfd_settime(expired, 0, &hourly, NULL));
    must(timerfd_settime(ended, 0, &soon, NULL));
    pause_ms(10);
    ready();
    struct itimerspec value;
    uint64_t ticks;
    check_equal(must(fcntl(once, F_GETFL)) & O_NONBLOCK, O_NONBLOCK, "flags");
    check_equal(must(fcntl(absolute, F_GETFD)), FD_CLOEXEC, "close-on-exec");
    must(timerfd_gettime(once, &value));
    check(seconds(value.it_value) > 900 && seconds(value.it_value) < 1000, "one shot: %f s left", seconds(value.it_value));
    must(timerfd_gettime(absolute, &value));
    clock_gettime(CLOCK_MONOTONIC, &mono);
    double left = at.it_value.tv_sec - seconds(mono);
    check(seconds(value.it_value) > left - 1 && seconds(value.it_value) < left + 60, "absolute: %f s left, not %f",
          seconds(value.it_value), left);
    must(timerfd_gettime(periodic, &value));
    check_equal(value.it_interval.tv_nsec, 20000000, "interval");
    check(seconds(value.it_value) > 0 && seconds(value.it_value) <= 0.02, "periodic: %f s left: disarmed?", seconds(value.it_value));
    for (int i = 0; i < 3; i++) check_equal(must(read(periodic, &ticks, 8)), 8, "bytes of a tick");
    check_equal(must(read(expired, &ticks, 8)), 8, "bytes of an expired timer");
    check_equal(ticks, 1, "ticks of the expired timer");
    must(timerfd_gettime(expired, &value));
    check_equal(value.it_interval.tv_sec, 3600, "interval of the expired timer");
    check_equal(must(read(ended, &ticks, 8)), 8, "bytes of an ended one-shot timer");
    check_equal(ticks, 1, "ticks of the ended one-shot timer");
    check(read(ended, &ticks, 8) == -1 && errno == EAGAIN, "the ended timer ticks again");
    must(timerfd_gettime(idle, &value));
    check(seconds(value.it_value) == 0, "an idle timer has been armed");
}
