#include "workload.h"
#include <dirent.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <linux/kcmp.h>

static int make(const char *name, const char *text, int flags) {
    int file = must(open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    must(write(file, text, strlen(text)));
    close(file);
    return must(open(name, flags));
}

static void check_same_file(int fd, const char *path) {
    struct stat a, b;
    must(fstat(fd, &a));
    must(stat(path, &b));
    check(a.st_dev == b.st_dev && a.st_ino == b.st_ino, "descriptor %d is not of %s", fd, path);
}

static bool same_open_file(int a, int b) {
    return must(syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b)) == 0;
}

WORKLOAD(files, "regular files: position, flags, append, O_PATH, directories part read, dup, owner and signal, devices, holes in the table") {
    int plain = make("plain", "0123456789", O_RDWR);
    must(lseek(plain, 4, SEEK_SET));
    int duplicate = must(dup(plain)), far = must(fcntl(plain, F_DUPFD_CLOEXEC, 200));
    int again = must(open("plain", O_RDONLY | O_NOATIME));
    must(lseek(again, 1L << 40, SEEK_SET));
    int append = make("append", "abc", O_WRONLY | O_APPEND | O_DSYNC);
    int path_only = must(open("plain", O_PATH | O_CLOEXEC)), directory = must(open(".", O_RDONLY | O_DIRECTORY));
    int directory_path = must(open("/", O_PATH | O_DIRECTORY)), link;
    must(symlink("plain", "symlink"));
    link = must(open("symlink", O_PATH | O_NOFOLLOW));
    int exclusive = must(open("made", O_RDWR | O_CREAT | O_EXCL | O_TRUNC, 0600));
    must(write(exclusive, "kept", 4));
    make("many-1", "", O_RDONLY), make("many-2", "", O_RDONLY);
    int listed = must(open("/dev", O_RDONLY | O_DIRECTORY));
    char entries[512];
    must(syscall(SYS_getdents64, listed, entries, sizeof entries));
    int devices[] = {must(open("/dev/null", O_RDWR)), must(open("/dev/zero", O_RDONLY)), must(open("/dev/urandom", O_RDONLY)),
                     must(open("/dev/full", O_WRONLY | O_NONBLOCK)), must(open("/dev/random", O_RDONLY))};
    signal(SIGRTMIN + 5, SIG_IGN);
    int owned = must(open("plain", O_RDWR));
    must(fcntl(owned, F_SETSIG, SIGRTMIN + 5));
    must(fcntl(owned, F_SETOWN, getpid()));
    int grouped = must(open("plain", O_RDWR));
    must(fcntl(grouped, F_SETOWN, -getpgrp()));
    mkfifo("fifo", 0600);
    int high = must(fcntl(plain, F_DUPFD, 1000));

    char *table = descriptor_table();
    ready();
    char *table_now = descriptor_table();
    check(strcmp(table, table_now) == 0, "descriptors: now\n%swere\n%s", table_now, table);
    check(same_open_file(plain, duplicate) && same_open_file(plain, far) && same_open_file(plain, high), "dup is no longer shared");
    check(!same_open_file(plain, again) && !same_open_file(plain, owned), "two open files have become one");
    char text[32] = {0};
    check_equal(must(read(duplicate, text, 3)), 3, "bytes read");
    check(strcmp(text, "456") == 0, "read '%s' at position 4", text);
    check_equal(must(lseek(far, 0, SEEK_CUR)), 7, "shared position");
    check_same_file(plain, "plain"), check_same_file(path_only, "plain"), check_same_file(directory, ".");
    check_same_file(directory_path, "/"), check_same_file(exclusive, "made"), check_same_file(listed, "/dev");
    struct stat status;
    must(fstat(link, &status));
    check(S_ISLNK(status.st_mode), "the O_PATH descriptor of a symbolic link is now of mode %o", status.st_mode);
    must(write(append, "def", 3));
    check(strcmp(slurp("append"), "abcdef") == 0, "append wrote '%s'", slurp("append"));
    check(strcmp(slurp("made"), "kept") == 0, "the file opened with O_EXCL|O_TRUNC holds '%s'", slurp("made"));
    check(must(syscall(SYS_getdents64, listed, entries, sizeof entries)) >= 0, "getdents");
    check_equal(must(fcntl(owned, F_GETSIG)), SIGRTMIN + 5, "signal of a descriptor");
    check_equal(must(fcntl(owned, F_GETOWN)), getpid(), "owner of a descriptor");
    check_equal(must(fcntl(grouped, F_GETOWN)), -getpgrp(), "owner group of a descriptor");
    check_equal(must(fcntl(plain, F_GETOWN)), 0, "owner of a descriptor without one");
    check_equal(must(read(devices[1], text, 8)), 8, "bytes of /dev/zero");
    check(write(devices[3], "x", 1) == -1 && errno == ENOSPC, "/dev/full is not full");
    check_same_file(devices[0], "/dev/null");
}

WORKLOAD(files_many, "1,000 descriptors: files with positions and flags, deleted ones and eventfds among them, some dups of one open file") {
    enum { COUNT = 1000, NAMES = 10 };
    char name[32], text[16];
    struct rlimit limit;
    must(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max;
    must(setrlimit(RLIMIT_NOFILE, &limit));
    for (int i = 0; i < NAMES; i++) {
        snprintf(name, sizeof name, "file-%d", i);
        close(make(name, "0123456789", O_RDONLY));
    }
    int files[COUNT];
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof name, "file-%d", i % NAMES);
        switch (i % 7) {
        case 0: files[i] = must(eventfd((unsigned)i, EFD_NONBLOCK)); continue;
        case 1: files[i] = must(open(name, O_RDWR | O_APPEND)); break;
        case 2: files[i] = must(dup(files[i - 1])); break;
        case 3:
            snprintf(name, sizeof name, "deleted-%d", i);
            files[i] = make(name, "0123456789", O_RDWR);
            if (i % 70 == 3) must(unlink(name));
            break;
        default: files[i] = must(open(name, O_RDONLY));
        }
        must(lseek(files[i], i % 10, SEEK_SET));
    }
    char *table = descriptor_table();
    ready();
    char *table_now = descriptor_table();
    check(strcmp(table, table_now) == 0, "descriptors: now\n%swere\n%s", table_now, table);
    for (int i = 0; i < COUNT; i++) {
        if (i % 7 == 0) {
            uint64_t count = 0;
            if (i > 0) must(read(files[i], &count, sizeof count));
            check_equal((int64_t)count, i, "count of an eventfd");
            continue;
        }
        check_equal(must(pread(files[i], text, 1, i % 10)), 1, "bytes of a file");
        check_equal(text[0], '0' + i % 10, "what a file holds");
        if (i % 7 == 3) check_equal((int64_t)(must(lseek(files[i], 0, SEEK_CUR))), i % 10, "position");
    }
}

static int shared_fd, child_fd;
static void sharing_child(void *unused __attribute__((unused))) {
    settle();
    await_go();
    must(lseek(shared_fd, 100, SEEK_SET));
}
static int files_thread(void *unused __attribute__((unused))) {  // CLONE_FILES without CLONE_VM: another process, the same table
    settle();
    await_go();
    child_fd = must(open("from-child", O_RDWR | O_CREAT, 0600));
    must(dup2(child_fd, 77));
    must(chdir("/"));
    _exit(0);
}

WORKLOAD(files_shared, "open files shared after fork; whole tables and fs structs shared by clone(CLONE_FILES | CLONE_FS)") {
    shared_fd = make("shared", "shared", O_RDWR);
    pid_t child = fork_child(sharing_child, NULL);
    static char stack[65536] __attribute__((aligned(16)));
    pid_t twin = must(clone(files_thread, stack + sizeof stack, CLONE_FILES | CLONE_FS | SIGCHLD, NULL));
    await_settled(2);
    check_equal(must(syscall(SYS_kcmp, getpid(), twin, KCMP_FILES, 0, 0)), 0, "tables are shared");
    ready();
    check_equal(syscall(SYS_kcmp, getpid(), child, KCMP_FILES, 0, 0) != 0, 1, "tables stay apart");
    reap(child);
    check_equal(must(lseek(shared_fd, 0, SEEK_CUR)), 100, "position set by the child");
    reap(twin);
    check_equal(must(fcntl(77, F_GETFD)), 0, "descriptor opened by the other process of the table");
    char cwd[PATH_MAX];
    check(getcwd(cwd, sizeof cwd) && strcmp(cwd, "/") == 0, "cwd is %s: the fs struct is no longer shared", cwd);
}

WORKLOAD(ghosts, "deleted files: content, position, holes, two descriptors, two names; deleted directories; a file deleted and made anew") {
    int ghost = make("ghost", "spirit", O_RDWR), reader = must(open("ghost", O_RDONLY));
    must(lseek(ghost, 3, SEEK_SET));
    must(unlink("ghost"));
    int sparse = must(open("sparse", O_RDWR | O_CREAT, 0640));
    must(fchmod(sparse, 0604));
    must(pwrite(sparse, "middle", 6, 300 << 10));
    must(ftruncate(sparse, 600 << 10));
    must(unlink("sparse"));
    must(mkdir("directory", 0700));
    must(mkdir("directory/inner", 0711));
    int inner = must(open("directory/inner", O_RDONLY | O_DIRECTORY)), in_deleted = make("directory/file", "in deleted", O_RDWR);
    must(unlink("directory/file"));
    must(rmdir("directory/inner"));
    must(rmdir("directory"));
    int empty = make("empty", "", O_WRONLY | O_APPEND);
    must(unlink("empty"));
    int named = make("named", "hard", O_RDWR), linked;
    must(link("named", "linked"));
    linked = must(open("linked", O_RDWR));
    must(unlink("named"));
    must(unlink("linked"));
    struct stat before, after;
    must(fstat(sparse, &before));
    char *table = descriptor_table();
    // Not in the table: /proc may show another name for it, as its own is taken.
    int old = make("replaced", "old", O_RDONLY);
    must(unlink("replaced"));
    int new = make("replaced", "new", O_RDONLY), old_number = must(dup3(old, 300, 0)), new_number = must(dup3(new, 301, 0));
    close(old), close(new);
    ready();
    old = old_number, new = new_number;
    char *table_now = descriptor_table();
    char *end_of_common = strstr(table_now, "300 ");
    check(end_of_common, "no descriptor 300");
    *end_of_common = 0;
    check(strcmp(table, table_now) == 0, "descriptors: now\n%swere\n%s", table_now, table);
    char text[16] = {0};
    check_equal(must(pread(ghost, text, 16, 0)), 6, "bytes of a deleted file");
    check(strcmp(text, "spirit") == 0, "deleted file holds '%s'", text);
    must(pwrite(ghost, "S", 1, 0));
    check_equal(must(pread(reader, text, 1, 0)), 1, "bytes");
    check(text[0] == 'S', "two descriptors of a deleted file are no longer of the same file");
    must(fstat(ghost, &after));
    check_equal(after.st_nlink, 0, "links of a deleted file");
    must(fstat(sparse, &after));
    check_equal(after.st_size, before.st_size, "size of a sparse deleted file");
    check_equal(after.st_mode, before.st_mode, "mode of a deleted file");
    check(after.st_blocks <= before.st_blocks + 16, "holes are filled: %ld blocks, were %ld", (long)after.st_blocks, (long)before.st_blocks);
    check_equal(must(pread(sparse, text, 6, 300 << 10)), 6, "bytes");
    check(memcmp(text, "middle", 6) == 0, "sparse deleted file holds '%.6s'", text);
    must(fstat(inner, &after));
    check(S_ISDIR(after.st_mode), "deleted directory");
    check_equal(after.st_mode & 07777, 0711, "mode of a deleted directory");
    memset(text, 0, sizeof text);
    check_equal(must(pread(in_deleted, text, 16, 0)), 10, "bytes of a file in a deleted directory");
    memset(text, 0, sizeof text);
    check_equal(must(pread(old, text, 16, 0)), 3, "bytes");
    check(memcmp(text, "old", 3) == 0, "the replaced file holds '%s'", text);
    check_equal(must(pread(new, text, 16, 0)), 3, "bytes");
    check(memcmp(text, "new", 3) == 0, "the file in its place holds '%s'", text);
    check(access("ghost", F_OK) && access("sparse", F_OK) && access("directory", F_OK) && access("empty", F_OK),
          "a deleted name has come back");
    must(write(empty, "x", 1));
    must(pwrite(named, "H", 1, 0));
    check_equal(must(pread(linked, text, 4, 0)), 4, "bytes by the other name");
    check(memcmp(text, "Hard", 4) == 0, "the other name's file holds '%.4s'", text);
    must(fstat(linked, &after));
    check_equal(after.st_nlink, 0, "links of a file deleted by both names");
}

WORKLOAD(link_remap, "a file deleted under one name that lives on under another", .dump = "--link-remap") {
    int file = make("name-1", "linked", O_RDWR);
    must(link("name-1", "name-2"));
    must(unlink("name-1"));
    DIR *directory;
    ready();
    char text[16] = {0};
    check_equal(must(pread(file, text, 16, 0)), 6, "bytes");
    struct stat one, two;
    must(fstat(file, &one));
    must(stat("name-2", &two));
    check(one.st_ino == two.st_ino, "the descriptor is of another file than the name that was left");
    check_equal(one.st_nlink, 1, "links");
    check(access("name-1", F_OK) == -1, "the deleted name has come back");
    directory = opendir(".");
    for (struct dirent *entry; (entry = readdir(directory));)
        check(strncmp(entry->d_name, "link_remap", 10), "%s is left over", entry->d_name);
}

WORKLOAD(file_locks, "flock, POSIX and OFD locks", .dump = "--file-locks", .restore = "--file-locks") {
    int file = make("locked", "0123456789", O_RDWR), other = must(open("locked", O_RDWR)), flocked = make("flocked", "", O_RDWR);
    must(flock(flocked, LOCK_EX));
    struct flock one = {.l_type = F_WRLCK, .l_start = 2, .l_len = 3}, open_file = {.l_type = F_RDLCK, .l_start = 6, .l_len = 2};
    must(fcntl(file, F_SETLK, &one));
    must(fcntl(other, F_OFD_SETLK, &open_file));
    ready();
    struct flock probe = {.l_type = F_WRLCK, .l_start = 0, .l_len = 0};
    must(fcntl(other, F_OFD_GETLK, &probe));
    check_equal(probe.l_type, F_WRLCK, "kind of the POSIX lock");
    check_equal(probe.l_start, 2, "start of the POSIX lock");
    check_equal(probe.l_len, 3, "length of the POSIX lock");
    check_equal(probe.l_pid, getpid(), "owner of the POSIX lock");
    probe = (struct flock){.l_type = F_WRLCK, .l_start = 5, .l_len = 0};
    must(fcntl(file, F_GETLK, &probe));
    check_equal(probe.l_type, F_RDLCK, "kind of the OFD lock");
    check_equal(probe.l_start, 6, "start of the OFD lock");
    int fresh = must(open("flocked", O_RDWR));
    check(flock(fresh, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK, "the flock is gone");
    must(flock(flocked, LOCK_UN));
    must(flock(fresh, LOCK_SH | LOCK_NB));
}

WORKLOAD(proc_files, "files of /proc: own, of a child, of a dead task, directories") {
    int maps = must(open("/proc/self/maps", O_RDONLY)), uptime = must(open("/proc/uptime", O_RDONLY));
    pid_t child = fork_child((void (*)(void *))await_go, NULL);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", child);
    int of_child = must(open(path, O_RDONLY)), root = must(open("/proc", O_RDONLY | O_DIRECTORY));
    pid_t dead = must(fork());
    if (!dead) pause();
    snprintf(path, sizeof path, "/proc/%d/stat", dead);
    int of_dead = must(open(path, O_RDONLY));
    must(kill(dead, SIGKILL));
    must(waitpid(dead, NULL, 0));
    ready();
    char text[4096];
    check(must(read(maps, text, sizeof text)) > 100, "own maps are empty");
    check(must(read(uptime, text, sizeof text)) > 3, "uptime is empty");
    ssize_t got = must(pread(of_child, text, sizeof text - 1, 0));
    text[got] = 0;
    snprintf(path, sizeof path, "\nPid:\t%d\n", child);
    check(strstr(text, path), "status of the child is of another task");
    check(read(of_dead, text, sizeof text) == -1 && errno == ESRCH, "file of a dead task: %s", strerror(errno));
    struct stat a, b;
    must(fstat(root, &a));
    must(stat("/proc", &b));
    check(a.st_ino == b.st_ino && a.st_dev == b.st_dev, "/proc is another directory");
    reap(child);
}

WORKLOAD(fifos, "fifos: content, both ends in two processes, a deleted fifo") {
    must(mkfifo("fifo", 0640));
    must(mkfifo("deleted", 0600));
    int reader = must(open("fifo", O_RDONLY | O_NONBLOCK)), writer = must(open("fifo", O_WRONLY));
    int both = must(open("deleted", O_RDWR));
    must(write(writer, "through", 7));
    must(write(both, "gone", 4));
    must(unlink("deleted"));
    pid_t child = must(fork());
    if (!child) {
        close(reader);
        await_go();
        must(write(writer, " more", 5));
        _exit(0);
    }
    close(writer);
    ready();
    reap(child);
    char text[32] = {0};
    check_equal(must(read(reader, text, sizeof text)), 12, "bytes in the fifo");
    check(strcmp(text, "through more") == 0, "fifo holds '%s'", text);
    check_equal(must(read(reader, text, sizeof text)), 0, "end of file");
    check_equal(must(read(both, text, sizeof text)), 4, "bytes in the deleted fifo");
    check_same_file(reader, "fifo");
    check(access("deleted", F_OK) == -1, "the deleted fifo has a name again");
}

WORKLOAD(inherited, "a descriptor that the restorer hands over: --inherit-fd", .restore = "--inherit-fd fd[9]:tmp/inherit-me") {
    int own = must(open("/tmp/inherit-me", O_RDWR | O_CREAT | O_TRUNC, 0600));
    must(write(own, "original", 8));
    int other = must(open("inherited", O_RDWR | O_CREAT | O_TRUNC, 0600));
    must(write(other, "inherited", 9));
    close(other);
    ready();
    struct stat is, handed;
    must(fstat(own, &is));
    must(stat("inherited", &handed));
    bool restored = getenv("WORKLOAD_MODE") && strcmp(getenv("WORKLOAD_MODE"), "plain") && strcmp(getenv("WORKLOAD_MODE"), "leave-running");
    if (restored) check(is.st_ino == handed.st_ino, "the descriptor is not the inherited one");
    unlink("/tmp/inherit-me");
}
