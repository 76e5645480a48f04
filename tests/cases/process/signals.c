/* Signals that a guest blocks, handles and waits for, SIGSYS above all, which belongs to the runtime. */
#include "process.h"
#include <poll.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/time.h>

static volatile sig_atomic_t caught, wrong;
static siginfo_t last;

static void count(int signal) { caught += signal > 0; }

static void note(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    last = *info;
    caught++;
}

static void work(int signal) {
    (void)signal;
    wrong += paths_wrong();
    caught++;
}

static void handle(int signal, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    need(sigaction(signal, &action, NULL) == 0, "sigaction");
}

static void handle_info(int signal, int flags) {
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | flags};
    need(sigaction(signal, &action, NULL) == 0, "sigaction");
}

static sigset_t only(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    return set;
}

static int is_blocked(int signal) {
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    return sigismember(&now, signal);
}

static void blocked(void) {
    sigset_t set = only(SIGSYS);
    sigprocmask(SIG_BLOCK, &set, NULL);
    paths_work("blocked");
    say("it is %sblocked\n", is_blocked(SIGSYS) ? "" : "not ");
    sigfillset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    paths_work("all blocked");
    say("it is %sblocked\n", is_blocked(SIGSYS) ? "" : "not ");
    sigemptyset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    paths_work("none blocked");
    say("it is %sblocked\n", is_blocked(SIGSYS) ? "" : "not ");
}

static void raise_sigsys(void) { raise(SIGSYS); }
static void kill_sigsys(void) { kill(getpid(), SIGSYS); }
static void ignore_sigsys(void) {
    signal(SIGSYS, SIG_IGN);
    raise(SIGSYS);
    paths_work("ignored");
}

static void raised(void) {
    in_child("raise", raise_sigsys);
    in_child("kill", kill_sigsys);
    in_child("ignored", ignore_sigsys);
}

static void pending(void) {
    sigset_t set = only(SIGSYS), waiting;
    handle(SIGSYS, count, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGSYS);
    sigpending(&waiting);
    say("blocked: caught %d, pending %d\n", caught, sigismember(&waiting, SIGSYS));
    paths_work("pending");
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    say("then: caught %d\n", caught);
}

static void remembered(void) {
    struct sigaction old;
    sigaction(SIGSYS, NULL, &old);
    say("at first %s\n", old.sa_handler == SIG_DFL ? "default" : "something");
    handle_info(SIGSYS, SA_RESTART);
    sigaction(SIGSYS, NULL, &old);
    say("then %s, flags %#x\n", old.sa_sigaction == note ? "ours" : "something", old.sa_flags & ~0x04000000);
    paths_work("handled");
    say("caught %d\n", caught);
    raise(SIGSYS);
    say("raised: caught %d, signal %d, code %d\n", caught, last.si_signo, last.si_code);
    kill(getpid(), SIGSYS);
    say("killed: caught %d, code %d, from %s\n", caught, last.si_code, last.si_pid == getpid() ? "us" : "others");
    sigqueue(getpid(), SIGSYS, (union sigval){.sival_int = 42});
    say("queued: caught %d, code %d, value %d\n", caught, last.si_code, last.si_value.sival_int);
    signal(SIGSYS, SIG_DFL);
    sigaction(SIGSYS, NULL, &old);
    say("in the end %s\n", old.sa_handler == SIG_DFL ? "default" : "something");
    paths_work("default");
}

static void twice(void) {
    handle(SIGSYS, count, SA_RESETHAND);
    raise(SIGSYS);
    say("caught %d\n", caught);
    paths_work("between");
    raise(SIGSYS);
    say("survived\n");
}

static void once(void) { in_child("reset handler", twice); }

static void bad_number(void) {
    struct sigaction action = {.sa_handler = count};
    say("0: %s\n", how(syscall(SYS_rt_sigaction, 0, &action, NULL, 8)));
    say("65: %s\n", how(syscall(SYS_rt_sigaction, 65, &action, NULL, 8)));
    say("kill: %s\n", how(syscall(SYS_rt_sigaction, SIGKILL, &action, NULL, 8)));
    say("size: %s\n", how(syscall(SYS_rt_sigaction, SIGSYS, NULL, NULL, 4)));
    say("bad pointer: %s\n", how(syscall(SYS_rt_sigaction, SIGSYS, 0x1000, NULL, 8)));
    say("bad old pointer: %s\n", how(syscall(SYS_rt_sigaction, SIGSYS, NULL, 0x1000, 8)));
    say("bad pointer, segv: %s\n", how(syscall(SYS_rt_sigaction, SIGSEGV, 0x1000, NULL, 8)));
    say("mask size: %s\n", how(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, NULL, 4)));
    say("mask how: %s\n", how(syscall(SYS_rt_sigprocmask, 77, &action, NULL, 8)));
    say("mask pointer: %s\n", how(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 0x1000, NULL, 8)));
    say("mask old pointer: %s\n", how(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, 0x1000, 8)));
}

static void in_handler(void) {
    struct sigaction action = {.sa_handler = work};
    handle(SIGUSR1, work, 0);
    raise(SIGUSR1);
    sigfillset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    say("caught %d, wrong %d\n", caught, wrong);
    sigaction(SIGUSR1, NULL, &action);
    say("its mask has SIGSYS: %d\n", sigismember(&action.sa_mask, SIGSYS));
}

/* sigsuspend, ppoll, pselect and epoll_pwait with everything blocked but the one signal that is pending. */
static void waits(void) {
    sigset_t all, but_one, set = only(SIGUSR1);
    handle(SIGUSR1, work, 0);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigfillset(&all);
    but_one = all;
    sigdelset(&but_one, SIGUSR1);
    struct timespec second = {1, 0};
    raise(SIGUSR1);
    int result = sigsuspend(&but_one);
    say("sigsuspend %s, caught %d\n", how(result), caught);
    raise(SIGUSR1);
    result = ppoll(NULL, 0, &second, &but_one);
    say("ppoll %s, caught %d\n", how(result), caught);
    raise(SIGUSR1);
    result = pselect(0, NULL, NULL, NULL, &second, &but_one);
    say("pselect %s, caught %d\n", how(result), caught);
    int epoll = epoll_create1(0);
    struct epoll_event event;
    raise(SIGUSR1);
    result = epoll_pwait(epoll, &event, 1, 1000, &but_one);
    say("epoll_pwait %s, caught %d\n", how(result), caught);
    raise(SIGUSR1);
    result = syscall(SYS_epoll_pwait2, epoll, &event, 1, &second, &but_one, 8);
    say("epoll_pwait2 %s, caught %d\n", how(result), caught);
    say("wrong %d, still blocked %d, SIGSYS blocked %d\n", wrong, is_blocked(SIGUSR1), is_blocked(SIGSYS));
    siginfo_t info;
    raise(SIGUSR1);
    say("sigtimedwait %d\n", sigtimedwait(&set, &info, &second));
    paths_work("after");
}

static void change_mask(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    ucontext_t *interrupted = context;
    sigaddset(&interrupted->uc_sigmask, SIGUSR2);
    sigaddset(&interrupted->uc_sigmask, SIGSYS);
    caught++;
}

static void context_mask(void) {
    struct sigaction action = {.sa_sigaction = change_mask, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    say("SIGUSR2 blocked %d, SIGSYS blocked %d\n", is_blocked(SIGUSR2), is_blocked(SIGSYS));
    paths_work("after");
}

static sigjmp_buf back;
static void jump(int signal) { siglongjmp(back, signal); }

static void interrupted_open(void) {
    /* Again and again, as the first may come before the call has begun. */
    struct itimerval often = {{0, 20000}, {0, 20000}};
    handle(SIGALRM, count, 0);
    setitimer(ITIMER_REAL, &often, NULL);
    int result = open("fifo", O_RDONLY);
    int error = errno;
    memset(&often, 0, sizeof often);
    setitimer(ITIMER_REAL, &often, NULL);
    errno = error;
    say("open of a fifo: %s, caught %d\n", how(result), caught > 0);
    paths_work("after");
}

/* Out of a call that waits, many times: whatever the runtime takes for a call must come back. */
static void jumps_out(void) {
    handle(SIGALRM, jump, 0);
    int jumps = 0;
    for (int i = 0; i < 200; i++) {
        struct itimerval soon = {.it_value = {0, 500}};
        if (sigsetjmp(back, 1) == 0) {
            setitimer(ITIMER_REAL, &soon, NULL);
            open("fifo", O_RDONLY);
        } else
            jumps++;
    }
    say("jumped %d times\n", jumps);
    paths_work("after");
}

static volatile sig_atomic_t depth;

static void deeper(int signal) {
    wrong += paths_wrong();
    if (++depth < 30) {
        raise(signal);
        wrong += paths_wrong();
    }
}

static void nested(void) {
    handle(SIGUSR1, deeper, SA_NODEFER);
    raise(SIGUSR1);
    say("depth %d, wrong %d\n", depth, wrong);
    paths_work("after");
}

static void storm(void) {
    struct itimerval often = {{0, 300}, {0, 300}};
    handle(SIGALRM, work, SA_RESTART);
    setitimer(ITIMER_REAL, &often, NULL);
    int mine = 0;
    for (int i = 0; i < 3000 || caught < 20; i++)
        mine += paths_wrong();
    memset(&often, 0, sizeof often);
    setitimer(ITIMER_REAL, &often, NULL);
    say("wrong %d, in the handler %d\n", mine, wrong);
}

/* The least stack a handler may have, by what the kernel needs for a frame, and some room for the handler's own. */
static void on_stack(size_t size) {
    stack_t stack = {.ss_sp = malloc(size), .ss_size = size};
    need(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    handle(SIGUSR1, work, SA_ONSTACK);
    raise(SIGUSR1);
    stack_t now;
    sigaltstack(NULL, &now);
    say("caught %d, wrong %d, stack %s\n", caught, wrong, now.ss_sp == stack.ss_sp ? "as it was" : "changed");
}

static void small_stack(void) { on_stack(sysconf(_SC_SIGSTKSZ) > 8192 ? sysconf(_SC_SIGSTKSZ) : 8192); }
static void tiny_stack(void) { on_stack(sysconf(_SC_MINSIGSTKSZ) + 2048); }

static void over_exec(void) {
    sigset_t set = only(SIGSYS);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGUSR2, SIG_IGN);
    handle(SIGALRM, count, 0);
    execl("/bin/process", "process", "-signals given", NULL);
}

static void ignored_over_exec(void) {
    signal(SIGSYS, SIG_IGN);
    signal(SIGSEGV, SIG_IGN);
    handle(SIGBUS, count, 0);
    execl("/bin/process", "process", "-signals given", NULL);
}

static void given(void) {
    static const int signals[] = {SIGSYS, SIGSEGV, SIGBUS, SIGUSR1, SIGUSR2, SIGALRM};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct sigaction action;
        sigaction(signals[i], NULL, &action);
        say("%d: %s%s\n", signals[i], action.sa_handler == SIG_IGN ? "ignored" : action.sa_handler == SIG_DFL ? "default" : "something",
            is_blocked(signals[i]) ? ", blocked" : "");
    }
    paths_work("given");
}

static void kept(void) {
    in_child("exec with blocked signals", over_exec);
    in_child("exec with ignored signals", ignored_over_exec);
    given();
}

static void child_handler(int signal) {
    (void)signal;
    /* Whom it interrupts may be about to look at its own. */
    int status, before = errno;
    while (waitpid(-1, &status, WNOHANG) > 0)
        caught++;
    errno = before;
    wrong += paths_wrong();
}

static void children(void) {
    handle(SIGCHLD, child_handler, SA_RESTART);
    for (int i = 0; i < 8; i++)
        if (fork() == 0)
            _exit(paths_wrong());
    while (caught < 8)
        wrong += paths_wrong();
    say("ended %d, wrong %d\n", caught, wrong);
}

const struct named_case signal_cases[] = {
    {"SIGSYS blocked", blocked},
    {"SIGSYS raised", raised},
    {"SIGSYS pending", pending},
    {"SIGSYS handled", remembered},
    {"SIGSYS handled once", once},
    {"signal calls with mistakes", bad_number},
    {"paths in a handler", in_handler},
    {"waiting with a mask", waits},
    {"mask of the interrupted", context_mask},
    {"open interrupted", interrupted_open},
    {"open jumped out of", jumps_out},
    {"handlers within handlers", nested},
    {"many signals", storm},
    {"handler on a small stack", small_stack},
    {"handler on a tiny stack", tiny_stack},
    {"signals over exec", kept},
    {"-signals given", given},
    {"children that end", children},
    {NULL, NULL},
};
