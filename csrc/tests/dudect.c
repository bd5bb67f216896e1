/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does the comparison of MACs tell where it fails?  After Reparaz, Balasch and Verbauwhede ("dude, is my code constant time?"):
 * two classes of input, interleaved at random, and Welch's t over their times.  Class 0 differs in the first byte of the MAC, class
 * 1 in the last.  |t| below 4.5 is no evidence of a leak; memcmp, measured beside it, shows what a leak looks like.  A report, not
 * a test: other programs on the machine disturb it.
 */
#define _POSIX_C_SOURCE 199309L
#include "crypto.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SAMPLES = 2000000, LENGTH = 20 };

static double now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static __attribute__((noinline)) bool compare(int which, const uint8_t *a, const uint8_t *b)
{
    if (which == 0)
        return same_mac(a, b, LENGTH);
    for (size_t i = 0; i < LENGTH; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

int main(void)
{
    static const char *const names[] = {"same_mac", "early-exit comparison"};
    static uint8_t inputs[1024][LENGTH], mac[LENGTH];
    uint8_t classes[1024];
    uint64_t state = 88172645463325252U;
    for (int which = 0; which < 2; which++) {
        double n[2] = {0, 0}, mean[2] = {0, 0}, m2[2] = {0, 0};
        static volatile unsigned sink;
        for (int s = 0; s < SAMPLES; s++) {
            if (s % 1024 == 0)
                for (int i = 0; i < 1024; i++) {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    classes[i] = (uint8_t)(state >> 20 & 1);
                    memcpy(inputs[i], mac, LENGTH);
                    inputs[i][classes[i] != 0 ? LENGTH - 1 : 0] ^= 0xff;
                }
            const uint8_t *input = inputs[s % 1024];
            const double start = now();
            for (int k = 0; k < 8; k++)
                sink = sink + compare(which, mac, input);
            const double time = now() - start;
            if (time > 2000) /* interrupted */
                continue;
            const int c = classes[s % 1024];
            const double delta = time - mean[c];
            n[c] += 1;
            mean[c] += delta / n[c];
            m2[c] += delta * (time - mean[c]);
        }
        const double t = (mean[0] - mean[1]) / sqrt(m2[0] / (n[0] - 1) / n[0] + m2[1] / (n[1] - 1) / n[1]);
        printf("%-22s |t| = %8.2f  (first byte %.2f ns, last byte %.2f ns, %d samples)\n", names[which], fabs(t), mean[0], mean[1],
               SAMPLES);
    }
    return 0;
}
