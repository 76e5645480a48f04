/*
 * Cases for the traps that an engine of this kind falls into: see tests/engine_traps. Each is a function, called by its name. What a case
 * prints is the same under the real kernel, unless its test says otherwise.
 *
 * They run in a directory with the file `f`, the fifo `fifo` and the directory `d`, and this program is at /proc/self/exe.
 */
#ifndef TRAPS_H
#define TRAPS_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct trap {
    const char *name;
    void (*run)(void);
};

extern const struct trap signal_traps[], stack_traps[], memory_traps[], process_traps[], descriptor_traps[], proc_traps[], entered_traps[], answer_traps[];

/* What was given behind the case's name, and how many words. */
extern char **given;
extern int given_count;

/* Prints at once: some cases are killed when they fail. */
#define say(...) dprintf(1, __VA_ARGS__)

/* The name of the current errno, or "ok" for a result that is not negative. */
const char *how(long result);

/* Ends the program, saying so, if what a case only needs fails. */
#define need(what) ((what) ? (void)0 : needed(#what))
void needed(const char *what);

/* How many of some calls with paths do something else than they should. Fit for handlers of signals. */
int paths_wrong(void);

#endif
