/*
 * Cases about signals, threads and processes: each is a function, called by its name; without one, the names are listed. Those with
 * a '-' in front are no cases, but executed by some. What they print must be the same at every run, so there are no addresses,
 * ids or counts of what depends on time in it.
 *
 * They run in a tree with the file /w/f, the directory /w/d with a file f, the fifo /w/fifo and this program as /bin/process,
 * starting in /w.
 */
#ifndef PROCESS_H
#define PROCESS_H

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

struct named_case {
    const char *name;
    void (*run)(void);
};

extern const struct named_case signal_cases[], fault_cases[], thread_cases[], spawn_cases[], start_cases[];

/* Prints a line at once: half of what runs here is killed. */
#define say(...) dprintf(1, __VA_ARGS__)

/* The name of the current errno, or "ok" for a result that is not negative. */
const char *how(long result);

/* Says what the calls with paths do that a case makes to see whether they still work. */
void paths_work(const char *when);

/* The same without a word: how many of them did something else than they should. Fit for signal handlers. */
int paths_wrong(void);

/* Runs a function in a child, and says how that ended. */
void in_child(const char *what, void (*run)(void));
void say_end(const char *what, int status);

/* Ends the case if a call that only prepares it fails. */
void need(int fine, const char *what);

#endif
