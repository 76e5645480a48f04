/* What a libc does for a program long after its dynamic linker has ended: `features CASE`. Nothing that differs from run to run is printed,
 * but by the cases that are about that. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <locale.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

extern char **environ;
static char **line;
static __thread int mine = 10;

static const char *base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* A library with a variable of each thread's that lies where the dynamic linker has left room for such libraries. */
static void *count_up(void *count) {
    int (*next)(void) = (int (*)(void))count;
    for (int i = 0; i < 4; i++)
        next();
    return (void *)(long)next();
}

static void static_tls(void) {
    void *library = dlopen("libstatic-tls.so", RTLD_NOW);
    if (!library) {
        printf("%s\n", dlerror());
        return;
    }
    int (*next)(void) = (int (*)(void))dlsym(library, "next");
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, count_up, (void *)next);
    for (int i = 0; i < 3; i++) {
        void *result;
        pthread_join(threads[i], &result);
        printf("thread %ld\n", (long)result);
    }
    printf("main %d\n", next());
    void *missing = dlopen("libmissing.so", RTLD_NOW);
    printf("missing: %d %s\n", missing != NULL, dlerror());
    printf("closed %d\n", dlclose(library));
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static pthread_key_t key;
static int arrived, cleaned;

static void clean(void *value) { __atomic_add_fetch(&cleaned, (int)(long)value, __ATOMIC_RELAXED); }

static void *work(void *number) {
    mine += (int)(long)number;
    pthread_setspecific(key, number);
    pthread_mutex_lock(&lock);
    if (++arrived == 8)
        pthread_cond_broadcast(&turn);
    while (arrived < 8)
        pthread_cond_wait(&turn, &lock);
    pthread_mutex_unlock(&lock);
    pthread_attr_t attributes;
    size_t size;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstacksize(&attributes, &size);
    char *block = malloc(100000);
    memset(block, 1, 100000);
    free(block);
    pthread_exit((void *)(long)(mine + (size == 256 * 1024 ? 100 : 0) + (syscall(SYS_gettid) != getpid() ? 1000 : 0)));
}

static void *wait_for_ever(void *unused) {
    (void)unused;
    pthread_cleanup_push(clean, (void *)1000L);
    for (;;)
        pause();
    pthread_cleanup_pop(0);
    return NULL;
}

static void threads(void) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    pthread_key_create(&key, clean);
    pthread_t all[8];
    for (long i = 0; i < 8; i++)
        pthread_create(&all[i], &attributes, work, (void *)(i + 1));
    for (int i = 0; i < 8; i++) {
        void *result;
        pthread_join(all[i], &result);
        printf("thread %ld\n", (long)result);
    }
    pthread_t waits;
    void *result;
    pthread_create(&waits, NULL, wait_for_ever, NULL);
    pthread_cancel(waits);
    pthread_join(waits, &result);
    printf("cancelled %d, cleaned %d, main %d\n", result == PTHREAD_CANCELED, cleaned, mine);
}

/* A mutex whose owner has died: the kernel goes through the list that the dynamic linker told it of. */
static void robust(void) {
    pthread_mutex_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char number[32];
    int file = memfd_create("mutex", 0);
    if (ftruncate(file, 4096))
        return;
    munmap(shared, 4096);
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(shared, &attributes);
    snprintf(number, sizeof number, "%d", file);
    char *child[] = {line[0], "robust-child", number, NULL};
    pid_t pid;
    int status = -1;
    posix_spawn(&pid, line[0], NULL, NULL, child, environ);
    waitpid(pid, &status, 0);
    printf("child %d, owner dead %d\n", WEXITSTATUS(status), pthread_mutex_lock(shared) == EOWNERDEAD);
    pthread_mutex_consistent(shared);
    printf("unlocked %d\n", pthread_mutex_unlock(shared));
}

static void robust_child(void) {
    pthread_mutex_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(line[2]), 0);
    _exit(pthread_mutex_lock(shared) == 0 ? 9 : 8);
}

static int is_registered(void) {
    struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
    return __rseq_size && (int)area->cpu_id >= 0 && (area->cpu_id == area->cpu_id_start);
}

static void *registered(void *unused) {
    (void)unused;
    return (void *)(long)is_registered();
}

static void restartable(void) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, registered, NULL);
    pthread_join(thread, &result);
    printf("rseq %d, in a thread %d\n", is_registered(), (int)(long)result);
}

static void strings(void) {
    static char from[5000], to[5000], reference[5000];
    int wrong = 0;
    for (int i = 0; i < 5000; i++)
        from[i] = (char)(i * 7 % 251 + 1);
    for (int len = 0; len < 4500; len = len * 5 / 4 + 1) {
        for (int at = 0; at < 70; at += 23) {
            memset(to, 0, sizeof to);
            memset(reference, 0, sizeof reference);
            for (volatile int i = 0; i < len; i++)
                reference[at + i] = from[i + 3];
            memcpy(to + at, from + 3, (size_t)len);
            wrong += memcmp(to, reference, sizeof to) != 0;
            wrong += strlen(to + at) != (size_t)len;
            wrong += len > 0 && memchr(to + at, from[3 + len - 1], (size_t)len) == NULL;
        }
    }
    printf("strings: %d wrong\n", wrong);
}

static void clocks(void) {
    struct timespec last = {0, 0}, now;
    int backwards = 0;
    for (int i = 0; i < 1000; i++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        backwards += now.tv_sec < last.tv_sec || (now.tv_sec == last.tv_sec && now.tv_nsec < last.tv_nsec);
        last = now;
        clock_gettime(CLOCK_REALTIME, &now);
        time(NULL);
    }
    printf("backwards %d, since 2020 %d\n", backwards, now.tv_sec > 1577836800);
}

static void processes(void) {
    pid_t pid;
    int status;
    char *leaf[] = {line[0], "leaf", "spawned", NULL};
    fflush(stdout);
    posix_spawn(&pid, line[0], NULL, NULL, leaf, environ);
    waitpid(pid, &status, 0);
    printf("spawned %d\n", WEXITSTATUS(status));
    fflush(stdout);
    if (!(pid = fork())) {
        leaf[2] = "executed";
        execve(line[0], leaf, environ);
        _exit(1);
    }
    waitpid(pid, &status, 0);
    printf("executed %d\n", WEXITSTATUS(status));
    fflush(stdout);
    if (!(pid = fork()))
        exit(mine + (getpid() == (int)syscall(SYS_gettid)));
    waitpid(pid, &status, 0);
    printf("forked %d\n", WEXITSTATUS(status));
    if (!(pid = vfork()))
        _exit(4);
    waitpid(pid, &status, 0);
    printf("vforked %d\n", WEXITSTATUS(status));
}

static void leaf(void) {
    printf("leaf %s\n", line[2]);
    exit(6);
}

static void ended(void) { printf("at exit\n"); }
static void on_end(int status, void *unused) {
    (void)unused;
    printf("on exit %d\n", status);
}
static int constructed;
__attribute__((constructor)) static void construct(int count, char **arguments, char **variables) {
    constructed = count > 0 && arguments[count] == NULL && variables == environ && arguments + count + 1 == variables;
}
__attribute__((destructor)) static void destruct(void) { printf("destructed\n"); }

static void ends(void) {
    printf("constructed %d\n", constructed);
    atexit(ended);
    on_exit(on_end, NULL);
}

static void hexadecimal(const char *what, const void *at, size_t len) {
    printf("%s ", what);
    for (size_t i = 0; i < len; i++)
        printf("%02x", ((const unsigned char *)at)[i]);
    printf("\n");
}

static void secrets(void) {
    uint64_t canary, guard;
    __asm__("mov %%fs:0x28, %0; mov %%fs:0x30, %1" : "=r"(canary), "=r"(guard));
    hexadecimal("random", (void *)getauxval(AT_RANDOM), 16);
    hexadecimal("canary", &canary, 8);
    hexadecimal("guard", &guard, 8);
}

__attribute__((noinline)) static void smashed(volatile char *text, size_t len) {
    char small[8];
    volatile char *to = small;
    for (size_t i = 0; i < len; i++)
        to[i] = text[i % 4];
}
static void smash(void) { smashed("abc", 64); }

static jmp_buf back;
static ucontext_t main_context, other_context;
static int visited;
static void caught(int signal) { longjmp(back, signal); }
static void visit(void) {
    visited++;
    swapcontext(&other_context, &main_context);
    visited++;
}

static void jumps(void) {
    int jumped = setjmp(back);
    if (jumped < 3)
        longjmp(back, jumped + 1);
    printf("jumped %d\n", jumped);
    signal(SIGUSR1, caught);
    jumped = setjmp(back);
    if (!jumped)
        raise(SIGUSR1);
    printf("out of a handler %d\n", jumped == SIGUSR1);
    static char stack[65536];
    getcontext(&other_context);
    other_context.uc_stack.ss_sp = stack;
    other_context.uc_stack.ss_size = sizeof stack;
    other_context.uc_link = &main_context;
    makecontext(&other_context, visit, 0);
    swapcontext(&main_context, &other_context);
    printf("visited %d\n", visited);
    swapcontext(&main_context, &other_context);
    printf("visited %d\n", visited);
}

/* What debuggers and unwinders go by. */
static int objects(struct dl_phdr_info *info, size_t size, void *before) {
    struct link_map **map = before;
    (void)size;
    /* The vDSO is among the objects, and of no file: it is not in each list. */
    int is_same = *map && (*map)->l_addr == info->dlpi_addr && !strcmp((*map)->l_name, info->dlpi_name);
    printf("object %s: same %d, headers %d\n", base(info->dlpi_name), is_same, info->dlpi_phnum > 3);
    *map = *map ? (*map)->l_next : NULL;
    return 0;
}

static void lists(void) {
    struct r_debug *told = NULL;
    for (const ElfW(Dyn) *row = _DYNAMIC; row->d_tag != DT_NULL; row++)
        if (row->d_tag == DT_DEBUG)
            told = (void *)row->d_un.d_ptr;
    struct r_debug *debug = dlsym(RTLD_DEFAULT, "_r_debug");
    printf("told %d, state %d\n", debug && told == debug, debug->r_state);
    Dl_info where;
    printf("breakpoint in %s\n", dladdr((void *)debug->r_brk, &where) ? base(where.dli_fname) : "?");
    for (struct link_map *map = debug->r_map; map; map = map->l_next) {
        const unsigned char *start = (void *)map->l_addr;
        printf("map %s: elf %d, dynamic %d\n", base(map->l_name), !memcmp(start, "\177ELF", 4), (char *)map->l_ld > (char *)start);
    }
    struct link_map *first = debug->r_map;
    dl_iterate_phdr(objects, &first);
    printf("printf in %s\n", dladdr(dlsym(RTLD_DEFAULT, "printf"), &where) ? base(where.dli_fname) : "?");
}

__attribute__((noinline)) void deepest(void) {
    void *frames[20];
    int count = backtrace(frames, 20);
    for (int i = 0; i < count; i++) {
        Dl_info where = {0};
        dladdr(frames[i], &where);
        printf("frame %s %s\n", where.dli_fname ? base(where.dli_fname) : "?", where.dli_sname ? where.dli_sname : "?");
    }
}
__attribute__((noinline)) int compared(const void *one, const void *other) {
    static int is_shown;
    if (!is_shown++)
        deepest();
    return *(const int *)one - *(const int *)other;
}
__attribute__((noinline)) void sorts(void) {
    int numbers[] = {3, 1, 2};
    qsort(numbers, 3, sizeof *numbers, compared);
    printf("%d %d %d\n", numbers[0], numbers[1], numbers[2]);
}

/* For a debugger that attaches. */
__attribute__((noinline)) int held(const void *one, const void *other) {
    printf("ready\n");
    fflush(stdout);
    for (;;)
        pause();
    return one < other;
}
__attribute__((noinline)) void hold(void) {
    /* Where Yama lets only parents attach. Without Yama it fails, and nothing is lost. */
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    int numbers[] = {3, 1, 2};
    qsort(numbers, 3, sizeof *numbers, held);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"static-tls", static_tls}, {"threads", threads},     {"robust", robust}, {"robust-child", robust_child},
    {"rseq", restartable},      {"strings", strings},     {"clocks", clocks}, {"processes", processes},
    {"leaf", leaf},             {"ends", ends},           {"jumps", jumps},   {"secrets", secrets},
    {"smash", smash},           {"lists", lists},         {"sorts", sorts},   {"hold", hold},
};

int main(int count, char **arguments) {
    line = arguments;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; count > 1 && i < sizeof cases / sizeof *cases; i++) {
        if (!strcmp(cases[i].name, arguments[1])) {
            cases[i].run();
            return 7;
        }
    }
    return 2;
}
