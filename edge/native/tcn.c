/* One step of the forecaster: a dilated causal TCN, with or without a linear skip, over kept state.
 *
 * A row is one sample of one stream. Each output is summed over its inputs in their order, one row like another, so
 * neither chunks nor company change a bit; four rows at a time only load each weight once for all of them.
 */
#include "tcn.h"

#include <string.h>

#define LANES 8
#define ROWS 64 /* that are carried through all layers at a time: they and one layer's weights fit the first cache */
#define MAX_TAPS 64
#define MAX_BLOCKS 32
#define PADDED(n) (((n) + LANES - 1) / LANES * LANES)

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

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

static inline __attribute__((always_inline)) void tile(
    int n_rows, int n_lanes, const float *taps[][MAX_TAPS], const struct layer *l, int64_t column, int add, float **out)
{
    lanes sum[4][3];
    const int64_t stride = PADDED(l->n);
    const float *w = l->weight + column;
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_lanes; v++)
            sum[r][v] = (lanes){0};
    for (int64_t k = 0; k < l->n_taps; k++) {
        const float *row[4];
        for (int r = 0; r < n_rows; r++)
            row[r] = taps[r][k];
        for (int64_t i = 0; i < l->length; i++, w += stride)
            for (int r = 0; r < n_rows; r++)
                for (int v = 0; v < n_lanes; v++)
                    sum[r][v] += *(const lanes *)(w + LANES * v) * row[r][i];
    }
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_lanes; v++) {
            lanes *to = (lanes *)(out[r] + column + LANES * v);
            lanes total = sum[r][v];
            if (l->bias)
                total += *(const lanes *)(l->bias + column + LANES * v);
            if (add)
                total += *to;
            *to = total;
        }
}

static inline __attribute__((always_inline)) void rows_of(
    int n_rows, const float *taps[][MAX_TAPS], const struct layer *l, int add, float **out)
{
    int64_t column = 0, padded = PADDED(l->n);
    for (; column + 3 * LANES <= padded; column += 3 * LANES)
        tile(n_rows, 3, taps, l, column, add, out);
    if (column + 2 * LANES <= padded)
        tile(n_rows, 2, taps, l, column, add, out);
    else if (column + LANES <= padded)
        tile(n_rows, 1, taps, l, column, add, out);
}

/* A line of a group: for each stream `kept` past rows in the state and n_samples new ones elsewhere. */
struct line {
    const float *past, *now;
    int64_t past_stride, now_stride, kept, dilation;
};

static inline __attribute__((always_inline)) void product(
    const struct layer *l, const struct line *line, const float *second, int64_t n_streams, int64_t n_samples, int add,
    float *to)
{
    const float *taps[4][MAX_TAPS];
    float *out[4];
    const int64_t n_rows = n_streams * n_samples, stride = PADDED(l->n);
    int64_t s = 0, t = 0;
    for (int64_t first = 0; first < n_rows;) {
        const int64_t left = n_rows - first;
        const int n = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        for (int r = 0; r < n; r++) {
            const float *now = line->now + s * line->now_stride;
            if (second) { /* the mask beside the sample */
                taps[r][0] = now + t * l->length;
                taps[r][1] = second + s * line->now_stride + t * l->length;
            } else {
                const float *past = line->past + s * line->past_stride;
                for (int64_t k = 0; k < l->n_taps; k++) {
                    const int64_t at = t + k * line->dilation;
                    taps[r][k] = at < line->kept ? past + at * l->length : now + (at - line->kept) * l->length;
                }
            }
            out[r] = to + (first + r) * stride;
            if (++t == n_samples) {
                t = 0;
                s++;
            }
        }
        if (n == 4)
            rows_of(4, taps, l, add, out);
        else if (n == 2)
            rows_of(2, taps, l, add, out);
        else
            rows_of(1, taps, l, add, out);
        first += n;
    }
}

/* Keep the last rows of a line; the state may be written where it is read. */
static void remember(const struct line *line, int64_t length, int64_t n_streams, int64_t n_samples, float *to)
{
    for (int64_t s = 0; s < n_streams; s++) {
        const float *past = line->past + s * line->past_stride, *now = line->now + s * line->now_stride;
        float *kept = to + s * line->past_stride;
        const int64_t old = line->kept > n_samples ? line->kept - n_samples : 0, new = line->kept - old;
        if (old)
            memmove(kept, past + n_samples * length, (size_t)(old * length) * sizeof(float));
        memcpy(kept + old * length, now + (n_samples - new) * length, (size_t)(new * length) * sizeof(float));
    }
}

static inline __attribute__((always_inline)) void positive(const float *h, int64_t n_rows, int64_t n, float *to)
{
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t j = 0; j < n; j++) {
            const float v = h[r * PADDED(n) + j];
            to[r * n + j] = v < 0 ? 0 : v; /* NaN stays */
        }
}

/* A few samples of a few streams, ROWS at most, through all layers. Strides are from stream to stream. */
WIDE static void group(
    const struct shape *m, const float *w, int64_t n_streams, int64_t n_samples, const float *x, const float *mask,
    int64_t x_stride, const float *state, float *state_out, int64_t state_size, float *mu, float *log_sigma,
    int64_t out_stride, float *scratch)
{
    const int64_t n_rows = n_streams * n_samples, c = m->n_channels, width = m->width, n_out = m->n_outputs;
    const int64_t first = m->var_order ? (m->var_order - 1) * c : 0;
    float *h = scratch, *active = h + ROWS * PADDED(width), *head = active + ROWS * width;
    float *linear = head + ROWS * PADDED(2 * n_out);

    struct layer l = {w + PADDED(width), w, 2, c, width};
    struct line line = {0, x, 0, x_stride, 0, 0};
    product(&l, &line, mask, n_streams, n_samples, 0, h);
    w = l.weight + 2 * c * PADDED(width);

    int64_t at = first;
    for (int64_t b = 0; b < m->n_blocks; b++) {
        positive(h, n_rows, width, active);
        l = (struct layer){w + PADDED(width), w, m->kernel, width, width};
        line = (struct line){
            state + at, active, state_size, n_samples * width, (m->kernel - 1) * m->dilations[b], m->dilations[b]};
        product(&l, &line, 0, n_streams, n_samples, 1, h);
        remember(&line, width, n_streams, n_samples, state_out + at);
        w = l.weight + m->kernel * width * PADDED(width);
        at += line.kept * width;
    }

    positive(h, n_rows, width, active);
    l = (struct layer){w + PADDED(2 * n_out), w, 1, width, 2 * n_out};
    line = (struct line){0, active, 0, n_samples * width, 0, 0};
    product(&l, &line, 0, n_streams, n_samples, 0, head);
    w = l.weight + width * PADDED(2 * n_out);

    if (m->var_order) {
        l = (struct layer){w, 0, m->var_order, c, n_out};
        line = (struct line){state, x, state_size, x_stride, m->var_order - 1, 1};
        product(&l, &line, 0, n_streams, n_samples, 0, linear);
        remember(&line, c, n_streams, n_samples, state_out);
        w += m->var_order * c * PADDED(n_out);
    }
    const float low = w[0], high = w[1];
    for (int64_t s = 0, r = 0; s < n_streams; s++)
        for (int64_t t = 0; t < n_samples; t++, r++) {
            const float *row = head + r * PADDED(2 * n_out);
            float *location = mu + s * out_stride + t * n_out, *scale = log_sigma + s * out_stride + t * n_out;
            if (m->var_order)
                for (int64_t j = 0; j < n_out; j++)
                    location[j] = linear[r * PADDED(n_out) + j] + row[j];
            else
                memcpy(location, row, (size_t)n_out * sizeof(float));
            for (int64_t j = 0; j < n_out; j++) {
                const float v = row[n_out + j] < low ? low : row[n_out + j]; /* NaN stays */
                scale[j] = v > high ? high : v;
            }
        }
}

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

    const int64_t at_once = n_samples < ROWS ? ROWS / n_samples : 1;
    const int64_t x_stride = n_samples * m.n_channels, out_stride = n_samples * m.n_outputs;
    for (int64_t s = 0; s < n_streams; s += at_once) {
        const int64_t n = n_streams - s < at_once ? n_streams - s : at_once;
        const float *from = of->state + s * state_size;
        float *into = of->state_out + s * state_size;
        for (int64_t t = 0; t < n_samples; t += ROWS) {
            const int64_t length = n_samples - t < ROWS ? n_samples - t : ROWS;
            const int64_t at = s * x_stride + t * m.n_channels, to = s * out_stride + t * m.n_outputs;
            group(
                &m, of->weights, n, length, of->x + at, of->mask + at, x_stride, from, into, state_size, of->mu + to,
                of->log_sigma + to, out_stride, of->scratch);
            from = into;
        }
    }
    return 0;
}
