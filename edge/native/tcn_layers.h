/* The layers of the step, for one width of vectors; tcn.c includes it once for each that this processor may have.
 *
 * VECTOR: floats of one. AT_ONCE: rows of a tile, so that its sums fit the registers. TARGET: what the functions may use.
 * FOR(name): their names. No width changes the order of a sum.
 */
#define PARTS (LANES / VECTOR)
#define INLINE static inline __attribute__((always_inline)) TARGET

typedef float FOR(vector) __attribute__((vector_size(4 * VECTOR), aligned(4), may_alias));

/* 8 * n_lanes columns of a few rows. Each sum is over the inputs in their order, whatever the tile. */
INLINE void FOR(tile)(
    int n_rows, int n_lanes, const float **taps, const struct layer *l, int64_t column, int add, float *out)
{
    FOR(vector) sum[AT_ONCE][3 * PARTS];
    const int64_t stride = PADDED(l->n);
    const float *w = l->weight + column;
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_lanes * PARTS; v++)
            sum[r][v] = (FOR(vector)){0};
    for (int64_t k = 0; k < l->n_taps; k++) {
        const float *row[AT_ONCE];
        for (int r = 0; r < n_rows; r++)
            row[r] = taps[r * l->n_taps + k];
        for (int64_t i = 0; i < l->length; i++, w += stride)
            for (int r = 0; r < n_rows; r++)
                for (int v = 0; v < n_lanes * PARTS; v++)
                    sum[r][v] += *(const FOR(vector) *)(w + VECTOR * v) * row[r][i];
    }
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_lanes * PARTS; v++) {
            FOR(vector) *to = (FOR(vector) *)(out + r * stride + column + VECTOR * v), total = sum[r][v];
            if (l->bias)
                total += *(const FOR(vector) *)(l->bias + column + VECTOR * v);
            if (add)
                total += *to;
            *to = total;
        }
}

INLINE void FOR(columns)(
    int n_lanes, int64_t n_rows, const float **taps, const struct layer *l, int64_t column, int add, float *out)
{
    const int64_t stride = PADDED(l->n);
    int64_t r = 0;
    for (; r + AT_ONCE <= n_rows; r += AT_ONCE)
        FOR(tile)(AT_ONCE, n_lanes, taps + r * l->n_taps, l, column, add, out + r * stride);
    for (; r + 2 <= n_rows; r += 2)
        FOR(tile)(2, n_lanes, taps + r * l->n_taps, l, column, add, out + r * stride);
    if (r < n_rows)
        FOR(tile)(1, n_lanes, taps + r * l->n_taps, l, column, add, out + r * stride);
}

/* Columns outside, rows inside: the weights of a few columns stay in the first cache for all rows. */
static TARGET void FOR(product)(
    const struct layer *l, const struct line *line, const float *second, int64_t n_streams, int64_t n_samples, int add,
    float *to)
{
    const float *taps[ROWS * MAX_TAPS], **tap = taps;
    for (int64_t s = 0; s < n_streams; s++) {
        const float *past = line->past + row_of(line, s), *now = line->now + s * line->now_stride;
        for (int64_t t = 0; t < n_samples; t++) {
            if (second) { /* the mask beside the sample */
                *tap++ = now + t * l->length;
                *tap++ = second + s * line->now_stride + t * l->length;
                continue;
            }
            for (int64_t k = 0, at = t; k < l->n_taps; k++, at += line->dilation)
                *tap++ = at < line->kept ? past + at * l->length : now + (at - line->kept) * l->length;
        }
    }
    for (int64_t column = 0, left = PADDED(l->n) / LANES; left;) {
        const int64_t n = left == 1 ? 1 : left == 2 || left == 4 ? 2 : 3; /* 7 are 3, 2, 2: one sum waits for itself */
        if (n == 3)
            FOR(columns)(3, n_streams * n_samples, taps, l, column, add, to);
        else if (n == 2)
            FOR(columns)(2, n_streams * n_samples, taps, l, column, add, to);
        else
            FOR(columns)(1, n_streams * n_samples, taps, l, column, add, to);
        left -= n;
        column += n * LANES;
    }
}

INLINE void FOR(positive)(const float *h, int64_t n_rows, int64_t n, float *to)
{
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t j = 0; j < n; j++) {
            const float v = h[r * PADDED(n) + j];
            to[r * n + j] = v < 0 ? 0 : v; /* NaN stays */
        }
}

/* A few samples of a few streams, ROWS at most, through all layers. Strides are from stream to stream. */
static TARGET void FOR(group)(
    const struct shape *m, const float *w, int64_t n_streams, int64_t n_samples, const float *x, const float *mask,
    int64_t x_stride, const int64_t *rows, const float *state, float *state_out, int64_t state_size, float *mu, float *log_sigma,
    int64_t out_stride, float *scratch)
{
    const int64_t n_rows = n_streams * n_samples, c = m->n_channels, width = m->width, n_out = m->n_outputs;
    const int64_t first = m->var_order ? (m->var_order - 1) * c : 0;
    float *h = scratch, *active = h + ROWS * PADDED(width), *head = active + ROWS * width;
    float *linear = head + ROWS * PADDED(2 * n_out);

    struct layer l = {w + PADDED(width), w, 2, c, width};
    struct line line = {0, x, 0, 0, x_stride, 0, 0};
    FOR(product)(&l, &line, mask, n_streams, n_samples, 0, h);
    w = l.weight + 2 * c * PADDED(width);

    int64_t at = first;
    for (int64_t b = 0; b < m->n_blocks; b++) {
        FOR(positive)(h, n_rows, width, active);
        l = (struct layer){w + PADDED(width), w, m->kernel, width, width};
        line = (struct line){
            state + at, active, rows, state_size, n_samples * width, (m->kernel - 1) * m->dilations[b], m->dilations[b]};
        FOR(product)(&l, &line, 0, n_streams, n_samples, 1, h);
        remember(&line, width, n_streams, n_samples, state_out + at);
        w = l.weight + m->kernel * width * PADDED(width);
        at += line.kept * width;
    }

    FOR(positive)(h, n_rows, width, active);
    l = (struct layer){w + PADDED(2 * n_out), w, 1, width, 2 * n_out};
    line = (struct line){0, active, 0, 0, n_samples * width, 0, 0};
    FOR(product)(&l, &line, 0, n_streams, n_samples, 0, head);
    w = l.weight + width * PADDED(2 * n_out);

    if (m->var_order) {
        l = (struct layer){w, 0, m->var_order, c, n_out};
        line = (struct line){state, x, rows, state_size, x_stride, m->var_order - 1, 1};
        FOR(product)(&l, &line, 0, n_streams, n_samples, 0, linear);
        remember(&line, c, n_streams, n_samples, state_out);
        w += m->var_order * c * PADDED(n_out);
    }
    const float low = w[0], high = w[1];
    for (int64_t s = 0, r = 0; s < n_streams; s++)
        for (int64_t t = 0; t < n_samples; t++, r++) {
            const float *row = head + r * PADDED(2 * n_out);
            float *location = mu + s * out_stride + t * n_out, *scale = log_sigma + s * out_stride + t * n_out;
            if (m->var_order)
                for (int64_t j = 0; j < n_out; j++)
                    location[j] = linear[r * PADDED(n_out) + j] + row[j];
            else
                memcpy(location, row, (size_t)n_out * sizeof(float));
            for (int64_t j = 0; j < n_out; j++) {
                const float v = row[n_out + j] < low ? low : row[n_out + j]; /* NaN stays */
                scale[j] = v > high ? high : v;
            }
        }
}

#undef PARTS
#undef INLINE
#undef VECTOR
#undef AT_ONCE
#undef TARGET
#undef FOR
