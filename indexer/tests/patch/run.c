// Calls functions of a file and of its patched copy with the same registers, and compares what they leave. Mapped as a run does it,
// with entries that make the call themselves.
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct { uint64_t r[16], flags; } Registers; // rax rbx rcx rdx rsi rdi rbp r8-r15, number of entries
void enter(void *function, const Registers *in, Registers *out);
void toy_syscall(void), toy_cpuid(void);
extern uint64_t calls, cpuids;

__asm__(
    ".globl toy_syscall\n toy_syscall: lea -128(%rsp),%rsp\n push %rcx\n pushf\n incq calls(%rip)\n popf\n syscall\n pop %rcx\n"
    " lea 128(%rsp),%rsp\n lea 2(%rcx),%rcx\n jmp *%rcx\n"
    ".globl toy_cpuid\n toy_cpuid: pushf\n incq cpuids(%rip)\n popf\n cpuid\n ret\n"
    ".globl enter\n enter: push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n push %rdx\n push %rdi\n"
    " pushq 120(%rsi)\n popf\n"
    " mov (%rsi),%rax\n mov 8(%rsi),%rbx\n mov 16(%rsi),%rcx\n mov 24(%rsi),%rdx\n mov 40(%rsi),%rdi\n mov 48(%rsi),%rbp\n"
    " mov 56(%rsi),%r8\n mov 64(%rsi),%r9\n mov 72(%rsi),%r10\n mov 80(%rsi),%r11\n mov 88(%rsi),%r12\n mov 96(%rsi),%r13\n"
    " mov 104(%rsi),%r14\n mov 112(%rsi),%r15\n mov 32(%rsi),%rsi\n call *(%rsp)\n"
    " pushf\n push %rdi\n mov 24(%rsp),%rdi\n mov %rax,(%rdi)\n mov %rbx,8(%rdi)\n mov %rcx,16(%rdi)\n mov %rdx,24(%rdi)\n mov %rsi,32(%rdi)\n"
    " pop 40(%rdi)\n mov %rbp,48(%rdi)\n mov %r8,56(%rdi)\n mov %r9,64(%rdi)\n mov %r10,72(%rdi)\n mov %r11,80(%rdi)\n mov %r12,88(%rdi)\n"
    " mov %r13,96(%rdi)\n mov %r14,104(%rdi)\n mov %r15,112(%rdi)\n pop 120(%rdi)\n add $16,%rsp\n"
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"
    ".data\n .globl calls\n calls: .quad 0\n .globl cpuids\n cpuids: .quad 0\n .text\n");

static char *image(int fd) {
    Elf64_Ehdr header;
    pread(fd, &header, sizeof header, 0);
    char *base = mmap(0, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr row;
        pread(fd, &row, sizeof row, header.e_phoff + i * sizeof row);
        if (row.p_type != PT_LOAD) continue;
        uint64_t skip = row.p_vaddr & 4095;
        int protection = PROT_READ | (row.p_flags & PF_X ? PROT_EXEC : 0);
        if (mmap(base + row.p_vaddr - skip, row.p_filesz + skip, protection, MAP_PRIVATE | MAP_FIXED, fd, row.p_offset - skip) == MAP_FAILED)
            perror("mmap"), exit(2);
    }
    return base;
}

// original copy L annex data-length code-length slots (name address is-cpuid)...
int main(int count, char **arguments) {
    int original = open(arguments[1], O_RDONLY), copy = open(arguments[2], O_RDONLY);
    uint64_t n[5];
    for (int i = 0; i < 5; i++) n[i] = strtoull(arguments[3 + i], 0, 10);
    char *plain = image(original), *patched = image(copy);
    uint64_t *words = mmap((void *)n[0], n[2], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED_NOREPLACE, copy, n[1]);
    void *code = mmap((char *)n[0] + n[2], n[3], PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED_NOREPLACE, copy, n[1] + n[2]);
    if ((uint64_t)words != n[0] || (uint64_t)code != n[0] + n[2]) return perror("block"), 2;
    uint8_t flag = 0;
    static uint8_t known[2048]; // of descriptors that are not open
    known[1005] = 1;
    words[4] = (uint64_t)known;
    words[0] = (uint64_t)toy_syscall, words[1] = (uint64_t)&flag, words[2] = (uint64_t)toy_cpuid, words[3] = (uint64_t)patched;
    for (uint64_t i = 0; i < n[4]; i++) words[8 + n[4] + i] += (uint64_t)patched;
    static char buffers[2][64];
    int bad = 0;
    for (int i = 8; i + 2 < count; i += 3) {
        uint64_t address = strtoull(arguments[i + 1], 0, 10);
        int is_cpuid = atoi(arguments[i + 2]), reads = !strncmp(arguments[i], "reads", 5);
        int controls = !strncmp(arguments[i], "controls", 8), asks = reads || controls;
        int tells = asks && !strstr(arguments[i], "always"), turn = 0;
        // F_DUPFD, F_SETFL, F_GETLK, F_SETLKW, F_DUPFD_CLOEXEC, F_SETFL as the kernel sees it, none.
        const uint64_t commands[] = {0, 4, 5, 7, 1030, 4 + (1ull << 32), -1ull};
        const uint64_t descriptors[] = {1005, 1004, 1005 + 2048, 1005ull + (1ull << 32), -1ull, 2048, 0x80000000u + 1005};
        for (uint64_t flags = 0x202; flags < 0x8000; flags += 0x8d5 - 0x10) {
            Registers in, out[2];
            for (int k = 0; k < 16; k++) in.r[k] = 0x1111111111111111ull * k + 5;
            // Reserved bits and the trap flag stay as they are.
            in.r[15] = (flags & 0x8d5) | 0x202;
            in.r[4] = 64, in.r[3] = -1, in.r[8] = 79;
            if (reads) in.r[7] = descriptors[turn++ % 7];
            if (controls) in.r[4] = commands[turn++ % 7];
            flag = 0;
            uint64_t before = calls + cpuids;
            for (int k = 0; k < 2; k++) {
                in.r[5] = (uint64_t)buffers[0];
                memset(buffers[0], 0, 64);
                enter((k ? patched : plain) + address, &in, &out[k]);
                memcpy(buffers[1], buffers[0], 64);
            }
            int went = calls + cpuids != before || flag;
            if (reads) went = flag == !(tells && (uint32_t)in.r[7] == 1005);
            if (controls) went = flag == !(tells && (uint32_t)in.r[4] <= 4);
            for (int k = 0; k < 16; k++) {
                // A system call leaves in rcx and r11 what nobody may rely on.
                if (!is_cpuid && (k == 2 || k == 10)) continue;
                // Nor on the status flags.
                uint64_t counts = asks && k == 15 ? ~0x8d5ull : ~0ull;
                if ((out[0].r[k] ^ out[1].r[k]) & counts)
                    bad = 1, printf("%s: register %d: %lx and %lx\n", arguments[i], k, out[0].r[k], out[1].r[k]);
            }
            if (!went) bad = 1, printf("%s: did not go through its stub\n", arguments[i]);
        }
    }
    return bad;
}
