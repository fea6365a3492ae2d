/* What all sources of the edge's native arithmetic share. C99, no Python; loaded by kinedge/edge/native/loader.py.
 *
 * Rules: numpy does the same beside each function, and a test holds both together bit by bit, so sums run in one order
 * and nothing is contracted or reassociated (setup.py names the flags; tcn.c has no numpy beside it, and its own rules).
 * A function takes the size of all it touches, allocates nothing and keeps nothing.
 */
#ifndef KINEDGE_NATIVE_H
#define KINEDGE_NATIVE_H

#include <stddef.h>
#include <stdint.h>

/* The slots of one sensor of everybody: see kinedge_interpolate, and edge/native/hops.py, which fills it in. While not
 * some_invalid all are valid; while not some_saturated none is saturated. */
typedef struct {
    int64_t *time, *n, *held, *last;
    const int64_t *interval, *widths;
    float *values;
    uint8_t *valid, *saturated;
    int64_t n_slots, n_channels, some_invalid, some_saturated;
} kinedge_slots;

#define API __attribute__((visibility("default")))

/* One function for each width of vectors, chosen when the library is loaded: a wheel must run on every x86-64. NEON is
 * part of aarch64. Wider vectors give the same bits, because the order of every sum is written out. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

#endif
