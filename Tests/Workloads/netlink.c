#include "workload.h"
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

static struct sockaddr_nl address_of(int fd, int (*get)(int, struct sockaddr *, socklen_t *)) {
    struct sockaddr_nl address = {0};
    socklen_t size = sizeof address;
    must(get(fd, (struct sockaddr *)&address, &size));
    return address;
}

static int option(int fd, int level, int name) {
    int value = 0;
    socklen_t size = sizeof value;
    must(getsockopt(fd, level, name, &value, &size));
    return value;
}

static bool is_member(int fd, unsigned group) {
    uint32_t words[8] = {0};
    socklen_t size = sizeof words;
    must(getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &size));
    return words[(group - 1) / 32] >> ((group - 1) % 32) & 1;
}

/// Asks rtnetlink for the interfaces and returns the port id that the answer is addressed to.
static unsigned ask(int fd, unsigned sequence) {
    struct {
        struct nlmsghdr header;
        struct ifinfomsg info;
    } request = {{sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0}, {.ifi_family = AF_UNSPEC}};
    must(send(fd, &request, sizeof request, 0));
    static char answer[1 << 16];
    unsigned port = 0;
    for (bool done = false; !done;) {
        ssize_t got = must(recv(fd, answer, sizeof answer, 0));
        for (struct nlmsghdr *one = (void *)answer; NLMSG_OK(one, (size_t)got); one = NLMSG_NEXT(one, got)) {
            check_equal(one->nlmsg_seq, sequence, "the answer's sequence number");
            port = one->nlmsg_pid;
            if (one->nlmsg_type == NLMSG_DONE) done = true;
            else check(one->nlmsg_type == RTM_NEWLINK, "the answer is of type %d", one->nlmsg_type);
        }
    }
    return port;
}

WORKLOAD(netlink, "netlink sockets: address, groups, connection, options, filter; they work afterwards") {
    int bound = must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_pid = 0xabcd0000u | (getpid() & 0xffff), .nl_groups = RTMGRP_LINK | RTMGRP_IPV6_ROUTE};
    must(bind(bound, (struct sockaddr *)&address, sizeof address));
    int group = 33 /* RTNLGRP_BRVLAN: beyond the first word */, one = 1;
    must(setsockopt(bound, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
    int fresh = must(socket(AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK, NETLINK_GENERIC));
    int connected = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK)), partner = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK));
    struct sockaddr_nl automatic = {.nl_family = AF_NETLINK};
    must(bind(partner, (struct sockaddr *)&automatic, sizeof automatic));
    struct sockaddr_nl other = address_of(partner, getsockname);
    must(connect(connected, (struct sockaddr *)&other, sizeof other));
    must(setsockopt(bound, SOL_NETLINK, NETLINK_PKTINFO, &one, sizeof one));
    must(setsockopt(bound, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof one));
    must(setsockopt(fresh, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof one));
    struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, 0xffff);
    struct sock_fprog program = {1, &all};
    must(setsockopt(connected, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    must(setsockopt(connected, SOL_SOCKET, SO_LOCK_FILTER, &one, sizeof one));
    struct sockaddr_nl own = address_of(connected, getsockname);
    ask(bound, 1);
    ready();
    struct sockaddr_nl now = address_of(bound, getsockname);
    check_equal(now.nl_pid, address.nl_pid, "port id");
    check_equal(now.nl_groups, address.nl_groups, "groups");
    check(is_member(bound, 33 /* RTNLGRP_BRVLAN */), "a group above 32 is gone");
    check(!is_member(bound, RTNLGRP_NEIGH), "a group came out of nowhere");
    check_equal(option(bound, SOL_NETLINK, NETLINK_PKTINFO), 1, "NETLINK_PKTINFO");
    check_equal(option(bound, SOL_NETLINK, NETLINK_EXT_ACK), 1, "NETLINK_EXT_ACK");
    check_equal(option(fresh, SOL_NETLINK, NETLINK_GET_STRICT_CHK), 1, "NETLINK_GET_STRICT_CHK");
    check_equal(option(fresh, SOL_NETLINK, NETLINK_PKTINFO), 0, "NETLINK_PKTINFO of another");
    check_equal(option(fresh, SOL_SOCKET, SO_TYPE), SOCK_DGRAM, "SO_TYPE");
    check_equal(option(fresh, SOL_SOCKET, SO_PROTOCOL), NETLINK_GENERIC, "SO_PROTOCOL");
    check_equal(must(fcntl(fresh, F_GETFL)), O_RDWR | O_NONBLOCK, "flags");
    check_equal(address_of(fresh, getsockname).nl_pid, 0, "port id of a socket without address");
    check_equal(address_of(connected, getsockname).nl_pid, own.nl_pid, "port id of the connected socket");
    check_equal(address_of(connected, getpeername).nl_pid, other.nl_pid, "its peer");
    check_equal(option(connected, SOL_SOCKET, SO_LOCK_FILTER), 1, "SO_LOCK_FILTER");
    check(setsockopt(connected, SOL_SOCKET, SO_DETACH_FILTER, &one, sizeof one) == -1 && errno == EPERM, "a locked filter can be taken off");
    check_equal(ask(bound, 2), address.nl_pid, "where the kernel answers to");
    must(send(connected, "hello", 5, 0));
    char text[16] = {0};
    check_equal(must(recv(partner, text, sizeof text, MSG_DONTWAIT)), 5, "length of a message between two");
}
