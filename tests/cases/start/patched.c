/* Says whether its calls are filtered, and what becomes of that. With words: one case after the other. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Whether this thread has a filter: the runtime's, as the test has none of its own. */
static int filtered(void) { return prctl(PR_GET_SECCOMP) == 2; }

#ifdef ROOM
/* So much that it covers where others might lie. */
char room[ROOM];
#endif

static void lookups(void) {
    struct stat found;
    char text[100] = "";
    int fd = open("/w/f", O_RDONLY);
    int missing = open("/w/missing", O_RDONLY), why = errno;
    int listed = stat("/w/d", &found), there = access("/bin/patched", X_OK);
    errno = 0;
    ssize_t link = readlink("/proc/self/exe", text, sizeof text - 1);
    printf("open %d, missing %d %d, stat %d, access %d, exe %zd %s\n", fd >= 0, missing, why, listed, there, link, text);
    close(fd);
}

/* fstatat(2) by an empty path, and by what is nearly one. */
static void by_descriptor(void) {
    struct stat found = {0};
    char *edge = (char *)mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 4096;
    munmap(edge, 4096);
    edge[-1] = 0;
    strcpy(edge - 16, "/w/f");
    const char *paths[] = {"", edge - 1, edge, (const char *)8, "/w/f", "f", edge - 16, "missing"};
    int descriptors[] = {open("/w/f", O_RDONLY), open("/w", O_RDONLY), AT_FDCWD, -1};
    sigset_t all, none;
    sigfillset(&all);
    for (int blocked = 0; blocked < 2; blocked++) {
        sigprocmask(SIG_BLOCK, blocked ? &all : NULL, &none);
        for (size_t d = 0; d < sizeof descriptors / sizeof *descriptors; d++)
            for (size_t p = 0; p < sizeof paths / sizeof *paths; p++)
                for (int flags = 0; flags <= AT_EMPTY_PATH + 0x100; flags += 0x100) {
                    if (flags & 0xe00)
                        continue;
                    found.st_ino = 0;
                    errno = 0;
                    long result = syscall(SYS_newfstatat, descriptors[d], paths[p], &found, flags);
                    printf("%d %zu %zu %x: %ld %d %lu\n", blocked, d, p, flags, result, errno, (unsigned long)found.st_ino);
                }
        errno = 0;
        long result = syscall(SYS_newfstatat, descriptors[0], "", (void *)8, AT_EMPTY_PATH);
        printf("%d into nowhere: %ld %d\n", blocked, result, errno);
    }
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The mask without SIGSYS, which is never blocked under the runtime. */
static unsigned long shown(unsigned long mask) { return mask & ~(1UL << (SIGSYS - 1)); }

/* rt_sigprocmask(2) in all ways that are told apart, from masks that are told apart: what it says, and the mask afterwards, under which a bad
 * path is still EFAULT and no call is deadly. */
static void masks(void) {
    char *edge = (char *)mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 4096;
    munmap(edge, 4096);
    const int blocked[][3] = {{0}, {SIGUSR1}, {SIGSYS}, {SIGSEGV}, {SIGBUS}, {SIGSYS, SIGSEGV, SIGBUS}, {SIGKILL, SIGUSR2, 64}};
    enum { SETS = sizeof blocked / sizeof *blocked };
    unsigned long bits[SETS] = {0}, start;
    for (int set = 0; set < SETS; set++)
        for (int i = 0; i < 3 && blocked[set][i]; i++)
            bits[set] |= 1UL << (blocked[set][i] - 1);
    const long hows[] = {SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK, 3, -1, 1L << 32 | SIG_SETMASK}, lens[] = {8, 4, 1L << 32 | 8};
    void *const sets[SETS + 4] = {bits, bits + 1, bits + 2, bits + 3, bits + 4, bits + 5, bits + 6, NULL, (void *)8, edge, edge - 4};
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &start, 8);
    for (int before = 0; before < SETS; before++)
        for (size_t how = 0; how < sizeof hows / sizeof *hows; how++)
            for (size_t set = 0; set < SETS + 4; set++)
                for (int old = 0; old < 3; old++)
                    for (size_t len = 0; len < sizeof lens / sizeof *lens; len++) {
                        unsigned long told = 0, now = 0;
                        void *const olds[] = {NULL, &told, (void *)8};
                        syscall(SYS_rt_sigprocmask, SIG_SETMASK, bits + before, NULL, 8);
                        errno = 0;
                        long result = syscall(SYS_rt_sigprocmask, hows[how], sets[set], olds[old], lens[len]);
                        int why = errno;
                        syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &now, 8);
                        long bad = syscall(SYS_access, 8, F_OK), missing = syscall(SYS_access, "/w/missing", F_OK);
                        printf("%d %zu %zu %d %zu: %ld %d %lx %lx %ld %ld %d\n", before, how, set, old, len, result, why, shown(told), shown(now),
                               bad, missing, errno);
                    }
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &start, NULL, 8);
}

/* Blocks a signal, and nothing, and neither any more: so often. */
static void block(int signal, int times) {
    sigset_t set, old;
    sigemptyset(&set);
    if (signal)
        sigaddset(&set, signal);
    for (int i = 0; i < times; i++) {
        sigprocmask(SIG_BLOCK, &set, &old);
        sigprocmask(SIG_BLOCK, NULL, NULL);
        sigprocmask(SIG_SETMASK, &old, NULL);
    }
}

static atomic_int stage;

static void *waits(void *nothing) {
    while (atomic_load(&stage) == 0)
        usleep(1000);
    struct stat found;
    /* By an instruction that nobody has patched. */
    long answer;
    __asm__ volatile("syscall" : "=a"(answer) : "0"(SYS_stat), "D"("/w/f"), "S"(&found) : "rcx", "r11", "memory");
    printf("the thread's stat %ld, filtered %d\n", answer, filtered());
    return nothing;
}

/* open("/w/f") and return, as code that is made. */
static const unsigned char made[] = {0xb8, 2, 0, 0, 0, 0x0f, 0x05, 0xc3};

static void make_code(int twice) {
    int protection = PROT_READ | PROT_WRITE | (twice ? 0 : PROT_EXEC);
    void *code = mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code, made, sizeof made);
    if (twice && mprotect(code, 4096, PROT_READ | PROT_EXEC) != 0)
        printf("mprotect: %d\n", errno);
    long (*opens)(const char *, int, int) = (long (*)(const char *, int, int))code;
    printf("made code opens %d\n", opens("/w/f", O_RDONLY, 0) >= 0);
}

static void maps(void) {
    char line[4096];
    int copies = 0, texts = 0, low = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, file)) {
        copies += strstr(line, "/text/") != NULL;
        texts += strstr(line, " r-xp ") && strstr(line, "/libc.so.6\n") != NULL;
        unsigned long start = strtoul(line, NULL, 16);
        low += start >= 0x10000000 && start < 0x40000000;
    }
    fclose(file);
    printf("copies %d, libc's text %d, blocks %d\n", copies, texts, low);
}

static int each(struct dl_phdr_info *info, size_t size, void *count) {
    (void)size;
    *(int *)count += info->dlpi_phnum > 0;
    return 0;
}

static void again(const char *library) {
    void *second = dlmopen(LM_ID_NEWLM, library, RTLD_NOW);
    printf("a second %s: %s\n", library, second ? "ok" : dlerror());
    pid_t (*get)(void) = (pid_t (*)(void))dlsym(second, "getpid");
    int (*opens)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(second, "open");
    printf("its getpid %d, its open %d\n", get && get() == getpid(), opens && opens("/w/f", O_RDONLY) >= 0);
}

static void forks(void) {
    fflush(stdout);
    pid_t child = vfork();
    if (child == 0) {
        mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        execl("/bin/patched", "patched", "quiet", "lookups", NULL);
        _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    printf("the child of vfork: %d\n", status);
}

int main(int count, char **words) {
    /* The runtime's filter shows; what it does must not. */
    int is_quiet = count > 1 && strcmp(words[1], "quiet") == 0;
    if (!is_quiet)
        printf("filtered %d\n", filtered());
    for (int i = 1 + is_quiet; i < count; i++) {
        pthread_t thread;
        int images = 0;
        if (strcmp(words[i], "lookups") == 0) {
            lookups();
        } else if (strcmp(words[i], "status") == 0) {
            by_descriptor();
        } else if (strcmp(words[i], "masks") == 0) {
            masks();
        } else if (strcmp(words[i], "block") == 0 && i + 2 < count) {
            block(atoi(words[i + 1]), atoi(words[i + 2]));
            i += 2;
        } else if (strcmp(words[i], "code") == 0) {
            make_code(0);
        } else if (strcmp(words[i], "protect") == 0) {
            make_code(1);
        } else if (strcmp(words[i], "thread") == 0) {
            pthread_create(&thread, NULL, waits, NULL);
            usleep(10000);
            make_code(0);
            atomic_store(&stage, 1);
            pthread_join(thread, NULL);
        } else if (strcmp(words[i], "maps") == 0) {
            maps();
        } else if (strcmp(words[i], "again") == 0) {
            again("libc.so.6");
        } else if (strcmp(words[i], "vfork") == 0) {
            forks();
        } else if (strcmp(words[i], "images") == 0) {
            dl_iterate_phdr(each, &images);
            printf("images %d\n", images);
        } else if (strcmp(words[i], "make") == 0 && i + 1 < count) {
            printf("make %d\n", mkdir(words[++i], 0755));
        } else if (strcmp(words[i], "exec") == 0) {
            fflush(stdout);
            execv("/bin/patched", words + i);
        } else {
            printf("there is no case %s\n", words[i]);
        }
    }
    if (!is_quiet)
        printf("filtered %d\n", filtered());
    return 0;
}
