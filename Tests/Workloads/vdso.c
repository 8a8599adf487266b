// Asks the vDSO for time, CPU and random bytes, through the addresses that libc took when the program began and through the symbols of the library
// in memory, in two threads and a child: the same functions answer sensibly after a restore, under whatever kernel.
#include "workload.h"
#include <elf.h>
#include <pthread.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/time.h>

typedef int clock_function(clockid_t, struct timespec *);

static clock_function *found;  // __vdso_clock_gettime, by its symbol
static struct timespec before;

static clock_function *look_up(const char *name) {
    const char *base = (const char *)getauxval(AT_SYSINFO_EHDR);
    if (!base) return NULL;
    const Elf64_Ehdr *elf = (const Elf64_Ehdr *)base;
    const Elf64_Phdr *parts = (const Elf64_Phdr *)(base + elf->e_phoff);
    const Elf64_Dyn *dynamic = NULL;
    for (int i = 0; i < elf->e_phnum; i++)
        if (parts[i].p_type == PT_DYNAMIC) dynamic = (const Elf64_Dyn *)(base + parts[i].p_offset);
    const Elf64_Sym *symbols = NULL;
    const char *strings = NULL;
    for (; dynamic && dynamic->d_tag; dynamic++) {
        if (dynamic->d_tag == DT_SYMTAB) symbols = (const Elf64_Sym *)(base + dynamic->d_un.d_ptr);
        if (dynamic->d_tag == DT_STRTAB) strings = base + dynamic->d_un.d_ptr;
    }
    if (!symbols || !strings) return NULL;
    for (const Elf64_Sym *s = symbols; (const char *)s < strings; s++)
        if (strcmp(strings + s->st_name, name) == 0) return (clock_function *)(base + s->st_value);
    return NULL;
}

static bool later(const struct timespec *a, const struct timespec *b) { return a->tv_sec > b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec >= b->tv_nsec); }

static void ask(const char *who) {
    struct timespec direct, plain, real, resolution;
    struct timeval day;
    must(clock_gettime(CLOCK_MONOTONIC, &plain));
    check(travels() || later(&plain, &before), "%s: the clock went back", who);
    if (found) {
        check(found(CLOCK_MONOTONIC, &direct) == 0 && later(&direct, &plain), "%s: the vDSO's own clock is behind", who);
        check(direct.tv_sec - plain.tv_sec < 60, "%s: the vDSO's own clock is %ld s ahead", who, (long)(direct.tv_sec - plain.tv_sec));
    }
    must(clock_gettime(CLOCK_REALTIME, &real));
    must(gettimeofday(&day, NULL));
    check(day.tv_sec >= real.tv_sec && day.tv_sec - real.tv_sec < 60, "%s: gettimeofday says %ld, clock_gettime %ld", who, (long)day.tv_sec, (long)real.tv_sec);
    check(time(NULL) >= real.tv_sec - 1, "%s: time is behind", who);
    must(clock_getres(CLOCK_MONOTONIC, &resolution));
    check(resolution.tv_sec == 0 && resolution.tv_nsec > 0, "%s: a resolution of %ld ns", who, resolution.tv_nsec);
    int cpu = must(sched_getcpu());
    check(cpu < 4096, "%s: on CPU %d", who, cpu);
    unsigned char bytes[64] = {0}, zeros[64] = {0};
    check(getrandom(bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes && memcmp(bytes, zeros, sizeof bytes) != 0, "%s: no random bytes", who);
}

static void *thread(void *nothing) {
    (void)nothing;
    ask("the thread");
    while (!may_go()) pause_ms(2);
    for (int i = 0; i < 1000; i++) ask("the thread");
    return NULL;
}
static void child(void *nothing) {
    (void)nothing;
    ask("the child");
    while (!may_go()) pause_ms(2);
    for (int i = 0; i < 1000; i++) ask("the child");
}

WORKLOAD(vdso, "time, CPU and random bytes without system calls, by old addresses") {
    found = look_up("__vdso_clock_gettime");
    must(clock_gettime(CLOCK_MONOTONIC, &before));
    ask("the program");
    pthread_t other;
    check(pthread_create(&other, NULL, thread, NULL) == 0, "pthread_create");
    pid_t pid = fork_child(child, NULL);
    pause_ms(20);
    say_ready();
    await_go();
    for (int i = 0; i < 1000; i++) ask("the program");
    pthread_join(other, NULL);
    reap(pid);
}
