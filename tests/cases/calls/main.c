#include "calls.h"
#include <asm/unistd_64.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#define RESOLVE_CACHED 0x20 /* younger than the headers of Debian 12 */

static char script[1 << 17];
static char *lines[4096];
static int line_count;

/* Whether calls are made as a patched site makes them: by a jump to ENTRY, the runtime's, instead of the instruction. */
static int entered;

long call6(long number, word a, word b, word c, word d, word e, word f) {
    long result;
    register word r10 __asm__("r10") = d;
    register word r8 __asm__("r8") = e;
    register word r9 __asm__("r9") = f;
    if (entered) {
        register word r11 __asm__("r11") = ENTRY;
        __asm__ volatile("lea 1f(%%rip), %%rcx\n"
                         "jmp *%%r11\n"
                         "1: syscall"
                         : "=a"(result), "+r"(r11)
                         : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                         : "rcx", "memory");
        return result;
    }
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

_Noreturn void quit(int status) {
    for (;;)
        call(__NR_exit_group, status, 0, 0);
}

/* A mistake in a script must not look like a result. */
_Noreturn void misuse(const char *what, const char *where) {
    put("calls: ");
    put(what);
    put(": ");
    put(where);
    put_line();
    quit(99);
}

word length(const char *text) {
    word count = 0;
    while (text[count])
        count++;
    return count;
}

int same_text(const char *a, const char *b) {
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

int starts(const char *text, const char *with) {
    while (*with)
        if (*text++ != *with++)
            return 0;
    return 1;
}

void *copy(void *to, const void *from, word count) {
    char *t = to;
    const char *f = from;
    /* Upwards or downwards, so that overlapping ranges work. */
    if (t < f)
        for (word i = 0; i < count; i++)
            t[i] = f[i];
    else
        while (count--)
            t[count] = f[count];
    return to;
}

/* The compiler makes calls of these out of initialisations and loops. */
void *memcpy(void *to, const void *from, word count) { return copy(to, from, count); }
void *memset(void *to, int byte, word count) {
    for (volatile char *t = to; count--; t++)
        *t = byte;
    return to;
}

/* The line after the `end` that belongs to the block starting at `from`. */
static int block_end(int from, int to) {
    int depth = 1;
    for (int i = from; i < to; i++) {
        if (same_text(lines[i], "fork"))
            depth++;
        else if (same_text(lines[i], "end") && --depth == 0)
            return i;
    }
    misuse("no end of the block", lines[from]);
}

static void fork_and_wait(int from, int to) {
    long child = call6(__NR_clone, SIGCHLD, 0, 0, 0, 0, 0);
    if (child == 0) {
        run(from, to);
        quit(0);
    }
    int status = 0;
    long waited = child < 0 ? child : call4(__NR_wait4, child, &status, 0, 0);
    put("child ");
    if (waited < 0)
        put_error(waited);
    else if (WIFSIGNALED(status)) {
        put("killed by signal ");
        put_number(WTERMSIG(status));
    } else {
        put("exited with ");
        put_number(WEXITSTATUS(status));
    }
    put_line();
}

static void one_line(const char *line) {
    char name[64];
    const char *at = line;
    word count = 0;
    /* "name = …" */
    const char *equals = line;
    while (*equals && *equals != ' ')
        equals++;
    const char *target = 0;
    word target_length = 0;
    if (starts(equals, " = ")) {
        target = line;
        target_length = equals - line;
        at = equals + 3;
    }
    while (at[count] && at[count] != ' ' && count < sizeof name - 1)
        count++;
    copy(name, at, count);
    name[count] = 0;
    at += count;

    put(line);
    if (!target && verb(name, at)) {
        put_line();
        return;
    }
    long number = call_number(name);
    if (number < 0)
        misuse("neither a call nor a verb", line);
    struct arguments arguments = {0};
    parse_arguments(at, &arguments);
    word *v = arguments.values;
    long result;
    /* Whatever is renamed or mounted anywhere meanwhile may make the kernel ask to try again. */
    do
        result = call6(number, v[0], v[1], v[2], v[3], v[4], v[5]);
    while (result == -EAGAIN && number == __NR_openat2 && !(((word *)v[2])[2] & RESOLVE_CACHED));
    /* An identity is as long as it happens to be, and so is what is returned of it. */
    long told = result;
    for (int i = 0; i < arguments.shown_count; i++)
        if (result > 0 && result <= 0xffffff && arguments.shown[i].kind == BUFFER)
            told = without_ids(arguments.shown[i].at, result, 1 << 16);
    put(" = ");
    int is_id = number == __NR_getpid || number == __NR_gettid || number == __NR_getppid;
    if (result < 0 && result > -4096)
        put_error(result);
    else if (is_id)
        put("PID");
    else if (result > 0xffffff)
        put("ADDRESS");
    else
        put_number(told);
    if (result >= 0)
        for (int i = 0; i < arguments.shown_count; i++) {
            put_char(' ');
            show(&arguments.shown[i], told);
        }
    put_line();
    if (target)
        assign(target, target_length, result);
}

void run(int from, int to) {
    for (int i = from; i < to; i++) {
        forget_arena();
        if (same_text(lines[i], "fork")) {
            int end = block_end(i + 1, to);
            fork_and_wait(i + 1, end);
            i = end;
        } else
            one_line(lines[i]);
    }
}

static void read_script(void) {
    word used = 0;
    for (;;) {
        long got = call(__NR_read, 0, script + used, sizeof script - 1 - used);
        if (got <= 0)
            break;
        used += got;
    }
    for (char *at = script; *at;) {
        while (*at == ' ')
            at++;
        char *start = at;
        while (*at && *at != '\n')
            at++;
        char *end = at;
        if (*at)
            at++;
        while (end > start && end[-1] == ' ')
            end--;
        *end = 0;
        if (*start && *start != '#')
            lines[line_count++] = start;
    }
}

/* The script runs under this name and without arguments; whatever else executes the program wants to see what it was given. */
__attribute__((used)) void start_c(word *stack) {
    long count = *stack;
    char **arguments = (char **)(stack + 1);
    if (count != 1 || !same_text(arguments[0], "/bin/calls"))
        show_program(arguments, arguments + count + 1);
    else {
        read_script();
        entered = line_count > 0 && same_text(lines[0], "entered");
        run(entered, line_count);
    }
    quit(0);
}

__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call start_c\n");
