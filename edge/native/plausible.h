/* Whether a body can show what a sensor reads: part of health.c, whose structure it works on.
 *
 * kinedge/edge/plausible.py does the same in numpy, and says why; here is only how.
 */
/* The square of the mean of three axes in a hop; what the samples spread around it. */
static double squares(const float *fact, int64_t plane, const int64_t *axes, double *spread)
{
    double level = 0;
    *spread = 0;
    for (int64_t i = 0; i < 3; i++) {
        const double n = fact[axes[i]], mean = fact[2 * plane + axes[i]], power = fact[3 * plane + axes[i]];
        level = i ? level + mean * mean : mean * mean;
        *spread = i ? *spread + power / (n > 1 ? n : 1) : power / (n > 1 ? n : 1);
    }
    return level;
}

static void fade(const kinedge_health *h, double *mean, double square, double most)
{
    *mean = h->strength_keep * *mean + (1 - h->strength_keep) * (square < most ? square : most);
}

/* Whether it is known by how much a sensor turned in a hop: nothing is missing, nothing at the end of its range. */
static int turn_known(const kinedge_health *h, const float *fact, int64_t g)
{
    const int64_t plane = h->n_streams * h->n_channels;
    int known = 1;
    for (int64_t i = 0; i < 3; i++) {
        const float *acc = fact + h->acc[3 * g + i], *gyr = fact + h->gyr[3 * g + i];
        known &= acc[0] >= (float)h->hop && gyr[0] >= (float)h->hop && acc[plane] <= 0 && gyr[plane] <= 0;
        known &= !(gyr[6 * plane] >= h->few_at_end && -(double)gyr[4 * plane] > h->clips);
        known &= !(gyr[7 * plane] >= h->few_at_end && (double)gyr[5 * plane] > h->clips);
    }
    return known;
}

/* Add what was turned; hold it against what is felt, where a sensor rests (felt: its direction, or none). */
static void turn_on(const kinedge_health *h, int64_t at, double square, int known, const double *felt)
{
    double *rested = h->rested + 4 * at, apart = 0;
    const double here = rested[3] + h->hop_s * sqrt(square < h->hop_gyr ? square : h->hop_gyr);
    const double turned = known && here < h->unknown ? here : h->unknown;
    rested[3] = turned;
    if (!felt)
        return;
    for (int64_t i = 0; i < 3; i++) {
        const double one = felt[i] - rested[i];
        apart = i ? apart + one * one : one * one;
    }
    const double chord = sqrt(apart);
    if ((rested[0] != 0 || rested[1] != 0 || rested[2] != 0) && chord > h->slack) {
        int64_t *times = h->n_strange + 2 * at + 1;
        if (chord > turned + h->slack)
            *times = *times + 1 < (int64_t)h->times ? *times + 1 : (int64_t)h->times;
        else if (turned < h->unknown)
            *times = 0;
    }
    memcpy(rested, felt, 3 * sizeof *felt);
    rested[3] = 0;
}

/* What a sensor shows, for whether a body can: kinedge/edge/plausible.py. */
static void add_strength(const kinedge_health *h, const float *fact, int64_t g, int64_t at, int heard, int comparable)
{
    const int64_t plane = h->n_streams * h->n_channels, *acc = h->acc + 3 * g, *gyr = h->gyr + 3 * g;
    double spread, felt[3], square = 0;
    int rests = 0;
    if (acc[0] >= 0 && heard) {
        const double level = squares(fact, plane, acc, &spread), length = sqrt(level);
        int64_t *n = h->n_strange + 2 * at;
        int asked = comparable;
        for (int64_t i = 0; i < 3; i++)
            asked &= fact[plane + acc[i]] <= 0;
        const int quiet = asked && spread < h->quiet, fits = length >= h->rest_low && length <= h->rest_high;
        fade(h, h->strength + 2 * at, level + spread, h->hop_acc);
        if (quiet)
            *n = fits ? 0 : *n + 1;
        else if (asked && !((double)*n * h->strange_share >= 1))
            *n = 0;
        rests = quiet && fits;
        for (int64_t i = 0; i < 3; i++)
            felt[i] = (double)fact[2 * plane + acc[i]] / (length > 0 ? length : 1);
    }
    if (gyr[0] >= 0 && heard) {
        const double level = squares(fact, plane, gyr, &spread);
        square = level + spread;
        fade(h, h->strength + 2 * at + 1, square, h->hop_gyr);
    }
    if (acc[0] >= 0 && gyr[0] >= 0)
        turn_on(h, at, square, heard && comparable && turn_known(h, fact, g), rests ? felt : 0);
}

/* How sure it is that no body shows that. */
static double strange(const kinedge_health *h, int64_t at)
{
    const double acc = h->strength[2 * at], gyr = h->strength[2 * at + 1];
    if (acc < h->least_acc || acc > h->most_acc || gyr > h->most_gyr || h->n_strange[2 * at + 1] >= (int64_t)h->times)
        return 1.0;
    return within(1.5 * ((double)h->n_strange[2 * at] * h->strange_share) - 0.5, 0.0, 1.0);
}
