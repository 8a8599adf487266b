// A plugin for tests. What it does is said by variables of the environment:
//   TEST_PLUGIN_LOG      a file that gets a line for each call
//   TEST_PLUGIN_CLAIM    words: file unix vma update later; the objects it takes
//   TEST_PLUGIN_CRASH, TEST_PLUGIN_HANG, TEST_PLUGIN_FAIL   the calls in which it does so
//   TEST_PLUGIN_LISTED   it knows the inventory's list
//   TEST_PLUGIN_SERVER   the socket to connect to; TEST_PLUGIN_MAPPED   the file that takes the place of a mapped device
#define _GNU_SOURCE
#include "stasis-plugin.h"
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef NAME
#define NAME "test_plugin"
#endif

static bool listed(const char *variable, const char *word) {
    const char *words = getenv(variable);
    return words && strstr(words, word);
}

/// The number that the call answers, when it does as it was told.
static int call(const char *what, int number, int answer) {
    int log = getenv("TEST_PLUGIN_LOG") ? open(getenv("TEST_PLUGIN_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    if (log >= 0) {
        dprintf(log, "%s %d\n", what, number);
        close(log);
    }
    print_on_level(3, "called: %s %d\n", what, number);
    if (listed("TEST_PLUGIN_CRASH", what)) *(volatile int *)8 = 1;
    if (listed("TEST_PLUGIN_HANG", what)) for (;;) pause();
    return listed("TEST_PLUGIN_FAIL", what) ? -1 : answer;
}

static int claim(const char *word) { return listed("TEST_PLUGIN_CLAIM", word) ? 0 : -ENOTSUP; }

static int begin(int stage) {
    if (getenv("TEST_PLUGIN_LISTED")) {
        if (stage == STASIS_STAGE_DUMP) add_inventory_plugin(NAME);
        if (stage == STASIS_STAGE_RESTORE) call("needed", check_and_remove_inventory_plugin(NAME, strlen(NAME)), 0);
    }
    return call("init", stage, 0);
}
static void end(int stage, int result) { call("exit", result, stage); }

static int dump_file(int fd, int id) {
    struct stat status;
    if (claim("file") || fstat(fd, &status)) return call("dump_file", id, -ENOTSUP);
    char name[32];
    snprintf(name, sizeof name, "ext-%d.img", id);
    int image = openat(criu_get_image_dir(), name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (image < 0) return -errno;
    dprintf(image, "restored by a plugin");
    close(image);
    return call("dump_file", id, 0);
}

/// Answers another file, with the image's content.
static int restore_file(int id, bool *again) {
    static bool has_waited;
    char name[32], text[32] = "";
    snprintf(name, sizeof name, "ext-%d.img", id);
    int image = openat(criu_get_image_dir(), name, O_RDONLY);
    if (image < 0) return call("restore_file", id, -ENOTSUP);
    ssize_t length = read(image, text, sizeof text);
    close(image);
    if (listed("TEST_PLUGIN_CLAIM", "later") && !has_waited) {
        *again = has_waited = true;
        return call("restore_file", id, 0);
    }
    int file = memfd_create("restored", MFD_CLOEXEC);
    if (length < 0 || file < 0 || write(file, text, (size_t)length) != length) return -errno;
    lseek(file, 0, SEEK_SET);
    return call("restore_file", id, file);
}

static int dump_unix(int fd, int id) {
    (void)fd;
    return call("dump_unix", id, claim("unix"));
}
static int restore_unix(int id) {
    if (claim("unix")) return call("restore_unix", id, -ENOTSUP);
    struct sockaddr_un server = {.sun_family = AF_UNIX};
    snprintf(server.sun_path, sizeof server.sun_path, "%s", getenv("TEST_PLUGIN_SERVER"));
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (connect(fd, (struct sockaddr *)&server, sizeof server)) return -errno;
    return call("restore_unix", id, fd);
}

static int handle_vma(int fd, const struct stat *status) {
    (void)fd;
    return call("handle_vma", (int)status->st_rdev, claim("vma"));
}
static int update_vma(const char *path, uint64_t address, uint64_t offset, uint64_t *new_offset, int *fd) {
    (void)path, (void)address;
    if (!listed("TEST_PLUGIN_CLAIM", "update")) return call("update_vma", (int)offset, 0);
    // Another file, from its second page on.
    *fd = open(getenv("TEST_PLUGIN_MAPPED"), O_RDWR);
    *new_offset = offset + 4096;
    return call("update_vma", (int)offset, *fd < 0 ? -errno : 1);
}

static int mount_out(char *path, int id) { return call("dump_mount", id, strcmp(path, "/mine") ? -ENOTSUP : 0); }
static int mount_in(int id, char *path, char *old_root, int *is_file) {
    *is_file = strcmp(path, "/mine") == 0 && strcmp(old_root, "/old") == 0;
    return call("restore_mount", id, 0);
}
static int link_out(int index, int type, char *kind) { return call("dump_link", index * 10 + type, strcmp(kind, "macvlan") ? -ENOTSUP : 0); }
static int resume(int pid) { return call("resume", pid, 0); }
static int pause_devices(int pid) { return call("pause", pid, 0); }
static int checkpoint(int pid) { return call("checkpoint", pid, 0); }
static int forked(void) { return call("forked", 0, 0); }
static int restore_init(void) { return call("restore_init", 0, 0); }
static int late(int pid) { return call("dump_late", pid, 0); }

const struct stasis_plugin CR_PLUGIN_DESC = {
    .name = NAME, .init = begin, .exit = end, .version = STASIS_PLUGIN_VERSION, .max_hooks = STASIS_HOOKS,
    .hooks = {
        [STASIS_DUMP_UNIX_SK] = dump_unix, [STASIS_RESTORE_UNIX_SK] = restore_unix, [STASIS_DUMP_EXT_FILE] = dump_file,
        [STASIS_RESTORE_EXT_FILE] = restore_file, [STASIS_DUMP_EXT_MOUNT] = mount_out, [STASIS_RESTORE_EXT_MOUNT] = mount_in,
        [STASIS_DUMP_EXT_LINK] = link_out, [STASIS_HANDLE_DEVICE_VMA] = handle_vma, [STASIS_UPDATE_VMA_MAP] = update_vma,
        [STASIS_RESUME_DEVICES_LATE] = resume, [STASIS_PAUSE_DEVICES] = pause_devices, [STASIS_CHECKPOINT_DEVICES] = checkpoint,
        [STASIS_POST_FORKING] = forked, [STASIS_RESTORE_INIT] = restore_init, [STASIS_DUMP_DEVICES_LATE] = late,
    },
};
