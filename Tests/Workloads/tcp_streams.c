// TCP connections over loopback inside the tree: every state, data waiting both ways, options; IPv4, IPv6 and IPv4 through an IPv6 listener.
#include "workload.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

struct pair { int client, server; };

static struct pair connected(int family, int listener_family) {
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (family == AF_INET6) six.sin6_addr = in6addr_loopback;
    int listener = must(socket(listener_family, SOCK_STREAM, 0)), on = 1;
    must(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    if (listener_family == AF_INET6) must(bind(listener, (struct sockaddr *)&six, sizeof six));
    else must(bind(listener, (struct sockaddr *)&four, sizeof four));
    must(listen(listener, 1));
    struct sockaddr_in6 name;
    socklen_t length = sizeof name;
    must(getsockname(listener, (struct sockaddr *)&name, &length));
    six.sin6_port = four.sin_port = name.sin6_port;  // at the same place in both
    struct pair pair = {.client = must(socket(family, SOCK_STREAM, 0))};
    must(connect(pair.client, family == AF_INET ? (struct sockaddr *)&four : (struct sockaddr *)&six, family == AF_INET ? sizeof four : sizeof six));
    pair.server = must(accept(listener, NULL, NULL));
    close(listener);
    return pair;
}

static int state(int fd) {
    struct tcp_info info;
    socklen_t length = sizeof info;
    must(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
    return info.tcpi_state;
}
static void await_state(int fd, int wanted) {
    for (int i = 0; i < 5000 && state(fd) != wanted; i++) pause_ms(1);
    check_equal(state(fd), wanted, "state");
}

static int option(int fd, int level, int number) {
    int value = 0;
    socklen_t length = sizeof value;
    must(getsockopt(fd, level, number, &value, &length));
    return value;
}

static void put(int fd, size_t size, uint64_t seed) {
    char *bytes = malloc(size);
    fill(bytes, size, seed);
    for (size_t done = 0; done < size;) done += (size_t)must(write(fd, bytes + done, size - done));
    free(bytes);
}
static void get(int fd, size_t size, uint64_t seed, const char *what) {
    char *bytes = malloc(size);
    size_t done = 0;
    while (done < size) {
        ssize_t more = must(read(fd, bytes + done, size - done));
        check(more > 0, "%s: the end after %zu of %zu bytes", what, done, size);
        done += (size_t)more;
    }
    check_filled(bytes, size, seed, what);
    free(bytes);
}
static void ends(int fd, const char *what) {
    char byte;
    check(must(read(fd, &byte, 1)) == 0, "%s: data instead of the end", what);
}
static void silent(int fd, const char *what) {
    char byte;
    check(recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "%s: something comes that was not sent", what);
}

WORKLOAD(tcp_streams, "TCP connections inside the tree: queues both ways, IPv4, IPv6, v4-mapped, options", .dump = "--tcp-established", .restore = "--tcp-established") {
    struct pair pairs[] = {connected(AF_INET, AF_INET), connected(AF_INET6, AF_INET6), connected(AF_INET, AF_INET6)};
    enum { count = sizeof pairs / sizeof *pairs };
    struct sockaddr_in6 names[count][2];
    int on = 1, idle = 77, timeout = 12345;
    must(setsockopt(pairs[0].client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    must(setsockopt(pairs[0].client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
    must(setsockopt(pairs[0].client, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle));
    must(setsockopt(pairs[0].client, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout));
    int same = must(dup(pairs[0].server));
    for (int i = 0; i < count; i++) {
        put(pairs[i].client, 50000, 1 + i);
        put(pairs[i].server, 30000, 11 + i);
        socklen_t length = sizeof names[i][0];
        must(getsockname(pairs[i].client, (struct sockaddr *)&names[i][0], &length));
        length = sizeof names[i][0];
        must(getpeername(pairs[i].client, (struct sockaddr *)&names[i][1], &length));
    }

    ready();

    for (int i = 0; i < count; i++) {
        struct sockaddr_in6 name;
        socklen_t length = sizeof name;
        must(getsockname(pairs[i].client, (struct sockaddr *)&name, &length));
        check(memcmp(&name, &names[i][0], length) == 0, "connection %d has another name", i);
        length = sizeof name;
        must(getpeername(pairs[i].client, (struct sockaddr *)&name, &length));
        check(memcmp(&name, &names[i][1], length) == 0, "connection %d has another peer", i);
        get(i ? pairs[i].server : same, 50000, 1 + i, "to the server");
        get(pairs[i].client, 30000, 11 + i, "to the client");
        silent(pairs[i].client, "client"), silent(pairs[i].server, "server");
        put(pairs[i].client, 5000, 21 + i), get(pairs[i].server, 5000, 21 + i, "afterwards to the server");
        put(pairs[i].server, 5000, 31 + i), get(pairs[i].client, 5000, 31 + i, "afterwards to the client");
    }
    check_equal(option(pairs[0].client, IPPROTO_TCP, TCP_NODELAY), 1, "TCP_NODELAY");
    check_equal(option(pairs[0].client, SOL_SOCKET, SO_KEEPALIVE), 1, "SO_KEEPALIVE");
    check_equal(option(pairs[0].client, IPPROTO_TCP, TCP_KEEPIDLE), idle, "TCP_KEEPIDLE");
    check_equal(option(pairs[0].client, IPPROTO_TCP, TCP_USER_TIMEOUT), timeout, "TCP_USER_TIMEOUT");
    check_equal(option(pairs[0].server, SOL_SOCKET, SO_REUSEADDR), 1, "SO_REUSEADDR");
    check_equal(option(pairs[0].client, SOL_SOCKET, SO_REUSEADDR), 0, "SO_REUSEADDR");
}

WORKLOAD(tcp_full, "TCP connections whose peer has no room: data that was never sent, and the end behind it", .dump = "--tcp-established", .restore = "--tcp-established") {
    struct pair open = connected(AF_INET, AF_INET), shut = connected(AF_INET, AF_INET);
    int small = 4096, middle = 32768, large = 1 << 20;
    char block[4096];
    size_t written[2] = {0};
    struct pair *both[] = {&open, &shut};
    for (int i = 0; i < 2; i++) {
        must(setsockopt(both[i]->server, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
        must(setsockopt(both[i]->client, SOL_SOCKET, SO_SNDBUF, &middle, sizeof middle));
        must(fcntl(both[i]->client, F_SETFL, O_NONBLOCK));
        for (;;) {
            fill(block, sizeof block, written[i] / sizeof block);
            ssize_t more = write(both[i]->client, block, sizeof block);
            if (more == -1) break;
            written[i] += (size_t)more;
            if (more != sizeof block) break;
        }
    }
    must(shutdown(shut.client, SHUT_WR));

    ready();

    must(fcntl(open.client, F_SETFL, 0));
    for (int i = 0; i < 2; i++) {
        must(setsockopt(both[i]->server, SOL_SOCKET, SO_RCVBUF, &large, sizeof large));
        for (size_t done = 0; done < written[i];) {
            size_t want = sizeof block, have = 0;
            if (written[i] - done < want) want = written[i] - done;
            while (have < want) {
                ssize_t more = must(read(both[i]->server, block + have, want - have));
                check(more > 0, "the end after %zu of %zu bytes", done + have, written[i]);
                have += (size_t)more;
            }
            check(differs(block, want, done / sizeof block) < 0 || want < sizeof block, "block %zu differs", done / sizeof block);
            done += want;
        }
    }
    silent(open.server, "server");
    ends(shut.server, "the half that was shut");
    put(open.client, 100, 5), get(open.server, 100, 5, "afterwards");
}

WORKLOAD(tcp_states, "TCP connections that end: FIN-WAIT-1, FIN-WAIT-2, CLOSE-WAIT, LAST-ACK, closed, shut for reading", .dump = "--tcp-established", .restore = "--tcp-established") {
    struct pair half = connected(AF_INET, AF_INET), half6 = connected(AF_INET6, AF_INET6), over = connected(AF_INET, AF_INET), deaf = connected(AF_INET, AF_INET);
    struct pair *halves[] = {&half, &half6};
    for (int i = 0; i < 2; i++) {
        put(halves[i]->client, 300, 1), put(halves[i]->server, 400, 2);
        must(shutdown(halves[i]->client, SHUT_WR));
        await_state(halves[i]->client, TCP_FIN_WAIT2), await_state(halves[i]->server, TCP_CLOSE_WAIT);
    }
    put(over.client, 500, 3);
    must(shutdown(over.client, SHUT_WR));
    await_state(over.server, TCP_CLOSE_WAIT);
    must(shutdown(over.server, SHUT_WR));
    await_state(over.server, TCP_CLOSE);
    must(shutdown(deaf.client, SHUT_RD));
    signal(SIGPIPE, SIG_IGN);

    ready();

    for (int i = 0; i < 2; i++) {
        check_equal(state(halves[i]->client), TCP_FIN_WAIT2, "state");
        check_equal(state(halves[i]->server), TCP_CLOSE_WAIT, "state");
        get(halves[i]->server, 300, 1, "to the half-closed end"), ends(halves[i]->server, "half-closed");
        get(halves[i]->client, 400, 2, "from the half-closed end");
        put(halves[i]->server, 600, 4), get(halves[i]->client, 600, 4, "afterwards");
        close(halves[i]->server), ends(halves[i]->client, "closed by both");
    }
    check_equal(state(over.server), TCP_CLOSE, "state");
    get(over.server, 500, 3, "to the closed end"), ends(over.server, "closed");
    check(write(over.server, "x", 1) == -1 && errno == EPIPE, "a closed connection takes data");
    ends(deaf.client, "shut for reading");
    put(deaf.client, 10, 6), get(deaf.server, 10, 6, "from the end that does not read");
}

WORKLOAD(tcp_close, "--tcp-close: connections are found closed, listeners go on", .dump = "--tcp-close", .restore = "--tcp-close") {
    signal(SIGPIPE, SIG_IGN);
    struct pair pair = connected(AF_INET, AF_INET);
    put(pair.client, 10, 1);
    ready();
    const char *mode = getenv("WORKLOAD_MODE");
    if (!mode || strcmp(mode, "plain") == 0 || strcmp(mode, "leave-running") == 0) {
        get(pair.server, 10, 1, "to the server");
        return;
    }
    check_equal(state(pair.server), TCP_CLOSE, "state");
    ends(pair.server, "server"), ends(pair.client, "client");
    check(write(pair.client, "x", 1) == -1 && errno == EPIPE, "a closed connection takes data");
}
