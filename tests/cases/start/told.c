/*
 * For each directory d/WAY-N: looks for a file there in vain, says so, is told by a pipe that it is there now, and looks again. All calls are
 * the C library's. The descriptor that the pipe is read through was a file of the sysroot before, or is one elsewhere, in a WAY of its own. At
 * the end: how often it was missed, and whether a filter of system calls is installed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int filter(void) {
    char line[256];
    int mode = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "Seccomp: %d", &mode);
    return mode;
}

static void need(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(95);
    }
}

/* A file of the sysroot, of which something was read. */
static int file(void) {
    char byte;
    int fd = open("/w/f", O_RDONLY);
    need(fd >= 0 && read(fd, &byte, 1) == 1, "/w/f");
    return fd;
}

static void *in_a_table_of_its_own(void *pipe) {
    need(unshare(CLONE_FILES) == 0, "unshare");
    close(*(int *)pipe);
    need(file() == *(int *)pipe, "the same number");
    return NULL;
}

static int received(void) {
    int ends[2], fd;
    char byte = 0, room[CMSG_SPACE(sizeof fd)] = "";
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    need(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    fd = 0;
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    need(sendmsg(ends[0], &message, 0) == 1, "sendmsg");
    int closed = file();
    close(closed);
    need(recvmsg(ends[1], &message, 0) == 1, "recvmsg");
    memcpy(&fd, CMSG_DATA(head), sizeof fd);
    need(fd == closed, "the same number");
    close(ends[0]);
    close(ends[1]);
    return fd;
}

/* Closes it by code that nobody has patched. */
static void close_unseen(int fd) {
    static const unsigned char made[] = {0xb8, 3, 0, 0, 0, 0x0f, 0x05, 0xc3};
    void *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code, made, sizeof made);
    need(((int (*)(int))code)(fd) == 0, "close");
}

/* A descriptor of the pipe. */
static int pipe_by(const char *way) {
    int fd, status;
    if (strcmp(way, "dup2") == 0 || strcmp(way, "dup3") == 0) {
        fd = file();
        need((way[3] == '2' ? dup2(0, fd) : dup3(0, fd, O_CLOEXEC)) == fd, way);
    } else if (strcmp(way, "close") == 0) {
        fd = file();
        close(fd);
        need(dup(0) == fd, way);
    } else if (strcmp(way, "range") == 0) {
        fd = file();
        need(close_range(fd, ~0u, 0) == 0 && fcntl(0, F_DUPFD, fd) == fd, way);
    } else if (strcmp(way, "vfork") == 0) {
        fd = dup(0);
        pid_t child = vfork();
        if (child == 0) {
            close(fd);
            _exit(open("/w/f", O_RDONLY) == fd ? 0 : 1);
        }
        need(waitpid(child, &status, 0) == child && status == 0, way);
    } else if (strcmp(way, "fork") == 0) {
        fd = file();
        pid_t child = fork();
        if (child != 0) {
            need(waitpid(child, &status, 0) == child, way);
            exit(WEXITSTATUS(status));
        }
        need(dup2(0, fd) == fd, way);
    } else if (strcmp(way, "thread") == 0) {
        pthread_t thread;
        fd = dup(0);
        need(pthread_create(&thread, NULL, in_a_table_of_its_own, &fd) == 0, way);
        pthread_join(thread, NULL);
    } else if (strcmp(way, "received") == 0) {
        fd = received();
    } else if (strcmp(way, "made") == 0) {
        fd = file();
        close_unseen(fd);
        need(dup(0) == fd, way);
    } else {
        fd = 0;
    }
    return fd;
}

static void have_a_child(void) {
    pid_t child = vfork();
    if (child == 0)
        _exit(0);
    need(waitpid(child, NULL, 0) == child, "vfork");
}

/* Reads, or makes a command of fcntl whose number stands first, and looks for what is not there, in turns: how often it was found. */
static int looks(const char *from, int rounds) {
    char *path = (char *)from, byte;
    int command = (int)strtol(from, &path, 10), found = 0;
    int fd = *path == '+' ? open(path + 1, O_RDWR) : open(path, O_RDONLY);
    need(fd >= 0, from);
    for (int i = 0; i < rounds; i++) {
        struct flock lock = {.l_type = F_RDLCK};
        need(path == from ? pread(fd, &byte, 1, 0) == 1 : fcntl(fd, command, &lock) >= 0, "what is said to end leases or not");
        found += access("/w/d/missing", F_OK) == 0;
    }
    return found;
}

int main(int count, char **arguments) {
    if (count > 3 && strcmp(arguments[1], "looks") == 0) {
        const char *from = arguments[2];
        if (*from == '!') {
            have_a_child();
            from++;
        }
        printf("found %d\n", looks(from, atoi(arguments[3])));
        return 0;
    }
    const char *way = count > 1 ? arguments[1] : "";
    int rounds = count > 2 ? atoi(arguments[2]) : 0, missed = 0, fd = pipe_by(way);
    char name[64], byte;
    for (int i = 0; i < rounds; i++) {
        snprintf(name, sizeof name, "d/%s-%d/told", way, i);
        for (int again = 0; again < 3; again++)
            if (access(name, F_OK) == 0 || errno != ENOENT)
                return 97;
        if (write(1, "?", 1) != 1)
            return 96;
        struct iovec part = {&byte, 1};
        if ((i % 2 ? read(fd, &byte, 1) : readv(fd, &part, 1)) != 1)
            return 95;
        missed += access(name, F_OK) != 0;
    }
    printf(" missed %d,filter %d\n", missed, filter());
    return 0;
}
