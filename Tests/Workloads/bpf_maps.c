#include "workload.h"
#include <linux/bpf.h>

static int bpf(int command, union bpf_attr *attribute) { return syscall(SYS_bpf, command, attribute, sizeof *attribute); }

static int new_map(int type, int key, int value, int entries, unsigned flags, const char *name) {
    union bpf_attr attribute = {.map_type = type, .key_size = key, .value_size = value, .max_entries = entries, .map_flags = flags};
    snprintf(attribute.map_name, sizeof attribute.map_name, "%s", name);
    return must(bpf(BPF_MAP_CREATE, &attribute));
}
static int update(int map, uint32_t key, const void *value) {
    union bpf_attr attribute = {.map_fd = map, .key = (uintptr_t)&key, .value = (uintptr_t)value};
    return bpf(BPF_MAP_UPDATE_ELEM, &attribute);
}
static int look_up(int map, uint32_t key, void *value) {
    union bpf_attr attribute = {.map_fd = map, .key = (uintptr_t)&key, .value = (uintptr_t)value};
    return bpf(BPF_MAP_LOOKUP_ELEM, &attribute);
}
static struct bpf_map_info raw_info(int map) {
    struct bpf_map_info info = {0};
    union bpf_attr attribute = {.info = {.bpf_fd = map, .info_len = sizeof info, .info = (uintptr_t)&info}};
    must(bpf(BPF_OBJ_GET_INFO_BY_FD, &attribute));
    return info;
}
static struct bpf_map_info info_of(int map) {  // without what may change
    struct bpf_map_info info = raw_info(map);
    info.id = 0;
    return info;
}

WORKLOAD(bpf_maps, "BPF maps: hash, array and per-CPU array with content, frozen, read-only, two descriptors of one map") {
    enum { entries = 500 };
    int hash = new_map(BPF_MAP_TYPE_HASH, 4, 24, 1000, BPF_F_NO_PREALLOC, "numbers");
    int array = new_map(BPF_MAP_TYPE_ARRAY, 4, 8, 300, 0, "array");
    int percpu = new_map(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 4, 10, 0, "percpu");
    int empty = new_map(BPF_MAP_TYPE_HASH, 4, 4, 8, 0, "");
    char value[24], cpus[8 * 1024] = {0}, found[8 * 1024];
    for (int at = 0; at < entries; at++) {
        fill(value, sizeof value, at);
        must(update(hash, at * 7919, value));
        uint64_t square = (uint64_t)at * at;
        if (at < 300) must(update(array, at, &square));
    }
    for (unsigned at = 0; at < sizeof cpus; at += 8) cpus[at] = 40 + at / 8;
    must(update(percpu, 3, cpus));
    union bpf_attr freeze = {.map_fd = array};
    must(bpf(BPF_MAP_FREEZE, &freeze));
    struct bpf_map_info hash_info = info_of(hash), array_info = info_of(array);
    union bpf_attr by_id = {.map_id = raw_info(hash).id, .open_flags = BPF_F_RDONLY};
    int reader = must(bpf(BPF_MAP_GET_FD_BY_ID, &by_id));
    ready();
    struct bpf_map_info now = info_of(hash), array_now = info_of(array);
    check(memcmp(&now, &hash_info, sizeof now) == 0, "the hash table's properties changed: type %u, name %s", now.type, now.name);
    check(memcmp(&array_now, &array_info, sizeof now) == 0, "the array's properties changed: type %u, name %s", array_now.type, array_now.name);
    for (int at = 0; at < entries; at++) {
        check(look_up(hash, at * 7919, value) == 0, "element %d is gone: %s", at, strerror(errno));
        check_filled(value, sizeof value, at, "an element of the hash table");
        uint64_t square = 0;
        if (at >= 300) continue;
        must(look_up(array, at, &square));
        check_equal(square, at * at, "an element of the array");
    }
    must(look_up(percpu, 3, found));
    check_equal(found[0], 40, "the first CPU's value");
    must(look_up(percpu, 4, found));
    check_equal(found[0], 0, "an untouched value");
    uint32_t number = 1;
    check(look_up(empty, 1, &number) == -1 && errno == ENOENT, "the empty map has something");
    must(update(empty, 1, &number));
    check(update(array, 0, value) == -1 && errno == EPERM, "the frozen map can be changed");
    check(update(reader, 0, value) == -1 && errno == EPERM, "the read-only descriptor can write");
    fill(value, sizeof value, 99);
    must(update(hash, 5, value));
    check(look_up(reader, 5, value) == 0, "two descriptors of one map became two maps");
}
