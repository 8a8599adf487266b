#include "workload.h"
#include <arpa/inet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

/// Asks about the interface or sets it: SIOCGIF..., SIOCSIF...
static struct ifreq ask(const char *name, unsigned long what, struct ifreq value) {
    int fd = must(socket(AF_INET, SOCK_DGRAM, 0));
    snprintf(value.ifr_name, sizeof value.ifr_name, "%s", name);
    check(ioctl(fd, what, &value) == 0, "ioctl %#lx of %s: %s", what, name, strerror(errno));
    close(fd);
    return value;
}
static struct ifreq with_address(const char *host) {
    struct ifreq made = {0};
    struct sockaddr_in *address = (void *)&made.ifr_addr;
    address->sin_family = AF_INET;
    check(inet_pton(AF_INET, host, &address->sin_addr) == 1, "%s", host);
    return made;
}

WORKLOAD(tun, "a tun interface that lives by its descriptor: name, flags, address; packets go through; an unattached descriptor") {
    int unused = must(open("/dev/net/tun", O_RDWR)), fd = must(open("/dev/net/tun", O_RDWR | O_NONBLOCK));
    char name[IFNAMSIZ];
    snprintf(name, sizeof name, "stasis%d", getpid());
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    memcpy(request.ifr_name, name, sizeof name);
    must(ioctl(fd, TUNSETIFF, &request));
    ask(name, SIOCSIFADDR, with_address("198.51.100.1"));
    ask(name, SIOCSIFNETMASK, with_address("255.255.255.252"));
    ask(name, SIOCSIFMTU, (struct ifreq){.ifr_mtu = 1234});
    ask(name, SIOCSIFFLAGS, (struct ifreq){.ifr_flags = IFF_UP | IFF_POINTOPOINT | IFF_NOARP});
    int index = ask(name, SIOCGIFINDEX, (struct ifreq){0}).ifr_ifindex;
    ready();
    struct ifreq now = {0};
    check(ioctl(unused, TUNGETIFF, &now) == -1 && errno == EBADFD, "the unattached descriptor has an interface");
    must(ioctl(fd, TUNGETIFF, &now));
    check(strcmp(now.ifr_name, name) == 0, "the interface is '%s', not '%s'", now.ifr_name, name);
    check_equal(now.ifr_flags & (IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), IFF_TUN | IFF_NO_PI, "flags");
    check_equal(must(fcntl(fd, F_GETFL)) & O_NONBLOCK, O_NONBLOCK, "O_NONBLOCK");
    check_equal(ask(name, SIOCGIFMTU, (struct ifreq){0}).ifr_mtu, 1234, "MTU");
    check_equal(ask(name, SIOCGIFINDEX, (struct ifreq){0}).ifr_ifindex, index, "index");
    struct ifreq address = ask(name, SIOCGIFADDR, (struct ifreq){0}), wanted = with_address("198.51.100.1");
    check(memcmp(&((struct sockaddr_in *)&address.ifr_addr)->sin_addr, &((struct sockaddr_in *)&wanted.ifr_addr)->sin_addr, 4) == 0, "another address");
    int udp = must(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(9)};
    inet_pton(AF_INET, "198.51.100.2", &there.sin_addr);
    check_equal(must(sendto(udp, "out", 3, 0, (struct sockaddr *)&there, sizeof there)), 3, "bytes sent over the interface");
    char packet[2048];
    for (int tries = 0;; tries++) {  // the kernel sends IPv6 packets of its own as well
        ssize_t got = read(fd, packet, sizeof packet);
        if (got == 31 && memcmp(packet + 28, "out", 3) == 0) break;
        check(tries < 500, "the packet does not come out of the interface");
        if (got < 0) pause_ms(10);
    }
}
