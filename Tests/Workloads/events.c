#include "workload.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

WORKLOAD(eventfds, "eventfd: counts, also past 32 bits, semaphores, flags") {
    uint64_t counts[] = {0, 1, 7, 1ULL << 32, (1ULL << 40) + 3, ~0ULL - 1};
    enum { count = sizeof counts / sizeof *counts };
    int plain[count], semaphore[count];
    for (int i = 0; i < count; i++) {
        plain[i] = must(eventfd(0, EFD_NONBLOCK));
        semaphore[i] = must(eventfd(0, EFD_NONBLOCK | EFD_SEMAPHORE | EFD_CLOEXEC));
        if (counts[i]) must(write(plain[i], &counts[i], 8));
        if (counts[i]) must(write(semaphore[i], &counts[i], 8));
    }
    int blocking = must(eventfd(5, 0));
    ready();
    uint64_t value;
    for (int i = 0; i < count; i++) {
        check_equal(must(fcntl(plain[i], F_GETFL)), O_RDWR | O_NONBLOCK, "flags");
        check_equal(must(fcntl(semaphore[i], F_GETFD)), FD_CLOEXEC, "close-on-exec");
        if (!counts[i]) {
            check(read(plain[i], &value, 8) == -1 && errno == EAGAIN, "a count of 0 can be read");
            continue;
        }
        check_equal(must(read(semaphore[i], &value, 8)), 8, "bytes");
        check_equal(value, 1, "value read from a semaphore");
        check_equal(must(read(plain[i], &value, 8)), 8, "bytes");
        check_equal(value, counts[i], "count");
        if (i < 3) {
            for (uint64_t j = 1; j < counts[i]; j++) must(read(semaphore[i], &value, 8));
            check(read(semaphore[i], &value, 8) == -1 && errno == EAGAIN, "the semaphore's count is too high");
        }
    }
    check_equal(must(fcntl(blocking, F_GETFL)), O_RDWR, "flags of a blocking eventfd");
    must(read(blocking, &value, 8));
    check_equal(value, 5, "count");
}

WORKLOAD(signalfds, "signalfd: mask, flags, signals already pending, several of them") {
    sigset_t one, two;
    sigemptyset(&one), sigemptyset(&two);
    sigaddset(&one, SIGUSR1), sigaddset(&two, SIGUSR2), sigaddset(&two, SIGRTMIN + 4);
    must(sigprocmask(SIG_BLOCK, &one, NULL));
    must(sigprocmask(SIG_BLOCK, &two, NULL));
    int first = must(signalfd(-1, &one, SFD_NONBLOCK)), second = must(signalfd(-1, &two, SFD_NONBLOCK | SFD_CLOEXEC));
    union sigval value = {.sival_int = 4711};
    must(sigqueue(getpid(), SIGRTMIN + 4, value));
    must(kill(getpid(), SIGUSR1));
    ready();
    struct signalfd_siginfo info;
    check_equal(must(fcntl(second, F_GETFD)), FD_CLOEXEC, "close-on-exec");
    check_equal(must(read(first, &info, sizeof info)), sizeof info, "bytes");
    check_equal(info.ssi_signo, SIGUSR1, "signal");
    check(read(first, &info, sizeof info) == -1 && errno == EAGAIN, "the first signalfd has another signal: its mask changed");
    check_equal(must(read(second, &info, sizeof info)), sizeof info, "bytes");
    check_equal(info.ssi_signo, SIGRTMIN + 4, "signal");
    check_equal(info.ssi_int, 4711, "value");
    must(kill(getpid(), SIGUSR2));
    check_equal(must(read(second, &info, sizeof info)), sizeof info, "bytes");
}

WORKLOAD(epolls, "epoll: entries with data and flags, one-shot used up, edge-triggered, nested, entry on a descriptor since dup'ed and closed") {
    int outer = must(epoll_create1(EPOLL_CLOEXEC)), inner = must(epoll_create1(0)), empty = must(epoll_create1(0));
    int a[2], b[2], c[2], d[2];
    must(pipe(a)), must(pipe(b)), must(pipe(c)), must(pipe(d));
    struct epoll_event event = {EPOLLIN, {.u64 = 0x1122334455667788}};
    must(epoll_ctl(outer, EPOLL_CTL_ADD, a[0], &event));
    event = (struct epoll_event){EPOLLIN | EPOLLONESHOT, {.u64 = 2}};
    must(epoll_ctl(outer, EPOLL_CTL_ADD, b[0], &event));
    event = (struct epoll_event){EPOLLIN | EPOLLET | EPOLLRDHUP, {.u64 = 3}};
    must(epoll_ctl(inner, EPOLL_CTL_ADD, c[0], &event));
    event = (struct epoll_event){EPOLLIN, {.u64 = 4}};
    must(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event));
    int number = d[0], kept = must(dup(d[0]));
    event = (struct epoll_event){EPOLLIN, {.u64 = 5}};
    must(epoll_ctl(outer, EPOLL_CTL_ADD, number, &event));
    close(number);  // the entry stays, under a number that is closed: `kept` holds the file
    must(write(b[1], "x", 1));
    check_equal(must(epoll_wait(outer, &event, 1, 0)), 1, "events");  // uses up the one-shot entry
    check_equal(event.data.u64, 2, "event");
    ready();
    struct epoll_event got[8];
    check_equal(must(fcntl(outer, F_GETFD)), FD_CLOEXEC, "close-on-exec");
    check_equal(must(epoll_wait(empty, got, 8, 0)), 0, "events of an empty set");
    check_equal(must(epoll_wait(outer, got, 8, 0)), 0, "events before any (a used one-shot entry is armed again?)");
    event = (struct epoll_event){EPOLLIN | EPOLLONESHOT, {.u64 = 22}};
    must(epoll_ctl(outer, EPOLL_CTL_MOD, b[0], &event));
    must(write(a[1], "x", 1));
    must(write(c[1], "x", 1));
    must(write(d[1], "x", 1));
    int seen = 0, count = must(epoll_wait(outer, got, 8, 100));
    for (int i = 0; i < count; i++) {
        uint64_t data = got[i].data.u64;
        seen |= data == 0x1122334455667788 ? 1 : data == 22 ? 2 : data == 4 ? 4 : data == 5 ? 8 : 1024;
    }
    check_equal(seen, 15, "events seen, as bits");
    check_equal(must(epoll_wait(inner, got, 8, 0)), 1, "events of the nested set");
    check_equal(got[0].data.u64, 3, "data of the nested event");
    check_equal(must(epoll_wait(inner, got, 8, 0)), 0, "events again, edge-triggered");
    check(epoll_ctl(outer, EPOLL_CTL_ADD, a[0], &event) == -1 && errno == EEXIST, "the entry is gone");
    (void)kept;
}

WORKLOAD(memfds, "memfd: name, content, seals, position, exec and huge flags, opened anew through /proc") {
    int sealed = must((int)syscall(SYS_memfd_create, "sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC)),
        plain = must((int)syscall(SYS_memfd_create, "plain name", 0));
    static char text[100000], back[100000];
    fill(text, sizeof text, 81);
    check_equal(must(write(sealed, text, sizeof text)), sizeof text, "bytes");
    must(fcntl(sealed, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE));
    must(pwrite(plain, "hello", 5, 1 << 20));
    must(lseek(plain, 17, SEEK_SET));
    must(fchmod(plain, 0640));
    // Kernels before 6.3 don't know the first of these.
    int no_exec = syscall(SYS_memfd_create, "not to be executed", 8 /* MFD_NOEXEC_SEAL */), huge = must((int)syscall(SYS_memfd_create, "huge", 4 /* MFD_HUGETLB */));
    must(ftruncate(huge, 4 << 20));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", plain);
    int read_only = must(open(path, O_RDONLY));
    char *table = descriptor_table();
    ready();
    char *table_now = descriptor_table();
    check(strcmp(table, table_now) == 0, "descriptors: now\n%swere\n%s", table_now, table);
    check_equal(must(fcntl(sealed, F_GET_SEALS)), F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE, "seals");
    check_equal(must(fcntl(plain, F_GET_SEALS)), F_SEAL_SEAL, "seals of a memfd that can't be sealed");
    check_equal(must(pread(sealed, back, sizeof back, 0)), sizeof back, "bytes");
    check_filled(back, sizeof back, 81, "memfd");
    struct stat status;
    must(fstat(plain, &status));
    check_equal(status.st_size, (1 << 20) + 5, "size");
    check_equal(status.st_mode & 07777, 0640, "mode");
    check(status.st_blocks <= 16, "%ld blocks: a hole is filled", (long)status.st_blocks);
    must(pwrite(plain, "J", 1, 1 << 20));
    check_equal(must(pread(read_only, back, 5, 1 << 20)), 5, "bytes");
    check(memcmp(back, "Jello", 5) == 0, "memfd opened anew holds '%.5s'", back);
    check(write(read_only, "x", 1) == -1 && errno == EBADF, "the read-only descriptor can be written");
    must(fstat(huge, &status));
    check(status.st_blksize == 2 << 20 && status.st_size == 4 << 20, "the memfd of huge pages has pages of %ld bytes, %ld bytes in all", (long)status.st_blksize, (long)status.st_size);
    if (no_exec >= 0) {
        must(fstat(no_exec, &status));
        check_equal(status.st_mode & 0111, 0, "permission to execute");
        check_equal(must(fcntl(no_exec, F_GET_SEALS)), 0x20 /* F_SEAL_EXEC */, "seals of a memfd that is not to be executed");
    }
}
