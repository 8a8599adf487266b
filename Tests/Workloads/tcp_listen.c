// TCP sockets without connection: fresh, bound and listening, IPv4 and IPv6, with their options; ports shared as they were.
#include "workload.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

static union address { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; } name;

static socklen_t loopback(int family, int port) {
    memset(&name, 0, sizeof name);
    name.any.sa_family = (sa_family_t)family;
    if (family == AF_INET) {
        name.v4.sin_port = htons((uint16_t)port);
        name.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return sizeof name.v4;
    }
    name.v6.sin6_port = htons((uint16_t)port);
    name.v6.sin6_addr = in6addr_loopback;
    return sizeof name.v6;
}

static int port_of(int fd) {
    socklen_t length = sizeof name;
    must(getsockname(fd, &name.any, &length));
    return ntohs(name.any.sa_family == AF_INET ? name.v4.sin_port : name.v6.sin6_port);
}

static int made(int family, int reuse_port, int only6) {
    int fd = must(socket(family, SOCK_STREAM, 0)), on = 1;
    if (reuse_port) must(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on));
    if (family == AF_INET6) must(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only6, sizeof only6));
    return fd;
}

static int option(int fd, int level, int number) {
    int value = 0;
    socklen_t length = sizeof value;
    must(getsockopt(fd, level, number, &value, &length));
    return value;
}

static const struct { int level, number, value; } options[] = {
    {SOL_SOCKET, SO_KEEPALIVE, 1}, {SOL_SOCKET, SO_REUSEADDR, 1}, {SOL_SOCKET, SO_PRIORITY, 3}, {SOL_SOCKET, SO_RCVLOWAT, 7},
    {SOL_SOCKET, SO_OOBINLINE, 1}, {IPPROTO_TCP, TCP_NODELAY, 1}, {IPPROTO_TCP, TCP_CORK, 1}, {IPPROTO_TCP, TCP_KEEPIDLE, 31},
    {IPPROTO_TCP, TCP_KEEPINTVL, 13}, {IPPROTO_TCP, TCP_KEEPCNT, 5}, {IPPROTO_IP, IP_TTL, 17}, {IPPROTO_IP, IP_TOS, 8}, {IPPROTO_IP, IP_FREEBIND, 1},
};
enum { option_count = sizeof options / sizeof *options };

static void exchange(int listener, int family, int port) {
    int client = must(socket(family, SOCK_STREAM, 0));
    socklen_t length = loopback(family, port);
    must(connect(client, &name.any, length));
    int server = must(accept(listener, NULL, NULL));
    char byte = 'x';
    check(write(client, &byte, 1) == 1 && read(server, &byte, 1) == 1 && byte == 'x', "a byte does not come through");
    close(client), close(server);
}

WORKLOAD(tcp_listen, "TCP sockets without connection: fresh, bound, listening, with options and shared ports") {
    enum { fresh, fresh6, tuned, bound, listener, listener6, both, shared1, shared2, count };
    int fd[count], port[count], before[option_count];
    int families[count] = {AF_INET, AF_INET6, AF_INET, AF_INET, AF_INET, AF_INET6, AF_INET6, AF_INET, AF_INET};
    for (int i = 0; i < count; i++) fd[i] = made(families[i], i >= shared1, i == listener6);
    for (int i = 0; i < option_count; i++) must(setsockopt(fd[tuned], options[i].level, options[i].number, &options[i].value, sizeof(int)));
    for (int i = 0; i < option_count; i++) before[i] = option(fd[tuned], options[i].level, options[i].number);
    for (int i = bound; i < count; i++) {
        socklen_t length = loopback(families[i], i == shared2 ? port[shared1] : 0);
        if (i == both) name.v6.sin6_addr = in6addr_any;
        must(bind(fd[i], &name.any, length));
        if (i > bound) must(listen(fd[i], 3 + i));
        port[i] = port_of(fd[i]);
    }
    int same = must(dup(fd[listener]));
    must(fcntl(fd[listener], F_SETFL, O_NONBLOCK));

    ready();

    for (int i = 0; i < option_count; i++) {
        int now_ = option(fd[tuned], options[i].level, options[i].number);
        check(now_ == before[i], "option %d of level %d is %d, was %d", options[i].number, options[i].level, now_, before[i]);
    }
    for (int i = bound; i < count; i++) check_equal(port_of(fd[i]), port[i], "port");
    for (int i = fresh; i < bound; i++) check_equal(port_of(fd[i]), 0, "port of an unbound socket");
    check_equal(option(fd[listener6], IPPROTO_IPV6, IPV6_V6ONLY), 1, "IPV6_V6ONLY");
    check_equal(option(fd[both], IPPROTO_IPV6, IPV6_V6ONLY), 0, "IPV6_V6ONLY");
    check_equal(option(fd[bound], SOL_SOCKET, SO_REUSEADDR), 0, "SO_REUSEADDR");
    check_equal(option(fd[shared2], SOL_SOCKET, SO_REUSEPORT), 1, "SO_REUSEPORT");
    for (int i = listener; i < count; i++) {
        check_equal(option(fd[i], SOL_SOCKET, SO_ACCEPTCONN), 1, "SO_ACCEPTCONN");
        struct tcp_info info;
        socklen_t length = sizeof info;
        must(getsockopt(fd[i], IPPROTO_TCP, TCP_INFO, &info, &length));
        check_equal(info.tcpi_sacked, 3 + i, "backlog");
    }
    check_equal(fcntl(same, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "O_NONBLOCK through the duplicate");
    check(accept(fd[listener], NULL, NULL) == -1 && errno == EAGAIN, "accept finds somebody");
    must(fcntl(same, F_SETFL, 0));
    exchange(same, AF_INET, port[listener]);
    exchange(fd[listener6], AF_INET6, port[listener6]);
    exchange(fd[both], AF_INET, port[both]);
    exchange(fd[both], AF_INET6, port[both]);
    must(listen(fd[bound], 1));
    exchange(fd[bound], AF_INET, port[bound]);
}
