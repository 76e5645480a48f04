#include "traps.h"

char **given;
int given_count;

const char *how(long result) { return result >= 0 ? "ok" : strerrorname_np(errno); }

void needed(const char *what) {
    say("this failed: %s: %s\n", what, strerror(errno));
    _exit(99);
}

int paths_wrong(void) {
    struct stat found;
    int before = errno, wrong = 0;
    int fd = open("f", O_RDONLY);
    wrong += fd < 0;
    if (fd >= 0)
        close(fd);
    wrong += open("missing", O_RDONLY) >= 0 || errno != ENOENT;
    wrong += open("f/x", O_RDONLY) >= 0 || errno != ENOTDIR;
    wrong += stat("f", &found) != 0;
    wrong += access("d", F_OK) != 0;
    errno = before;
    return wrong;
}

int main(int count, char **arguments) {
    static const struct trap *const all[] = {signal_traps, stack_traps, memory_traps, process_traps, descriptor_traps, proc_traps, entered_traps, answer_traps};
    given = arguments + 2;
    given_count = count - 2;
    for (size_t list = 0; count >= 2 && list < sizeof all / sizeof *all; list++)
        for (const struct trap *at = all[list]; at->name; at++)
            if (strcmp(at->name, arguments[1]) == 0) {
                at->run();
                return 0;
            }
    say("there is no such case\n");
    return 98;
}
