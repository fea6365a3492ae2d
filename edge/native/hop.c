/* A hop of some streams from its samples to belief: what health.c, surprise.c, tcn.c, blocks.c, timing.c and belief.c do, called
 * here in few calls, because with few streams a call from Python costs more than what it does. Between them numpy takes
 * powers, exponentials, logarithms and one matrix product, so that these are the same with and without this file.
 *
 * kinedge/edge/hop_in_c.py says which field of which structure lies where: all that a step makes is in one piece.
 */
#include <string.h>

#include "surprise.h"
#include "tcn.h"

API int32_t kinedge_facts(const float *values, const uint8_t *valid, const uint8_t *saturated, int64_t n_streams,
                          int64_t hop, int64_t n_channels, const int64_t *pairs, int64_t n_pairs, int64_t n_shared,
                          float *restrict memory, float *restrict out, float *restrict shared);
API int32_t kinedge_prepare(const kinedge_step *s, int64_t start, int64_t stop);
API int32_t kinedge_differ(const kinedge_step *s, int64_t start, int64_t stop);
API int32_t kinedge_block_sums(const float *restrict z, const float *restrict y, const float *restrict nats,
                               const uint8_t *restrict ok, int64_t n_streams, int64_t n_samples, int64_t n_channels,
                               float *restrict out, int64_t plane);
typedef struct kinedge_health kinedge_health;
API int32_t kinedge_health_step(const kinedge_health *h);
typedef struct kinedge_blocks kinedge_blocks;
API int32_t kinedge_block_step(const kinedge_blocks *b);
typedef struct kinedge_timing kinedge_timing;
API int32_t kinedge_timing_step(const kinedge_timing *t);

enum { N_BASES = 8 };

/* As kinedge/edge/native/hop.py fills it in: every field is eight bytes, in this order. */
typedef struct {
    /* streams of this step; hop, channels, horizons, sensors; how many places and counts are told; pairs and their
     * widths */
    int64_t n_streams, hop, n_channels, n_horizons, n_sensors, n_places, n_counts, n_pairs, n_shared;
    double fine_below, silent_from, still_from;
    /* where things begin: all that the step makes, values, valid, saturated, rows, what is worked in, clock_ms, and
     * the values as the sensors gave them, where those are turned */
    uint8_t *bases[N_BASES];
    /* places (n_places, 3): which field, of which base, and how far behind it; counts (n_counts): fields that are
     * n_streams; both by their addresses. pairs (n_pairs, 3), memory (hop, n_channels) as kinedge_facts takes them */
    const int64_t *places, *counts, *pairs;
    float *memory;
    /* the structures of the parts */
    const kinedge_health *health;
    const kinedge_step *step;
    const kinedge_blocks *blocks;
    const kinedge_timing *timing;
    struct kinedge_tcn *forecaster;
    /* y (n_memory, hop * n_horizons, n_channels): the product of z and the precision. All below is among the places */
    const float *y;
    float *facts, *given, *shared;
    const double *found;
    const uint8_t *copies;
    const float *z, *nats;
    const uint8_t *ok;
    float *sums;
    const double *of_sensors;
} kinedge_hop;

/* Tell all parts where things are; look at the samples and the sensors. Return 1 where something speaks against a
 * sensor, else 0; -1, having changed no state, where something is outside. */
API int32_t kinedge_hop_look(const kinedge_hop *h)
{
    for (int64_t i = 0; i < h->n_places; i++) {
        const int64_t *place = h->places + 3 * i;
        if (place[1] < 0 || place[1] >= N_BASES)
            return -1;
        *(uint8_t **)(intptr_t)place[0] = h->bases[place[1]] ? h->bases[place[1]] + place[2] : 0;
    }
    for (int64_t i = 0; i < h->n_counts; i++)
        *(int64_t *)(intptr_t)h->counts[i] = h->n_streams;
    const float *values = (const float *)h->bases[1], *raw = (const float *)h->bases[7];
    if (kinedge_facts(values, h->bases[2], h->bases[3], h->n_streams, h->hop, h->n_channels, h->pairs, h->n_pairs, h->n_shared,
                      h->memory, h->facts, h->shared))
        return -1;
    const size_t size = (size_t)(10 * h->n_streams * h->n_channels) * sizeof *h->facts;
    if (raw == values)
        memcpy(h->given, h->facts, size);
    else if (kinedge_facts(raw, h->bases[2], 0, h->n_streams, h->hop, h->n_channels, h->pairs, 0, 0, h->memory, h->given, 0))
        return -1;
    if (kinedge_health_step(h->health))
        return -1;
    const int64_t plane = h->n_streams * h->n_sensors;
    int against = 0;
    for (int64_t i = 0; i < 4 * plane; i++)
        against |= !(h->found[i] < h->fine_below);
    for (int64_t i = 0; i < plane; i++)
        against |= h->copies[i] | (h->found[4 * plane + i] >= 1.0) | (h->found[10 * plane + i] != 0);
    return against;
}

/* Forecast a piece of the streams, and tell how far each sample was from that, as far as the exponential. Return 0; -1
 * where a row is outside, else what the forecaster refuses. */
API int32_t kinedge_hop_forecast(const kinedge_hop *h, int64_t start, int64_t stop)
{
    if (start < 0 || stop > h->n_streams || kinedge_prepare(h->step, start, stop))
        return -1;
    h->forecaster->rows = (const int64_t *)h->bases[4] + start;
    const int refused = kinedge_tcn(h->forecaster, stop - start);
    return refused ? refused : kinedge_differ(h->step, start, stop);
}

/* Add up what surprised in a piece of the streams, whose y begins with the piece. */
API int32_t kinedge_hop_sums(const kinedge_hop *h, int64_t start, int64_t stop)
{
    const int64_t size = h->hop * h->n_horizons * h->n_channels, from = start * size;
    if (start < 0 || stop > h->n_streams)
        return -1;
    return kinedge_block_sums(h->z + from, h->y, h->nats + from, h->ok + from, stop - start, h->hop * h->n_horizons,
                              h->n_channels, h->sums + start * h->n_channels, h->n_streams * h->n_channels);
}

/* Add the hop to the blocks, and to how the sensors move beside each other. Return 1 where a sensor is silent or has been still for long, else 0; -1 where something
 * is outside. */
API int32_t kinedge_hop_add(const kinedge_hop *h)
{
    if (kinedge_block_step(h->blocks) || kinedge_timing_step(h->timing))
        return -1;
    const int64_t plane = h->n_streams * h->n_sensors;
    int off = 0;
    for (int64_t i = 0; i < plane; i++)
        off |= !(h->of_sensors[2 * plane + i] < h->silent_from) | !(h->found[6 * plane + i] < h->still_from);
    return off;
}
