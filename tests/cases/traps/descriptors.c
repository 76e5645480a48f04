/* Descriptors are the guest's, the one that the runtime keeps included; sockets have paths of 108 bytes at most. */
#include "traps.h"
#include <linux/openat2.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

static int absolute_wrong(void) {
    struct stat found;
    return stat("/", &found) != 0 || !S_ISDIR(found.st_mode) || access("/missing", F_OK) == 0 || paths_wrong() != 0;
}

static void all_closed(void) {
    struct rlimit limit;
    int odd = 0;
    need(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (int round = 0; round < 3; round++) {
        for (int fd = 3; fd < (int)limit.rlim_cur && fd < 1 << 20; fd++)
            close(fd);
        odd += absolute_wrong();
        syscall(SYS_close_range, 3, ~0u, 0);
        odd += absolute_wrong();
        closefrom(3);
        odd += absolute_wrong();
    }
    say("odd %d\n", odd);
}

/* Every descriptor from 3 on is a file, then a directory, then a pipe. */
static void all_replaced(void) {
    int odd = 0, pipes[2];
    struct rlimit limit;
    need(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    need(pipe(pipes) == 0);
    int kinds[] = {open("f", O_RDONLY), open("d", O_RDONLY), open("/proc", O_RDONLY), pipes[0]};
    int last = limit.rlim_cur < 1 << 20 ? limit.rlim_cur : 1 << 20;
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        for (int fd = last - 1; fd >= last - 64; fd--)
            need(dup2(kinds[kind], fd) == fd);
        odd += absolute_wrong();
    }
    say("odd %d\n", odd);
}

/* Once the limit is raised, numbers that lay above it can be used up to where the runtime keeps its own. */
static void all_above(void) {
    int odd = 0, pipes[2];
    struct rlimit limit, raised;
    need(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    need(pipe(pipes) == 0);
    int kinds[] = {open("f", O_RDONLY), open("d", O_RDONLY), open("/proc", O_RDONLY), pipes[0]};
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        /* The runtime has just used its own. */
        for (int i = 0; i < 100; i++)
            odd += absolute_wrong();
        raised = limit;
        raised.rlim_cur = limit.rlim_cur < limit.rlim_max ? limit.rlim_cur + 64 : limit.rlim_cur;
        if (raised.rlim_cur > raised.rlim_max)
            raised.rlim_cur = raised.rlim_max;
        need(kind % 2 ? setrlimit(RLIMIT_NOFILE, &raised) == 0 : syscall(SYS_setrlimit, RLIMIT_NOFILE, &raised) == 0);
        for (int fd = (int)raised.rlim_cur - 1; fd >= (int)limit.rlim_cur; fd--)
            need(dup2(kinds[kind], fd) == fd);
        odd += absolute_wrong();
        syscall(SYS_close_range, 100, ~0u, 0);
        odd += absolute_wrong();
        need(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        odd += absolute_wrong();
    }
    say("odd %d\n", odd);
}

/* With no number left a call that needs none still works, and one that does fails as it should. */
static void all_used(void) {
    struct rlimit limit = {64, 64};
    struct stat found;
    int opened = 0;
    need(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    while (dup(0) >= 0)
        opened++;
    say("%s", how(open("f", O_RDONLY)));
    say(", stat %s", how(stat("f", &found)));
    say(", missing %s", how(access("missing", F_OK)));
    char text[100];
    say(", readlink %s, wrong numbers %d\n", how(readlink("/proc/self/cwd", text, 100)), opened > 61 || opened < 55);
}

/* Numbers are handed out from the least on. */
static void lowest(void) {
    int first = open("f", O_RDONLY), second = open("/proc/self/maps", O_RDONLY), third = open("d", O_RDONLY);
    say("%d %d %d", first, second, third);
    close(first);
    say(" %d\n", open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
}

static void name(struct sockaddr_un *address, const char *path) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    strncpy(address->sun_path, path, sizeof address->sun_path);
}

/*
 * Names of up to the longest that fits, with and without its NUL. What the kernel tells of a long absolute one is not compared: on the host
 * its path is longer.
 */
static void sockets(void) {
    struct sockaddr_un address, told;
    char path[200];
    static const char directory[] = "/tmp/dddddddddddddddddddddddddddddddddddddddd/";
    static const size_t lengths[] = {1, 50, 100, 107, 108};
    need(mkdir(directory, 0700) == 0);
    for (int absolute = 0; absolute < 2; absolute++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            int listening = socket(AF_UNIX, SOCK_STREAM, 0), calling = socket(AF_UNIX, SOCK_STREAM, 0);
            size_t length = absolute && lengths[i] < sizeof directory ? sizeof directory : lengths[i];
            memset(path, 's', sizeof path);
            if (absolute)
                memcpy(path, directory, sizeof directory - 1);
            path[length] = 0;
            name(&address, path);
            socklen_t len = offsetof(struct sockaddr_un, sun_path) + length + (length < sizeof address.sun_path), room = sizeof told;
            say("%s %zu: bind %s", absolute ? "absolute" : "relative", length, how(bind(listening, (void *)&address, len)));
            say(", listen %s", how(listen(listening, 1)));
            say(", connect %s", how(connect(calling, (void *)&address, len)));
            memset(&told, 0, sizeof told);
            say(", told %s", how(getsockname(listening, (void *)&told, &room)));
            if (!absolute || length <= 50)
                say(" %u %d", room, strncmp(told.sun_path, path, 107) == 0);
            room = sizeof told;
            memset(&told, 0, sizeof told);
            say(", peer %s", how(getpeername(calling, (void *)&told, &room)));
            if (!absolute || length <= 50)
                say(" %u %d", room, strncmp(told.sun_path, path, 107) == 0);
            say(", again %s", how(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, len)));
            say(", unlink %s\n", how(unlink(path)));
            close(listening);
            close(calling);
        }
    need(rmdir(directory) == 0);
}

static long open2(int dir, const char *path, unsigned long flags, unsigned long mode, unsigned long resolve) {
    struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};
    return syscall(SYS_openat2, dir, path, &how, sizeof how);
}

static void resolve_flags(void) {
    int d = open("d", O_RDONLY | O_DIRECTORY);
    symlink("../f", "d/up");
    symlink("/f", "d/root");
    say("beneath, up: %s\n", how(open2(d, "..", O_RDONLY, 0, RESOLVE_BENEATH)));
    say("beneath, symlink up: %s\n", how(open2(d, "up", O_RDONLY, 0, RESOLVE_BENEATH)));
    say("beneath, absolute: %s\n", how(open2(d, "/", O_RDONLY, 0, RESOLVE_BENEATH)));
    say("in root, symlink up: %s\n", how(open2(d, "up", O_RDONLY, 0, RESOLVE_IN_ROOT)));
    say("in root, absolute: %s\n", how(open2(d, "root", O_RDONLY, 0, RESOLVE_IN_ROOT)));
    say("no symlinks: %s\n", how(open2(d, "up", O_RDONLY, 0, RESOLVE_NO_SYMLINKS)));
    say("no magic: %s\n", how(open2(AT_FDCWD, "/proc/self/exe", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS)));
    say("magic: %s\n", how(open2(AT_FDCWD, "/proc/self/exe", O_RDONLY, 0, 0)));
    say("mode without O_CREAT: %s\n", how(open2(AT_FDCWD, "f", O_RDONLY, 0600, 0)));
    say("unknown flags: %s\n", how(open2(AT_FDCWD, "f", 1ul << 40, 0, 0)));
    say("unknown resolve: %s\n", how(open2(AT_FDCWD, "f", 0, 0, 1ul << 40)));
    say("both: %s\n", how(open2(AT_FDCWD, "f", 0, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT)));
    unlink("d/up");
    unlink("d/root");
}

const struct trap descriptor_traps[] = {
    {"all closed", all_closed},
    {"all replaced", all_replaced},
    {"all above", all_above},
    {"all used", all_used},
    {"lowest", lowest},
    {"sockets", sockets},
    {"resolve flags", resolve_flags},
    {NULL, NULL},
};
