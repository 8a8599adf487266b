#include "workload.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/personality.h>

static struct __user_cap_data_struct capabilities[2];

static void take_capabilities(struct __user_cap_data_struct *data) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    must(syscall(SYS_capget, &header, data));
}

static void check_ids(const uid_t *uids, const gid_t *gids) {
    uid_t u[3];
    gid_t g[3];
    must(getresuid(&u[0], &u[1], &u[2]));
    must(getresgid(&g[0], &g[1], &g[2]));
    for (int i = 0; i < 3; i++) {
        check_equal(u[i], uids[i], "uid");
        check_equal(g[i], gids[i], "gid");
    }
}

static char *credential_lines(void) {
    static const char *fields[] = {"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"};
    char *all = calloc(1, 4096);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        char *value = status_field(syscall(SYS_gettid), fields[i]);
        strcat(strcat(strcat(strcat(all, fields[i]), " "), value), "\n");
        free(value);
    }
    return all;
}

static void *thread_with_own_ids(void *unused __attribute__((unused))) {
    must(syscall(SYS_setresgid, 501, 502, 503));
    must(syscall(SYS_setresuid, 601, 602, 0));
    char *before = credential_lines();
    settle();
    await_go();
    char *after = credential_lines();
    check(strcmp(before, after) == 0, "a thread's credentials: now\n%swere\n%s", after, before);
    return NULL;
}

WORKLOAD(credentials_threads, "threads of one process with different ids and capabilities") {
    pthread_t thread;
    must0(pthread_create(&thread, NULL, thread_with_own_ids, NULL));
    await_settled(1);
    char *before = credential_lines();
    ready();
    char *after = credential_lines();
    check(strcmp(before, after) == 0, "the leader's credentials: now\n%swere\n%s", after, before);
    must0(pthread_join(thread, NULL));
}

WORKLOAD(credentials, "uids, gids, groups, kept capabilities, bounding set, ambient, securebits, no_new_privs, not dumpable") {
    gid_t groups[] = {5, 1000, 70000}, gids[] = {100, 101, 102};
    uid_t uids[] = {65534, 1001, 65534};
    must(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE));
    must(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED));
    must(setgroups(3, groups));
    must(setresgid(gids[0], gids[1], gids[2]));
    must(setresuid(uids[0], uids[1], uids[2]));
    take_capabilities(capabilities);
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    capabilities[0].effective = 1u << CAP_NET_RAW | 1u << CAP_CHOWN;
    capabilities[0].permitted = 1u << CAP_NET_RAW | 1u << CAP_CHOWN | 1u << CAP_KILL;
    capabilities[0].inheritable = 1u << CAP_NET_RAW;
    capabilities[1] = (struct __user_cap_data_struct){0, 0, 0};
    must(syscall(SYS_capset, &header, capabilities));
    must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0));
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    must(prctl(PR_SET_DUMPABLE, 0));
    char *before = credential_lines();
    int securebits = must(prctl(PR_GET_SECUREBITS));
    ready();
    must(prctl(PR_GET_DUMPABLE) == 0 ? 0 : -1);
    must(prctl(PR_SET_DUMPABLE, 1));  // /proc/self belongs to root otherwise
    char *after = credential_lines();
    check(strcmp(before, after) == 0, "credentials: now\n%swere\n%s", after, before);
    check_ids(uids, gids);
    check_equal(must(prctl(PR_GET_SECUREBITS)), securebits, "securebits");
}

WORKLOAD(credentials_root, "root with the full set stays so; the fsuid of a file server") {
    must(setfsuid(1234));
    must(setfsgid(1235));
    char *before = credential_lines();
    ready();
    char *after = credential_lines();
    check(strcmp(before, after) == 0, "credentials: now\n%swere\n%s", after, before);
    check_equal(setfsuid(-1), 1234, "fsuid");
}

WORKLOAD(limits, "all resource limits, also an RLIMIT_NOFILE below descriptors in use") {
    struct rlimit wanted[RLIM_NLIMITS], is;
    int high = must(fcntl(must(open("/dev/null", O_RDONLY)), F_DUPFD, 500));
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        must(getrlimit(i, &wanted[i]));
        if (i == RLIMIT_NOFILE) wanted[i] = (struct rlimit){12, 700};
        else if (i == RLIMIT_CORE) wanted[i] = (struct rlimit){0, wanted[i].rlim_max};
        else if (i == RLIMIT_STACK) wanted[i].rlim_cur = 5 << 20;
        else if (i == RLIMIT_MSGQUEUE) wanted[i].rlim_cur -= 1;
        else if (i == RLIMIT_SIGPENDING) wanted[i] = (struct rlimit){1000, 2000};
        else if (i == RLIMIT_CPU) wanted[i].rlim_cur = 5000;
        must(setrlimit(i, &wanted[i]));
    }
    ready();
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        must(getrlimit(i, &is));
        check(is.rlim_cur == wanted[i].rlim_cur && is.rlim_max == wanted[i].rlim_max,
              "limit %d is %ld/%ld, was %ld/%ld", i, (long)is.rlim_cur, (long)is.rlim_max, (long)wanted[i].rlim_cur,
              (long)wanted[i].rlim_max);
    }
    check(fcntl(high, F_GETFD) == 0, "the descriptor above the limit is gone");
    check(fcntl(0, F_DUPFD, 12) == -1, "RLIMIT_NOFILE does not bind");
}

static void *scheduled_thread(void *unused __attribute__((unused))) {
    struct sched_param parameter = {0};
    must(syscall(SYS_sched_setscheduler, 0, SCHED_BATCH, &parameter));
    must(setpriority(PRIO_PROCESS, syscall(SYS_gettid), 7));
    must(prctl(PR_SET_TIMERSLACK, 123456));
    settle();
    await_go();
    check_equal(must(syscall(SYS_sched_getscheduler, 0)), SCHED_BATCH, "policy of a thread");
    check_equal(getpriority(PRIO_PROCESS, syscall(SYS_gettid)), 7, "nice value of a thread");
    check_equal(prctl(PR_GET_TIMERSLACK), 123456, "timer slack of a thread");
    return NULL;
}

static void realtime_child(void *unused __attribute__((unused))) {
    struct sched_param parameter = {.sched_priority = 3};
    bool allowed = sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &parameter) == 0;
    settle();
    await_go();
    if (!allowed) return;
    check_equal(must(sched_getscheduler(0)), SCHED_RR | SCHED_RESET_ON_FORK, "policy of a child");
    must(sched_getparam(0, &parameter));
    check_equal(parameter.sched_priority, 3, "priority of a child");
}

WORKLOAD(scheduling, "policy, nice value, affinity, timer slack, per thread; oom_score_adj") {
    pthread_t thread;
    must0(pthread_create(&thread, NULL, scheduled_thread, NULL));
    pid_t child = fork_child(realtime_child, NULL);
    await_settled(2);
    must(setpriority(PRIO_PROCESS, getpid(), 3));
    must(prctl(PR_SET_TIMERSLACK, 77777));
    int file = must(open("/proc/self/oom_score_adj", O_WRONLY));
    must(write(file, "321", 3));
    close(file);
    cpu_set_t one, is;
    must(sched_getaffinity(0, sizeof one, &one));
    for (int cpu = 0, found = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &one) && found++) CPU_CLR(cpu, &one);
    must(sched_setaffinity(0, sizeof one, &one));
    ready();
    check_equal(getpriority(PRIO_PROCESS, 0), 3, "nice value");
    check_equal(prctl(PR_GET_TIMERSLACK), 77777, "timer slack");
    check(strcmp(slurp("/proc/self/oom_score_adj"), "321\n") == 0, "oom_score_adj is %s", slurp("/proc/self/oom_score_adj"));
    must(sched_getaffinity(0, sizeof is, &is));
    // Affinity itself is a policy that CRIU leaves alone: what must hold is that the task may run where it did.
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        check(!CPU_ISSET(cpu, &one) || CPU_ISSET(cpu, &is), "cpu %d is not allowed any more", cpu);
    must0(pthread_join(thread, NULL));
    reap(child);
}

/// Where code, data, stack, heap, arguments and environment are (proc_pid_stat(5), fields 26 to 28 and 45 to 51), and the program.
static char *memory_fields(void) {
    char *stat = slurp("/proc/self/stat"), *at = strrchr(stat, ')') + 2, *all = calloc(1, PATH_MAX + 512), program[PATH_MAX] = {0};
    int field = 3;
    for (char *word = strtok(at, " "); word; word = strtok(NULL, " "), field++)
        if ((field >= 26 && field <= 28) || (field >= 45 && field <= 51)) strcat(strcat(all, word), " ");
    must(readlink("/proc/self/exe", program, sizeof program - 1));
    free(stat);
    return strcat(all, program);
}

WORKLOAD(task_attributes, "comm, personality, umask, keepcaps, THP disabled, MDWE off, dumpable, child subreaper, login uid, cmdline, environment, program, places in memory") {
    must(prctl(PR_SET_NAME, "odd ) (name"));
    must(personality(PER_LINUX | ADDR_NO_RANDOMIZE));
    umask(0137);
    must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    must(prctl(PR_SET_CHILD_SUBREAPER, 1));
    int login = open("/proc/self/loginuid", O_WRONLY | O_CLOEXEC);
    if (login >= 0) {
        if (write(login, "4242", 4) == -1) fprintf(stderr, "no login uid may be set here: it is only compared\n");
        close(login);
    }
    char *login_before = login >= 0 ? slurp("/proc/self/loginuid") : "";
    char *command = slurp("/proc/self/cmdline"), *environment = slurp("/proc/self/environ"), *auxiliary = slurp("/proc/self/auxv");
    char name[16], *places = memory_fields();
    ready();
    check(strcmp(places, memory_fields()) == 0, "places in memory are %s, were %s", memory_fields(), places);
    must(prctl(PR_GET_NAME, name));
    check(strcmp(name, "odd ) (name") == 0, "comm is '%s'", name);
    check_equal(personality(0xffffffff), PER_LINUX | ADDR_NO_RANDOMIZE, "personality");
    check_equal(umask(0), 0137, "umask");
    check_equal(must(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)), 1, "THP disable");
    check_equal(prctl(PR_GET_DUMPABLE), 1, "dumpable");
    if (login >= 0) check(strcmp(login_before, slurp("/proc/self/loginuid")) == 0, "login uid is %s, was %s", slurp("/proc/self/loginuid"), login_before);
    check(strcmp(command, slurp("/proc/self/cmdline")) == 0, "cmdline changed");
    check(strcmp(environment, slurp("/proc/self/environ")) == 0, "environ changed");
    check(memcmp(auxiliary, slurp("/proc/self/auxv"), 64) == 0, "auxv changed");
}

static void mdwe_child(void *unused __attribute__((unused))) {
    bool known = prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0) == 0;
    settle();
    await_go();
    check_equal(prctl(66 /* PR_GET_MDWE */, 0, 0, 0, 0), known ? 1 : travels() ? 0 : -1, "memory-deny-write-execute");
}

WORKLOAD(mdwe, "memory-deny-write-execute of a child") {
    pid_t child = fork_child(mdwe_child, NULL);
    await_settled(1);
    ready();
    reap(child);
}

static void chroot_child(void *directory) {
    char prefix[PATH_MAX];
    check(getcwd(prefix, sizeof prefix), "getcwd");
    char *slash = strrchr(prefix, '/');  // the control files lie beside the working directory
    *slash = 0;
    must(mkdir("../root", 0755) == -1 && errno != EEXIST ? -1 : 0);
    must(chroot(prefix));
    must(chdir(directory));
    strip_control_paths(prefix);
    settle();
    await_go();
    char cwd[PATH_MAX];
    check(getcwd(cwd, sizeof cwd) && strcmp(cwd, directory) == 0, "cwd below the root is %s", cwd);
    check(access("/etc/passwd", F_OK) == -1, "the root is the machine's again");
}

WORKLOAD(root_and_cwd, "chroot of a child, working directories") {
    must(mkdir("deep", 0700));
    pid_t child = fork_child(chroot_child, "/root");
    await_settled(1);
    must(chdir("deep"));
    char before[PATH_MAX], after[PATH_MAX];
    check(getcwd(before, sizeof before), "getcwd");
    ready();
    check(getcwd(after, sizeof after), "getcwd: %s", strerror(errno));
    check(strcmp(before, after) == 0, "cwd is %s, was %s", after, before);
    reap(child);
}

WORKLOAD(deleted_cwd, "a working directory that has been deleted") {
    must(mkdir("doomed", 0700));
    must(chdir("doomed"));
    must(rmdir("../doomed"));
    ready();
    char path[PATH_MAX];
    check(!getcwd(path, sizeof path) && errno == ENOENT, "the deleted working directory is %s again", path);
    struct stat status;
    must(stat(".", &status));
    check(S_ISDIR(status.st_mode), "not a directory");
}
