// The two ends of a connection that streams both ways without a pause, each byte checked: for Tests/tcp-cycles, which dumps one of them.
//   workload tcp-stream-server ADDRESS PORT      workload tcp-stream-client ADDRESS PORT
// Each goes on until WORKLOAD_GO is there, then ends its half and reads the rest of the other's.
#include "workload.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

static uint8_t byte_at(uint64_t offset, uint64_t seed) { return (uint8_t)(((offset + seed) * 0x9e3779b97f4a7c15u) >> 56); }

static struct sockaddr_in named(int argc, char **argv) {
    check(argc == 3, "ADDRESS PORT");
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    check(inet_pton(AF_INET, argv[1], &name.sin_addr) == 1, "%s is no address", argv[1]);
    return name;
}

/// Streams until it may go, then ends our half and reads the other's rest. Both directions are checked byte by byte.
static void stream(int fd, uint64_t sends, uint64_t receives) {
    uint64_t out = 0, in = 0;
    bool open_out = true, open_in = true;
    static uint8_t buffer[16384];
    must(fcntl(fd, F_SETFL, O_NONBLOCK));
    while (open_in || open_out) {
        if (open_out && may_go()) must(shutdown(fd, SHUT_WR)), open_out = false;
        struct pollfd poll_ = {.fd = fd, .events = (short)((open_in ? POLLIN : 0) | (open_out ? POLLOUT : 0))};
        if (poll(&poll_, 1, 100) == -1) {
            check(errno == EINTR, "poll: %s", strerror(errno));
            continue;
        }
        check(!(poll_.revents & POLLERR), "the connection broke after %llu bytes in, %llu out", (unsigned long long)in, (unsigned long long)out);
        if (poll_.revents & (POLLIN | POLLHUP) && open_in) {
            ssize_t got = read(fd, buffer, sizeof buffer);
            check(got >= 0 || errno == EAGAIN || errno == EINTR, "read after %llu bytes: %s", (unsigned long long)in, strerror(errno));
            if (got == 0) open_in = false;
            for (ssize_t i = 0; i < got; i++)
                if (buffer[i] != byte_at(in + (uint64_t)i, receives)) fail("byte %llu is wrong", (unsigned long long)in + (uint64_t)i);
            if (got > 0) in += (uint64_t)got;
        }
        if (poll_.revents & POLLOUT && open_out) {
            for (size_t i = 0; i < sizeof buffer; i++) buffer[i] = byte_at(out + i, sends);
            ssize_t sent = write(fd, buffer, sizeof buffer);
            check(sent >= 0 || errno == EAGAIN || errno == EINTR, "write after %llu bytes: %s", (unsigned long long)out, strerror(errno));
            if (sent > 0) out += (uint64_t)sent;
        }
    }
    printf("%llu bytes sent, %llu received\n", (unsigned long long)out, (unsigned long long)in);
    fflush(stdout);
}

WORKLOAD(tcp_stream_server, "one end of a streaming connection, for Tests/tcp-cycles", .untreated = true) {
    struct sockaddr_in name = named(argc, argv);
    int listener = must(socket(AF_INET, SOCK_STREAM, 0)), on = 1;
    must(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    must(bind(listener, (struct sockaddr *)&name, sizeof name));
    must(listen(listener, 1));
    say_ready();
    int fd = must(accept(listener, NULL, NULL));
    stream(fd, 1, 2);
}

WORKLOAD(tcp_stream_client, "the other end", .untreated = true) {
    struct sockaddr_in name = named(argc, argv);
    int fd = must(socket(AF_INET, SOCK_STREAM, 0));
    must(connect(fd, (struct sockaddr *)&name, sizeof name));
    say_ready();
    stream(fd, 2, 1);
}
