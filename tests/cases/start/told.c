/*
 * For each directory d/library-N: looks for a file there in vain, says so, is told by a pipe that it is there now, and looks again. All calls are
 * the C library's. At the end: how often it was missed, and whether a filter of system calls is installed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int filter(void) {
    char line[256];
    int mode = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "Seccomp: %d", &mode);
    return mode;
}

int main(int count, char **arguments) {
    int rounds = count > 1 ? atoi(arguments[1]) : 0, missed = 0;
    char name[64], byte;
    for (int i = 0; i < rounds; i++) {
        snprintf(name, sizeof name, "d/library-%d/told", i);
        for (int again = 0; again < 3; again++)
            if (access(name, F_OK) == 0 || errno != ENOENT)
                return 97;
        if (write(1, "?", 1) != 1 || read(0, &byte, 1) != 1)
            return 96;
        missed += access(name, F_OK) != 0;
    }
    printf(" missed %d,filter %d\n", missed, filter());
    return 0;
}
