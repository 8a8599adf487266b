#include "workload.h"
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

enum { ethertype = 0x88b5 /* local experiments (IEEE 802) */, frame = 2048, frames = 16 };

static int option(int fd, int level, int name) {
    int value = 0;
    socklen_t size = sizeof value;
    must(getsockopt(fd, level, name, &value, &size));
    return value;
}
static void set(int fd, int name, int value) { must(setsockopt(fd, SOL_PACKET, name, &value, sizeof value)); }

/// An Ethernet frame of our own type through the loopback interface.
static void transmit(int fd, int type, const char *text) {
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(type), .sll_ifindex = if_nametoindex("lo"), .sll_halen = ETH_ALEN};
    char bytes[64] = {0};
    bytes[12] = type >> 8, bytes[13] = type;
    int length = ETH_HLEN + snprintf(bytes + ETH_HLEN, sizeof bytes - ETH_HLEN, "%s", text);
    check_equal(must(sendto(fd, bytes, length, 0, (struct sockaddr *)&to, sizeof to)), length, "bytes sent");
}

/// The next frame of the ring holds `text`; waits for it at most five seconds.
static void take(int fd, char *ring, unsigned *next, const char *text, const char *what) {
    struct tpacket2_hdr *header = (void *)(ring + *next * frame);
    for (int tries = 0; !(*(volatile uint32_t *)&header->tp_status & TP_STATUS_USER); tries++) {
        check(tries < 500, "%s: frame %u of the ring stays empty", what, *next);
        struct pollfd one = {fd, POLLIN, 0};
        poll(&one, 1, 10);
        if (*(volatile uint32_t *)&header->tp_status & TP_STATUS_USER) break;
        pause_ms(1);
    }
    char *payload = (char *)header + header->tp_mac + ETH_HLEN;
    int length = header->tp_len - ETH_HLEN;
    check(length == (int)strlen(text) && memcmp(payload, text, length) == 0, "%s: frame %u holds '%.*s' instead of '%s'", what, *next, length, payload, text);
    header->tp_status = TP_STATUS_KERNEL;
    *next = (*next + 1) % frames;
}

WORKLOAD(packet_sockets, "packet sockets: options, memberships, filter, fanout; bound, unbound, and of the old kind") {
    int lo = if_nametoindex("lo"), one = 1;
    int plain = must(socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK, 0)), bound = must(socket(AF_PACKET, SOCK_RAW, htons(ethertype)));
    int virtual = must(socket(AF_PACKET, SOCK_RAW, 0)), old = must(socket(AF_PACKET, SOCK_PACKET, htons(ethertype + 1)));
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ethertype), .sll_ifindex = lo};
    must(bind(bound, (struct sockaddr *)&address, sizeof address));
    set(bound, PACKET_AUXDATA, 1), set(bound, PACKET_ORIGDEV, 1), set(bound, PACKET_RESERVE, 32), set(bound, PACKET_VERSION, TPACKET_V2);
    set(bound, PACKET_IGNORE_OUTGOING, 1), set(bound, PACKET_TIMESTAMP, 16);
    set(plain, PACKET_QDISC_BYPASS, 1), set(virtual, PACKET_VNET_HDR, 1);
    struct packet_mreq member = {.mr_ifindex = lo, .mr_type = PACKET_MR_MULTICAST, .mr_alen = 6, .mr_address = {1, 0, 0x5e, 1, 2, 3}};
    must(setsockopt(bound, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &member, sizeof member));
    struct sock_filter code[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 0, 1), BPF_STMT(BPF_RET | BPF_K, 0xffff), BPF_STMT(BPF_RET | BPF_K, 0)};
    struct sock_fprog program = {4, code};
    must(setsockopt(bound, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    must(setsockopt(bound, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one));
    int fanout = (getpid() & 0x3fff) | (PACKET_FANOUT_LB | PACKET_FANOUT_FLAG_ROLLOVER) << 16;
    int group[2];
    for (int at = 0; at < 2; at++) {
        group[at] = must(socket(AF_PACKET, SOCK_RAW, htons(ethertype + 2)));
        set(group[at], PACKET_FANOUT, fanout);
    }
    ready();
    struct sockaddr_ll now = {0};
    socklen_t size = sizeof now;
    must(getsockname(bound, (struct sockaddr *)&now, &size));
    check_equal(now.sll_ifindex, lo, "interface");
    check_equal(ntohs(now.sll_protocol), ethertype, "protocol");
    check_equal(option(plain, SOL_SOCKET, SO_TYPE), SOCK_DGRAM, "type"); check_equal(option(old, SOL_SOCKET, SO_TYPE), SOCK_PACKET, "type of the old kind");
    check_equal(option(bound, SOL_PACKET, PACKET_AUXDATA), 1, "PACKET_AUXDATA"); check_equal(option(bound, SOL_PACKET, PACKET_ORIGDEV), 1, "PACKET_ORIGDEV");
    check_equal(option(bound, SOL_PACKET, PACKET_RESERVE), 32, "PACKET_RESERVE"); check_equal(option(bound, SOL_PACKET, PACKET_VERSION), TPACKET_V2, "PACKET_VERSION");
    check_equal(option(bound, SOL_PACKET, PACKET_IGNORE_OUTGOING), 1, "PACKET_IGNORE_OUTGOING"); check_equal(option(bound, SOL_PACKET, PACKET_TIMESTAMP), 16, "PACKET_TIMESTAMP");
    check_equal(option(virtual, SOL_PACKET, PACKET_VNET_HDR), 1, "PACKET_VNET_HDR"); check_equal(option(plain, SOL_PACKET, PACKET_QDISC_BYPASS), 1, "PACKET_QDISC_BYPASS");
    check_equal(option(bound, SOL_SOCKET, SO_TIMESTAMPNS), 1, "SO_TIMESTAMPNS");
    for (int at = 0; at < 2; at++) check_equal(option(group[at], SOL_PACKET, PACKET_FANOUT), fanout, "PACKET_FANOUT");
    must(setsockopt(bound, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &member, sizeof member));
    int sender = must(socket(AF_PACKET, SOCK_RAW, 0));
    set(bound, PACKET_IGNORE_OUTGOING, 1);
    transmit(sender, ethertype, "no"), transmit(sender, ethertype, "yes");
    char text[64] = {0};
    check_equal(must(recv(bound, text, sizeof text, 0)), 17, "length of the packet that passes the filter");
}

WORKLOAD(packet_rings, "packet sockets with rings: mappings, position, packets that are not read yet") {
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ethertype + 3), .sll_ifindex = if_nametoindex("lo")};
    int fd = must(socket(AF_PACKET, SOCK_RAW, 0)), sender = must(socket(AF_PACKET, SOCK_RAW, 0));
    set(fd, PACKET_VERSION, TPACKET_V2), set(fd, PACKET_IGNORE_OUTGOING, 1);
    struct tpacket_req request = {.tp_block_size = 4 * frame, .tp_block_nr = frames / 4, .tp_frame_size = frame, .tp_frame_nr = frames};
    must(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request));
    must(setsockopt(fd, SOL_PACKET, PACKET_TX_RING, &request, sizeof request));
    size_t size = 2 * frame * frames;
    char *ring = must(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    must(bind(fd, (struct sockaddr *)&address, sizeof address));
    unsigned next = 0;
    for (int at = 0; at < 5; at++) transmit(sender, ethertype + 3, "before"), take(fd, ring, &next, "before", "before");
    transmit(sender, ethertype + 3, "unread 1"), transmit(sender, ethertype + 3, "unread 2");
    struct tpacket2_hdr *last = (void *)(ring + (next + 1) % frames * frame);
    while (!(*(volatile uint32_t *)&last->tp_status & TP_STATUS_USER)) pause_ms(1);
    ready();
    take(fd, ring, &next, "unread 1", "unread"), take(fd, ring, &next, "unread 2", "unread");
    for (int at = 0; at < 2 * frames; at++) {
        char text[32];
        snprintf(text, sizeof text, "after %d", at);
        transmit(sender, ethertype + 3, text), take(fd, ring, &next, text, "after");
    }
}

/// The packets of the next block of a ring of version 3, in order; waits for it at most five seconds.
static void take_block(char *ring, unsigned size, unsigned blocks, unsigned *next, int from, int count, const char *what) {
    while (count > 0) {
        struct tpacket_block_desc *block = (void *)(ring + *next * size);
        volatile uint32_t *status = &block->hdr.bh1.block_status;
        for (int tries = 0; !(*status & TP_STATUS_USER); tries++) {
            check(tries < 5000, "%s: block %u stays with the kernel", what, *next);
            pause_ms(1);
        }
        struct tpacket3_hdr *packet = (void *)((char *)block + block->hdr.bh1.offset_to_first_pkt);
        for (unsigned at = 0; at < block->hdr.bh1.num_pkts; at++, count--, from++) {
            int number = atoi((char *)packet + packet->tp_mac + ETH_HLEN);
            check(number == from, "%s: packet %d instead of %d in block %u", what, number, from, *next);
            packet = (void *)((char *)packet + packet->tp_next_offset);
        }
        *status = TP_STATUS_KERNEL;
        *next = (*next + 1) % blocks;
    }
    check_equal(count, 0, "packets too many");
}

WORKLOAD(packet_blocks, "a ring of blocks (TPACKET_V3): position, blocks that are not read yet, and one that is not full") {
    enum { size = 1 << 14, blocks = 5, type = ethertype + 4 };
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(type), .sll_ifindex = if_nametoindex("lo")};
    int fd = must(socket(AF_PACKET, SOCK_RAW, 0)), sender = must(socket(AF_PACKET, SOCK_RAW, 0));
    set(fd, PACKET_VERSION, TPACKET_V3);
    struct tpacket_req3 request = {.tp_block_size = size, .tp_block_nr = blocks, .tp_frame_size = frame, .tp_frame_nr = size / frame * blocks, .tp_retire_blk_tov = 20};
    must(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request));
    char *ring = must(mmap(NULL, size * blocks, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    must(bind(fd, (struct sockaddr *)&address, sizeof address));
    unsigned next = 0;
    int sent = 0, taken = 0;
    char text[16];
    for (int round = 0; round < 3; round++) {
        for (int at = 0; at < 4; at++, sent++) snprintf(text, sizeof text, "%d", sent), transmit(sender, type, text);
        take_block(ring, size, blocks, &next, taken, 4, "before");
        taken = sent;
    }
    for (int at = 0; at < 6; at++, sent++) {  // some in a block whose time runs out, some in one that is still open
        snprintf(text, sizeof text, "%d", sent), transmit(sender, type, text);
        if (at == 3) pause_ms(50);
    }
    ready();
    take_block(ring, size, blocks, &next, taken, sent - taken, "unread");
    for (int round = 0; round < 2 * blocks; round++) {
        taken = sent;
        for (int at = 0; at < 3; at++, sent++) snprintf(text, sizeof text, "%d", sent), transmit(sender, type, text);
        take_block(ring, size, blocks, &next, taken, 3, "after");
    }
}
