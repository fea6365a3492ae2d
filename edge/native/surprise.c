/* What the engine does around the forecaster, a piece of its streams (start to stop) at a time: four passes, between
 * which numpy takes the exponential and the logarithm, so that these are the same with and without this file.
 *
 * kinedge/edge/engine.py and gaps.py do the same in numpy, and say why; here is only how.
 */
#include <string.h>

#include "four.h"
#include "surprise.h"

/* -1 where a piece or a row of the state is outside of what the step holds. */
static int outside(const kinedge_step *s, int64_t start, int64_t stop)
{
    if (start < 0 || stop < start || stop > s->n_streams || stop - start > s->n_memory || s->n_samples < 1)
        return -1;
    for (int64_t i = start; i < stop; i++)
        if (s->rows[i] < 0 || s->rows[i] >= s->n_rows)
            return -1;
    for (int64_t h = 0; h < s->n_horizons; h++)
        if (s->horizons[h] < 1 || s->horizons[h] > s->max_horizon)
            return -1;
    return 0;
}

/* Normalise and clip; show held values where samples are missing; bring mask and state to the forecaster. */
API WIDE int32_t kinedge_prepare(const kinedge_step *s, int64_t start, int64_t stop)
{
    if (outside(s, start, stop) || s->n_weights < 1)
        return -1;
    const int64_t C = s->n_channels, size = s->n_samples * C;
    const float limit = (float)s->clip;
    for (int64_t i = start; i < stop; i++) {
        const float *restrict values = s->values + i * size;
        const uint8_t *restrict valid = s->valid + i * size;
        float *restrict x = s->x + (i - start) * size, *restrict mask = s->mask + (i - start) * size;
        for (int64_t k = 0; k < s->n_samples; k++) {
            int64_t c = 0;
            for (; c + FOUR <= C; c += FOUR) {
                floats v = (load(values + k * C + c) - load(s->center + c)) * load(s->inverse_scale + c);
                v = where(v < all_of(-limit), all_of(-limit), v);
                store(x + k * C + c, where(v > all_of(limit), all_of(limit), v));
            }
            for (; c < C; c++) {
                float v = (values[k * C + c] - s->center[c]) * s->inverse_scale[c];
                v = v < -limit ? -limit : v;
                x[k * C + c] = v > limit ? limit : v;
            }
        }
        for (int64_t k = 0; k < size; k++)
            mask[k] = valid[k] ? 1.0f : 0.0f;
        const int64_t row = s->rows[i];
        float *held_after = s->held_after + row * C;
        int32_t *age_after = s->held_age_after + row * C;
        if (!memchr(valid, 0, (size_t)size)) {
            memcpy(held_after, x + size - C, (size_t)C * sizeof *x);
            memset(age_after, 0, (size_t)C * sizeof *age_after);
        } else {
            for (int64_t c = 0; c < C; c++) {
                float last = s->held[row * C + c];
                int64_t age = s->held_age[row * C + c];
                if (age < 0)
                    age = 0;
                for (int64_t k = c; k < size; k += C) {
                    if (valid[k]) {
                        last = x[k];
                        age = 0;
                    } else {
                        age = age + 1 < s->n_weights ? age + 1 : s->n_weights - 1;
                        x[k] = last * s->weight[age];
                    }
                }
                held_after[c] = last;
                age_after[c] = (int32_t)age;
            }
        }
        if (s->model_in)
            memcpy(s->model_in + (i - start) * s->state_size, s->model + row * s->state_size,
                   (size_t)s->state_size * sizeof *s->model);
    }
    return 0;
}

/* Keep of old (max_horizon rows) and new (n_samples rows) the youngest max_horizon. */
static void youngest(float *after, const float *old, const float *made, int64_t n_samples, int64_t max_horizon,
                     int64_t width)
{
    const int64_t kept = n_samples < max_horizon ? max_horizon - n_samples : 0, n_new = max_horizon - kept;
    memmove(after, old + (max_horizon - kept) * width, (size_t)(kept * width) * sizeof *after);
    memcpy(after + kept * width, made + (n_samples - n_new) * width, (size_t)(n_new * width) * sizeof *after);
}

/* How far each sample is from what was predicted for it, the log of the scale that was expected, and less that of it
 * in nats, for the exponential; then what the forecaster said becomes the state. */
API WIDE int32_t kinedge_differ(const kinedge_step *s, int64_t start, int64_t stop)
{
    if (outside(s, start, stop))
        return -1;
    const int64_t C = s->n_channels, H = s->n_horizons, T = s->n_samples, width = H * C;
    for (int64_t i = start; i < stop; i++) {
        const int64_t row = s->rows[i], at = i - start;
        const float *x = s->x + at * T * C, *mu = s->mu + at * T * width, *log_sigma = s->log_sigma + at * T * width;
        const float *old_mu = s->old_mu + row * s->max_horizon * width;
        const float *old_log_sigma = s->old_log_sigma + row * s->max_horizon * width;
        for (int64_t k = 0; k < T; k++)
            for (int64_t h = 0; h < H; h++) {
                const int64_t back = k - s->horizons[h], from = (back < 0 ? s->max_horizon + back : back) * width + h * C;
                const float *restrict m = (back < 0 ? old_mu : mu) + from;
                const float *restrict l = (back < 0 ? old_log_sigma : log_sigma) + from;
                const float *restrict now = x + k * C;
                float *restrict z = s->z + (i * T + k) * width + h * C;
                float *restrict nats = s->nats + (i * T + k) * width + h * C;
                float *restrict expected = s->expected + (at * T + k) * width + h * C;
                int64_t c = 0;
                for (; c + FOUR <= C; c += FOUR) {
                    const floats scale = load(l + c);
                    store(z + c, load(now + c) - load(m + c));
                    store(expected + c, scale);
                    store(nats + c, -scale);
                }
                for (; c < C; c++) {
                    z[c] = now[c] - m[c];
                    expected[c] = l[c];
                    nats[c] = -l[c];
                }
            }
        youngest(s->mu_after + row * s->max_horizon * width, old_mu, mu, T, s->max_horizon, width);
        youngest(s->log_sigma_after + row * s->max_horizon * width, old_log_sigma, log_sigma, T, s->max_horizon, width);
        if (s->model_out)
            memcpy(s->model_after + row * s->state_size, s->model_out + at * s->state_size,
                   (size_t)s->state_size * sizeof *s->model);
    }
    return 0;
}

/* Standardise by nats, which holds 1 / sigma, and leave 1 + z^2 / nu there for the logarithm. */
API WIDE int32_t kinedge_standardise(const kinedge_step *s, int64_t start, int64_t stop)
{
    if (outside(s, start, stop))
        return -1;
    const int64_t width = s->n_horizons * s->n_channels;
    const float limit = (float)s->z_limit;
    const float *restrict inverse_nu = s->inverse_nu;
    for (int64_t k = start * s->n_samples; k < stop * s->n_samples; k++) {
        float *restrict z = s->z + k * width, *restrict nats = s->nats + k * width;
        for (int64_t c = 0; c < width; c++) {
            float v = z[c] * nats[c];
            v = v < -limit ? -limit : v;
            v = v > limit ? limit : v;
            z[c] = v;
            nats[c] = v * v * inverse_nu[c] + 1.0f;
        }
    }
    return 0;
}

/* Make nats of nats, which holds the logarithm, and mark what was scored; the rest is 0. */
API WIDE int32_t kinedge_finish(const kinedge_step *s, int64_t start, int64_t stop)
{
    if (outside(s, start, stop))
        return -1;
    const int64_t C = s->n_channels, H = s->n_horizons, T = s->n_samples, width = H * C;
    const float *restrict half = s->half_nu_1;
    for (int64_t i = start; i < stop; i++) {
        const int64_t seen = s->n_seen[s->rows[i]];
        for (int64_t k = 0; k < T; k++)
            for (int64_t h = 0; h < H; h++) {
                const int64_t at = (i * T + k) * width + h * C;
                const uint8_t warm = seen + k >= s->needed[h];
                const uint8_t *restrict valid = s->valid + (i * T + k) * C;
                const float *restrict expected = s->expected + ((i - start) * T + k) * width + h * C;
                float *restrict z = s->z + at, *restrict nats = s->nats + at;
                uint8_t *restrict ok = s->ok + at;
                const masks is_warm = (masks){0} - warm;
                int64_t c = 0;
                for (; c + FOUR <= C; c += FOUR) {
                    const floats v = load(nats + c) * load(half + h * C + c) + load(expected + c);
                    const masks scored = (v - v == all_of(0)) & load_masks(valid + c) & is_warm;
                    const bytes told = __builtin_convertvector(scored & 1, bytes);
                    memcpy(ok + c, &told, sizeof told);
                    store(nats + c, where(scored, v, all_of(0)));
                    store(z + c, where(scored, load(z + c), all_of(0)));
                }
                for (; c < C; c++) {
                    const float v = nats[c] * half[h * C + c] + expected[c];
                    const int scored = warm & valid[c] & (v - v == 0.0f);
                    ok[c] = (uint8_t)scored;
                    nats[c] = scored ? v : 0.0f;
                    z[c] = scored ? z[c] : 0.0f;
                }
            }
        s->n_seen_after[s->rows[i]] = seen + T;
    }
    return 0;
}
