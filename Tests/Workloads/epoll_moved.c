#include "workload.h"
#include <sys/epoll.h>

static void child_of(void *argument) {
    int epoll = *(int *)argument, ends[2];
    must(pipe(ends));
    must(dup2(ends[0], 50));
    struct epoll_event event = {EPOLLIN, {.u64 = 4}};
    must(epoll_ctl(epoll, EPOLL_CTL_ADD, 50, &event));
    must(write(ends[1], "x", 1));
    settle();
    await_go();
    char byte;
    must(read(ends[0], &byte, 1));
}

WORKLOAD(epoll_moved, "epoll targets whose number was closed, is used again, or belongs to another process") {
    int epoll = must(epoll_create1(0)), plain[2], reused[2], closed[2];
    must(pipe(plain));
    must(pipe(reused));
    must(pipe(closed));
    struct epoll_event event = {EPOLLIN, {.u64 = 1}};
    must(epoll_ctl(epoll, EPOLL_CTL_ADD, plain[0], &event));
    event.data.u64 = 2;
    must(epoll_ctl(epoll, EPOLL_CTL_ADD, reused[0], &event));
    must(dup2(reused[0], 30));
    must(close(reused[0]));
    check_equal(must(open("/dev/null", O_RDONLY | O_CLOEXEC)), reused[0], "number of the next file");
    event.data.u64 = 3;
    must(dup2(closed[0], 40));
    must(epoll_ctl(epoll, EPOLL_CTL_ADD, 40, &event));
    must(close(40));
    pid_t child = fork_child(child_of, &epoll);
    await_settled(1);
    char *table = descriptor_table();
    ready();

    struct epoll_event found[8];
    must(write(plain[1], "p", 1));
    must(write(reused[1], "r", 1));
    must(write(closed[1], "c", 1));
    int count = must(epoll_wait(epoll, found, 8, 1000)), seen = 0;
    for (int i = 0; i < count; i++) seen |= 1 << found[i].data.u64;
    check((seen & 0xe) == 0xe, "of the targets 1, 2, 3 only %#x are ready", seen);
    check(strcmp(table, descriptor_table()) == 0, "descriptors: now\n%s, were\n%s", descriptor_table(), table);
    check_equal(must(fcntl(reused[0], F_GETFD)), FD_CLOEXEC, "close-on-exec of the file at the reused number");
    // EPERM: /dev/null can not be watched
    check(epoll_ctl(epoll, EPOLL_CTL_DEL, reused[0], NULL) == -1 && errno == EPERM, "the number means the watched file, not /dev/null");
    must(dup2(closed[0], 40));
    must(epoll_ctl(epoll, EPOLL_CTL_DEL, 40, NULL));
    reap(child);
}
