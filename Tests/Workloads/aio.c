#include "workload.h"
#include <linux/aio_abi.h>

// The first words of the ring that a context's id is the address of (fs/aio.c, struct aio_ring).
struct ring {
    unsigned id, nr;
    volatile unsigned head, tail;
};

static int file;
static char blocks[8][512];

static void submit(aio_context_t context, int number) {
    struct iocb request = {.aio_data = 1000 + number, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = file, .aio_buf = (uintptr_t)blocks[number], .aio_nbytes = 512, .aio_offset = number * 512};
    struct iocb *list[] = {&request};
    check_equal(must(syscall(SYS_io_submit, context, 1, list)), 1, "requests taken");
}

static void take(aio_context_t context, int number) {
    struct io_event event = {0};
    struct timespec second = {5, 0};
    check_equal(must(syscall(SYS_io_getevents, context, 1, 1, &event, &second)), 1, "events");
    check_equal(event.data, 1000 + number, "which request is done");
    check_equal(event.res, 512, "bytes read");
    check_filled(blocks[number], 512, number, "what was read");
}

WORKLOAD(aio, "AIO contexts: id, completions not taken, place in the ring also after its end; they work afterwards") {
    file = must(open("blocks", O_RDWR | O_CREAT | O_TRUNC, 0600));
    char content[512];
    for (int i = 0; i < 8; i++) fill(content, sizeof content, i), must(write(file, content, sizeof content));
    aio_context_t used = 0, fresh = 0, wrapped = 0;
    must(syscall(SYS_io_setup, 16, &used));
    must(syscall(SYS_io_setup, 300, &fresh));
    must(syscall(SYS_io_setup, 1, &wrapped));
    for (int i = 0; i < 3; i++) submit(used, i);
    take(used, 0);
    struct ring *ring = (struct ring *)used, *round = (struct ring *)wrapped;
    for (unsigned i = 0; i < round->nr + 5; i++) submit(wrapped, i % 8), take(wrapped, i % 8);
    submit(wrapped, 7);
    while ((ring->tail + ring->nr - ring->head) % ring->nr != 2) pause_ms(1);
    while (round->tail == round->head) pause_ms(1);
    check(round->tail < round->nr, "tail %u of %u", round->tail, round->nr);
    struct ring before = *ring, round_before = *round;
    static struct layout layout;
    take_layout(&layout);
    ready();
    check_layout(&layout);
    check(ring->nr == before.nr && ring->head == before.head && ring->tail == before.tail, "the ring is at %u..%u of %u, was at %u..%u of %u", ring->head, ring->tail, ring->nr, before.head, before.tail, before.nr);
    check(round->head == round_before.head && round->tail == round_before.tail, "the other ring is at %u..%u, was at %u..%u", round->head, round->tail, round_before.head, round_before.tail);
    take(used, 1), take(used, 2), take(wrapped, 7);
    for (int i = 3; i < 8; i++) submit(used, i), submit(fresh, i);
    for (int i = 3; i < 8; i++) take(used, i), take(fresh, i);
    for (unsigned i = 0; i < 2 * round->nr; i++) submit(wrapped, i % 8), take(wrapped, i % 8);
    must(syscall(SYS_io_destroy, used)), must(syscall(SYS_io_destroy, fresh)), must(syscall(SYS_io_destroy, wrapped));
}
