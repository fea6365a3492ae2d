/* Arrivals that are taken in: the clock maps that they move, and the host times of their samples.
 *
 * kinedge/firmware_bridge/clock_table.py does the same in numpy, and says why; here is only how.
 */
#include <math.h>
#include <string.h>

#include "kinedge_native.h"

#define BIN_NS INT64_C(1000000000)
#define WINDOW_NS (120 * BIN_NS)
#define WARM_UP_NS (10 * BIN_NS)
#define MAX_SKEW 200e-6
#define MAX_SLEW 500e-6
#define MAX_SLEW_WARM_UP 0.05
#define N_BINS 160
#define EXACT (INT64_C(1) << 52)
#define SANE (INT64_C(1) << 60)
#define GUESSES 8
#define RECENT_BINS 15

enum {
    SECOND, START, END, N_UPDATES, DEVICE_ORIGIN, OFFSET_ORIGIN, NOW, LINE_AT,
    EDGE_LEFT, EDGE_RIGHT, HAS_EDGE, ALONE, SHIFT, N_INTS
};
enum { LINE_RESIDUAL, SLOPE, PUBLISHED, PUBLISHED_SLOPE, N_FLOATS };

static int64_t floored(int64_t a, int64_t b) /* b > 0 */
{
    return a / b - (a % b < 0);
}

static double line(const int64_t *ints, const double *floats, int64_t at)
{
    return floats[LINE_RESIDUAL] + floats[SLOPE] * (double)(at - ints[LINE_AT]);
}

/* Make room for the minimum of a new second, and forget those that are too old. */
static void begin_second(int64_t *ints, int64_t *at, int64_t *residual, int64_t now, int64_t second)
{
    if (ints[END] == N_BINS) {
        const int64_t n = N_BINS - ints[START];
        memmove(at, at + ints[START], (size_t)n * sizeof *at);
        memmove(residual, residual + ints[START], (size_t)n * sizeof *residual);
        ints[START] = 0;
        ints[END] = n;
    }
    while (ints[START] < ints[END] && at[ints[START]] < now - WINDOW_NS)
        ints[START]++;
    ints[SECOND] = second;
    ints[END]++;
}

/* The ends of the edge of the lower convex hull that passes just before the middle. */
static void edge_below(const int64_t *at, const int64_t *residual, int64_t n, int64_t middle, int64_t *left,
                       int64_t *right)
{
    double since[N_BINS], height[N_BINS], slope = 0.0;
    int64_t n_before = 0, i = -1, k = -1;
    for (int64_t j = 0; j < n; j++) {
        since[j] = (double)(at[j] - middle);
        height[j] = (double)residual[j];
        n_before += at[j] < middle;
    }
    for (int guess = 0; guess < GUESSES; guess++) {
        int64_t low = 0, high = n_before;
        double least = INFINITY;
        for (int64_t j = 0; j < n_before; j++) {
            const double above = height[j] - slope * since[j];
            low = above < least ? j : low;
            least = above < least ? above : least;
        }
        least = INFINITY;
        for (int64_t j = n_before; j < n; j++) {
            const double above = height[j] - slope * since[j];
            high = above < least ? j : high;
            least = above < least ? above : least;
        }
        *left = low;
        *right = high;
        if (low == i && high == k)
            return;
        i = low;
        k = high;
        slope = (height[k] - height[i]) / (since[k] - since[i]);
    }
    double lowest = INFINITY; /* all pieces; just before the middle, as a point at it would be the end of many */
    for (int64_t a = 0; a < n_before; a++)
        for (int64_t b = n_before; b < n; b++) {
            const double from = since[a] + 0.5, to = since[b] + 0.5;
            const double here = (height[a] * to - height[b] * from) / (to - from);
            if (here < lowest) {
                lowest = here;
                *left = a;
                *right = b;
            }
        }
}

/* Lay the line under the minima. */
static void fit(int64_t *ints, double *floats, const int64_t *at, const int64_t *residual)
{
    at += ints[START];
    residual += ints[START];
    const int64_t n = ints[END] - ints[START], first = at[0], last = at[n - 1], middle = floored(first + last, 2);
    ints[HAS_EDGE] = 0;
    if (last - first >= WARM_UP_NS) {
        int64_t i, k;
        edge_below(at, residual, n, middle, &i, &k);
        const double slope = (double)(residual[k] - residual[i]) / (double)(at[k] - at[i]);
        const double most = slope > -MAX_SKEW ? slope : -MAX_SKEW;
        floats[SLOPE] = most < MAX_SKEW ? most : MAX_SKEW;
        ints[HAS_EDGE] = slope == floats[SLOPE];
        ints[EDGE_LEFT] = at[i];
        ints[EDGE_RIGHT] = at[k];
    }
    ints[LINE_AT] = middle;
    double least = INFINITY;
    for (int64_t j = 0; j < n; j++) {
        const double above = (double)residual[j] - floats[SLOPE] * (double)(at[j] - middle);
        least = above < least ? above : least;
    }
    floats[LINE_RESIDUAL] = least;
}

static int still_fits(const int64_t *ints, const double *floats, const int64_t *at, int64_t newest, int64_t residual)
{
    return ints[HAS_EDGE] > 0 && at[ints[START]] <= ints[EDGE_LEFT] &&
           floored(at[ints[START]] + newest, 2) < ints[EDGE_RIGHT] &&
           floored(ints[EDGE_RIGHT], BIN_NS) < ints[SECOND] && (double)residual >= line(ints, floats, newest);
}

/* Take in arrivals, from the one with this number on, of the clocks in these rows of a table, one after the other; note
 * what maps the times of each chunk as of its arrival. Return how many are done: the next, if there is one, is for the
 * clock map itself. -1, having done nothing, where a row or its bins are outside; -2 where a time is absurd.
 */
API int64_t kinedge_clocks(int64_t *table_ints, double *table_floats, int64_t *table_at, int64_t *table_residual,
                           int64_t n_table, const int64_t *rows, const int64_t *device_ns, const int64_t *host_ns,
                           int64_t from, int64_t n, int64_t *base, int64_t *offset, double *published, double *before)
{
    for (int64_t k = from; k < n; k++) {
        if (rows[k] < 0 || rows[k] >= n_table)
            return -1;
        if (!(device_ns[k] > -SANE && device_ns[k] < SANE && host_ns[k] > -SANE && host_ns[k] < SANE))
            return -2;
    }
    for (int64_t k = from; k < n; k++) {
        int64_t *ints = table_ints + rows[k] * N_INTS, *at = table_at + rows[k] * N_BINS;
        int64_t *residuals = table_residual + rows[k] * N_BINS;
        double *floats = table_floats + rows[k] * N_FLOATS;
        const int64_t now = device_ns[k] - ints[DEVICE_ORIGIN];
        const int64_t residual = host_ns[k] - device_ns[k] - ints[OFFSET_ORIGIN];
        if (ints[N_UPDATES] <= 0 || ints[ALONE] || now < ints[NOW] - WINDOW_NS || residual >= EXACT || residual <= -EXACT)
            return k;
        if (ints[START] < 0 || ints[END] > N_BINS || ints[START] >= ints[END])
            return -1;
        const int64_t second = floored(now, BIN_NS);
        const int fresh = second > ints[SECOND];
        if (fresh)
            begin_second(ints, at, residuals, now, second);
        if (fresh || (second == ints[SECOND] && residual < residuals[ints[END] - 1])) {
            at[ints[END] - 1] = now;
            residuals[ints[END] - 1] = residual;
            if (!still_fits(ints, floats, at, now, residual))
                fit(ints, floats, at, residuals);
        }
        ints[N_UPDATES]++;
        const int64_t elapsed = now - ints[NOW];
        if (elapsed > 0) {
            const int warm = at[ints[END] - 1] - at[ints[START]] >= WARM_UP_NS;
            const double most = (warm ? MAX_SLEW : MAX_SLEW_WARM_UP) * (double)elapsed;
            double change = line(ints, floats, now) - floats[PUBLISHED];
            change = change < most ? change : most;
            change = change > -most ? change : -most;
            ints[NOW] = now;
            floats[PUBLISHED] += change;
            floats[PUBLISHED_SLOPE] = change / (double)elapsed;
        }
        base[k] = ints[DEVICE_ORIGIN] + ints[NOW];
        offset[k] = ints[OFFSET_ORIGIN] + ints[SHIFT];
        published[k] = floats[PUBLISHED];
        before[k] = floats[PUBLISHED_SLOPE];
    }
    return n;
}

/* What bounds the error of mapped times near the last update of the clocks in these rows (n), as ClockMap does it but
 * for what the map itself knows of its delay: bounds (2, n): by how much the line may be early, and what the published
 * time still has to move; no number where the row is negative, or the map is to be asked itself. -1 where a row or its
 * bins are outside.
 */
API int32_t kinedge_clock_bounds(const int64_t *table_ints, const double *table_floats, const int64_t *table_at,
                                 const int64_t *table_residual, int64_t n_table, const int64_t *rows, int64_t n,
                                 double *bounds)
{
    for (int64_t k = 0; k < n; k++) {
        bounds[k] = bounds[n + k] = NAN;
        if (rows[k] >= n_table)
            return -1;
        if (rows[k] < 0)
            continue;
        const int64_t *ints = table_ints + rows[k] * N_INTS, *at = table_at + rows[k] * N_BINS;
        const int64_t *residual = table_residual + rows[k] * N_BINS;
        const double *floats = table_floats + rows[k] * N_FLOATS;
        if (ints[ALONE] || ints[N_UPDATES] <= 0)
            continue;
        if (ints[START] < 0 || ints[END] > N_BINS || ints[START] >= ints[END])
            return -1;
        const int64_t now = ints[NOW];
        double least = INFINITY;
        for (int64_t j = ints[END] - ints[START] > RECENT_BINS ? ints[END] - RECENT_BINS : ints[START]; j < ints[END]; j++) {
            const int64_t age = now > at[j] ? now - at[j] : at[j] - now;
            const double above = (double)residual[j] - line(ints, floats, at[j]) + 2 * MAX_SKEW * (double)age;
            least = above < least ? above : least;
        }
        bounds[k] = least > 0.0 ? least : 0.0;
        bounds[n + k] = fabs(line(ints, floats, now) - floats[PUBLISHED]);
    }
    return 0;
}

/* Map the samples of some chunks: device_ns, host_ns (n_samples), one chunk behind the other; lengths, and what maps
 * each chunk (n). host_ns may be device_ns.
 */
API WIDE int32_t kinedge_host_times(const int64_t *device_ns, const int64_t *lengths, int64_t n, const int64_t *base,
                                    const int64_t *offset, const double *published, const double *slope,
                                    int64_t *host_ns)
{
    for (int64_t k = 0; k < n; k++) {
        for (int64_t i = 0; i < lengths[k]; i++)
            host_ns[i] = (int64_t)rint((double)(device_ns[i] - base[k]) * slope[k] + published[k]) + device_ns[i] + offset[k];
        device_ns += lengths[k];
        host_ns += lengths[k];
    }
    return 0;
}
