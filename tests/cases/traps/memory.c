/* Memory: pointers that lead nowhere, code that is made at run time, other kinds of system calls. */
#include "traps.h"
#include <elf.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <sys/socket.h>

static volatile sig_atomic_t caught;

static void count(int signal) { caught += signal > 0; }

/* Every kind of argument that is an address, at `bad`. */
static void all_bad(const char *when, void *bad) {
    struct stat found;
    char text[8];
    int pipes[2];
    static char *const nothing[] = {NULL};
    need(pipe(pipes) == 0);
    int directory = open("d", O_RDONLY | O_DIRECTORY);
    int unix_socket = socket(AF_UNIX, SOCK_STREAM, 0);
#define try(...) say(" %s", how(syscall(__VA_ARGS__)))
    say("%s:", when);
    try(SYS_open, bad, O_RDONLY);
    try(SYS_openat, directory, bad, O_RDONLY);
    try(SYS_openat2, AT_FDCWD, "f", bad, 24);
    try(SYS_creat, bad, 0600);
    try(SYS_stat, bad, &found);
    try(SYS_stat, "f", bad);
    try(SYS_lstat, bad, &found);
    try(SYS_newfstatat, AT_FDCWD, "f", bad, 0);
    try(SYS_statx, AT_FDCWD, "f", 0, 0x7ff, bad);
    try(SYS_access, bad, 0);
    try(SYS_readlink, bad, text, sizeof text);
    try(SYS_readlink, "/proc/self/exe", bad, 100);
    try(SYS_readlink, "/proc/self/cwd", bad, 100);
    try(SYS_getcwd, bad, 100);
    try(SYS_getdents64, directory, bad, 1000);
    try(SYS_chdir, bad);
    try(SYS_mkdir, bad, 0700);
    try(SYS_rename, "f", bad);
    try(SYS_rename, bad, "f");
    try(SYS_link, bad, "f2");
    try(SYS_symlink, bad, "f2");
    try(SYS_symlink, "f", bad);
    try(SYS_unlink, bad);
    try(SYS_chmod, bad, 0600);
    try(SYS_truncate, bad, 0);
    try(SYS_utimensat, AT_FDCWD, "f", bad, 0);
    try(SYS_getxattr, bad, "user.x", text, sizeof text);
    try(SYS_getxattr, "f", bad, text, sizeof text);
    try(SYS_execve, bad, nothing, nothing);
    try(SYS_execve, "/proc/self/exe", bad, nothing);
    try(SYS_execve, "/proc/self/exe", nothing, bad);
    try(SYS_bind, unix_socket, bad, 20);
    try(SYS_connect, unix_socket, bad, 20);
    try(SYS_rt_sigaction, SIGSEGV, bad, NULL, 8);
    try(SYS_rt_sigaction, SIGSYS, NULL, bad, 8);
    try(SYS_rt_sigprocmask, SIG_BLOCK, bad, NULL, 8);
    try(SYS_rt_sigprocmask, SIG_BLOCK, NULL, bad, 8);
    try(SYS_ppoll, NULL, 0, NULL, bad, 8);
#undef try
    say(", caught %d\n", caught);
    close(pipes[0]);
    close(pipes[1]);
    close(directory);
    close(unix_socket);
}

static void bad_pointers(void) {
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    char *no_access = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    all_bad("unmapped", (void *)0x1008);
    all_bad("no access", no_access);
    all_bad("no address", (void *)0x8000000000000000);
    all_bad("the kernel's", (void *)0xffffffff81000000);
    signal(SIGSEGV, count);
    signal(SIGBUS, count);
    all_bad("handled", (void *)0x1008);
    sigprocmask(SIG_SETMASK, &all, NULL);
    all_bad("blocked", (void *)0x1008);
    all_bad("blocked, no access", no_access);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGSEGV, SIG_IGN);
    signal(SIGBUS, SIG_IGN);
    all_bad("ignored", (void *)0x1008);
    say("wrong %d\n", paths_wrong());
}

/* A path may end on the last byte that is there, and run beyond it. */
static void at_the_edge(void) {
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(page != MAP_FAILED && munmap(page + 4096, 4096) == 0);
    memcpy(page + 4094, "f", 2);
    say("to the end: %s", how(access(page + 4094, F_OK)));
    page[4095] = 'f';
    say(", beyond: %s", how(access(page + 4094, F_OK)));
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    say(", blocked: %s", how(access(page + 4094, F_OK)));
    memcpy(page + 4094, "f", 2);
    say(", %s", how(access(page + 4094, F_OK)));
    say(", 4095 bytes: ");
    memset(page, '/', 4096);
    page[4095] = 0;
    say("%s", how(access(page, F_OK)));
    page[4095] = '/';
    say(", no end: %s\n", how(access(page, F_OK)));
}

/* A system call from code that no scan has seen. */
static void made_code(void) {
    unsigned char *made = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* mov $21, %eax; syscall; ret */
    static const unsigned char access_[] = {0xb8, 21, 0, 0, 0, 0x0f, 0x05, 0xc3};
    memcpy(made, access_, sizeof access_);
    need(mprotect(made, 4096, PROT_READ | PROT_EXEC) == 0);
    long (*call)(const char *, long) = (long (*)(const char *, long))made;
    say("%ld %ld %ld\n", call("f", 0), call("missing", 0), call("f/x", 0));
}

/* Other ways to call the kernel would lead around the runtime. */
static void other_tables(void) {
    long by_interrupt, x32;
    __asm__ volatile("int $0x80" : "=a"(by_interrupt) : "0"(20L), "b"(0L), "c"(0L), "d"(0L) : "memory");
    __asm__ volatile("syscall" : "=a"(x32) : "0"(0x40000000L | SYS_getpid) : "rcx", "r11", "memory");
    say("int 0x80: %ld, x32: %ld, io_uring: %s\n", by_interrupt, x32, how(syscall(SYS_io_uring_setup, 8, NULL)));
}

static void auxiliary(void) {
    /* All but the addresses and what is different at every start. */
    for (unsigned long key = 2; key < 64; key++) {
        errno = 0;
        unsigned long value = getauxval(key);
        if (errno == ENOENT)
            continue;
        switch (key) {
        case AT_EXECFN: case AT_PLATFORM: case AT_BASE_PLATFORM:
            say("%lu: %s\n", key, (const char *)value);
            break;
        case AT_PHDR: case AT_ENTRY: case AT_BASE: case AT_RANDOM: case AT_SYSINFO_EHDR: case AT_MINSIGSTKSZ:
            say("%lu: %s\n", key, value ? "there" : "0");
            break;
        default:
            say("%lu: %#lx\n", key, value);
        }
    }
    const Elf64_Ehdr *vdso = (const Elf64_Ehdr *)getauxval(AT_SYSINFO_EHDR);
    say("vDSO: %d\n", vdso && memcmp(vdso->e_ident, ELFMAG, SELFMAG) == 0);
    const Elf64_Phdr *headers = (const Elf64_Phdr *)getauxval(AT_PHDR);
    int loads = 0;
    for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++)
        loads += headers[i].p_type == PT_LOAD;
    say("loaded segments: %d\n", loads);
    const unsigned char *random = (const unsigned char *)getauxval(AT_RANDOM);
    int sum = 0;
    for (int i = 0; i < 16; i++)
        sum |= random[i];
    say("random: %d, secure %lu\n", sum != 0, getauxval(AT_SECURE));
}

static char in_image;

static void say_places(void) {
    char on_stack;
    void *mapped = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    say("image %p\ninterpreter %#lx\nstack %p\nmappings %p\nheap %p\nvdso %#lx\n", (void *)&in_image, getauxval(AT_BASE), (void *)&on_stack, mapped,
        sbrk(0), getauxval(AT_SYSINFO_EHDR));
}

const struct trap memory_traps[] = {
    {"bad pointers", bad_pointers},
    {"at the edge", at_the_edge},
    {"made code", made_code},
    {"other tables", other_tables},
    {"auxiliary", auxiliary},
    {"say places", say_places},
    {NULL, NULL},
};
