/*
 * Memory that the runtime may populate: data that is relocated, of a program, of a library, and of a dump, a heap that grows, and what is
 * mapped before it can be written to. With LIBRARY it is that library. What it says is the same natively.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Twenty pages of words that the dynamic linker writes, each the address of its own successor but for the last one's. */
enum { WORDS = 20 * 512 };
#define A(n) &table[(n) + 1],
#define B(n) A(n) A((n) + 1) A((n) + 2) A((n) + 3) A((n) + 4) A((n) + 5) A((n) + 6) A((n) + 7)
#define C(n) B(n) B((n) + 8) B((n) + 16) B((n) + 24) B((n) + 32) B((n) + 40) B((n) + 48) B((n) + 56)
#define D(n) C(n) C((n) + 64) C((n) + 128) C((n) + 192) C((n) + 256) C((n) + 320) C((n) + 384) C((n) + 448)
#define E(n) D(n) D((n) + 512) D((n) + 1024) D((n) + 1536) D((n) + 2048)
void *table[WORDS] = {E(0) E(2560) E(5120) E(7680)};

/* How many of them lead to the next one. */
int chain(void) {
    int good = 0;
    for (int i = 0; i < WORDS; i++)
        good += table[i] == (void *)&table[i + 1];
    return good;
}

#ifndef LIBRARY
static void need(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(95);
    }
}

enum { STEP = 132 << 10 };

/* Grows the heap by STEP: how many of the bytes that it gets are not zero. */
static int grow(void) {
    unsigned char *from = sbrk(STEP);
    need(from != (void *)-1, "sbrk");
    int wrong = 0;
    for (int i = 0; i < STEP; i++)
        wrong += from[i] != 0;
    memset(from, 0x5a, STEP);
    return wrong;
}

static int grow_often(int times) {
    int wrong = 0;
    while (times--)
        wrong += grow();
    return wrong;
}

/* From now on who advises about memory is killed. */
static void forbid(int by_prctl) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no new privileges");
    if (by_prctl)
        need(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "prctl");
    else
        need(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0, "seccomp");
}

static void library(void) {
    void *library = dlopen("/lib/libpopulated.so", RTLD_NOW);
    if (!library)
        puts(dlerror());
    need(library != NULL, "dlopen");
    int (*of)(void) = (int (*)(void))dlsym(library, "chain");
    need(of != NULL, "dlsym");
    printf("library %d\n", of());
}

enum { PAGE = 4096, PAGES = 300 };

/* Maps the first pages of a file as Emacs does a dump, and writes to them: how many are as they are in the file before, and after. */
static void dump(const char *path) {
    static unsigned char page[PAGE];
    int file = open(path, O_RDONLY), before = 0, after = 0;
    need(file >= 0, path);
    unsigned char *room = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(room != MAP_FAILED, "room");
    unsigned char *at = mmap(room, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0);
    need(at == room, "mmap");
    for (int i = 0; i < PAGES; i++) {
        need(pread(file, page, PAGE, (off_t)i * PAGE) == PAGE, "pread");
        before += !memcmp(page, at + i * PAGE, PAGE);
        memset(at + i * PAGE, i ^ 0x5a, PAGE);
    }
    for (int i = 0; i < PAGES; i++) {
        memset(page, i ^ 0x5a, PAGE);
        after += !memcmp(page, at + i * PAGE, PAGE);
    }
    printf("%s %d %d\n", path, before, after);
    close(file);
}

/* Makes memory writable, and writes to it: how many of its bytes are not as they are in the file, or not zero, before. */
static int opened(unsigned char *at, size_t len, int file, off_t offset) {
    static unsigned char page[PAGE];
    int wrong = 0;
    need(mprotect(at, len, PROT_READ | PROT_WRITE) == 0, "mprotect");
    for (size_t i = 0; i < len; i++) {
        if (file >= 0 && i % PAGE == 0)
            need(pread(file, page, PAGE, offset + i) == PAGE, "pread");
        wrong += at[i] != page[i % PAGE];
    }
    memset(at, 0x5a, len);
    return wrong;
}

/* Two parts of a file that was mapped to be read. */
static void modules(void) {
    int file = open("/lib/dump", O_RDONLY);
    need(file >= 0, "open");
    unsigned char *at = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_PRIVATE, file, 0);
    need(at != MAP_FAILED, "mmap");
    int wrong = opened(at + 10 * PAGE, 100 * PAGE - 1, file, 10 * PAGE);
    printf("modules %d", wrong);
    printf(" %d\n", opened(at + 200 * PAGE, 50 * PAGE, file, 200 * PAGE));
    close(file);
}

/* A block of reserved memory, and what is none. */
static void blocks(void) {
    size_t block = 64 * PAGE, room = 4 * block;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    for (int is_block = 0; is_block < 2; is_block++) {
        uintptr_t at = (uintptr_t)mmap(NULL, room, PROT_NONE, flags, -1, 0);
        need(at != (uintptr_t)MAP_FAILED, "mmap");
        at = (at + block - 1) / block * block;
        printf("block %d\n", opened((void *)at, is_block ? block : block + PAGE, -1, 0));
    }
}

/* A file that is mapped to be shared where another one was: whether its times change when it could be written to. */
static void shared(void) {
    static const char content[8 * PAGE];
    struct timespec long_ago[2] = {{1, 0}, {1, 0}};
    struct stat found;
    int module = open("/lib/dump", O_RDONLY), file = open("/tmp/shared", O_RDWR | O_CREAT | O_TRUNC, 0600);
    need(module >= 0 && file >= 0, "open");
    need(write(file, content, sizeof content) == sizeof content && futimens(file, long_ago) == 0, "write");
    void *at = mmap(NULL, sizeof content, PROT_READ, MAP_PRIVATE, module, 0);
    need(at != MAP_FAILED && munmap(at, sizeof content) == 0, "mmap");
    need(mmap(at, sizeof content, PROT_READ, MAP_SHARED, file, 0) == at, "mmap in its place");
    need(mprotect(at, sizeof content, PROT_READ | PROT_WRITE) == 0, "mprotect");
    need(fstat(file, &found) == 0, "fstat");
    printf("shared %ld\n", (long)found.st_mtim.tv_sec);
    need(unlink("/tmp/shared") == 0 && munmap(at, sizeof content) == 0, "unlink");
    close(module);
    close(file);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int i = 1; i < argc; i++) {
        const char *what = argv[i];
        if (!strcmp(what, "program")) {
            printf("program %d\n", chain());
        } else if (!strcmp(what, "library")) {
            library();
        } else if (what[0] == '/') {
            dump(what);
        } else if (!strcmp(what, "modules")) {
            modules();
        } else if (!strcmp(what, "blocks")) {
            blocks();
        } else if (!strcmp(what, "shared")) {
            shared();
        } else if (!strcmp(what, "heap")) {
            printf("heap %d\n", grow_often(8));
        } else if (!strcmp(what, "shrink")) {
            int wrong = grow_often(4);
            need(sbrk(-3 * STEP) != (void *)-1, "sbrk");
            printf("shrunk %d\n", wrong + grow_often(6));
        } else if (!strcmp(what, "fork")) {
            int wrong = grow_often(3), status;
            fflush(NULL);
            pid_t child = fork();
            need(child >= 0, "fork");
            wrong += grow_often(3);
            if (child == 0)
                _exit(wrong);
            need(waitpid(child, &status, 0) == child, "waitpid");
            printf("forked %d %d\n", wrong, status);
        } else if (!strcmp(what, "ask")) {
            /* MADV_POPULATE_WRITE. */
            void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            need(page != MAP_FAILED, "mmap");
            printf("asked %d\n", madvise(page, 4096, 23) == 0 ? 0 : errno);
        } else if (!strcmp(what, "limited")) {
            /* Of the data, which is all that brk counts. */
            struct rlimit limit;
            need(getrlimit(RLIMIT_DATA, &limit) == 0, "getrlimit");
            int wrong = grow_often(3);
            limit.rlim_cur = 1;
            need(setrlimit(RLIMIT_DATA, &limit) == 0, "setrlimit");
            int refused = sbrk(STEP) == (void *)-1 && errno == ENOMEM;
            limit.rlim_cur = limit.rlim_max;
            need(setrlimit(RLIMIT_DATA, &limit) == 0, "setrlimit");
            printf("limited %d, refused %d\n", wrong + grow_often(3), refused);
        } else {
            forbid(!strcmp(what, "prctl"));
            printf("forbidden %d\n", grow_often(6));
            library();
        }
    }
}
#endif
