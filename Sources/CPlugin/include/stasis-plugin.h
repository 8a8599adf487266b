/// What a plugin in C is compiled against: the interface of CRIU's plugins, version 0.2.0, so that one shared object serves both.
/// How and when each hook is called: docs/plugins.md.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

enum stasis_plugin_stage { STASIS_STAGE_DUMP, STASIS_STAGE_PRE_DUMP, STASIS_STAGE_RESTORE };

/// Places in the table of hooks. CRIU 4.2 has those up to POST_FORKING.
/// A hook answers -ENOTSUP for an object that is not its own, another negative number when it failed.
enum stasis_plugin_hook {
    STASIS_DUMP_UNIX_SK,         // int (int fd, int id)
    STASIS_RESTORE_UNIX_SK,      // int (int id): a descriptor
    STASIS_DUMP_EXT_FILE,        // int (int fd, int id)
    STASIS_RESTORE_EXT_FILE,     // int (int id, bool *again): a descriptor
    STASIS_DUMP_EXT_MOUNT,       // int (char *mountpoint, int id)
    STASIS_RESTORE_EXT_MOUNT,    // int (int id, char *mountpoint, char *old_root, int *is_file)
    STASIS_DUMP_EXT_LINK,        // int (int index, int type, char *kind)
    STASIS_HANDLE_DEVICE_VMA,    // int (int fd, const struct stat *)
    STASIS_UPDATE_VMA_MAP,       // int (const char *path, uint64_t address, uint64_t offset, uint64_t *new_offset, int *fd)
    STASIS_RESUME_DEVICES_LATE,  // int (int pid)
    STASIS_PAUSE_DEVICES,        // int (int pid)
    STASIS_CHECKPOINT_DEVICES,   // int (int pid)
    STASIS_POST_FORKING,         // int (void)
    STASIS_RESTORE_INIT,         // int (void)
    STASIS_DUMP_DEVICES_LATE,    // int (int pid)
    STASIS_HOOKS
};

/// The object that a plugin exports under the name CR_PLUGIN_DESC.
struct stasis_plugin {
    const char *name;
    int (*init)(int stage);
    void (*exit)(int stage, int result);
    unsigned int version;    // major << 16 | minor << 8 | sublevel
    unsigned int max_hooks;  // how many places the table has
    void *hooks[STASIS_HOOKS];
};
#define STASIS_PLUGIN_VERSION 0x200

// What a plugin may call.

/// The image directory.
int criu_get_image_dir(void);
/// Writes to the log: 1 error, 2 warning, 3 information, 4 debugging.
void print_on_level(unsigned int level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/// In a dump: the restore needs the plugin of this name.
int add_inventory_plugin(const char *name);
/// In a restore: whether the images need the plugin of this name. One that asks and is not needed is not called any more.
_Bool check_and_remove_inventory_plugin(const char *name, size_t length);
