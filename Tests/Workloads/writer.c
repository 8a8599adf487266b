// Writes at random, with known content, while it is pre-dumped and dumped: every byte is checked.
#include "workload.h"

enum { page = 4096, most = 65536, chunk = 16 };

static int pages = 2048, chunks;   // or as many as the first argument says, then all written
static char *place[most / chunk];  // where each chunk of pages is now
static uint32_t version[most];     // 0: zeros; otherwise filled with seed_of()
static uint64_t state = 88172645463325252u;

static uint64_t chance(void) {  // xorshift
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}
static uint64_t seed_of(int number) { return (uint64_t)number << 32 | version[number]; }
static char *at(int number) { return place[number / chunk] + (size_t)(number % chunk) * page; }

static void check_page(int number) {
    static const char zeros[page];
    if (version[number] == 0) check(memcmp(at(number), zeros, page) == 0, "page %d at %p is not zero", number, (void *)at(number));
    else check_filled(at(number), page, seed_of(number), "a page");
}

static void forget(int first, int count) {
    for (int i = first; i < first + count; i++) version[i] = 0;
}

static void check_all(void *nothing) {
    (void)nothing;
    for (int i = 0; i < pages; i++) check_page(i);
}

static void change(void) {
    int number = chance() % pages, piece = number / chunk;
    switch (chance() % 200) {
    case 0:  // thrown away: zeros
        must(madvise(at(number), page, MADV_DONTNEED));
        forget(number, 1);
        break;
    case 1: {  // another mapping in the same place
        must(mmap(place[piece], chunk * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
        forget(piece * chunk, chunk);
        break;
    }
    case 2: {  // the same pages elsewhere, and others where they were
        int other = chance() % chunks;
        if (other == piece) break;
        char *free = must((char *)mmap(NULL, chunk * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        char *was = place[piece];
        must((char *)mremap(place[piece], chunk * page, chunk * page, MREMAP_MAYMOVE | MREMAP_FIXED, free));
        place[piece] = must((char *)mremap(place[other], chunk * page, chunk * page, MREMAP_MAYMOVE | MREMAP_FIXED, was));
        place[other] = free;
        for (int i = 0; i < chunk; i++) {  // contents changed places
            uint32_t kept = version[piece * chunk + i];
            version[piece * chunk + i] = version[other * chunk + i];
            version[other * chunk + i] = kept;
        }
        for (int i = 0; i < chunk; i++) {  // and are written anew, because their seed has their number
            for (int both = 0; both < 2; both++) {
                int moved = (both ? other : piece) * chunk + i;
                if (version[moved]) fill(at(moved), page, seed_of(moved));
            }
        }
        break;
    }
    case 3: {  // closed and opened
        must(mprotect(place[piece], chunk * page, PROT_NONE));
        must(mprotect(place[piece], chunk * page, PROT_READ | PROT_WRITE));
        break;
    }
    case 4: {  // copied on write from here
        pid_t child = fork_child(check_all, NULL);
        version[number]++;
        fill(at(number), page, seed_of(number));
        reap(child);
        break;
    }
    default:
        check_page(number);
        version[number]++;
        fill(at(number), page, seed_of(number));
    }
}

WORKLOAD(memory_writer, "writes at random all the time: no write is lost between pre-dumps, dump and restore") {
    if (argc > 1) pages = atoi(argv[1]);
    check(pages > 0 && pages <= most && pages % chunk == 0, "at most %d pages", most);
    chunks = pages / chunk;
    int file = must(open("backing", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    must(ftruncate(file, chunk * page));
    for (int i = 0; i < chunks; i++) {  // a quarter of them private mappings of a file of zeros
        place[i] = must((char *)mmap(NULL, chunk * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | (i % 4 ? MAP_ANONYMOUS : 0), i % 4 ? -1 : file, 0));
    }
    for (int i = 0; i < pages; i += argc > 1 ? 1 : 2) {
        version[i] = 1;
        fill(at(i), page, seed_of(i));
    }
    say_ready();
    for (int i = 0; !may_go(); i++) {
        for (int n = 0; n < 32; n++) change();
        pause_ms(1);
    }
    check_all(NULL);
    for (int n = 0; n < 2000; n++) change();
    check_all(NULL);
}
