#include "workload.h"
#include <asm/prctl.h>
#include <immintrin.h>

// What lives in the CPU: never asleep here, always taken in the middle of a computation.

static double compute(long rounds) {
    double x = 0.5, sum = 0;
    for (long i = 0; i < rounds; i++) {
        x = 3.99 * x * (1 - x);  // chaotic: one wrong bit changes everything
        sum += x / (1 + i % 7);
        if (sum > 1e6) sum -= 1e6;
    }
    return sum;
}

WORKLOAD(busy_fp, "a floating-point loop that never sleeps and knows its result") {
    double one = compute(20000);
    long times = 0;
    say_ready();
    while (!may_go()) {
        double again = compute(20000);
        check(memcmp(&one, &again, sizeof one) == 0, "computed %.17g, expected %.17g, round %ld", again, one, times);
        times++;
    }
    long double x87 = 1;
    for (int i = 0; i < 1000; i++) x87 = x87 * 1.0000001L + 1e-9L;
    check(x87 > 1, "x87 does not compute");
}

__attribute__((noinline, target("avx"))) static uint64_t hold_ymm(const uint64_t (*in)[4], uint64_t (*out)[4], volatile unsigned *go) {
    uint64_t rounds = 0;
    __asm__ volatile(
        "vmovdqu (%1), %%ymm0\n vmovdqu 32(%1), %%ymm1\n vmovdqu 64(%1), %%ymm2\n vmovdqu 96(%1), %%ymm3\n"
        "vmovdqu 128(%1), %%ymm4\n vmovdqu 160(%1), %%ymm5\n vmovdqu 192(%1), %%ymm6\n vmovdqu 224(%1), %%ymm7\n"
        "vmovdqu 256(%1), %%ymm8\n vmovdqu 288(%1), %%ymm9\n vmovdqu 320(%1), %%ymm10\n vmovdqu 352(%1), %%ymm11\n"
        "vmovdqu 384(%1), %%ymm12\n vmovdqu 416(%1), %%ymm13\n vmovdqu 448(%1), %%ymm14\n vmovdqu 480(%1), %%ymm15\n"
        "1: inc %0\n pause\n cmpl $0, (%3)\n je 1b\n"
        "vmovdqu %%ymm0, (%2)\n vmovdqu %%ymm1, 32(%2)\n vmovdqu %%ymm2, 64(%2)\n vmovdqu %%ymm3, 96(%2)\n"
        "vmovdqu %%ymm4, 128(%2)\n vmovdqu %%ymm5, 160(%2)\n vmovdqu %%ymm6, 192(%2)\n vmovdqu %%ymm7, 224(%2)\n"
        "vmovdqu %%ymm8, 256(%2)\n vmovdqu %%ymm9, 288(%2)\n vmovdqu %%ymm10, 320(%2)\n vmovdqu %%ymm11, 352(%2)\n"
        "vmovdqu %%ymm12, 384(%2)\n vmovdqu %%ymm13, 416(%2)\n vmovdqu %%ymm14, 448(%2)\n vmovdqu %%ymm15, 480(%2)\n"
        : "+r"(rounds)
        : "r"(in), "r"(out), "r"(go)
        : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
          "xmm12", "xmm13", "xmm14", "xmm15");
    return rounds;
}

static volatile unsigned go_on;

static void *spin_thread(void *argument) {
    static uint64_t in[2][16][4], out[2][16][4];
    int number = *(int *)argument;
    fill(in[number], sizeof in[number], 40 + number);
    settle();
    check(hold_ymm(in[number], out[number], &go_on) > 0, "no round");
    check_filled(out[number], sizeof out[number], 40 + number, "ymm registers");
    return NULL;
}

WORKLOAD(registers, "SSE and AVX registers, MXCSR, the x87 control word and flags of spinning threads") {
    if (!__builtin_cpu_supports("avx")) fail("this CPU has no AVX");
    pthread_t threads[2];
    int numbers[] = {0, 1};
    for (int i = 0; i < 2; i++) must0(pthread_create(&threads[i], NULL, spin_thread, &numbers[i]));
    await_settled(2);
    unsigned mxcsr = _mm_getcsr() ^ 0x6000 ^ 0x8000, mxcsr_now;  // round to zero, flush to zero
    unsigned short control = 0x0e7f, control_now;              // round to zero, single precision off
    _mm_setcsr(mxcsr);
    __asm__ volatile("fldcw %0\n fldpi" : : "m"(control));
    say_ready();
    while (!may_go()) syscall(SYS_sched_yield);
    mxcsr_now = _mm_getcsr();
    long double pi;
    __asm__ volatile("fnstcw %0\n fstpt %1" : "=m"(control_now), "=m"(pi));
    _mm_setcsr(0x1f80);
    check_equal(mxcsr_now & ~0x3f, mxcsr & ~0x3f, "mxcsr");
    check_equal(control_now, control, "x87 control word");
    check(pi > 3.14159L && pi < 3.1416L, "x87 stack top is %Lf", pi);
    go_on = 1;
    for (int i = 0; i < 2; i++) must0(pthread_join(threads[i], NULL));
}

WORKLOAD(fsgs, "FS and GS bases") {
    static uint64_t area[8] = {0x1122334455667788};
    unsigned long fs, gs, fs_now, gs_now;
    must(syscall(SYS_arch_prctl, ARCH_SET_GS, area));
    must(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
    must(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs));
    ready();
    uint64_t value;
    must(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_now));
    must(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs_now));
    check_equal(fs_now, fs, "fs base");
    check_equal(gs_now, gs, "gs base");
    __asm__ volatile("movq %%gs:0, %0" : "=r"(value));
    check_equal(value, area[0], "memory behind gs");
}
