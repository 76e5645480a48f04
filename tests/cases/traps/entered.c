/*
 * Calls that are made as patched sites make them: by a jump to the runtime's entry. Its address is the first word behind a case's name;
 * 0 is for the real kernel, where the instruction itself is executed.
 */
#include "traps.h"
#include <immintrin.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/time.h>
#include <ucontext.h>

static unsigned long entry;

static void need_entry(void) {
    need(given_count > 0);
    entry = strtoul(given[0], NULL, 16);
}

/* As a stub does it. The result is the kernel's: a negative errno. */
static long entered(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    register unsigned long r11 __asm__("r11") = entry;
    if (!entry)
        __asm__ volatile("syscall" : "=a"(result), "+r"(r11) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "memory");
    else
        /* The compiler may keep something in the red zone: that it is left alone is a case of its own. */
        __asm__ volatile("lea 1f(%%rip), %%rcx\n jmp *%%r11\n 1: syscall"
                         : "=a"(result), "+r"(r11)
                         : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                         : "rcx", "memory");
    return result;
}

/* The kernel's own. */
struct action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

static const char *word_for(long result) { return result >= 0 ? "ok" : strerrorname_np(-result); }

static long look(const char *path) { return entered(SYS_access, (long)path, F_OK, 0, 0, 0, 0); }

/* As paths_wrong. */
static int entered_wrong(void) {
    struct stat found;
    int wrong = 0;
    long fd = entered(SYS_openat, AT_FDCWD, (long)"f", O_RDONLY, 0, 0, 0);
    wrong += fd < 0;
    if (fd >= 0)
        close(fd);
    wrong += entered(SYS_open, (long)"missing", O_RDONLY, 0, 0, 0, 0) != -ENOENT;
    wrong += entered(SYS_open, (long)"f/x", O_RDONLY, 0, 0, 0, 0) != -ENOTDIR;
    wrong += entered(SYS_newfstatat, AT_FDCWD, (long)"f", (long)&found, 0, 0, 0) != 0 || !S_ISREG(found.st_mode);
    wrong += look("d") != 0;
    return wrong;
}

/* --- registers --- */

/* Loads everything from `before`, makes the call, and stores everything to `after`. */
void everything(void);
#define EACH16(what) what(0) what(1) what(2) what(3) what(4) what(5) what(6) what(7) what(8) what(9) what(10) what(11) what(12) what(13) what(14) what(15)
#define HIGH16(what) what(16) what(17) what(18) what(19) what(20) what(21) what(22) what(23) what(24) what(25) what(26) what(27) what(28) what(29) what(30) what(31)
#define TEXT(x) #x
#define LOAD_XMM(n) "movups vectors_before+64*" TEXT(n) "(%rip), %xmm" TEXT(n) "\n"
#define LOAD_YMM(n) "vmovups vectors_before+64*" TEXT(n) "(%rip), %ymm" TEXT(n) "\n"
#define LOAD_ZMM(n) "vmovups vectors_before+64*" TEXT(n) "(%rip), %zmm" TEXT(n) "\n"
#define STORE_XMM(n) "movups %xmm" TEXT(n) ", vectors_after+64*" TEXT(n) "(%rip)\n"
#define STORE_YMM(n) "vmovups %ymm" TEXT(n) ", vectors_after+64*" TEXT(n) "(%rip)\n"
#define STORE_ZMM(n) "vmovups %zmm" TEXT(n) ", vectors_after+64*" TEXT(n) "(%rip)\n"
#define EACH8(what) what(0) what(1) what(2) what(3) what(4) what(5) what(6) what(7)
#define LOAD_K(n) "kmovq masks_before+8*" TEXT(n) "(%rip), %k" TEXT(n) "\n"
#define STORE_K(n) "kmovq %k" TEXT(n) ", masks_after+8*" TEXT(n) "(%rip)\n"
#define RED(n) "mov red_before+8*" TEXT(n) "(%rip), %rax\n mov %rax, -128+8*" TEXT(n) "(%rsp)\n"
#define RED_BACK(n) "mov -128+8*" TEXT(n) "(%rsp), %rax\n mov %rax, red_after+8*" TEXT(n) "(%rip)\n"

uint8_t vectors_before[32 * 64], vectors_after[32 * 64];
uint64_t masks_before[8], masks_after[8], red_before[16], red_after[16];
uint64_t general_before[16], general_after[16];
uint64_t numbers[8]; /* number, entry, has AVX, has AVX-512, result, rsp, flags */

__asm__(
    ".text\n.globl everything\neverything:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    /* A stack pointer that is no multiple of 16. */
    "sub $1016, %rsp\n"
    "mov %rsp, numbers+40(%rip)\n"
    EACH16(RED)
    "cmpq $0, numbers+24(%rip)\n je 1f\n" EACH16(LOAD_ZMM) HIGH16(LOAD_ZMM) EACH8(LOAD_K) "jmp 3f\n"
    "1: cmpq $0, numbers+16(%rip)\n je 2f\n" EACH16(LOAD_YMM) "jmp 3f\n"
    "2:" EACH16(LOAD_XMM)
    "3: mov general_before+0(%rip), %rdi\n mov general_before+8(%rip), %rsi\n mov general_before+16(%rip), %rdx\n"
    "mov general_before+24(%rip), %r10\n mov general_before+32(%rip), %r8\n mov general_before+40(%rip), %r9\n"
    "mov general_before+48(%rip), %rbx\n mov general_before+56(%rip), %rbp\n mov general_before+64(%rip), %r12\n"
    "mov general_before+72(%rip), %r13\n mov general_before+80(%rip), %r14\n mov general_before+88(%rip), %r15\n"
    "std\n"
    "mov numbers(%rip), %rax\n"
    "mov numbers+8(%rip), %r11\n"
    "test %r11, %r11\n jz 4f\n"
    "lea 4f(%rip), %rcx\n jmp *%r11\n"
    "4: syscall\n"
    "mov %rax, numbers+32(%rip)\n"
    "mov %rdi, general_after+0(%rip)\n mov %rsi, general_after+8(%rip)\n mov %rdx, general_after+16(%rip)\n"
    "mov %r10, general_after+24(%rip)\n mov %r8, general_after+32(%rip)\n mov %r9, general_after+40(%rip)\n"
    "mov %rbx, general_after+48(%rip)\n mov %rbp, general_after+56(%rip)\n mov %r12, general_after+64(%rip)\n"
    "mov %r13, general_after+72(%rip)\n mov %r14, general_after+80(%rip)\n mov %r15, general_after+88(%rip)\n"
    EACH16(RED_BACK)
    "sub %rsp, numbers+40(%rip)\n"
    "add $1016, %rsp\n"
    "pushfq\n popq numbers+48(%rip)\n cld\n"
    "cmpq $0, numbers+24(%rip)\n je 1f\n" EACH16(STORE_ZMM) HIGH16(STORE_ZMM) EACH8(STORE_K) "vzeroupper\n jmp 3f\n"
    "1: cmpq $0, numbers+16(%rip)\n je 2f\n" EACH16(STORE_YMM) "vzeroupper\n jmp 3f\n"
    "2:" EACH16(STORE_XMM)
    "3: pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");

static int compared(const char *what, const void *a, const void *b, size_t size) {
    if (memcmp(a, b, size) != 0)
        say("%s differ\n", what);
    return memcmp(a, b, size) != 0;
}

static void fill(void *at, size_t size) {
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)at)[i] = rand();
}

static int one_of_everything(long number, long a, long b, long c, long d, const char *expected) {
    fill(vectors_before, sizeof vectors_before);
    fill(masks_before, sizeof masks_before);
    fill(red_before, sizeof red_before);
    fill(general_before, sizeof general_before);
    general_before[0] = a, general_before[1] = b, general_before[2] = c, general_before[3] = d;
    memcpy(vectors_after, vectors_before, sizeof vectors_after);
    memcpy(masks_after, masks_before, sizeof masks_after);
    memcpy(general_after, general_before, sizeof general_after);
    numbers[0] = number, numbers[1] = entry;
    numbers[2] = __builtin_cpu_supports("avx");
    numbers[3] = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    /* Exceptions and rounding of one's own. */
    unsigned csr = 0x7f80 | 0x2000, csr_after;
    unsigned short control = 0x0f7f, control_after;
    long double pi = 3.14159L, pi_after;
    _mm_setcsr(csr);
    __asm__ volatile("fldcw %0" : : "m"(control));
    __asm__ volatile("fldt %0" : : "m"(pi));
    everything();
    __asm__ volatile("fstpt %0" : "=m"(pi_after));
    __asm__ volatile("fnstcw %0" : "=m"(control_after));
    csr_after = _mm_getcsr();
    _mm_setcsr(0x1f80);
    __asm__ volatile("fninit");
    int wrong = compared("vector registers", vectors_before, vectors_after, sizeof vectors_after);
    wrong += compared("mask registers", masks_before, masks_after, sizeof masks_after);
    wrong += compared("general registers", general_before, general_after, 12 * 8);
    wrong += compared("red zones", red_before, red_after, sizeof red_after);
    wrong += compared("x87 registers", &pi, &pi_after, 10);
    wrong += csr != csr_after || control != control_after;
    wrong += numbers[5] != 0;
    wrong += (numbers[6] & 1 << 10) == 0;
    wrong += strcmp(word_for(numbers[4]), expected) != 0;
    if (wrong)
        say("call %ld: %s\n", number, word_for(numbers[4]));
    return wrong;
}

static void registers(void) {
    need_entry();
    static char text[PATH_MAX];
    static struct stat found;
    static sigset_t set;
    int wrong = 0;
    for (int i = 0; i < 100; i++) {
        wrong += one_of_everything(SYS_access, (long)"missing", F_OK, 0, 0, "ENOENT");
        wrong += one_of_everything(SYS_openat, AT_FDCWD, (long)"f/x", O_RDONLY, 0, "ENOTDIR");
        wrong += one_of_everything(SYS_stat, (long)"f", (long)&found, 0, 0, "ok");
        wrong += one_of_everything(SYS_readlink, (long)"f", (long)text, sizeof text, 0, "EINVAL");
        wrong += one_of_everything(SYS_getcwd, (long)text, sizeof text, 0, 0, "ok");
        wrong += one_of_everything(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&set, 8, "ok");
        wrong += one_of_everything(SYS_access, 8, F_OK, 0, 0, "EFAULT");
        /* None of the runtime's, of no kernel's, and of another kind. */
        wrong += one_of_everything(SYS_getppid, 1, 2, 3, 4, "ok");
        wrong += one_of_everything(SYS_read, -1, 2, 3, 4, "EBADF");
        wrong += one_of_everything(505, 1, 2, 3, 4, "ENOSYS");
        wrong += one_of_everything(0x7fffffff, 1, 2, 3, 4, "ENOSYS");
        wrong += one_of_everything(0x40000000 | SYS_getppid, 1, 2, 3, 4, "ENOSYS");
        wrong += one_of_everything(-1, 1, 2, 3, 4, "ENOSYS");
    }
    say("wrong %d\n", wrong);
}

/* --- bad pointers --- */

static int bad_pointers_wrong(void) {
    int wrong = 0;
    struct action action;
    wrong += look((const char *)8) != -EFAULT;
    wrong += entered(SYS_openat, AT_FDCWD, 8, O_RDONLY, 0, 0, 0) != -EFAULT;
    wrong += entered(SYS_readlink, (long)"/proc/self/cwd", 8, 100, 0, 0, 0) != -EFAULT;
    wrong += entered(SYS_getcwd, 8, 100, 0, 0, 0, 0) != -EFAULT;
    wrong += entered(SYS_rt_sigprocmask, SIG_BLOCK, 8, 0, 8, 0, 0) != -EFAULT;
    wrong += entered(SYS_rt_sigaction, SIGUSR2, 8, (long)&action, 8, 0, 0) != -EFAULT;
    return wrong + entered_wrong();
}

static long entered_mask(int how, const sigset_t *set, sigset_t *old) { return entered(SYS_rt_sigprocmask, how, (long)set, (long)old, 8, 0, 0); }

static volatile sig_atomic_t handled, wrong_in_handler;

static void handler(int signal, siginfo_t *info, void *context) {
    (void)context;
    handled++;
    wrong_in_handler += info->si_signo != signal;
    wrong_in_handler += bad_pointers_wrong();
    sigset_t none;
    sigemptyset(&none);
    entered_mask(SIG_SETMASK, &none, NULL);
    wrong_in_handler += bad_pointers_wrong();
}

static void blocking_handler(int signal, siginfo_t *info, void *context) {
    handler(signal, info, context);
    /* What it interrupted goes on with all signals blocked. */
    sigfillset(&((ucontext_t *)context)->uc_sigmask);
}

static void entered_action(int signal, void (*with)(int, siginfo_t *, void *), int fill_mask, int flags) {
    struct sigaction action = {.sa_sigaction = with, .sa_flags = SA_SIGINFO | flags};
    struct action kernels;
    if (fill_mask)
        sigfillset(&action.sa_mask);
    /* The C library adds its restorer, which is kept here. */
    need(sigaction(signal, &action, NULL) == 0);
    need(syscall(SYS_rt_sigaction, signal, NULL, &kernels, 8) == 0);
    need(entered(SYS_rt_sigaction, signal, (long)&kernels, 0, 8, 0, 0) == 0);
}

static void *bad_pointers_in_thread(void *argument) {
    (void)argument;
    return (void *)(long)bad_pointers_wrong();
}

static long in_thread(void) {
    pthread_t thread;
    void *result;
    need(pthread_create(&thread, NULL, bad_pointers_in_thread, NULL) == 0);
    pthread_join(thread, &result);
    return (long)result;
}

static void bad_pointers(void) {
    need_entry();
    sigset_t all, none, faults;
    sigfillset(&all);
    sigemptyset(&none);
    faults = none;
    sigaddset(&faults, SIGSEGV);
    sigaddset(&faults, SIGBUS);
    say("at first: wrong %d\n", bad_pointers_wrong());
    need(entered_mask(SIG_BLOCK, &faults, NULL) == 0);
    say("faults blocked: wrong %d\n", bad_pointers_wrong());
    say("and in a thread: wrong %ld\n", in_thread());
    need(entered_mask(SIG_SETMASK, &all, NULL) == 0);
    say("all blocked: wrong %d\n", bad_pointers_wrong());
    pid_t child = entered(SYS_fork, 0, 0, 0, 0, 0, 0);
    if (child == 0)
        _exit(bad_pointers_wrong());
    int status;
    need(waitpid(child, &status, 0) == child);
    say("and in a child: wrong %d\n", status);
    need(entered_mask(SIG_SETMASK, &none, NULL) == 0);
    say("open again: wrong %d\n", bad_pointers_wrong());
    say("and in a thread: wrong %ld\n", in_thread());
    entered_action(SIGUSR1, handler, 0, 0);
    raise(SIGUSR1);
    say("in a handler: handled %d, wrong %d\n", handled, wrong_in_handler + bad_pointers_wrong());
    entered_action(SIGUSR1, handler, 1, 0);
    raise(SIGUSR1);
    say("in one that blocks all: handled %d, wrong %d\n", handled, wrong_in_handler + bad_pointers_wrong());
    entered_action(SIGUSR1, blocking_handler, 0, 0);
    raise(SIGUSR1);
    say("after one that leaves all blocked: handled %d, wrong %d\n", handled, wrong_in_handler + bad_pointers_wrong());
    sigset_t but_one = all;
    sigdelset(&but_one, SIGUSR1);
    entered_action(SIGUSR1, handler, 0, 0);
    raise(SIGUSR1);
    say("sigsuspend: %s", word_for(entered(SYS_rt_sigsuspend, (long)&but_one, 8, 0, 0, 0, 0)));
    say(", handled %d, wrong %d\n", handled, wrong_in_handler + bad_pointers_wrong());
    need(entered_mask(SIG_SETMASK, &none, NULL) == 0);
    pid_t sender = fork();
    if (sender == 0) {
        usleep(100000);
        kill(getppid(), SIGUSR1);
        _exit(0);
    }
    struct timespec second = {5, 0};
    say("ppoll: %s", word_for(entered(SYS_ppoll, 0, 0, (long)&second, (long)&but_one, 8, 0)));
    say(", handled %d, wrong %d\n", handled, wrong_in_handler + bad_pointers_wrong());
    need(waitpid(sender, &status, 0) == sender);
    static char stack[1 << 16];
    stack_t given_stack = {.ss_sp = stack, .ss_size = sizeof stack}, shown;
    need(entered(SYS_sigaltstack, (long)&given_stack, 0, 0, 0, 0, 0) == 0);
    need(entered(SYS_sigaltstack, 0, (long)&shown, 0, 0, 0, 0) == 0);
    say("signal stack: as given %d, flags %d\n", shown.ss_sp == stack && shown.ss_size == sizeof stack, shown.ss_flags);
    entered_action(SIGUSR1, blocking_handler, 1, SA_ONSTACK);
    raise(SIGUSR1);
    say("on it: handled %d, wrong %d\n", handled, wrong_in_handler + bad_pointers_wrong());
}

/* --- signals --- */

static sigjmp_buf back;
static volatile sig_atomic_t may_leave, left, wrong_calls;

static void storm(int signal) {
    (void)signal;
    int before = errno;
    handled++;
    wrong_calls += entered_wrong();
    errno = before;
    if (may_leave && handled % 7 == 0) {
        left++;
        siglongjmp(back, 1);
    }
}

static void signals(void) {
    need_entry();
    struct sigaction action = {.sa_handler = storm};
    struct action kernels, shown;
    need(sigaction(SIGALRM, &action, NULL) == 0);
    need(syscall(SYS_rt_sigaction, SIGALRM, NULL, &kernels, 8) == 0);
    need(entered(SYS_rt_sigaction, SIGALRM, (long)&kernels, (long)&shown, 8, 0, 0) == 0);
    say("shown as given: %d\n", memcmp(&kernels, &shown, sizeof shown) == 0 && kernels.handler == storm);
    struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    for (int round = 0; round < 2; round++) {
        handled = left = 0;
        sigsetjmp(back, 1);
        may_leave = round == 1;
        setitimer(ITIMER_REAL, &often, NULL);
        while (handled < 700)
            wrong_calls += entered_wrong();
        may_leave = 0;
        setitimer(ITIMER_REAL, &never, NULL);
        say("wrong %d, left %d\n", wrong_calls, round == 1 ? left >= 50 : left);
    }
    /* Once, and by itself. */
    kernels.flags |= SA_RESETHAND;
    need(entered(SYS_rt_sigaction, SIGALRM, (long)&kernels, 0, 8, 0, 0) == 0);
    handled = 0;
    raise(SIGALRM);
    need(entered(SYS_rt_sigaction, SIGALRM, 0, (long)&shown, 8, 0, 0) == 0);
    say("reset: handled %d, default %d\n", handled, shown.handler == SIG_DFL);
    need(entered(SYS_rt_sigaction, SIGKILL, (long)&kernels, 0, 8, 0, 0) == -EINVAL);
    need(entered(SYS_rt_sigaction, SIGALRM, (long)&kernels, 8, 8, 0, 0) == -EFAULT);
    need(entered(SYS_rt_sigaction, SIGALRM, 0, (long)&shown, 8, 0, 0) == 0);
    say("set although it could not be told: %d\n", shown.handler == storm);
}

/* --- stacks and processes --- */

static void *entered_in_thread(void *argument) {
    (void)argument;
    int wrong = 0;
    for (int i = 0; i < 100; i++)
        wrong += entered_wrong();
    return (void *)(long)wrong;
}

static char *guarded_stack(size_t size) {
    size_t whole = (size + 4095) & ~4095ul;
    char *at = mmap(NULL, whole + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(at != MAP_FAILED && mprotect(at + 4096, whole, PROT_READ | PROT_WRITE) == 0);
    return at + 4096;
}

static void on_signal_stack(int signal) {
    handled += signal > 0;
    wrong_calls += entered_wrong();
}

static void stacks(void) {
    need_entry();
    pthread_attr_t attributes;
    pthread_t threads[8];
    void *result;
    long wrong = 0;
    pthread_attr_init(&attributes);
    need(pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN) == 0);
    for (int i = 0; i < 8; i++)
        need(pthread_create(&threads[i], &attributes, entered_in_thread, NULL) == 0);
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], &result);
        wrong += (long)result;
    }
    say("threads: wrong %ld\n", wrong);
    stack_t stack = {.ss_sp = guarded_stack(8192), .ss_size = 8192}, shown;
    struct sigaction action = {.sa_handler = on_signal_stack, .sa_flags = SA_ONSTACK};
    need(entered(SYS_sigaltstack, (long)&stack, 0, 0, 0, 0, 0) == 0);
    need(sigaction(SIGUSR1, &action, NULL) == 0);
    for (int i = 0; i < 10; i++)
        raise(SIGUSR1);
    need(entered(SYS_sigaltstack, 0, (long)&shown, 0, 0, 0, 0) == 0);
    say("a small signal stack: handled %d, wrong %d, as given %d\n", handled, wrong_calls, shown.ss_sp == stack.ss_sp && shown.ss_size == 8192);
    say("too small: %s", word_for(entered(SYS_sigaltstack, (long)&(stack_t){.ss_sp = stack.ss_sp, .ss_size = 2047}, 0, 0, 0, 0, 0)));
    say(", none: %s\n", word_for(entered(SYS_sigaltstack, (long)&(stack_t){.ss_flags = SS_DISABLE}, 0, 0, 0, 0, 0)));
}

static void processes(void) {
    need_entry();
    int status, wrong = 0;
    for (int i = 0; i < 20; i++) {
        pid_t child = vfork();
        if (child == 0)
            _exit(entered_wrong());
        need(waitpid(child, &status, 0) == child);
        wrong += status + entered_wrong();
    }
    say("children of vfork: wrong %d\n", wrong);
    char *words[] = {"/bin/traps", "entered program", given[0], NULL}, *none[] = {NULL};
    pid_t child = vfork();
    if (child == 0) {
        entered(SYS_execve, (long)"/bin/missing", (long)words, (long)none, 0, 0, 0);
        entered(SYS_execve, (long)words[0], (long)words, (long)none, 0, 0, 0);
        _exit(99);
    }
    need(waitpid(child, &status, 0) == child);
    say("status %d, wrong %d\n", status, entered_wrong());
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR2);
    need(entered_mask(SIG_BLOCK, &one, NULL) == 0);
    entered(SYS_execve, (long)words[0], (long)words, (long)none, 0, 0, 0);
}

static void program(void) {
    need_entry();
    sigset_t mask;
    need(entered_mask(SIG_BLOCK, NULL, &mask) == 0);
    say("executed, SIGUSR2 blocked %d, wrong %d\n", sigismember(&mask, SIGUSR2), entered_wrong());
    entered(SYS_exit_group, 0, 0, 0, 0, 0, 0);
}

/* --- what is learnt from others --- */

/* For each name: looks in vain, says so, is told that it is there now, and looks again. The way it is told is the second word. */
static void told(void) {
    need_entry();
    need(given_count == 3);
    int rounds = atoi(given[2]), missed = 0;
    char name[64], byte;
    struct pollfd input = {.fd = 0, .events = POLLIN};
    struct timespec second = {10, 0};
    for (int i = 0; i < rounds; i++) {
        snprintf(name, sizeof name, "d/%s-%d/told", given[1], i);
        /* Often enough that the answer is one that is remembered. */
        for (int again = 0; again < 3; again++)
            need(look(name) == -ENOENT);
        need(write(1, "?", 1) == 1);
        if (strcmp(given[1], "unseen") == 0)
            need(read(0, &byte, 1) == 1);
        else if (strcmp(given[1], "read") == 0)
            need(entered(SYS_read, 0, (long)&byte, 1, 0, 0, 0) == 1);
        else {
            need(entered(SYS_ppoll, (long)&input, 1, (long)&second, 0, 8, 0) == 1);
            need(read(0, &byte, 1) == 1);
        }
        missed += look(name) != 0;
    }
    say(" missed %d\n", missed);
}

const struct trap entered_traps[] = {
    {"entered registers", registers},
    {"entered bad pointers", bad_pointers},
    {"entered signals", signals},
    {"entered stacks", stacks},
    {"entered processes", processes},
    {"entered program", program},
    {"entered told", told},
    {NULL, NULL},
};
