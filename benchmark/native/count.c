/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A plugin of QEMU that counts the A64 instructions a program executes, by class, between its getppid calls: a line of
 * JSON per call goes to the file named by out=. It is part of nothing else here: built apart, loaded by QEMU alone.
 *
 * The classes follow the encoding tables of the Arm Architecture Reference Manual, C4.1.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* What is used of QEMU's plugin interface, version 1 (QEMU 4.2 to 8.x). */
typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*called_t)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                         uint64_t, uint64_t, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_t);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, called_t);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { GETPPID = 173 }; /* of aarch64 */
enum class { ALL, LOAD, STORE, BRANCH, INTEGER, FMLA, DOT, MMLA, MULTIPLY_LONG, SIMD, SVE, CLASSES };
static const char *const names[CLASSES] = {"insn", "load", "store", "branch",        "int", "fmla",
                                           "dot",  "mmla", "mlal",  "simd_other", "sve_sme"};
static uint64_t counts[CLASSES], before[CLASSES];
static FILE *out;

static bool matches(uint32_t word, uint32_t mask, uint32_t value) { return (word & mask) == value; }

static enum class classify_memory(uint32_t word) {
    if (matches(word, 0x3b000000, 0x18000000)) return LOAD; /* literal */
    if (matches(word, 0x3a000000, 0x38000000) && !matches(word, 0x04000000, 0x04000000))
        return (word >> 22) & 3 ? LOAD : STORE; /* one general register: any opc but 00 loads */
    return (word >> 22) & 1 ? LOAD : STORE;     /* pairs, SIMD registers and structures: bit L */
}

static enum class classify_simd(uint32_t word) {
    if (matches(word, 0xbfa0fc00, 0x0e20cc00) || matches(word, 0xbf80f400, 0x0f801000)) return FMLA;
    if (matches(word, 0x9f20fc00, 0x0e009400) || matches(word, 0x9f00f400, 0x0f00e000)) return DOT;
    if (matches(word, 0xbfa0fc00, 0x0e809c00) || matches(word, 0xbf00f400, 0x0f00f000)) return DOT; /* usdot, sudot */
    if (matches(word, 0xdfe0f400, 0x4e80a400)) return MMLA;
    if (matches(word, 0x9f20dc00, 0x0e208000) || matches(word, 0x9f20fc00, 0x0e20c000)) return MULTIPLY_LONG;
    if (matches(word, 0x9f00f400, 0x0f002000) || matches(word, 0x9f00f400, 0x0f00a000)) return MULTIPLY_LONG;
    return SIMD;
}

static enum class classify(uint32_t word) {
    unsigned group = (word >> 25) & 15;
    if (group == 0 || group == 2) return SVE;
    if ((group & 14) == 8 || (group & 7) == 5) return INTEGER;
    if ((group & 14) == 10) return BRANCH;
    if ((group & 5) == 4) return classify_memory(word);
    return classify_simd(word);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    uint64_t found[CLASSES] = {0};
    size_t length = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < length; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        found[classify(word)]++;
    }
    found[ALL] = length;
    for (int i = 0; i < CLASSES; i++)
        if (found[i]) qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &counts[i], found[i]);
}

static void called(qemu_plugin_id_t id, unsigned int cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    if (number != GETPPID) return;
    for (int i = 0; i < CLASSES; i++) {
        fprintf(out, "%s\"%s\": %" PRIu64, i ? ", " : "{", names[i], counts[i] - before[i]);
        before[i] = counts[i];
    }
    fprintf(out, "}\n");
    fflush(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int count,
                                                               char **words) {
    for (int i = 0; i < count; i++)
        if (strncmp(words[i], "out=", 4) == 0) out = fopen(words[i] + 4, "w");
    if (!out) {
        fprintf(stderr, "count: out= must name a file that can be written\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
