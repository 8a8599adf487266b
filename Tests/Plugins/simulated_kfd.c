/// Stands in for the kernel's amdkfd and amdgpu drivers: runs a program whose ioctl(2)s on GPU devices, and those of all its children, are answered here
/// (a seccomp filter with SECCOMP_RET_USER_NOTIF) as drivers/gpu/drm/amd/amdkfd/kfd_chardev.c and .../amdgpu/amdgpu_{gem,cs}.c would: it keeps processes
/// with their devices, buffers with content, an object of opaque private data, and whether queues are paused; and it runs the copies that are submitted
/// to the SDMA engine. /dev/kfd and /dev/dri/renderD* are any character devices of these names.
///
///     simulated_kfd STATE PROGRAM ARGUMENT...
///
/// STATE is a text file, rewritten at the end with what there is then:
///     gpu ID MINOR                                               a GPU of this machine
///     process PID running|paused|restored                        a process that has /dev/kfd open
///     device USER ACTUAL                                         ... its GPUs, by the ids it knows them by
///     buffer GPU ADDRESS SIZE OFFSET FLAGS HANDLE HEXADECIMAL    ... its buffers; the content repeats
///     object TEXT                                                ... queues, events
/// $SIMULATED_KFD_FAIL names a call that fails with EIO, $SIMULATED_KFD_KILL one at which the caller is killed. $SIMULATED_KFD_LOG: a file for a line of each call.
#define _GNU_SOURCE
#include <drm/drm.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/kcmp.h>
#include <linux/kfd_ioctl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define die(...) do { fprintf(stderr, "simulated_kfd: " __VA_ARGS__); fprintf(stderr, ": %s\n", strerror(errno)); exit(99); } while (0)
enum { MOST = 64, PRIVATE_VERSION = 1 };

// State.

struct buffer { uint32_t gpu, flags, handle; uint64_t address, size, offset; int content; };
struct process {
    int pid;
    bool paused, restored, resumed, known;
    int evictions;
    int devices, buffers, objects;
    struct { uint32_t user, actual; } device[MOST];
    struct buffer buffer[MOST];
    char object[MOST][64];
};
static struct { uint32_t id; int minor; } gpus[MOST];
static int gpu_count, process_count, listener;
static struct process processes[MOST];
static uint64_t next_offset = 0x200000000;
static FILE *log_file;
static const char *failing, *killing;

/// What kfd_priv.h calls kfd_criu_process_priv_data, .._device_.., .._bo_.., and an object: in the kernel a queue, an event or an SVM range.
struct private_process { uint32_t version, xnack; };
struct private_device { uint64_t reserved; };
struct private_buffer { uint64_t user_address; uint32_t handle, mapped[MOST]; };
struct private_object { uint32_t type; char text[64]; };

static int new_content(uint64_t size) {
    int fd = memfd_create("buffer", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size)) die("memfd");
    return fd;
}

static void load(const char *path) {
    FILE *file = fopen(path, "re");
    if (!file) die("%s", path);
    char line[65536], word[32], hex[32768];
    struct process *p = NULL;
    while (fgets(line, sizeof line, file)) {
        struct buffer b = {0};
        unsigned a, c;
        int n;
        if (sscanf(line, "gpu %u %d", &a, &n) == 2) { gpus[gpu_count].id = a; gpus[gpu_count++].minor = n; }
        else if (sscanf(line, "process %d %31s", &n, word) == 2) { p = &processes[process_count++]; p->pid = n; p->known = true; }
        else if (p && sscanf(line, "device %u %u", &a, &c) == 2) { p->device[p->devices].user = a; p->device[p->devices++].actual = c; }
        else if (p && sscanf(line, "object %63s", p->object[p->objects]) == 1) p->objects++;
        else if (p && sscanf(line, "buffer %u %lx %lu %lx %x %u %32767s", &b.gpu, &b.address, &b.size, &b.offset, &b.flags, &b.handle, hex) == 7) {
            b.content = new_content(b.size);
            size_t length = strlen(hex) / 2;
            unsigned char *bytes = malloc(b.size);
            for (uint64_t i = 0; i < b.size; i++) { unsigned v; sscanf(hex + 2 * (i % length), "%2x", &v); bytes[i] = (unsigned char)v; }
            if (pwrite(b.content, bytes, b.size, 0) != (ssize_t)b.size) die("content");
            free(bytes);
            p->buffer[p->buffers++] = b;
        } else if (line[0] != '\n') die("what is %s", line);
    }
    fclose(file);
}

/// The shortest text that repeats to the content.
static void store(const char *path) {
    FILE *file = fopen(path, "we");
    for (int i = 0; i < gpu_count; i++) fprintf(file, "gpu %u %d\n", gpus[i].id, gpus[i].minor);
    for (int i = 0; i < process_count; i++) {
        struct process *p = &processes[i];
        if (kill(p->pid, 0) != 0) continue;
        fprintf(file, "process %d %s\n", p->pid, p->evictions ? "paused" : p->restored && !p->resumed ? "restored" : "running");
        for (int d = 0; d < p->devices; d++) fprintf(file, "device %u %u\n", p->device[d].user, p->device[d].actual);
        for (int b = 0; b < p->buffers; b++) {
            struct buffer *it = &p->buffer[b];
            fprintf(file, "buffer %u %lx %lu %lx %x %u ", it->gpu, it->address, it->size, it->offset, it->flags, it->handle);
            unsigned char *bytes = malloc(it->size);
            if (pread(it->content, bytes, it->size, 0) != (ssize_t)it->size) die("content");
            uint64_t period = 1;
            while (period < it->size && memcmp(bytes, bytes + period, it->size - period) != 0) period++;
            for (uint64_t k = 0; k < period; k++) fprintf(file, "%02x", bytes[k]);
            fprintf(file, "\n");
            free(bytes);
        }
        for (int o = 0; o < p->objects; o++) fprintf(file, "object %s\n", p->object[o]);
    }
    fclose(file);
}

// The caller.

static int caller, caller_group;

static int get(uint64_t from, void *to, size_t size) {
    struct iovec here = {to, size}, there = {(void *)from, size};
    return size == 0 || process_vm_readv(caller, &here, 1, &there, 1, 0) == (ssize_t)size ? 0 : -EFAULT;
}
static int put(uint64_t to, const void *from, size_t size) {
    struct iovec here = {(void *)from, size}, there = {(void *)to, size};
    return size == 0 || process_vm_writev(caller, &here, 1, &there, 1, 0) == (ssize_t)size ? 0 : -EFAULT;
}
static int status_number(int pid, const char *key) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "re");
    int number = -1;
    while (file && fgets(line, sizeof line, file)) if (strncmp(line, key, strlen(key)) == 0) number = atoi(line + strlen(key));
    if (file) fclose(file);
    return number;
}
static void name_of(int pid, int fd, char *name, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
    ssize_t length = readlink(path, name, size - 1);
    name[length < 0 ? 0 : length] = 0;
}
static bool same_content(int fd, int content) {
    char path[64];
    struct stat a, b;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", caller, fd);
    return stat(path, &a) == 0 && fstat(content, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}
/// A descriptor for the caller; -1 when it is gone.
static int give(uint64_t id, int fd) {
    struct seccomp_notif_addfd add = {.id = id, .srcfd = (unsigned)fd, .newfd_flags = O_CLOEXEC};
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
}

static bool fails(const char *name) {
    bool kills = killing && strcmp(name, killing) == 0;
    if (kills) kill(caller_group, SIGKILL);
    return kills || (failing && strcmp(name, failing) == 0);
}

// amdkfd.

/// kfd_open makes the process; its file is good for that process, and for its tracer where CRIU is concerned (kfd_ioctl).
static struct process *process_of(int fd) {
    for (int i = 0; i < process_count; i++) {
        struct process *p = &processes[i];
        for (int its = 0; its < 256; its++) {
            char name[256];
            name_of(p->pid, its, name, sizeof name);
            if (strcmp(name, "/dev/kfd") != 0 || syscall(SYS_kcmp, caller, p->pid, KCMP_FILE, fd, its) != 0) continue;
            return caller_group == p->pid || status_number(p->pid, "TracerPid:") == caller ? p : NULL;
        }
    }
    return NULL;
}

static uint64_t private_size(struct process *p) {
    return sizeof(struct private_process) + (size_t)p->devices * sizeof(struct private_device) + (size_t)p->buffers * sizeof(struct private_buffer)
        + (size_t)p->objects * sizeof(struct private_object);
}
static bool has_content(uint32_t flags) { return flags & (KFD_IOC_ALLOC_MEM_FLAGS_VRAM | KFD_IOC_ALLOC_MEM_FLAGS_GTT); }

static int process_info(struct process *p, struct kfd_ioctl_criu_args *args) {
    p->evictions++;
    p->paused = true;
    args->pid = (unsigned)p->pid;
    args->num_devices = (unsigned)p->devices;
    args->num_bos = (unsigned)p->buffers;
    args->num_objects = (unsigned)p->objects;
    args->priv_data_size = private_size(p);
    return 0;
}

static int checkpoint(struct process *p, struct kfd_ioctl_criu_args *args, uint64_t id) {
    if (!args->devices || !args->bos || !args->priv_data || !p->paused) return -EINVAL;
    if ((int)args->num_devices != p->devices || (int)args->num_bos != p->buffers || (int)args->num_objects != p->objects || args->priv_data_size != private_size(p)) return -EINVAL;
    uint8_t *private = calloc(1, args->priv_data_size), *at = private;
    *(struct private_process *)at = (struct private_process){PRIVATE_VERSION, 1};
    at += sizeof(struct private_process) + (size_t)p->devices * sizeof(struct private_device);
    struct kfd_criu_device_bucket devices[MOST] = {0};
    for (int i = 0; i < p->devices; i++) { devices[i].user_gpu_id = p->device[i].user; devices[i].actual_gpu_id = p->device[i].actual; }
    struct kfd_criu_bo_bucket buffers[MOST] = {0};
    for (int i = 0; i < p->buffers; i++, at += sizeof(struct private_buffer)) {
        struct buffer *b = &p->buffer[i];
        buffers[i] = (struct kfd_criu_bo_bucket){.addr = b->address, .size = b->size, .offset = b->offset, .gpu_id = b->gpu, .alloc_flags = b->flags, .dmabuf_fd = (uint32_t)-1};
        if (has_content(b->flags)) buffers[i].dmabuf_fd = (unsigned)give(id, b->content);
        struct private_buffer its = {.handle = b->handle, .mapped = {b->gpu}};
        memcpy(at, &its, sizeof its);
    }
    for (int i = 0; i < p->objects; i++, at += sizeof(struct private_object)) strcpy(((struct private_object *)at)->text, p->object[i]);
    int result = put(args->devices, devices, sizeof *devices * (size_t)p->devices) || put(args->bos, buffers, sizeof *buffers * (size_t)p->buffers)
        || put(args->priv_data, private, args->priv_data_size) ? -EFAULT : 0;
    free(private);
    return result;
}

static int restore(struct process *p, struct kfd_ioctl_criu_args *args, uint64_t id) {
    if (!args->bos || !args->devices || !args->priv_data || !args->priv_data_size || !args->num_devices || !args->num_bos) return -EINVAL;
    if ((int)args->num_devices != gpu_count || args->num_bos > MOST || args->num_objects > MOST) return -EINVAL;
    uint8_t *private = malloc(args->priv_data_size), *at = private, *end = private + args->priv_data_size;
    struct kfd_criu_device_bucket devices[MOST];
    struct kfd_criu_bo_bucket buffers[MOST];
    if (get(args->devices, devices, sizeof *devices * args->num_devices) || get(args->bos, buffers, sizeof *buffers * args->num_bos) || get(args->priv_data, private, args->priv_data_size)) return -EFAULT;
    // In the kernel a buffer of user memory belongs to whoever calls (amdgpu_hmm_register, current->mm).
    if (caller_group != p->pid) { fprintf(stderr, "simulated_kfd: RESTORE was not called by process %d itself\n", p->pid); return -EINVAL; }
    if (((struct private_process *)at)->version != PRIVATE_VERSION) return -EINVAL;
    at += sizeof(struct private_process) + args->num_devices * sizeof(struct private_device);
    for (unsigned i = 0; i < args->num_devices; i++) {
        int gpu = 0;
        while (gpu < gpu_count && gpus[gpu].id != devices[i].actual_gpu_id) gpu++;
        char name[256], wanted[64];
        name_of(caller, (int)devices[i].drm_fd, name, sizeof name);
        snprintf(wanted, sizeof wanted, "/dev/dri/renderD%d", gpus[gpu].minor);
        if (gpu == gpu_count || !devices[i].user_gpu_id || strcmp(name, wanted) != 0) { fprintf(stderr, "simulated_kfd: no GPU %u at %s\n", devices[i].actual_gpu_id, name); return -EINVAL; }
        p->device[i].user = devices[i].user_gpu_id;
        p->device[i].actual = devices[i].actual_gpu_id;
    }
    p->devices = (int)args->num_devices;
    for (unsigned i = 0; i < args->num_bos; i++, at += sizeof(struct private_buffer)) {
        struct kfd_criu_bo_bucket *b = &buffers[i];
        int device = 0;
        while (device < p->devices && p->device[device].user != b->gpu_id) device++;
        if (device == p->devices) return -ENODEV;
        if (at + sizeof(struct private_buffer) > end) return -EINVAL;
        struct buffer made = {b->gpu_id, b->alloc_flags, ((struct private_buffer *)at)->handle, b->addr, b->size, 0, new_content(b->size)};
        b->dmabuf_fd = (unsigned)-1;
        if (has_content(b->alloc_flags)) {
            made.offset = b->restored_offset = next_offset;
            next_offset += b->size;
            b->dmabuf_fd = (unsigned)give(id, made.content);
        } else if (b->alloc_flags & KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL) made.offset = b->restored_offset = 3ull << 62 | (uint64_t)p->device[device].actual << 46;
        p->buffer[p->buffers++] = made;
    }
    for (unsigned i = 0; i < args->num_objects; i++, at += sizeof(struct private_object)) {
        if (at + sizeof(struct private_object) > end) return -EINVAL;
        strcpy(p->object[p->objects++], ((struct private_object *)at)->text);
    }
    p->restored = true;
    p->evictions++;  // KFD_QUEUE_EVICTION_CRIU_RESTORE, until RESUME
    return at != end ? -EINVAL : put(args->bos, buffers, sizeof *buffers * args->num_bos);
}

static int kfd(int fd, uint64_t argument, uint64_t id, const char **name) {
    static const char *const names[] = {"PROCESS_INFO", "CHECKPOINT", "UNPAUSE", "RESTORE", "RESUME"};
    struct kfd_ioctl_criu_args args;
    if (get(argument, &args, sizeof args)) return -EFAULT;
    if (args.op < 5) *name = names[args.op];
    if (fails(*name)) return -EIO;
    struct process *p = process_of(fd);
    if (!p) return -EBADF;
    int result = -EINVAL;
    switch (args.op) {
    case KFD_CRIU_OP_PROCESS_INFO: result = process_info(p, &args); break;
    case KFD_CRIU_OP_CHECKPOINT: result = checkpoint(p, &args, id); break;
    case KFD_CRIU_OP_UNPAUSE:
        if (!p->paused) break;
        p->paused = false;
        p->evictions--;
        result = 0;
        break;
    case KFD_CRIU_OP_RESTORE: result = restore(p, &args, id); break;
    case KFD_CRIU_OP_RESUME:
        result = -ESRCH;
        for (int i = 0; i < process_count; i++) if (processes[i].pid == (int)args.pid) {
            processes[i].resumed = true;
            processes[i].evictions--;
            result = 0;
        }
    }
    return result < 0 ? result : put(argument, &args, sizeof args);
}

// amdgpu. A node for each process and minor.

struct object { int content; uint64_t size, user; };
struct node {
    int pid, minor, objects, places;
    struct object object[1024];
    struct { uint64_t address, size, offset; uint32_t handle; } place[256];
    uint64_t sequence;
};
static struct node *nodes[MOST];
static int node_count;

static struct node *node_at(int minor) {
    for (int i = 0; i < node_count; i++) if (nodes[i]->pid == caller_group && nodes[i]->minor == minor) return nodes[i];
    struct node *made = calloc(1, sizeof *made);
    made->pid = caller_group;
    made->minor = minor;
    return nodes[node_count++] = made;
}
static uint32_t new_object(struct node *n, struct object it) {
    n->object[n->objects++] = it;
    return (uint32_t)n->objects;
}

/// Bytes of the GPU's address space, from `local` or to it.
static bool transfer(struct node *n, uint64_t address, void *local, uint64_t size, bool writes) {
    for (int i = 0; i < n->places; i++) {
        if (address < n->place[i].address || address + size > n->place[i].address + n->place[i].size) continue;
        struct object *o = &n->object[n->place[i].handle - 1];
        uint64_t at = address - n->place[i].address + n->place[i].offset;
        if (o->content > 0) return (writes ? pwrite(o->content, local, size, (off_t)at) : pread(o->content, local, size, (off_t)at)) == (ssize_t)size;
        if (o->user) return writes ? put(o->user + at, local, size) == 0 : get(o->user + at, local, size) == 0;
        // Made by GEM_CREATE and mapped: the stand-in for the device gives each mapping memory of its own, found by its size.
        char path[64], line[512];
        snprintf(path, sizeof path, "/proc/%d/maps", caller);
        FILE *maps = fopen(path, "re");
        bool done = false;
        while (maps && !done && fgets(line, sizeof line, maps)) {
            unsigned long start, end;
            if (sscanf(line, "%lx-%lx", &start, &end) == 2 && strstr(line, "rw-s") && strstr(line, "/dev/zero") && end - start == o->size)
                done = writes ? put(start + at, local, size) == 0 : get(start + at, local, size) == 0;
        }
        if (maps) fclose(maps);
        return done;
    }
    return false;
}

/// Bytes that are mapped from there on.
static uint64_t room(struct node *n, uint64_t address) {
    for (int i = 0; i < n->places; i++)
        if (address >= n->place[i].address && address < n->place[i].address + n->place[i].size) return n->place[i].address + n->place[i].size - address;
    return 0;
}

/// An indirect buffer of the SDMA engine (sdma_v4_0.c): linear copies and NOPs.
static int run(struct node *n, uint64_t address, uint32_t bytes) {
    uint32_t *words = malloc(bytes);
    if (!transfer(n, address, words, bytes, false)) { fprintf(stderr, "simulated_kfd: no commands at %lx %u\n", address, bytes); return -EINVAL; }
    for (uint32_t i = 0; i < bytes / 4;) {
        if ((words[i] & 0xff) == 0) { i += 1 + (words[i] >> 16 & 0x3fff); continue; }
        if ((words[i] & 0xffff) != 1 || i + 7 > bytes / 4) { fprintf(stderr, "simulated_kfd: command %x\n", words[i]); return -EINVAL; }
        uint64_t size = (words[i + 1] & 0x3fffffff) + 1ull, from = words[i + 3] | (uint64_t)words[i + 4] << 32, to = words[i + 5] | (uint64_t)words[i + 6] << 32;
        // Bytes outside of what is mapped are lost to a fault; the others arrive.
        uint64_t most = room(n, from) < room(n, to) ? room(n, from) : room(n, to);
        if (size > most && log_file) fprintf(log_file, "  fault %lu\n", size - most);
        if (size > most) size = most;
        void *local = malloc(size);
        if (size == 0 || size > 1 << 22 || !transfer(n, from, local, size, false) || !transfer(n, to, local, size, true)) { fprintf(stderr, "simulated_kfd: can't copy %lu bytes from %lx to %lx\n", size, from, to); return -EINVAL; }
        if (log_file) fprintf(log_file, "  copy %lu\n", size);
        free(local);
        i += 7;
    }
    free(words);
    return 0;
}

static int submit(struct node *n, union drm_amdgpu_cs *cs) {
    for (uint32_t i = 0; i < cs->in.num_chunks; i++) {
        uint64_t where;
        struct drm_amdgpu_cs_chunk chunk;
        struct drm_amdgpu_cs_chunk_ib ib;
        if (get(cs->in.chunks + 8 * i, &where, 8) || get(where, &chunk, sizeof chunk)) return -EFAULT;
        if (chunk.chunk_id != AMDGPU_CHUNK_ID_IB) continue;
        if (get(chunk.chunk_data, &ib, sizeof ib)) return -EFAULT;
        if (ib.ip_type != AMDGPU_HW_IP_DMA) return -EINVAL;
        int result = run(n, ib.va_start, ib.ib_bytes);
        if (result < 0) return result;
    }
    cs->out.handle = ++n->sequence;
    return 0;
}

static int info(struct drm_amdgpu_info *info) {
    uint8_t *answer = calloc(1, info->return_size);
    if (info->query == AMDGPU_INFO_DEV_INFO) {
        uint8_t device[INFO_SIZE] = {0};
        static const struct { int place; uint32_t value; } words[] = {
            {INFO_FAMILY, AMDGPU_FAMILY_AI}, {INFO_SHADER_ENGINES, 1}, {INFO_SHADER_ARRAYS, 1}, {INFO_ADDRESS_ALIGNMENT, 4096}, {INFO_FRAGMENT, 4096}, {INFO_GART_PAGE, 4096},
        };
        static const struct { int place; uint64_t value; } longs[] = {
            {INFO_ADDRESS_OFFSET, 0x200000}, {INFO_ADDRESS_MAX, 1ull << 47}, {INFO_HIGH_OFFSET, 0xffff800000000000}, {INFO_HIGH_MAX, 0xffffffffffe00000},
        };
        for (size_t i = 0; i < sizeof words / sizeof *words; i++) memcpy(device + words[i].place, &words[i].value, 4);
        for (size_t i = 0; i < sizeof longs / sizeof *longs; i++) memcpy(device + longs[i].place, &longs[i].value, 8);
        memcpy(answer, device, info->return_size < sizeof device ? info->return_size : sizeof device);
    } else if (info->query == AMDGPU_INFO_ACCEL_WORKING) answer[0] = 1;
    int result = put(info->return_pointer, answer, info->return_size);
    free(answer);
    return result;
}

static int drm(int fd, uint32_t request, uint64_t argument, const char **name) {
    char path[256];
    int minor = 0;
    name_of(caller, fd, path, sizeof path);
    sscanf(path, "/dev/dri/renderD%d", &minor);
    struct node *n = node_at(minor);
    union {
        uint8_t bytes[256];
        struct drm_version version;
        struct drm_prime_handle prime;
        struct drm_gem_close close;
        union drm_amdgpu_gem_create create;
        union drm_amdgpu_gem_mmap map;
        struct drm_amdgpu_gem_userptr user;
        struct drm_amdgpu_gem_va place;
        union drm_amdgpu_ctx context;
        union drm_amdgpu_bo_list list;
        union drm_amdgpu_cs cs;
        union drm_amdgpu_wait_cs wait;
        struct drm_amdgpu_info info;
    } a;
    size_t size = _IOC_SIZE(request);
    if (size > sizeof a || get(argument, &a, size)) return -EFAULT;
    int result = 0;
    bool known = true;
#define CALL(word) (*name = #word, fails(#word)) ? -EIO
    switch (_IOC_NR(request)) {
    case DRM_VERSION:
        *name = "VERSION";
        a.version.major = 3;
        a.version.minor = 54;
        if (a.version.name_len >= 6 && (put((uint64_t)a.version.name, "amdgpu", 6) || put((uint64_t)a.version.date, "0", 1) || put((uint64_t)a.version.desc, "0", 1))) return -EFAULT;
        a.version.name_len = 6;
        a.version.date_len = a.version.desc_len = 1;
        break;
    case DRM_PRIME_FD_TO_HANDLE:
        result = CALL(PRIME_FD_TO_HANDLE) : -EINVAL;
        if (result == -EIO) break;
        for (int i = 0; i < process_count; i++) for (int b = 0; b < processes[i].buffers; b++) {
            struct buffer *it = &processes[i].buffer[b];
            if (!same_content(a.prime.fd, it->content)) continue;
            a.prime.handle = new_object(n, (struct object){.content = it->content, .size = it->size});
            result = 0;
        }
        break;
    case DRM_GEM_CLOSE: *name = "GEM_CLOSE"; break;
    case DRM_AMDGPU_GEM_CREATE:
        result = CALL(GEM_CREATE) : 0;
        a.create.out.handle = new_object(n, (struct object){.size = (a.create.in.bo_size + 4095) & ~4095ull});
        break;
    case DRM_AMDGPU_GEM_MMAP:
        result = CALL(GEM_MMAP) : 0;
        a.map.out.addr_ptr = 0;
        break;
    case DRM_AMDGPU_GEM_USERPTR:
        result = CALL(GEM_USERPTR) : 0;
        a.user.handle = new_object(n, (struct object){.size = a.user.size, .user = a.user.addr});
        break;
    case DRM_AMDGPU_GEM_VA:
        result = CALL(GEM_VA) : 0;
        if (a.place.operation == AMDGPU_VA_OP_MAP) {
            n->place[n->places].address = a.place.va_address;
            n->place[n->places].size = a.place.map_size;
            n->place[n->places].offset = a.place.offset_in_bo;
            n->place[n->places++].handle = a.place.handle;
        } else for (int i = 0; i < n->places; i++) if (n->place[i].address == a.place.va_address) n->place[i--] = n->place[--n->places];
        break;
    case DRM_AMDGPU_CTX:
        result = CALL(CTX) : 0;
        a.context.out.ctx_id = 1;
        break;
    case DRM_AMDGPU_BO_LIST:
        *name = "BO_LIST";
        a.list.out.list_handle = 1;
        break;
    case DRM_AMDGPU_CS: result = CALL(CS) : submit(n, &a.cs); break;
    case DRM_AMDGPU_WAIT_CS:
        result = CALL(WAIT_CS) : 0;
        a.wait.out.status = 0;
        break;
    case DRM_AMDGPU_INFO: result = CALL(INFO) : info(&a.info); break;
    default:
        known = false;
        *name = "?";
    }
    if (!known && log_file) fprintf(log_file, "  unknown: type %c number %x\n", _IOC_TYPE(request), _IOC_NR(request));
    return result < 0 ? result : put(argument, &a, size);
}

// The loop.

static void answer(struct seccomp_notif *ask, struct seccomp_notif_resp *reply) {
    reply->id = ask->id;
    caller = (int)ask->pid;
    caller_group = status_number(caller, "Tgid:");
    if (ask->data.nr == SYS_openat) {
        // Whoever opens /dev/kfd becomes a process of it.
        char path[16] = "";
        struct iovec here = {path, sizeof path - 1}, there = {(void *)ask->data.args[1], sizeof path - 1};
        bool opens = process_vm_readv(caller, &here, 1, &there, 1, 0) > 0 && strcmp(path, "/dev/kfd") == 0 && !(ask->data.args[2] & O_PATH);
        for (int i = 0; opens && i < process_count; i++) if (processes[i].pid == caller_group && !processes[i].known) opens = false;
        if (opens) {
            processes[process_count++] = (struct process){.pid = caller_group};
            if (log_file) fprintf(log_file, "open /dev/kfd\n");
        }
        reply->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        return;
    }
    uint32_t request = (uint32_t)ask->data.args[1];
    int fd = (int)ask->data.args[0], result;
    const char *name = "?";
    char path[256];
    name_of(caller, fd, path, sizeof path);
    if (strcmp(path, "/dev/kfd") == 0 && request == AMDKFD_IOC_CRIU_OP) result = kfd(fd, ask->data.args[2], ask->id, &name);
    else if (strcmp(path, "/dev/kfd") == 0 && request == AMDKFD_IOC_GET_VERSION) {
        struct kfd_ioctl_get_version_args version = {KFD_IOCTL_MAJOR_VERSION, KFD_IOCTL_MINOR_VERSION};
        name = "GET_VERSION";
        result = put(ask->data.args[2], &version, sizeof version);
    } else if (strncmp(path, "/dev/dri/renderD", 16) == 0 && _IOC_TYPE(request) == 'd') result = drm(fd, request, ask->data.args[2], &name);
    else {
        reply->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        return;
    }
    reply->error = result < 0 ? result : 0;
    if (log_file) fprintf(log_file, "%s %d\n", name, result);
}

/// Everything but ioctls of these types, and openat, goes on.
static int install(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'K' << 8, 1, 2),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'd' << 8, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

int main(int count, char **words) {
    if (count < 3) die("usage: simulated_kfd STATE PROGRAM ARGUMENT...");
    load(words[1]);
    failing = getenv("SIMULATED_KFD_FAIL");
    killing = getenv("SIMULATED_KFD_KILL");
    const char *log_path = getenv("SIMULATED_KFD_LOG");
    log_file = log_path ? fopen(log_path, "ae") : NULL;
    if (log_file) setlinebuf(log_file);
    // The child shares our descriptors until it runs the program, so that the listener is ours, too. It becomes close-on-exec by itself.
    pid_t child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        if (install() < 0) die("seccomp");
        unsetenv("SIMULATED_KFD_LOG");
        execvp(words[2], words + 2);
        die("%s", words[2]);
    }
    // The child's is the only descriptor that appears.
    for (int fd = 3; listener == 0; fd = fd < 64 ? fd + 1 : 3) {
        char name[64];
        name_of(getpid(), fd, name, sizeof name);
        if (strstr(name, "seccomp")) listener = fd;
        if (kill(child, 0) != 0) die("the program");
    }
    int status, ended = 0;
    while (!ended) {
        struct pollfd ready = {.fd = listener, .events = POLLIN};
        poll(&ready, 1, 20);
        if (ready.revents & POLLIN) {
            struct seccomp_notif ask = {0};
            struct seccomp_notif_resp reply = {0};
            if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &ask) == 0) {
                answer(&ask, &reply);
                ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply);
            }
            continue;
        }
        if (waitpid(child, &status, WNOHANG) == child) ended = 1;
    }
    store(words[1]);
    // Restored processes live on under the filter, and must not wait for us.
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
