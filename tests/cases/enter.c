/*
 * Starts a program the way every way of running a case starts it: alone in its session, without a chance of more privilege, as
 * an ordinary user. With --root, as the real kernel has it: in that directory as its root, with directories of the host mounted
 * inside. As root in a mount namespace, else in a user namespace in which the user stays who he is.
 *
 *     enter [--root DIR] [--read-only DIR] [--bind SOURCE TARGET]... [--user ID] [--cwd DIR] -- PROGRAM [ARGUMENT]...
 *
 * With --read-only, nobody writes to that directory: it is mounted so, for this program alone.
 *
 * Ends with 125 and a line that starts with "enter: " where that cannot be had; with 126 or 127, as env(1) does, where the program
 * cannot be executed or is not found.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fail(const char *what, const char *where) {
    fprintf(stderr, "enter: %s %s: %s\n", what, where, strerror(errno));
    exit(125);
}

static void write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        fail("writing", path);
    close(fd);
}

static void own_namespaces(void) {
    uid_t user = getuid();
    gid_t group = getgid();
    if (user == 0) {
        if (unshare(CLONE_NEWNS) != 0)
            fail("unshare", "of the mount namespace");
    } else {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
            fail("unshare", "of user and mount namespace (is kernel.unprivileged_userns_clone 0, or does AppArmor forbid it?)");
        char map[64];
        write_file("/proc/self/setgroups", "deny");
        snprintf(map, sizeof map, "%u %u 1", group, group);
        write_file("/proc/self/gid_map", map);
        snprintf(map, sizeof map, "%u %u 1", user, user);
        write_file("/proc/self/uid_map", map);
    }
    if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        fail("making private", "/");
}

static void bind_mount(const char *root, const char *source, const char *target) {
    char at[4096];
    snprintf(at, sizeof at, "%s%s", root, target);
    if (mount(source, at, NULL, MS_BIND | MS_REC, NULL) != 0)
        fail("mounting on", at);
}

static void mount_read_only(const char *directory) {
    if (mount(directory, directory, NULL, MS_BIND, NULL) != 0)
        fail("mounting on", directory);
    struct statvfs found;
    if (statvfs(directory, &found) != 0)
        fail("looking at", directory);
    /* What the mount has must stay, or a user namespace may not change it. */
    unsigned long kept = 0;
    static const struct { unsigned long found, kept; } flags[] = {
        {ST_NOSUID, MS_NOSUID}, {ST_NODEV, MS_NODEV}, {ST_NOEXEC, MS_NOEXEC},
        {ST_NOATIME, MS_NOATIME}, {ST_NODIRATIME, MS_NODIRATIME}, {ST_RELATIME, MS_RELATIME},
    };
    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++)
        if (found.f_flag & flags[i].found)
            kept |= flags[i].kept;
    if (mount("", directory, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | kept, NULL) != 0)
        fail("mounting read-only", directory);
}

/* The rights to leave a root or to mount would make calls succeed that no runtime in a process can have succeed. */
static void without_namespaces_rights(void) {
    static const int dropped[] = {CAP_SYS_ADMIN, CAP_SYS_CHROOT};
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) != 0)
        fail("capget", "");
    for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++) {
        if (prctl(PR_CAPBSET_DROP, dropped[i], 0, 0, 0) != 0 && errno != EPERM)
            fail("dropping", "a capability");
        unsigned mask = ~(1u << (dropped[i] & 31));
        data[dropped[i] >> 5].effective &= mask;
        data[dropped[i] >> 5].permitted &= mask;
        data[dropped[i] >> 5].inheritable &= mask;
    }
    if (syscall(SYS_capset, &header, data) != 0)
        fail("capset", "");
}

/* As many descriptors as a session usually has, whatever the test has. */
static void usual_limits(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur > 1024)
        limit.rlim_cur = 1024;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        fail("limiting", "descriptors");
}

int main(int count, char **arguments) {
    const char *root = NULL, *directory = NULL, *read_only = NULL;
    struct {
        const char *source, *target;
    } binds[32];
    int bind_count = 0;
    long user = -1;
    int at = 1;
    for (; at < count && strcmp(arguments[at], "--") != 0; at++) {
        if (strcmp(arguments[at], "--root") == 0)
            root = arguments[++at];
        else if (strcmp(arguments[at], "--read-only") == 0)
            read_only = arguments[++at];
        else if (strcmp(arguments[at], "--cwd") == 0)
            directory = arguments[++at];
        else if (strcmp(arguments[at], "--user") == 0)
            user = atol(arguments[++at]);
        else if (strcmp(arguments[at], "--bind") == 0 && bind_count < 32) {
            binds[bind_count].source = arguments[++at];
            binds[bind_count++].target = arguments[++at];
        } else {
            fprintf(stderr, "enter: what is %s?\n", arguments[at]);
            return 125;
        }
    }
    char **program = arguments + at + 1;
    if (at + 1 >= count) {
        fprintf(stderr, "enter: no program\n");
        return 125;
    }
    /* Cargo has descriptors that its children inherit. */
    if (close_range(3, ~0u, 0) != 0)
        fail("closing", "descriptors");
    setsid();
    umask(022);
    usual_limits();
    if (root || read_only)
        own_namespaces();
    if (read_only)
        mount_read_only(read_only);
    if (root) {
        for (int i = 0; i < bind_count; i++)
            bind_mount(root, binds[i].source, binds[i].target);
        if (chroot(root) != 0)
            fail("chroot", root);
        if (!directory)
            directory = "/";
    }
    if (directory && chdir(directory) != 0)
        fail("chdir", directory);
    if (user >= 0 && getuid() == 0 && (setgroups(0, NULL) != 0 || setgid(user) != 0 || setuid(user) != 0))
        fail("becoming", "another user");
    without_namespaces_rights();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        fail("prctl", "no_new_privs");
    execvp(program[0], program);
    int status = errno == ENOENT ? 127 : 126;
    fprintf(stderr, "%s: %s\n", program[0], strerror(errno));
    return status;
}
