#include "workload.h"
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/un.h>

static struct sockaddr_un named(const char *path, socklen_t *size) {  // a leading @ stands for the abstract namespace
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    memcpy(address.sun_path, path, length);
    if (path[0] == '@') address.sun_path[0] = 0;
    *size = offsetof(struct sockaddr_un, sun_path) + length + (path[0] != '@');
    return address;
}

static int bound(int type, const char *path) {
    socklen_t size;
    struct sockaddr_un address = named(path, &size);
    int fd = must(socket(AF_UNIX, type, 0));
    must(bind(fd, (struct sockaddr *)&address, size));
    return fd;
}

static int connect_to(int fd, const char *path) {
    socklen_t size;
    struct sockaddr_un address = named(path, &size);
    return connect(fd, (struct sockaddr *)&address, size);
}

static int option(int fd, int name) {
    int value = 0;
    socklen_t size = sizeof value;
    must(getsockopt(fd, SOL_SOCKET, name, &value, &size));
    return value;
}

static void receive(int fd, const char *expected, const char *what) {
    char text[256] = {0};
    ssize_t got = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    check(got >= 0, "%s: nothing there (%s) instead of '%s'", what, strerror(errno), expected);
    check(got == (ssize_t)strlen(expected) && strcmp(text, expected) == 0, "%s: '%s' instead of '%s'", what, text, expected);
}

static void other_side(void *argument) {
    int *pair = argument;
    close(pair[0]);
    settle();
    await_go();
    receive(pair[1], "to the child", "socket pair between processes");
    must(send(pair[1], "to the parent", 13, 0));
}

WORKLOAD(unix_pairs, "socket pairs of three types: queued data both ways, shutdown, options, between processes") {
    int stream[2], dgram[2], seq[2], half[2], closed[2], between[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, stream));
    must(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, dgram));
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, seq));
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, half));
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, closed));
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, between));
    must(send(stream[0], "there", 5, 0)); must(send(stream[0], " again", 6, 0)); must(send(stream[1], "back", 4, 0));
    // A datagram of no bytes can be peeked at once only: the kernel marks it, and a second dump of the same queue can't see it
    // (net/core/datagram.c, __skb_try_recv_from_queue).
    const char *mode = getenv("WORKLOAD_MODE");
    bool seen_once = !mode || strcmp(mode, "mixed") != 0;
    must(send(dgram[0], "one", 3, 0));
    if (seen_once) must(send(dgram[0], "", 0, 0));
    must(send(dgram[0], "three", 5, 0));
    must(send(seq[1], "first", 5, 0)); must(send(seq[1], "second", 6, 0));
    must(send(half[0], "last", 4, 0));
    must(shutdown(half[0], SHUT_WR));
    must(send(closed[0], "will", 4, 0));
    close(closed[0]);
    must(send(between[0], "to the child", 12, 0));
    int one = 1, size = 50000;
    struct timeval time = {12, 340000};
    must(setsockopt(stream[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
    must(setsockopt(stream[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
    must(setsockopt(stream[1], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    int passcred = option(stream[0], SO_PASSCRED), buffer = option(stream[0], SO_SNDBUF), other = option(stream[1], SO_SNDBUF);
    pid_t child = fork_child(other_side, between);
    close(between[1]);
    await_settled(1);
    ready();
    check_equal(option(stream[0], SO_PASSCRED), passcred, "SO_PASSCRED");
    check_equal(option(stream[0], SO_SNDBUF), buffer, "SO_SNDBUF");
    check_equal(option(stream[1], SO_SNDBUF), other, "SO_SNDBUF of the peer");
    check_equal(option(seq[0], SO_TYPE), SOCK_SEQPACKET, "type");
    struct timeval time_now;
    socklen_t length = sizeof time_now;
    must(getsockopt(stream[1], SOL_SOCKET, SO_RCVTIMEO, &time_now, &length));
    check(time_now.tv_sec == 12 && time_now.tv_usec / 10000 == 34, "SO_RCVTIMEO is %ld.%06ld", time_now.tv_sec, time_now.tv_usec);
    check_equal(must(fcntl(dgram[0], F_GETFL)), O_RDWR | O_NONBLOCK, "flags");
    check_equal(must(fcntl(seq[0], F_GETFD)), FD_CLOEXEC, "close-on-exec");
    receive(stream[1], "there again", "stream"), receive(stream[0], "back", "stream, the other way");
    receive(dgram[1], "one", "first datagram");
    if (seen_once) receive(dgram[1], "", "empty datagram");
    receive(dgram[1], "three", "third datagram");
    receive(seq[0], "first", "first packet"), receive(seq[0], "second", "second packet");
    receive(half[1], "last", "before shutdown");
    receive(half[1], "", "after shutdown");
    check(send(half[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "a socket shut down for writing takes data");
    must(send(half[1], "still", 5, 0));
    receive(half[0], "still", "the open direction");
    receive(closed[1], "will", "data of a closed peer");
    receive(closed[1], "", "end of file");
    must(send(stream[0], "more", 4, 0));
    receive(stream[1], "more", "stream, after go");
    reap(child);
    receive(between[0], "to the parent", "socket pair between processes");
}

static void send_descriptors(int fd, const int *fds, int count, const char *text) {
    char control[CMSG_SPACE(16 * sizeof(int))] = {0};
    struct iovec part = {(void *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    must(sendmsg(fd, &message, 0));
}

static int receive_descriptors(int fd, int *fds, const char *expected) {
    char control[CMSG_SPACE(16 * sizeof(int))], text[64] = {0};
    struct iovec part = {text, sizeof text - 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    must(recvmsg(fd, &message, MSG_DONTWAIT));
    check(strcmp(text, expected) == 0, "message with descriptors is '%s' instead of '%s'", text, expected);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    check(header && header->cmsg_type == SCM_RIGHTS, "the queued descriptors are gone");
    int count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(header), count * sizeof(int));
    return count;
}

WORKLOAD(unix_rights, "descriptors in flight (SCM_RIGHTS): held only by the queue, a socket in a socket, several messages") {
    int pair[2], pipes[2], inner[2], fds[16];
    must(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    must(pipe(pipes));
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, inner));
    must(write(pipes[1], "in the pipe", 11));
    must(send(inner[1], "in the socket", 13, 0));
    int file = must(open("flying", O_RDWR | O_CREAT, 0600));
    must(write(file, "in the file", 11));
    must(lseek(file, 7, SEEK_SET));
    send_descriptors(pair[0], (int[]){pipes[0], file}, 2, "two");
    send_descriptors(pair[0], (int[]){inner[0]}, 1, "one");
    must(send(pair[0], "none", 4, 0));
    close(pipes[0]), close(file), close(inner[0]);
    char *table = descriptor_table();
    ready();
    char *table_now = descriptor_table();
    check(strcmp(table, table_now) == 0, "descriptors: now\n%swere\n%s", table_now, table);
    check_equal(receive_descriptors(pair[1], fds, "two"), 2, "descriptors in the first message");
    char text[32] = {0};
    check_equal(must(read(fds[0], text, sizeof text)), 11, "bytes in the flying pipe");
    check(strcmp(text, "in the pipe") == 0, "flying pipe holds '%s'", text);
    check_equal(must(lseek(fds[1], 0, SEEK_CUR)), 7, "position of the flying file");
    check_equal(receive_descriptors(pair[1], fds, "one"), 1, "descriptors in the second message");
    receive(fds[0], "in the socket", "flying socket");
    receive(pair[1], "none", "message without descriptors");
    must(send(inner[1], "x", 1, 0));
    receive(fds[0], "x", "flying socket after go");
}

WORKLOAD(unix_named, "listening and connected sockets by path and abstract name, named datagram sockets, pending connection, deleted name") {
    char abstract[64];
    snprintf(abstract, sizeof abstract, "@workload-%d", getpid());
    int by_path = bound(SOCK_STREAM, "listener"), by_name = bound(SOCK_SEQPACKET, abstract), unlistened = bound(SOCK_STREAM, "unlistened");
    must(listen(by_path, 7));
    must(listen(by_name, 3));
    int client = must(socket(AF_UNIX, SOCK_STREAM, 0)), unbound = must(socket(AF_UNIX, SOCK_DGRAM, 0));
    must(connect_to(client, "listener"));
    int accepted = must(accept4(by_path, NULL, NULL, SOCK_CLOEXEC));
    must(send(client, "queued", 6, 0));
    int dgram = bound(SOCK_DGRAM, "dgram"), sender = bound(SOCK_DGRAM, "sender");
    must(connect_to(sender, "dgram"));
    must(send(sender, "from a named one", 16, 0));
    int gone = bound(SOCK_STREAM, "gone");
    must(listen(gone, 1));
    must(unlink("gone"));
    int mode = must(chmod("listener", 0741)), autobound = must(socket(AF_UNIX, SOCK_DGRAM, 0));
    (void)mode;
    struct sockaddr_un automatic = {.sun_family = AF_UNIX}, address;
    must(bind(autobound, (struct sockaddr *)&automatic, sizeof(sa_family_t)));
    socklen_t automatic_size = sizeof automatic, size = sizeof address;
    must(getsockname(autobound, (struct sockaddr *)&automatic, &automatic_size));
    ready();
    check_equal(option(by_path, SO_ACCEPTCONN), 1, "listening");
    check_equal(option(unlistened, SO_ACCEPTCONN), 0, "listening");
    receive(accepted, "queued", "accepted connection");
    must(send(accepted, "answer", 6, 0));
    receive(client, "answer", "client");
    size = sizeof address;
    must(getpeername(client, (struct sockaddr *)&address, &size));
    check(strcmp(address.sun_path, "listener") == 0, "peer's name is '%s'", address.sun_path);
    struct sockaddr_un from = {0};
    size = sizeof from;
    char text[32] = {0};
    check_equal(must(recvfrom(dgram, text, sizeof text, MSG_DONTWAIT, (struct sockaddr *)&from, &size)), 16, "bytes of the datagram");
    check(strcmp(from.sun_path, "sender") == 0, "the datagram comes from '%s'", from.sun_path);
    struct stat status;
    must(stat("listener", &status));
    check_equal(status.st_mode & 07777, 0741, "mode of the socket's file");
    int fresh = must(socket(AF_UNIX, SOCK_STREAM, 0)), fresh_seq = must(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    must(connect_to(fresh, "listener"));
    must(accept(by_path, NULL, NULL));
    must(connect_to(fresh_seq, abstract));
    must(accept(by_name, NULL, NULL));
    check(connect_to(must(socket(AF_UNIX, SOCK_STREAM, 0)), "unlistened") == -1 && errno == ECONNREFUSED, "unlistened: %s", strerror(errno));
    must(connect_to(unbound, "dgram"));
    must(send(unbound, "fresh", 5, 0));
    receive(dgram, "fresh", "datagram after go");
    check_equal(option(gone, SO_ACCEPTCONN), 1, "listening on a deleted name");
    check(access("gone", F_OK) == -1, "a deleted socket name has come back");
    struct sockaddr_un automatic_now = {0};
    size = sizeof automatic_now;
    must(getsockname(autobound, (struct sockaddr *)&automatic_now, &size));
    check(size == automatic_size && memcmp(&automatic, &automatic_now, size) == 0, "automatic name changed");
}
