/* From samples in slots to a hop on the grid, and what its samples say by themselves.
 *
 * kinedge/edge/grid.py, grid_buffers.py and hop_facts.py do the same in numpy, and say why; here is only how.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "four.h"
#include "kinedge_native.h"

/* Put the ticks of some people on the grid: a sample that is on the tick, or the line between its two neighbours where
 * these are no further apart than 1.5 intervals. Times of a person increase.
 *
 * time (n_people, n_slots), of each row the first n[row]; interval (n_people); values, valid, saturated (n_people,
 * n_slots, n_channels), the latter two NULL where all are valid and none is saturated. rows, first_ns (n_rows): which
 * people, and their first tick. out_* (n_rows, n_ticks, out_channels): written from column on.
 * Returns -1, having written nothing, where a row, its number of samples or the columns are outside.
 */
API WIDE int32_t kinedge_interpolate(const int64_t *time, const int64_t *n, const int64_t *interval,
                                     const float *values, const uint8_t *valid, const uint8_t *saturated,
                                     int64_t n_people, int64_t n_slots, int64_t n_channels, const int64_t *rows,
                                     const int64_t *first_ns, int64_t n_rows, int64_t period_ns, int64_t n_ticks,
                                     float *out_values, uint8_t *out_valid, uint8_t *out_saturated,
                                     int64_t out_channels, int64_t column)
{
    if (n_slots < 1 || column < 0 || column + n_channels > out_channels)
        return -1;
    for (int64_t i = 0; i < n_rows; i++)
        if (rows[i] < 0 || rows[i] >= n_people || n[rows[i]] < 0 || n[rows[i]] > n_slots)
            return -1;
    for (int64_t i = 0; i < n_rows; i++) {
        const int64_t row = rows[i], there = n[row];
        const int64_t *t = time + row * n_slots;
        const double longest = (double)interval[row] * 1.5;
        int64_t past = 0;
        for (int64_t k = 0; k < n_ticks; k++) {
            const int64_t tick = first_ns[i] + k * period_ns;
            while (past < there && t[past] <= tick)
                past++;
            const int64_t before = past > 0 ? past - 1 : 0;
            const int followed = past > 0 && past < there;
            const int64_t behind = before + followed;
            const int64_t step = t[behind] - t[before], offset = tick - t[before];
            const int alone = past > 0 && offset == 0;
            const int usable = alone || (followed && offset < step && (double)step <= longest);
            const int64_t out = (i * n_ticks + k) * out_channels + column;
            float *v = out_values + out;
            uint8_t *ok = out_valid + out, *sat = out_saturated + out;
            if (!usable) {
                memset(v, 0, (size_t)n_channels * sizeof *v);
                memset(ok, 0, (size_t)n_channels);
                memset(sat, 0, (size_t)n_channels);
                continue;
            }
            const int64_t at_a = (row * n_slots + before) * n_channels, at_b = (row * n_slots + behind) * n_channels;
            const float *a = values + at_a, *b = values + at_b;
            const float weight = alone ? 0.0f : (float)((double)offset / (double)step);
            const masks both = all_of(alone ? 0.0f : 1.0f) != all_of(0.0f);
            int64_t c = 0;
            for (; c + FOUR <= n_channels; c += FOUR) {
                const floats from = load(a + c), to = load(b + c);
                const floats change = where(both, (to - from) * all_of(weight), all_of(0.0f));
                /* not finite less itself is no number */
                const masks finite = (from - from == all_of(0.0f)) & (~both | (to - to == all_of(0.0f)));
                const bytes told = __builtin_convertvector(finite & 1, bytes);
                memcpy(ok + c, &told, sizeof told);
                store(v + c, where(finite, from + change, all_of(0.0f)));
            }
            for (; c < n_channels; c++) {
                const float change = alone ? 0.0f : (b[c] - a[c]) * weight;
                const int finite = (a[c] - a[c] == 0.0f) & (alone | (b[c] - b[c] == 0.0f));
                v[c] = finite ? a[c] + change : 0.0f;
                ok[c] = (uint8_t)finite;
            }
            if (valid)
                for (c = 0; c < n_channels; c++) {
                    ok[c] = ok[c] & valid[at_a + c] & (uint8_t)(alone | valid[at_b + c]);
                    v[c] = ok[c] ? v[c] : 0.0f;
                }
            if (saturated)
                for (c = 0; c < n_channels; c++)
                    sat[c] = saturated[at_a + c] | (uint8_t)(alone ? 0 : saturated[at_b + c]);
            else
                memset(sat, 0, (size_t)n_channels);
        }
    }
    return 0;
}

/* Forget of some people what no tick at or after time_ns (n_rows) needs, but kept (n_rows) samples more, and move the
 * others up; valid and saturated may be NULL, as above; held (n_people) counts as n does, and what waits. -1 as above.
 */
API int32_t kinedge_drop_before(int64_t *time, int64_t *n, int64_t *held, float *values, uint8_t *valid,
                                uint8_t *saturated, int64_t n_people, int64_t n_slots, int64_t n_channels, const int64_t *rows,
                                const int64_t *time_ns, const int64_t *kept, int64_t n_rows)
{
    for (int64_t i = 0; i < n_rows; i++)
        if (rows[i] < 0 || rows[i] >= n_people || n[rows[i]] < 0 || n[rows[i]] > n_slots || kept[i] < 0)
            return -1;
    for (int64_t i = 0; i < n_rows; i++) {
        const int64_t row = rows[i], first = row * n_slots;
        int64_t past = 0;
        while (past < n[row] && time[first + past] <= time_ns[i])
            past++;
        const int64_t drop = past - 1 - kept[i] > 0 ? past - 1 - kept[i] : 0, left = n[row] - drop;
        n[row] = left;
        held[row] -= drop;
        const size_t size = (size_t)(left * n_channels), end = (size_t)((first + left) * n_channels),
                     rest = (size_t)((n_slots - left) * n_channels);
        const int64_t to = first * n_channels, from = (first + drop) * n_channels;
        if (drop) {
            memmove(time + first, time + first + drop, (size_t)left * sizeof *time);
            memmove(values + to, values + from, size * sizeof *values);
        }
        /* what is not used counts as valid and not saturated */
        if (valid) {
            memmove(valid + to, valid + from, size);
            memset(valid + end, 1, rest);
        }
        if (saturated) {
            memmove(saturated + to, saturated + from, size);
            memset(saturated + end, 0, rest);
        }
    }
    return 0;
}

/* Of four columns of one stream, or of one, from column c on: all sums run sample after sample. x keeps what is there
 * less the level, 0 where nothing is. KIND is floats or float, with what loads, stores and chooses them. */
#define FACTS(KIND, LOAD, THERE, WHERE, ALL, STORE, n_columns)                                                         \
    do {                                                                                                               \
        const KIND none = ALL(0), one = ALL(1), far = ALL(FLT_MAX);                                                    \
        KIND lowest = far, highest = -far, sum = none, steps = none, both = none, known = none, then = none;           \
        KIND last = none, lows = none, highs = none, power = none;                                                     \
        for (int64_t at = c; at < size; at += C) {                                                                     \
            const KIND here = WHERE(THERE(at), one, none), now = WHERE(THERE(at), LOAD(v + at), none);                 \
            const KIND least = WHERE(THERE(at), now, far), most = WHERE(THERE(at), now, -far);                         \
            const KIND pair = here * then, step = (now - last) * pair;                                                 \
            lowest = WHERE(least < lowest, least, lowest);                                                             \
            highest = WHERE(most > highest, most, highest);                                                            \
            sum += now;                                                                                                \
            known += here;                                                                                             \
            both += pair;                                                                                              \
            steps += step * step;                                                                                      \
            then = here;                                                                                               \
            last = now;                                                                                                \
        }                                                                                                              \
        sum /= WHERE(known > one, known, one);                                                                         \
        for (int64_t at = c; at < size; at += C) {                                                                     \
            const KIND here = WHERE(THERE(at), one, none), now = WHERE(THERE(at), LOAD(v + at), none);                 \
            const KIND apart = (now - sum) * here;                                                                     \
            lows += WHERE(WHERE(THERE(at), now, far) == lowest, one, none);                                            \
            highs += WHERE(WHERE(THERE(at), now, -far) == highest, one, none);                                         \
            power += apart * apart;                                                                                    \
            STORE(x + at, apart);                                                                                      \
        }                                                                                                              \
        const KIND of[] = {known, none, sum, power, lowest, highest, lows, highs, steps, both};                        \
        for (int f = 0; f < 10; f++)                                                                                   \
            STORE(out + (f * n_streams + s) * C + c, of[f]);                                                           \
        c += n_columns;                                                                                                \
    } while (0)
#define ONE_LOAD(from) (*(from))
#define ONE_STORE(to, number) (*(to) = (number))
#define ONE_OF(number) ((float)(number))
#define ONE_WHERE(there, yes, no) ((there) ? (yes) : (no))
#define ONE_THERE(at) (ok[at] != 0)
#define FOUR_THERE(at) load_masks(ok + (at))
#define ALL_THERE(at) ((masks){-1, -1, -1, -1})

/* Facts of one hop: values, valid, saturated (n_streams, hop, n_channels), saturated NULL where none is; out (10,
 * n_streams, n_channels) in the order of HopFacts. pairs (n_pairs, 3): first columns of two sensors, and how many;
 * shared (n_streams, n_shared): their products, one pair behind the other. memory (hop, n_channels): to work in.
 * Sums run sample after sample. -1 where a pair is outside.
 */
API WIDE int32_t kinedge_facts(const float *values, const uint8_t *valid, const uint8_t *saturated, int64_t n_streams,
                               int64_t hop, int64_t n_channels, const int64_t *pairs, int64_t n_pairs,
                               int64_t n_shared, float *restrict memory, float *restrict out, float *restrict shared)
{
    const int64_t size = hop * n_channels, C = n_channels;
    int64_t width = 0;
    for (int64_t p = 0; p < n_pairs; p++) {
        const int64_t *q = pairs + 3 * p;
        if (q[0] < 0 || q[1] < 0 || q[2] < 0 || q[0] + q[2] > C || q[1] + q[2] > C)
            return -1;
        width += q[2];
    }
    if (width != n_shared || hop < 1)
        return -1;
    float *restrict x = memory;
    for (int64_t s = 0; s < n_streams; s++) {
        const float *restrict v = values + s * size;
        const uint8_t *restrict ok = valid + s * size;
        int64_t c = 0;
        if (memchr(ok, 0, (size_t)size))
            while (c + FOUR <= C)
                FACTS(floats, load, FOUR_THERE, where, all_of, store, FOUR);
        else
            while (c + FOUR <= C)
                FACTS(floats, load, ALL_THERE, where, all_of, store, FOUR);
        while (c < C)
            FACTS(float, ONE_LOAD, ONE_THERE, ONE_WHERE, ONE_OF, ONE_STORE, 1);
        if (saturated) {
            float *restrict n_saturated = out + (n_streams + s) * C;
            for (int64_t k = 0; k < hop; k++)
                for (int64_t i = 0; i < C; i++)
                    n_saturated[i] += (float)saturated[s * size + k * C + i];
        }
        float *products = shared + s * n_shared;
        for (int64_t p = 0; p < n_pairs; p++) {
            const int64_t a = pairs[3 * p], b = pairs[3 * p + 1], w = pairs[3 * p + 2];
            for (int64_t i = 0; i < w; i++)
                products[i] = 0.0f;
            for (int64_t k = 0; k < hop; k++)
                for (int64_t i = 0; i < w; i++)
                    products[i] += x[k * C + a + i] * x[k * C + b + i];
            products += w;
        }
    }
    return 0;
}

/* Whose hop is final: last (n_people, n_sensors): newest sample of each sensor; next_tick (n_people). Write their rows,
 * behind all rows whether anybody has a second such hop, and return how many. -1 where somebody is to begin or to leap, which is not done here.
 */
API int64_t kinedge_ready(const int64_t *last, const int64_t *next_tick, int64_t n_people, int64_t n_sensors,
                          int64_t period_ns, int64_t max_delay_ns, int64_t has_now, int64_t now_ns, int64_t flush,
                          int64_t hop, int64_t most, int64_t never, int64_t *rows)
{
    int64_t n_ready = 0;
    rows[n_people] = 0;
    for (int64_t p = 0; p < n_people; p++) {
        int64_t newest = last[p * n_sensors], oldest = newest;
        for (int64_t i = 1; i < n_sensors; i++) {
            const int64_t at = last[p * n_sensors + i];
            newest = at > newest ? at : newest;
            oldest = at < oldest ? at : oldest;
        }
        if (next_tick[p] <= never) {
            if (newest > never)
                return -1;
            continue;
        }
        /* no division but for who may be ready: final // period >= tick means final >= tick * period */
        const int64_t first_ns = next_tick[p] * period_ns, end_ns = (next_tick[p] + hop - 1) * period_ns;
        int64_t until_ns = flush ? newest : newest - max_delay_ns;
        if (!flush && oldest > never && oldest - 1 > until_ns)
            until_ns = oldest - 1;
        if (has_now && now_ns - max_delay_ns > until_ns)
            until_ns = now_ns - max_delay_ns;
        if (until_ns - first_ns >= most * period_ns)
            return -1;
        if (until_ns >= end_ns)
            rows[n_ready++] = p;
        if (until_ns >= end_ns + hop * period_ns)
            rows[n_people] = 1;
    }
    return n_ready;
}
