// The graft for x86-64: runs a batch of system calls, parks under its tracer, and puts the task back by itself when the
// tracer is gone. It pushes nothing on the task's stack. Layout of the header: struct clinux_graft_header.
#if defined(__x86_64__)
    .text
    .globl clinux_graft_begin, clinux_graft_code, clinux_graft_idle, clinux_graft_park, clinux_graft_end
    .balign 16
clinux_graft_begin:
.Lheader:
    .fill 216, 1, 0
clinux_graft_code:
    lea .Lheader(%rip), %rbx
    mov 0(%rbx), %r12               // batch
    xor %r14d, %r14d                // 0: working for the tracer, 1: alone
.Lrun:
    mov %r12, %r13                  // first call of the list
    test %r12, %r12
    jz .Lend
.Lcall:
    cmpl $-1, (%r12)
    je .Lend
    movzbl 5(%r12), %ecx            // an argument that is an earlier result
    test %ecx, %ecx
    jz .Lload
    movzwl 6(%r12), %edx
    shl $6, %rdx
    mov 56(%r13,%rdx), %rdx
    mov %rdx, (%r12,%rcx,8)
.Lload:
    mov 8(%r12), %rdi
    mov 16(%r12), %rsi
    mov 24(%r12), %rdx
    mov 32(%r12), %r10
    mov 40(%r12), %r8
    mov 48(%r12), %r9
    movslq (%r12), %rax
    syscall
    mov %rax, 56(%r12)
    testb $1, 4(%r12)
    jz .Lnext
    cmp $-4096, %rax
    ja .Lend
.Lnext:
    add $64, %r12
    jmp .Lcall
.Lend:
    test %r14d, %r14d
    jnz .Lrestore
clinux_graft_idle:                  // the way in without a batch: rbx is the header, r14 0
    movslq 32(%rbx), %rdi           // tgid
    movslq 36(%rbx), %rsi           // tid
    movslq 40(%rbx), %rdx           // a signal that is ignored unless traced
    mov $234, %eax                  // tgkill
    syscall
clinux_graft_park:                  // under a tracer the task stands here; it sets rip to clinux_graft_code for the next batch
    mov 8(%rbx), %r12               // alone: clean up
    mov $1, %r14d
    jmp .Lrun
.Lrestore:
    mov 16(%rbx), %rdi              // scratch
    mov 24(%rbx), %rsi
    test %rsi, %rsi
    jz .Lmask
    mov $11, %eax                   // munmap
    syscall
.Lmask:
    mov $2, %edi                    // SIG_SETMASK
    lea 48(%rbx), %rsi
    xor %edx, %edx
    mov $8, %r10d
    mov $14, %eax                   // rt_sigprocmask
    syscall
    mov 56(%rbx), %rax
    mov 72(%rbx), %rcx
    mov 80(%rbx), %rdx
    mov 88(%rbx), %rsi
    mov 96(%rbx), %rdi
    mov 104(%rbx), %rbp
    mov 112(%rbx), %r8
    mov 120(%rbx), %r9
    mov 128(%rbx), %r10
    mov 136(%rbx), %r11
    mov 144(%rbx), %r12
    mov 152(%rbx), %r13
    mov 160(%rbx), %r14
    mov 168(%rbx), %r15
    lea 176(%rbx), %rsp
    mov 64(%rbx), %rbx
    iretq
clinux_graft_end:
    .section .note.GNU-stack,"",@progbits
#endif
