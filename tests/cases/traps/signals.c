/* SIGSYS is how the runtime is called, and nothing that a guest does to it may keep that from happening. */
#include "traps.h"
#include <poll.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/time.h>
#include <ucontext.h>

static volatile sig_atomic_t caught, wrong;

static void work(int signal) {
    caught += signal > 0;
    wrong += paths_wrong();
}

static void handle(int signal, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigfillset(&action.sa_mask);
    need(sigaction(signal, &action, NULL) == 0);
}

static void blocked_by_masks(void) {
    sigset_t all, sys;
    sigfillset(&all);
    sigemptyset(&sys);
    sigaddset(&sys, SIGSYS);
    sigprocmask(SIG_BLOCK, &sys, NULL);
    say("blocked: wrong %d\n", paths_wrong());
    sigprocmask(SIG_SETMASK, &all, NULL);
    say("all blocked: wrong %d\n", paths_wrong());
    /* The call as it is, with every way to say what is to be done to the mask. */
    for (int how = SIG_BLOCK; how <= SIG_SETMASK; how++)
        syscall(SYS_rt_sigprocmask, how, &all, NULL, 8);
    say("by the call itself: wrong %d\n", paths_wrong());
    pid_t child = fork();
    if (child == 0)
        _exit(paths_wrong());
    int status;
    need(waitpid(child, &status, 0) == child);
    say("in a child: status %d\n", status);
}

static void blocked_in_handlers(void) {
    handle(SIGUSR1, work, 0);
    raise(SIGUSR1);
    handle(SIGUSR1, work, SA_NODEFER | SA_RESTART);
    raise(SIGUSR1);
    struct sigaction kernels;
    need(sigaction(SIGUSR1, NULL, &kernels) == 0);
    say("caught %d, wrong %d\n", caught, wrong);
}

/* Everything blocked while it waits but one signal, whose handler works with paths. */
static void blocked_while_waiting(void) {
    sigset_t all, but_one, one;
    handle(SIGUSR1, work, 0);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    but_one = all;
    sigdelset(&but_one, SIGUSR1);
    struct timespec second = {5, 0};
    struct epoll_event event;
    int epoll = epoll_create1(0);
    raise(SIGUSR1);
    say("sigsuspend: %s\n", how(sigsuspend(&but_one)));
    raise(SIGUSR1);
    say("ppoll: %s\n", how(ppoll(NULL, 0, &second, &but_one)));
    raise(SIGUSR1);
    say("pselect: %s\n", how(pselect(0, NULL, NULL, NULL, &second, &but_one)));
    raise(SIGUSR1);
    say("epoll_pwait: %s\n", how(epoll_pwait(epoll, &event, 1, 5000, &but_one)));
    raise(SIGUSR1);
    say("epoll_pwait2: %s\n", how(syscall(SYS_epoll_pwait2, epoll, &event, 1, &second, &but_one, 8)));
    say("caught %d, wrong %d, after: wrong %d\n", caught, wrong, paths_wrong());
    say("with a bad pointer: %s\n", how(syscall(SYS_ppoll, NULL, 0, &second, (void *)8, 8)));
    say("with a bad size: %s\n", how(syscall(SYS_ppoll, NULL, 0, &second, &all, 4)));
    say("sigsuspend with a bad size: %s\n", how(syscall(SYS_rt_sigsuspend, &all, 4)));
}

/* The mask that a handler leaves to what it interrupted. */
static void edit_mask(int signal, siginfo_t *info, void *context) {
    ucontext_t *interrupted = context;
    (void)signal, (void)info;
    sigfillset(&interrupted->uc_sigmask);
    caught++;
}

static void blocked_by_a_context(void) {
    struct sigaction action = {.sa_sigaction = edit_mask, .sa_flags = SA_SIGINFO};
    need(sigaction(SIGUSR1, &action, NULL) == 0);
    raise(SIGUSR1);
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    say("caught %d, SIGUSR2 blocked %d, wrong %d\n", caught, sigismember(&now, SIGUSR2), paths_wrong());
}

static void switched(void) {
    static ucontext_t here, there;
    static volatile int turn;
    need(getcontext(&here) == 0);
    if (turn++ == 0) {
        there = here;
        sigfillset(&there.uc_sigmask);
        setcontext(&there);
    }
    say("turn %d, wrong %d\n", turn, paths_wrong());
}

/* Blocks everything and goes on as the program that is given. */
static void block_and_execute(void) {
    sigset_t all;
    sigfillset(&all);
    need(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, 8) == 0);
    execv(given[0], given);
    needed("execv");
}

static void say_mask(void) {
    sigset_t now;
    need(sigprocmask(SIG_BLOCK, NULL, &now) == 0);
    say("SIGUSR1 blocked %d, wrong %d\n", sigismember(&now, SIGUSR1), paths_wrong());
}

/* What a guest says of SIGSYS is remembered and shown, and not done. */
static siginfo_t last;
static void note(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    last = *info;
    caught++;
}

static void own_action(void) {
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART}, old;
    sigaddset(&action.sa_mask, SIGUSR2);
    need(sigaction(SIGSYS, &action, NULL) == 0);
    say("wrong %d, caught %d\n", paths_wrong(), caught);
    need(sigaction(SIGSYS, NULL, &old) == 0);
    say("remembered %d, flags %d, mask %d\n", old.sa_sigaction == note, (old.sa_flags & (SA_SIGINFO | SA_RESTART)) == (SA_SIGINFO | SA_RESTART),
        sigismember(&old.sa_mask, SIGUSR2));
    raise(SIGSYS);
    say("raised: caught %d, signal %d, code %d\n", caught, last.si_signo, last.si_code);
    signal(SIGSYS, SIG_IGN);
    raise(SIGSYS);
    say("ignored: wrong %d, caught %d\n", paths_wrong(), caught);
    signal(SIGSYS, SIG_DFL);
    say("default: wrong %d\n", paths_wrong());
    raise(SIGSYS);
    say("survived\n");
}

static sigjmp_buf back;
static void jump(int signal) { siglongjmp(back, signal); }

/* Out of an open that waits, a thousand times. */
static void jump_out(void) {
    handle(SIGALRM, jump, 0);
    volatile int jumps = 0, faults = 0;
    for (volatile int i = 0; i < 1000; i++) {
        struct itimerval soon = {.it_value = {0, 300}};
        if (sigsetjmp(back, 1) == 0) {
            setitimer(ITIMER_REAL, &soon, NULL);
            int fd = open("fifo", O_RDONLY);
            /* The signal was faster than the call. */
            while (1)
                faults += fd >= 0;
        }
        jumps++;
    }
    /* The last jump may leave every working area taken. Calls deeper in the stack cannot tell that those calls were left; this one can. */
    access("missing", F_OK);
    say("jumped %d times, opened %d, wrong %d\n", jumps, faults, paths_wrong());
}

static volatile sig_atomic_t depth;
static void deeper(int signal) {
    wrong += paths_wrong();
    if (++depth < 50)
        raise(signal);
    wrong += paths_wrong();
}

static void nested(void) {
    struct sigaction action = {.sa_handler = deeper, .sa_flags = SA_NODEFER};
    need(sigaction(SIGUSR1, &action, NULL) == 0);
    raise(SIGUSR1);
    say("depth %d, wrong %d\n", depth, wrong);
}

/* A call waits below each handler, and all of them keep what a call needs: more at a time than the runtime has ready. */
static void interrupted(int signal) {
    (void)signal;
    if (depth >= 40)
        return;
    depth++;
    wrong += paths_wrong();
    wrong += open("fifo", O_RDONLY) >= 0;
    wrong += paths_wrong();
}

static void nested_in_waits(void) {
    struct sigaction action = {.sa_handler = interrupted, .sa_flags = SA_NODEFER};
    struct itimerval often = {{0, 3000}, {0, 3000}};
    need(sigaction(SIGALRM, &action, NULL) == 0);
    setitimer(ITIMER_REAL, &often, NULL);
    while (depth < 40)
        pause();
    say("depth %d, wrong %d\n", depth, wrong);
}

const struct trap signal_traps[] = {
    {"blocked by masks", blocked_by_masks},
    {"blocked in handlers", blocked_in_handlers},
    {"blocked while waiting", blocked_while_waiting},
    {"blocked by a context", blocked_by_a_context},
    {"blocked by setcontext", switched},
    {"block and execute", block_and_execute},
    {"say mask", say_mask},
    {"own action", own_action},
    {"jump out", jump_out},
    {"nested", nested},
    {"nested in waits", nested_in_waits},
    {NULL, NULL},
};
