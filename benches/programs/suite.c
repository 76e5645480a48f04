/* suite: prints "CALL NS" for each system call of the suite, and "seccomp N", the mode that the kernel reports.
 * suite CALL TIMES: makes that call so often and prints nothing, for whoever counts calls from outside.
 *
 * The calls are those of the Kevlar M6.6 suite (29 names in its text, 28 in its table); open_missing, stat_missing, exec and
 * urandom_read are ours. Through the C library, as programs make them; brk alone would not reach the kernel so. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "timing.h"

#define PAGE 4096
#define SIZE (16 * PAGE)

static int null, zero, file, random_;
static char buffer[4096];
static char *program;
static char *mapping;
static struct stat status;

static void getpid_(void) { getpid(); }
static void gettid_(void) { gettid(); }
static void clock_gettime_(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
}
static void read_null(void) { must(read(null, buffer, 1) == 0, "read_null"); }
static void write_null(void) { must(write(null, buffer, 1) == 1, "write_null"); }
static void pread_(void) { must(pread(file, buffer, 1, 0) == 1, "pread"); }
static void writev_(void)
{
    struct iovec parts[2] = {{buffer, 1}, {buffer + 1, 1}};
    must(writev(null, parts, 2) == 2, "writev");
}
static void pipe_(void)
{
    int ends[2];
    must(pipe(ends) == 0, "pipe");
    close(ends[0]);
    close(ends[1]);
}
static void open_close(void)
{
    int fd = open("/l/1/file", O_RDONLY);
    must(fd >= 0, "open_close");
    close(fd);
}
static void open_missing(void) { must(open("/l/1/missing", O_RDONLY) < 0 && errno == ENOENT, "open_missing"); }
static void stat_(void) { must(stat("/l/1/file", &status) == 0, "stat"); }
static void stat_missing(void) { must(stat("/l/1/missing", &status) < 0 && errno == ENOENT, "stat_missing"); }
static void fstat_(void) { must(fstat(file, &status) == 0, "fstat"); }
static void lseek_(void) { must(lseek(file, 0, SEEK_SET) == 0, "lseek"); }
static void fcntl_getfl(void) { must(fcntl(file, F_GETFL) >= 0, "fcntl_getfl"); }
static void dup_close(void)
{
    int fd = dup(file);
    must(fd >= 0, "dup_close");
    close(fd);
}
static void getcwd_(void) { must(getcwd(buffer, sizeof buffer) == buffer, "getcwd"); }
static void access_(void) { must(access("/l/1/file", R_OK) == 0, "access"); }
static void readlink_(void) { must(readlink("/l/1/link", buffer, sizeof buffer) == 4, "readlink"); }
static void fork_exit(void)
{
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    must(child > 0 && waitpid(child, NULL, 0) == child, "fork_exit");
}
static void exec_(void)
{
    char *const arguments[] = {program, "nothing", "0", NULL};
    char *const environment[] = {NULL};
    int how;
    pid_t child = vfork();
    if (child == 0) {
        execve(program, arguments, environment);
        _exit(1);
    }
    must(child > 0 && waitpid(child, &how, 0) == child && how == 0, "exec");
}
static void mmap_munmap(void)
{
    char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(at != MAP_FAILED && munmap(at, SIZE) == 0, "mmap_munmap");
}
static void mmap_fault(void)
{
    char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(at != MAP_FAILED, "mmap_fault");
    for (int offset = 0; offset < SIZE; offset += PAGE)
        ((volatile char *)at)[offset] = 1;
    munmap(at, SIZE);
}
static void mprotect_(void)
{
    must(mprotect(mapping, PAGE, PROT_READ) == 0, "mprotect");
    must(mprotect(mapping, PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
}
static void brk_(void) { must(syscall(SYS_brk, 0) > 0, "brk"); }
static void uname_(void)
{
    struct utsname name;
    must(uname(&name) == 0, "uname");
}
static void handler(int signal) { (void)signal; }
static void sigaction_(void)
{
    struct sigaction action = {.sa_handler = handler};
    must(sigaction(SIGUSR2, &action, NULL) == 0, "sigaction");
}
static void sigprocmask_(void)
{
    sigset_t none;
    sigemptyset(&none);
    must(sigprocmask(SIG_BLOCK, &none, NULL) == 0, "sigprocmask");
}
static void sched_yield_(void) { sched_yield(); }
static void getpriority_(void) { must(getpriority(PRIO_PROCESS, 0) >= -20, "getpriority"); }
static void read_zero(void) { must(read(zero, buffer, sizeof buffer) == sizeof buffer, "read_zero"); }
static void signal_delivery(void) { must(kill(getpid(), SIGUSR1) == 0, "signal_delivery"); }
static void urandom_read(void) { must(read(random_, buffer, 1) == 1, "urandom_read"); }

static const struct {
    const char *name;
    void (*body)(void);
} calls[] = {
    {"getpid", getpid_},
    {"gettid", gettid_},
    {"clock_gettime", clock_gettime_},
    {"read_null", read_null},
    {"write_null", write_null},
    {"pread", pread_},
    {"writev", writev_},
    {"pipe", pipe_},
    {"open_close", open_close},
    {"stat", stat_},
    {"fstat", fstat_},
    {"lseek", lseek_},
    {"fcntl_getfl", fcntl_getfl},
    {"dup_close", dup_close},
    {"getcwd", getcwd_},
    {"access", access_},
    {"readlink", readlink_},
    {"fork_exit", fork_exit},
    {"mmap_munmap", mmap_munmap},
    {"mmap_fault", mmap_fault},
    {"mprotect", mprotect_},
    {"brk", brk_},
    {"uname", uname_},
    {"sigaction", sigaction_},
    {"sigprocmask", sigprocmask_},
    {"sched_yield", sched_yield_},
    {"getpriority", getpriority_},
    {"read_zero", read_zero},
    {"signal_delivery", signal_delivery},
    {"open_missing", open_missing},
    {"stat_missing", stat_missing},
    {"exec", exec_},
    {"urandom_read", urandom_read},
};
enum { CALLS = sizeof calls / sizeof *calls };

/* What one call of `body`, which maps and unmaps, takes among 0 to 7 mappings more than there are: the median. The kernel keeps mappings,
 * and the holes between them, in a tree whose leaves have 16 places. Where the leaf that `body` changes is full without its mapping, it is split
 * and joined again each time, which takes 1 us: natively too, for one number of mappings in 8 to 16. */
static double ns_among_mappings(void (*body)(void))
{
    enum { MORE = 8 };
    double ns[MORE];
    char *more[MORE];
    for (int i = 0; i < MORE; i++) {
        /* Its neighbours are protected otherwise: they do not become one mapping. */
        ns[i] = ns_per_call(body);
        more[i] = mmap(NULL, PAGE, i % 2 ? PROT_NONE : PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(more[i] != MAP_FAILED, "mmap");
    }
    for (int i = 0; i < MORE; i++)
        munmap(more[i], PAGE);
    qsort(ns, MORE, sizeof *ns, by_value);
    return ns[MORE / 2];
}

static int seccomp_mode(void)
{
    char line[256];
    int mode = -1;
    FILE *self = fopen("/proc/self/status", "r");
    must(self != NULL, "/proc/self/status");
    while (fgets(line, sizeof line, self))
        if (sscanf(line, "Seccomp: %d", &mode) == 1)
            break;
    fclose(self);
    return mode;
}

int main(int count, char **arguments)
{
    struct sigaction action = {.sa_handler = handler};
    program = arguments[0];
    if (count == 3 && !strcmp(arguments[1], "nothing"))
        return 0;
    must((null = open("/dev/null", O_RDWR)) >= 0, "/dev/null");
    must((zero = open("/dev/zero", O_RDONLY)) >= 0, "/dev/zero");
    must((random_ = open("/dev/urandom", O_RDONLY)) >= 0, "/dev/urandom");
    must((file = open("/l/1/file", O_RDONLY)) >= 0, "/l/1/file");
    mapping = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(mapping != MAP_FAILED, "mmap");
    must(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
    if (count == 3) {
        for (int i = 0; i < CALLS; i++)
            if (!strcmp(calls[i].name, arguments[1]))
                for (long left = atol(arguments[2]); left > 0; left--)
                    calls[i].body();
        return 0;
    }
    for (int i = 0; i < CALLS; i++)
        printf("%s %.2f\n", calls[i].name,
               calls[i].body == mmap_munmap || calls[i].body == mmap_fault ? ns_among_mappings(calls[i].body)
                                                                           : ns_per_call(calls[i].body));
    printf("seccomp %d\n", seccomp_mode());
    return 0;
}
