/* The guest's stack is all the room that the runtime's handler has. */
#include "traps.h"
#include <limits.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/mman.h>

static volatile sig_atomic_t wrong;

static void *work(void *argument) {
    (void)argument;
    return (void *)(long)paths_wrong();
}

static void smallest_thread(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    void *result;
    pthread_attr_init(&attributes);
    need(pthread_attr_setstacksize(&attributes, sysconf(_SC_THREAD_STACK_MIN)) == 0);
    need(pthread_create(&thread, &attributes, work, NULL) == 0);
    pthread_join(thread, &result);
    say("wrong %ld\n", (long)result);
    need(pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN) == 0);
    need(pthread_create(&thread, &attributes, work, NULL) == 0);
    pthread_join(thread, &result);
    say("wrong %ld\n", (long)result);
}

static void handler(int signal) { wrong += signal > 0 ? paths_wrong() : 1; }

/* Pages that nobody may touch lie on both sides of it. */
static char *guarded(size_t size) {
    size_t whole = (size + 4095) & ~4095ul;
    char *at = mmap(NULL, whole + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(at != MAP_FAILED && mprotect(at + 4096, whole, PROT_READ | PROT_WRITE) == 0);
    return at + 4096;
}

static void smallest_signal_stack(void) {
    /* The handler's own calls, in C, need some room too. */
    size_t size = sysconf(_SC_MINSIGSTKSZ) + 1024;
    stack_t stack = {.ss_sp = guarded(size), .ss_size = size};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    need(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    raise(SIGUSR1);
    say("wrong %d, at least what the kernel says: %d\n", wrong, sysconf(_SC_MINSIGSTKSZ) >= (long)getauxval(AT_MINSIGSTKSZ));
}

static void say_stack(const char *what, const char *expected) {
    stack_t now = {.ss_flags = 77};
    need(sigaltstack(NULL, &now) == 0);
    say("%s: %s, flags %d, %zu bytes\n", what, now.ss_sp == expected ? "as given" : "another", now.ss_flags, now.ss_size);
}

static char *given_stack;
static void say_from_handler(int signal) {
    stack_t other = {.ss_sp = given_stack, .ss_size = 8192};
    wrong += signal > 0 ? paths_wrong() : 1;
    say_stack("in the handler", given_stack);
    say("to change it there: %s\n", how(sigaltstack(&other, NULL)));
}

/* What was enough for decades: 2048 bytes to say that there is one, 8192 bytes to do something there. */
static void old_signal_stacks(void) {
    struct sigaction action = {.sa_handler = say_from_handler, .sa_flags = SA_ONSTACK};
    stack_t stack = {.ss_sp = given_stack = guarded(8192), .ss_size = 2048}, old;
    need(sigaction(SIGUSR1, &action, NULL) == 0);
    say_stack("at first", NULL);
    say("2048 bytes: %s, wrong %d\n", how(sigaltstack(&stack, NULL)), paths_wrong());
    say_stack("then", given_stack);
    stack.ss_size = 8192;
    say("8192 bytes: %s", how(sigaltstack(&stack, &old)));
    say(", before: %zu bytes %d\n", old.ss_size, old.ss_sp == given_stack);
    raise(SIGUSR1);
    pid_t child = fork();
    if (child == 0) {
        say_stack("in a child", given_stack);
        raise(SIGUSR1);
        _exit(wrong);
    }
    int status;
    need(waitpid(child, &status, 0) == child);
    child = vfork();
    if (child == 0) {
        stack_t none = {.ss_flags = SS_DISABLE};
        _exit(sigaltstack(&none, NULL) != 0 || paths_wrong());
    }
    need(waitpid(child, &status, 0) == child);
    say("children: status %d\n", status);
    say_stack("after them", given_stack);
    raise(SIGUSR1);
    stack_t bad = {.ss_sp = given_stack, .ss_size = 2047};
    say("too small: %s", how(sigaltstack(&bad, NULL)));
    bad = (stack_t){.ss_sp = given_stack, .ss_size = 8192, .ss_flags = 4};
    say(", with unknown flags: %s", how(sigaltstack(&bad, NULL)));
    say(", by a bad pointer: %s", how(syscall(SYS_sigaltstack, 8, NULL)));
    say(", told to one: %s\n", how(syscall(SYS_sigaltstack, NULL, 8)));
    say_stack("still", given_stack);
    stack.ss_flags = 1u << 31;
    say("disarmed by itself: %s\n", how(sigaltstack(&stack, NULL)));
    signal(SIGUSR1, SIG_DFL);
    say_stack("so", given_stack);
    stack.ss_flags = SS_DISABLE;
    say("none: %s\n", how(sigaltstack(&stack, NULL)));
    say_stack("in the end", NULL);
    say("wrong %d\n", wrong + paths_wrong());
}

static void only_work(int signal) { wrong += signal > 0 ? paths_wrong() : 1; }

static void *work_on_signal_stack(void *argument) {
    stack_t stack = {.ss_sp = guarded(8192), .ss_size = 8192}, none = {.ss_flags = SS_DISABLE}, now;
    need(sigaltstack(NULL, &now) == 0 && now.ss_flags == SS_DISABLE);
    need(sigaltstack(&stack, NULL) == 0);
    for (int i = 0; i < 20; i++)
        pthread_kill(pthread_self(), SIGUSR1);
    long odd = sigaltstack(argument ? &none : NULL, &now) != 0 || now.ss_sp != stack.ss_sp || now.ss_size != stack.ss_size;
    return (void *)odd;
}

/* One after the other, and many at a time, each with a small signal stack of its own. */
static void signal_stacks_of_threads(void) {
    enum { AT_A_TIME = 40 };
    static char yes;
    struct sigaction action = {.sa_handler = only_work, .sa_flags = SA_ONSTACK};
    need(sigaction(SIGUSR1, &action, NULL) == 0);
    long odd = 0;
    for (int round = 0; round < 5; round++) {
        pthread_t threads[AT_A_TIME];
        void *result;
        for (int i = 0; i < AT_A_TIME; i++)
            need(pthread_create(&threads[i], NULL, work_on_signal_stack, &yes) == 0);
        for (int i = 0; i < AT_A_TIME; i++) {
            pthread_join(threads[i], &result);
            odd += (long)result;
        }
    }
    say("odd %ld, wrong %d\n", odd, wrong);
}

static void say_signal_stack(void) { say("%lu\n", getauxval(AT_MINSIGSTKSZ)); }

/* The 128 bytes below the stack pointer are the guest's, and every register but rax, rcx and r11. */
static void red_zone(void) {
    long odd = 0;
    for (long round = 0; round < 100; round++) {
        long result, left = 16;
        __asm__ volatile("mov $16, %%ecx\n"
                         "1: mov %[seed], %%rax\n add %%rcx, %%rax\n neg %%rcx\n mov %%rax, (%%rsp,%%rcx,8)\n neg %%rcx\n loop 1b\n"
                         "mov $21, %%eax\n mov %[path], %%rdi\n xor %%esi, %%esi\n syscall\n mov %%rax, %[result]\n"
                         "mov $16, %%ecx\n"
                         "2: mov %[seed], %%rax\n add %%rcx, %%rax\n neg %%rcx\n cmp %%rax, (%%rsp,%%rcx,8)\n jne 3f\n neg %%rcx\n dec %[left]\n"
                         "loop 2b\n jmp 4f\n 3: neg %%rcx\n 4:"
                         : [result] "=&r"(result), [left] "+r"(left)
                         : [seed] "r"(round * 1000), [path] "r"(round & 1 ? "f" : "missing")
                         : "rax", "rcx", "rdi", "rsi", "r11", "memory", "cc");
        odd += result != (round & 1 ? 0 : -ENOENT) || left != 0;
    }
    say("odd %ld\n", odd);
}

static void registers(void) {
    long odd = 0;
    for (long round = 0; round < 100; round++) {
        long result, after[6];
        double in = round + 0.5, out = 0, x87 = 0;
        unsigned int control = 0, control_after = 0;
        __asm__ volatile("stmxcsr %0" : "=m"(control));
        control ^= 0x6000;
        __asm__ volatile("ldmxcsr %[control]\n fld1\n movsd %[in], %%xmm9\n"
                         "mov $11, %%rbx\n mov $12, %%r12\n mov $13, %%r13\n mov $14, %%r14\n mov $15, %%r15\n mov $10, %%r10\n"
                         "mov $4, %%eax\n lea missing%=(%%rip), %%rdi\n lea -512(%%rsp), %%rsi\n syscall\n"
                         "mov %%rbx, 0(%[after])\n mov %%r12, 8(%[after])\n mov %%r13, 16(%[after])\n mov %%r14, 24(%[after])\n"
                         "mov %%r15, 32(%[after])\n mov %%r10, 40(%[after])\n movsd %%xmm9, %[out]\n fstpl %[x87]\n stmxcsr %[after_control]\n"
                         "jmp 1f\n missing%=: .string \"missing\"\n 1:"
                         : "=&a"(result), [out] "=m"(out), [x87] "=m"(x87), [after_control] "=m"(control_after)
                         : [control] "m"(control), [in] "m"(in), [after] "r"(after)
                         : "rbx", "rcx", "rdi", "rsi", "r10", "r11", "r12", "r13", "r14", "r15", "xmm9", "st", "memory", "cc");
        const long expected[6] = {11, 12, 13, 14, 15, 10};
        odd += result != -ENOENT || in != out || x87 != 1 || control != control_after || memcmp(after, expected, sizeof after) != 0;
        control ^= 0x6000;
        __asm__ volatile("ldmxcsr %0" : : "m"(control));
    }
    say("odd %ld\n", odd);
}

/* %fs is the guest's, and what lies there need not be anything. */
static void no_thread_pointer(void) {
    long fs, results[3];
    need(syscall(SYS_arch_prctl, 0x1003, &fs) == 0);
    static const char *const paths[] = {"f", "missing", (char *)8};
    __asm__ volatile("mov $158, %%eax\n mov $0x1002, %%edi\n xor %%esi, %%esi\n syscall\n"
                     "xor %%ebx, %%ebx\n"
                     "1: mov $21, %%eax\n mov (%[paths],%%rbx,8), %%rdi\n xor %%esi, %%esi\n syscall\n mov %%rax, (%[results],%%rbx,8)\n"
                     "inc %%ebx\n cmp $3, %%ebx\n jb 1b\n"
                     "mov $158, %%eax\n mov $0x1002, %%edi\n mov %[fs], %%rsi\n syscall\n"
                     :
                     : [fs] "r"(fs), [paths] "r"(paths), [results] "r"(results)
                     : "rax", "rbx", "rcx", "rdi", "rsi", "r11", "memory", "cc");
    say("%ld %ld %ld\n", results[0], results[1], results[2]);
}

/*
 * How much of a stack a call with a path uses below the guest's own: the frame of the signal, and what the handler works in. Each call is
 * made from assembly on a painted stack.
 */
static size_t used_by(char *stack, size_t size, long number, long first, long second, long third, long fourth) {
    memset(stack, 0x5a, size);
    char *top = stack + size;
    register long r10 __asm__("r10") = fourth;
    long result;
    __asm__ volatile("mov %%rsp, %%rbx\n mov %[top], %%rsp\n syscall\n mov %%rbx, %%rsp\n"
                     : "=a"(result)
                     : [top] "r"(top), "0"(number), "D"(first), "S"(second), "d"(third), "r"(r10)
                     : "rbx", "rcx", "r11", "memory");
    size_t untouched = 0;
    while (untouched < size && stack[untouched] == 0x5a)
        untouched++;
    return size - untouched;
}

static void high_water(void) {
    size_t size = 256 << 10;
    char *stack = guarded(size);
    struct stat found;
    char text[100];
    static char *const nothing[] = {NULL};
    struct {
        const char *name;
        size_t used;
    } calls[] = {
        {"mask", used_by(stack, size, SYS_rt_sigprocmask, SIG_BLOCK, 0, 0, 8)},
        {"open", used_by(stack, size, SYS_open, (long)"f", O_RDONLY, 0, 0)},
        {"open missing", used_by(stack, size, SYS_openat, AT_FDCWD, (long)"d/../missing", O_RDONLY, 0)},
        {"open maps", used_by(stack, size, SYS_open, (long)"/proc/self/maps", O_RDONLY, 0, 0)},
        {"stat", used_by(stack, size, SYS_newfstatat, AT_FDCWD, (long)"f", (long)&found, 0)},
        {"access", used_by(stack, size, SYS_access, (long)"f", 0, 0, 0)},
        {"readlink", used_by(stack, size, SYS_readlink, (long)"/proc/self/exe", (long)text, sizeof text, 0)},
        {"getcwd", used_by(stack, size, SYS_getcwd, (long)text, sizeof text, 0, 0)},
        {"rename", used_by(stack, size, SYS_rename, (long)"missing", (long)"other", 0, 0)},
        {"exec", used_by(stack, size, SYS_execve, (long)"missing", (long)nothing, (long)nothing, 0)},
        {"exec of a text", used_by(stack, size, SYS_execve, (long)"f", (long)nothing, (long)nothing, 0)},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        say("%s %zu\n", calls[i].name, calls[i].used);
}

const struct trap stack_traps[] = {
    {"smallest thread", smallest_thread},
    {"smallest signal stack", smallest_signal_stack},
    {"old signal stacks", old_signal_stacks},
    {"signal stacks of threads", signal_stacks_of_threads},
    {"say signal stack", say_signal_stack},
    {"red zone", red_zone},
    {"registers", registers},
    {"no thread pointer", no_thread_pointer},
    {"high water", high_water},
    {NULL, NULL},
};
