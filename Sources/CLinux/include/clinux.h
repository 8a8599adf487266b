// What Swift can't import: the raw system call, constants that Debian 12's headers lack, structures of the kernel's ABI,
// and the graft's code (graft-x86_64.S).
#pragma once
#include <stdint.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/user.h>

/// One system call, as the kernel answers it: the result, or minus errno (syscall(2), "architecture calling conventions").
long clinux_syscall(long number, long a, long b, long c, long d, long e, long f);

/// fork(2), for going to the background: the caller must have no other threads. 0 in the child, or minus errno.
int clinux_fork(void);

/// The CPUID instruction; zeros for leaves that this CPU does not have, and on other architectures.
struct clinux_cpuid { uint32_t eax, ebx, ecx, edx; };
struct clinux_cpuid clinux_cpuid(uint32_t leaf, uint32_t subleaf);

/// SHA-256 (FIPS 180-4) of bytes that come piece by piece.
struct clinux_sha256 { uint32_t state[8]; uint64_t length; unsigned char block[64]; };
void clinux_sha256_begin(struct clinux_sha256 *hash);
void clinux_sha256_add(struct clinux_sha256 *hash, const void *bytes, size_t count);
void clinux_sha256_end(struct clinux_sha256 *hash, unsigned char digest[32]);

/// CRC-32C of `count` bytes that follow others of which it is `before` (0: none), and of each of `pages` pages of 4096 bytes.
uint32_t clinux_crc32c(uint32_t before, const void *bytes, size_t count);
void clinux_crc32c_of_pages(const void *bytes, size_t pages, uint32_t *sums);

/// strerrorname_np(3) and strerrordesc_np(3): NULL for an unknown number.
const char *clinux_error_name(int number);
const char *clinux_error_text(int number);

/// Starts the program open at `executable` (execveat, AT_EMPTY_PATH) with an empty environment, with the id `pid` (0: any;
/// clone3 set_tid), as a child of this process, or of its parent when `sibling`. Descriptor `keep` (or -1) stays open in it.
/// Returns the pid or minus errno, whichever of clone3 and execveat failed.
int clinux_spawn(int executable, int pid, int sibling, uint64_t flags, int keep);

/// Starts a guardian: a process of ours that waits at `pipe`, a read end. When a byte comes it ends. When the pipe ends instead, we are dead:
/// then it does one thing with each of its `count` descriptors (sorted by number), which with the pipe are all it holds. Where `reuse`
/// and `paused` are NULL they are pidfds, and it sends SIGKILL; where `paused` is not, they are open /dev/kfd, of the traced tasks it names, whose GPU
/// queues it lets run (AMDKFD_IOC_CRIU_OP, UNPAUSE); else they are sockets, which it takes out of TCP_REPAIR mode and whose SO_REUSEADDR, which that
/// mode forgets, it sets to their element of `reuse`. Only system calls, on a stack of its own, in our memory, with every signal blocked.
/// To be waited for with __WALL (wait4(2)). Returns its pid or minus errno.
int clinux_guard(int pipe, const int32_t *descriptors, const int32_t *reuse, const int32_t *paused, int count, void *stack, size_t stack_size);

/// Runs `body` in a child process and answers its wait status, or minus an errno.
int clinux_conduct(int (*body)(void *), void *context);

/// The graft: a header (struct clinux_graft_header) followed by code. Position independent; see Graft/README.md.
extern const unsigned char clinux_graft_begin[], clinux_graft_code[], clinux_graft_idle[], clinux_graft_park[], clinux_graft_end[];
const unsigned char *clinux_graft_start(void);
long clinux_graft_size(void);
/// Where a task goes to park at once, with rbx the graft's beginning and r14 0.
long clinux_graft_idle_offset(void);
/// Where a parked task's rip stands, from the graft's beginning.
long clinux_graft_park_offset(void);

struct clinux_graft_header {
    uint64_t batch;        // address of the first clinux_graft_call, 0: none
    uint64_t cleanup;      // the same, run when no tracer is there any more
    uint64_t scratch, scratch_size;  // unmapped last when no tracer is there any more
    uint32_t tgid, tid, signal, pad;
    uint64_t mask;         // signal mask to put back
    uint64_t ax, bx, cx, dx, si, di, bp, r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t ip, cs, flags, sp, ss;  // an iretq frame
};

/// One call of a batch. A list ends with number == -1.
struct clinux_graft_call {
    int32_t number;
    uint8_t options;       // bit 0: a failure ends the batch
    uint8_t from_argument; // 1...6: this argument is the result of call `from_call` (0: none)
    uint16_t from_call;
    uint64_t arguments[6];
    int64_t result;
};

enum { CLINUX_GRAFT_STOP_ON_ERROR = 1 };

// ptrace(2), linux/ptrace.h
enum {
    CLINUX_PTRACE_GETSIGMASK = 0x420a, CLINUX_PTRACE_SETSIGMASK = 0x420b, CLINUX_PTRACE_PEEKSIGINFO = 0x4209,
    CLINUX_PTRACE_SECCOMP_GET_FILTER = 0x420c, CLINUX_PTRACE_SECCOMP_GET_METADATA = 0x420d,
    CLINUX_PTRACE_GET_RSEQ_CONFIGURATION = 0x420f, CLINUX_PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG = 0x4210,
    CLINUX_PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG = 0x4211,
    CLINUX_PTRACE_O_SUSPEND_SECCOMP = 0x200000, CLINUX_NT_X86_XSTATE = 0x202, CLINUX_PTRACE_EVENT_STOP = 128,
};
struct clinux_rseq_configuration { uint64_t pointer; uint32_t size, signature, flags, pad; };
struct clinux_rseq_cs { uint32_t version, flags; uint64_t start_ip, post_commit_offset, abort_ip; };
struct clinux_peeksiginfo { uint64_t offset; uint32_t flags; int32_t count; };
struct clinux_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
/// The kernel's own struct sigaction (not glibc's).
struct clinux_kernel_sigaction { uint64_t handler, flags, restorer, mask; };
struct clinux_timespec { int64_t sec, nsec; };
struct clinux_timeval { int64_t sec, usec; };
struct clinux_sched_attr {
    uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; uint32_t util_min, util_max;
};
/// prctl(PR_SET_MM, PR_SET_MM_MAP), linux/prctl.h
struct clinux_prctl_mm_map {
    uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack, arg_start, arg_end, env_start, env_end, auxv;
    uint32_t auxv_size, exe_fd;
};
/// ioctl(PAGEMAP_SCAN) on /proc/PID/pagemap, linux/fs.h of 6.7
struct clinux_pm_scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct clinux_page_region { uint64_t start, end, categories; };
#define CLINUX_PAGEMAP_SCAN 0xc0606610u
enum {
    CLINUX_PAGE_IS_WPALLOWED = 1, CLINUX_PAGE_IS_WRITTEN = 2, CLINUX_PAGE_IS_FILE = 4, CLINUX_PAGE_IS_PRESENT = 8,
    CLINUX_PAGE_IS_SWAPPED = 16, CLINUX_PAGE_IS_PFNZERO = 32, CLINUX_PAGE_IS_HUGE = 64, CLINUX_PAGE_IS_SOFT_DIRTY = 128,
    CLINUX_PAGE_IS_GUARD = 256,
};
