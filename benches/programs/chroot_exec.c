/* chroot_exec DIRECTORY PROGRAM [ARGUMENT...]: chroot(2) and execve(2), without a libc.
 *
 * What everything is compared with: a static glibc program's own start would cost as much as a small program's.
 * Compiled with -nostdlib -static. Exit status 125 says that a call failed. */

#include <sys/syscall.h>

static long call3(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

__attribute__((used, noreturn)) static void start(long *stack)
{
    long count = stack[0];
    char **arguments = (char **)(stack + 1);
    char **environment = arguments + count + 1;
    if (count > 2 && call3(SYS_chroot, (long)arguments[1], 0, 0) == 0 && call3(SYS_chdir, (long)"/", 0, 0) == 0)
        call3(SYS_execve, (long)arguments[2], (long)(arguments + 2), (long)environment);
    call3(SYS_exit_group, 125, 0, 0);
    __builtin_unreachable();
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
