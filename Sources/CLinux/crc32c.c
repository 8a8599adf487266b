// CRC-32C (Castagnoli polynomial, reflected, as in iSCSI, RFC 3720 B.4), by the CPU's instruction where it has one.
#include "clinux.h"
#include <string.h>

static uint32_t plain(uint32_t crc, const unsigned char *bytes, size_t count) {
    for (; count > 0; bytes++, count--) {
        crc ^= *bytes;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0x82f63b78 & -(crc & 1));
    }
    return crc;
}

#if defined(__x86_64__)
#define BY_CPU __attribute__((target("sse4.2")))
#define STEP8(crc, word) ((uint32_t)__builtin_ia32_crc32di(crc, word))
#define STEP1(crc, byte) __builtin_ia32_crc32qi(crc, byte)
static int cpu_has_it(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__)
#include <sys/auxv.h>
#define BY_CPU __attribute__((target("crc")))
#define STEP8(crc, word) __builtin_arm_crc32cd(crc, word)
#define STEP1(crc, byte) __builtin_arm_crc32cb(crc, byte)
static int cpu_has_it(void) { return (getauxval(AT_HWCAP) & 1 << 7 /* HWCAP_CRC32 */) != 0; }
#endif

#ifdef BY_CPU
static inline uint64_t word_at(const unsigned char *bytes) {
    uint64_t word;
    memcpy(&word, bytes, 8);
    return word;
}

BY_CPU static uint32_t by_cpu(uint32_t crc, const unsigned char *bytes, size_t count) {
    for (; count >= 8; bytes += 8, count -= 8) crc = STEP8(crc, word_at(bytes));
    for (; count > 0; bytes++, count--) crc = STEP1(crc, *bytes);
    return crc;
}

// The instruction takes three cycles, and one can begin in each: four pages at a time keep it busy.
BY_CPU static void four_by_cpu(const unsigned char *pages, uint32_t sums[4]) {
    uint32_t a = ~0u, b = ~0u, c = ~0u, d = ~0u;
    for (size_t at = 0; at < 4096; at += 8) {
        a = STEP8(a, word_at(pages + at));
        b = STEP8(b, word_at(pages + 4096 + at));
        c = STEP8(c, word_at(pages + 8192 + at));
        d = STEP8(d, word_at(pages + 12288 + at));
    }
    sums[0] = ~a, sums[1] = ~b, sums[2] = ~c, sums[3] = ~d;
}
#endif

uint32_t clinux_crc32c(uint32_t before, const void *bytes, size_t count) {
#ifdef BY_CPU
    if (cpu_has_it()) return ~by_cpu(~before, bytes, count);
#endif
    return ~plain(~before, bytes, count);
}

void clinux_crc32c_of_pages(const void *bytes, size_t pages, uint32_t *sums) {
    const unsigned char *next = bytes;
#ifdef BY_CPU
    if (cpu_has_it()) for (; pages >= 4; pages -= 4, next += 4 * 4096, sums += 4) four_by_cpu(next, sums);
#endif
    for (; pages > 0; pages--, next += 4096, sums++) *sums = clinux_crc32c(0, next, 4096);
}
