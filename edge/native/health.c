/* How far each sensor can be trusted: a hop of some streams, whose states are written where they are.
 *
 * kinedge/edge/reliability.py does the same in numpy, and says why; here is only how.
 */
#include <math.h>
#include <string.h>

#include "sums.h"

/* As kinedge/edge/native/health.py fills it in: every field is eight bytes, in this order. */
typedef struct kinedge_health {
    /* sizes: streams of this step, rows of the state */
    int64_t n_streams, n_rows, hop, n_channels, n_sensors, block, n_alike, n_pairs, heard_from, clipped_from, most_still;
    int64_t in_order, held_from, shortest, held_alone;
    double moves, shakes, clipped_keep, range_keep, range_share, twin, twin_equal, fits, side_keep, known_from, doubt, belief, hop_s;
    double still_share, lone_share, gravity_keep, persist_low, persist_high, turned, never_from, usual_keep;
    double persist_keep, unusual_from, unscored, again_from, at_end, few, more_than_one, pile, coarse_keep, fine_axis;
    double strength_keep, strange_share, quiet, rest_low, rest_high, least_acc, most_acc, most_gyr, hop_acc, hop_gyr;
    double slack, times, unknown, clips, few_at_end, comparable_below;
    /* of the model: starts (n_sensors + 1), acc and gyr (n_sensors, 3) or -1, pairs (n_pairs, 2); of channels, sensors, pairs */
    const int64_t *starts, *acc, *gyr, *quantity, *pairs;
    const uint64_t *factors;
    const float *still_limit, *inverse_unit, *weight;
    const double *range, *center, *unit, *widths, *moves_by, *at_rest, *apart, *enough;
    const uint8_t *told_apart, *sides, *watched;
    /* of the hop: values, as the sensors gave them, and valid (n_streams, hop, n_channels); facts (10, n_streams,
     * n_channels) as HopFacts has them of what may be turned, given of the values;
     * shared (n_streams, widths of the pairs one behind the other); which rows of the state */
    const float *values;
    const uint8_t *valid;
    const float *facts, *given, *shared;
    const int64_t *rows;
    /* the state, as HealthState has it */
    uint64_t *marks;
    double *clipped;
    float *reach;
    double *held, *coarse, *likeness;
    int64_t *n_still, *n_lone, *n_strange;
    double *strength, *rested, *side, *side_weight, *belongs, *gravity, *usual_gravity, *last, *usual_weight, *unusual;
    /* what is found: (11, n_streams, n_sensors) repeated, clipped, off_body, units, swapped, shifted, still_s, unturned,
     * acc_m_s2, gyr_rad_s, held; (n_streams, n_sensors) twin, copy */
    double *found;
    int64_t *twins;
    uint8_t *copies;
} kinedge_health;

PAIRWISE(sum_of_floats, float)

#define MOST_SENSORS 64
#define MOST_WIDTH 256
#define TABLE 1024 /* twice the longest block, so that a free place is always near */

static double within(double x, double low, double high)
{
    x = x >= low || x != x ? x : low;
    return x <= high || x != x ? x : high;
}

static double larger(double a, double b)
{
    return a >= b || a != a ? a : b;
}

#include "plausible.h"

/* The smallest difference between samples of a channel's hop that are not equal, at its extremes only where there are no
 * two others; 0 where all are equal. */
static double finest(const kinedge_health *h, int64_t stream, int64_t c)
{
    float in_order[TABLE / 2];
    int64_t n = 0;
    const int64_t first = stream * h->hop * h->n_channels + c;
    for (int64_t k = 0; k < h->hop; k++) {
        const int64_t at = first + k * h->n_channels;
        if (!h->valid[at])
            continue;
        const float x = h->values[at];
        int64_t i = n++;
        for (; i > 0 && in_order[i - 1] > x; i--)
            in_order[i] = in_order[i - 1];
        in_order[i] = x;
    }
    double least = 0, inside = 0;
    for (int64_t i = 1; i < n; i++) {
        const double apart = (double)in_order[i] - (double)in_order[i - 1];
        if (!(apart > 0))
            continue;
        least = least == 0 || apart < least ? apart : least;
        if (in_order[i - 1] > in_order[0] && in_order[i] < in_order[n - 1])
            inside = inside == 0 || apart < inside ? apart : inside;
    }
    return inside > 0 ? inside : least;
}

enum { FLAT, COARSE, FINE };

/* Which samples of a sensor moved (hop), and how fine its channels are (width), and the whole sensor. */
static int moving(const kinedge_health *h, int64_t stream, int64_t g, uint8_t *moved, double *resolution)
{
    const int64_t plane = h->n_streams * h->n_channels, C = h->n_channels, first = h->starts[g], end = h->starts[g + 1];
    const uint8_t *valid = h->valid + stream * h->hop * C;
    int found = FLAT;
    memset(moved, 0, (size_t)h->hop);
    for (int64_t c = first; c < end; c++) {
        const double r = resolution[c - first] = finest(h, stream, c);
        if (r == 0)
            continue;
        const float *fact = h->given + stream * C + c, *x = h->values + stream * h->hop * C + c;
        const int fine = (double)fact[5 * plane] - (double)fact[4 * plane] > h->few * (double)h->hop * r;
        found = found == FINE || fine ? FINE : COARSE;
        for (int64_t k = 1; k < h->hop; k++)
            moved[k] |= fabs((double)x[k * C] - (double)x[(k - 1) * C]) > h->more_than_one * r;
    }
    uint8_t before = 0;
    for (int64_t k = 0; k < h->hop; k++) {
        uint8_t there = 1;
        for (int64_t c = first; c < end; c++)
            there &= valid[k * C + c];
        moved[k] &= there & before;
        before = there;
    }
    return found;
}

/* How many samples of each channel of a sensor stand at its ends, but for chance: n (width). asked (2, MOST_WIDTH): at
 * which ends. */
static void at_ends(const kinedge_health *h, int64_t stream, int64_t g, const uint8_t *asked, float *n)
{
    const int64_t plane = h->n_streams * h->n_channels, C = h->n_channels, first = h->starts[g];
    const uint8_t *valid = h->valid + stream * h->hop * C;
    double resolution[MOST_WIDTH];
    uint8_t moved[TABLE / 2];
    const int found = moving(h, stream, g, moved, resolution);
    for (int64_t c = first; c < h->starts[g + 1]; c++) {
        const float *fact = h->given + stream * C + c, *x = h->values + stream * h->hop * C + c;
        const float ends[2] = {fact[5 * plane], fact[4 * plane]};
        n[c - first] = 0;
        if (found == FLAT || resolution[c - first] == 0)
            continue;
        const double steps = ((double)ends[0] - (double)ends[1]) / resolution[c - first];
        const double chance = h->at_end * (double)fact[0] / sqrt(steps + 1), least = (double)h->clipped_from;
        for (int end = 0; end < 2; end++) {
            int64_t at_end = 0, beside = 0;
            if (!asked[end * MOST_WIDTH + c - first])
                continue;
            for (int64_t k = 0; k < h->hop; k++) {
                const double from_end = fabs((double)x[k * C] - (double)ends[end]);
                at_end += moved[k] && from_end == 0;
                beside += valid[k * C + c] && from_end > 0 && from_end <= h->more_than_one * resolution[c - first];
            }
            const double enough = chance > least ? chance : least, pile = h->pile * (double)beside;
            n[c - first] += (double)at_end >= (pile > enough ? pile : enough) ? (float)(at_end - 1) : 0;
        }
    }
}

/* The share of a coarse sensor's moving samples that stood in the block before, in the order they stand now; share where
 * the sensor is fine or flat. */
static double while_moving(const kinedge_health *h, int64_t stream, int64_t g, const uint64_t *marks, double share)
{
    double resolution[MOST_WIDTH];
    uint8_t moved[TABLE / 2], stood[TABLE / 2];
    if (moving(h, stream, g, moved, resolution) != COARSE)
        return share;
    int64_t n_moved = 0, n_again = 0;
    for (int64_t k = 0; k < h->hop; k++)
        n_moved += moved[k];
    if (h->most_still * n_moved < h->hop || h->hop < h->in_order)
        return 0;
    memset(stood, 0, (size_t)h->hop);
    const int64_t kept = h->block - h->hop;
    for (int64_t back = 1; back < h->block; back++) {
        const int64_t begin = back > kept ? back - kept : 0;
        int64_t on_end = 0;
        for (int64_t k = begin; k < h->hop; k++) {
            on_end = moved[k] && marks[kept + k] == marks[kept + k - back] ? on_end + 1 : 0;
            if (on_end >= h->in_order)
                memset(stood + k + 1 - h->in_order, 1, (size_t)h->in_order);
        }
    }
    for (int64_t k = 0; k < h->hop; k++)
        n_again += stood[k];
    return (double)n_again / (double)n_moved;
}

#include "held_axes.h"

/* Push one number for each sample of a sensor, from the bits of its channels, 0 where one is missing, onto those of the
 * block before; return by how many of those that are not 0 another one stood before. */
static double push_marks(const kinedge_health *h, int64_t stream, int64_t g, uint64_t *marks)
{
    const int64_t kept = h->block - h->hop;
    memmove(marks, marks + h->hop, (size_t)kept * sizeof *marks);
    for (int64_t k = 0; k < h->hop; k++) {
        const int64_t row = (stream * h->hop + k) * h->n_channels;
        uint64_t mark = 0;
        uint8_t there = 1;
        for (int64_t c = h->starts[g]; c < h->starts[g + 1]; c++) {
            uint32_t bits;
            memcpy(&bits, h->values + row + c, sizeof bits);
            mark += bits * h->factors[c];
            there &= h->valid[row + c];
        }
        marks[kept + k] = there ? mark | 1u : 0u;
    }
    uint64_t table[TABLE];
    memset(table, 0, sizeof table);
    int64_t known = 0, again = 0;
    for (int64_t k = 0; k < h->block; k++) {
        if (!marks[k])
            continue;
        known++;
        uint64_t place = (marks[k] * UINT64_C(0x9E3779B97F4A7C15)) >> 54;
        while (table[place] && table[place] != marks[k])
            place = (place + 1) % TABLE;
        again += table[place] == marks[k];
        table[place] = marks[k];
    }
    const double share = (double)again / (double)(known - 1 > 1 ? known - 1 : 1);
    return share >= h->again_from ? while_moving(h, stream, g, marks, share) : share;
}

/* Squared distance of a sensor's acceleration from the usual one of another, in scales. */
static double distance(const kinedge_health *h, const float *level, int64_t sensor, int64_t like)
{
    double sum = 0;
    for (int64_t i = 0; i < 3; i++) {
        const int64_t own = h->acc[3 * sensor + i], usual = h->acc[3 * like + i];
        const double apart = ((double)level[own] - h->center[usual]) / h->unit[usual];
        sum += apart * apart;
    }
    return sum;
}

static void decay(double *sum, double keep, double now, double apart)
{
    *sum = keep * *sum + (1 - keep) * within(now / apart, -2.0, 2.0);
}

static int outside(const kinedge_health *h)
{
    if (h->block > TABLE / 2 || h->hop < 1 || h->shortest < 2 || h->held_from < h->shortest || h->hop > h->block || h->n_sensors > MOST_SENSORS || h->n_alike < 1)
        return -1;
    for (int64_t g = 0; g < h->n_sensors; g++) {
        if (h->starts[g] < 0 || h->starts[g] >= h->starts[g + 1] || h->starts[g + 1] > h->n_channels ||
            h->starts[g + 1] - h->starts[g] > MOST_WIDTH)
            return -1;
        for (int64_t i = 0; i < 3; i++)
            if (h->acc[3 * g + i] < -1 || h->acc[3 * g + i] >= h->n_channels || h->gyr[3 * g + i] < -1 ||
                h->gyr[3 * g + i] >= h->n_channels)
                return -1;
    }
    for (int64_t p = 0; p < h->n_pairs; p++) {
        const int64_t a = h->pairs[2 * p], b = h->pairs[2 * p + 1];
        if (a < 0 || b < 0 || a >= h->n_sensors || b >= h->n_sensors ||
            (h->told_apart[p] && (h->acc[3 * a] < 0 || h->acc[3 * b] < 0)))
            return -1;
    }
    for (int64_t i = 0; i < h->n_streams; i++)
        if (h->rows[i] < 0 || h->rows[i] >= h->n_rows)
            return -1;
    return 0;
}

/* What the facts of the hop add to the state of one stream, whose sensors repeat themselves so much; which sensors were
 * heard; which axis of each is held. */
static void add_facts(const kinedge_health *h, int64_t stream, int64_t row, const double *repeated, uint8_t *heard,
                      double *axis)
{
    const int64_t C = h->n_channels, S = h->n_sensors, plane = h->n_streams * C;
    const float *fact = h->facts + stream * C, *n_valid = fact, *level = fact + 2 * plane, *power = fact + 3 * plane,
                *given = h->given + stream * C, *given_level = given + 2 * plane, *low = given + 4 * plane,
                *high = given + 5 * plane, *n_low = given + 6 * plane, *n_high = given + 7 * plane;
    uint8_t still[MOST_SENSORS];
    float of_one[MOST_WIDTH], powers[MOST_SENSORS];
    double most = 0;
    for (int64_t g = 0; g < S; g++) {
        const int64_t first = h->starts[g], width = h->starts[g + 1] - first;
        float least = n_valid[first];
        double share = 0;
        float at_end[MOST_WIDTH];
        uint8_t told[MOST_WIDTH], asked[2 * MOST_WIDTH], held[MOST_WIDTH];
        int several = 0;
        still[g] = 1;
        axis[g] = (double)held_axes(h, stream, row, g, held);
        for (int64_t i = 0; i < width; i++) {
            const int64_t c = first + i;
            least = n_valid[c] < least ? n_valid[c] : least;
            const float n = n_valid[c] > 1.0f ? n_valid[c] : 1.0f, spread = sqrtf(power[c] / n);
            still[g] &= spread < h->still_limit[c];
            of_one[i] = spread * h->inverse_unit[c];
            const float from = (float)h->clipped_from;
            const float keep = (float)h->range_keep, by = (float)h->range_share;
            float *highest = h->reach + 4 * row * C + c, *lowest = highest + C, *last_high = lowest + C, *last_low = last_high + C;
            asked[i] = (high[c] >= *highest || high[c] == *last_high) && n_high[c] > 0;
            asked[MOST_WIDTH + i] = (low[c] <= *lowest || low[c] == *last_low) && n_low[c] > 0;
            at_end[i] = (asked[i] && n_high[c] >= from ? n_high[c] - 1 : 0) +
                        (asked[MOST_WIDTH + i] && n_low[c] >= from ? n_low[c] - 1 : 0);
            if (n_valid[c] > 0 && !held[i]) {
                const float faded[2] = {*highest * keep + given_level[c] * by, *lowest * keep + given_level[c] * by};
                *highest = high[c] > faded[0] ? high[c] : faded[0];
                *lowest = low[c] < faded[1] ? low[c] : faded[1];
                *last_high = high[c];
                *last_low = low[c];
            }
            told[i] = (double)high[c] > (double)low[c] + h->range[c];
            several |= told[i] && at_end[i] > 0;
        }
        if (several)
            at_ends(h, stream, g, asked, at_end);
        for (int64_t i = 0; i < width; i++) {
            const float n = n_valid[first + i] > 1.0f ? n_valid[first + i] : 1.0f;
            const double now = (told[i] ? (double)at_end[i] : 0) / (double)n;
            share = i ? larger(share, now) : now;
        }
        heard[g] = least >= (float)h->heard_from;
        const double moves = (double)(width > 1 ? of_one[0] + sum_of_floats(of_one + 1, width - 1) : of_one[0]) / h->widths[g];
        most = g ? larger(most, moves) : moves;
        double *clipped = h->clipped + row * S + g;
        share = (share < 1.0 || share != share ? share : 1.0) * (1 - repeated[g]);
        *clipped = larger(*clipped * h->clipped_keep, share);
        for (int64_t i = 0; i < width; i++)
            of_one[i] = power[first + i] * h->weight[first + i];
        powers[g] = width > 1 ? of_one[0] + sum_of_floats(of_one + 1, width - 1) : of_one[0];
    }
    for (int64_t g = 0; g < S; g++) {
        add_strength(h, fact, g, row * S + g, heard[g],
                     repeated[g] < h->comparable_below && h->clipped[row * S + g] < h->comparable_below);
        if (!heard[g])
            continue;
        int64_t *n_still = h->n_still + row * S + g, *n_lone = h->n_lone + row * S + g;
        *n_still = still[g] ? *n_still + 1 : 0;
        /* itself it does not move: what moves most is another one */
        *n_lone = still[g] ? *n_lone + (most > h->moves) + 3 * (most > h->shakes) : 0;
        const int64_t *acc = h->acc + 3 * g;
        double *last = h->last + (row * S + g) * 3, *gravity = h->gravity + (row * S + g) * 3;
        for (int64_t i = 0; i < 3; i++) {
            last[i] = acc[0] >= 0 ? (double)level[acc[i]] : 0.0;
            gravity[i] = h->gravity_keep * gravity[i] + (1 - h->gravity_keep) * last[i];
        }
    }
    double *likeness = h->likeness + row * h->n_alike * h->n_pairs * 2;
    memmove(likeness, likeness + h->n_pairs * 2, (size_t)((h->n_alike - 1) * h->n_pairs * 2) * sizeof *likeness);
    likeness += (h->n_alike - 1) * h->n_pairs * 2;
    int64_t at = 0, n_shared = 0;
    for (int64_t p = 0; p < h->n_pairs; p++)
        n_shared += h->starts[h->pairs[2 * p] + 1] - h->starts[h->pairs[2 * p]];
    for (int64_t p = 0; p < h->n_pairs; p++) {
        const int64_t a = h->pairs[2 * p], b = h->pairs[2 * p + 1], first = h->starts[a], width = h->starts[a + 1] - first;
        for (int64_t i = 0; i < width; i++)
            of_one[i] = h->shared[stream * n_shared + at + i] * h->weight[first + i];
        at += width;
        const float both = powers[a] + powers[b];
        likeness[2 * p] = both - 2 * sum_of_floats(of_one, width);
        likeness[2 * p + 1] = both;
        if (!h->told_apart[p] || !heard[a] || !heard[b])
            continue;
        const double one = distance(h, level, a, b) - distance(h, level, a, a);
        const double other = distance(h, level, b, a) - distance(h, level, b, b), apart = h->apart[p];
        const int64_t k = row * h->n_pairs + p;
        decay(h->side + k, h->side_keep, (one + other) / 2, apart);
        decay(h->belongs + k, h->side_keep, one, apart);
        decay(h->side_weight + k, h->side_keep, apart, apart);
    }
}

static double shifted(const kinedge_health *h, int64_t at)
{
    const double *now = h->gravity + 3 * at, *usual = h->usual_gravity + 3 * at;
    const double product = now[0] * usual[0] + now[1] * usual[1] + now[2] * usual[2];
    const double length = sqrt(now[0] * now[0] + now[1] * now[1] + now[2] * now[2]) *
                          sqrt(usual[0] * usual[0] + usual[1] * usual[1] + usual[2] * usual[2]);
    if (!(product < h->turned * length) && !(h->usual_weight[at] < h->never_from))
        return 0.0;
    return within((h->unusual[at] - h->persist_low) / (h->persist_high - h->persist_low), 0.0, 1.0);
}

/* What speaks against the two sensors of each pair. */
static void judge_pairs(const kinedge_health *h, int64_t stream, int64_t row)
{
    const int64_t S = h->n_sensors, P = h->n_pairs, A = h->n_alike;
    double *swapped = h->found + (4 * h->n_streams + stream) * S;
    for (int64_t p = 0; p < P; p++) {
        const int64_t a = h->pairs[2 * p], b = h->pairs[2 * p + 1], at = row * P + p;
        const double weight = larger(h->side_weight[at], 1e-9);
        if (h->sides[p]) {
            const double towards = h->side[at] / weight;
            swapped[a] = swapped[b] = h->side_weight[at] > h->known_from
                                          ? within((h->doubt - towards) / (h->doubt - h->belief), 0.0, 1.0)
                                          : 0.0;
        }
        double difference = 0, both = 0;
        for (int64_t i = 0; i < A; i++) {
            const double *likeness = h->likeness + ((row * A + i) * P + p) * 2;
            difference += likeness[0];
            both += likeness[1];
        }
        int same = both > h->enough[p] && difference < h->twin * both;
        if (!same) {
            const uint64_t *one = h->marks + (row * S + a) * h->block, *other = h->marks + (row * S + b) * h->block;
            int64_t equal = 0;
            for (int64_t k = 0; k < h->block; k++)
                equal += (one[k] == other[k]) & (one[k] != 0);
            same = (double)equal / (double)h->block > h->twin_equal;
        }
        if (!same)
            continue;
        const double belongs = h->belongs[at] / weight;
        h->twins[stream * S + a] = b;
        h->twins[stream * S + b] = a;
        h->copies[stream * S + a] |= belongs < h->fits;
        h->copies[stream * S + b] |= belongs > -h->fits;
    }
}

/* Judge the sensors of all streams of the step by one hop. -1, having done nothing, where something is outside. */
API int32_t kinedge_health_step(const kinedge_health *h)
{
    if (outside(h))
        return -1;
    const int64_t S = h->n_sensors, plane = h->n_streams * S;
    for (int64_t stream = 0; stream < h->n_streams; stream++) {
        const int64_t row = h->rows[stream];
        uint8_t heard[MOST_SENSORS];
        double *found = h->found + stream * S;
        for (int64_t g = 0; g < S; g++)
            found[g] = push_marks(h, stream, g, h->marks + (row * S + g) * h->block);
        add_facts(h, stream, row, found, heard, found + 10 * plane);
        for (int64_t g = 0; g < S; g++) {
            const int64_t at = row * S + g;
            const double lain = larger((double)h->n_still[at] * h->still_share, (double)h->n_lone[at] * h->lone_share);
            found[plane + g] = h->clipped[at];
            found[2 * plane + g] = within(1.5 * lain - 0.5, 0.0, 1.0);
            found[3 * plane + g] = strange(h, at);
            found[4 * plane + g] = 0.0;
            found[5 * plane + g] = h->acc[3 * g] >= 0 ? shifted(h, at) : 0.0;
            found[6 * plane + g] = (double)h->n_still[at] * h->hop_s;
            found[7 * plane + g] = h->n_strange[2 * at + 1] >= (int64_t)h->times ? 1.0 : 0.0;
            found[8 * plane + g] = sqrt(h->strength[2 * at]);
            found[9 * plane + g] = sqrt(h->strength[2 * at + 1]);
            h->twins[stream * S + g] = -1;
            h->copies[stream * S + g] = 0;
        }
        judge_pairs(h, stream, row);
    }
    return 0;
}

/* Take in how unusual the hop just looked at was: sensor_u (n_streams, n_sensors). */
API int32_t kinedge_health_learn(const kinedge_health *h, const double *sensor_u)
{
    if (outside(h))
        return -1;
    const int64_t S = h->n_sensors;
    for (int64_t i = 0; i < h->n_streams; i++)
        for (int64_t g = 0; g < S; g++) {
            const double u = sensor_u[i * S + g];
            const int64_t at = h->rows[i] * S + g;
            const int known = u > h->unscored, odd = u > h->unusual_from;
            if (!known)
                continue;
            double *share = h->unusual + at;
            *share = h->persist_keep * *share + (1 - h->persist_keep) * odd;
            if (odd)
                continue;
            h->usual_weight[at] = h->usual_keep * h->usual_weight[at] + (1 - h->usual_keep);
            for (int64_t k = 3 * at; k < 3 * at + 3; k++)
                h->usual_gravity[k] = h->usual_keep * h->usual_gravity[k] + (1 - h->usual_keep) * h->last[k];
        }
    return 0;
}
