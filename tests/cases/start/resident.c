/* What a program must find that goes on from a snapshot: all that its dynamic linker, its constructors and the kernel tell it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <locale.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static __thread int mine = 3;
static int constructed;
static sigjmp_buf back;

__attribute__((constructor)) static void construct(int count, char **arguments, char **variables) {
    constructed = count + (variables == environ) + (arguments[count] == NULL);
}

static int chosen(void) { return 42; }
static int (*choose(void))(void) { return chosen; }
int indirect(void) __attribute__((ifunc("choose")));

static void *thread(void *from) {
    mine += 1;
    return (void *)(long)(mine + *(int *)from);
}

static int objects(struct dl_phdr_info *info, size_t size, void *count) {
    (void)info, (void)size;
    ++*(int *)count;
    return 0;
}

static void jump(int signal) { siglongjmp(back, signal); }

static int word(const void *at, unsigned long *into) { return memcpy(into, at, 8) != NULL; }

int main(int count, char **arguments) {
    printf("constructed %d\n", constructed - count);
    for (int i = 0; i < count; i++)
        printf("%s\n", arguments[i]);
    printf("greeting %s\n", getenv("GREETING"));
    printf("indirect %d\n", indirect());
    printf("pid %d %d\n", getpid() == (int)syscall(SYS_getpid), (int)syscall(SYS_gettid) == getpid());
    unsigned long random[2], canary, guard;
    word((void *)getauxval(AT_RANDOM), &random[0]);
    word((void *)getauxval(AT_RANDOM) + 8, &random[1]);
    __asm__("mov %%fs:0x28, %0; mov %%fs:0x30, %1" : "=r"(canary), "=r"(guard));
    printf("canary %d %d\n", canary == (random[0] & ~0xfful), guard == random[1]);
    printf("execfn %s\n", (char *)getauxval(AT_EXECFN));
    const ElfW(Ehdr) *self = dlsym(RTLD_DEFAULT, "__ehdr_start");
    const ElfW(Phdr) *headers = (void *)getauxval(AT_PHDR);
    printf("headers %d %lu\n", headers[0].p_type == PT_PHDR, getauxval(AT_PHNUM));
    (void)self;
    int loaded = 0;
    dl_iterate_phdr(objects, &loaded);
    printf("objects %d\n", loaded);
    struct rlimit limit;
    pthread_attr_t attributes;
    size_t size = 0;
    getrlimit(RLIMIT_STACK, &limit);
    pthread_attr_init(&attributes);
    pthread_attr_getstacksize(&attributes, &size);
    printf("stack %d\n", size == limit.rlim_cur);
    pthread_t id;
    void *result;
    pthread_create(&id, NULL, thread, &mine);
    pthread_join(id, &result);
    printf("thread %ld %d\n", (long)result, mine);
    struct timespec one, other;
    clock_gettime(CLOCK_MONOTONIC, &one);
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &other);
    printf("clock %d\n", other.tv_sec - one.tv_sec < 5 && one.tv_sec <= other.tv_sec);
    void *library = dlopen("libm.so.6", RTLD_NOW);
    double (*root)(double) = library ? (double (*)(double))dlsym(library, "sqrt") : NULL;
    printf("dlopen %d\n", root ? (int)root(1764) : -1);
    char *heap = sbrk(0), *more = sbrk(4096);
    printf("heap %d\n", heap == more && sbrk(0) == heap + 4096);
    char *blocks[100];
    for (int i = 0; i < 100; i++)
        blocks[i] = memset(malloc(3000 * (i + 1)), i, 3000 * (i + 1));
    for (int i = 0; i < 100; i++)
        free(blocks[i]);
    signal(SIGSEGV, jump);
    int caught = sigsetjmp(back, 1);
    if (!caught)
        *(volatile int *)8 = 1;
    printf("signal %d\n", caught == SIGSEGV);
    printf("locale %s\n", setlocale(LC_ALL, "C"));
    printf("cpu %d\n", sched_getcpu() >= 0);
    int status = 0;
    fflush(stdout);
    if (!fork())
        _exit(getpid() == (int)syscall(SYS_gettid) ? 5 : 6);
    wait(&status);
    printf("child %d\n", WEXITSTATUS(status));
    char *line[] = {arguments[0], "last", NULL};
    fflush(stdout);
    if (count < 3 && (count == 1 || strcmp(arguments[1], "last")))
        execv("/proc/self/exe", line);
    return 7;
}
