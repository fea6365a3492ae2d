/* Sums in numpy's order, so that C and numpy give the same bits: eight running sums from eight numbers on, and halves
 * of what is longer than 128. */
#ifndef KINEDGE_SUMS_H
#define KINEDGE_SUMS_H

#include "kinedge_native.h"

#define PAIRWISE(name, type)                                                                                           \
    static type name(const type *a, int64_t n)                                                                        \
    {                                                                                                                  \
        if (n < 8) {                                                                                                   \
            type sum = 0;                                                                                              \
            for (int64_t i = 0; i < n; i++)                                                                            \
                sum += a[i];                                                                                           \
            return sum;                                                                                                \
        }                                                                                                              \
        if (n > 128) {                                                                                                 \
            const int64_t half = n / 2 - n / 2 % 8;                                                                    \
            return name(a, half) + name(a + half, n - half);                                                           \
        }                                                                                                              \
        type r[8];                                                                                                     \
        int64_t i = 8;                                                                                                 \
        for (int k = 0; k < 8; k++)                                                                                    \
            r[k] = a[k];                                                                                               \
        for (; i < n - n % 8; i += 8)                                                                                  \
            for (int k = 0; k < 8; k++)                                                                                \
                r[k] += a[i + k];                                                                                      \
        type sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));                                  \
        for (; i < n; i++)                                                                                             \
            sum += a[i];                                                                                               \
        return sum;                                                                                                    \
    }

#endif
