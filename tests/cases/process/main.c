#include "process.h"

static const struct named_case *const all[] = {signal_cases, fault_cases, thread_cases, spawn_cases, start_cases};

const char *how(long result) { return result >= 0 ? "ok" : strerrorname_np(errno); }

void need(int fine, const char *what) {
    if (fine)
        return;
    say("process: %s: %s\n", what, strerror(errno));
    _exit(99);
}

void paths_work(const char *when) {
    struct stat stat;
    char text[16];
    int fd = open("f", O_RDONLY);
    say("%s: open %s", when, how(fd));
    if (fd >= 0)
        close(fd);
    say(", missing %s", how(open("missing", O_RDONLY)));
    say(", stat %s", how(lstat("/w/d/f", &stat)));
    say(", missing %s", how(lstat("/w/d/missing", &stat)));
    say(", readlink %s\n", how(readlink("f", text, sizeof text)));
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
    wrong += stat("/w/d/f", &found) != 0;
    wrong += access("/w/d/missing", F_OK) == 0 || errno != ENOENT;
    errno = before;
    return wrong;
}

void say_end(const char *what, int status) {
    if (WIFEXITED(status))
        say("%s exited with %d\n", what, WEXITSTATUS(status));
    else if (WIFSIGNALED(status))
        say("%s was killed by signal %d\n", what, WTERMSIG(status));
    else
        say("%s: status %#x\n", what, status);
}

void in_child(const char *what, void (*run)(void)) {
    pid_t child = fork();
    need(child >= 0, "fork");
    if (child == 0) {
        run();
        _exit(0);
    }
    int status;
    need(waitpid(child, &status, 0) == child, "waitpid");
    say_end(what, status);
}

int main(int count, char **arguments) {
    if (count < 2) {
        for (size_t list = 0; list < sizeof all / sizeof *all; list++)
            for (const struct named_case *at = all[list]; at->name; at++)
                if (*at->name != '-')
                    puts(at->name);
        return 0;
    }
    for (size_t list = 0; list < sizeof all / sizeof *all; list++)
        for (const struct named_case *at = all[list]; at->name; at++)
            if (strcmp(at->name, arguments[1]) == 0) {
                at->run();
                return 0;
            }
    fprintf(stderr, "process: no case %s\n", arguments[1]);
    return 99;
}
