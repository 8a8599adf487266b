// What every workload shares: the protocol with the harness, checks, children, snapshots of /proc.
//
// A workload builds a state, calls ready(), and finds itself, some dumps and restores later, behind that call: then it
// checks that nothing has changed. The protocol is three files named in the environment (Tests/README.md):
//   WORKLOAD_READY   made by ready()
//   WORKLOAD_GO      awaited by ready() and await_go(), by looking every 10 ms; unset: no waiting
//   WORKLOAD_RESULT  "ok\n", or "FAIL: reason\n" of whoever in the tree fails first
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct workload {
    const char *name;
    void (*run)(int argc, char **argv);
    const char *about;
    const char *dump, *restore;  // extra options, separated by spaces; NULL: none
    bool slow;                   // takes seconds by its nature: fewer modes in a quick run
    bool untreated;              // for one test only: not dumped in every mode, not listed
    struct workload *next;
};

void register_workload(struct workload *);

/// Defines and registers a workload. Underscores in the name are dashes on the command line.
#define WORKLOAD(id, text, ...)                                                                              \
    static void run_##id(int argc, char **argv);                                                             \
    static struct workload entry_##id = {.name = #id, .run = run_##id, .about = text, ##__VA_ARGS__};        \
    __attribute__((constructor)) static void register_##id(void) { register_workload(&entry_##id); }         \
    static void run_##id(int argc __attribute__((unused)), char **argv __attribute__((unused)))

// --- the protocol

void ready(void);      // says ready, then awaits go: the line at which the tree is dumped
void say_ready(void);  // only says it, for a workload that waits in its own way
void await_go(void);
bool may_go(void);
bool travels(void);  // whether it goes on under another kernel, with other clocks and another vDSO
/// The control files' paths, for a workload that changes its root: strips `prefix` from all three.
void strip_control_paths(const char *prefix);

__attribute__((noreturn, format(printf, 3, 4))) void fail_at(const char *file, int line, const char *format, ...);
#define fail(...) fail_at(__FILE_NAME__, __LINE__, __VA_ARGS__)
#define check(condition, ...)           \
    do {                                \
        if (!(condition)) fail(__VA_ARGS__); \
    } while (0)
/// The value of a call that reports failure by -1.
#define must(call)                                                                     \
    ({                                                                                 \
        __typeof__(call) result_ = (call);                                             \
        if (result_ == (__typeof__(call))-1) fail("%s: %s", #call, strerror(errno));   \
        result_;                                                                       \
    })
/// For pthread calls, which return an error number.
#define must0(call)                                                       \
    do {                                                                  \
        int error_ = (call);                                              \
        if (error_) fail("%s: %s", #call, strerror(error_));              \
    } while (0)
#define check_equal(actual, expected, what)                                                             \
    do {                                                                                                \
        long long actual_ = (long long)(actual), expected_ = (long long)(expected);                     \
        if (actual_ != expected_)                                                                       \
            fail("%s is %lld (%#llx), was %lld (%#llx)", what, actual_, (unsigned long long)actual_,    \
                 expected_, (unsigned long long)expected_);                                             \
    } while (0)

// --- children

/// Forks a child that runs `body` and exits with 0; a failed check in it fails the workload.
pid_t fork_child(void (*body)(void *), void *argument);
/// Waits for a child of fork_child and fails if it did not end with 0.
void reap(pid_t child);
/// A counter shared by the tree: each participant calls settle(), the root await_settled(n).
void settle(void);
void await_settled(int count);
/// Waits until the task `tid` sleeps in the kernel (state S, twice in a row), to be dumped there.
void await_asleep(pid_t tid);

// --- things to compare

/// A whole file of /proc (or any small file), allocated; fails when it can't be read.
char *slurp(const char *path);
/// One line's value of /proc/<task>/status ("SigBlk"), allocated.
char *status_field(pid_t task, const char *field);
/// /proc/self/maps without what may change: [vvar] and the like, heap's end, stack's start, device and inode; adjacent
/// mappings that the kernel may join are joined. Calls no allocator that maps memory.
struct layout {
    char text[1 << 19];
};
void take_layout(struct layout *);
void check_layout(const struct layout *before);
/// "path pos flags" of every descriptor of this process, one a line, in order.
char *descriptor_table(void);

void fill(void *memory, size_t size, uint64_t seed);
/// The offset of the first byte that differs from fill()'s, or -1.
ssize_t differs(const void *memory, size_t size, uint64_t seed);
#define check_filled(memory, size, seed, what)                                          \
    do {                                                                                \
        ssize_t at_ = differs(memory, size, seed);                                      \
        check(at_ < 0, "%s differs at byte %zd", what, at_);                            \
    } while (0)

double now(void);  // CLOCK_MONOTONIC, seconds
void pause_ms(int milliseconds);
