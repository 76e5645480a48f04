/*
 * What takes more than one call, or whose result must be put in order before it can be compared.
 *
 *     list FD SIZE, oldlist FD SIZE   all names by getdents64 or getdents with a buffer of SIZE bytes, sorted
 *     seeks FD                        that a directory continues where each of its d_off says
 *     cat "path"                      a whole file
 *     lines "path" "prefix"           the lines of a file that start so
 *     mapped                          the files of /proc/self/maps
 *     put FD "text"                   write
 *     same "a" "b"                    whether both are the same inode, symlinks not followed
 *     times "path"                    seconds of its atime and mtime, where somebody has set them to long ago
 *     samefd FD "path"                the same for a descriptor, symlinks followed
 *     sendmsg-to FD ADDRESS "text"    sendmsg with a name
 *     sendmmsg-to FD ADDRESS "text"   the same twice by one sendmmsg
 *     call-number N ARGUMENT...       a call that need not be in the table
 *     events FD                       what inotify tells
 *     fill "path" N                   makes N files path0, path1, …
 *     over-all N                      dup2 of standard output to every descriptor from 3 to N - 1
 *     exhaust                         dup until it fails: how, and whether calls with paths still work
 *     raise N, exit N, sleep MS
 */
#define _GNU_SOURCE
#include "calls.h"
#include <asm/unistd_64.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

static char bytes[1 << 17];

static void put_result(long result) {
    put(" = ");
    if (result < 0)
        put_error(result);
    else
        put_number(result);
}

struct name {
    char text[300];
    char type;
    long offset;
};

static struct name found[2048];
static int found_count;

/* The kinds of the two structures: getdents has no d_type but in its last byte. */
static void take(const char *at, int old) {
    unsigned short size;
    copy(&size, at + 16, 2);
    struct name *name = &found[found_count++];
    if (found_count == 2048)
        misuse("too many names in", "a directory");
    copy(&name->offset, at + 8, 8);
    const char *text = at + (old ? 18 : 19);
    copy(name->text, text, length(text) + 1);
    name->type = old ? at[size - 1] : at[18];
}

static long read_directory(int fd, word size, int old) {
    long got;
    found_count = 0;
    int call_number = old ? __NR_getdents : __NR_getdents64;
    while ((got = call(call_number, fd, bytes, size)) > 0)
        for (long at = 0; at < got;) {
            unsigned short size;
            copy(&size, bytes + at + 16, 2);
            take(bytes + at, old);
            at += size;
        }
    return got;
}

static int before(const struct name *a, const struct name *b) {
    const char *x = a->text, *y = b->text;
    while (*x && *x == *y)
        x++, y++;
    return (unsigned char)*x < (unsigned char)*y;
}

static void put_names(long end) {
    for (int i = 1; i < found_count; i++)
        for (int k = i; k > 0 && before(&found[k], &found[k - 1]); k--) {
            static struct name other;
            copy(&other, &found[k], sizeof other);
            copy(&found[k], &found[k - 1], sizeof other);
            copy(&found[k - 1], &other, sizeof other);
        }
    put(" =");
    for (int i = 0; i < found_count; i++) {
        word size = without_ids(found[i].text, length(found[i].text), 290);
        put(" ");
        put_escaped(found[i].text, size);
        static const char kinds[] = {[DT_DIR] = '/', [DT_LNK] = '@', [DT_FIFO] = '|', [DT_SOCK] = '=', [DT_REG] = ' ', [DT_CHR] = 'c', [DT_BLK] = 'b', [DT_UNKNOWN] = '?'};
        if (kinds[(int)found[i].type] != ' ')
            put_char(kinds[(int)found[i].type]);
    }
    put(" then ");
    if (end < 0)
        put_error(end);
    else
        put("the end");
}

static void seeks(int fd) {
    static long offsets[2048];
    read_directory(fd, 1 << 15, 0);
    int all = found_count, wrong = 0;
    for (int i = 0; i < all; i++)
        offsets[i] = found[i].offset;
    for (int i = 0; i < all; i++) {
        call(__NR_lseek, fd, offsets[i], SEEK_SET);
        read_directory(fd, 1 << 15, 0);
        wrong += found_count != all - 1 - i;
    }
    call(__NR_lseek, fd, 0, SEEK_SET);
    read_directory(fd, 1 << 15, 0);
    put(" = ");
    put_number(all);
    put(" names, ");
    put_number(wrong);
    put(" wrong, again ");
    put_number(found_count);
}

static long read_file(const char *path) {
    long fd = call4(__NR_openat, AT_FDCWD, path, O_RDONLY, 0);
    if (fd < 0)
        return fd;
    long used = 0, got;
    while ((got = call(__NR_read, fd, bytes + used, sizeof bytes - 1 - used)) > 0)
        used += got;
    call(__NR_close, fd, 0, 0);
    bytes[used] = 0;
    return got < 0 ? got : used;
}

static void cat(const char *path) {
    long size = read_file(path);
    put(" = ");
    if (size < 0)
        put_error(size);
    else
        put_escaped(bytes, without_ids(bytes, size, sizeof bytes));
}

/* Each line, cut at its newline. */
static char *next_line(char **at) {
    char *line = *at;
    if (!*line)
        return 0;
    while (**at && **at != '\n')
        (*at)++;
    if (**at)
        *(*at)++ = 0;
    return line;
}

static void lines(const char *path, const char *prefix) {
    long size = read_file(path);
    put(" =");
    if (size < 0) {
        put(" ");
        put_error(size);
        return;
    }
    char *at = bytes, *line;
    while ((line = next_line(&at)))
        if (starts(line, prefix)) {
            put(" ");
            put_escaped(line, length(line));
        }
}

static void mapped(void) {
    long size = read_file("/proc/self/maps");
    put(" =");
    if (size < 0)
        put_error(size);
    char *at = bytes, *line, *last = "";
    while ((line = next_line(&at))) {
        while (*line && *line != '/')
            line++;
        if (*line && !same_text(line, last)) {
            put(" ");
            put_escaped(line, length(line));
            last = line;
        }
    }
}

static void same(const char *a, const char *b, int fd) {
    struct stat first = {0}, second = {0};
    long one = a ? call4(__NR_newfstatat, AT_FDCWD, a, &first, AT_SYMLINK_NOFOLLOW)
                 : call(__NR_fstat, fd, &first, 0);
    long two = call4(__NR_newfstatat, AT_FDCWD, b, &second, a ? AT_SYMLINK_NOFOLLOW : 0);
    put(" = ");
    if (one < 0 || two < 0)
        put_error(one < 0 ? one : two);
    else
        put(first.st_dev == second.st_dev && first.st_ino == second.st_ino ? "the same" : "different");
}

static void put_time(long seconds) {
    if (seconds < 1000000)
        put_number(seconds);
    else
        put("recent");
}

static void times(const char *path) {
    struct stat stat;
    long result = call4(__NR_newfstatat, AT_FDCWD, path, &stat, 0);
    put(" = ");
    if (result < 0) {
        put_error(result);
        return;
    }
    put_time(stat.st_atim.tv_sec);
    put(" ");
    put_time(stat.st_mtim.tv_sec);
}

static void send_to(int fd, const char *rest, int twice) {
    struct arguments address = {0};
    word size = value(&rest, &address);
    skip_spaces(&rest);
    char *text = text_value(&rest);
    struct iovec part = {text, length(text)};
    struct mmsghdr messages[2] = {0};
    for (int i = 0; i < 2; i++) {
        struct msghdr *message = &messages[i].msg_hdr;
        message->msg_name = (void *)address.values[0];
        message->msg_namelen = size;
        message->msg_iov = &part;
        message->msg_iovlen = 1;
    }
    put_result(twice ? call4(__NR_sendmmsg, fd, messages, 2, 0) : call(__NR_sendmsg, fd, &messages[0].msg_hdr, 0));
}

static void events(int fd) {
    long got = call(__NR_read, fd, bytes, sizeof bytes);
    put(" =");
    if (got < 0) {
        put(" ");
        put_error(got);
    }
    for (long at = 0; at < got;) {
        struct inotify_event event;
        copy(&event, bytes + at, sizeof event);
        put(" ");
        put_octal(event.mask);
        put(":");
        if (event.len)
            put(bytes + at + sizeof event);
        at += sizeof event + event.len;
    }
}

static void fill(const char *path, long count) {
    char name[300];
    long made = 0;
    for (long i = 0; i < count; i++) {
        word end = length(path);
        copy(name, path, end);
        for (long divisor = 1000; divisor; divisor /= 10)
            name[end++] = '0' + i / divisor % 10;
        name[end] = 0;
        long fd = call4(__NR_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_EXCL, 0644);
        made += fd >= 0;
        call(__NR_close, fd, 0, 0);
    }
    put_result(made);
}

static void over_all(long end) {
    long made = 0;
    for (long fd = 3; fd < end; fd++)
        made += call(__NR_dup2, 1, fd, 0) == fd;
    put_result(made);
}

static void exhaust(void) {
    long fd;
    while ((fd = call(__NR_dup, 1, 0, 0)) >= 0)
        ;
    put_result(fd);
    struct stat stat;
    put(", then open");
    put_result(call4(__NR_openat, AT_FDCWD, "f", O_RDONLY, 0));
    put(", of a missing name");
    put_result(call4(__NR_openat, AT_FDCWD, "missing", O_RDONLY, 0));
    put(", stat");
    put_result(call4(__NR_newfstatat, AT_FDCWD, "/w/f", &stat, 0));
    put(", of a missing name");
    put_result(call4(__NR_newfstatat, AT_FDCWD, "/w/missing", &stat, 0));
}

/* A buffer that other verbs do not touch is not needed: each takes its arguments before it works. */
int verb(const char *name, const char *rest) {
    struct arguments in = {0};
    skip_spaces(&rest);
    if (same_text(name, "sendmsg-to") || same_text(name, "sendmmsg-to")) {
        word fd = value(&rest, &in);
        skip_spaces(&rest);
        send_to(fd, rest, same_text(name, "sendmmsg-to"));
        return 1;
    }
    static const char *const names[] = {"list", "oldlist", "seeks", "cat", "lines", "mapped", "put", "same", "samefd", "times",
                                        "call-number", "events", "fill", "over-all", "exhaust", "raise", "exit", "sleep"};
    int known = 0;
    for (word i = 0; i < sizeof names / sizeof *names; i++)
        known |= same_text(name, names[i]);
    if (!known)
        return 0;
    parse_arguments(rest, &in);
    word *v = in.values;
    if (same_text(name, "list"))
        put_names(read_directory(v[0], v[1], 0));
    else if (same_text(name, "oldlist"))
        put_names(read_directory(v[0], v[1], 1));
    else if (same_text(name, "seeks"))
        seeks(v[0]);
    else if (same_text(name, "cat"))
        cat((char *)v[0]);
    else if (same_text(name, "lines"))
        lines((char *)v[0], (char *)v[1]);
    else if (same_text(name, "mapped"))
        mapped();
    else if (same_text(name, "put"))
        put_result(call(__NR_write, v[0], v[1], length((char *)v[1])));
    else if (same_text(name, "same"))
        same((char *)v[0], (char *)v[1], -1);
    else if (same_text(name, "samefd"))
        same(0, (char *)v[1], v[0]);
    else if (same_text(name, "times"))
        times((char *)v[0]);
    else if (same_text(name, "call-number"))
        put_result(call6(v[0], v[1], v[2], v[3], v[4], v[5], v[6]));
    else if (same_text(name, "events"))
        events(v[0]);
    else if (same_text(name, "fill"))
        fill((char *)v[0], v[1]);
    else if (same_text(name, "over-all"))
        over_all(v[0]);
    else if (same_text(name, "exhaust"))
        exhaust();
    else if (same_text(name, "raise")) {
        put_line();
        call(__NR_kill, call(__NR_getpid, 0, 0, 0), v[0], 0);
        put(" survived");
    } else if (same_text(name, "exit")) {
        put_line();
        quit(v[0]);
    } else {
        struct timespec time = {v[0] / 1000, v[0] % 1000 * 1000000};
        call(__NR_nanosleep, &time, 0, 0);
    }
    return 1;
}
