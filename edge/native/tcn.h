/* A step of the forecaster: what it reads, where it writes, and the size of all of it. */
#ifndef KINEDGE_TCN_H
#define KINEDGE_TCN_H

#include "kinedge_native.h"

/* All in one place, because a call from Python costs by the argument; edge/backends/native.py fills it. */
struct kinedge_tcn {
    const int64_t *shape; /* n_channels, width, n_outputs, kernel, var_order (0: no linear skip), then dilations */
    int64_t n_shape;
    const float *weights; /* layer by layer, as read; every row padded to a multiple of 8 numbers */
    int64_t n_weights;
    int64_t n_samples;
    const float *x, *mask; /* (n_streams, n_samples, n_channels) */
    const float *state;    /* (n_streams, state_size) */
    float *state_out;      /* may be the same memory */
    int64_t state_size;
    float *mu, *log_sigma; /* (n_streams, n_samples, n_outputs) */
    float *scratch;
    int64_t n_scratch;
    const int64_t *rows; /* of each stream, that of its state among n_rows, each at most once; or none: in order */
    int64_t n_rows;
};

/* Advance so many streams. Return 0, or which size does not fit, having written nothing: 1 the shape, 2 the weights,
 * 3 the state, 4 the scratch, 5 the streams or samples, 6 the rows. */
API int kinedge_tcn(const struct kinedge_tcn *of, int64_t n_streams);

#endif
