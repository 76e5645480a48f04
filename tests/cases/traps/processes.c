/* Children that share memory, children that do not, and programs that execute others. */
#include "traps.h"
#include <linux/sched.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>

extern char **environ;

static void silent(void) {}

static void paths(void) { say("wrong %d\n", paths_wrong()); }

static char self[64];

static void find_self(void) {
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    need(len > 0);
}

static int spawn_one(const char *path) {
    static char *const line[] = {"traps", "silent", NULL};
    pid_t child;
    int error = posix_spawn(&child, path, NULL, NULL, line, environ);
    if (error)
        return error;
    int status;
    return waitpid(child, &status, 0) != child || status != 0 ? -1 : 0;
}

/* As often as the second word says: programs that are there, and programs that are not. */
static void spawn_often(void) {
    need(given_count == 2);
    int there = atoi(given[0]), missing = atoi(given[1]), odd = 0;
    find_self();
    for (int i = 0; i < there; i++)
        odd += spawn_one(self) != 0;
    for (int i = 0; i < missing; i++)
        odd += spawn_one(i & 1 ? "/missing" : "f/x") == 0;
    say("odd %d, wrong %d\n", odd, paths_wrong());
}

/* Children that share memory, one of which is killed while a call of its waits. */
static void killed_children(void) {
    int odd = 0;
    for (int i = 0; i < 100; i++) {
        int ends[2];
        need(pipe(ends) == 0);
        pid_t child = fork();
        if (child == 0) {
            /* The vfork: its parent waits, and somebody has to kill it. */
            pid_t inner = vfork();
            if (inner == 0) {
                pid_t own = getpid();
                if (write(ends[1], &own, sizeof own) == sizeof own)
                    open("fifo", O_RDONLY);
                _exit(1);
            }
            int status;
            waitpid(inner, &status, 0);
            _exit(!WIFSIGNALED(status) || paths_wrong());
        }
        pid_t inner;
        need(read(ends[0], &inner, sizeof inner) == sizeof inner);
        usleep(200);
        kill(inner, SIGKILL);
        int status;
        odd += waitpid(child, &status, 0) != child || status != 0;
        close(ends[0]);
        close(ends[1]);
    }
    say("odd %d, wrong %d\n", odd, paths_wrong());
}

static volatile int caught;
static void count(int signal) { caught += signal > 0; }

/* What a child of vfork says of signals and directories is its own affair. */
static void vfork_leaves_alone(void) {
    char text[4096];
    struct sigaction old;
    /* In a child of fork as well, which starts anew with what the runtime keeps. */
    for (int round = 0; round < 2; round++) {
        if (round == 1 && fork() != 0) {
            int status;
            need(wait(&status) > 0);
            say("in a child: status %d\n", status);
            return;
        }
        pid_t child = vfork();
        if (child == 0) {
            signal(SIGSEGV, SIG_IGN);
            signal(SIGSYS, SIG_IGN);
            int wrong = chdir("d") + close(0) + paths_wrong();
            _exit(wrong == 0);
        }
        int status;
        need(waitpid(child, &status, 0) == child);
        need(sigaction(SIGSEGV, NULL, &old) == 0);
        say("action %s", old.sa_handler == SIG_DFL ? "default" : "changed");
        signal(SIGSEGV, count);
        need(sigaction(SIGSEGV, NULL, &old) == 0);
        say(", then %s", old.sa_handler == count ? "ours" : "another");
        raise(SIGSEGV);
        signal(SIGSEGV, SIG_DFL);
        need(getcwd(text, sizeof text) != NULL);
        const char *last = strrchr(text, '/');
        say(", caught %d, in %s, input %s, wrong %d\n", caught, last, how(fcntl(0, F_GETFD)), paths_wrong());
    }
}

/* A fork in a handler that interrupted a call: the child goes on in that call, after others. */
static int forked_in_handler = -1;
static void fork_in_handler(int signal) {
    if (signal == SIGALRM && forked_in_handler < 0) {
        forked_in_handler = fork();
        paths_wrong();
        if (forked_in_handler != 0)
            usleep(100000);
    }
}

static void fork_within_call(void) {
    struct sigaction action = {.sa_handler = fork_in_handler, .sa_flags = SA_RESTART};
    need(sigaction(SIGALRM, &action, NULL) == 0);
    need(mkfifo("other-fifo", 0600) == 0);
    ualarm(20000, 0);
    pid_t first = getpid(), writer = fork();
    if (writer == 0) {
        /* Only who opens the right one of the two gets through: once for the parent, once for its child. */
        usleep(60000);
        for (int i = 0; i < 2; i++) {
            int fd = open("other-fifo", O_WRONLY);
            usleep(50000);
            close(fd);
        }
        _exit(0);
    }
    int fd = open("other-fifo", O_RDONLY);
    struct stat opened, named;
    need(fd >= 0 && fstat(fd, &opened) == 0 && stat("other-fifo", &named) == 0);
    int wrong = opened.st_ino != named.st_ino || paths_wrong();
    if (getpid() != first)
        _exit(wrong);
    int status;
    need(waitpid(forked_in_handler, &status, 0) == forked_in_handler);
    need(waitpid(writer, NULL, 0) == writer && unlink("other-fifo") == 0);
    say("in the child: status %d, wrong %d\n", status, wrong);
}

static int filters(void) {
    char line[256];
    int found = -1;
    FILE *status = fopen("/proc/self/status", "r");
    need(status != NULL);
    while (fgets(line, sizeof line, status))
        sscanf(line, "Seccomp_filters: %d", &found);
    fclose(status);
    return found;
}

/* Executes itself as often as is said, and says how many filters there are at each step. */
static void execute_again(void) {
    int left = atoi(given[0]);
    say("%d ", filters());
    if (left == 0) {
        say("wrong %d\n", paths_wrong());
        return;
    }
    char number[16];
    snprintf(number, sizeof number, "%d", left - 1);
    find_self();
    execl(self, "traps", "execute again", number, NULL);
    needed("execl");
}

static void *wait_in_open(void *argument) {
    int fd = open("fifo", O_RDONLY);
    long wrong = fd < 0;
    close(fd);
    return (void *)(wrong + (argument != NULL));
}

/* More calls at a time than the runtime has areas for. */
static void many_waiting(void) {
    enum { COUNT = 100 };
    pthread_t threads[COUNT];
    long wrong = 0;
    for (int i = 0; i < COUNT; i++)
        need(pthread_create(&threads[i], NULL, wait_in_open, NULL) == 0);
    usleep(300000);
    for (int i = 0; i < 20; i++)
        wrong += paths_wrong();
    say("while they wait: wrong %ld\n", wrong);
    pid_t child = fork();
    if (child == 0)
        _exit(paths_wrong());
    int status;
    need(waitpid(child, &status, 0) == child);
    int fd = open("fifo", O_WRONLY);
    for (int i = 0; i < COUNT; i++) {
        void *result;
        pthread_join(threads[i], &result);
        wrong += (long)result;
    }
    close(fd);
    say("in a child: status %d, then: wrong %ld, %d\n", status, wrong, paths_wrong());
}

/* Threads that end by a signal in the middle of calls leave nothing behind: the process is executed anew. */
static void *work_for_ever(void *argument) {
    while (1)
        paths_wrong();
    return argument;
}

static void executed_among_threads(void) {
    pthread_t thread;
    for (int i = 0; i < 4; i++)
        need(pthread_create(&thread, NULL, work_for_ever, NULL) == 0);
    find_self();
    usleep(5000);
    execl(self, "traps", "paths", NULL);
    needed("execl");
}

static void say_rights(void) {
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    need(status != NULL);
    while (fgets(line, sizeof line, status))
        if (strncmp(line, "NoNewPrivs:", 11) == 0)
            say("%s", line);
    say("the caller's user: %d\n", geteuid() == getuid());
}

/* A directory that becomes a symlink leads elsewhere at once. */
static void becomes_symlink(void) {
    int odd = 0;
    need(mkdir("here", 0700) == 0 && mkdir("there", 0700) == 0 && mkdir("here/x", 0700) == 0);
    close(open("here/x/mine", O_CREAT | O_WRONLY, 0600));
    for (int i = 0; i < 20; i++) {
        odd += access("here/x/mine", F_OK) != 0 || access("here/x/other", F_OK) == 0;
        need(rename("here", "away") == 0 && symlink("there", "here") == 0);
        odd += access("here/x/mine", F_OK) == 0 || errno != ENOENT;
        need(mkdir("there/x", 0700) == 0);
        close(open("there/x/other", O_CREAT | O_WRONLY, 0600));
        odd += access("here/x/other", F_OK) != 0 || access("here/x/mine", F_OK) == 0;
        need(unlink("here/x/other") == 0 && rmdir("here/x") == 0);
        need(unlink("here") == 0 && rename("away", "here") == 0);
    }
    need(unlink("here/x/mine") == 0 && rmdir("here/x") == 0 && rmdir("here") == 0 && rmdir("there") == 0);
    say("odd %d\n", odd);
}

/* clone3 by code of its own: the child begins on its stack, if it is given one, with `begin`, and ends with what that returns. */
static long clone3_raw(struct clone_args *arguments, int (*begin)(void)) {
    long result = SYS_clone3;
    __asm__ volatile("syscall\n test %%rax, %%rax\n jnz 1f\n and $-16, %%rsp\n call *%[begin]\n mov %%eax, %%edi\n mov %[end], %%eax\n syscall\n 1:"
                     : "+a"(result)
                     : "D"(arguments), "S"(sizeof *arguments), [begin] "r"(begin), [end] "i"(SYS_exit_group)
                     : "rcx", "r11", "memory", "cc");
    return result;
}

static int begins(void) { return paths_wrong() ? 1 : 4; }

static int begins_another_program(void) {
    static char *const line[] = {"traps", "paths", NULL};
    execve(self, line, environ);
    return 2;
}

/* As C libraries start programs: without the handlers, if the kernel can do that, else without that. */
static void cleared_handlers(void) {
    enum { STACK = 65536 };
    static char stack[STACK] __attribute__((aligned(16)));
    const unsigned long all_clear = 0x100000000, ways[] = {0, CLONE_VM | CLONE_VFORK};
    int (*const begin[])(void) = {begins, begins_another_program};
    find_self();
    for (int way = 0; way < 2; way++)
        for (int what = 0; what < 2; what++) {
            struct clone_args arguments = {.flags = ways[way] | all_clear, .exit_signal = SIGCHLD};
            if (way) {
                arguments.stack = (unsigned long)stack;
                arguments.stack_size = STACK;
            }
            long child = clone3_raw(&arguments, begin[what]);
            if (child == -EINVAL || child == -ENOSYS) {
                arguments.flags &= ~all_clear;
                child = clone3_raw(&arguments, begin[what]);
            }
            need(child > 0);
            int status = -1;
            need(waitpid(child, &status, 0) == child);
            say("status %#x\n", status);
        }
    /* The kernel's own errors. */
    struct clone_args odd = {.flags = CLONE_THREAD};
    say("odd flags: %ld, not there: %ld\n", clone3_raw(&odd, begins), clone3_raw((void *)8, begins));
}

const struct trap process_traps[] = {
    {"cleared handlers", cleared_handlers},
    {"silent", silent},
    {"paths", paths},
    {"spawn often", spawn_often},
    {"killed children", killed_children},
    {"vfork leaves alone", vfork_leaves_alone},
    {"fork within call", fork_within_call},
    {"execute again", execute_again},
    {"many waiting", many_waiting},
    {"executed among threads", executed_among_threads},
    {"say rights", say_rights},
    {"becomes symlink", becomes_symlink},
    {NULL, NULL},
};
