/* One step of the forecaster: a dilated causal TCN, with or without a linear skip, over kept state.
 *
 * A row is one sample of one stream. Each output is summed over its inputs in their order, one row like another, so
 * neither chunks nor company change a bit; several rows at a time only load each weight once for all of them. Products
 * are fused with their sums where the processor can (every aarch64, x86-64 with AVX2 and FMA): all of these give the
 * same bits, and an x86-64 that cannot gives others, within the promise of parity.
 */
#include "tcn.h"

#include <string.h>

/* Against setup.py's flags, and in this file alone: numpy has no step of its own that must give the same bits. */
#ifdef __clang__
#pragma STDC FP_CONTRACT ON
#else
#pragma GCC optimize("fp-contract=fast")
#endif

#define LANES 8 /* rows of weights are padded to so many numbers */
#define ROWS 64 /* that are carried through all layers at a time: they and one layer's weights fit the first cache */
#define MAX_TAPS 64
#define MAX_BLOCKS 32
#define PADDED(n) (((n) + LANES - 1) / LANES * LANES)

struct shape {
    int64_t n_channels, width, n_outputs, kernel, var_order, n_blocks;
    const int64_t *dilations;
};

/* What a layer sees of a sample: rows of `length` numbers, `dilation` samples apart, the last one being now. */
struct layer {
    const float *weight; /* (n_taps * length, PADDED(n)) */
    const float *bias;   /* PADDED(n), or none */
    int64_t n_taps, length, n;
};

/* A line of a group: for each stream `kept` past rows in its row of the state and n_samples new ones elsewhere. */
struct line {
    const float *past, *now;
    const int64_t *rows;
    int64_t past_stride, now_stride, kept, dilation;
};

static inline int64_t row_of(const struct line *line, int64_t s)
{
    return (line->rows ? line->rows[s] : s) * line->past_stride;
}

/* Keep the last rows of a line; the state may be written where it is read. */
static void remember(const struct line *line, int64_t length, int64_t n_streams, int64_t n_samples, float *to)
{
    for (int64_t s = 0; s < n_streams; s++) {
        const float *past = line->past + row_of(line, s), *now = line->now + s * line->now_stride;
        float *kept = to + row_of(line, s);
        const int64_t old = line->kept > n_samples ? line->kept - n_samples : 0, new = line->kept - old;
        if (old)
            memmove(kept, past + n_samples * length, (size_t)(old * length) * sizeof(float));
        memcpy(kept + old * length, now + (n_samples - new) * length, (size_t)(new * length) * sizeof(float));
    }
}

/* Vectors that the processor does not have would go through memory, many times slower: each has its own width. */
#if defined(__x86_64__) && !defined(KINEDGE_NARROW) /* which is for tests: most processors have no use for it */
#define TWO_WIDTHS
#endif

#define VECTOR 4
#define TARGET
#define FOR(name) name##_narrow
#ifdef __x86_64__
#define AT_ONCE 2 /* of 16 registers; aarch64 has 32 */
#else
#define AT_ONCE 3
#endif
#include "tcn_layers.h"

#ifdef TWO_WIDTHS
#define VECTOR 8
#define AT_ONCE 4
#define TARGET __attribute__((target("avx2,fma")))
#define FOR(name) name##_wide
#include "tcn_layers.h"
#endif

API int kinedge_tcn(const struct kinedge_tcn *of, int64_t n_streams)
{
    const int64_t most = 4096, longest = 1 << 20;
    if (of->n_shape < 6 || of->n_shape > 5 + MAX_BLOCKS)
        return 1;
    const int64_t *shape = of->shape, n_samples = of->n_samples, state_size = of->state_size;
    const struct shape m = {shape[0], shape[1], shape[2], shape[3], shape[4], of->n_shape - 5, shape + 5};
    if (m.n_channels < 1 || m.n_channels > most || m.width < 1 || m.width > most || m.n_outputs < 1 ||
        m.n_outputs > most || m.kernel < 2 || m.kernel > MAX_TAPS || m.var_order < 0 || m.var_order == 1 ||
        m.var_order > MAX_TAPS)
        return 1;
    int64_t in_state = m.var_order ? (m.var_order - 1) * m.n_channels : 0;
    for (int64_t b = 0; b < m.n_blocks; b++) {
        if (m.dilations[b] < 1 || m.dilations[b] > longest)
            return 1;
        in_state += (m.kernel - 1) * m.dilations[b] * m.width;
    }
    if (of->n_weights != (1 + 2 * m.n_channels) * PADDED(m.width) +
                         m.n_blocks * (1 + m.kernel * m.width) * PADDED(m.width) +
                         (1 + m.width) * PADDED(2 * m.n_outputs) +
                         m.var_order * m.n_channels * PADDED(m.n_outputs) + 2)
        return 2;
    if (state_size != in_state)
        return 3;
    if (of->n_scratch < ROWS * (PADDED(m.width) + m.width + PADDED(2 * m.n_outputs) + PADDED(m.n_outputs)))
        return 4;
    if (n_streams < 0 || n_samples < 1)
        return 5;
    for (int64_t s = 0; of->rows && s < n_streams; s++)
        if (of->rows[s] < 0 || of->rows[s] >= of->n_rows)
            return 6;

    void (*group)(
        const struct shape *, const float *, int64_t, int64_t, const float *, const float *, int64_t, const int64_t *,
        const float *, float *, int64_t, float *, float *, int64_t, float *) = group_narrow;
#ifdef TWO_WIDTHS
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        group = group_wide;
#endif
    const int64_t at_once = n_samples < ROWS ? ROWS / n_samples : 1;
    const int64_t x_stride = n_samples * m.n_channels, out_stride = n_samples * m.n_outputs;
    for (int64_t s = 0; s < n_streams; s += at_once) {
        const int64_t n = n_streams - s < at_once ? n_streams - s : at_once;
        const int64_t *rows = of->rows ? of->rows + s : 0, first = rows ? 0 : s * state_size;
        const float *from = of->state + first;
        float *into = of->state_out + first;
        for (int64_t t = 0; t < n_samples; t += ROWS) {
            const int64_t length = n_samples - t < ROWS ? n_samples - t : ROWS;
            const int64_t at = s * x_stride + t * m.n_channels, to = s * out_stride + t * m.n_outputs;
            group(
                &m, of->weights, n, length, of->x + at, of->mask + at, x_stride, rows, from, into, state_size,
                of->mu + to, of->log_sigma + to, out_stride, of->scratch);
            from = into;
        }
    }
    return 0;
}
