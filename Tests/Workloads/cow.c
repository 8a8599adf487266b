#include "workload.h"

// Memory that a parent and its children share by copy-on-write must still be shared after a restore:
// the restored tree may not use more memory than the original did.

enum { size = 64 << 20, children = 4 };
static char *memory;

static long rollup(const char *field) {
    char *text = slurp("/proc/self/smaps_rollup"), *at = strstr(text, field);
    check(at, "no %s", field);
    long kilobytes = atol(at + strlen(field));
    free(text);
    return kilobytes;
}

static void child(void *argument) {
    int number = *(int *)argument;
    fill(memory + ((size_t)number << 20), 1 << 20, 200 + number);  // a MiB of its own
    settle();
    await_go();
    long before = 4096 + size / 1024 / (children + 1);
    long pss = rollup("Pss:");
    settle();
    check_filled(memory + ((size_t)number << 20), 1 << 20, 200 + number, "the child's own pages");
    check_filled(memory + (32 << 20), 32 << 20, 7, "pages shared with the parent");
    await_settled(2 * children + 1);
    check(pss < 2 * before, "proportional set is %ld KiB: copy-on-write sharing is lost (expected about %ld)", pss, before);
}

WORKLOAD(cow, "64 MiB shared by copy-on-write between a parent and four children stays shared") {
    memory = must((char *)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    fill(memory, 32 << 20, 3);
    fill(memory + (32 << 20), 32 << 20, 7);
    pid_t pids[children];
    int numbers[children];
    for (int i = 0; i < children; i++) {
        numbers[i] = i;
        pids[i] = fork_child(child, &numbers[i]);
    }
    await_settled(children);
    ready();
    await_settled(2 * children);
    long pss = rollup("Pss:");
    settle();
    for (int i = 0; i < children; i++) reap(pids[i]);
    check_filled(memory, 32 << 20, 3, "the parent's pages");
    check_filled(memory + (32 << 20), 32 << 20, 7, "the parent's shared pages");
    check(pss < 2 * size / 1024 / (children + 1) + 8192, "the parent's proportional set is %ld KiB: sharing is lost", pss);
}
