#include "workload.h"
#include <sys/ptrace.h>

// The shape of a tree: who is whose child, in which group and session, and how the dead ones look.

struct place {
    pid_t pid, parent, group, session;
};

static struct place place_of_self(void) { return (struct place){getpid(), getppid(), getpgrp(), getsid(0)}; }

static void check_place(struct place was, const char *who) {
    struct place is = place_of_self();
    check(is.pid == was.pid && syscall(SYS_getpid) == was.pid, "%s: pid %d, was %d", who, is.pid, was.pid);
    check(is.parent == was.parent, "%s: parent %d, was %d", who, is.parent, was.parent);
    check(is.group == was.group, "%s: group %d, was %d", who, is.group, was.group);
    check(is.session == was.session, "%s: session %d, was %d", who, is.session, was.session);
}

static void nested(void *argument) {
    int depth = *(int *)argument;
    pid_t children[2];
    int next = depth - 1, count = depth ? 2 : 0;
    if (depth % 2) must(setpgid(0, 0));
    for (int i = 0; i < count; i++) children[i] = fork_child(nested, &next);
    struct place place = place_of_self();
    settle();
    await_go();
    check_place(place, "nested");
    settle();
    for (int i = 0; i < count; i++) reap(children[i]);
}

WORKLOAD(tree, "31 processes, four levels deep, with process groups of their own") {
    int depth = 3;
    pid_t left = fork_child(nested, &depth), right = fork_child(nested, &depth);
    struct place place = place_of_self();
    await_settled(30);
    say_ready();
    await_go();
    place.parent = getppid();  // a restored root has another parent
    check_place(place, "root");
    await_settled(60);  // nobody ends, and is missed as a parent, before all have looked
    reap(left);
    reap(right);
}

static void wait_only(void *place_now) {
    struct place place = place_of_self();
    settle();
    await_go();
    if (place_now) check_place(place, "child");
    settle();
}

static void session_leader(void *keep) {
    must(setsid());
    pid_t child = fork_child(wait_only, keep);
    if (!keep) _exit(0);  // leaves a child in a session without its leader
    struct place place = place_of_self();
    settle();
    await_go();
    check_place(place, "session leader");
    reap(child);
}

static void dead_leader_member(void *group) {
    must(setpgid(0, *(pid_t *)group));
    wait_only("");
}

static void leader_that_dies(void *unused __attribute__((unused))) {
    must(setpgid(0, 0));
    pause();
}

WORKLOAD(sessions, "sessions and groups, also those whose leader is gone; orphans under a subreaper") {
    must(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t with_leader = fork_child(session_leader, "keep");
    pid_t without_leader = fork_child(session_leader, NULL);
    reap(without_leader);  // its child is now ours
    pid_t group = fork_child(leader_that_dies, NULL);
    while (getpgid(group) != group) pause_ms(1);
    pid_t member = fork_child(dead_leader_member, &group);
    await_settled(4);
    must(kill(group, SIGKILL));
    must(waitpid(group, NULL, 0));
    pid_t orphan = 0;
    char *children = slurp("/proc/thread-self/children");
    for (char *at = strtok(children, " "); at; at = strtok(NULL, " "))
        if (atoi(at) != with_leader && atoi(at) != member) orphan = atoi(at);
    check(orphan, "no orphan came to the subreaper");
    check_equal(must(getsid(orphan)), without_leader, "session of the orphan");
    ready();
    int reaper = 0;
    must(prctl(PR_GET_CHILD_SUBREAPER, &reaper));
    check_equal(reaper, 1, "child_subreaper");
    check_equal(must(getsid(orphan)), without_leader, "session without leader");
    check_equal(must(getpgid(orphan)), without_leader, "group without leader");
    check_equal(must(getpgid(member)), group, "group whose leader is gone");
    await_settled(7);
    reap(orphan);
    reap(with_leader);
    reap(member);
    check(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "there is another child");
}

// Processes that are in the session of a task which is not their parent. Each has in `own_page` what the root had there at the fork, unless it wrote.
static char *own_page;
static pid_t tree_root;

static void stray(void *parent_will_be_root) {
    while (parent_will_be_root && getppid() != tree_root) pause_ms(1);
    struct place place = place_of_self();
    settle();
    await_go();
    check_place(place, "stray");
    check_filled(own_page, 1 << 14, 1, "a stray's memory");
    settle();
}

static void leaves_a_child(void *unused __attribute__((unused))) { fork_child(stray, ""); }

static void leads_with_stray(void *unused __attribute__((unused))) {
    must(setsid());
    reap(fork_child(leaves_a_child, NULL));
    fill(own_page, 1 << 14, 2);
    struct place place = place_of_self();
    settle();
    await_go();
    check_place(place, "leader with a stray");
    check_filled(own_page, 1 << 14, 2, "a leader's memory");
    settle();
}

static void leads_leader(void *unused __attribute__((unused))) {
    must(setsid());
    pid_t child = fork_child(leads_with_stray, NULL);
    fill(own_page, 1 << 14, 3);
    settle();
    await_go();
    check_filled(own_page, 1 << 14, 3, "memory of a leader's leader");
    reap(child);
}

static void leaves_session_after_child(void *unused __attribute__((unused))) {
    pid_t child = fork_child(stray, NULL);
    must(setsid());
    while (getppid() != tree_root) pause_ms(1);
    settle();
    await_go();
    reap(child);
}

static void dead_leader_of_two(void *unused __attribute__((unused))) {
    must(setsid());
    fork_child(stray, "");
    fork_child(leaves_session_after_child, NULL);
}

static void zombie_with_stray(void *unused __attribute__((unused))) {
    must(setsid());
    fork_child(stray, "");
}

WORKLOAD(strays, "processes in sessions of tasks that are not their parents: left by a job, by a dead leader in two places, by a zombie") {
    must(prctl(PR_SET_CHILD_SUBREAPER, 1));
    tree_root = getpid();
    own_page = must((char *)mmap(NULL, 1 << 14, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    fill(own_page, 1 << 14, 1);
    fork_child(leads_leader, NULL);
    fork_child(leads_with_stray, NULL);
    reap(fork_child(dead_leader_of_two, NULL));
    pid_t zombie = fork_child(zombie_with_stray, NULL);
    must(waitid(P_PID, zombie, NULL, WEXITED | WNOWAIT));
    await_settled(9);
    ready();
    await_settled(16);
    for (int ended = 0, status; ended < 8; ended++) {
        pid_t child = must(wait(&status));
        check(status == 0, "child %d ended with status %#x", child, status);
    }
    check(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "there is another child");
}

static void exit_with(void *status) { _exit(*(int *)status); }

static void die_of(void *signal_number) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    signal(*(int *)signal_number, SIG_DFL);
    raise(*(int *)signal_number);
}

static void zombie_parent(void *unused __attribute__((unused))) {
    int status = 3;
    pid_t zombie = fork_child(exit_with, &status);
    must(waitid(P_PID, zombie, NULL, WEXITED | WNOWAIT));
    settle();
    await_go();
    check_equal(must(waitpid(zombie, &status, WNOHANG)), zombie, "zombie of a child");
    check_equal(status, 3 << 8, "status of a child's zombie");
}

static int child_signals;
static void count_child(int number __attribute__((unused))) { child_signals++; }

WORKLOAD(zombies, "zombies: by exit, by signals, in another process group; no SIGCHLD comes twice") {
    int codes[] = {0, 1, 77, 255}, signals[] = {SIGKILL, SIGTERM, SIGSEGV, SIGHUP};
    pid_t exited[4], killed[4];
    for (int i = 0; i < 4; i++) exited[i] = fork_child(exit_with, &codes[i]);
    for (int i = 0; i < 4; i++) killed[i] = fork_child(die_of, &signals[i]);
    pid_t grouped = must(fork());
    if (!grouped) {
        must(setsid());
        _exit(9);
    }
    for (int i = 0; i < 4; i++) {
        must(waitid(P_PID, exited[i], NULL, WEXITED | WNOWAIT));
        must(waitid(P_PID, killed[i], NULL, WEXITED | WNOWAIT));
    }
    must(waitid(P_PID, grouped, NULL, WEXITED | WNOWAIT));
    pid_t parent = fork_child(zombie_parent, NULL);
    await_settled(1);
    struct sigaction action = {.sa_handler = count_child, .sa_flags = SA_RESTART};
    must(sigaction(SIGCHLD, &action, NULL));
    ready();
    if (!may_go()) fail("woken too early");
    int status;
    reap(parent);
    check(child_signals <= 1, "%d SIGCHLD for one child that ended", child_signals);
    for (int i = 0; i < 4; i++) {
        check_equal(waitpid(exited[i], &status, WNOHANG), exited[i], "zombie by exit");
        check_equal(status, codes[i] << 8, "status of a zombie by exit");
        check_equal(waitpid(killed[i], &status, WNOHANG), killed[i], "zombie by signal");
        check_equal(status & 0x7f, signals[i], "status of a zombie by signal");
    }
    check_equal(must(getpgid(grouped)), grouped, "group of a zombie");
    check_equal(waitpid(grouped, &status, WNOHANG), grouped, "zombie in a session of its own");
    check_equal(status, 9 << 8, "its status");
}

WORKLOAD(stopped, "a child stopped by SIGSTOP, reported to its parent and not; it can be continued") {
    pid_t seen = fork_child(wait_only, ""), unseen = fork_child(wait_only, "");
    await_settled(2);
    int status;
    must(kill(seen, SIGSTOP));
    must(kill(unseen, SIGSTOP));
    check_equal(must(waitpid(seen, &status, WUNTRACED)), seen, "stopped child");
    must(waitid(P_PID, unseen, NULL, WSTOPPED | WNOWAIT));
    ready();
    for (int i = 0; i < 20; i++) {  // they must not look at the go file
        pause_ms(5);
        char *state = status_field(seen, "State"), *other = status_field(unseen, "State");
        check(*state == 'T', "the stopped child is in state %s", state);
        check(*other == 'T', "the other stopped child is in state %s", other);
        free(state), free(other);
    }
    must(kill(seen, SIGCONT));
    must(kill(unseen, SIGCONT));
    reap(seen);
    reap(unseen);
}

enum { leader_status = 7, last_status = 3, left_behind = 2 };
static int left_file;
static char *left_memory;

// Nothing of what they have is the leader's to show any more: it is dead.
static void *thread_left_behind(void *argument) {
    pid_t process = getpid();
    settle();
    await_go();
    char *state = status_field(process, "State"), name[16] = {0};
    int comm = must(open("/proc/self/comm", O_RDONLY | O_CLOEXEC));
    must(read(comm, name, sizeof name - 1));
    must(close(comm));
    check(*state == 'Z', "the first thread is in state %s", state);
    check(strcmp(name, "gone leader\n") == 0, "the first thread is called %s", name);
    free(state);
    check_equal(getpid(), process, "process id");
    check_filled(left_memory, 1 << 16, 5, "memory");
    char text[5] = {0};
    must(pread(left_file, text, 4, 0));
    check(strcmp(text, "file") == 0, "the file has '%s'", text);
    check_equal((long)must(lseek(left_file, 0, SEEK_CUR)), 4, "file position");
    pause_ms((intptr_t)argument * 20);
    syscall(SYS_exit, last_status);  // the thread alone: the last one gives the process its status (kernel/exit.c, do_exit)
    return NULL;
}

static void leader_that_ends(void *unused __attribute__((unused))) {
    left_memory = must((char *)mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    fill(left_memory, 1 << 16, 5);
    left_file = must(open("left", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    must(write(left_file, "file", 4));
    must(prctl(PR_SET_NAME, "gone leader"));
    pthread_t threads[left_behind];
    for (intptr_t i = 0; i < left_behind; i++) must0(pthread_create(&threads[i], NULL, thread_left_behind, (void *)i));
    syscall(SYS_exit, leader_status);
}

WORKLOAD(zombie_leader, "a process whose first thread has ended while others live") {
    pid_t child = fork_child(leader_that_ends, NULL);
    await_settled(left_behind);
    for (char *state;; free(state)) {
        if (*(state = status_field(child, "State")) == 'Z') break;
        pause_ms(1);
    }
    ready();
    int status = 0;
    check_equal(must(waitpid(child, &status, 0)), child, "the child");
    check_equal(status, last_status << 8, "status of the last thread");
}

struct thread {
    pthread_t id;
    pid_t tid;
    char name[16];
    int number;
    sigset_t mask;
};

static void *named_thread(void *argument) {
    struct thread *self = argument;
    self->tid = syscall(SYS_gettid);
    snprintf(self->name, sizeof self->name, "worker %d/é", self->number);
    must(prctl(PR_SET_NAME, self->name));
    sigemptyset(&self->mask);
    sigaddset(&self->mask, SIGRTMIN + self->number % 16);
    must0(pthread_sigmask(SIG_SETMASK, &self->mask, NULL));
    static __thread int local;
    local = self->number * 7;
    settle();
    await_go();
    check_equal(syscall(SYS_gettid), self->tid, "tid");
    char name[16];
    must(prctl(PR_GET_NAME, name));
    check(strcmp(name, self->name) == 0, "thread's name is '%s', was '%s'", name, self->name);
    sigset_t mask;
    must0(pthread_sigmask(SIG_BLOCK, NULL, &mask));
    for (int i = 1; i < 64; i++)
        check_equal(sigismember(&mask, i), sigismember(&self->mask, i), "blocked signal of a thread");
    check_equal(local, self->number * 7, "thread-local variable");
    return self;
}

static void join_all_threads(int count) {
    struct thread *threads = calloc(count, sizeof *threads);
    pthread_attr_t attributes;
    must0(pthread_attr_init(&attributes));
    must0(pthread_attr_setstacksize(&attributes, 1 << 16));
    for (int i = 0; i < count; i++) {
        threads[i].number = i;
        must0(pthread_create(&threads[i].id, &attributes, named_thread, &threads[i]));
    }
    await_settled(count);
    must(prctl(PR_SET_NAME, "the (leader) x"));
    static struct layout layout;
    take_layout(&layout);
    ready();
    check_layout(&layout);
    char name[16];
    must(prctl(PR_GET_NAME, name));
    check(strcmp(name, "the (leader) x") == 0, "leader's name is '%s'", name);
    for (int i = 0; i < count; i++) {
        void *result;
        must0(pthread_join(threads[i].id, &result));  // woken through the child-tid address (set_tid_address)
        check(result == &threads[i], "a thread returns the wrong thing");
    }
}

WORKLOAD(threads, "24 threads with ids, names, masks, thread-local variables; they can be joined") { join_all_threads(argc > 1 ? atoi(argv[1]) : 24); }

WORKLOAD(tree_20, "20 processes that count, for the safety tests") {
    pid_t children[19];
    for (int i = 0; i < 19; i++) children[i] = fork_child(wait_only, "");
    await_settled(19);
    ready();
    await_settled(38);
    for (int i = 0; i < 19; i++) reap(children[i]);
}
