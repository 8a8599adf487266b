#include "workload.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>

typedef union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} address;

static address at(const char *host, int port) {
    address made = {0};
    if (strchr(host, ':')) {
        made.v6.sin6_family = AF_INET6, made.v6.sin6_port = htons(port);
        check(inet_pton(AF_INET6, host, &made.v6.sin6_addr) == 1, "%s is no address", host);
    } else {
        made.v4.sin_family = AF_INET, made.v4.sin_port = htons(port);
        check(inet_pton(AF_INET, host, &made.v4.sin_addr) == 1, "%s is no address", host);
    }
    return made;
}
static socklen_t size_of(const address *one) { return one->any.sa_family == AF_INET ? sizeof one->v4 : sizeof one->v6; }
static int bound(int type, int protocol, const char *host, int port) {
    address where = at(host, port);
    int fd = must(socket(where.any.sa_family, type, protocol));
    must(bind(fd, &where.any, size_of(&where)));
    return fd;
}
static address local(int fd) {
    address found = {0};
    socklen_t size = sizeof found;
    must(getsockname(fd, &found.any, &size));
    return found;
}
static void connect_to(int fd, address where) { must(connect(fd, &where.any, size_of(&where))); }
static int option(int fd, int level, int name) {
    int value = 0;
    socklen_t size = sizeof value;
    must(getsockopt(fd, level, name, &value, &size));
    return value;
}
static void set(int fd, int level, int name, int value) { must(setsockopt(fd, level, name, &value, sizeof value)); }
static void receive(int fd, const char *expected, const address *from, const char *what) {
    char text[128] = {0};
    address sender = {0};
    socklen_t size = sizeof sender;
    ssize_t got = -1;
    for (int tries = 0; got < 0 && tries < 200; tries++) {
        got = recvfrom(fd, text, sizeof text - 1, MSG_DONTWAIT, &sender.any, &size);
        if (got < 0) pause_ms(10);
    }
    check(got >= 0, "%s: nothing there (%s) instead of '%s'", what, strerror(errno), expected);
    check(got == (ssize_t)strlen(expected) && strcmp(text, expected) == 0, "%s: '%s' instead of '%s'", what, text, expected);
    if (from) check(memcmp(&sender, from, size_of(from)) == 0, "%s: from port %d instead of %d", what, ntohs(sender.v4.sin_port), ntohs(from->v4.sin_port));
}

static const char *loopback(int family) { return family == AF_INET ? "127.0.0.1" : "::1"; }

static void pair(int family, int protocol, int *fds) {
    for (int side = 0; side < 2; side++) fds[side] = bound(SOCK_DGRAM, protocol, loopback(family), 0);
    connect_to(fds[0], local(fds[1])), connect_to(fds[1], local(fds[0]));
}

WORKLOAD(udp, "UDP and UDP-Lite on IPv4 and IPv6: bound, connected, waiting datagrams with their senders, shutdown, options") {
    int four[2], six[2], lite[2], half[2];
    pair(AF_INET, 0, four), pair(AF_INET6, 0, six), pair(AF_INET, 0, half);
    bool has_lite = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE) >= 0;
    if (has_lite) pair(AF_INET, IPPROTO_UDPLITE, lite);
    int any = bound(SOCK_DGRAM, 0, "0.0.0.0", 0), fresh = must(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0)), dual = bound(SOCK_DGRAM, 0, "::", 0);
    int free_bound = must(socket(AF_INET, SOCK_DGRAM, 0)), was_free = must(socket(AF_INET, SOCK_DGRAM, 0));
    address foreign = at("192.0.2.7", 0);
    set(free_bound, IPPROTO_IP, IP_FREEBIND, 1); set(was_free, IPPROTO_IP, IP_FREEBIND, 1);
    must(bind(free_bound, &foreign.any, sizeof foreign.v4)); must(bind(was_free, &foreign.any, sizeof foreign.v4));
    set(was_free, IPPROTO_IP, IP_FREEBIND, 0);
    set(any, IPPROTO_IP, IP_PKTINFO, 1); set(any, IPPROTO_IP, IP_RECVTTL, 1); set(any, IPPROTO_IP, IP_TOS, 0x10); set(any, IPPROTO_IP, IP_TTL, 17);
    set(any, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT); set(any, IPPROTO_IP, IP_MULTICAST_TTL, 5); set(any, IPPROTO_IP, IP_MULTICAST_LOOP, 0);
    set(any, SOL_SOCKET, SO_BROADCAST, 1); set(any, SOL_UDP, UDP_GRO, 1); set(six[0], IPPROTO_IPV6, IPV6_RECVPKTINFO, 1); set(six[0], IPPROTO_IPV6, IPV6_TCLASS, 0x20);
    set(six[0], IPPROTO_IPV6, IPV6_UNICAST_HOPS, 9); set(four[0], SOL_UDP, UDP_CORK, 1); set(dual, SOL_SOCKET, SO_TIMESTAMPNS, 1);
    set(any, IPPROTO_IP, IP_TRANSPARENT, 1);
    address names[] = {local(four[0]), local(six[0]), local(any), local(dual), local(free_bound), local(was_free)};
    int named[] = {four[0], six[0], any, dual, free_bound, was_free};
    must(send(four[1], "one", 3, 0)); must(send(four[1], "two", 3, 0)); must(send(six[1], "sechs", 5, 0));
    address to_any = at("127.0.0.1", ntohs(local(any).v4.sin_port)), to_dual = at("127.0.0.1", ntohs(local(dual).v6.sin6_port));
    int stranger = bound(SOCK_DGRAM, 0, "127.0.0.1", 0);
    address stranger_name = local(stranger);
    must(sendto(stranger, "to any", 6, 0, &to_any.any, sizeof to_any.v4));
    must(sendto(stranger, "to dual", 7, 0, &to_dual.any, sizeof to_dual.v4));
    close(stranger);
    struct sock_filter code = BPF_STMT(BPF_RET | BPF_K, 11);  // takes the UDP header and 3 bytes
    struct sock_fprog program = {1, &code};
    must(setsockopt(half[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    must(shutdown(half[0], SHUT_WR));
    ready();
    for (unsigned one = 0; one < sizeof named / sizeof *named; one++) {
        address now = local(named[one]);
        check(memcmp(&now, &names[one], sizeof now) == 0, "the address of socket %u is another one, port %d", one, ntohs(now.v4.sin_port));
    }
    check_equal(local(fresh).v4.sin_port, 0, "port of the fresh socket");
    check_equal(must(fcntl(fresh, F_GETFL)), O_RDWR | O_NONBLOCK, "flags");
    check_equal(option(any, IPPROTO_IP, IP_PKTINFO), 1, "IP_PKTINFO"); check_equal(option(any, IPPROTO_IP, IP_RECVTTL), 1, "IP_RECVTTL");
    check_equal(option(any, IPPROTO_IP, IP_TOS), 0x10, "IP_TOS"); check_equal(option(any, IPPROTO_IP, IP_TTL), 17, "IP_TTL");
    check_equal(option(any, IPPROTO_IP, IP_MTU_DISCOVER), IP_PMTUDISC_DONT, "IP_MTU_DISCOVER"); check_equal(option(any, SOL_UDP, UDP_GRO), 1, "UDP_GRO");
    check_equal(option(any, IPPROTO_IP, IP_MULTICAST_TTL), 5, "IP_MULTICAST_TTL"); check_equal(option(any, IPPROTO_IP, IP_MULTICAST_LOOP), 0, "IP_MULTICAST_LOOP");
    check_equal(option(any, SOL_SOCKET, SO_BROADCAST), 1, "SO_BROADCAST"); check_equal(option(any, SOL_SOCKET, SO_REUSEADDR), 0, "SO_REUSEADDR");
    check_equal(option(any, IPPROTO_IP, IP_TRANSPARENT), 1, "IP_TRANSPARENT");
    check_equal(option(six[0], IPPROTO_IPV6, IPV6_RECVPKTINFO), 1, "IPV6_RECVPKTINFO"); check_equal(option(six[0], IPPROTO_IPV6, IPV6_TCLASS), 0x20, "IPV6_TCLASS");
    check_equal(option(six[0], IPPROTO_IPV6, IPV6_UNICAST_HOPS), 9, "IPV6_UNICAST_HOPS"); check_equal(option(four[0], SOL_UDP, UDP_CORK), 1, "UDP_CORK");
    check_equal(option(dual, SOL_SOCKET, SO_TIMESTAMPNS), 1, "SO_TIMESTAMPNS"); check_equal(option(dual, IPPROTO_IPV6, IPV6_V6ONLY), 0, "IPV6_V6ONLY");
    check_equal(option(free_bound, IPPROTO_IP, IP_FREEBIND), 1, "IP_FREEBIND"); check_equal(option(was_free, IPPROTO_IP, IP_FREEBIND), 0, "IP_FREEBIND that was taken back");
    receive(four[0], "one", NULL, "first"); receive(four[0], "two", NULL, "second"); receive(six[0], "sechs", NULL, "IPv6");
    receive(any, "to any", &stranger_name, "any"); receive(dual, "to dual", NULL, "dual");
    set(four[0], SOL_UDP, UDP_CORK, 0);
    must(send(four[0], "back", 4, 0)); must(send(six[0], "zurueck", 7, 0));
    receive(four[1], "back", NULL, "back"); receive(six[1], "zurueck", NULL, "IPv6, back");
    if (has_lite) {
        must(send(lite[0], "lite", 4, 0));
        receive(lite[1], "lite", NULL, "UDP-Lite");
    }
    check(send(half[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "a socket shut down for writing takes data");
}

static bool is_member(int fd, const char *host, int interface) {
    struct {
        uint32_t interface, padding;
        struct sockaddr_storage group;
        uint32_t mode, count;
        struct sockaddr_storage sources[4];
    } filter = {.interface = interface, .count = 4};
    address group = at(host, 0);
    memcpy(&filter.group, &group, size_of(&group));
    socklen_t size = sizeof filter;
    return getsockopt(fd, group.any.sa_family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, MCAST_MSFILTER, &filter, &size) == 0;
}

WORKLOAD(udp_multicast, "multicast groups: members, with sources, two sockets that share a port") {
    int lo = if_nametoindex("lo");
    enum { port = 28515 };
    int fds[2], six = must(socket(AF_INET6, SOCK_DGRAM, 0)), sourced = must(socket(AF_INET, SOCK_DGRAM, 0));
    address where = at("0.0.0.0", port), group = at("239.1.2.3", port), group6 = at("ff15::77", 0), source = at("127.0.0.1", 0);
    for (int side = 0; side < 2; side++) {
        fds[side] = must(socket(AF_INET, SOCK_DGRAM, 0));
        set(fds[side], SOL_SOCKET, SO_REUSEADDR, 1);
        must(bind(fds[side], &where.any, sizeof where.v4));
    }
    struct ip_mreqn request = {.imr_multiaddr = group.v4.sin_addr, .imr_ifindex = lo};
    must(setsockopt(fds[0], IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof request));
    set(fds[0], IPPROTO_IP, IP_MULTICAST_ALL, 0); set(fds[1], IPPROTO_IP, IP_MULTICAST_ALL, 0);
    struct group_req request6 = {.gr_interface = lo};
    memcpy(&request6.gr_group, &group6, sizeof group6.v6);
    must(setsockopt(six, IPPROTO_IPV6, MCAST_JOIN_GROUP, &request6, sizeof request6));
    struct group_source_req with_source = {.gsr_interface = lo};
    memcpy(&with_source.gsr_group, &group, sizeof group.v4), memcpy(&with_source.gsr_source, &source, sizeof source.v4);
    must(setsockopt(sourced, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, &with_source, sizeof with_source));
    ready();
    check(is_member(fds[0], "239.1.2.3", lo), "the membership is gone");
    check(!is_member(fds[1], "239.1.2.3", lo), "a membership came out of nowhere");
    check(is_member(six, "ff15::77", lo), "the membership in the IPv6 group is gone");
    int sender = must(socket(AF_INET, SOCK_DGRAM, 0));
    must(setsockopt(sender, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request));
    must(sendto(sender, "to all", 6, 0, &group.any, sizeof group.v4));
    receive(fds[0], "to all", NULL, "the member");
    char text[16];
    check(recv(fds[1], text, sizeof text, MSG_DONTWAIT) == -1, "who is no member got a datagram");
    must(setsockopt(sourced, IPPROTO_IP, MCAST_LEAVE_SOURCE_GROUP, &with_source, sizeof with_source));
}

static uint16_t checksum(const uint16_t *words, int count) {
    uint32_t sum = 0;
    while (count--) sum += *words++;
    return ~((sum & 0xffff) + (sum >> 16));
}

WORKLOAD(raw_sockets, "raw sockets: protocol, headers included, ICMP filters, connected; they send and receive") {
    int icmp = must(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)), icmp6 = must(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6)), raw = must(socket(AF_INET, SOCK_RAW, IPPROTO_RAW));
    int other = must(socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK, 253)), connected = must(socket(AF_INET, SOCK_RAW, 254));
    enum { ICMP_FILTER = 1 };  // linux/icmp.h, which does not go together with netinet/ip_icmp.h
    uint32_t filter = ~(1u << ICMP_ECHOREPLY);
    must(setsockopt(icmp, SOL_RAW, ICMP_FILTER, &filter, sizeof filter));
    struct icmp6_filter filter6, filter6_now;
    ICMP6_FILTER_SETBLOCKALL(&filter6);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter6);
    must(setsockopt(icmp6, IPPROTO_ICMPV6, ICMP6_FILTER, &filter6, sizeof filter6));
    address here = at("127.0.0.1", 0);
    must(bind(other, &here.any, sizeof here.v4));
    set(other, IPPROTO_IP, IP_HDRINCL, 1); set(other, IPPROTO_IP, IP_NODEFRAG, 1);
    connect_to(connected, here);
    ready();
    check_equal(option(icmp, SOL_SOCKET, SO_PROTOCOL), IPPROTO_ICMP, "protocol"); check_equal(option(raw, IPPROTO_IP, IP_HDRINCL), 1, "IP_HDRINCL of IPPROTO_RAW");
    check_equal(option(other, IPPROTO_IP, IP_HDRINCL), 1, "IP_HDRINCL"); check_equal(option(other, IPPROTO_IP, IP_NODEFRAG), 1, "IP_NODEFRAG");
    check_equal(option(icmp, SOL_RAW, ICMP_FILTER), (int)filter, "ICMP_FILTER");
    socklen_t size = sizeof filter6_now;
    must(getsockopt(icmp6, IPPROTO_ICMPV6, ICMP6_FILTER, &filter6_now, &size));
    check(memcmp(&filter6_now, &filter6, sizeof filter6) == 0, "ICMP6_FILTER is another one");
    check_equal(local(other).v4.sin_addr.s_addr, here.v4.sin_addr.s_addr, "address");
    must(send(connected, "experiment", 10, 0));
    struct {
        struct icmphdr header;
        char text[8];
    } echo = {.header = {.type = ICMP_ECHO, .un.echo = {htons(4711), htons(1)}}, .text = "Stasis"};
    echo.header.checksum = checksum((uint16_t *)&echo, sizeof echo / 2);
    must(sendto(icmp, &echo, sizeof echo, 0, &here.any, sizeof here.v4));
    char answer[256];
    for (;;) {  // the request itself is filtered out, others' replies are not
        struct pollfd one = {icmp, POLLIN, 0};
        check(poll(&one, 1, 5000) == 1, "no reply");
        ssize_t got = must(recv(icmp, answer, sizeof answer, 0));
        struct icmphdr *header = (void *)(answer + 20);
        check(got >= 28 && header->type == ICMP_ECHOREPLY, "the filter lets type %d in", header->type);
        if (header->un.echo.id == htons(4711)) break;
    }
}
