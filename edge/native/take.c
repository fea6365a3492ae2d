/* The next ticks of some people, of all their sensors, in one call: what Grid.take does for samples that are not
 * averaged, whose chunks are all in their slots. */
#include "kinedge_native.h"

API int32_t kinedge_interpolate(const int64_t *time, const int64_t *n, const int64_t *interval, const float *values,
                                const uint8_t *valid, const uint8_t *saturated, int64_t n_people, int64_t n_slots,
                                int64_t n_channels, const int64_t *rows, const int64_t *first_ns, int64_t n_rows,
                                int64_t period_ns, int64_t n_ticks, float *out_values, uint8_t *out_valid,
                                uint8_t *out_saturated, int64_t out_channels, int64_t column);
API int32_t kinedge_drop_before(int64_t *time, int64_t *n, int64_t *held, float *values, uint8_t *valid,
                                uint8_t *saturated, int64_t n_people, int64_t n_slots, int64_t n_channels,
                                const int64_t *rows, const int64_t *time_ns, const int64_t *kept, int64_t n_rows);

/* As kinedge/edge/native/take.py fills it in: every field is eight bytes, in this order. */
typedef struct {
    int64_t n_rows, n_people, n_sensors, n_channels, n_ticks, hop, period_ns;
    const kinedge_slots *slots; /* (n_sensors) */
    /* of the grid: newest sample (n_people, n_sensors); next tick and end of the hop (n_people) */
    const int64_t *last;
    int64_t *next_tick, *hop_end;
    /* to work in (n_rows), zeros (n_rows) */
    int64_t *now_ns;
    const int64_t *kept;
    /* whose (n_rows), and what is found: (n_rows, n_ticks, n_channels); whose next hop is complete, and how many */
    const int64_t *rows;
    float *values;
    uint8_t *valid, *saturated;
    int64_t *complete, n_complete;
} kinedge_ticks;

/* Return -1, having done nothing, where something is outside. */
API int32_t kinedge_take(kinedge_ticks *t)
{
    int64_t n_channels = 0;
    for (int64_t g = 0; g < t->n_sensors; g++) {
        const kinedge_slots *s = t->slots + g;
        n_channels += s->n_channels;
        for (int64_t i = 0; i < t->n_rows; i++) {
            const int64_t row = t->rows[i];
            if (row < 0 || row >= t->n_people || s->n_slots < 1 || s->n[row] < 0 || s->n[row] > s->n_slots)
                return -1;
        }
    }
    if (n_channels != t->n_channels)
        return -1;
    for (int64_t g = 0, column = 0; g < t->n_sensors; column += t->slots[g].n_channels, g++) {
        const kinedge_slots *s = t->slots + g;
        uint8_t *valid = s->some_invalid ? s->valid : 0, *saturated = s->some_saturated ? s->saturated : 0;
        for (int64_t i = 0; i < t->n_rows; i++)
            t->now_ns[i] = t->next_tick[t->rows[i]] * t->period_ns;
        kinedge_interpolate(s->time, s->n, s->interval, s->values, valid, saturated, t->n_people, s->n_slots,
                            s->n_channels, t->rows, t->now_ns, t->n_rows, t->period_ns, t->n_ticks, t->values, t->valid,
                            t->saturated, n_channels, column);
        for (int64_t i = 0; i < t->n_rows; i++)
            t->now_ns[i] += t->n_ticks * t->period_ns;
        kinedge_drop_before(s->time, s->n, s->held, s->values, valid, saturated, t->n_people, s->n_slots, s->n_channels,
                            t->rows, t->now_ns, t->kept, t->n_rows);
    }
    t->n_complete = 0;
    for (int64_t i = 0; i < t->n_rows; i++) {
        const int64_t row = t->rows[i];
        t->next_tick[row] += t->n_ticks;
        t->hop_end[row] = t->next_tick[row] * t->period_ns + t->hop * t->period_ns;
        int complete = 1;
        for (int64_t g = 0; g < t->n_sensors; g++)
            complete &= t->last[row * t->n_sensors + g] > t->hop_end[row] - t->period_ns;
        if (complete)
            t->complete[t->n_complete++] = row;
    }
    return 0;
}
