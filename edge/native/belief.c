/* From block scores to belief and attribution, for some streams, whose states are written where they are: four passes,
 * between which numpy takes powers, exponentials and logarithms, so that these are the same with and without this file.
 *
 * kinedge/edge/calibration.py, caution.py and attribution.py do the same in numpy, and say why; here is only how.
 */
#include <math.h>
#include <string.h>

#include "sums.h"

/* As kinedge/edge/native/belief.py fills it in: every field is eight bytes, in this order. */
typedef struct {
    /* sizes: streams of this step, rows of the state; knots, numbers and rows of the reference; whether each stream has
     * its own calibration, and what is known of each */
    int64_t n_streams, n_rows, n_channels, n_sensors, n_knots, n_reference, n_references, own, has_health, has_clock;
    int64_t by_excess, leave_out, n_levels, n_apart, n_references_apart;
    double unscored, below, movement_limit, no_data, half, trusted, lr_limit, weight, keep, odds_limit, hop_s, long_s;
    double lately_s, swapped_left, harmless, hopeless, min_anomalous, min_normal, min_others, alpha, tiny;
    double keep_own, min_newcomer, alpha_newcomer, sure_newcomer, learned, at_most, little, unlike_from, unlike_spread, unlike_most, most_beyond, no_step, untold;
    double most_shared, least_u;
    /* of the model: starts (n_sensors + 1) */
    const int64_t *starts;
    /* the calibration, of all or (n_streams, ...): knots (n_knots, n_sensors), center and spread (n_knots, n_channels),
     * likelihood (n_sensors, 6), whether it is one person's own; reference (n_references, n_reference), how many of
     * each row are finite, and which is a stream's (n_streams), or none: the first of all; how many knots are its own */
    const double *knots, *center, *spread, *likelihood, *of_one, *reference;
    const int64_t *n_finite, *which, *own_knots;
    /* how sensors move together, where n_levels is not 0, of all or (n_streams, ...): mix (n_sensors, n_sensors + 1);
     * levels, low, middle and high (n_levels, n_sensors); usual, scale, usual and weight of lateness (n_sensors); further
     * (1); weight (n_sensors). Where it cannot be told, likelihood (n_sensors, 6), and as above reference
     * (n_references_apart, n_apart) */
    const double *mix, *levels, *low, *middle, *high, *usual, *late_scale, *late_usual, *late_weight, *further;
    const double *coordination_weight, *likelihood_apart, *reference_apart;
    const int64_t *n_finite_apart, *which_apart;
    /* of the block, as BlockScores, SensorHealth and clock_ms have it */
    const double *channel, *drop, *intensity, *before, *missing, *saturated;
    const uint8_t *scored, *flat, *full;
    const double *late;
    const double *repeated, *clipped, *off_body, *units, *held, *swapped, *shifted, *clock_ms;
    const uint8_t *copies;
    const int64_t *rows;
    /* the state, as BeliefState has it */
    double *log_odds, *beyond, *doubted_s, *lost, *shown, *shown_squares, *shown_weight;
    double *channel_shown, *channel_shown_squares, *coordination_shown, *coordination_shown_squares;
    double *channel_share, *sensor_share;
    /* to work in (7, n_streams, n_sensors): what is left after loss, and after saturation; odds faded, of all and
     * beyond the person's own; both odds now; log ratio */
    double *work;
    /* what is found: (3, n_streams, n_channels) excess, u, share; (8, n_streams, n_sensors) u, movement, share,
     * reliability, lost, what lasts, withheld, unlike; (10, n_streams) score, p-value, normal, anomalous, mean odds, mean odds
     * beyond, decisive, others, fresh, brought;
     * decision (n_streams), without (n_streams, n_sensors) */
    double *of_channels, *of_sensors, *of_streams;
    int8_t *decision;
    uint8_t *without;
} kinedge_belief;

enum { NORMAL, ANOMALOUS, UNSURE };

PAIRWISE(sum_of_doubles, double)

#define MOST_CHANNELS 1024
#define MOST_SENSORS 64

static int64_t which_of(const kinedge_belief *b, int64_t s)
{
    return b->which ? b->which[s] : 0;
}

static double smaller(double a, double b)
{
    return a <= b || a != a ? a : b;
}

static double larger(double a, double b)
{
    return a >= b || a != a ? a : b;
}

static double within(double x, double low, double high)
{
    return smaller(larger(x, low), high);
}

static int64_t knots_of(const kinedge_belief *b, int64_t s)
{
    return b->own_knots ? b->own_knots[s] : b->n_knots;
}

static int outside(const kinedge_belief *b)
{
    if (b->n_knots < 2 || b->n_channels > MOST_CHANNELS || b->n_sensors > MOST_SENSORS || b->n_sensors < 1)
        return -1;
    if (b->starts[0] != 0 || b->starts[b->n_sensors] != b->n_channels || b->n_reference < 1)
        return -1;
    for (int64_t g = 0; g < b->n_sensors; g++)
        if (b->starts[g] >= b->starts[g + 1])
            return -1;
    for (int64_t i = 0; i < b->n_streams; i++) {
        const int64_t alone = b->n_levels && b->which_apart ? b->which_apart[i] : 0;
        if (b->rows[i] < 0 || b->rows[i] >= b->n_rows || which_of(b, i) < 0 || which_of(b, i) >= b->n_references ||
            knots_of(b, i) < 2 || knots_of(b, i) > b->n_knots || alone < 0 ||
            (b->n_levels && alone >= b->n_references_apart))
            return -1;
    }
    return 0;
}

/* How many of the sorted numbers lie below this one. */
static int64_t rank(const double *sorted, int64_t n, double value)
{
    int64_t low = 0, high = n;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (sorted[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void share_out(const double *energy, int64_t n, double *shares)
{
    const double total = sum_of_doubles(energy, n);
    for (int64_t i = 0; i < n; i++)
        shares[i] = total > 0 ? energy[i] / total : 0.0;
}

/* What a channel is named for: as energies() has it. */
static double energy_of(const kinedge_belief *b, double excess, double u, double drop)
{
    return b->by_excess ? larger(excess, 0.0) * larger(u, 0.0) * sqrt(drop) : drop;
}

/* Split the surprise of a stream's block, from what its channels are named for. */
static void split(const kinedge_belief *b, int64_t s, const double *energy)
{
    const int64_t C = b->n_channels, S = b->n_sensors, n = b->n_streams;
    double parts[MOST_CHANNELS], by_sensor[MOST_SENSORS] = {0};
    for (int64_t c = 0; c < C; c++)
        parts[c] = b->by_excess ? energy[c] * energy[c] : energy[c];
    for (int64_t g = 0; g < S; g++)
        by_sensor[g] = sum_of_doubles(parts + b->starts[g], b->starts[g + 1] - b->starts[g]);
    share_out(energy, C, b->of_channels + (2 * n + s) * C);
    share_out(by_sensor, S, b->of_sensors + (2 * n + s) * S);
}

#include "coordination.h"

/* Rank the blocks, split their surprise, and prepare what powers and exponentials are taken of. */
API int32_t kinedge_belief_assess(const kinedge_belief *b)
{
    if (outside(b))
        return -1;
    const int64_t C = b->n_channels, S = b->n_sensors, K = b->n_knots, n = b->n_streams;
    for (int64_t s = 0; s < n; s++) {
        const int64_t own = b->own ? s : 0;
        const double *knots = b->knots + own * K * S, *center = b->center + own * K * C, *spread = b->spread + own * K * C;
        double *excess = b->of_channels + s * C, *u = excess + n * C;
        double *sensor = b->of_sensors + s * S, *movement = sensor + n * S;
        double energy[MOST_CHANNELS], score = 0, of_channels = 0;
        int64_t n_told = 0, silent = -1;
        const int64_t middle = knots_of(b, s) / 2, low = middle > 1 ? middle - 1 : 0;
        const int64_t high = middle + 1 < knots_of(b, s) ? middle + 1 : knots_of(b, s) - 1;
        for (int64_t g = 0; g < S; g++) {
            const double intensity = b->intensity[s * S + g];
            double most = 0;
            for (int64_t c = b->starts[g]; c < b->starts[g + 1]; c++) {
                double more = 0, wider = 0;
                for (int64_t k = 0; k + 1 < K; k++) {
                    const double from = knots[k * S + g], into = (intensity - from) / (knots[(k + 1) * S + g] - from);
                    const double lies = within(into, k ? 0.0 : -b->below, 1.0);
                    more += lies * (center[(k + 1) * C + c] - center[k * C + c]);
                    wider += within(lies, 0.0, 1.0) * (spread[(k + 1) * C + c] - spread[k * C + c]);
                }
                const int scored = b->scored[s * C + c];
                excess[c] = scored ? b->channel[s * C + c] - (center[c] + more) : 0.0;
                u[c] = scored ? excess[c] / (spread[c] + wider) : b->unscored;
                most = c == b->starts[g] ? u[c] : larger(most, u[c]);
                energy[c] = energy_of(b, excess[c], u[c], b->drop[s * C + c]);
            }
            sensor[g] = most;
            if (told(b, s * S + g, most))
                n_told++;
            else
                silent = g;
            const double step = (knots[high * S + g] - knots[low * S + g]) / (double)(high - low);
            movement[g] = within((intensity - knots[middle * S + g]) / step, -b->movement_limit, b->movement_limit);
            const int64_t at = s * S + g;
            const double saturated = b->has_health ? larger(b->saturated[at], b->clipped[at]) : b->saturated[at];
            b->work[at] = 1 - smaller(b->missing[at], 1.0);
            b->work[n * S + at] = 1 - smaller(saturated, 1.0);
            b->work[2 * n * S + at] = -b->log_odds[b->rows[s] * S + g];
            b->work[3 * n * S + at] = -b->beyond[b->rows[s] * S + g];
        }
        for (int64_t g = 0; g < S; g++) {
            of_channels = g ? larger(of_channels, sensor[g]) : sensor[g];
            if (b->n_levels && g != silent && !too_few(b, n_told))
                sensor[g] += coordinated(b, s, g, silent);
            score = g ? larger(score, sensor[g]) : sensor[g];
        }
        if (b->n_levels)
            score = larger(of_channels, score - b->further[own]);
        split(b, s, energy);
        const int alone = apart(b, s);
        const int64_t which = !alone ? which_of(b, s) : b->which_apart ? b->which_apart[s] : 0;
        const int64_t size = alone ? b->n_apart : b->n_reference;
        const int64_t known = (alone ? b->n_finite_apart : b->n_finite)[which];
        const double *reference = (alone ? b->reference_apart : b->reference) + which * size;
        const int64_t below = rank(reference, size, score) - (size - known);
        b->of_streams[s] = score > b->unscored ? score : 0.0;
        b->of_streams[n + s] = (double)(1 + known - below) / (double)(known + 1);
    }
    return 0;
}

/* How far each sensor can be trusted; what its block says; and the odds that are left, for their logarithm. */
API int32_t kinedge_belief_trust(const kinedge_belief *b)
{
    if (outside(b))
        return -1;
    const int64_t S = b->n_sensors, n = b->n_streams, plane = n * S;
    for (int64_t s = 0; s < n; s++) {
        double gone[MOST_SENSORS], all = 0;
        const int alone = apart(b, s);
        for (int64_t g = 0; g < S; g++) {
            const int heard = b->of_sensors[s * S + g] > b->unscored && b->full[s];
            all += gone[g] = heard ? smaller(b->missing[s * S + g], 1.0) : 1.0;
        }
        for (int64_t g = 0; g < S; g++) {
            const int64_t at = s * S + g;
            const double missing = b->missing[at], u = b->of_sensors[at];
            const double passing = b->work[at] * (missing < b->half) * b->work[plane + at];
            double lasting = missing < b->no_data;
            lasting *= 1.0 - b->flat[at];
            if (b->has_health) {
                const double swapped = b->swapped[at];
                lasting *= 1 - b->repeated[at];
                lasting *= !(b->held[at] < 0);
                lasting *= 1 - b->units[at];
                lasting *= 1 - b->off_body[at];
                lasting *= 1.0 - b->copies[at];
                lasting *= swapped < 1 ? 1 - swapped : 1 - b->swapped_left;
                lasting *= 1 - b->shifted[at];
            }
            if (b->has_clock)
                lasting *= within((b->hopeless - b->clock_ms[at]) / (b->hopeless - b->harmless), 0.0, 1.0);
            const int heard = u > b->unscored && b->full[s];
            const double *likelihood = (alone ? b->likelihood_apart : b->likelihood) + (b->own ? s * S + g : g) * 6;
            const double others = larger(all - gone[g], 0.0) / (double)(S > 1 ? S - 1 : 1);
            const double said = likelihood[0] + likelihood[1] * larger(u, b->least_u) + likelihood[2] * sqrt(gone[g])
                                + likelihood[3] * sqrt(others);
            const double ratio = said * within(2 - u / b->least_u, 0.0, 1.0)
                                 / (1 + likelihood[4] * gone[g] + likelihood[5] * others);
            b->of_sensors[3 * plane + at] = heard * passing * lasting;
            b->of_sensors[5 * plane + at] = lasting;
            b->work[6 * plane + at] = within(ratio, -b->lr_limit, b->lr_limit);
            for (int64_t k = 2; k < 4; k++) {
                const double drawn = 0.5 + b->keep * (1 / (1 + b->work[k * plane + at]) - 0.5);
                b->work[k * plane + at] = drawn / (1 - drawn);
            }
        }
    }
    return 0;
}

/* The mean of what fading sums tell, and its standard deviation. */
static double mean_of(const kinedge_belief *b, double total, double squares, double weight, double *spread)
{
    const double at_least = larger(weight, b->tiny), mean = total / at_least;
    *spread = sqrt(larger(squares / at_least - mean * mean, 0.0));
    return mean;
}

/* What somebody shows anyway: the mean and one standard deviation, at least 0. */
static double shown_anyway(const kinedge_belief *b, double total, double squares, double weight)
{
    double spread;
    const double mean = mean_of(b, total, squares, weight, &spread);
    return larger(mean + spread, 0.0);
}

/* Go on in what each channel shows anyway; where something counts, share out anew what exceeds that. */
static void leave_usual(const kinedge_belief *b, int64_t s, int counts)
{
    const int64_t C = b->n_channels, S = b->n_sensors, n = b->n_streams;
    const double *excess = b->of_channels + s * C, *u = excess + n * C;
    double energy[MOST_CHANNELS], alone[MOST_SENSORS], left[MOST_SENSORS], by[MOST_SENSORS], strongest = 0, far = 0;
    int any = 0;
    for (int64_t g = 0; g < S; g++) {
        const double trusted = b->of_sensors[(3 * n + s) * S + g], weight = b->shown_weight[b->rows[s] * S + g];
        const double known = weight - trusted;
        double most = 0;
        alone[g] = 0;
        for (int64_t c = b->starts[g]; c < b->starts[g + 1]; c++) {
            const int64_t row = b->rows[s] * C + c;
            double here = b->scored[s * C + c] ? u[c] : 0.0;
            double shown = b->keep_own * b->channel_shown[row], squares = b->keep_own * b->channel_shown_squares[row];
            if (known >= b->learned)
                here = smaller(here, shown_anyway(b, shown, squares, known) + b->at_most);
            b->channel_shown[row] = shown = shown + trusted * here;
            b->channel_shown_squares[row] = squares = squares + trusted * (here * here);
            const double anyway = counts ? shown_anyway(b, shown, squares, weight) : 0.0;
            most = c == b->starts[g] ? u[c] : larger(most, u[c]);
            if (b->scored[s * C + c])
                alone[g] = larger(alone[g], u[c] - anyway);
            if (!counts)
                continue;
            const double part = anyway > 0 ? larger(u[c] - anyway, 0.0) / (u[c] > anyway ? u[c] : 1.0) : 1.0;
            energy[c] = energy_of(b, excess[c], u[c], b->drop[s * C + c]) * part;
            if (b->by_excess)
                energy[c] *= part;
            any |= energy[c] > 0;
        }
        strongest = larger(strongest, alone[g]);
        if (!b->n_levels)
            continue;
        const int64_t row = b->rows[s] * S + g;
        const double more = larger(b->of_sensors[s * S + g] - most, 0.0);
        double shown = b->keep_own * b->coordination_shown[row], squares = b->keep_own * b->coordination_shown_squares[row];
        double here = more;
        if (known >= b->learned)
            here = smaller(here, shown_anyway(b, shown, squares, known) + b->at_most);
        b->coordination_shown[row] = shown = shown + trusted * here;
        b->coordination_shown_squares[row] = squares = squares + trusted * (here * here);
        left[g] = larger(more - (counts ? shown_anyway(b, shown, squares, weight) : 0.0), 0.0);
    }
    if (any)
        split(b, s, energy);
    if (!b->n_levels)
        return;
    for (int64_t g = 0; g < S; g++) {
        if (alone[g] < strongest && left[g] < strongest)
            left[g] = 0; /* what surprises elsewhere misleads its line */
        far = larger(far, left[g]);
    }
    const double total = far + strongest, part = total > 0 ? far / total : 0.0;
    double squares[MOST_SENSORS] = {0}, *channel = b->of_channels + (2 * n + s) * C;
    double *sensor = b->of_sensors + (2 * n + s) * S;
    for (int64_t g = 0; g < S; g++)
        squares[g] = left[g] * left[g];
    share_out(squares, S, by);
    for (int64_t g = 0; g < S; g++) {
        const double each = by[g] / (double)(b->starts[g + 1] - b->starts[g]);
        sensor[g] = (1 - part) * sensor[g] + part * by[g];
        for (int64_t c = b->starts[g]; c < b->starts[g + 1]; c++)
            channel[c] = (1 - part) * channel[c] + part * each;
    }
}

/* What a block says against "normal", where it is unlike what the person showed before it, too. */
static double unlike_before(const kinedge_belief *b, int64_t row, double ratio)
{
    double spread;
    const double known = b->keep_own * b->shown_weight[row];
    const double mean = mean_of(b, b->keep_own * b->shown[row], b->keep_own * b->shown_squares[row], known, &spread);
    const double beyond = (ratio - mean) / larger(spread, b->unlike_spread) - b->unlike_from;
    return known >= b->learned && beyond > 0 ? larger(ratio, smaller(beyond, b->unlike_most)) : ratio;
}

/* What a block shared out joins what was gathered before it. */
static void join(double *gathered, double *block, int64_t n, double fresh)
{
    for (int64_t i = 0; i < n; i++)
        gathered[i] = block[i] = (1 - fresh) * gathered[i] + fresh * block[i];
}

/* Go on in the state: evidence, doubt and loss, and where the evidence started. */
API int32_t kinedge_belief_gather(const kinedge_belief *b)
{
    if (outside(b))
        return -1;
    const int64_t C = b->n_channels, S = b->n_sensors, n = b->n_streams, plane = n * S;
    for (int64_t s = 0; s < n; s++) {
        const int enrolled = b->of_one[b->own ? s : 0] > 0;
        double old = 0, new = 0;
        for (int64_t g = 0; g < S; g++) {
            const int64_t at = s * S + g, row = b->rows[s] * S + g;
            const double reliability = b->of_sensors[3 * plane + at], ratio = b->work[6 * plane + at];
            const double against = enrolled ? ratio : unlike_before(b, row, ratio);
            const double shown = b->keep_own * b->shown[row] + reliability * ratio;
            const double squares = b->keep_own * b->shown_squares[row] + reliability * (ratio * ratio);
            const double weight = b->keep_own * b->shown_weight[row] + reliability;
            const double own = enrolled ? 0.0 : shown_anyway(b, shown, squares, weight);
            const double counted = smaller(ratio, larger(ratio - own, 0.0));
            b->shown[row] = shown;
            b->shown_squares[row] = squares;
            b->shown_weight[row] = weight;
            b->of_sensors[6 * plane + at] = ratio - counted;
            b->of_sensors[7 * plane + at] = against - ratio;
            const double left = b->work[3 * plane + at], brought = b->weight * reliability * counted;
            const double log_odds = b->work[2 * plane + at] + b->weight * reliability * against, beyond = left + brought;
            old = larger(old, left);
            new = larger(new, brought);
            b->work[4 * plane + at] = b->log_odds[row] = within(log_odds, -b->odds_limit, b->odds_limit);
            b->work[5 * plane + at] = b->beyond[row] = within(beyond, -b->odds_limit, b->odds_limit);
            b->doubted_s[row] = reliability >= b->trusted ? 0.0 : smaller(b->doubted_s[row] + b->hop_s, b->long_s);
            b->of_sensors[4 * plane + at] = b->lost[row] = larger(b->missing[at], b->keep * b->lost[row]);
        }
        const int speaks = old + new > b->little;
        const double fresh = speaks ? new / (old + new) : 1.0;
        b->of_streams[8 * n + s] = fresh;
        b->of_streams[9 * n + s] = speaks ? new : 0.0;
        leave_usual(b, s, speaks && new > 0 && !enrolled);
        join(b->channel_share + b->rows[s] * C, b->of_channels + (2 * n + s) * C, C, fresh);
        join(b->sensor_share + b->rows[s] * S, b->of_sensors + 2 * plane + s * S, S, fresh);
    }
    return 0;
}

/* Believe and decide; work holds the odds and the likelihood ratios themselves. */
API int32_t kinedge_belief_decide(const kinedge_belief *b)
{
    if (outside(b))
        return -1;
    const int64_t S = b->n_sensors, n = b->n_streams, plane = n * S;
    for (int64_t s = 0; s < n; s++) {
        double ratios[MOST_SENSORS], others_odds[MOST_SENSORS], least = 1;
        int64_t n_heard = 0, n_in = 0;
        int trusted = 1, surely = 1;
        for (int64_t g = 0; g < S; g++) {
            const int64_t at = s * S + g;
            const double lasting = b->of_sensors[5 * plane + at], reliability = b->of_sensors[3 * plane + at];
            const int heard = b->of_sensors[at] > b->unscored && b->full[s], out = lasting < b->trusted;
            n_heard += heard;
            ratios[g] = heard ? b->work[6 * plane + at] : 0.0;
            trusted &= lasting >= b->trusted && b->doubted_s[b->rows[s] * S + g] <= b->lately_s;
            n_in += !out;
            others_odds[g] = out ? 0.0 : b->work[4 * plane + at];
            surely &= reliability >= b->trusted || out;
            if (b->has_health) {
                const double kept = 1 - b->swapped[at];
                least = g ? smaller(least, kept) : kept;
            }
        }
        const double mean = sum_of_doubles(b->work + 4 * plane + s * S, S) / (double)S;
        const double more = sum_of_doubles(b->work + 5 * plane + s * S, S) / (double)S;
        const double anomalous = larger(1 - 1 / more, 0.0);
        double normal = trusted ? larger(1 - mean, 0.0) : 0.0;
        if (b->has_health)
            normal *= least;
        const int enrolled = b->of_one[b->own ? s : 0] > 0;
        const double needed = enrolled ? b->min_anomalous : b->min_newcomer;
        const double p_value = b->of_streams[n + s];
        const int rare = enrolled ? p_value <= b->alpha : p_value <= b->alpha_newcomer || anomalous > b->sure_newcomer;
        int decision = anomalous > needed && rare ? ANOMALOUS : normal > b->min_normal ? NORMAL : UNSURE;
        double others = 0.0;
        int by_others = 0;
        if (b->leave_out) {
            const double odds = sum_of_doubles(others_odds, S) / (double)(n_in > 1 ? n_in : 1);
            others = surely && mean < 1 && n_in < S && n_in > 0 ? larger(1 - odds, 0.0) : 0.0;
            if (b->has_health)
                others *= least;
            by_others = decision == UNSURE && others > b->min_others;
            decision = by_others ? NORMAL : decision;
        }
        for (int64_t g = 0; g < S; g++)
            b->without[s * S + g] = by_others && b->of_sensors[5 * plane + s * S + g] < b->trusted;
        const double alone = sum_of_doubles(ratios, S) / (double)(n_heard > 1 ? n_heard : 1);
        const double wholly = (1 - alone) / larger(b->min_normal, b->tiny);
        const double odd = (1 - 1 / larger(alone, b->tiny)) / larger(needed, b->tiny);
        double *of_streams = b->of_streams + s;
        of_streams[2 * n] = normal;
        of_streams[3 * n] = anomalous;
        of_streams[4 * n] = mean;
        of_streams[5 * n] = more;
        of_streams[6 * n] = larger(wholly, odd);
        of_streams[7 * n] = others;
        b->decision[s] = (int8_t)decision;
    }
    return 0;
}
