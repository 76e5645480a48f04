/* What a program finds when it starts. */
#include "process.h"
#include <elf.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

extern char **environ;

static void given(void) {
    char text[4096] = "", name[17] = "";
    FILE *file = fopen("/proc/self/cmdline", "r");
    if (file) {
        size_t used = fread(text, 1, sizeof text - 1, file);
        for (size_t i = 0; i + 1 < used; i++)
            if (!text[i])
                text[i] = '|';
        fclose(file);
    }
    say("  line %s\n", text);
    prctl(PR_GET_NAME, name);
    say("  name %s\n", name);
    memset(text, 0, sizeof text);
    say("  exe %s %s\n", how(readlink("/proc/self/exe", text, sizeof text - 1)), text);
    say("  cwd %s\n", getcwd(text, sizeof text));
    say("  descriptors");
    for (int fd = 0; fd < 64; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            say(" %d", fd);
    struct rlimit limit;
    getrlimit(RLIMIT_STACK, &limit);
    mode_t mask = umask(0);
    say("\n  stack %ld, umask %o, priority %d\n", (long)limit.rlim_cur, mask, getpriority(PRIO_PROCESS, 0));
    say("  parent %s\n", getppid() > 1 ? "there" : "gone");
}

static int is_mapped(unsigned long at) {
    unsigned char resident;
    return at && mincore((void *)(at & ~4095ul), 4096, &resident) == 0;
}

static void auxiliary(void) {
    say("execfn %s\n", (const char *)getauxval(AT_EXECFN));
    say("platform %s\n", (const char *)getauxval(AT_PLATFORM));
    say("secure %lu, page %lu, tick %lu\n", getauxval(AT_SECURE), getauxval(AT_PAGESZ), getauxval(AT_CLKTCK));
    say("header size %lu\n", getauxval(AT_PHENT));
    unsigned long headers = getauxval(AT_PHDR), entry = getauxval(AT_ENTRY);
    say("headers %d, entry %d, random %d, vdso %d\n", is_mapped(headers), is_mapped(entry), is_mapped(getauxval(AT_RANDOM)),
        is_mapped(getauxval(AT_SYSINFO_EHDR)));
    say("ids %d\n", getauxval(AT_UID) == getuid() && getauxval(AT_EGID) == getegid());
    Elf64_Ehdr header;
    int fd = open("/proc/self/exe", O_RDONLY);
    need(fd >= 0 && read(fd, &header, sizeof header) == sizeof header, "/proc/self/exe");
    unsigned long base = headers - header.e_phoff;
    say("as many as the file has: %d\n", getauxval(AT_PHNUM) == header.e_phnum);
    say("the file's entry: %d\n", entry == header.e_entry || entry == base + header.e_entry);
    say("hardware %d, flags %lu\n", getauxval(AT_HWCAP) != 0, getauxval(AT_FLAGS));
}

/* Two starts of one program do not lie in the same place, unless somebody has asked for that. */
static unsigned long place_in_child(int which) {
    int ends[2];
    need(pipe(ends) == 0, "pipe");
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 1);
        execl("/bin/process", "process", which ? "-its stack" : "-its mappings", NULL);
        _exit(98);
    }
    unsigned long place = 0;
    need(read(ends[0], &place, sizeof place) == sizeof place, "the child's place");
    waitpid(child, NULL, 0);
    close(ends[0]);
    close(ends[1]);
    return place;
}

static void its_stack(void) {
    int here;
    unsigned long place = (unsigned long)&here;
    need(write(1, &place, sizeof place) > 0, "write");
}

static void its_mappings(void) {
    void *place = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(write(1, &place, sizeof place) > 0, "write");
}

static void random_places(void) {
    for (int which = 0; which < 2; which++) {
        int different = 0;
        unsigned long first = place_in_child(which);
        for (int i = 0; i < 6; i++)
            different |= place_in_child(which) != first;
        say("%s: %s\n", which ? "stack" : "mappings", different ? "at random" : "always the same");
    }
}

static void heap(void) {
    char *start = sbrk(0);
    say("grows %s\n", how(brk(start + (8 << 20))));
    memset(start, 1, 8 << 20);
    say("shrinks %s\n", how(brk(start)));
    char *large = malloc(64 << 20);
    memset(large, 1, 64 << 20);
    free(large);
    say("malloc works\n");
}

static void environment(void) {
    for (char **at = environ; *at; at++)
        say("%s\n", *at);
    char text[4096] = "";
    FILE *file = fopen("/proc/self/environ", "r");
    need(file != NULL, "/proc/self/environ");
    size_t used = fread(text, 1, sizeof text - 1, file);
    size_t expected = 0;
    for (char **at = environ; *at; at++)
        expected += strlen(*at) + 1;
    say("as /proc has it: %d\n", used == expected && memcmp(text, environ[0], used) == 0);
}

/* Of the file behind a mapping: the guest's name, and an executable mapping works. */
static void code(void) {
    int fd = open("/bin/process", O_RDONLY);
    void *at = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    say("executable mapping: %s\n", at == MAP_FAILED ? how(-1) : "ok");
    unsigned char *made = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* mov $2, %eax; lea path(%rip), %rdi; xor %esi, %esi; syscall; ret */
    static const unsigned char open_missing[] = {0xb8, 2, 0, 0, 0, 0x48, 0x8d, 0x3d, 5, 0, 0, 0, 0x31, 0xf6, 0x0f, 0x05, 0xc3, 'q', 0};
    memcpy(made, open_missing, sizeof open_missing);
    need(mprotect(made, 4096, PROT_READ | PROT_EXEC) == 0, "mprotect");
    long result = ((long (*)(void))made)();
    say("code made at run time: %ld\n", result);
}

/* What registers and the red zone below the stack pointer hold stays over a system call with a path. */
static void registers(void) {
    long wrong = 0;
    for (int round = 0; round < 100; round++) {
        long result;
        long before[4] = {round, 2, 3, 4}, after[4];
        __asm__ volatile("movq %[b0], %%xmm3\n movq %[b1], %%xmm15\n"
                         "mov %[b2], %%rbx\n mov %[b3], %%r12\n"
                         "movq $0x1234567, -8(%%rsp)\n movq $0x7654321, -120(%%rsp)\n"
                         "mov $21, %%eax\n mov %[path], %%rdi\n xor %%esi, %%esi\n syscall\n"
                         "mov %%rax, %[result]\n movq %%xmm3, %[a0]\n movq %%xmm15, %[a1]\n"
                         "mov %%rbx, %[a2]\n mov %%r12, %[a3]\n"
                         "cmpq $0x1234567, -8(%%rsp)\n je 1f\n incq %[a0]\n"
                         "1: cmpq $0x7654321, -120(%%rsp)\n je 2f\n incq %[a0]\n 2:"
                         : [result] "=m"(result), [a0] "=m"(after[0]), [a1] "=m"(after[1]), [a2] "=m"(after[2]), [a3] "=m"(after[3])
                         : [b0] "m"(before[0]), [b1] "m"(before[1]), [b2] "m"(before[2]), [b3] "m"(before[3]), [path] "r"("missing")
                         : "rax", "rbx", "rcx", "rdi", "rsi", "r11", "r12", "xmm3", "xmm15", "memory", "cc");
        wrong += result != -ENOENT || memcmp(before, after, sizeof before) != 0;
    }
    say("wrong %ld\n", wrong);
}

const struct named_case start_cases[] = {
    {"-what it was given", given},
    {"auxiliary vector", auxiliary},
    {"places at random", random_places},
    {"-its stack", its_stack},
    {"-its mappings", its_mappings},
    {"heap", heap},
    {"environment", environment},
    {"code", code},
    {"registers over a call", registers},
    {NULL, NULL},
};
