#include "workload.h"

static int inner[2];

static void other_end(void *argument) {
    int *ends = argument;
    close(ends[1]);
    settle();
    await_go();
    char text[32] = {0};
    check_equal(must(read(ends[0], text, 11)), 11, "bytes in the pipe between processes");
    check(strcmp(text, "for a child") == 0, "pipe between processes holds '%s'", text);
    check_equal(must(read(ends[0], text, sizeof text)), 5, "bytes the parent wrote after go");
    check_equal(must(read(ends[0], text, sizeof text)), 0, "end of file when the writer has closed");
}

WORKLOAD(pipes, "pipes: content, order, size, full, non-blocking, both ends anywhere, no reader, no writer") {
    int content[2], full[2], sized[2], between[2], no_writer[2], no_reader[2], offset[2];
    must(pipe(content));
    must(write(content[1], "one", 3));
    must(write(content[1], "two\0three", 9));

    must(pipe2(full, O_NONBLOCK));
    char block[4096];
    int blocks = 0;
    for (;; blocks++) {
        fill(block, sizeof block, blocks);
        if (write(full[1], block, sizeof block) < 0) break;
    }
    check(errno == EAGAIN && blocks == 16, "a pipe took %d pages: %s", blocks, strerror(errno));

    must(pipe2(sized, O_CLOEXEC));
    int size = must(fcntl(sized[1], F_SETPIPE_SZ, 1 << 18));
    static char large[200000], back[200000];
    fill(large, sizeof large, 77);
    check_equal(must(write(sized[1], large, sizeof large)), sizeof large, "bytes written");

    must(pipe(offset));  // a part-read first buffer
    must(write(offset[1], "0123456789", 10));
    must(read(offset[0], block, 4));

    must(pipe(between));
    must(write(between[1], "for a child", 11));
    pid_t child = fork_child(other_end, between);
    close(between[0]);

    must(pipe(no_writer));
    must(write(no_writer[1], "last words", 10));
    close(no_writer[1]);
    must(pipe(no_reader));
    close(no_reader[0]);
    must(pipe(inner));

    await_settled(1);
    ready();

    char text[64] = {0};
    check_equal(must(read(content[0], text, sizeof text)), 12, "bytes in the pipe");
    check(memcmp(text, "onetwo\0three", 12) == 0, "pipe content changed: '%s'", text);
    check_equal(must(fcntl(content[0], F_GETFL)) & O_NONBLOCK, 0, "O_NONBLOCK");
    check_equal(must(fcntl(content[0], F_GETPIPE_SZ)), 65536, "default pipe size");

    check_equal(must(fcntl(full[0], F_GETFL)), O_RDONLY | O_NONBLOCK, "flags of the reading end");
    check_equal(must(fcntl(full[1], F_GETFL)), O_WRONLY | O_NONBLOCK, "flags of the writing end");
    check(write(full[1], "x", 1) == -1 && errno == EAGAIN, "the full pipe is not full");
    for (int i = 0; i < blocks; i++) {
        check_equal(must(read(full[0], block, sizeof block)), sizeof block, "bytes of a page of the full pipe");
        check_filled(block, sizeof block, i, "full pipe");
    }
    check(read(full[0], block, 1) == -1 && errno == EAGAIN, "the emptied pipe is not empty");

    check_equal(must(fcntl(sized[1], F_GETPIPE_SZ)), size, "pipe size");
    check_equal(must(fcntl(sized[0], F_GETFD)), FD_CLOEXEC, "close-on-exec");
    check_equal(must(fcntl(content[0], F_GETFD)), 0, "close-on-exec");
    size_t got = 0;
    while (got < sizeof back) got += must(read(sized[0], back + got, sizeof back - got));
    check_filled(back, sizeof back, 77, "large pipe");

    check_equal(must(read(offset[0], text, sizeof text)), 6, "bytes left of a part-read pipe");
    check(memcmp(text, "456789", 6) == 0, "part-read pipe holds '%.6s'", text);

    must(write(between[1], "later", 5));
    close(between[1]);
    reap(child);

    check_equal(must(read(no_writer[0], text, sizeof text)), 10, "bytes in a pipe without writer");
    check_equal(must(read(no_writer[0], text, sizeof text)), 0, "end of file");
    signal(SIGPIPE, SIG_IGN);
    check(write(no_reader[1], "x", 1) == -1 && errno == EPIPE, "a pipe without reader takes data");
    must(write(inner[1], "i", 1));
    check_equal(must(read(inner[0], text, sizeof text)), 1, "bytes through an empty pipe");
}

WORKLOAD(pipes_packet, "pipes in packet mode (O_DIRECT): boundaries of packets are kept") {
    int packet[2], mixed[2];
    must(pipe2(packet, O_DIRECT));
    must(write(packet[1], "first", 5));
    must(write(packet[1], "second one", 10));
    must(write(packet[1], "3", 1));
    must(pipe(mixed));  // packet mode switched on later: only the later writes are packets
    must(write(mixed[1], "stream", 6));
    must(fcntl(mixed[1], F_SETFL, O_DIRECT));
    must(write(mixed[1], "packet", 6));
    must(write(mixed[1], "two", 3));
    ready();
    char text[64];
    check_equal(must(fcntl(packet[1], F_GETFL)), O_WRONLY | O_DIRECT, "flags of the packet pipe");
    check_equal(must(read(packet[0], text, sizeof text)), 5, "bytes of the first packet");
    check_equal(must(read(packet[0], text, 3)), 3, "bytes of the second packet, cut");
    check_equal(must(read(packet[0], text, sizeof text)), 1, "bytes of the third packet");
    check_equal(must(fcntl(mixed[1], F_GETFL)), O_WRONLY | O_DIRECT, "flags of the mixed pipe");
    check_equal(must(read(mixed[0], text, 12)), 12, "bytes up to the end of the first packet");
    check_equal(must(read(mixed[0], text, sizeof text)), 3, "bytes of the last packet");
    must(write(packet[1], "a", 1));
    must(write(packet[1], "b", 1));
    check_equal(must(read(packet[0], text, sizeof text)), 1, "bytes of a packet written after go");
}
