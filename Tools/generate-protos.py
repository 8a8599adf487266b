#!/usr/bin/env python3
"""Writes Sources/ImageMessages/proto/*.proto from the format's tables.

    Tools/generate-protos.py [--check] [TABLES [PROTO-DIRECTORY]]

TABLES is the folder of messages.tsv and enums.tsv (default: shared/format beside the repository, or $STASIS_FORMAT). With
--check nothing is written: the exit status says whether the committed files are what the tables give.

The tables hold CRIU 4.2's names, numbers, labels and types. `EXTENSIONS` below are Stasis's own fields: numbers from 20000 on,
optional, so that CRIU's readers skip them as unknown fields.
"""

import os
import sys
from collections import OrderedDict

SKIPPED_FILES = {"opts.proto"}  # decoder hints for crit: an extension of google.protobuf.FieldOptions, nothing on disk

# proto file -> messages of our own, each (name, comment, [(label, type, name, number, comment)])
EXTENSION_MESSAGES = {
    "core.proto": [
        ("stasis_thread_ext", "What CRIU 4.2 does not save of a thread.", [
            ("optional", "int64", "restart_nr", 1, "system call number to arm again (restart_syscall(2))"),
            ("repeated", "uint64", "restart_args", 2, "its arguments"),
            ("optional", "uint64", "restart_left_ns", 3, "time that call still had to wait"),
            ("optional", "uint64", "timerslack_ns", 4, "PR_SET_TIMERSLACK"),
            ("repeated", "uint64", "cpu_affinity", 5, "mask words of sched_setaffinity(2), the lowest CPUs first"),
            ("optional", "uint32", "io_priority", 6, "ioprio_set(2)"),
            ("optional", "uint64", "sched_runtime", 7, "SCHED_DEADLINE, ns (sched_setattr(2))"),
            ("optional", "uint64", "sched_deadline", 8, "ns"),
            ("optional", "uint64", "sched_period", 9, "ns"),
            ("optional", "uint64", "no_restart", 10, "the interrupted system call must not be restarted"),
            ("optional", "uint64", "raw_ax", 11, "ax at the stop, before the restart was undone"),
        ]),
        ("stasis_task_ext", "What CRIU 4.2 does not save of a task.", [
            ("optional", "uint32", "mdwe", 1, "PR_SET_MDWE"),
            ("optional", "uint32", "thp_disable_flags", 2, "PR_SET_THP_DISABLE"),
            ("optional", "uint64", "personality", 3, "personality(2), the number itself"),
            ("optional", "int64", "autogroup", 4, "nice value of the autogroup (sched(7))"),
            ("optional", "uint32", "coredump_filter", 5, "/proc/pid/coredump_filter (core(5))"),
            ("optional", "uint32", "session_leader_gone", 6, "1: the leader of its session has exited"),
            ("optional", "uint32", "leader_status", 7, "wait status of the first thread, which has ended while others live on"),
        ]),
    ],
    "mm.proto": [
        ("stasis_vma_name", "A name given to an anonymous mapping (PR_SET_VMA_ANON_NAME).", [
            ("optional", "uint64", "start", 1, "start address of the mapping"),
            ("optional", "string", "name", 2, ""),
        ]),
    ],
    "sk-unix.proto": [
        ("stasis_unix_ext", "SO_PEERCRED of a connected socket: kept by the kernel from connect(2) or listen(2).", [
            ("optional", "uint32", "peer_pid", 1, ""),
            ("optional", "uint32", "peer_uid", 2, ""),
            ("optional", "uint32", "peer_gid", 3, ""),
        ]),
    ],
    "packet-sock.proto": [
        ("stasis_packet_frame", "A part of a packet socket's receive ring.", [
            ("optional", "uint32", "place", 1, "its number in the ring"),
            ("optional", "bytes", "content", 2, "with its header (packet(7))"),
        ]),
    ],
    "sk-opts.proto": [
        ("stasis_socket_option", "A socket option that CRIU 4.2 does not save, as setsockopt(2) takes it.", [
            ("optional", "uint32", "level", 1, ""),
            ("optional", "uint32", "number", 2, ""),
            ("optional", "bytes", "value", 3, ""),
        ]),
    ],
    "fdinfo.proto": [
        ("stasis_io_uring_file", "A slot of an io_uring's registered files.", [
            ("optional", "uint32", "slot", 1, ""),
            ("optional", "uint32", "file_id", 2, ""),
        ]),
        ("stasis_io_uring_buffer", "A slot of its registered buffers.", [
            ("optional", "uint32", "slot", 1, ""),
            ("optional", "uint64", "address", 2, ""),
            ("optional", "uint64", "length", 3, "bytes"),
        ]),
        ("stasis_io_uring_entry", "An idle io_uring (io_uring(7)).", [
            ("optional", "uint32", "id", 1, ""),
            ("optional", "uint32", "flags", 2, "of the descriptor"),
            ("optional", "message fown_entry", "fown", 3, ""),
            ("optional", "uint32", "setup", 4, "IORING_SETUP_*, those that can be learnt"),
            ("optional", "uint32", "submissions", 5, "entries of each ring"),
            ("optional", "uint32", "completions", 6, ""),
            ("optional", "uint32", "done", 7, "requests that were submitted and completed, modulo 2^32"),
            ("repeated", "uint32", "offsets", 8, "in its memory: submission head, tail, array; completion head, tail, entries"),
            ("optional", "bytes", "rings", 9, "their memory"),
            ("optional", "bytes", "entries", 10, "of the submission ring"),
            ("optional", "uint32", "file_slots", 11, ""),
            ("repeated", "message stasis_io_uring_file", "files", 12, ""),
            ("optional", "uint32", "buffer_slots", 13, ""),
            ("repeated", "message stasis_io_uring_buffer", "buffers", 14, ""),
        ]),
    ],
    "pagemap.proto": [
        ("stasis_page_checksums", "Of a pages file: a CRC-32C for each page follows, 4 bytes, in the order of the pages.", [
            ("optional", "string", "pagemap", 1, "the pagemap image that the pages belong to"),
            ("optional", "uint32", "pagemap_crc32c", 2, "of that image"),
            ("optional", "uint64", "pages", 3, "how many"),
            ("optional", "uint32", "crc32c", 4, "of the checksums that follow"),
        ]),
    ],
    "inventory.proto": [
        ("stasis_inventory_ext", "Says that Stasis wrote this image directory.", [
            ("optional", "string", "version", 1, "version of the Stasis that dumped"),
            ("optional", "bool", "check_only", 2, "not to be restored: written by a check"),
            ("repeated", "message ipc_shm_entry", "host_shm", 3, "SysV segments of the host's ipc namespace that the tree had attached"),
            ("optional", "bool", "checksums", 4, "checksums.img belongs to the directory"),
        ]),
        ("stasis_file_checksum", "What an image file held when the dump was done. Of checksums.img itself: the last entry, without a name.", [
            ("optional", "string", "name", 1, ""),
            ("optional", "uint64", "size", 2, "bytes"),
            ("optional", "uint32", "crc32c", 3, "of these bytes"),
        ]),
    ],
}

# proto file -> messages of the plugins that come with CRIU, which the tables do not have: each (name, comment, [(label, type, name, number, comment)])
PLUGIN_MESSAGES = {
    "criu-amdgpu.proto": [
        ("dev_iolink", "A link of a node to another (/sys/class/kfd/kfd/topology/nodes/N/io_links).", [
            ("required", "uint32", "type", 1, ""),
            ("required", "uint32", "node_to_id", 2, ""),
        ]),
        ("kfd_device_entry", "A node of the topology: a GPU, or with gpu_id 0 CPUs.", [
            ("required", "uint32", "node_id", 1, ""),
            ("required", "uint32", "gpu_id", 2, ""),
            ("required", "uint32", "cpu_cores_count", 3, ""),
            ("required", "uint32", "simd_count", 4, ""),
            ("required", "uint32", "mem_banks_count", 5, ""),
            ("required", "uint32", "caches_count", 6, ""),
            ("required", "uint32", "io_links_count", 7, ""),
            ("required", "uint32", "max_waves_per_simd", 8, ""),
            ("required", "uint32", "lds_size_in_kb", 9, ""),
            ("required", "uint32", "gds_size_in_kb", 10, ""),
            ("required", "uint32", "num_gws", 11, ""),
            ("required", "uint32", "wave_front_size", 12, ""),
            ("required", "uint32", "array_count", 13, ""),
            ("required", "uint32", "simd_arrays_per_engine", 14, ""),
            ("required", "uint32", "cu_per_simd_array", 15, ""),
            ("required", "uint32", "simd_per_cu", 16, ""),
            ("required", "uint32", "max_slots_scratch_cu", 17, ""),
            ("required", "uint32", "vendor_id", 18, ""),
            ("required", "uint32", "device_id", 19, ""),
            ("required", "uint32", "domain", 20, ""),
            ("required", "uint32", "drm_render_minor", 21, ""),
            ("required", "uint64", "hive_id", 22, ""),
            ("required", "uint32", "num_sdma_engines", 23, ""),
            ("required", "uint32", "num_sdma_xgmi_engines", 24, ""),
            ("required", "uint32", "num_sdma_queues_per_engine", 25, ""),
            ("required", "uint32", "num_cp_queues", 26, ""),
            ("required", "uint32", "fw_version", 27, ""),
            ("required", "uint32", "capability", 28, ""),
            ("required", "uint32", "sdma_fw_version", 29, ""),
            ("required", "uint32", "vram_public", 30, ""),
            ("required", "uint64", "vram_size", 31, ""),
            ("repeated", "message dev_iolink", "iolinks", 32, ""),
        ]),
        ("kfd_bo_entry", "A buffer; its content is in amdgpu-pages-ID-GPU.img.", [
            ("required", "uint64", "addr", 1, ""),
            ("required", "uint64", "size", 2, ""),
            ("required", "uint64", "offset", 3, ""),
            ("required", "uint32", "alloc_flags", 4, ""),
            ("required", "uint32", "gpu_id", 5, ""),
        ]),
        ("criu_kfd", "amdgpu-kfd-ID.img: what a process has on its GPUs.", [
            ("required", "uint32", "pid", 1, ""),
            ("required", "uint32", "num_of_gpus", 2, ""),
            ("required", "uint32", "num_of_cpus", 3, ""),
            ("repeated", "message kfd_device_entry", "device_entries", 4, ""),
            ("required", "uint64", "num_of_bos", 5, ""),
            ("repeated", "message kfd_bo_entry", "bo_entries", 6, ""),
            ("required", "uint32", "num_of_objects", 7, ""),
            ("required", "uint64", "shared_mem_size", 8, ""),
            ("required", "uint32", "shared_mem_magic", 9, ""),
            ("required", "bytes", "priv_data", 10, ""),
        ]),
        ("criu_render_node", "amdgpu-renderD-ID.img.", [
            ("required", "uint32", "gpu_id", 1, ""),
        ]),
    ],
}

# enum -> values of our own
EXTENSION_VALUES = {"fd_types": [("STASIS_IO_URING", 20000)]}

# message -> fields of our own in CRIU's message: (label, type, name, number, comment)
EXTENSIONS = {
    "pagemap_head": [
        ("optional", "uint32", "compression", 20000, "the pages are in compressed-<pages_id>.img: 1 zstd, 2 LZ4"),
        ("optional", "uint32", "region_pages", 20001, "pages compressed together; the last region may have fewer"),
        ("repeated", "uint64", "region_offset", 20002, "where each region begins in that file, bytes"),
        ("repeated", "uint32", "region_bytes", 20003, "and how long it is there; as long as its pages: stored as they are"),
    ],
    "thread_core_entry": [("optional", "message stasis_thread_ext", "stasis", 20000, "")],
    "task_core_entry": [("optional", "message stasis_task_ext", "stasis", 20000, "")],
    "eventfd_file_entry": [("optional", "bool", "semaphore", 20000, "made with EFD_SEMAPHORE")],
    "pipe_entry": [
        ("optional", "uint32", "size", 20000, "pipe buffer, bytes (F_GETPIPE_SZ)"),
        ("optional", "uint32", "uid", 20001, "owner: who may open it again through /proc/PID/fd"),
        ("optional", "uint32", "gid", 20002, ""),
        ("optional", "uint32", "mode", 20003, "permission bits"),
    ],
    "fifo_entry": [("optional", "uint32", "size", 20000, "pipe buffer, bytes (F_GETPIPE_SZ)")],
    "pipe_data_entry": [("repeated", "uint32", "packets", 20000, "packet mode (O_DIRECT): length of each packet; with the top bit set of bytes that are no packet")],
    "netns_entry": [("repeated", "string", "sysctls", 20000, "NAME=VALUE of what was set below /proc/sys/net besides the fields above: ipv4/ip_default_ttl=58")],
    "net_device_entry": [("optional", "bytes", "bridge", 20000, "attributes of a bridge (IFLA_BR_*) that can be set")],
    "mm_entry": [("repeated", "message stasis_vma_name", "vma_names", 20000, "")],
    "timerfd_entry": [("optional", "uint64", "absolute_ns", 20000, "expiry on the timer's own clock, for an absolute timer")],
    "posix_timer_entry": [("optional", "bool", "pending_rearm", 20000, "its signal is queued and rearms it when delivered")],
    "unix_sk_entry": [("optional", "message stasis_unix_ext", "stasis", 20000, "")],
    "sk_packet_entry": [
        ("optional", "bytes", "sender", 20000, "sun_path of the unix socket it came from"),
        ("repeated", "uint32", "credentials", 20001, "pid, uid and gid of the sender (SCM_CREDENTIALS)"),
    ],
    "sk_opts_entry": [
        ("repeated", "message stasis_socket_option", "extra", 20000, "options that differ from a new socket's, in the order to set them"),
        ("optional", "uint32", "owner_uid", 20001, "of the socket's inode: who may share its port (SO_REUSEPORT)"),
        ("optional", "uint32", "owner_gid", 20002, ""),
    ],
    "netlink_sk_entry": [("optional", "uint32", "type", 20000, "SOCK_RAW or SOCK_DGRAM")],
    "packet_sock_entry": [
        ("optional", "uint32", "rx_next", 20000, "frame (version 3: block) of the ring that the kernel fills next"),
        ("repeated", "message stasis_packet_frame", "unread", 20001, "frames (version 3: blocks) that the program has not given back"),
    ],
    "tunfile_entry": [
        ("optional", "message tun_link_entry", "link", 20000, "the device, where the dump has no image of its network namespace"),
        ("optional", "uint32", "mtu", 20001, ""),
        ("optional", "bytes", "address", 20002, "hardware address"),
        ("optional", "uint32", "flags", 20003, "IFF_* of the device"),
        ("optional", "uint32", "ifindex", 20004, ""),
        ("repeated", "bytes", "addresses", 20005, "its addresses: RTM_NEWADDR messages (rtnetlink(7)) without their headers"),
        ("repeated", "bytes", "routes", 20006, "routes over it: RTM_NEWROUTE messages without their headers"),
    ],
    "file_entry": [("optional", "message stasis_io_uring_entry", "ring", 20000, "")],
    "reg_file_entry": [("optional", "bytes", "digest", 20000, "of the file's content, to recognise a changed file")],
    "inventory_entry": [("optional", "message stasis_inventory_ext", "stasis", 20000, "")],
}

# message -> the name of a oneof that takes all its optional messages: where an entry holds one thing of many kinds. On disk it is the same; in memory it
# takes the room of one kind, not of all.
ONE_OF = {"file_entry": "content"}


def rows(path, width):
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file if not line.startswith("#")]
    for line in lines[1:]:  # the first row names the columns
        if line:
            yield (line.split("\t") + [""] * width)[:width]


class ProtoFile:
    def __init__(self, name):
        self.name = name
        self.enums = OrderedDict()  # name -> [(case, number)]; nested ones are "Message.Enum"
        self.messages = OrderedDict()  # name -> [(label, type, name, number, default, comment)]
        self.notes = {}  # of messages of our own
        self.comments = {}


def read_tables(folder):
    files = OrderedDict()

    def file(name):
        return files.setdefault(name, ProtoFile(name))

    for proto, enum, case, number in rows(os.path.join(folder, "enums.tsv"), 4):
        if proto not in SKIPPED_FILES:
            file(proto).enums.setdefault(enum, []).append((case, int(number)))
    for proto, message, number, label, kind, name, default, _ in rows(os.path.join(folder, "messages.tsv"), 8):
        if proto in SKIPPED_FILES:
            continue
        fields = file(proto).messages.setdefault(message, [])
        if name:
            fields.append((label.split()[0], kind, name, int(number), default, ""))
    for proto, messages in EXTENSION_MESSAGES.items():
        for name, comment, fields in messages:
            files[proto].notes[name] = comment
            files[proto].messages[name] = [(l, k, n, i, "", c) for l, k, n, i, c in fields]
    for proto, messages in PLUGIN_MESSAGES.items():
        for name, comment, fields in messages:
            file(proto).comments[name] = comment
            file(proto).messages[name] = [(l, k, n, i, "", c) for l, k, n, i, c in fields]
    for proto in files.values():
        for enum, values in EXTENSION_VALUES.items():
            if enum in proto.enums:
                proto.enums[enum] += values
        for message, fields in EXTENSIONS.items():
            if message in proto.messages:
                proto.messages[message] += [(l, k, n, i, "", c) for l, k, n, i, c in fields]
    return files


def homes(files):
    found = {}
    for proto in files.values():
        for name in list(proto.messages) + [enum for enum in proto.enums if "." not in enum]:
            if name in found:
                sys.exit(f"{name} is defined in {found[name]} and in {proto.name}")
            found[name] = proto.name
    return found


def render(proto, home):
    imports = set()

    def type_name(kind):
        if " " not in kind:
            return kind
        name = kind.split(" ", 1)[1]
        owner = home.get(name) or home[name.split(".")[0]]
        if owner != proto.name:
            imports.add(owner)
        return "." + name

    body = []

    def enum(name, cases, indent):
        body.append(f"{indent}enum {name} {{")
        body.extend(f"{indent}    {case} = {number};" for case, number in cases)
        body.append(f"{indent}}}")

    for name, cases in proto.enums.items():
        if "." not in name:
            body.append("")
            enum(name, cases, "")
    for message, fields in proto.messages.items():
        body.append("")
        if message in proto.notes:
            body.append(f"// Stasis's own. {proto.notes[message]}")
        if message in proto.comments:
            body.append(f"// {proto.comments[message]}")
        body.append(f"message {message} {{")
        for name, cases in proto.enums.items():
            if name.startswith(message + "."):
                enum(name.split(".")[1], cases, "    ")

        def field(label, kind, name, number, default, comment, indent="    "):
            if comment:
                body.append(f"{indent}// {comment}")
            value = f" [default = {default}]" if default else ""
            own = "  // Stasis's own" if number >= 20000 else ""
            body.append(f"{indent}{label}{type_name(kind)} {name} = {number}{value};{own}")

        in_order = sorted(fields, key=lambda field: field[3])
        chosen = [row for row in in_order if message in ONE_OF and row[0] == "optional" and row[1].startswith("message ")]
        for label, *row in in_order:
            if (label, *row) not in chosen:
                field(label + " ", *row)
        if chosen:
            body.append(f"    oneof {ONE_OF[message]} {{")
            for _, *row in chosen:
                field("", *row, indent="        ")
            body.append("    }")
        body.append("}")
    head = ["// Written by Tools/generate-protos.py from the format's tables; do not edit.", 'syntax = "proto2";']
    if imports:
        head.append("")
        head.extend(f'import "{name}";' for name in sorted(imports))
    return "\n".join(head + body) + "\n"


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--check"]
    check = len(arguments) != len(sys.argv) - 1
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    tables = arguments[0] if arguments else os.environ.get("STASIS_FORMAT", os.path.join(os.path.dirname(root), "shared", "format"))
    output = arguments[1] if len(arguments) > 1 else os.path.join(root, "Sources", "ImageMessages", "proto")
    if not os.path.exists(os.path.join(tables, "messages.tsv")):
        if check:
            print(f"generate-protos: no tables at {tables}, nothing checked")
            return
        sys.exit(f"generate-protos: no messages.tsv in {tables}")
    files = read_tables(tables)
    home = homes(files)
    wanted = {proto.name: render(proto, home) for proto in files.values() if proto.messages or proto.enums}
    present = {name for name in os.listdir(output) if name.endswith(".proto")}
    wrong = []
    for name in sorted(present | set(wanted)):
        path = os.path.join(output, name)
        text = None
        if name in present:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        if text == wanted.get(name):
            continue
        wrong.append(name)
        if check:
            continue
        if name in wanted:
            with open(path, "w", encoding="utf-8") as file:
                file.write(wanted[name])
        else:
            os.remove(path)
    if check and wrong:
        sys.exit("generate-protos: not what the tables give: " + ", ".join(wrong))
    print(f"generate-protos: {len(wanted)} files, {len(wrong)} {'differ' if check else 'written'}")


if __name__ == "__main__":
    main()
