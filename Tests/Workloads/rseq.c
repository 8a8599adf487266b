#include "workload.h"
#include <stddef.h>

// Restartable sequences (rseq(2), Documentation in include/uapi/linux/rseq.h). glibc registers one area a thread.

#ifndef __has_include
#define __has_include(x) 0
#endif
#if __has_include(<sys/rseq.h>)
#include <sys/rseq.h>
#else
#error "glibc without sys/rseq.h"
#endif

static struct rseq *own_area(void) { return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset); }

static void check_registered(const char *who) {
    check(__rseq_size > 0, "glibc has not registered rseq");
    struct rseq *area = own_area();
    check((int)area->cpu_id >= 0, "%s: cpu_id is %d", who, (int)area->cpu_id);
    // Registered already: the kernel says EBUSY for the same area, signature and size.
    int result = syscall(SYS_rseq, area, 32, 0, RSEQ_SIG);
    check(result == -1 && (errno == EBUSY || errno == EINVAL), "%s: rseq is no longer registered (%d, %s)", who, result,
          strerror(errno));
    cpu_set_t one, all;
    must(sched_getaffinity(0, sizeof all, &all));
    for (int cpu = 0; cpu < 64; cpu++) {
        if (!CPU_ISSET(cpu, &all)) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        must(sched_setaffinity(0, sizeof one, &one));
        check_equal(*(volatile uint32_t *)&area->cpu_id, cpu, "cpu_id that the kernel keeps up to date");
    }
    must(sched_setaffinity(0, sizeof all, &all));
}

static void *thread(void *unused __attribute__((unused))) {
    settle();
    await_go();
    check_registered("thread");
    return NULL;
}

WORKLOAD(rseq, "the rseq areas of all threads stay registered and up to date") {
    pthread_t id;
    must0(pthread_create(&id, NULL, thread, NULL));
    await_settled(1);
    ready();
    check_registered("leader");
    must0(pthread_join(id, NULL));
}

/// Spins inside a critical section until `*go` says otherwise; returns 1 if the abort handler ran, 0 if it came through.
__attribute__((noinline)) static int spin_in_section(struct rseq *area, volatile int *entered, volatile int *go) {
    int aborted = 0;
    __asm__ volatile(
        ".pushsection __rseq_cs, \"aw\"\n .balign 32\n"
        "3: .long 0, 0\n .quad 1f, 2f - 1f, 4f\n .popsection\n"
        "leaq 3b(%%rip), %%rax\n movq %%rax, %c[cs](%[area])\n"
        "1: movl $1, (%[entered])\n 5: pause\n cmpl $0, (%[go])\n je 5b\n"
        "2: jmp 6f\n"
        ".byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n"
        "4: movl $1, %[aborted]\n 6:\n"
        : [aborted] "+r"(aborted)
        : [area] "r"(area), [entered] "r"(entered), [go] "r"(go), [cs] "i"(offsetof(struct rseq, rseq_cs))
        : "rax", "memory", "cc");
    return aborted;
}

WORKLOAD(rseq_section, "a task taken inside a critical section is in its abort handler afterwards, whatever interrupts it") {
    static volatile int entered, go;
    say_ready();
    long aborts = 0;
    // Each pass ends by an abort: preemption, or the dump. Without the abort at a restore it would spin forever.
    while (!may_go()) aborts += spin_in_section(own_area(), &entered, &go);
    check(entered, "never inside");
    check(aborts > 0, "never aborted");
}
