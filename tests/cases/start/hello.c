/* Says what any kind of program must find: its arguments, its environment, its name, and that paths are the guest's. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static __thread int mine = 3;
static int zero[5000];
static int *const pointer = &zero[17];

int main(int count, char **arguments) {
    char link[200] = "", directory[200] = "";
    for (int i = 0; i < count; i++)
        printf("%s\n", arguments[i]);
    printf("%s\n", getenv("GREETING"));
    printf("%zd %s\n", readlink("/proc/self/exe", link, sizeof link - 1), link);
    printf("%s\n", getcwd(directory, sizeof directory));
    int missing = open("/missing", O_RDONLY);
    printf("%d %d\n", missing, errno);
    int sum = *pointer;
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++)
        sum |= zero[i];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    void *large = malloc(1 << 20), *small = malloc(10);
    memset(large, 1, 1 << 20);
    printf("%d %d %d %d\n", mine, sum, now.tv_sec > 1000000000, large && small);
    return 7;
}
