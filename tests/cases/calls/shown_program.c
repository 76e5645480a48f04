/* What a program that was executed finds: its arguments, environment, name, descriptors, directory, signals. */
#define _GNU_SOURCE
#include "calls.h"
#include <asm/unistd_64.h>
#include <fcntl.h>
#include <sys/prctl.h>

static void put_list(const char *what, char **list) {
    put(what);
    for (; *list; list++) {
        put(" ");
        put_escaped(*list, without_ids(*list, length(*list), length(*list)));
    }
    put_line();
}

static void put_link(const char *path) {
    char text[4096];
    long size = call4(__NR_readlinkat, AT_FDCWD, path, text, sizeof text);
    put(path);
    put(" ");
    if (size < 0)
        put_error(size);
    else
        put_escaped(text, without_ids(text, size, sizeof text));
    put_line();
}

void show_program(char **arguments, char **environment) {
    put_list("arguments", arguments);
    put_list("environment", environment);
    char name[16] = {0};
    call(__NR_prctl, PR_GET_NAME, name, 0);
    put("name ");
    put_escaped(name, length(name));
    put_line();
    put_link("/proc/self/exe");
    put_link("/proc/self/cwd");
    put("descriptors");
    for (int fd = 0; fd < 64; fd++)
        if (call(__NR_fcntl, fd, F_GETFD, 0) >= 0) {
            put(" ");
            put_number(fd);
        }
    put_line();
    word blocked = 0;
    call4(__NR_rt_sigprocmask, 0, 0, &blocked, 8);
    put("blocked ");
    put_octal(blocked);
    put_line();
}
