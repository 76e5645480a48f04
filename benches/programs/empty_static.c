/* The least that can be started: no libc, one call. Compiled with -nostdlib -static. */
__asm__(".globl _start\n_start:\n\txor %edi, %edi\n\tmov $231, %eax\n\tsyscall\n");
