/* Chunks of many sensors from their arrival to their slots: their clocks are updated in turn, their samples mapped to
 * host time and laid behind those that are there, read where they lie.
 *
 * kinedge/edge/arrivals.py, grid.py and grid_buffers.py do the same in numpy, and say why; here is only how.
 */
#include <string.h>

#include "kinedge_native.h"

API int64_t kinedge_clocks(int64_t *table_ints, double *table_floats, int64_t *table_at, int64_t *table_residual,
                           int64_t n_table, const int64_t *rows, const int64_t *device_ns, const int64_t *host_ns,
                           int64_t from, int64_t n, int64_t *base, int64_t *offset, double *published, double *before);
API int32_t kinedge_host_times(const int64_t *device_ns, const int64_t *lengths, int64_t n, const int64_t *base,
                               const int64_t *offset, const double *published, const double *slope, int64_t *host_ns);

/* What came, as the caller of this lists it. */
typedef struct {
    const int64_t *time; /* (length), device time */
    const float *values; /* (length, channels of its sensor) */
    const uint8_t *valid, *saturated;
    int64_t length, interval_ns, came_ns, number;
} chunk;

/* The head of an array, as compiled programs see it behind what every object has (numpy's PyArrayObject_fields). */
typedef struct {
    void *data;
    int n_dims;
    void *shape, *strides, *base, *type;
    int flags;
} array_head;

enum { IN_ONE_PIECE = 1, ALIGNED = 0x100 }; /* of the flags */

/* Where an array lies; NULL where it is not of this type, row behind row. */
API const void *kinedge_plain(const void *object, int64_t head, const void *type)
{
    const array_head *a = (const array_head *)((const char *)object + head);
    return a->type == type && a->flags & IN_ONE_PIECE && a->flags & ALIGNED ? a->data : 0;
}

/* As kinedge/edge/native/arrive.py fills it in: every field is eight bytes, in this order. */
typedef struct {
    int64_t n_chunks, n_people, n_sensors, n_numbers, n_clocks, period_ns, never, head;
    /* the types of times, of values, and of what is valid or saturated */
    const void *time_type, *value_type, *mark_type;
    chunk *chunks;
    /* of each number (3, n_numbers): its clock's row in the table, its person, its sensor */
    const int64_t *numbers;
    int64_t *ints;
    double *floats;
    int64_t *at, *residual;
    kinedge_slots *slots; /* (n_sensors) */
    /* of the grid: newest sample (n_people, n_sensors); first sample of who has not begun, next tick, end of the hop */
    int64_t *last, *first;
    const int64_t *next_tick, *hop_end;
    /* to work in: (n_chunks) each; (3, n_people * n_sensors) */
    int64_t *rows, *newest, *came, *base, *offset;
    double *published, *slope;
    int64_t *memory;
    /* what is found: which chunks were not laid; whose hop is complete, and how many */
    uint8_t *odd;
    int64_t *complete, n_complete;
} kinedge_arrive;

/* Look where the arrays of chunks lie, which are listed as objects; -1 where one is not plain. */
API int64_t kinedge_arrive_look(const kinedge_arrive *a)
{
    for (int64_t k = 0; k < a->n_chunks; k++) {
        chunk *c = a->chunks + k;
        c->time = kinedge_plain(c->time, a->head, a->time_type);
        c->values = kinedge_plain(c->values, a->head, a->value_type);
        c->valid = kinedge_plain(c->valid, a->head, a->mark_type);
        c->saturated = kinedge_plain(c->saturated, a->head, a->mark_type);
        if (!c->time || !c->values || !c->valid || !c->saturated)
            return -1;
    }
    return 0;
}

/* Update the clocks by the chunks from this number on; see kinedge_clocks, which tells how many are done. -1 where
 * something is outside, having done nothing. */
API int64_t kinedge_arrive_clocks(const kinedge_arrive *a, int64_t from)
{
    for (int64_t k = from; k < a->n_chunks; k++) {
        const chunk *c = a->chunks + k;
        if (c->number < 0 || c->number >= a->n_numbers || c->length < 1)
            return -1;
        const int64_t person = a->numbers[a->n_numbers + c->number], sensor = a->numbers[2 * a->n_numbers + c->number];
        if (person < 0 || person >= a->n_people || sensor < 0 || sensor >= a->n_sensors)
            return -1;
        const kinedge_slots *s = a->slots + sensor;
        if (s->n[person] < 0 || s->n[person] > s->n_slots)
            return -1;
        a->rows[k] = a->numbers[c->number];
        a->newest[k] = c->time[c->length - 1];
        a->came[k] = c->came_ns;
    }
    return kinedge_clocks(a->ints, a->floats, a->at, a->residual, a->n_clocks, a->rows, a->newest, a->came, from,
                          a->n_chunks, a->base, a->offset, a->published, a->slope);
}

static int64_t person_of(const kinedge_arrive *a, const chunk *c)
{
    return a->numbers[a->n_numbers + c->number];
}

static int64_t sensor_of(const kinedge_arrive *a, const chunk *c)
{
    return a->numbers[2 * a->n_numbers + c->number];
}

/* The host time of one sample of a chunk. */
static int64_t host_of(const kinedge_arrive *a, int64_t k, int64_t sample)
{
    const int64_t one = 1;
    int64_t host_ns;
    kinedge_host_times(a->chunks[k].time + sample, &one, 1, a->base + k, a->offset + k, a->published + k, a->slope + k,
                       &host_ns);
    return host_ns;
}

/* Lay the chunks whose clocks have been updated; skip, and mark as odd, all chunks of a sensor of a person of which one
 * is not plain: of another interval, averaged, late, or without room, or for whom others wait. Return how many are. */
API int64_t kinedge_arrive_lay(kinedge_arrive *a)
{
    const int64_t n_all = a->n_people * a->n_sensors;
    int64_t *then_held = a->memory, *then_last = then_held + n_all, *is_odd = then_last + n_all, n_odd = 0;
    for (int64_t k = 0; k < a->n_chunks; k++) {
        const int64_t p = person_of(a, a->chunks + k), sensor = sensor_of(a, a->chunks + k);
        const int64_t i = sensor * a->n_people + p;
        const kinedge_slots *s = a->slots + sensor;
        then_held[i] = s->held[p];
        then_last[i] = s->last[p];
        is_odd[i] = s->held[p] != s->n[p] || s->widths[p] != 1;
    }
    for (int64_t k = 0; k < a->n_chunks; k++) {
        const chunk *c = a->chunks + k;
        const int64_t p = person_of(a, c), sensor = sensor_of(a, c), i = sensor * a->n_people + p;
        const kinedge_slots *s = a->slots + sensor;
        then_held[i] += c->length;
        is_odd[i] |= s->interval[p] != c->interval_ns || then_held[i] > s->n_slots || host_of(a, k, 0) <= then_last[i];
        then_last[i] = host_of(a, k, c->length - 1);
    }
    for (int64_t k = 0; k < a->n_chunks; k++) {
        const chunk *c = a->chunks + k;
        const int64_t p = person_of(a, c), sensor = sensor_of(a, c);
        kinedge_slots *s = a->slots + sensor;
        a->odd[k] = is_odd[sensor * a->n_people + p] != 0;
        n_odd += a->odd[k];
        const int64_t slot = p * s->n_slots + s->n[p], size = c->length * s->n_channels, at = slot * s->n_channels;
        s->some_invalid |= memchr(c->valid, 0, (size_t)size) != 0;
        s->some_saturated |= memchr(c->saturated, 1, (size_t)size) != 0;
        if (a->odd[k])
            continue;
        kinedge_host_times(c->time, &c->length, 1, a->base + k, a->offset + k, a->published + k, a->slope + k,
                           s->time + slot);
        memcpy(s->values + at, c->values, (size_t)size * sizeof *c->values);
        if (s->some_invalid)
            memcpy(s->valid + at, c->valid, (size_t)size);
        if (s->some_saturated)
            memcpy(s->saturated + at, c->saturated, (size_t)size);
        if (a->next_tick[p] == a->never && (a->first[p] == a->never || s->time[slot] < a->first[p]))
            a->first[p] = s->time[slot];
        s->n[p] += c->length;
        s->held[p] += c->length;
        s->last[p] = a->last[p * a->n_sensors + sensor] = s->time[slot + c->length - 1];
    }
    a->n_complete = 0;
    for (int64_t k = 0; k < a->n_chunks; k++) {
        const int64_t p = person_of(a, a->chunks + k);
        int complete = 1;
        for (int64_t g = 0; g < a->n_sensors; g++)
            complete &= a->slots[g].last[p] > a->hop_end[p] - a->period_ns;
        if (complete)
            a->complete[a->n_complete++] = p;
    }
    return n_odd;
}
