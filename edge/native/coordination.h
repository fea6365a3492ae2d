/* How the sensors of a stream move together; included by belief.c alone, of whose record it reads. */

/* Whether it is known how a sensor moved. */
static int told(const kinedge_belief *b, int64_t at, double u)
{
    return u > b->unscored && b->intensity[at] > b->no_step;
}

/* Whether coordination cannot be told, of so many sensors of which it is known how they moved: enough_told. */
static int too_few(const kinedge_belief *b, int64_t n_told)
{
    return n_told < 2 || n_told < b->n_sensors - 1;
}

static int apart(const kinedge_belief *b, int64_t s)
{
    int64_t n_told = 0;
    for (int64_t g = 0; g < b->n_sensors; g++)
        n_told += told(b, s * b->n_sensors + g, b->of_sensors[s * b->n_sensors + g]);
    return b->n_levels && too_few(b, n_told);
}

/* How far a sensor's intensity lies from the median above its line in these of the others, without one that is silent
 * (-1: none), in what is to a quantile: its size, and on which side. Lines.signed. */
static double beyond_line(const kinedge_belief *b, int64_t s, int64_t g, int64_t silent, const double *others, int *above)
{
    const int64_t S = b->n_sensors, K = b->n_levels, own = b->own ? s : 0;
    const double *mix = b->mix + (own * S + g) * (S + 1);
    double level = mix[S], wider = 1, low = 0, middle = 0, high = 0;
    for (int64_t j = 0; j < S; j++)
        if (j != silent)
            level = level + mix[j] * others[j];
    if (silent >= 0) {
        const double *its = b->mix + (own * S + silent) * (S + 1), shared = within(mix[silent] * its[g], 0.0, b->most_shared);
        double expected = its[S];
        for (int64_t j = 0; j < S; j++)
            if (j != silent && j != g)
                expected = expected + its[j] * others[j];
        level = (level + mix[silent] * expected) / (1 - shared);
        wider = 1 / sqrt(1 - shared);
    }
    for (int64_t k = 0; k + 1 < K; k++) {
        const int64_t at = (own * K + k) * S + g, next = at + S;
        const double into = within((level - b->levels[at]) / (b->levels[next] - b->levels[at]), 0.0, 1.0);
        low += into * (b->low[next] - b->low[at]);
        middle += into * (b->middle[next] - b->middle[at]);
        high += into * (b->high[next] - b->high[at]);
    }
    low = b->low[own * K * S + g] + low;
    middle = b->middle[own * K * S + g] + middle;
    high = b->high[own * K * S + g] + high;
    const double beyond = b->intensity[s * S + g] - level - middle;
    *above = beyond > 0;
    return smaller(beyond / ((*above ? high - middle : low - middle) * wider), b->most_beyond);
}

/* What a sensor's statistic has more, as all sensors move, or all but one that is silent (-1: none):
 * Coordination.added. */
static double coordinated(const kinedge_belief *b, int64_t s, int64_t g, int64_t silent)
{
    const int64_t S = b->n_sensors, sensor = (b->own ? s : 0) * S + g;
    const double late = b->late[s * S + g], *before = b->before + s * S;
    int above, was_above, known = 1;
    double v = beyond_line(b, s, g, silent, b->intensity + s * S, &above);
    for (int64_t j = 0; j < S; j++)
        known &= j == silent || before[j] > b->no_step;
    if (known) {
        const double then = beyond_line(b, s, g, silent, before, &was_above);
        v = above != was_above ? 0 : smaller(then, v);
    }
    const double more = b->coordination_weight[sensor] * (v - b->usual[sensor]);
    const double away = within(late / b->late_scale[sensor], 0.0, b->most_beyond) - b->late_usual[sensor];
    return more + b->late_weight[sensor] * (late > b->untold ? away : 0.0);
}
