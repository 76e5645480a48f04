/* A program that lives long and says, line by line, what it finds at the paths that it is told. */
#include "traps.h"
#include <dirent.h>

/* One line, and not a byte more: what follows is for the program that is executed in this one's place. */
static int read_line(char *line, size_t room) {
    size_t len = 0;
    while (len + 1 < room && read(0, line + len, 1) == 1) {
        if (line[len] == '\n') {
            line[len] = 0;
            return 1;
        }
        len++;
    }
    return 0;
}

static const char *opened(const char *path) {
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    const char *said = how(fd);
    if (fd >= 0)
        close(fd);
    return said;
}

static const char *listed(const char *path) {
    char directory[4096];
    const char *name = strrchr(path, '/') + 1, *said = "not listed";
    snprintf(directory, sizeof directory, "%.*s", (int)(name - path), path);
    DIR *stream = opendir(directory);
    need(stream != NULL);
    for (struct dirent *entry; (entry = readdir(stream));)
        if (strcmp(entry->d_name, name) == 0)
            said = "listed";
    closedir(stream);
    return said;
}

static void answers(void) {
    char line[4096], text[4096];
    while (read_line(line, sizeof line)) {
        if (strcmp(line, "again") == 0) {
            execl("/proc/self/exe", "traps", "answers", NULL);
            needed("executing itself");
        }
        struct stat found;
        const char *stated = how(lstat(line, &found)), *there = how(access(line, F_OK));
        ssize_t len = readlink(line, text, sizeof text);
        const char *link = how(len);
        say("%s: lstat %s, access %s, open %s, readlink %s, %s\n", line, stated, there, opened(line), link, listed(line));
    }
}

const struct trap answer_traps[] = {
    {"answers", answers},
    {NULL, NULL},
};
