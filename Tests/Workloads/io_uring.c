// Idle io_uring rings: positions, completions that were not taken, a submission that was not made yet, registered files and buffers; a ring that
// only its maker may use; one that a child shares.
#include "workload.h"
#include <linux/io_uring.h>

struct ring {
    int fd;
    struct io_uring_params params;
    char *rings;
    struct io_uring_sqe *entries;
    size_t size, entries_size;
};

static unsigned *word(struct ring *ring, unsigned offset) { return (unsigned *)(ring->rings + offset); }
static unsigned get(struct ring *ring, unsigned offset) { return __atomic_load_n(word(ring, offset), __ATOMIC_ACQUIRE); }
static void set(struct ring *ring, unsigned offset, unsigned value) { __atomic_store_n(word(ring, offset), value, __ATOMIC_RELEASE); }

static struct ring made(unsigned count, unsigned flags) {
    struct ring ring = {.params.flags = flags};
    ring.fd = (int)must(syscall(__NR_io_uring_setup, count, &ring.params));
    ring.size = ring.params.sq_off.array + ring.params.sq_entries * sizeof(unsigned);
    ring.entries_size = ring.params.sq_entries * sizeof(struct io_uring_sqe);
    ring.rings = must(mmap(NULL, ring.size, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING));
    ring.entries = must(mmap(NULL, ring.entries_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQES));
    return ring;
}

/// Puts a request into the ring without submitting it. The array leads to the entries in reverse.
static struct io_uring_sqe *prepared(struct ring *ring, int opcode, uint64_t user_data) {
    unsigned tail = get(ring, ring->params.sq_off.tail), at = tail & (ring->params.sq_entries - 1), entry = ring->params.sq_entries - 1 - at;
    struct io_uring_sqe *request = &ring->entries[entry];
    memset(request, 0, sizeof *request);
    request->opcode = (uint8_t)opcode;
    request->user_data = user_data;
    ((unsigned *)(ring->rings + ring->params.sq_off.array))[at] = entry;
    set(ring, ring->params.sq_off.tail, tail + 1);
    return request;
}
static void submit(struct ring *ring, unsigned count) {
    check_equal((long)must(syscall(__NR_io_uring_enter, ring->fd, count, count, IORING_ENTER_GETEVENTS, NULL, 0)), (long)count, "requests submitted");
}
struct completion {
    uint64_t user_data;
    int res;
};
static struct completion taken(struct ring *ring) {
    unsigned head = get(ring, ring->params.cq_off.head);
    check(head != get(ring, ring->params.cq_off.tail), "no completion waits");
    struct io_uring_cqe *found = (struct io_uring_cqe *)(ring->rings + ring->params.cq_off.cqes) + (head & (ring->params.cq_entries - 1));
    struct completion completion = {found->user_data, found->res};
    set(ring, ring->params.cq_off.head, head + 1);
    return completion;
}
static void nothing(struct ring *ring, unsigned times) {
    for (unsigned i = 0; i < times; i++) {
        prepared(ring, IORING_OP_NOP, i), submit(ring, 1);
        check_equal(taken(ring).user_data, i, "user data");
    }
}
static void check_positions(struct ring *ring, unsigned submitted, unsigned prepared, unsigned taken, unsigned completed, const char *what) {
    check_equal(get(ring, ring->params.sq_off.head), submitted, what);
    check_equal(get(ring, ring->params.sq_off.tail), prepared, what);
    check_equal(get(ring, ring->params.cq_off.head), taken, what);
    check_equal(get(ring, ring->params.cq_off.tail), completed, what);
}

static void share(void *argument) {
    struct ring *ring = argument;
    await_go();
    check_positions(ring, 3, 3, 3, 3, "the child's ring");
    prepared(ring, IORING_OP_NOP, 4711), submit(ring, 1);
}

WORKLOAD(io_uring, "idle rings: positions, completions not taken, registered files and buffers, a shared one") {
    // 1003 requests done, two completions not taken, one request prepared.
    struct ring plain = made(8, 0);
    nothing(&plain, 1001);
    prepared(&plain, IORING_OP_NOP, 77), prepared(&plain, IORING_OP_NOP, 78), submit(&plain, 2);
    prepared(&plain, IORING_OP_NOP, 79);

    struct ring own = made(64, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    nothing(&own, 5);

    // A file is registered, in the second of three slots, and two buffers.
    struct ring with = made(4, 0);
    int file = must(open("content", O_RDWR | O_CREAT, 0644));
    must(write(file, "hello", 5));
    int files[] = {-1, file, -1};
    must(syscall(__NR_io_uring_register, with.fd, IORING_REGISTER_FILES, files, 3));
    char *buffers = must(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    struct iovec vectors[] = {{buffers, 4096}, {buffers + 5000, 100}};
    must(syscall(__NR_io_uring_register, with.fd, IORING_REGISTER_BUFFERS, vectors, 2));
    memset(buffers, 'x', 8192);

    struct ring shared = made(2, 0);
    nothing(&shared, 3);
    pid_t child = fork_child(share, &shared);

    ready();

    check_positions(&plain, 1003, 1004, 1001, 1003, "the plain ring");
    check_equal((long)taken(&plain).user_data, 77L, "first completion");
    check_equal((long)taken(&plain).user_data, 78L, "second completion");
    submit(&plain, 1);
    check_equal((long)taken(&plain).user_data, 79L, "the prepared request");
    nothing(&plain, 20);

    check_positions(&own, 5, 5, 5, 5, "the single issuer's ring");
    nothing(&own, 100);

    struct io_uring_sqe *request = prepared(&with, IORING_OP_READ_FIXED, 1);
    request->flags = IOSQE_FIXED_FILE;
    request->fd = 1, request->addr = (uintptr_t)(buffers + 5010), request->len = 5, request->buf_index = 1;
    submit(&with, 1);
    check_equal(taken(&with).res, 5, "bytes read into a registered buffer from a registered file");
    check(memcmp(buffers + 5009, "xhellox", 7) == 0, "other bytes were read");
    request = prepared(&with, IORING_OP_READ, 2);
    request->flags = IOSQE_FIXED_FILE;
    request->fd = 2, request->addr = (uintptr_t)buffers, request->len = 5;
    submit(&with, 1);
    check_equal(taken(&with).res, -EBADF, "an empty slot");

    reap(child);
    check_equal((long)taken(&shared).user_data, 4711L, "the child's request");
    nothing(&shared, 7);
}
