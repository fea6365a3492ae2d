/* Whether a sensor moves later or earlier beside the others than it did, of some streams, whose states are written where
 * they are.
 *
 * kinedge/edge/timing.py does the same in numpy, and says why; here is only how.
 */
#include <math.h>
#include <string.h>

#include "kinedge_native.h"

/* As kinedge/edge/native/timing.py fills it in: every field is eight bytes, in this order. */
typedef struct kinedge_timing {
    /* sizes: streams of this step, rows of the state; bins of a hop, lags to either side, pairs; the least delay */
    int64_t n_streams, n_rows, hop, n_channels, n_sensors, n_bins, n_lags, n_pairs, least;
    double follow, keep, keep_usual, floor_energy, learned, untold;
    /* of the model: edges (n_sensors + 1) of each sensor's columns, pairs (n_pairs, 2) */
    const int64_t *edges, *columns, *pairs;
    /* the hop, and which rows of the state these streams are */
    const float *values;
    const uint8_t *valid;
    const int64_t *rows;
    /* the state, as TimingState has it */
    double *level;
    uint8_t *begun;
    double *beats, *energy, *cross, *usual, *weight;
    /* what is found: (n_streams, n_sensors) */
    double *late;
} kinedge_timing;

#define MOST_SENSORS 8
#define MOST_LAGS 16
#define MOST_BINS 256
#define LAGS (2 * MOST_LAGS + 1)
#define TINY 1e-9

/* The beats of one sensor in a hop, behind those before them. */
static void beats_of(const kinedge_timing *t, int64_t s, int64_t g, double *to)
{
    const int64_t C = t->n_channels, at = t->rows[s] * t->n_sensors + g, m = t->hop / t->n_bins;
    const float *values = t->values + s * t->hop * C;
    const uint8_t *valid = t->valid + s * t->hop * C;
    double level = t->level[at];
    for (int64_t k = 0; k < t->n_bins; k++) {
        double total = 0;
        int64_t count = 0;
        for (int64_t i = k * m; i < (k + 1) * m; i++) {
            double square = 0;
            int there = 1;
            for (int64_t j = t->edges[g]; j < t->edges[g + 1]; j++) {
                const double x = (double)values[i * C + t->columns[j]];
                square += x * x;
                there &= valid[i * C + t->columns[j]] != 0;
            }
            total += there ? sqrt(square) : 0.0;
            count += there;
        }
        to[k] = 0.0;
        if (!count)
            continue;
        const double mean = total / (double)count;
        if (!t->begun[at])
            level = mean;
        t->begun[at] = 1;
        level = level + t->follow * (mean - level);
        const double beyond = mean - level;
        to[k] = copysign(sqrt(fabs(beyond)), beyond);
    }
    t->level[at] = level;
}

/* By how much each delay of the second sensor explains what is now better than none does. */
static void gain_of(const double *now, const double *usual, double weight, int64_t n_lags, double *gain)
{
    const int64_t lags = 2 * n_lags + 1;
    double around[2 * LAGS] = {0};
    const double of = weight >= TINY ? weight : TINY;
    for (int64_t i = 0; i < lags; i++)
        around[n_lags + i] = usual[lags - 1 - i] / of;
    for (int64_t i = 0; i < lags; i++)
        gain[i] = 0;
    for (int64_t lag = 0; lag < lags; lag++)
        for (int64_t i = 0; i < lags; i++)
            gain[i] = gain[i] + now[lag] * around[lags - 1 - lag + i];
    const double none = gain[n_lags];
    for (int64_t i = 0; i < lags; i++)
        gain[i] = gain[i] - none;
}

static void stream(const kinedge_timing *t, int64_t s, double *beats)
{
    const int64_t S = t->n_sensors, P = t->n_pairs, L = t->n_lags, B = t->n_bins, lags = 2 * L + 1;
    const int64_t row = t->rows[s], wide = 2 * L + B;
    double raised[MOST_SENSORS], moves[MOST_SENSORS], later[MOST_SENSORS][LAGS];
    int told[MOST_SENSORS] = {0};
    memset(later, 0, sizeof later);
    for (int64_t g = 0; g < S; g++) {
        double *before = t->beats + (row * S + g) * 2 * L, *now = beats + g * wide;
        memcpy(now, before, (size_t)(2 * L) * sizeof *now);
        beats_of(t, s, g, now + 2 * L);
        memcpy(before, now + B, (size_t)(2 * L) * sizeof *now);
        double energy = t->keep * t->energy[row * S + g];
        for (int64_t k = 0; k < B; k++)
            energy = energy + now[L + k] * now[L + k];
        t->energy[row * S + g] = energy;
        raised[g] = energy + t->floor_energy;
        moves[g] = energy / raised[g];
    }
    for (int64_t p = 0; p < P; p++) {
        const int64_t a = t->pairs[2 * p], b = t->pairs[2 * p + 1];
        double *cross = t->cross + (row * P + p) * lags, *usual = t->usual + (row * P + p) * lags;
        double *weight = t->weight + row * P + p, now[LAGS], gain[LAGS];
        for (int64_t i = 0; i < lags; i++)
            cross[i] = t->keep * cross[i];
        for (int64_t k = 0; k < B; k++) {
            const double middle = beats[a * wide + L + k], *other = beats + b * wide + k;
            for (int64_t i = 0; i < lags; i++)
                cross[i] += middle * other[i];
        }
        const double both = sqrt(raised[a] * raised[b]), moving = moves[a] * moves[b];
        for (int64_t i = 0; i < lags; i++)
            now[i] = cross[i] / both;
        if (*weight >= t->learned) {
            gain_of(now, usual, *weight, L, gain);
            for (int64_t i = 0; i < lags; i++) {
                later[a][i] += gain[lags - 1 - i];
                later[b][i] += gain[i];
            }
            told[a] = told[b] = 1;
        }
        *weight = t->keep_usual * *weight + moving;
        for (int64_t i = 0; i < lags; i++)
            usual[i] = t->keep_usual * usual[i] + moving * now[i];
    }
    for (int64_t g = 0; g < S; g++) {
        double most = later[g][0];
        for (int64_t i = 1; i < lags; i++)
            if ((i <= L - t->least || i >= L + t->least) && later[g][i] > most)
                most = later[g][i];
        t->late[s * S + g] = told[g] ? most : t->untold;
    }
}

/* Take one hop. -1, having done nothing, where something is outside. */
API WIDE int32_t kinedge_timing_step(const kinedge_timing *t)
{
    for (int64_t i = 0; !t->n_pairs && i < t->n_streams * t->n_sensors; i++)
        t->late[i] = t->untold;
    if (!t->n_pairs)
        return 0;
    if (t->n_sensors < 1 || t->n_sensors > MOST_SENSORS || t->n_lags < t->least || t->n_lags > MOST_LAGS ||
        t->n_bins < 1 || t->n_bins > MOST_BINS || t->hop % t->n_bins)
        return -1;
    for (int64_t i = 0; i < t->n_streams; i++)
        if (t->rows[i] < 0 || t->rows[i] >= t->n_rows)
            return -1;
    double beats[MOST_SENSORS * (2 * MOST_LAGS + MOST_BINS)];
    for (int64_t s = 0; s < t->n_streams; s++)
        stream(t, s, beats);
    return 0;
}
