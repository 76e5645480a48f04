/*
 * The registers and the stack at a program's first instruction, without a C library. Its exit status has a bit for each that is wrong. It is
 * to be called with the arguments "a b".
 */
typedef unsigned long word;

__attribute__((noreturn, used)) void check(const word *stack, word rdx, word flags, word others) {
    unsigned control, status = 0;
    unsigned short x87;
    __asm__ volatile("stmxcsr %0\n fnstcw %1" : "=m"(control), "=m"(x87));
    word count = stack[0];
    const word *auxiliary = stack + 2 + count;
    while (*auxiliary++) {
    }
    status |= ((word)stack % 16 != 0) << 0;
    status |= (rdx != 0) << 1;
    status |= ((flags & 0x400) != 0) << 2;
    status |= (control != 0x1f80 || x87 != 0x37f) << 3;
    status |= (count != 2 || stack[1 + count] != 0 || *(const char *)stack[1] != 'a' || *(const char *)stack[2] != 'b') << 4;
    /* The kernel leaves nothing of the program before in them. */
    status |= (others != 0) << 5;
    int random = 0, pages = 0;
    for (; auxiliary[0]; auxiliary += 2) {
        random |= auxiliary[0] == 25 && auxiliary[1] > (word)stack;
        pages |= auxiliary[0] == 6 && auxiliary[1] == 4096;
    }
    status |= !(random && pages) << 6;
    __asm__ volatile("syscall" : : "a"(231), "D"((word)status) : "rcx", "r11");
    __builtin_unreachable();
}

__asm__(".globl _start\n"
        "_start:\n"
        "or %rbx, %rax\n or %rcx, %rax\n or %rsi, %rax\n or %rdi, %rax\n or %rbp, %rax\n or %r8, %rax\n or %r9, %rax\n"
        "or %r10, %rax\n or %r11, %rax\n or %r12, %rax\n or %r13, %rax\n or %r14, %rax\n or %r15, %rax\n mov %rax, %rcx\n"
        "mov %rdx, %rsi\n mov %rsp, %rdi\n pushfq\n pop %rdx\n and $-16, %rsp\n call check\n");
