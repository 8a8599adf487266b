#include "workload.h"

WORKLOAD(simple, "the smallest: one task, its ids, its memory layout and its descriptors") {
    static struct layout layout;
    char *descriptors = descriptor_table();
    pid_t pid = getpid(), group = getpgrp(), session = getsid(0);
    char *command = slurp("/proc/self/cmdline"), *environment = slurp("/proc/self/environ");
    char exe[PATH_MAX] = {0}, cwd[PATH_MAX] = {0}, now_exe[PATH_MAX] = {0}, now_cwd[PATH_MAX] = {0};
    must(readlink("/proc/self/exe", exe, sizeof exe));
    must(readlink("/proc/self/cwd", cwd, sizeof cwd));
    take_layout(&layout);
    ready();
    check_equal(syscall(SYS_getpid), pid, "pid");
    check_equal(syscall(SYS_gettid), pid, "tid");
    check_equal(getpgrp(), group, "process group");
    check_equal(getsid(0), session, "session");
    check_layout(&layout);
    char *descriptors_now = descriptor_table();
    check(strcmp(descriptors, descriptors_now) == 0, "descriptors: now\n%swas\n%s", descriptors_now, descriptors);
    check(strcmp(command, slurp("/proc/self/cmdline")) == 0, "cmdline changed");
    check(strcmp(environment, slurp("/proc/self/environ")) == 0, "environ changed");
    must(readlink("/proc/self/exe", now_exe, sizeof now_exe));
    must(readlink("/proc/self/cwd", now_cwd, sizeof now_cwd));
    check(strcmp(exe, now_exe) == 0, "exe is %s, was %s", now_exe, exe);
    check(strcmp(cwd, now_cwd) == 0, "cwd is %s, was %s", now_cwd, cwd);
    check(strcmp(status_field(getpid(), "TracerPid"), "0") == 0, "still traced");
}
