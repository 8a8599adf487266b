#include "workload.h"
#include <sys/ipc.h>
#include <sys/shm.h>

enum { page = 4096 };

static char *anonymous(size_t size, int protection, int flags) {
    return must((char *)mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0));
}

/// A file of `pages` pages in the working directory, filled with `seed`.
static int make_file(const char *name, int pages, uint64_t seed) {
    int file = must(open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    char *block = malloc(pages * page);
    fill(block, pages * page, seed);
    check_equal(must(write(file, block, pages * page)), pages * page, "bytes written");
    free(block);
    return file;
}

/// Lines of smaps about the mapping at `address` whose name begins with `field`, allocated.
static char *smaps_field(const void *address, const char *field) {
    char *text = slurp("/proc/self/smaps"), header[32];
    snprintf(header, sizeof header, "%lx-", (unsigned long)address);
    char *at = text;
    while (strncmp(at, header, strlen(header))) {
        at = strchr(at, '\n');
        check(at, "no mapping begins at %p", address);
        at++;
    }
    char needle[64];
    snprintf(needle, sizeof needle, "\n%s:", field);
    at = strstr(at, needle);
    check(at, "no %s in smaps", field);
    at += strlen(needle);
    at += strspn(at, " ");
    char *value = strndup(at, strcspn(at, "\n"));
    char *dirty = strcmp(field, "VmFlags") ? NULL : strstr(value, "sd ");  // "soft-dirty" is the kernel's affair
    if (dirty) memmove(dirty, dirty + 3, strlen(dirty + 3) + 1);
    free(text);
    return value;
}

WORKLOAD(memory_private, "private memory: patterns, holes, PROT_NONE, read-only changed pages, heap, stack, executable") {
    size_t size = 3 << 20;
    char *plain = anonymous(size, PROT_READ | PROT_WRITE, 0);
    fill(plain, size, 1);
    char *sparse = anonymous(64 << 20, PROT_READ | PROT_WRITE, MAP_NORESERVE);
    for (int i = 0; i < 64; i++) fill(sparse + ((size_t)i << 20), page, 100 + i);
    char *closed = anonymous(4 * page, PROT_READ | PROT_WRITE, 0);
    fill(closed, 4 * page, 2);
    must(mprotect(closed, 4 * page, PROT_NONE));
    char *constant = anonymous(4 * page, PROT_READ | PROT_WRITE, 0);
    fill(constant, 4 * page, 3);
    must(mprotect(constant, 4 * page, PROT_READ));
    char *never = anonymous(16 * page, PROT_NONE, 0);
    char *zero = anonymous(16 * page, PROT_READ | PROT_WRITE, 0);
    check(zero[0] == 0 && zero[5 * page] == 0, "not zero");  // the zero page
    char *code = anonymous(page, PROT_READ | PROT_WRITE, 0);
    memcpy(code, "\xb8\x2a\0\0\0\xc3", 6);  // mov eax, 42; ret
    must(mprotect(code, page, PROT_READ | PROT_EXEC));
    void *end = sbrk(1 << 20);
    check(end != (void *)-1, "sbrk: %s", strerror(errno));
    fill(end, 1 << 20, 4);
    char large_frame[200000];
    fill(large_frame, sizeof large_frame, 5);
    static struct layout layout;
    void *break_now = sbrk(0);
    take_layout(&layout);
    ready();
    check_layout(&layout);
    check(sbrk(0) == break_now, "program break is %p, was %p", sbrk(0), break_now);
    check_filled(plain, size, 1, "private memory");
    for (int i = 0; i < 64; i++) {
        check_filled(sparse + ((size_t)i << 20), page, 100 + i, "sparse memory");
        check(sparse[((size_t)i << 20) + page] == 0, "a hole is not zero");
    }
    must(mprotect(closed, 4 * page, PROT_READ));
    check_filled(closed, 4 * page, 2, "PROT_NONE memory");
    check_filled(constant, 4 * page, 3, "read-only memory");
    must(mprotect(never, 16 * page, PROT_READ));
    for (int i = 0; i < 16 * page; i += 512) check(never[i] == 0 && zero[i] == 0, "untouched memory is not zero");
    check_equal(((int (*)(void))code)(), 42, "code on an anonymous page");
    check_filled(end, 1 << 20, 4, "heap");
    check_filled(large_frame, sizeof large_frame, 5, "stack");
    check(sbrk(page) == break_now, "brk can't be moved on");
    *(char *)break_now = 1;
    fill(plain, size, 6);  // still writable
    check_filled(plain, size, 6, "private memory written anew");
}

static int recursed(int depth) {
    char frame[4096];
    memset(frame, depth, sizeof frame);
    return depth ? recursed(depth - 1) + frame[depth] - (char)depth : 0;
}

WORKLOAD(memory_growsdown, "a stack of its own that grows down, and the main stack, which still grows") {
    char *area = anonymous(4 << 20, PROT_NONE, MAP_NORESERVE);
    must(munmap(area, 4 << 20));
    char *top = area + (2 << 20);
    char *low = must((char *)mmap(top, 2 * page, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0));
    fill(low, 2 * page, 9);
    for (int i = 1; i <= 8; i++) *(volatile char *)(low - i * page) = i;  // grows
    char *start = low - 8 * page;
    char *flags = smaps_field(start, "VmFlags");
    check(strstr(flags, "gd"), "not MAP_GROWSDOWN: %s", flags);
    ready();
    char *flags_now = smaps_field(start, "VmFlags");
    check(strcmp(flags, flags_now) == 0, "VmFlags '%s', was '%s'", flags_now, flags);
    check_filled(low, 2 * page, 9, "growing memory");
    for (int i = 1; i <= 8; i++) check(low[-i * page] == i, "page %d below is %d", i, low[-i * page]);
    *(volatile char *)(start - page) = 1;
    check_equal(recursed(500), 0, "recursion over 2 MiB of stack");
}

WORKLOAD(memory_files, "file mappings: private with copied pages, shared, read-only, past the end, of a deleted file") {
    int file = make_file("mapped", 8, 11), deleted = make_file("deleted", 4, 12), odd = make_file("odd", 2, 13);
    must(ftruncate(odd, page + 100));
    char *private = must((char *)mmap(NULL, 8 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0));
    fill(private + 2 * page, page, 21);
    fill(private + 5 * page, page, 22);
    char *shared = must((char *)mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 4 * page));
    char *read_only = must((char *)mmap(NULL, 8 * page, PROT_READ, MAP_PRIVATE, file, 0));
    char *changed = must((char *)mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0));
    fill(changed, page, 23);
    must(mprotect(changed, 2 * page, PROT_READ));  // as the loader does with RELRO
    char *of_deleted = must((char *)mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, deleted, 0));
    char *shared_deleted = must((char *)mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, deleted, 0));
    fill(of_deleted + page, page, 24);
    char *past = must((char *)mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, odd, 0));
    past[page + 50] = 'x';
    int read_only_file = must(open("mapped", O_RDONLY | O_CLOEXEC));
    char *shared_read = must((char *)mmap(NULL, 8 * page, PROT_READ, MAP_SHARED, read_only_file, 0));
    must(unlink("deleted"));
    close(file), close(deleted), close(odd), close(read_only_file);
    static struct layout layout;
    take_layout(&layout);
    ready();
    check_layout(&layout);
    char expected[8 * page];
    fill(expected, sizeof expected, 11);
    check(memcmp(read_only, expected, 8 * page) == 0, "read-only mapping of a file differs");
    check(memcmp(shared_read, expected, 8 * page) == 0, "shared read-only mapping differs");
    check(mprotect(shared_read, page, PROT_READ | PROT_WRITE) == -1 && errno == EACCES,
          "a shared mapping of a file opened for reading can be made writable");
    check(memcmp(private, expected, 2 * page) == 0, "unchanged private pages differ");
    check_filled(private + 2 * page, page, 21, "changed private page");
    check_filled(private + 5 * page, page, 22, "changed private page");
    check_filled(changed, page, 23, "changed read-only page");
    fill(expected, sizeof expected, 12);
    check_filled(of_deleted + page, page, 24, "changed page of a deleted file");
    check(memcmp(of_deleted, expected, page) == 0, "page of a deleted file differs");
    check(memcmp(shared_deleted, expected, 4 * page) == 0, "shared mapping of a deleted file differs");
    check(past[page + 50] == 'x', "page past the end of the file");
    shared[0] = 'S';  // visible through the other mappings of the file
    check(private[4 * page] == 'S' && shared_read[4 * page] == 'S', "the shared mapping has lost its file");
    shared_deleted[3 * page] = 'D';
    check(of_deleted[3 * page] == 'D', "two mappings of a deleted file are no longer of the same file");
    check(access("deleted", F_OK) == -1 && errno == ENOENT, "the deleted file has a name again");
}

WORKLOAD(memory_replaced, "a mapped library in whose place there is another one") {
    int old = make_file("library", 4, 14);
    char *constant = must((char *)mmap(NULL, 4 * page, PROT_READ, MAP_PRIVATE, old, 0));
    char *changed = must((char *)mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, old, 0));
    fill(changed + page, page, 16);
    close(make_file("new", 4, 15));
    must(rename("new", "library"));
    close(old);
    ready();
    check_filled(constant, 4 * page, 14, "mapping of a file that was replaced");
    check_filled(changed + page, page, 16, "its changed page");
    char expected[4 * page];
    fill(expected, sizeof expected, 14);
    check(memcmp(changed, expected, page) == 0 && memcmp(changed + 2 * page, expected + 2 * page, 2 * page) == 0, "its other pages differ");
    check_filled(slurp("library"), 4 * page, 15, "the file in its place");
}

struct shared_state {
    char *anonymous, *memfd, *part;
};

static void sharing_child(void *argument) {
    struct shared_state *state = argument;
    state->part = mremap(state->part, 4 * page, 2 * page, 0);  // sees only the first half
    fill(state->anonymous + page, page, 32);
    settle();
    await_go();
    check_filled(state->anonymous, page, 31, "shared page of the parent");
    check_filled(state->anonymous + page, page, 32, "shared page of the child");
    check_filled(state->memfd, 4 * page, 33, "memfd's pages in the child");
    check_filled(state->part, 2 * page, 34, "half of a shared mapping");
    state->anonymous[2 * page] = 'c';
    state->memfd[0] = 'c';
}

WORKLOAD(memory_shared, "shared anonymous memory and memfd mappings between processes, also in part") {
    struct shared_state state;
    state.anonymous = must((char *)mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    state.part = must((char *)mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    int memfd = must((int)syscall(SYS_memfd_create, "a memfd", 0));
    must(ftruncate(memfd, 4 * page));
    state.memfd = must((char *)mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0));
    char *own = must((char *)mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, memfd, 0));
    fill(state.memfd, 4 * page, 33);
    fill(own + page, page, 35);
    fill(state.anonymous, page, 31);
    fill(state.part, 4 * page, 34);
    pid_t child = fork_child(sharing_child, &state);
    await_settled(1);
    char *lonely = must((char *)mmap(NULL, 8 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    fill(lonely + 4 * page, page, 36);
    static struct layout layout;
    take_layout(&layout);
    ready();
    check_layout(&layout);
    reap(child);
    check_filled(state.anonymous + page, page, 32, "shared page of the child");
    check(state.anonymous[2 * page] == 'c', "the child's write is not seen: no longer shared");
    check(state.memfd[0] == 'c', "the child's write to the memfd is not seen");
    check_filled(state.part, 4 * page, 34, "whole of a half-shared mapping");
    check_filled(own + page, page, 35, "private page over a memfd");
    check_filled(lonely + 4 * page, page, 36, "shared memory of one process");
    check(lonely[0] == 0, "a hole in shared memory");
    char byte;
    check_equal(must(pread(memfd, &byte, 1, 0)), 1, "bytes of the memfd");
    check(byte == 'c', "the memfd's descriptor and its mapping are two files");
}

static int sysv_id;
static void sysv_child(void *memory) {
    settle();
    await_go();
    check_filled((char *)memory + page, page, 41, "SysV memory in the child");
    while (((volatile char *)memory)[6 * page] != 'p') pause_ms(1);  // while the parent counts attachments
    *(char *)memory = 'k';
}

WORKLOAD(memory_sysv, "SysV shared memory of the host's IPC namespace: id, key, mode, content, attached twice") {
    sysv_id = must(shmget(0x57a51500 + getpid() % 200, 6 * page + 5, IPC_CREAT | IPC_EXCL | 0640));
    char *memory = shmat(sysv_id, NULL, 0), *again = shmat(sysv_id, NULL, SHM_RDONLY);
    check(memory != (void *)-1 && again != (void *)-1, "shmat: %s", strerror(errno));
    fill(memory + page, page, 41);
    pid_t child = fork_child(sysv_child, memory);
    await_settled(1);
    struct shmid_ds before, after;
    must(shmctl(sysv_id, IPC_STAT, &before));
    ready();
    must(shmctl(sysv_id, IPC_STAT, &after));
    int id = sysv_id;
    check_equal(after.shm_perm.__key, before.shm_perm.__key, "key");
    check_equal(after.shm_perm.mode, before.shm_perm.mode, "mode");
    check_equal(after.shm_segsz, before.shm_segsz, "size");
    check_equal(after.shm_nattch, before.shm_nattch, "attachments");
    memory[6 * page] = 'p';
    reap(child);
    check(memory[0] == 'k' && again[0] == 'k', "no longer the same segment");
    must(shmdt(again));
    must(shmdt(memory));
    must(shmctl(id, IPC_RMID, NULL));
}

WORKLOAD(memory_advice, "madvise and mlock flags of each mapping, names of anonymous mappings") {
    static const struct {
        int advice;
        const char *name;
    } advices[] = {{MADV_SEQUENTIAL, "sequential"}, {MADV_RANDOM, "random"},     {MADV_DONTFORK, "dontfork"},
                   {MADV_DONTDUMP, "dontdump"},     {MADV_MERGEABLE, "merge"},   {MADV_HUGEPAGE, "huge"},
                   {MADV_NOHUGEPAGE, "nohuge"},     {MADV_WIPEONFORK, "wipe"}};
    enum { count = sizeof advices / sizeof *advices };
    char *areas[count + 3], *flags[count + 3];
    int used = 0;
    for (int i = 0; i < count; i++) {
        // A page of PROT_NONE between two keeps them apart.
        char *area = anonymous(6 * page, PROT_NONE, 0);
        must(mprotect(area + page, 4 * page, PROT_READ | PROT_WRITE));
        if (madvise(area + page, 4 * page, advices[i].advice) == -1) continue;  // KSM or THP not in this kernel
        fill(area + page, 4 * page, i);
        areas[used++] = area + page;
    }
    check(used >= 5, "only %d kinds of advice are known to this kernel", used);
    for (int i = 0; i < 2; i++) {
        char *area = anonymous(6 * page, PROT_NONE, 0);
        must(mprotect(area + page, 4 * page, PROT_READ | PROT_WRITE));
        fill(area + page, page, 50 + i);
        must(i ? (int)syscall(SYS_mlock2, area + page, 4 * page, 1 /* MLOCK_ONFAULT */) : mlock(area + page, 4 * page));
        areas[used++] = area + page;
    }
    char *named = anonymous(6 * page, PROT_NONE, 0) + page;
    must(mprotect(named, 4 * page, PROT_READ | PROT_WRITE));
    bool names = prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, named, 4 * page, "a name: x/y") == 0;
    fill(named, page, 60);
    for (int i = 0; i < used; i++) flags[i] = smaps_field(areas[i], "VmFlags");
    static struct layout layout;
    take_layout(&layout);
    check(!names || strstr(layout.text, "[anon:a name: x/y]"), "the name is not shown");
    ready();
    check_layout(&layout);
    for (int i = 0; i < used; i++) {
        char *flags_now = smaps_field(areas[i], "VmFlags");
        char *unnamed = travels() ? strstr(flags[i], "??") : NULL, *named = strstr(flags_now, "lf");  // Linux 6.1 has no name for VM_LOCKONFAULT
        if (unnamed && named) memcpy(unnamed, named, 2);
        check(strcmp(flags[i], flags_now) == 0, "VmFlags of area %d: '%s', was '%s'", i, flags_now, flags[i]);
    }
    check_filled(areas[used - 2], page, 50, "locked memory");
    check_filled(named, page, 60, "named memory");
}

WORKLOAD(memory_transparent, "transparent huge pages where they were") {
    const size_t huge = 2 << 20;
    char *place = anonymous(6 * huge, PROT_READ | PROT_WRITE, 0);
    char *area = (char *)(((uintptr_t)place + huge) & ~(huge - 1));
    if (madvise(area, 4 * huge, MADV_HUGEPAGE) == -1) return ready();  // not in this kernel
    fill(area, 2 * huge, 70);
    must(madvise(area + 2 * huge, 2 * huge, MADV_NOHUGEPAGE));
    fill(area + 3 * huge, page, 71);
    must(madvise(area + 2 * huge, 2 * huge, MADV_HUGEPAGE));
    long before = atol(smaps_field(area, "AnonHugePages"));
    ready();
    long after = atol(smaps_field(area, "AnonHugePages"));
    check(after >= before, "%ld KiB in huge pages, there were %ld", after, before);
    check_filled(area, 2 * huge, 70, "huge pages");
    check_filled(area + 3 * huge, page, 71, "a small page");
}

WORKLOAD(memory_many, "2,000 mappings, each with its own content and protection") {
    enum { count = 2000 };
    char *area = anonymous((size_t)count * 2 * page, PROT_NONE, 0);
    for (int i = 0; i < count; i++) {
        char *at = area + (size_t)i * 2 * page;
        must(mprotect(at, page, PROT_READ | PROT_WRITE));
        fill(at, page, i);
        if (i % 3 == 0) must(mprotect(at, page, PROT_READ));
    }
    static struct layout layout;
    take_layout(&layout);
    ready();
    check_layout(&layout);
    for (int i = 0; i < count; i++) check_filled(area + (size_t)i * 2 * page, page, i, "one of 2,000 mappings");
}

/// vm.nr_hugepages, set where `count` is not negative. Answers what it was.
static long huge_pages(long count) {
    char *text = slurp("/proc/sys/vm/nr_hugepages"), number[24];
    long was = atol(text);
    free(text);
    int file = count < 0 ? -1 : open("/proc/sys/vm/nr_hugepages", O_WRONLY | O_CLOEXEC);
    if (file >= 0) {
        snprintf(number, sizeof number, "%ld", count);
        if (write(file, number, strlen(number)) == -1) fprintf(stderr, "no huge pages to be had: %s\n", strerror(errno));
        close(file);
    }
    return was;
}

WORKLOAD(memory_hugetlb, "hugetlb memory, private and shared (where no huge pages can be had it says so, and checks nothing)") {
    size_t size = 4 << 20;
    long had = huge_pages(-1);
    char *private = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    char *shared = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    bool raised = private == MAP_FAILED || shared == MAP_FAILED;
    if (raised) {
        if (private != MAP_FAILED) must(munmap(private, size));
        if (shared != MAP_FAILED) must(munmap(shared, 2 << 20));
        huge_pages(had + 3);
        private = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
        if (private == MAP_FAILED) {
            huge_pages(had);
            fprintf(stderr, "no huge pages here (vm.nr_hugepages): nothing to check\n");
            ready();
            return;
        }
        shared = must((char *)mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
    }
    fill(private, size, 71);
    fill(shared, 2 << 20, 72);
    char *flags = smaps_field(private, "VmFlags");
    static struct layout layout;
    take_layout(&layout);
    ready();
    if (raised) huge_pages(had);  // these pages are given back when they are unmapped
    check_layout(&layout);
    check(strcmp(flags, smaps_field(private, "VmFlags")) == 0, "VmFlags changed");
    check_filled(private, size, 71, "huge private memory");
    check_filled(shared, 2 << 20, 72, "huge shared memory");
}

WORKLOAD(memory_large, "so much private memory that two write and read it: whole, in single pages between others that are not there, read-only") {
    size_t size = 20 << 20;
    char *whole = anonymous(size, PROT_READ | PROT_WRITE, 0), *constant = anonymous(size, PROT_READ | PROT_WRITE, 0);
    fill(whole, size, 1);
    fill(constant, size, 2);
    must(mprotect(constant, size, PROT_READ));
    enum { places = 8192 };  // every third page stays away
    char *single = anonymous((size_t)places * page, PROT_READ | PROT_WRITE, 0);
    for (int i = 0; i < places; i++) {
        if (i % 3) fill(single + (size_t)i * page, page, 100 + i);
    }
    ready();
    check_filled(whole, size, 1, "one mapping");
    check_filled(constant, size, 2, "a read-only mapping");
    static const char zeros[page];
    for (int i = 0; i < places; i++) {
        if (i % 3) check_filled(single + (size_t)i * page, page, 100 + i, "a single page");
        else check(memcmp(single + (size_t)i * page, zeros, page) == 0, "page %d is not zero", i);
    }
    fill(whole, size, 3);
    check_filled(whole, size, 3, "what is written now");
}
