/* Four numbers at a time, on every processor: wider ones gcc sends through memory where the processor has none. */
#ifndef KINEDGE_FOUR_H
#define KINEDGE_FOUR_H

#include <string.h>

#include "kinedge_native.h"

#define FOUR ((int64_t)4)
typedef float floats __attribute__((vector_size(16)));
typedef int32_t masks __attribute__((vector_size(16)));
typedef uint8_t bytes __attribute__((vector_size(4)));

static inline floats load(const float *from)
{
    floats all;
    memcpy(&all, from, sizeof all);
    return all;
}

static inline void store(float *to, floats all)
{
    memcpy(to, &all, sizeof all);
}

/* All bits set where a byte is not 0. */
static inline masks load_masks(const uint8_t *from)
{
    bytes all;
    memcpy(&all, from, sizeof all);
    return __builtin_convertvector(all, masks) != 0;
}

static inline floats all_of(float number)
{
    return (floats){number, number, number, number};
}

static inline floats where(masks mask, floats yes, floats no)
{
    return (floats)((mask & (masks)yes) | (~mask & (masks)no));
}

#endif
