/* What gdb looks at: a function, a variable, a file that is missing, an end of its own. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int times(int a, int b) {
    int product = a * b;
    return product;
}

static volatile int enough;

static void wait_for_ever(int depth) {
    if (depth)
        wait_for_ever(depth - 1);
    else
        while (!enough)
            pause();
}

int main(int count, char **arguments) {
    if (count > 2)
        wait_for_ever(2);
    int answer = times(6, 7);
    int missing = open("/missing", O_RDONLY);
    printf("%d %d %d %s\n", answer, missing, count, arguments[count - 1]);
    fflush(stdout);
    return access("/bin/gdb", F_OK) == 0 ? 3 : 4;
}
