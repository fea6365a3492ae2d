/* From surprise per sample to scores per block, for some streams, whose states are written where they are.
 *
 * kinedge/edge/scores.py does the same in numpy, and says why; here is only how.
 */
#include <string.h>

#include "four.h"
#include "sums.h"

/* As kinedge/edge/native/blocks.py fills it in: every field is eight bytes, in this order. */
typedef struct kinedge_blocks {
    /* sizes: streams of this step, rows of the state; whether each stream has its own diagonal */
    int64_t n_streams, n_rows, hop, n_channels, n_sensors, n_hops, own_diagonal;
    double scored_from, flat_below, floor;
    /* of the model: starts (n_sensors + 1); square of the inverse scale (n_channels), diagonal (n_channels) or
     * (n_streams, n_channels) */
    const int64_t *starts;
    const float *square;
    const double *diagonal;
    /* of the hop: sums (4, n_streams, n_channels) of nats, z^2, y^2 and scored samples; facts as HopFacts has them */
    const float *sums, *facts;
    const int64_t *rows;
    /* the state, as ScorerState has it */
    double *nats, *z2, *y2, *step2;
    int32_t *n_steps, *n_scored, *n_missing, *n_saturated;
    float *low, *high;
    int64_t *n_hops_seen;
    double *moved;
    /* what is found: (3, n_streams, n_channels) channel, power, drop; (4, n_streams, n_sensors) what intensity is the
     * logarithm of, now and a hop ago, missing, saturated; scored (n_streams, n_channels), flat (n_streams, n_sensors), full (n_streams) */
    double *of_channels, *of_sensors;
    uint8_t *scored, *flat, *full;
} kinedge_blocks;

PAIRWISE(sum_of_doubles, double)

#define MOST_WIDTH 256

/* Sums over samples, one after the other, of nats, z^2, (y of what was scored)^2, scored; of four columns together. z, y,
 * nats, ok (n_streams, n_samples, n_channels); out (4, .., n_channels), its planes so far apart. */
API WIDE int32_t kinedge_block_sums(const float *restrict z, const float *restrict y, const float *restrict nats,
                                    const uint8_t *restrict ok, int64_t n_streams, int64_t n_samples,
                                    int64_t n_channels, float *restrict out, int64_t plane)
{
    const int64_t C = n_channels;
    for (int64_t s = 0; s < n_streams; s++) {
        float *to = out + s * C;
        int64_t c = 0;
        for (; c + FOUR <= C; c += FOUR) {
            floats a = {0}, b = {0}, d = {0}, e = {0};
            for (int64_t at = s * n_samples * C + c; at < (s + 1) * n_samples * C; at += C) {
                const floats there = where(load_masks(ok + at), all_of(1), all_of(0)), zs = load(z + at);
                const floats ys = load(y + at) * there;
                a += load(nats + at);
                b += zs * zs;
                d += ys * ys;
                e += there;
            }
            store(to + c, a);
            store(to + plane + c, b);
            store(to + 2 * plane + c, d);
            store(to + 3 * plane + c, e);
        }
        for (; c < C; c++) {
            float a = 0, b = 0, d = 0, e = 0;
            for (int64_t at = s * n_samples * C + c; at < (s + 1) * n_samples * C; at += C) {
                const float there = (float)ok[at], v = y[at] * there;
                a += nats[at];
                b += z[at] * z[at];
                d += v * v;
                e += there;
            }
            to[c] = a;
            to[plane + c] = b;
            to[2 * plane + c] = d;
            to[3 * plane + c] = e;
        }
    }
    return 0;
}

/* Push a number onto those of the hops before, of one channel; return their sum. */
#define PUSH(type, sum_type, name)                                                                                     \
    static sum_type name(type *ring, int64_t n_hops, int64_t n_channels, type now)                                    \
    {                                                                                                                  \
        sum_type sum = 0;                                                                                              \
        for (int64_t i = 0; i + 1 < n_hops; i++) {                                                                     \
            ring[i * n_channels] = ring[(i + 1) * n_channels];                                                         \
            sum += ring[i * n_channels];                                                                               \
        }                                                                                                              \
        ring[(n_hops - 1) * n_channels] = now;                                                                         \
        return sum + now;                                                                                              \
    }
PUSH(double, double, push_double)
PUSH(int32_t, int64_t, push_count)

static float push_low(float *ring, int64_t n_hops, int64_t n_channels, float now)
{
    float least = now;
    for (int64_t i = 0; i + 1 < n_hops; i++) {
        ring[i * n_channels] = ring[(i + 1) * n_channels];
        least = ring[i * n_channels] < least ? ring[i * n_channels] : least;
    }
    ring[(n_hops - 1) * n_channels] = now;
    return least;
}

static float push_high(float *ring, int64_t n_hops, int64_t n_channels, float now)
{
    float most = now;
    for (int64_t i = 0; i + 1 < n_hops; i++) {
        ring[i * n_channels] = ring[(i + 1) * n_channels];
        most = ring[i * n_channels] > most ? ring[i * n_channels] : most;
    }
    ring[(n_hops - 1) * n_channels] = now;
    return most;
}

/* Add one hop, and score the block that ends with it. -1, having done nothing, where something is outside. */
API int32_t kinedge_block_step(const kinedge_blocks *b)
{
    const int64_t C = b->n_channels, S = b->n_sensors, H = b->n_hops, plane = b->n_streams * C;
    if (H < 1 || b->starts[0] != 0 || b->starts[S] != C)
        return -1;
    for (int64_t g = 0; g < S; g++)
        if (b->starts[g] >= b->starts[g + 1] || b->starts[g + 1] - b->starts[g] > MOST_WIDTH)
            return -1;
    for (int64_t i = 0; i < b->n_streams; i++)
        if (b->rows[i] < 0 || b->rows[i] >= b->n_rows)
            return -1;
    for (int64_t s = 0; s < b->n_streams; s++) {
        const int64_t row = b->rows[s];
        const float *sums = b->sums + s * C, *fact = b->facts + s * C;
        const int64_t seen = ++b->n_hops_seen[row];
        const double n_seen = (double)(b->hop * (seen < 1 ? 1 : seen > H ? H : seen));
        b->full[s] = seen >= H;
        for (int64_t g = 0; g < S; g++) {
            double steps2[MOST_WIDTH], missing = 0, saturated = 0;
            int64_t n_steps = 0;
            int still = 1;
            for (int64_t c = b->starts[g]; c < b->starts[g + 1]; c++) {
                const int64_t at = row * H * C + c, i = c - b->starts[g];
                const double nats = push_double(b->nats + at, H, C, sums[c]);
                const double z2 = push_double(b->z2 + at, H, C, sums[plane + c]);
                const double y2 = push_double(b->y2 + at, H, C, sums[2 * plane + c]);
                const int64_t n_scored = push_count(b->n_scored + at, H, C, (int32_t)sums[3 * plane + c]);
                steps2[i] = push_double(b->step2 + at, H, C, fact[8 * plane + c] * b->square[c]);
                n_steps += push_count(b->n_steps + at, H, C, (int32_t)fact[9 * plane + c]);
                const double gone = (double)push_count(b->n_missing + at, H, C, (int32_t)(b->hop - fact[c])) / n_seen;
                const double full = (double)push_count(b->n_saturated + at, H, C, (int32_t)fact[plane + c]) / n_seen;
                missing = !i || gone > missing ? gone : missing;
                saturated = !i || full > saturated ? full : saturated;
                const float low = push_low(b->low + at, H, C, fact[4 * plane + c]);
                still &= push_high(b->high + at, H, C, fact[5 * plane + c]) <= low;
                const int scored = (double)n_scored >= b->scored_from;
                const double n = (double)(n_scored > 1 ? n_scored : 1);
                const double diagonal = b->diagonal[(b->own_diagonal ? s * C : 0) + c];
                double *to = b->of_channels + s * C + c;
                to[0] = scored ? nats / n : 0.0;
                to[plane] = scored ? z2 / n : 0.0;
                to[2 * plane] = (scored ? y2 / n : 0.0) / diagonal;
                b->scored[s * C + c] = (uint8_t)scored;
            }
            const int64_t width = b->starts[g + 1] - b->starts[g];
            const double step2 = width > 1 ? steps2[0] + sum_of_doubles(steps2 + 1, width - 1) : steps2[0];
            double *to = b->of_sensors + s * S + g;
            to[0] = step2 / (double)(n_steps > 1 ? n_steps : 1) + b->floor;
            to[b->n_streams * S] = b->moved[row * S + g];
            b->moved[row * S + g] = to[0];
            to[2 * b->n_streams * S] = missing;
            to[3 * b->n_streams * S] = saturated;
            b->flat[s * S + g] = still && missing < b->flat_below;
        }
    }
    return 0;
}
