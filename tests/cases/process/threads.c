/* Threads: small stacks, shared directories, forks and executions among them. */
#include "process.h"
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

static void start(pthread_t *thread, void *(*run)(void *), void *argument, size_t stack) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    if (stack)
        pthread_attr_setstacksize(&attributes, stack);
    errno = pthread_create(thread, &attributes, run, argument);
    need(errno == 0, "pthread_create");
}

static void *work(void *argument) {
    long wrong = 0;
    for (long i = 0; i < (long)argument; i++)
        wrong += paths_wrong();
    return (void *)wrong;
}

static long join(pthread_t thread) {
    void *result;
    pthread_join(thread, &result);
    return (long)result;
}

static void many(void) {
    pthread_t threads[8];
    long wrong = 0;
    for (int i = 0; i < 8; i++)
        start(&threads[i], work, (void *)300, 0);
    for (int i = 0; i < 8; i++)
        wrong += join(threads[i]);
    say("wrong %ld\n", wrong);
}

static void small(void) {
    pthread_t thread;
    start(&thread, work, (void *)20, PTHREAD_STACK_MIN);
    say("wrong %ld\n", join(thread));
}

/* Each makes and removes names of its own in one directory. */
static void *change(void *argument) {
    long wrong = 0;
    char name[32], other[32];
    snprintf(name, sizeof name, "/tmp/t%ld", (long)argument);
    snprintf(other, sizeof other, "/w/d/u%ld", (long)argument);
    for (int i = 0; i < 100; i++) {
        wrong += access(name, F_OK) == 0;
        wrong += mkdir(name, 0755) != 0;
        wrong += access(name, F_OK) != 0;
        wrong += rmdir(name) != 0;
        wrong += symlink("x", other) != 0;
        wrong += readlink(other, name + 16, 8) != 1;
        wrong += unlink(other) != 0;
        wrong += access(other, F_OK) == 0 || errno != ENOENT;
    }
    return (void *)wrong;
}

static void changes(void) {
    pthread_t threads[6];
    long wrong = 0;
    for (long i = 0; i < 6; i++)
        start(&threads[i], change, (void *)i, 0);
    for (int i = 0; i < 6; i++)
        wrong += join(threads[i]);
    say("wrong %ld\n", wrong);
}

static int told[2];

static void *make_when_told(void *argument) {
    char byte;
    long wrong = 0;
    for (int i = 0; i < 200; i++) {
        wrong += read(told[0], &byte, 1) != 1;
        wrong += access("told", F_OK) != 0;
        unlink("told");
        wrong += write(*(int *)argument, "x", 1) != 1;
    }
    return (void *)wrong;
}

static void tells(void) {
    int answer[2];
    pthread_t thread;
    long wrong = 0;
    char byte;
    need(pipe(told) == 0 && pipe(answer) == 0, "pipe");
    start(&thread, make_when_told, &answer[1], 0);
    for (int i = 0; i < 200; i++) {
        wrong += access("told", F_OK) == 0;
        close(open("told", O_CREAT | O_WRONLY, 0600));
        wrong += write(told[1], "x", 1) != 1;
        wrong += read(answer[0], &byte, 1) != 1;
        wrong += access("told", F_OK) == 0;
    }
    say("wrong %ld, in the other thread %ld\n", wrong, join(thread));
}

static void *enter(void *argument) {
    return (void *)(long)(chdir(argument) + paths_wrong());
}

static void *leave_alone(void *argument) {
    (void)argument;
    unshare(CLONE_FS);
    long wrong = chdir("/") != 0;
    wrong += access("w/f", F_OK) != 0;
    return (void *)wrong;
}

static void directory(void) {
    char text[100];
    pthread_t thread;
    start(&thread, leave_alone, NULL, 0);
    say("one of its own: wrong %ld", join(thread));
    say(", here %s\n", getcwd(text, sizeof text));
    start(&thread, enter, "/w/d", 0);
    join(thread);
    say("the same: %s, open %s, missing %s\n", getcwd(text, sizeof text), how(open("f", O_RDONLY)), how(open("fifo", O_RDONLY)));
}

static void *fork_often(void *argument) {
    (void)argument;
    long wrong = 0;
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(paths_wrong());
        int status;
        wrong += waitpid(child, &status, 0) != child || status != 0;
    }
    return (void *)wrong;
}

static void forks(void) {
    pthread_t workers[2], forkers[2];
    long wrong = 0;
    for (int i = 0; i < 2; i++) {
        start(&workers[i], work, (void *)500, 0);
        start(&forkers[i], fork_often, NULL, 0);
    }
    for (int i = 0; i < 2; i++)
        wrong += join(workers[i]) + join(forkers[i]);
    say("wrong %ld\n", wrong);
}

static void *execute(void *argument) {
    (void)argument;
    execl("/bin/process", "process", "-what it was given", "from a thread", NULL);
    return NULL;
}

/* Without descriptors, which would be there or not in the program that is executed. */
static void *look_around(void *argument) {
    for (;;)
        access("missing", F_OK);
    return argument;
}

static void execute_in_thread(void) {
    pthread_t thread, other;
    start(&other, look_around, NULL, 0);
    start(&thread, execute, NULL, 0);
    join(thread);
}

static void exec_among(void) { in_child("exec in a thread", execute_in_thread); }

static void *go_on(void *argument) {
    (void)argument;
    /* Until the first thread is gone, which leaves /proc/self without much of what it had. */
    char line[256];
    do {
        usleep(1000);
        FILE *file = fopen("/proc/self/stat", "r");
        need(file && fgets(line, sizeof line, file), "/proc/self/stat");
        fclose(file);
    } while (!strstr(line, ") Z "));
    paths_work("without the first thread");
    char text[100];
    int fd = open("d", O_RDONLY);
    say("openat %s, getcwd %s\n", how(openat(fd, "f", O_RDONLY)), getcwd(text, sizeof text) ? text : how(-1));
    say("chdir %s, openat %s\n", how(chdir("d")), how(openat(fd, "../f", O_RDONLY)));
    say("missing %s\n", how(openat(fd, "../missing", O_RDONLY)));
    exit(7);
}

static void lose_first(void) {
    pthread_t thread;
    start(&thread, go_on, NULL, 0);
    pthread_exit(NULL);
}

static void first_gone(void) { in_child("a process without its first thread", lose_first); }

static volatile int cleaned;
static void clean(void *argument) { cleaned = *(int *)argument; }

static void *wait_for_ever(void *argument) {
    pthread_cleanup_push(clean, argument);
    open("fifo", O_RDONLY);
    pthread_cleanup_pop(0);
    return NULL;
}

static void cancelled(void) {
    pthread_t thread;
    int mark = 5;
    start(&thread, wait_for_ever, &mark, 0);
    usleep(30000);
    pthread_cancel(thread);
    long result = join(thread);
    say("%s, cleaned %d\n", result == (long)PTHREAD_CANCELED ? "cancelled" : "returned", cleaned);
    paths_work("after");
}

static __thread int mine = 3;

static void *own_errno(void *argument) {
    (void)argument;
    open("f/x", O_RDONLY);
    int was = errno;
    mine++;
    sched_yield();
    return (void *)(long)(was == ENOTDIR && mine == 4);
}

static void own(void) {
    pthread_t thread;
    start(&thread, own_errno, NULL, 0);
    open("missing", O_RDONLY);
    long fine = join(thread);
    say("there %s, here %s, mine %d\n", fine ? "right" : "wrong", strerrorname_np(errno), mine);
}

static void *named(void *argument) {
    char path[64], name[32] = "";
    pthread_setname_np(pthread_self(), argument);
    snprintf(path, sizeof path, "/proc/self/task/%d/comm", gettid());
    FILE *file = fopen(path, "r");
    if (file && fgets(name, sizeof name, file))
        say("%s", name);
    return NULL;
}

static void names(void) {
    pthread_t thread;
    char name[17] = "";
    start(&thread, named, "another", 0);
    join(thread);
    prctl(PR_GET_NAME, name);
    say("%s\n", name);
}

const struct named_case thread_cases[] = {
    {"many threads", many},
    {"a thread with the least stack", small},
    {"threads that make names", changes},
    {"threads that tell each other", tells},
    {"threads and the working directory", directory},
    {"threads that fork", forks},
    {"a thread that executes", exec_among},
    {"the first thread ends", first_gone},
    {"a thread is cancelled", cancelled},
    {"errno and variables of a thread", own},
    {"names of threads", names},
    {NULL, NULL},
};
