/* Making processes: vfork, posix_spawn, clone3, ptrace. */
#include "process.h"
#include <linux/sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/time.h>

extern char **environ;
static char *const given[] = {"process", "-what it was given", "by a spawn", NULL};

static void wait_for(const char *what, pid_t child) {
    int status;
    need(waitpid(child, &status, 0) == child, "waitpid");
    say_end(what, status);
}

static void with_vfork(void) {
    pid_t child = vfork();
    if (child == 0) {
        execv("/bin/process", given);
        _exit(98);
    }
    wait_for("vfork and exec", child);
    volatile int error = 0;
    child = vfork();
    if (child == 0) {
        execv("/bin/missing", given);
        error = errno;
        _exit(127);
    }
    wait_for("vfork and a failing exec", child);
    say("the child's error: %s\n", strerrorname_np(error));
    volatile int wrong = 0;
    child = vfork();
    if (child == 0) {
        wrong = paths_wrong();
        wrong += chdir("/w/d") != 0;
        wrong += access("f", F_OK) != 0 || access("fifo", F_OK) == 0;
        _exit(3);
    }
    wait_for("vfork and paths", child);
    say("wrong %d\n", wrong);
    paths_work("the parent");
    for (volatile int i = 0; i < 50; i++) {
        child = vfork();
        if (child == 0) {
            execv(i & 1 ? "/bin/missing" : "/missing/process", given);
            _exit(1);
        }
        waitpid(child, NULL, 0);
    }
    paths_work("after many");
}

static void spawn(const char *what, const char *path, posix_spawn_file_actions_t *actions, posix_spawnattr_t *attributes) {
    pid_t child;
    int error = posix_spawn(&child, path, actions, attributes, given, environ);
    if (error)
        say("%s: %s\n", what, strerrorname_np(error));
    else
        wait_for(what, child);
}

static void spawned(void) {
    spawn("posix_spawn", "/bin/process", NULL, NULL);
    spawn("of a missing program", "/bin/missing", NULL, NULL);
    spawn("of a file", "/w/f", NULL, NULL);
    spawn("of a script", "script", NULL, NULL);
    pid_t child;
    setenv("PATH", "/missing:/w:/bin", 1);
    int error = posix_spawnp(&child, "process", NULL, NULL, given, environ);
    if (!error)
        wait_for("by PATH", child);
    say("by PATH: %s\n", error ? strerrorname_np(error) : "ok");
    error = posix_spawnp(&child, "nowhere", NULL, NULL, given, environ);
    say("by PATH, missing: %s\n", error ? strerrorname_np(error) : "ok");
}

static void spawned_with_actions(void) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 7, "f", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 8, "/tmp/made", O_WRONLY | O_CREAT, 0640);
    posix_spawn_file_actions_adddup2(&actions, 7, 9);
    posix_spawn_file_actions_addclose(&actions, 7);
    posix_spawn_file_actions_addchdir_np(&actions, "d");
    posix_spawn_file_actions_addopen(&actions, 10, "f", O_RDONLY, 0);
    spawn("with file actions", "/bin/process", &actions, NULL);
    struct stat made;
    say("made: %s\n", how(stat("/tmp/made", &made)));
    posix_spawn_file_actions_addopen(&actions, 11, "missing", O_RDONLY, 0);
    spawn("with an action that fails", "/bin/process", &actions, NULL);
    paths_work("the parent");
}

static void spawned_with_signals(void) {
    posix_spawnattr_t attributes;
    sigset_t set;
    signal(SIGUSR1, SIG_IGN);
    signal(SIGSYS, SIG_IGN);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGSYS);
    posix_spawnattr_setsigdefault(&attributes, &set);
    sigaddset(&set, SIGUSR2);
    posix_spawnattr_setsigmask(&attributes, &set);
    static char *const line[] = {"process", "-signals given", NULL};
    pid_t child;
    need(posix_spawn(&child, "/bin/process", NULL, &attributes, line, environ) == 0, "posix_spawn");
    wait_for("with signals", child);
    sigfillset(&set);
    posix_spawnattr_setsigdefault(&attributes, &set);
    posix_spawnattr_setsigmask(&attributes, &set);
    need(posix_spawn(&child, "/bin/process", NULL, &attributes, line, environ) == 0, "posix_spawn");
    wait_for("with all signals", child);
}

static void cloned(void) {
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    long child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0)
        _exit(paths_wrong() + 4);
    need(child > 0, "clone3");
    wait_for("clone3", child);
    int pidfd = -1;
    arguments = (struct clone_args){.flags = CLONE_PIDFD, .pidfd = (unsigned long)&pidfd, .exit_signal = SIGCHLD};
    child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0) {
        execv("/bin/process", given);
        _exit(98);
    }
    need(child > 0 && pidfd >= 0, "clone3");
    wait_for("clone3 and exec", child);
    child = syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        int wrong = chdir("/w/d");
        _exit(wrong);
    }
    wait_for("a child that shares the directory", child);
    char text[100];
    say("here: %s, open %s\n", getcwd(text, sizeof text), how(open("f", O_RDONLY)));
    child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        syscall(SYS_close_range, 3, ~0U, 0);
        _exit(0);
    }
    wait_for("a child that shares the descriptors and closes them", child);
    paths_work("after it");
}

/* A tracer passes on what it does not know: a signal of the runtime is none of its business. */
static void trace(pid_t child) {
    int status, first = 0, traps = 0;
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        int signal = WSTOPSIG(status);
        if (!first && signal == SIGTRAP)
            first = signal;
        traps += signal == SIGTRAP;
        ptrace(PTRACE_CONT, child, NULL, (void *)(long)(signal == SIGTRAP ? 0 : signal));
    }
    say("stopped by %d\n", first);
    say("times %d\n", traps);
    say_end("traced", status);
}

static void traced(void) {
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        execv("/bin/process", given);
        _exit(98);
    }
    trace(child);
}

/* Its tracer cannot let it go on before it has executed something. */
static void traced_after_vfork(void) {
    for (volatile int i = 0; i < 2; i++) {
        pid_t child = vfork();
        if (child == 0) {
            ptrace(PTRACE_TRACEME, 0, NULL, NULL);
            paths_wrong();
            execv("/bin/process", given);
            _exit(98);
        }
        trace(child);
        child = vfork();
        if (child == 0)
            _exit(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 ? 5 : 6);
        wait_for("traced and ended", child);
    }
    pid_t child = vfork();
    if (child == 0) {
        execv("/bin/process", given);
        _exit(98);
    }
    wait_for("not traced", child);
}

static void limited(void) {
    struct rlimit limit = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_STACK, &limit);
    umask(027);
    prctl(PR_SET_NAME, "before");
    nice(3);
    execl("/bin/process", "process", "-what it was given", "limits", NULL);
}

static void kept(void) { in_child("exec with limits", limited); }

static void timer_over_exec(void) {
    struct itimerval soon = {.it_value = {0, 50000}};
    setitimer(ITIMER_REAL, &soon, NULL);
    execl("/bin/process", "process", "-waits for ever", NULL);
}

static void wait_for_ever(void) {
    for (;;)
        pause();
}

static void timers(void) { in_child("exec with a timer", timer_over_exec); }

static void execute_in_handler(int signal) {
    (void)signal;
    execv("/bin/process", given);
}

static void handler_executes(void) {
    struct sigaction action = {.sa_handler = execute_in_handler};
    sigfillset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
}

static void handler(void) {
    in_child("exec in a handler", handler_executes);
}

static void chain_of(void) {
    static char *const line[] = {"process", "-executes itself", "20", NULL};
    execv("/bin/process", line);
}

static void executes_itself(void) {
    char text[4096];
    FILE *file = fopen("/proc/self/cmdline", "r");
    need(file != NULL, "/proc/self/cmdline");
    size_t used = fread(text, 1, sizeof text - 1, file);
    text[used] = 0;
    fclose(file);
    const char *last = text;
    for (size_t i = 0; i + 1 < used; i++)
        if (!text[i])
            last = text + i + 1;
    int left = atoi(last);
    if (left == 0) {
        paths_work("at the end");
        return;
    }
    char number[16];
    snprintf(number, sizeof number, "%d", left - 1);
    execl("/bin/process", "process", "-executes itself", number, NULL);
    say("exec: %s\n", how(-1));
}

static void many_times(void) { in_child("exec twenty times", chain_of); }

const struct named_case spawn_cases[] = {
    {"vfork", with_vfork},
    {"posix_spawn", spawned},
    {"posix_spawn with file actions", spawned_with_actions},
    {"posix_spawn with signals", spawned_with_signals},
    {"clone3", cloned},
    {"a child that is traced", traced},
    {"a child of vfork that is traced", traced_after_vfork},
    {"limits over exec", kept},
    {"timers over exec", timers},
    {"exec in a handler", handler},
    {"exec many times", many_times},
    {"-executes itself", executes_itself},
    {"-waits for ever", wait_for_ever},
    {NULL, NULL},
};
