/*
 * Memory that the file has no bytes for, without a C library. Each kind is another program: the exit status is 0 if all of it is zero and can
 * be used as it should, and no byte too much was cleared.
 *
 *     MIDDLE  starts in the middle of a page whose other half is data
 *     ALONE   in a segment without bytes in the file
 *     READ    in a segment that may only be read: the rest of the last page is the file's, what follows is zero
 */
#define LEN 20000

#if defined(MIDDLE)
static volatile unsigned char data[100] = {[0] = 1, [99] = 2};
static volatile unsigned char zero[LEN];
#elif defined(ALONE)
static volatile unsigned char zero[LEN];
#else
__asm__(".section .only_read,\"a\",@nobits\n .globl zero\n .balign 8\n zero: .skip 20000\n .text\n");
extern const volatile unsigned char zero[LEN];
#endif

static int wrong(void) {
#if defined(MIDDLE)
    if (data[0] != 1 || data[99] != 2)
        return 1;
#endif
#if defined(READ)
    /* Up to the end of the page the kernel cannot clear what may not be written to, and does not. */
    const volatile unsigned char *at = (const volatile unsigned char *)(((unsigned long)zero + 4095) & ~4095ul);
#else
    volatile unsigned char *at = zero;
#endif
    for (; at < zero + LEN; at++)
        if (*at)
            return 2;
#if !defined(READ)
    for (at = zero; at < zero + LEN; at++)
        *at = 7;
#endif
    return 0;
}

__attribute__((used)) void start(void) {
    __asm__ volatile("syscall" : : "a"(231), "D"((long)wrong()) : "rcx", "r11");
    __builtin_unreachable();
}

__asm__(".globl _start\n _start: and $-16, %rsp\n call start\n");
