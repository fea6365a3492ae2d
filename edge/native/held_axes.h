/* Axes that stand at one number while their sensor moves: part of health.c.
 *
 * kinedge/edge/held_axes.py does the same in numpy, and says why; here is only how.
 */
/* The longest run of equal samples of a channel whose steps begin at the one after the first: 1 if it is long, and not
 * the end of a range. reach: of the channel, each part n_channels behind the one before. */
static int run_of(const kinedge_health *h, int64_t stream, int64_t c, const float *reach, int64_t *first, int64_t *end)
{
    const int64_t C = h->n_channels, plane = h->n_streams * C;
    const float *x = h->values + stream * h->hop * C + c, *fact = h->given + stream * C + c;
    const uint8_t *valid = h->valid + stream * h->hop * C + c;
    int asked = 0;
    /* one step in so many is part of every run */
    for (int64_t k = h->held_from - 2; k < h->hop - 1; k += h->held_from - 1)
        asked |= x[k * C] == x[(k + 1) * C] && valid[k * C] && valid[(k + 1) * C];
    if (!asked)
        return 0;
    int64_t longest = 0, begin = 0;
    for (int64_t k = 1, n = 0; k < h->hop; k++) {
        n = x[k * C] == x[(k - 1) * C] && valid[k * C] && valid[(k - 1) * C] ? n + 1 : 0;
        if (n > longest) {
            longest = n;
            begin = k - n;
        }
    }
    *first = begin + 1;
    *end = begin + 1 + longest;
    if (longest + 1 < h->held_from)
        return 0;
    const float value = x[begin * C], high = fact[5 * plane], low = fact[4 * plane];
    if (high > low)
        return low < value && value < high;
    const float highest = reach[0], lowest = reach[C];
    const int never_moved = reach[2 * C] == value && reach[3 * C] == value && (double)highest - (double)lowest < h->range[c];
    return (lowest < value && value < highest) || never_moved;
}

/* Whether other channels of the same quantity go on, by more than their resolution, in most steps from first to end. */
static int others_move(const kinedge_health *h, int64_t stream, int64_t g, int64_t c, int64_t first, int64_t end)
{
    const int64_t C = h->n_channels, plane = h->n_streams * C;
    uint8_t moved[TABLE / 2] = {0};
    int fine = 0;
    for (int64_t other = h->starts[g]; other < h->starts[g + 1]; other++) {
        if (other == c || h->quantity[other] != h->quantity[c])
            continue;
        const double step = finest(h, stream, other);
        const float *x = h->values + stream * h->hop * C + other;
        const uint8_t *valid = h->valid + stream * h->hop * C + other;
        const float *fact = h->given + stream * C + other;
        fine |= step > 0 && (double)fact[5 * plane] - (double)fact[4 * plane] > h->few * (double)h->hop * step;
        for (int64_t k = first; step > 0 && k < end; k++)
            moved[k] |= valid[k * C] && valid[(k - 1) * C] &&
                        fabs((double)x[k * C] - (double)x[(k - 1) * C]) > h->more_than_one * step;
    }
    int64_t n = 0;
    for (int64_t k = first; k < end; k++)
        n += moved[k];
    return (fine || end - first == h->hop - 1) && (double)n >= h->mostly * (double)(end - first);
}

/* Which channels of a sensor stand at one number while it moves, or since it did: held (width). Return the first,
 * counted from 1, and keep it. */
static int64_t held_axes(const kinedge_health *h, int64_t stream, int64_t row, int64_t g, uint8_t *held)
{
    const int64_t begin = h->starts[g], width = h->starts[g + 1] - begin;
    const int clips = h->clipped[row * h->n_sensors + g] >= h->comparable_below;
    const int64_t plane = h->n_streams * h->n_channels;
    const float *fact = h->given + stream * h->n_channels;
    double *kept = h->held + row * h->n_sensors + g;
    int64_t which = 0;
    int heard = 1;
    for (int64_t i = width - 1; i >= 0; i--) {
        const int64_t c = begin + i;
        int64_t first, end;
        held[i] = *kept == (double)(i + 1) && fact[c] > 0 && fact[5 * plane + c] == fact[4 * plane + c];
        heard &= *kept != (double)(i + 1) || fact[c] > 0;
        held[i] = held[i] || (h->watched[c] && !clips && run_of(h, stream, c, h->reach + 4 * row * h->n_channels + c, &first, &end) &&
                  others_move(h, stream, g, c, first, end));
        which = held[i] ? i + 1 : which;
    }
    if (heard)
        *kept = (double)which;
    return which;
}
