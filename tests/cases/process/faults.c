/* Faults: the guest's own, and those of a runtime that reads what the guest has pointed it to. */
#include "process.h"
#include <pthread.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/uio.h>

static volatile sig_atomic_t caught;
static siginfo_t last;
static sigjmp_buf back;
static volatile long nothing;

static void leave(int signal, siginfo_t *info, void *context) {
    (void)context;
    last = *info;
    caught++;
    siglongjmp(back, signal);
}

static void handle(int signal, int flags) {
    struct sigaction action = {.sa_sigaction = leave, .sa_flags = SA_SIGINFO | flags};
    need(sigaction(signal, &action, NULL) == 0, "sigaction");
}

static void say_fault(const char *what, const void *expected) {
    say("%s: signal %d, code %d, address %s\n", what, last.si_signo, last.si_code, last.si_addr == expected ? "as expected" : "another");
}

static char *const unmapped = (char *)0x1008;

static void read_unmapped(void) { nothing = *(volatile char *)unmapped; }

static void ignore_and_read(void) {
    signal(SIGSEGV, SIG_IGN);
    read_unmapped();
}

static void block_and_read(void) {
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    read_unmapped();
}

static void own(void) {
    in_child("default", read_unmapped);
    in_child("ignored", ignore_and_read);
    in_child("blocked", block_and_read);
    handle(SIGSEGV, 0);
    for (int i = 0; i < 3; i++)
        if (sigsetjmp(back, 1) == 0)
            read_unmapped();
    say_fault("unmapped", unmapped);
    char *readable = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sigsetjmp(back, 1) == 0)
        readable[5] = 1;
    say_fault("read only", readable + 5);
    if (sigsetjmp(back, 1) == 0)
        nothing = *(volatile char *)0x8000000000000000;
    say_fault("no address at all", NULL);
    if (sigsetjmp(back, 1) == 0)
        raise(SIGSEGV);
    say("raised: signal %d, code %d, caught %d\n", last.si_signo, last.si_code, caught);
    paths_work("after");
}

static void raised(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    last = *info;
    caught++;
}

static void sent(void) {
    struct sigaction action = {.sa_sigaction = raised, .sa_flags = SA_SIGINFO}, old;
    sigaction(SIGSEGV, &action, &old);
    say("before: %s\n", old.sa_handler == SIG_DFL ? "default" : "something");
    raise(SIGSEGV);
    say("raised: code %d, caught %d\n", last.si_code, caught);
    kill(getpid(), SIGSEGV);
    say("killed: code %d, caught %d\n", last.si_code, caught);
    sigaction(SIGSEGV, NULL, &old);
    say("now: %s\n", old.sa_sigaction == raised ? "ours" : "something");
    signal(SIGSEGV, SIG_DFL);
}

/* One call, with a pointer that no program should pass. */
static void say_bad(const char *when) {
    char text[8];
    struct stat stat;
    say("%s: open %s", when, how(open(unmapped, O_RDONLY)));
    say(", stat %s", how(lstat(unmapped, &stat)));
    say(", into %s", how(syscall(SYS_newfstatat, AT_FDCWD, "f", unmapped, 0)));
    say(", readlink into %s", how(readlink("/proc/self/cwd", unmapped, 100)));
    say(", exec %s", how(execve("/bin/process", (char **)unmapped, NULL)));
    say(", readlink %s, caught %d\n", how(readlink(unmapped, text, 8)), caught);
}

static void bad_pointers(void) {
    say_bad("default");
    handle(SIGSEGV, 0);
    say_bad("handled");
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    say_bad("blocked");
    sigemptyset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    signal(SIGSEGV, SIG_IGN);
    say_bad("ignored");
    paths_work("after");
}

static void in_handler(int signal) {
    (void)signal;
    say_bad("in a handler");
}

static void bad_in_handler(void) {
    struct sigaction action = {.sa_handler = in_handler};
    sigfillset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
}

/* A mapping of a file that has become shorter: a read of it is SIGBUS, a path in it EFAULT. */
static void bus(void) {
    int fd = open("/tmp/short", O_RDWR | O_CREAT, 0600);
    need(fd >= 0 && ftruncate(fd, 8192) == 0, "a file");
    char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    strcpy(map + 4096, "f");
    say("mapped: %s\n", how(open(map + 4096, O_RDONLY)));
    need(ftruncate(fd, 100) == 0, "ftruncate");
    say("cut: %s\n", how(open(map + 4096, O_RDONLY)));
    memset(map + 4000, 'd', 96);
    say("running into it: %s\n", how(open(map + 4000, O_RDONLY)));
    say("stat into it: %s\n", how(syscall(SYS_newfstatat, AT_FDCWD, "f", map + 4096, 0)));
    handle(SIGBUS, 0);
    if (sigsetjmp(back, 1) == 0)
        nothing = map[4096];
    say_fault("read", map + 4096);
    say("then: %s\n", how(open(map + 4096, O_RDONLY)));
    say("caught %d\n", caught);
}

static void other_faults(void) {
    handle(SIGFPE, 0);
    handle(SIGILL, 0);
    handle(SIGTRAP, 0);
    if (sigsetjmp(back, 1) == 0)
        __asm__ volatile("xor %%edx, %%edx\n mov $1, %%eax\n xor %%ecx, %%ecx\n div %%ecx" ::: "eax", "ecx", "edx");
    say("division: signal %d, code %d\n", last.si_signo, last.si_code);
    if (sigsetjmp(back, 1) == 0)
        __asm__ volatile("ud2");
    say("no instruction: signal %d, code %d\n", last.si_signo, last.si_code);
    if (sigsetjmp(back, 1) == 0)
        __asm__ volatile("int3");
    say("breakpoint: signal %d\n", last.si_signo);
    paths_work("after");
}

static void deeper(int depth) {
    volatile char frame[4096];
    frame[0] = depth;
    if (depth < 1000000)
        deeper(depth + 1);
    nothing += frame[0];
}

static void overflow(void) {
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    sigaltstack(&stack, NULL);
    handle(SIGSEGV, SA_ONSTACK);
    if (sigsetjmp(back, 1) == 0)
        deeper(0);
    say("overflow: signal %d, code %d\n", last.si_signo, last.si_code);
    paths_work("after");
}

static void overflow_unhandled(void) { deeper(0); }

static void use_stack(int left) {
    volatile char frame[1 << 16];
    memset((char *)frame, left, sizeof frame);
    if (left > 0)
        use_stack(left - 1);
    nothing += frame[0];
}

static void large_stack(void) {
    use_stack(100);
    say("6.4 MiB of stack used\n");
    in_child("too much", overflow_unhandled);
    paths_work("after");
}

/* A path that another thread of the guest changes meanwhile may be either, and nothing else. */
static void *flip(void *at) {
    char *name = at;
    for (int i = 0; i < 200000; i++)
        __atomic_store_n(name, i & 1 ? 'f' : 'q', __ATOMIC_RELAXED);
    return NULL;
}

static void changing(void) {
    static char path[] = "f";
    pthread_t thread;
    int odd = 0;
    pthread_create(&thread, NULL, flip, path);
    for (int i = 0; i < 20000; i++) {
        int result = access(path, F_OK);
        odd += result != 0 && errno != ENOENT;
    }
    pthread_join(thread, NULL);
    say("odd results %d\n", odd);
}

const struct named_case fault_cases[] = {
    {"faults of its own", own},
    {"fault signals sent", sent},
    {"bad pointers", bad_pointers},
    {"bad pointers in a handler", bad_in_handler},
    {"a path in a mapping that is cut", bus},
    {"other faults", other_faults},
    {"stack overflow handled", overflow},
    {"a large stack", large_stack},
    {"a path that changes", changing},
    {NULL, NULL},
};
