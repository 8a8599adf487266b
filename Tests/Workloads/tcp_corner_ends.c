// The two ends of a connection that is caught in LAST-ACK, CLOSING or SYN-RECV, for Tests/tcp-corners, which keeps packets away from them.
//   workload tcp-corner-server ADDRESS PORT STATE      workload tcp-corner-peer ADDRESS PORT STATE
#include "workload.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

static const char hello[] = "hello";
static struct sockaddr_in name;
static enum { last_ack = TCP_LAST_ACK, closing = TCP_CLOSING, half_open = TCP_SYN_RECV } corner;

static void take(int argc, char **argv) {
    check(argc == 4, "ADDRESS PORT STATE");
    name = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    check(inet_pton(AF_INET, argv[1], &name.sin_addr) == 1, "%s is no address", argv[1]);
    corner = strcmp(argv[3], "last-ack") == 0 ? last_ack : strcmp(argv[3], "closing") == 0 ? closing : half_open;
}
static struct tcp_info info(int fd) {
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    must(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
    return info;
}
static void await_state(int fd, int wanted) {
    for (int i = 0; i < 20000 && info(fd).tcpi_state != wanted; i++) pause_ms(1);
    check_equal(info(fd).tcpi_state, wanted, "state");
}
static void await_file(const char *path) {
    for (int i = 0; i < 20000 && access(path, F_OK); i++) pause_ms(1);
    check(access(path, F_OK) == 0, "%s does not come", path);
}
static void make_file(const char *path) { close(must(open(path, O_CREAT | O_WRONLY, 0644))); }

static int connected(void) {
    int fd = must(socket(AF_INET, SOCK_STREAM, 0));
    must(connect(fd, (struct sockaddr *)&name, sizeof name));
    must(write(fd, hello, sizeof hello));
    return fd;
}
static void check_hello(int fd) {
    char bytes[sizeof hello];
    check_equal((long)must(recv(fd, bytes, sizeof bytes, MSG_WAITALL)), (long)sizeof bytes, "bytes read");
    check(memcmp(bytes, hello, sizeof bytes) == 0, "other bytes are read");
}

WORKLOAD(tcp_corner_server, "the end that is dumped, for Tests/tcp-corners", .untreated = true) {
    take(argc, argv);
    int listener = must(socket(AF_INET, SOCK_STREAM, 0));
    must(bind(listener, (struct sockaddr *)&name, sizeof name));
    must(listen(listener, 4));
    make_file("listening");
    int fd = -1;
    if (corner != half_open) {
        fd = must(accept(listener, NULL, NULL));
        await_file("kept-away");
        must(shutdown(fd, SHUT_WR));
        make_file("server-ended");
        await_state(fd, corner);
    } else await_file("kept-away");
    ready();
    if (corner != half_open) check_equal(info(fd).tcpi_state, corner, "state");
    make_file("checked");
    if (corner != half_open) await_state(fd, TCP_CLOSE);
    else fd = must(accept(listener, NULL, NULL));
    check_hello(fd);
    char byte;
    check_equal((long)must(read(fd, &byte, 1)), 0L, "bytes behind the end");
}

WORKLOAD(tcp_corner_peer, "the other end", .untreated = true) {
    take(argc, argv);
    await_file("listening");
    if (corner == half_open) {
        await_file("keep-away");
        int lost = connected();
        make_file("kept-away");
        await_file("let-through");
        close(lost);
        must(shutdown(connected(), SHUT_WR));
        return;
    }
    int fd = connected();
    if (corner == last_ack) must(shutdown(fd, SHUT_WR)), await_state(fd, TCP_FIN_WAIT2);
    while (info(fd).tcpi_unacked) pause_ms(1);
    make_file("keep-away");
    if (corner == closing) await_file("server-ended"), must(shutdown(fd, SHUT_WR));
    await_file("let-through");
    char byte;
    check_equal((long)must(read(fd, &byte, 1)), 0L, "bytes before the end");
}
