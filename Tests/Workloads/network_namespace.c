#include "workload.h"
#include <arpa/inet.h>
#include <netinet/in.h>

static void run(const char *command) {
    int status = system(command);
    check(status == 0, "%s: status %d", command, status);
}

/// What the namespace looks like from inside, but for states that the kernel comes to by and by.
static void look(char *into, size_t room) {
    FILE *said = popen(
        "ip -d addr | sed 's/state [A-Z]*//; s/qdisc [a-z_]*//; s/NO-CARRIER,//; s/,LOWER_UP//; s/,M-DOWN//; s/_timer *[0-9.]*//g; s/[a-z]*_id [0-9a-f.:]*//g; s/valid_lft.*//'; ip route show table all | sed 's/linkdown//'; "
        "ip -6 route show table all; ip rule; ip -6 rule; nft -s list ruleset; iptables-legacy-save | sed 's/\\[[0-9:]*]//; /^#/d'; "
        "cd /proc/sys/net/ipv4; grep . conf/all/log_martians conf/default/rp_filter conf/lo/arp_ignore conf/side/proxy_arp ping_group_range ip_default_ttl ip_local_port_range ip_unprivileged_port_start", "r");
    check(said != NULL, "popen");
    size_t length = fread(into, 1, room - 1, said);
    into[length] = 0;
    check(pclose(said) == 0, "the namespace can't be looked at");
}

static int connection(int *other) {
    int listener = must(socket(AF_INET, SOCK_STREAM, 0)), one = must(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in address = {.sin_family = AF_INET};
    inet_pton(AF_INET, "10.58.1.1", &address.sin_addr);
    socklen_t length = sizeof address;
    must(bind(listener, (struct sockaddr *)&address, length));
    must(listen(listener, 1));
    must(getsockname(listener, (struct sockaddr *)&address, &length));
    must(connect(one, (struct sockaddr *)&address, length));
    *other = must(accept(listener, NULL, NULL));
    close(listener);
    return one;
}
static void exchange(int from, int to, const char *text) {
    char got[64] = "";
    check_equal(must(send(from, text, strlen(text), MSG_NOSIGNAL)), (ssize_t)strlen(text), "bytes sent");
    struct pollfd waits = {.fd = to, .events = POLLIN};
    check(must(poll(&waits, 1, 20000)) == 1, "\"%s\" does not arrive", text);
    must(recv(to, got, sizeof got - 1, 0));
    check(strcmp(got, text) == 0, "\"%s\" arrives as \"%s\"", text, got);
}

WORKLOAD(network_namespace, "a network namespace of its own: interfaces, addresses, routes, rules, sysctls, packet filters that know the connection, a TCP connection, a descriptor of it",
         .dump = "--tcp-established", .restore = "--tcp-established") {
    must(unshare(CLONE_NEWNET));
    // No addresses that the kernel makes by and by.
    run("for f in /proc/sys/net/ipv6/conf/default/disable_ipv6; do [ ! -e $f ] || echo 1 > $f; done; ip link set lo up");
    run("ip addr add 10.58.1.1/24 dev lo; ip addr add 10.58.1.2/32 dev lo label lo:two; ip -6 addr add fd58::1/64 dev lo");
    run("ip link add side type veth peer name port && ip link add bridge type bridge forward_delay 500 priority 4096 ageing_time 5800 && ip link set port master bridge");
    run("ip link set side mtu 1400 up && ip link set port up && ip link set bridge up && ip addr add 10.58.2.1/24 dev side");
    run("ip tuntap add stays mode tun && ip link set stays up");
    run("ip route add 10.58.3.0/24 via 10.58.2.2 && ip route add default via 10.58.3.9 onlink dev side table 58 metric 7");
    run("ip route add 10.58.4.0/24 nexthop via 10.58.2.3 weight 1 nexthop via 10.58.2.4 weight 2 && ip route add unreachable 10.58.5.0/24");
    run("ip rule add from 10.58.1.1 to 10.58.9.0/24 table 58 && ip -6 rule add from fd58::/64 table 58 priority 58");
    run("cd /proc/sys/net/ipv4; echo 1 > conf/all/log_martians; echo 2 > conf/default/rp_filter; echo 1 > conf/lo/arp_ignore; echo 1 > conf/side/proxy_arp; echo 5 58 > ping_group_range; echo 58 > ip_default_ttl; echo 5800 5899 > ip_local_port_range; echo 0 > ip_unprivileged_port_start");
    run("nft add table inet workload && nft add chain inet workload in '{ type filter hook input priority 0; policy drop; }' && nft add rule inet workload in ct state new,established accept && "
        "nft add set inet workload ports '{ type inet_service; elements = { 58, 5858 }; }'");
    int other, one = connection(&other), itself = must(open("/proc/self/ns/net", O_RDONLY));
    exchange(one, other, "before");
    // Whoever forgets the connection stops it.
    run("nft flush chain inet workload in && nft add rule inet workload in ct state established accept");
    run("iptables-legacy -w -A INPUT -p tcp -m state --state INVALID,NEW -j DROP");
    exchange(other, one, "and back");
    static char before[1 << 16], after[1 << 16];
    look(before, sizeof before);
    struct stat own, held;
    ready();
    look(after, sizeof after);
    for (char *a = before, *b = after; *a || *b;) {
        size_t m = strcspn(a, "\n"), n = strcspn(b, "\n");
        check(m == n && memcmp(a, b, m) == 0, "\"%.*s\" was \"%.*s\"", (int)n, b, (int)m, a);
        a += m + (a[m] != 0), b += n + (b[n] != 0);
    }
    exchange(one, other, "behind");
    exchange(other, one, "and back again");
    must(stat("/proc/self/ns/net", &own));
    must(fstat(itself, &held));
    check(own.st_ino == held.st_ino, "the descriptor is of another namespace");
}
