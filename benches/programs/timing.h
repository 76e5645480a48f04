/* Timing of one call in a guest: batches of calls, and of their means the median.
 *
 * A batch is made long enough for the clock to be no part of it, and short enough that most are undisturbed. */

#ifndef TIMING_H
#define TIMING_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BATCHES 15
#define BATCH_NS 100e3

static double now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static int by_value(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* What one call of `body` takes, in ns. */
static double ns_per_call(void (*body)(void))
{
    double batches[BATCHES];
    long calls = 1;
    body();
    for (;;) {
        double from = now_ns();
        for (long i = 0; i < calls; i++)
            body();
        double took = now_ns() - from;
        if (took >= BATCH_NS || calls >= 1 << 20)
            break;
        calls *= 2;
    }
    for (int batch = 0; batch < BATCHES; batch++) {
        double from = now_ns();
        for (long i = 0; i < calls; i++)
            body();
        batches[batch] = (now_ns() - from) / calls;
    }
    qsort(batches, BATCHES, sizeof *batches, by_value);
    return batches[BATCHES / 2];
}

/* A call that does not do what it is to do is not timed: the run ends. */
static void must(int holds, const char *what)
{
    if (!holds) {
        perror(what);
        exit(1);
    }
}

#endif
