#define _GNU_SOURCE
#include "calls.h"
#include <asm/unistd_64.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/un.h>

static const char *kind_of(word mode) {
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "file";
    case S_IFDIR:
        return "directory";
    case S_IFLNK:
        return "symlink";
    case S_IFIFO:
        return "fifo";
    case S_IFSOCK:
        return "socket";
    case S_IFCHR:
        return "character device";
    case S_IFBLK:
        return "block device";
    default:
        return "no kind";
    }
}

/* Sizes and link counts of directories depend on the file system, and on what else is in them. */
static void put_facts(word mode, word uid, word size, word links) {
    put("{");
    put(kind_of(mode));
    put(" ");
    put_octal(mode & 07777);
    put(uid == (word)call(__NR_geteuid, 0, 0, 0) ? " mine" : " other's");
    if (S_ISREG(mode) || S_ISLNK(mode)) {
        put(" size ");
        put_number(size);
    }
    if (!S_ISDIR(mode) && !S_ISFIFO(mode)) {
        put(" links ");
        put_number(links);
    }
    put("}");
}

void show_stat(const void *at) {
    struct stat stat;
    copy(&stat, at, sizeof stat);
    put_facts(stat.st_mode, stat.st_uid, stat.st_size, stat.st_nlink);
}

static void show_address(const struct shown *shown) {
    word size = *(unsigned *)shown->room;
    struct sockaddr_un address;
    copy(&address, shown->at, sizeof address);
    word start = offsetof(struct sockaddr_un, sun_path);
    put("{length ");
    put_number(size);
    if (size >= start) {
        put(" family ");
        put_number(address.sun_family);
        put(" ");
        word known = size > 200 ? 200 : size;
        put_escaped(shown->at + start, known - start);
    }
    put("}");
}

void show(const struct shown *shown, long result) {
    switch (shown->kind) {
    case BUFFER: {
        word count = without_ids(shown->at, result, 1 << 16);
        put_escaped(shown->at, count);
        break;
    }
    case STAT:
        show_stat(shown->at);
        break;
    case STATX: {
        struct statx stat;
        copy(&stat, shown->at, sizeof stat);
        put_facts(stat.stx_mode, stat.stx_uid, stat.stx_size, stat.stx_nlink);
        break;
    }
    case STATFS: {
        /* Which file system is the one thing that is the same everywhere: proc is proc. */
        struct statfs stat;
        copy(&stat, shown->at, sizeof stat);
        put(stat.f_type == 0x9fa0 ? "{proc}" : "{not proc}");
        break;
    }
    case ADDRESS:
        show_address(shown);
        break;
    case NOTHING:
        break;
    }
}
