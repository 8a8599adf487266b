#include "workload.h"
#include <dirent.h>
#include <sys/auxv.h>
#include <stdatomic.h>

// --- the protocol

static char paths[3][PATH_MAX];  // READY, GO, RESULT; empty: unset

__attribute__((constructor)) static void read_environment(void) {
    const char *names[] = {"WORKLOAD_READY", "WORKLOAD_GO", "WORKLOAD_RESULT"};
    for (int i = 0; i < 3; i++)
        if (getenv(names[i])) snprintf(paths[i], PATH_MAX, "%s", getenv(names[i]));
}

void strip_control_paths(const char *prefix) {
    size_t length = strlen(prefix);
    for (int i = 0; i < 3; i++)
        if (strncmp(paths[i], prefix, length) == 0) memmove(paths[i], paths[i] + length, strlen(paths[i] + length) + 1);
}

/// Creates `path` with `text` in one step; whoever comes first wins.
static void publish(const char *path, const char *text) {
    char temporary[PATH_MAX + 32];
    snprintf(temporary, sizeof temporary, "%s.%d.%ld", path, getpid(), syscall(SYS_gettid));
    int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) return;
    if (write(file, text, strlen(text)) < 0) perror(temporary);
    close(file);
    link(temporary, path);
    unlink(temporary);
}

void say_ready(void) {
    if (paths[0][0]) publish(paths[0], "ready\n");
}

bool may_go(void) { return !paths[1][0] || access(paths[1], F_OK) == 0; }

void await_go(void) {
    while (!may_go()) pause_ms(10);
}

bool travels(void) { return getenv("WORKLOAD_MODE") && strcmp(getenv("WORKLOAD_MODE"), "journey") == 0; }

void ready(void) {
    say_ready();
    await_go();
}

void fail_at(const char *file, int line, const char *format, ...) {
    char reason[4096];
    int length = snprintf(reason, sizeof reason, "FAIL: %s:%d: ", file, line);
    va_list arguments;
    va_start(arguments, format);
    length += vsnprintf(reason + length, sizeof reason - length - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof reason - 2) length = sizeof reason - 2;
    strcpy(reason + length, "\n");
    if (write(STDERR_FILENO, reason, length + 1) < 0) {}
    if (paths[2][0]) publish(paths[2], reason);
    _exit(1);
}

// --- the table

static struct workload *all;

void register_workload(struct workload *workload) {
    struct workload **place = &all;  // in order of name
    while (*place && strcmp((*place)->name, workload->name) < 0) place = &(*place)->next;
    workload->next = *place;
    *place = workload;
}

static atomic_int *settled;

static bool has_name(const struct workload *workload, const char *name) {
    const char *own = workload->name;
    for (; *own && *name; own++, name++)
        if (*own != *name && !(*own == '_' && *name == '-')) return false;
    return *own == *name;
}

int run_workload(const char *name, int argc, char **argv) {
    for (struct workload *workload = all; workload; workload = workload->next) {
        if (!has_name(workload, name)) continue;
        settled = must(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
        workload->run(argc, argv);
        if (paths[2][0]) publish(paths[2], "ok\n");
        fflush(NULL);
        _exit(0);
    }
    fprintf(stderr, "no workload '%s'; see workload --list\n", name);
    return 2;
}

void list_workloads(void) {
    for (struct workload *workload = all; workload; workload = workload->next) {
        if (workload->untreated) continue;
        for (const char *c = workload->name; *c; c++) putchar(*c == '_' ? '-' : *c);
        printf("\t%s\t%s\t%s\t%s\n", workload->dump ?: "", workload->restore ?: "", workload->slow ? "slow" : "",
               workload->about);
    }
}

// --- children

pid_t fork_child(void (*body)(void *), void *argument) {
    pid_t child = must(fork());
    if (child) return child;
    body(argument);
    _exit(0);
}

void reap(pid_t child) {
    int status;
    pid_t got;
    while ((got = waitpid(child, &status, 0)) < 0 && errno == EINTR) {}
    check(got == child, "waitpid %d: %s", child, strerror(errno));
    check(status == 0, "child %d ended with status %#x", child, status);
}

void settle(void) { atomic_fetch_add(settled, 1); }

void await_settled(int count) {
    while (atomic_load(settled) < count) pause_ms(1);
}

void await_asleep(pid_t tid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", tid);
    for (int times = 0, patience = 0; times < 3; patience++) {
        check(patience < 5000, "task %d does not fall asleep", tid);
        char *stat = slurp(path);
        char state = strrchr(stat, ')')[2];
        free(stat);
        times = state == 'S' || state == 'D' ? times + 1 : 0;
        pause_ms(2);
    }
}

// --- things to compare

char *slurp(const char *path) {
    int file = must(open(path, O_RDONLY | O_CLOEXEC));
    size_t room = 4096, length = 0;
    char *text = malloc(room);
    ssize_t got;
    while ((got = must(read(file, text + length, room - length - 1))) > 0)
        if ((length += got) + 1 == room) text = realloc(text, room *= 2);
    text[length] = 0;
    close(file);
    return text;
}

char *status_field(pid_t task, const char *field) {
    char path[64], needle[64];
    snprintf(path, sizeof path, "/proc/%d/status", task);
    snprintf(needle, sizeof needle, "\n%s:\t", field);
    char *text = slurp(path), *found = strstr(text, needle);
    check(found, "no %s in %s", field, path);
    found += strlen(needle);
    *strchrnul(found, '\n') = 0;
    memmove(text, found, strlen(found) + 1);
    return text;
}

struct line {
    unsigned long start, end, offset;
    char perms[8];
    const char *name;
};

static bool joins(const struct line *a, const struct line *b) {
    if (a->end != b->start || strcmp(a->perms, b->perms) || strcmp(a->name, b->name)) return false;
    return a->name[0] != '/' || a->offset + (a->end - a->start) == b->offset;
}

void take_layout(struct layout *layout) {
    static char text[1 << 19];  // static: reading the maps must not change them
    int file = must(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
    size_t length = 0;
    ssize_t got;
    while ((got = must(read(file, text + length, sizeof text - 1 - length))) > 0) length += got;
    close(file);
    text[length] = 0;
    char *out = layout->text, *end = out + sizeof layout->text;
    struct line previous = {0};
    bool some = false;
    for (char *at = text; *at;) {
        char *next = strchrnul(at, '\n');
        if (*next) *next++ = 0;
        struct line line = {0};
        int name = 0;
        check(sscanf(at, "%lx-%lx %7s %lx %*s %*s %n", &line.start, &line.end, line.perms, &line.offset, &name) == 4,
              "maps: %s", at);
        line.name = at + name;
        at = next;
        if (strncmp(line.name, "[vvar", 5) == 0) continue;
        // Another kernel's stands beside the one that the program knows.
        if (travels() && (strcmp(line.name, "[vdso]") == 0 || strcmp(line.name, "[vsyscall]") == 0 || line.start == getauxval(AT_SYSINFO_EHDR))) continue;
        if (strcmp(line.name, "[heap]") == 0) {
            line.end = 0;
            if (some && strcmp(previous.name, "[heap]") == 0) continue;
        }
        if (strcmp(line.name, "[stack]") == 0) line.start = 0;
        if (line.name[0] != '/') line.offset = 0;
        if (some && joins(&previous, &line)) {
            previous.end = line.end;
            continue;
        }
        if (some)
            out += snprintf(out, end - out, "%lx-%lx %s %lx %s\n", previous.start, previous.end, previous.perms,
                            previous.offset, previous.name);
        previous = line;
        some = true;
    }
    snprintf(out, end - out, "%lx-%lx %s %lx %s\n", previous.start, previous.end, previous.perms, previous.offset,
             previous.name);
}

void check_layout(const struct layout *before) {
    static struct layout after;
    take_layout(&after);
    const char *a = before->text, *b = after.text;
    while (*a && *b) {
        size_t la = strcspn(a, "\n"), lb = strcspn(b, "\n");
        check(la == lb && memcmp(a, b, la) == 0, "maps: now '%.*s', was '%.*s'", (int)lb, b, (int)la, a);
        a += la + (a[la] != 0);
        b += lb + (b[lb] != 0);
    }
    check(!*a, "maps: gone: '%.*s'", (int)strcspn(a, "\n"), a);
    check(!*b, "maps: new: '%.*s'", (int)strcspn(b, "\n"), b);
}

char *descriptor_table(void) {
    char *text = malloc(1 << 16), *out = text, *end = text + (1 << 16);
    *text = 0;
    struct rlimit limit;
    must(getrlimit(RLIMIT_NOFILE, &limit));
    for (int fd = 0; fd < 4096 && fd < (int)limit.rlim_cur; fd++) {
        int flags = fcntl(fd, F_GETFL), cloexec = fcntl(fd, F_GETFD);
        if (flags < 0) continue;
        char path[64], target[PATH_MAX];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = must(readlink(path, target, sizeof target - 1));
        target[length] = 0;
        // Numbers in "pipe:[12]" and the like name an inode that a restore makes anew.
        char *bracket = strchr(target, '[');
        if (bracket && target[0] != '/' && strncmp(target, "anon_inode", 10)) *bracket = 0;
        out += snprintf(out, end - out, "%d %s pos %ld flags %o %s\n", fd, target, (long)lseek(fd, 0, SEEK_CUR), flags,
                        cloexec & FD_CLOEXEC ? "cloexec" : "");
    }
    return text;
}

static uint64_t mixed(uint64_t x) {  // splitmix64
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

void fill(void *memory, size_t size, uint64_t seed) {
    unsigned char *bytes = memory;
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = mixed(seed * 0x10001 + at);
        memcpy(bytes + at, &word, size - at < 8 ? size - at : 8);
    }
}

ssize_t differs(const void *memory, size_t size, uint64_t seed) {
    const unsigned char *bytes = memory;
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = mixed(seed * 0x10001 + at);
        if (memcmp(bytes + at, &word, size - at < 8 ? size - at : 8)) return at;
    }
    return -1;
}

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

void pause_ms(int milliseconds) { usleep(milliseconds * 1000); }
