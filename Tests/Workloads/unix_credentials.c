#include "workload.h"
#include <sys/un.h>

static struct ucred peer_of(int fd) {
    struct ucred who = {0};
    socklen_t size = sizeof who;
    must(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size));
    return who;
}
static void check_peer(int fd, struct ucred before, const char *what) {
    struct ucred now = peer_of(fd);
    check(now.pid == before.pid && now.uid == before.uid && now.gid == before.gid, "%s: SO_PEERCRED is %d, %d:%d, was %d, %d:%d", what, now.pid, (int)now.uid,
          (int)now.gid, before.pid, (int)before.uid, (int)before.gid);
}

static void give(int through, int fd) {
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {"x", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    must(sendmsg(through, &message, 0));
}
static int take(int from) {
    char control[CMSG_SPACE(sizeof(int))], text;
    struct iovec part = {&text, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    must(recvmsg(from, &message, 0));
    int fd;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

static int channel[2];
static struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "door"};

/// Makes a pair as another user and gives an end of it away.
static void make_and_die(void *type) {
    must(setegid(2345)); must(seteuid(1234));
    int pair[2];
    must(socketpair(AF_UNIX, (int)(intptr_t)type, 0, pair));
    give(channel[1], pair[0]);
}
static void connect_as_other(void *argument) {
    (void)argument;
    int fd = must(socket(AF_UNIX, SOCK_STREAM, 0)), pair[2];
    must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    give(channel[1], pair[0]);
    must(setegid(2345)); must(seteuid(1234));
    must(connect(fd, (struct sockaddr *)&name, sizeof name));
    must(seteuid(0)); must(setegid(0));
    struct ucred before = peer_of(fd);
    must(setegid(2345)); must(seteuid(1234));
    int waiting = must(socket(AF_UNIX, SOCK_STREAM, 0));
    must(connect(waiting, (struct sockaddr *)&name, sizeof name));
    must(seteuid(0)); must(setegid(0));
    settle();
    await_go();
    check_peer(fd, before, "the client");
    check_equal(before.pid, getppid(), "who listens");
    must(send(fd, "hello", 5, 0));
}

WORKLOAD(unix_peers, "SO_PEERCRED as it was: who made a pair, who connected, who listens; of the living and the dead, of other users") {
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, channel));
    int door = must(socket(AF_UNIX, SOCK_STREAM, 0));
    must(bind(door, (struct sockaddr *)&name, sizeof name));
    must(chmod("door", 0777)); must(listen(door, 3));
    int types[] = {SOCK_STREAM, SOCK_DGRAM}, given[2];
    for (int at = 0; at < 2; at++) {
        reap(fork_child(make_and_die, (void *)(intptr_t)types[at]));
        given[at] = take(channel[0]);
    }
    pid_t child = fork_child(connect_as_other, NULL);
    int from_child = take(channel[0]), accepted = must(accept(door, NULL, NULL));
    int fds[] = {channel[0], channel[1], door, given[0], given[1], from_child, accepted};
    struct ucred before[7];
    for (int at = 0; at < 7; at++) before[at] = peer_of(fds[at]);
    check(before[6].pid == child && before[6].uid == 1234 && before[5].pid == child && before[3].uid == 1234, "the credentials are not what they should be");
    await_settled(1);
    ready();
    static const char *what[] = {"own pair", "own pair, other end", "listener", "pair of a dead process", "datagram pair of a dead process", "pair of the child", "accepted connection"};
    for (int at = 0; at < 7; at++) check_peer(fds[at], before[at], what[at]);
    int late = must(accept(door, NULL, NULL));
    check_peer(late, before[6], "connection that waited to be accepted");
    char text[8] = {0};
    check_equal(must(recv(accepted, text, sizeof text, 0)), 5, "bytes received");
    reap(child);
    check_equal(geteuid(), 0, "own user");
}
