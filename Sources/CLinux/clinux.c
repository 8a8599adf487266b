#define _GNU_SOURCE
#include "clinux.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const char *clinux_error_name(int number) { return strerrorname_np(number); }
const char *clinux_error_text(int number) { return strerrordesc_np(number); }

long clinux_syscall(long number, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#endif
}

int clinux_fork(void) {
    int pid = fork();
    return pid < 0 ? -errno : pid;
}

struct clinux_cpuid clinux_cpuid(uint32_t leaf, uint32_t subleaf) {
    struct clinux_cpuid result = {0, 0, 0, 0};
#if defined(__x86_64__)
    uint32_t highest;  // beyond it a CPU repeats the last leaf
    __asm__("cpuid" : "=a"(highest) : "a"(leaf & 0x80000000) : "ebx", "ecx", "edx");
    if (leaf > highest) return result;
    __asm__("cpuid" : "=a"(result.eax), "=b"(result.ebx), "=c"(result.ecx), "=d"(result.edx) : "a"(leaf), "c"(subleaf));
#endif
    return result;
}

#if !defined(__x86_64__)
const unsigned char clinux_graft_begin[1], clinux_graft_code[1], clinux_graft_idle[1], clinux_graft_park[1], clinux_graft_end[1];
#endif
const unsigned char *clinux_graft_start(void) { return clinux_graft_begin; }
long clinux_graft_size(void) { return clinux_graft_end - clinux_graft_begin; }
long clinux_graft_idle_offset(void) { return clinux_graft_idle - clinux_graft_begin; }
long clinux_graft_park_offset(void) { return clinux_graft_park - clinux_graft_begin; }

// The child shares our memory and runs while we wait (CLONE_VM | CLONE_VFORK), on a stack of its own.
struct spawn { int executable, keep, sibling, parent; int error; };

static int spawned(void *argument) {
    struct spawn *spawn = argument;
    char *const empty[] = {(char *)"", NULL};
    long result = 0;
    // Until the restorer traces it, the stub dies with it (prctl(2); kept by execve), also if it died before this call.
    if (!spawn->sibling) {
        clinux_syscall(SYS_prctl, 1 /* PR_SET_PDEATHSIG */, SIGKILL, 0, 0, 0, 0);
        if (clinux_syscall(SYS_getppid, 0, 0, 0, 0, 0, 0) != spawn->parent) clinux_syscall(SYS_exit, 127, 0, 0, 0, 0, 0);
    }
    if (spawn->keep >= 0) result = clinux_syscall(SYS_fcntl, spawn->keep, F_SETFD, 0, 0, 0, 0);
    if (result >= 0)
        result = clinux_syscall(SYS_execveat, spawn->executable, (long)"", (long)empty, (long)(empty + 1), AT_EMPTY_PATH, 0);
    spawn->error = (int)result;
    clinux_syscall(SYS_exit, 127, 0, 0, 0, 0, 0);
    return 0;
}

#if defined(__x86_64__)
// clone3 into a function on another stack: the child must not return through our frame.
static long clone3_call(struct clinux_clone_args *args, size_t size, int (*function)(void *), void *argument) {
    long result;
    register void *rfn __asm__("r12") = (void *)function;
    register void *rarg __asm__("r13") = argument;
    __asm__ volatile(
        "syscall\n"
        "test %%rax, %%rax\n"
        "jnz 1f\n"
        "xor %%ebp, %%ebp\n"
        "mov %%r13, %%rdi\n"
        "call *%%r12\n"
        "hlt\n"
        "1:\n"
        : "=a"(result) : "a"(SYS_clone3), "D"(args), "S"(size), "r"(rfn), "r"(rarg) : "rcx", "r11", "memory");
    return result;
}
#endif

int clinux_spawn(int executable, int pid, int sibling, uint64_t flags, int keep) {
#if defined(__x86_64__)
    static char stack[16384] __attribute__((aligned(16)));
    // From within a new pid namespace its parent has no id.
    const int parent = flags & CLONE_NEWPID ? 0 : (int)clinux_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
    struct spawn spawn = {executable, keep, sibling, parent, 0};
    int32_t set_tid = pid;
    struct clinux_clone_args args = {
        .flags = CLONE_VM | CLONE_VFORK | (sibling ? CLONE_PARENT : 0) | flags, .exit_signal = sibling ? 0 : SIGCHLD,
        .stack = (uintptr_t)stack, .stack_size = sizeof stack, .set_tid = pid ? (uintptr_t)&set_tid : 0, .set_tid_size = pid ? 1 : 0};
    long result = clone3_call(&args, sizeof args, spawned, &spawn);
    if (result > 0 && spawn.error < 0) {
        clinux_syscall(SYS_wait4, result, 0, __WALL, 0, 0, 0);
        return spawn.error;
    }
    return (int)result;
#else
    (void)executable; (void)pid; (void)sibling; (void)flags; (void)keep; (void)spawned;
    return -ENOSYS;
#endif
}

struct guard { int pipe, count; const int32_t *descriptors, *reuse, *paused; };

// It must outlive us, so it is no thread; it shares memory (no page tables are copied), not descriptors.
static int guarding(void *argument) {
    const struct guard guard = *(struct guard *)argument;
    char byte;
    long got;
    clinux_syscall(SYS_setsid, 0, 0, 0, 0, 0, 0);  // a signal for our process group or terminal is not for it
    clinux_syscall(SYS_prctl, 15 /* PR_SET_NAME */, (long)"stasis-guard", 0, 0, 0, 0);
    // Ahead of everybody else when we are woken: the tasks that it is about run on at the same moment.
    struct { int priority; } first = {1};
    clinux_syscall(SYS_sched_setscheduler, 0, 1 /* SCHED_FIFO */, (long)&first, 0, 0, 0);
    // Nothing else is held: what goes with its owner (the lock of the packets) must not wait for us.
    unsigned next = 0;
    for (int i = 0, waits = 1; i < guard.count || waits;) {
        unsigned keep = waits && (i == guard.count || guard.pipe < guard.descriptors[i]) ? (waits = 0, guard.pipe) : guard.descriptors[i++];
        if (next < keep) clinux_syscall(SYS_close_range, next, keep - 1, 0, 0, 0, 0);
        next = keep + 1;
    }
    clinux_syscall(SYS_close_range, next, ~0u, 0, 0, 0, 0);
    do got = clinux_syscall(SYS_read, guard.pipe, (long)&byte, 1, 0, 0, 0);
    while (got == -EINTR);
    for (int i = 0; got <= 0 && i < guard.count; i++) {
        if (guard.paused) {
            // Only its tracer may; the kernel lets go of the task when the one before has ended.
            uint64_t unpause[7] = {[6] = 2 /* KFD_CRIU_OP_UNPAUSE */};  // struct kfd_ioctl_criu_args
            const struct timespec millisecond = {0, 1000000};
            for (int try = 0; try < 1000 && clinux_syscall(SYS_ptrace, PTRACE_SEIZE, guard.paused[i], 0, 0, 0, 0) == -EPERM; try++) clinux_syscall(SYS_nanosleep, (long)&millisecond, 0, 0, 0, 0, 0);
            clinux_syscall(SYS_ioctl, guard.descriptors[i], 0xc0384b22 /* AMDKFD_IOC_CRIU_OP */, (long)unpause, 0, 0, 0);
            continue;
        }
        if (!guard.reuse) {
            clinux_syscall(SYS_pidfd_send_signal, guard.descriptors[i], SIGKILL, 0, 0, 0, 0);
            continue;
        }
        int32_t off = -1;  // TCP_REPAIR_OFF_NO_WP: without a window probe
        clinux_syscall(SYS_setsockopt, guard.descriptors[i], 6 /* SOL_TCP */, 19 /* TCP_REPAIR */, (long)&off, sizeof off, 0);
        clinux_syscall(SYS_setsockopt, guard.descriptors[i], SOL_SOCKET, SO_REUSEADDR, (long)&guard.reuse[i], sizeof(int32_t), 0);
    }
    clinux_syscall(SYS_exit, 0, 0, 0, 0, 0, 0);
    return 0;
}

int clinux_guard(int pipe, const int32_t *descriptors, const int32_t *reuse, const int32_t *paused, int count, void *stack, size_t stack_size) {
    struct guard *guard = stack;  // at the low end, where the stack does not grow to
    *guard = (struct guard){pipe, count, descriptors, reuse, paused};
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    int pid = clone(guarding, (char *)stack + stack_size, CLONE_VM, guard);
    int result = pid < 0 ? -errno : pid;
    sigprocmask(SIG_SETMASK, &before, NULL);
    return result;
}

struct conduct { int (*body)(void *); void *context; sigset_t mask; int error; };
static void *conducting(void *argument) {
    struct conduct *conduct = argument;
    sigprocmask(SIG_SETMASK, &conduct->mask, NULL);
    _exit(conduct->body(conduct->context));
}
/// The work has a thread of its own: the first one shares its thread-local storage with the parent, and there libraries remember a thread's
/// id (Swift's Mutex, glibc's mutexes with owners), to which the kernel says that it is none of this process.
static int conducted(void *argument) {
    struct conduct *conduct = argument;
    pthread_t thread;
    sigset_t all;  // signals come to the thread that works, as far as it wants them
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &conduct->mask);
    prctl(PR_SET_NAME, "conductor");
    if ((conduct->error = pthread_create(&thread, NULL, conducting, conduct))) _exit(1);
    pthread_join(thread, NULL);
    return 1;
}

/// The child is called "conductor". Both share memory and descriptors, and the caller stands still until the child has ended, as with vfork(2): nothing is copied.
int clinux_conduct(int (*body)(void *), void *context) {
    enum { stack_size = 1 << 16, guard_size = 4096 };
    char *stack = mmap(NULL, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) return -errno;
    mprotect(stack, guard_size, PROT_NONE);
    struct conduct conduct = {.body = body, .context = context};
    int status = 0, pid = clone(conducted, stack + stack_size, CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_FS | SIGCHLD, &conduct);
    if (pid < 0) return -errno;
    while (waitpid(pid, &status, 0) < 0) if (errno != EINTR) return -errno;
    return conduct.error ? -conduct.error : status;
}
