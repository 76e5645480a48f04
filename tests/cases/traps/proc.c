/* What procfs shows of a guest. */
#include "traps.h"
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>

extern char **environ;

static void say_file(const char *path) {
    char text[4096];
    int fd = open(path, O_RDONLY);
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (len < 0) {
        say("%s: %s\n", path, how(-1));
        return;
    }
    for (ssize_t i = 0; i < len; i++)
        if (!text[i])
            text[i] = '|';
    text[len] = 0;
    close(fd);
    say("%s: %s%s", strrchr(path, '/') + 1, text, len && text[len - 1] == '\n' ? "" : "\n");
}

static void given_words(void) {
    char before[32], name[17] = "";
    say_file("/proc/self/cmdline");
    say_file("/proc/self/environ");
    say_file("/proc/self/comm");
    snprintf(before, sizeof before, "/proc/%d/cmdline", getpid());
    say_file(before);
    snprintf(before, sizeof before, "/proc/self/task/%d/comm", gettid());
    say_file(before);
    prctl(PR_SET_NAME, "another name that is too long");
    prctl(PR_GET_NAME, name);
    say_file("/proc/self/comm");
    say("%s\n", name);
    /* A program that writes over its arguments shows what it wrote. */
    memset(given[0], 'x', strlen(given[0]));
    environ[0][0] = 'Y';
    say_file("/proc/self/cmdline");
    say_file("/proc/self/environ");
}

/* Numbers of /proc/self/stat, relative to what they belong to. */
static void numbers(void) {
    char text[4096] = "";
    int fd = open("/proc/self/stat", O_RDONLY);
    need(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    unsigned long value[53] = {0};
    char *at = strrchr(text, ')') + 1;
    say("%.*s\n", (int)(at - strchr(text, '(')), strchr(text, '('));
    strtok(at, " ");
    for (int field = 4; field <= 52; field++) {
        char *word = strtok(NULL, " \n");
        need(word != NULL);
        value[field] = strtoul(word, NULL, 10);
    }
    const Elf64_Phdr *headers = (const Elf64_Phdr *)getauxval(AT_PHDR);
    unsigned long base = 0;
    for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++)
        if (headers[i].p_type == PT_PHDR)
            base = (unsigned long)headers - headers[i].p_vaddr;
    say("code %#lx to %#lx\n", value[26] - base, value[27] - base);
    say("data %#lx to %#lx\n", value[45] - base, value[46] - base);
    /* argc is where the stack starts. */
    say("stack starts with %lu\n", *(unsigned long *)value[28]);
    say("heap starts behind the data: %d, on a page: %d, before its end: %d\n", value[47] >= value[46], value[47] % 4096 == 0,
        value[47] <= (unsigned long)sbrk(0));
    say("arguments %ld bytes, environment %ld bytes behind them, %ld bytes\n", value[49] - value[48], value[50] - value[49],
        value[51] - value[50]);
    say("first argument there: %d\n", (unsigned long)environ[0] == value[50]);
    char auxv[1024] = "";
    fd = open("/proc/self/auxv", O_RDONLY);
    need(fd >= 0 && read(fd, auxv, sizeof auxv) > 0);
    int different = 0;
    for (const Elf64_auxv_t *pair = (const void *)auxv; pair->a_type != AT_NULL; pair++)
        different += getauxval(pair->a_type) != pair->a_un.a_val;
    say("auxv: %d different\n", different);
}

/* Each line's name, once, and whether a line or its details hold what is not the guest's. */
static void names(const char *path) {
    static char text[1 << 20];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        say("%s: %s\n", path, how(-1));
        return;
    }
    size_t used = 0;
    ssize_t len;
    while ((len = read(fd, text + used, sizeof text - 1 - used)) > 0)
        used += len;
    text[used] = 0;
    struct stat found;
    say("flags %#x, %#x, position %ld, writing %s\n", fcntl(fd, F_GETFL) & ~0100000, fcntl(fd, F_GETFD), (long)lseek(fd, 0, SEEK_CUR) - (long)used,
        how(write(fd, "", 1)));
    need(fstat(fd, &found) == 0 && close(fd) == 0);
    static char last[4096];
    unsigned long before = 0;
    int own = 0, unsorted = 0;
    *last = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long start = strtoul(line, NULL, 16);
        char *name = strpbrk(line, "/[");
        if (line[0] >= 'A' && line[0] <= 'Z')
            continue;
        own += start >> 32 == 0x6f00;
        unsorted += start <= before;
        before = start;
        /* What is of no file differs with the kernel's and the C library's mood. */
        if (name && *name == '/' && strcmp(name, last) != 0)
            say("%s\n", strncpy(last, name, sizeof last - 1));
        else if (name && strncmp(name, "[stack]", 7) == 0)
            say("[stack]\n");
        else if (name && strncmp(name, "[heap]", 6) == 0)
            say("[heap]\n");
    }
    say("own %d, unsorted %d\n", own, unsorted);
}

static void mappings(void) {
    char path[64];
    int fd = open("f", O_RDONLY);
    need(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) != MAP_FAILED);
    fd = open("gone", O_RDWR | O_CREAT, 0600);
    need(ftruncate(fd, 4096) == 0);
    need(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED && unlink("gone") == 0);
    free(malloc(10));
    names("/proc/self/maps");
    names("/proc/self/smaps");
    names("/proc/thread-self/maps");
    snprintf(path, sizeof path, "/proc/%d/maps", getpid());
    names(path);
    snprintf(path, sizeof path, "/proc/%d/task/%d/smaps", getpid(), gettid());
    names(path);
    int directory = open("/proc/self", O_RDONLY | O_DIRECTORY);
    fd = openat(directory, "maps", O_RDONLY);
    char byte;
    say("by its directory: %zd\n", read(fd, &byte, 1));
    say("not a directory: %s\n", how(open("/proc/self/maps", O_RDONLY | O_DIRECTORY)));
    say("to be written: %s\n", how(open("/proc/self/maps", O_WRONLY | O_TRUNC) >= 0 ? 0 : -1));
    say("named only: %s\n", how(open("/proc/self/maps", O_PATH)));
    say("of nobody: %s\n", how(open("/proc/999999999/maps", O_RDONLY)));
    fd = open("/proc/self/maps", O_RDONLY | O_NONBLOCK);
    say("kept over exec: %d, flags %#x\n", fcntl(fd, F_GETFD), fcntl(fd, F_GETFL) & ~0100000);
    FILE *numa = fopen("/proc/self/numa_maps", "r");
    static char line[8192];
    while (numa && fgets(line, sizeof line, numa))
        if (strstr(line, "file="))
            say("%.*s\n", (int)strcspn(strstr(line, "file=") + 5, " \n"), strstr(line, "file=") + 5);
}

/* The C library finds a thread's stack by reading maps. */
static void own_stack(void) {
    pthread_attr_t attributes;
    void *start;
    size_t size;
    char here;
    need(pthread_getattr_np(pthread_self(), &attributes) == 0);
    need(pthread_attr_getstack(&attributes, &start, &size) == 0);
    say("within: %d\n", &here > (char *)start && &here < (char *)start + size);
}

static void say_link(const char *path) {
    char text[4096];
    ssize_t len = readlink(path, text, sizeof text - 1);
    text[len < 0 ? 0 : len] = 0;
    const char *last = strrchr(text, '/');
    say("%s", len < 0 ? how(-1) : last ? last : text);
}

/* Programs of other processes: given is the path of another program, which waits for input to end. */
static void others(void) {
    int ends[2];
    char path[64];
    struct stat program, linked;
    need(pipe2(ends, O_CLOEXEC) == 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[0], 0);
        execl(given[0], given[0], "wait for input", NULL);
        _exit(97);
    }
    close(ends[0]);
    /* Until it is what it is to be. */
    for (int i = 0; i < 2000; i++) {
        snprintf(path, sizeof path, "/proc/%d/comm", child);
        char name[17] = "";
        int fd = open(path, O_RDONLY);
        need(fd >= 0 && read(fd, name, 16) > 0);
        close(fd);
        name[strcspn(name, "\n")] = 0;
        if (strcmp(name, strrchr(given[0], '/') + 1) == 0)
            break;
        usleep(1000);
    }
    say("mine: ");
    say_link("/proc/self/exe");
    snprintf(path, sizeof path, "/proc/%d/exe", child);
    say(", the other's: ");
    say_link(path);
    need(stat(given[0], &program) == 0);
    say(", led to: %s", how(stat(path, &linked)));
    say(" %d", program.st_ino == linked.st_ino);
    int fd = open(path, O_RDONLY);
    say(", opened: %s", how(fd));
    need(fstat(fd, &linked) == 0);
    say(" %d\n", program.st_ino == linked.st_ino);
    snprintf(path, sizeof path, "/proc/%d/task/%d/exe", child, child);
    say("its thread's: ");
    say_link(path);
    snprintf(path, sizeof path, "/proc/%d/maps", child);
    say("\n");
    FILE *maps = fopen(path, "r");
    static char line[8192];
    int own = 0, named = 0;
    while (maps && fgets(line, sizeof line, maps)) {
        own += strncmp(line, "6f00", 4) == 0;
        char *name = strchr(line, '/');
        named += name && strncmp(name, given[0], strlen(given[0])) == 0;
    }
    say("its maps: own %d, named %d\n", own, named > 0);
    close(ends[1]);
    int status;
    waitpid(child, &status, 0);
    say("status %d, the ended one's: ", status);
    snprintf(path, sizeof path, "/proc/%d/exe", child);
    say_link(path);
    say("\n");
}

static void wait_for_input(void) {
    char byte;
    _exit(read(0, &byte, 1) != 0);
}

/* The program's own file is renamed, and then removed: given is a copy of it, which was executed. */
static void removed(void) {
    say_link("/proc/self/exe");
    char moved[4096];
    snprintf(moved, sizeof moved, "%s-moved", given[0]);
    need(rename(given[0], moved) == 0);
    say(", renamed: ");
    say_link("/proc/self/exe");
    struct stat found;
    say(" %s", how(stat("/proc/self/exe", &found)));
    need(rename(moved, given[0]) == 0 && unlink(given[0]) == 0);
    say(", removed: ");
    say_link("/proc/self/exe");
    say("\n");
}

/* The directory that a process is in, gone. */
static void removed_directory(void) {
    char text[4096];
    need(mkdir("gone", 0700) == 0 && chdir("gone") == 0 && rmdir("../gone") == 0);
    say("getcwd %s", how(getcwd(text, sizeof text) ? 0 : -1));
    say(", link ");
    say_link("/proc/self/cwd");
    say(", open %s", how(open("x", O_RDONLY)));
    say(", make %s", how(open("x", O_WRONLY | O_CREAT, 0600)));
    say(", here %s", how(open(".", O_RDONLY)));
    say(", up %s\n", how(chdir("..")));
}

const struct trap proc_traps[] = {
    {"given words", given_words},
    {"numbers", numbers},
    {"mappings", mappings},
    {"own stack", own_stack},
    {"others", others},
    {"wait for input", wait_for_input},
    {"removed", removed},
    {"removed directory", removed_directory},
    {NULL, NULL},
};
