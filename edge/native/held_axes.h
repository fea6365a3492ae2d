/* Axes that stand at one number while their sensor moves: part of health.c.
 *
 * kinedge/edge/held_axes.py does the same in numpy, and says why; here is only how.
 */
#define MOST_BITS 52 /* of a sensor's channels: so many are whole numbers of double precision */

/* How many samples the longest run of equal samples of a channel has, and where it begins; 0 where none is as long as the
 * shortest that counts. ended: one of these ended before the hop did. */
static int64_t longest_run(const kinedge_health *h, int64_t stream, int64_t c, int64_t *begin, int *ended)
{
    const int64_t C = h->n_channels;
    const float *x = h->values + stream * h->hop * C + c;
    const uint8_t *valid = h->valid + stream * h->hop * C + c;
    int asked = 0;
    /* one step in so many is part of every run */
    for (int64_t k = h->shortest - 2; k < h->hop - 1; k += h->shortest - 1)
        asked |= x[k * C] == x[(k + 1) * C] && valid[k * C] && valid[(k + 1) * C];
    if (!asked)
        return 0;
    int64_t longest = 0;
    for (int64_t k = 1, n = 0; k < h->hop; k++) {
        const int same = x[k * C] == x[(k - 1) * C] && valid[k * C] && valid[(k - 1) * C];
        *ended |= !same && n + 1 >= h->shortest;
        n = same ? n + 1 : 0;
        if (n > longest) {
            longest = n;
            *begin = k - n;
        }
    }
    return longest + 1 >= h->shortest ? longest + 1 : 0;
}

/* Whether a run that begins there stands inside what its channel has reached. */
static int inside(const kinedge_health *h, int64_t stream, int64_t row, int64_t c, int64_t begin)
{
    const int64_t C = h->n_channels, plane = h->n_streams * C;
    const float *fact = h->given + stream * C + c, *reach = h->reach + 4 * row * C + c;
    const float value = h->values[(stream * h->hop + begin) * C + c], high = fact[5 * plane], low = fact[4 * plane];
    if (fabs((double)value) < h->at_rest[c])
        return 0;
    if (high > low)
        return low < value && value < high;
    return reach[C] < value && value < reach[0];
}

/* Whether another channel of the sensor that measures the same moves in the samples from begin to end. */
static int others_move(const kinedge_health *h, int64_t stream, int64_t g, int64_t c, int64_t begin, int64_t end)
{
    const int64_t C = h->n_channels;
    for (int64_t other = h->starts[g]; other < h->starts[g + 1]; other++) {
        if (other == c || h->quantity[other] != h->quantity[c])
            continue;
        int there = 0;
        double high = 0, low = 0;
        for (int64_t k = begin; k < end; k++) {
            const int64_t at = (stream * h->hop + k) * C + other;
            if (!h->valid[at])
                continue;
            const double x = (double)h->values[at];
            high = !there || x > high ? x : high;
            low = !there || x < low ? x : low;
            there = 1;
        }
        if (there && high - low >= h->moves_by[other])
            return 1;
    }
    return 0;
}

/* Whether the model is shown a sensor otherwise than it gave its samples. */
static int turned(const kinedge_health *h, int64_t stream, int64_t g)
{
    const float *shown = h->facts + (2 * h->n_streams + stream) * h->n_channels;
    const float *given = h->given + (2 * h->n_streams + stream) * h->n_channels;
    for (int64_t c = h->starts[g]; c < h->starts[g + 1]; c++)
        if (shown[c] != given[c])
            return 1;
    return 0;
}

/* Which channels of a sensor stand at one number while it moves, or since it did: held (width). Return them as bits,
 * negative where all of the sensor is kept from the model, and keep them. */
static int64_t held_axes(const kinedge_health *h, int64_t stream, int64_t row, int64_t g, uint8_t *held)
{
    const int64_t first = h->starts[g], width = h->starts[g + 1] - first, plane = h->n_streams * h->n_channels;
    const float *fact = h->given + stream * h->n_channels;
    const int clips = h->clipped[row * h->n_sensors + g] >= h->comparable_below;
    double *kept = h->held + row * h->n_sensors + g;
    const int64_t before = (int64_t)*kept;
    int64_t now = 0, later = 0;
    for (int64_t i = 0; i < width; i++) {
        const int64_t c = first + i, bit = i < MOST_BITS ? (int64_t)1 << i : 0;
        const int heard = fact[c] > 0, stands = fact[5 * plane + c] == fact[4 * plane + c];
        double *coarse = h->coarse + row * h->n_channels + c;
        int64_t begin = 0;
        int ended = 0;
        const int64_t run = longest_run(h, stream, c, &begin, &ended);
        held[i] = (before & bit) && heard && stands;
        if (!held[i] && run >= h->held_from && h->watched[c] && *coarse < h->fine_axis && !clips)
            held[i] = inside(h, stream, row, c, begin) && others_move(h, stream, g, c, begin, begin + run);
        now |= held[i] ? bit : 0;
        later |= held[i] ? bit : heard ? 0 : before & bit;
        if (held[i] || !heard || (stands && !others_move(h, stream, g, c, 0, h->hop)))
            continue;
        *coarse = h->coarse_keep * *coarse;
        if (ended && !stands)
            *coarse = *coarse + (1 - h->coarse_keep);
    }
    *kept = (double)later;
    return now & (now - 1) || !h->held_alone || (now && turned(h, stream, g)) ? -now : now;
}
