/* The native step under the sanitizers: every array is as long as it must be and not one number longer. */
#include "tcn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed = 1;

static int64_t draw(int64_t low, int64_t high)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return low + (int64_t)((seed >> 33) % (uint64_t)(high - low + 1));
}

static float *numbers(int64_t n)
{
    float *found = malloc((size_t)n * sizeof(float) + (n == 0));
    for (int64_t i = 0; i < n; i++)
        found[i] = (float)draw(-100, 100) / 100;
    return found;
}

static int64_t padded(int64_t n) { return (n + 7) / 8 * 8; }

int main(int argc, char **argv)
{
    const int n_rounds = argc > 1 ? atoi(argv[1]) : 100;
    int refused = 0;
    for (int round = 0; round < n_rounds; round++) {
        const int64_t n_blocks = draw(1, 4), c = draw(1, 9), width = draw(1, 26), n_out = c * draw(1, 3);
        const int64_t kernel = draw(2, 4), var = draw(0, 1) ? draw(2, 9) : 0;
        const int64_t streams = draw(0, 70), samples = draw(0, 3) ? draw(1, 9) : draw(60, 140);
        int64_t *shape = malloc((size_t)(5 + n_blocks) * sizeof *shape);
        const int64_t head[5] = {c, width, n_out, kernel, var};
        memcpy(shape, head, sizeof head);
        int64_t in_state = var ? (var - 1) * c : 0;
        for (int64_t b = 0; b < n_blocks; b++) {
            shape[5 + b] = draw(1, 9);
            in_state += (kernel - 1) * shape[5 + b] * width;
        }
        int64_t n_weights = (1 + 2 * c) * padded(width) + n_blocks * (1 + kernel * width) * padded(width) +
                            (1 + width) * padded(2 * n_out) + var * c * padded(n_out) + 2;
        int64_t n_scratch = 64 * (padded(width) + width + padded(2 * n_out) + padded(n_out));
        float *weights = numbers(n_weights), *x = numbers(streams * samples * c), *mask = numbers(streams * samples * c);
        float *state = numbers(streams * in_state), *after = draw(0, 1) ? state : numbers(streams * in_state);
        float *mu = numbers(streams * samples * n_out), *scale = numbers(streams * samples * n_out);
        float *scratch = numbers(n_scratch);
        const int64_t wrong = draw(0, 9), by = draw(0, 1) ? 1 : -1;
        int64_t *rows = draw(0, 1) ? malloc((size_t)streams * sizeof *rows + !streams) : 0;
        for (int64_t s = 0; rows && s < streams; s++)
            rows[s] = streams - 1 - s;
        const int is_wrong = wrong <= 6 || (wrong == 7 && rows && streams);
        int64_t n_shape = 5 + n_blocks, state_size = in_state, n_samples = samples;
        switch (wrong) { /* sizes that do not go together are refused before anything is touched */
        case 0: n_weights += by; break;
        case 1: n_scratch -= 1; break;
        case 2: state_size += by; break;
        case 3: n_samples = -draw(0, 1); break;
        case 4: shape[draw(0, 4)] = draw(0, 1) ? -1 : INT64_MAX; break;
        case 5: shape[5] = draw(0, 1) ? 0 : INT64_MAX; break;
        case 6: n_shape = draw(0, 5); break;
        case 7:
            if (is_wrong)
                rows[draw(0, streams - 1)] = by < 0 ? by : streams;
            break;
        }
        const struct kinedge_tcn of = {
            shape, n_shape, weights, n_weights, n_samples, x, mask, state, after, state_size, mu, scale, scratch,
            n_scratch, rows, streams};
        const int told = kinedge_tcn(&of, streams);
        if ((told != 0) != is_wrong) {
            printf("round %d: %d is told of the wrong size %d\n", round, told, (int)wrong);
            return 1;
        }
        refused += told != 0;
        if (after != state)
            free(after);
        free(shape), free(weights), free(x), free(mask), free(state), free(mu), free(scale), free(scratch), free(rows);
    }
    printf("%d refused\n", refused);
    return 0;
}
