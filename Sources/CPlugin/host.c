#define _GNU_SOURCE
#include "stasis-plugin-host.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int channel = -1, images = -1;
static unsigned level;
static bool is_restore, has_list;
/// The names in the inventory that nobody has asked for yet, each with its NUL.
static char needed[STASIS_PLUGIN_TEXT_ROOM];
static size_t needed_length;
/// A plugin may log from threads of its own.
static pthread_mutex_t sending = PTHREAD_MUTEX_INITIALIZER;

struct packet {
    struct stasis_plugin_message head;
    char text[STASIS_PLUGIN_TEXT_ROOM];
};

// What both directions need.

static bool send_message(int kind, const int64_t numbers[4], const char *text, int fd) {
    struct stasis_plugin_message head = {.kind = kind, .texts = text ? (int64_t)strlen(text) + 1 : 0};
    if (numbers) memcpy(head.numbers, numbers, sizeof head.numbers);
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)text, (size_t)head.texts}};
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr aligned; } control = {{0}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    if (fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    pthread_mutex_lock(&sending);
    ssize_t sent;
    do sent = sendmsg(channel, &message, MSG_NOSIGNAL); while (sent < 0 && errno == EINTR);
    pthread_mutex_unlock(&sending);
    return sent >= 0;
}

/// False when the conductor is gone. `*fd` is the descriptor that came along, or -1.
static bool receive(struct packet *packet, int *fd) {
    struct iovec part = {packet, sizeof *packet};
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr aligned; } control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t got;
    do got = recvmsg(channel, &message, MSG_CMSG_CLOEXEC); while (got < 0 && errno == EINTR);
    *fd = -1;
    struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_type == SCM_RIGHTS) memcpy(fd, CMSG_DATA(header), sizeof *fd);
    return got >= (ssize_t)sizeof packet->head && packet->head.texts >= 0 && (size_t)packet->head.texts == (size_t)got - sizeof packet->head
        && (packet->head.texts == 0 || packet->text[packet->head.texts - 1] == 0);
}

/// The text number `index` of a message; empty where there is none.
static char *text_of(struct packet *packet, int index) {
    char *at = packet->text, *end = at + packet->head.texts;
    for (; at < end && index > 0; index--) at += strlen(at) + 1;
    return at < end ? at : "";
}

// What plugins call. The linker exports these from the program (Package.swift).

int criu_get_image_dir(void) { return images; }

void print_on_level(unsigned int its, const char *format, ...) {
    if (its > level) return;
    char text[4096];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    send_message(STASIS_PLUGIN_LOG, (int64_t[4]){its}, text, -1);
}

int add_inventory_plugin(const char *name) {
    return send_message(STASIS_PLUGIN_ADD, NULL, name, -1) ? 0 : -1;
}

/// Images without a list are older than it: any plugin may have been used.
bool check_and_remove_inventory_plugin(const char *name, size_t length) {
    bool found = is_restore && !has_list;
    for (char *at = needed, *end = needed + needed_length; at < end && !found; at += strlen(at) + 1) {
        size_t its = strlen(at) + 1;
        if (its != length + 1 || memcmp(at, name, length) != 0) continue;
        memmove(at, at + its, (size_t)(end - at) - its);
        needed_length -= its;
        found = true;
    }
    char text[256];
    snprintf(text, sizeof text, "%.*s", (int)length, name);
    send_message(STASIS_PLUGIN_ASKED, (int64_t[4]){found}, text, -1);
    return found;
}

// The plugin.

static struct stasis_plugin *plugin;
/// Of the shared object, without ".so".
static char file_name[256];

static void *hook(int64_t number) {
    return number >= 0 && number < STASIS_HOOKS && number < plugin->max_hooks ? plugin->hooks[number] : NULL;
}

/// The plugins of before the descriptor: each hook is a function of a fixed name. NULL where there is none.
static struct stasis_plugin *of_functions(void *object) {
    static const char *const names[] = {
        [STASIS_DUMP_UNIX_SK] = "cr_plugin_dump_unix_sk", [STASIS_RESTORE_UNIX_SK] = "cr_plugin_restore_unix_sk",
        [STASIS_DUMP_EXT_FILE] = "cr_plugin_dump_file", [STASIS_RESTORE_EXT_FILE] = "cr_plugin_restore_file",
        [STASIS_DUMP_EXT_MOUNT] = "cr_plugin_dump_ext_mount", [STASIS_RESTORE_EXT_MOUNT] = "cr_plugin_restore_ext_mount",
        [STASIS_DUMP_EXT_LINK] = "cr_plugin_dump_ext_link",
    };
    static struct stasis_plugin made = {.version = 0x100, .max_hooks = STASIS_HOOKS};
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) found |= (made.hooks[i] = dlsym(object, names[i])) != NULL;
    made.init = (int (*)(int))dlsym(object, "cr_plugin_init");
    made.exit = (void (*)(int, int))dlsym(object, "cr_plugin_fini");
    made.name = file_name;
    return found ? &made : NULL;
}

/// Answers: hooks as bits, version, number of hooks; the name, or what is wrong.
static void load(struct packet *request, int directory) {
    level = (unsigned)request->head.numbers[0];
    has_list = request->head.numbers[1] != 0;
    is_restore = request->head.numbers[2] != 0;
    images = directory;
    char *path = text_of(request, 0), *names = path + strlen(path) + 1;
    needed_length = (size_t)(request->text + request->head.texts - names);
    memcpy(needed, names, needed_length);
    char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    snprintf(file_name, sizeof file_name, "%.*s", (int)strcspn(file, "."), file);
    // Plugins find the library of their messages in CRIU itself.
    dlopen("libprotobuf-c.so.1", RTLD_LAZY | RTLD_GLOBAL);
    void *object = dlopen(path, RTLD_NOW);
    if (!object) {
        send_message(STASIS_PLUGIN_ANSWER, (int64_t[4]){-1}, dlerror(), -1);
        return;
    }
    plugin = dlsym(object, "CR_PLUGIN_DESC");
    if (!plugin) plugin = of_functions(object);
    const char *fault = !plugin || !plugin->name ? "it exports no CR_PLUGIN_DESC with a name"
        : plugin->version >> 8 > STASIS_PLUGIN_VERSION >> 8 ? "it is made for a newer plugin interface" : NULL;
    if (fault) {
        plugin = NULL;
        send_message(STASIS_PLUGIN_ANSWER, (int64_t[4]){-1}, fault, -1);
        return;
    }
    int64_t bits = 0;
    for (int i = 0; i < STASIS_HOOKS; i++) if (hook(i)) bits |= 1 << i;
    send_message(STASIS_PLUGIN_ANSWER, (int64_t[4]){0, bits, plugin->version, plugin->max_hooks}, plugin->name, -1);
}

/// Calls a hook. Numbers of the answer: result; then what the hook wrote.
static void call(struct packet *request, int fd) {
    const int64_t *given = request->head.numbers;
    int64_t answer[4] = {-ENOTSUP};
    void *code = hook(request->head.kind);
    int a = (int)given[0], b = (int)given[1], made = -1;
    if (code) switch (request->head.kind) {
    case STASIS_DUMP_UNIX_SK:
    case STASIS_DUMP_EXT_FILE:
        answer[0] = ((int (*)(int, int))code)(fd, a);
        break;
    case STASIS_RESTORE_UNIX_SK:
        made = ((int (*)(int))code)(a);
        answer[0] = made;
        break;
    case STASIS_RESTORE_EXT_FILE: {
        bool again = false;
        made = ((int (*)(int, bool *))code)(a, &again);
        answer[0] = made;
        answer[1] = again;
        break;
    }
    case STASIS_DUMP_EXT_MOUNT:
        answer[0] = ((int (*)(char *, int))code)(text_of(request, 0), a);
        break;
    case STASIS_RESTORE_EXT_MOUNT: {
        int is_file = 0;
        answer[0] = ((int (*)(int, char *, char *, int *))code)(a, text_of(request, 0), text_of(request, 1), &is_file);
        answer[1] = is_file;
        break;
    }
    case STASIS_DUMP_EXT_LINK:
        answer[0] = ((int (*)(int, int, char *))code)(a, b, text_of(request, 0));
        break;
    case STASIS_HANDLE_DEVICE_VMA: {
        struct stat status;
        answer[0] = fstat(fd, &status) ? -errno : ((int (*)(int, const struct stat *))code)(fd, &status);
        break;
    }
    case STASIS_UPDATE_VMA_MAP: {
        uint64_t offset = (uint64_t)given[1];
        answer[0] = ((int (*)(const char *, uint64_t, uint64_t, uint64_t *, int *))code)(
            text_of(request, 0), (uint64_t)given[0], (uint64_t)given[1], &offset, &made);
        answer[1] = (int64_t)offset;
        break;
    }
    case STASIS_POST_FORKING:
    case STASIS_RESTORE_INIT:
        answer[0] = ((int (*)(void))code)();
        break;
    default:
        answer[0] = ((int (*)(int))code)(a);
    }
    if (answer[0] < 0) made = -1;
    send_message(STASIS_PLUGIN_ANSWER, answer, NULL, made);
    if (made >= 0) close(made);
}

int stasis_plugin_host(int socket) {
    static struct packet request;
    channel = fcntl(socket, F_DUPFD_CLOEXEC, 3);
    // Standard input is not for plugins; the conductor's end must not let one of them live on.
    int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (channel < 0 || nowhere < 0 || dup2(nowhere, socket) < 0) return 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    // A crash is the conductor's to report, at once: no backtrace by the language's runtime.
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP};
    for (size_t i = 0; i < sizeof crashes / sizeof *crashes; i++) signal(crashes[i], SIG_DFL);
    prctl(PR_SET_NAME, "stasis-plugin");
    int fd;
    while (receive(&request, &fd)) {
        int stage = (int)request.head.numbers[0];
        switch (request.head.kind) {
        case STASIS_PLUGIN_LOAD:
            load(&request, fd);
            continue;  // the descriptor is kept
        case STASIS_PLUGIN_BEGIN:
            send_message(STASIS_PLUGIN_ANSWER, (int64_t[4]){plugin->init ? plugin->init(stage) : 0}, NULL, -1);
            break;
        case STASIS_PLUGIN_END:
            if (plugin->exit) plugin->exit(stage, (int)request.head.numbers[1]);
            send_message(STASIS_PLUGIN_ANSWER, (int64_t[4]){0}, NULL, -1);
            break;
        default:
            call(&request, fd);
        }
        if (fd >= 0) close(fd);
    }
    return 0;
}
