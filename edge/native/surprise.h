/* A step of the engine, as kinedge/edge/native/surprise.py fills it in: every field is eight bytes, in this order. */
#ifndef KINEDGE_SURPRISE_H
#define KINEDGE_SURPRISE_H

#include "kinedge_native.h"

typedef struct {
    /* sizes: streams of this step, rows of the state, streams that the memory holds */
    int64_t n_streams, n_rows, n_memory, n_samples, n_horizons, n_channels, max_horizon, state_size, n_weights;
    double clip, z_limit;
    /* of the model: (n_horizons), (n_channels), (n_horizons, n_channels), (n_weights) */
    const int64_t *horizons, *needed;
    const float *center, *inverse_scale, *inverse_nu, *half_nu_1, *weight;
    /* memory of a piece: (n_memory, n_samples, n_channels), (n_memory, state_size), (n_memory, n_samples, n_horizons,
     * n_channels); the last three are what the forecaster made of it. No model_in and model_out: it goes on in the
     * state by itself */
    float *x, *mask, *model_in, *expected;
    const float *mu, *log_sigma, *model_out;
    /* of all streams of the step: (n_streams, n_samples, n_channels), rows of the state, and what is found */
    const float *values;
    const uint8_t *valid;
    const int64_t *rows;
    float *z, *nats;
    uint8_t *ok;
    /* the state before and after; both may be one */
    const float *model, *old_mu, *old_log_sigma, *held;
    const int32_t *held_age;
    const int64_t *n_seen;
    float *model_after, *mu_after, *log_sigma_after, *held_after;
    int32_t *held_age_after;
    int64_t *n_seen_after;
} kinedge_step;

#endif
