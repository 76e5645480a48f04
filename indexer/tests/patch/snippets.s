# One function for each way to patch a call. They are called with: rdi a buffer, rsi its length, rdx -1.
.macro function name
	.globl \name
	.type \name, @function
	.p2align 4
\name:
	.cfi_startproc
.endm
.macro finish name
	.cfi_endproc
	.size \name, . - \name
.endm

.section .rodata
length: .long 64
zero: .byte 0

.text
function before_only                    # getcwd
	mov $79, %eax
	syscall
	ret
finish before_only

function with_what_follows
	push $79
	pop %rax
	mov %eax, %r8d
	jmp 1f
	nop
1:	syscall
	cmp $-4095, %rax
	jae 2f
	ret
2:	neg %rax
	ret
finish with_what_follows

function through_r11
	mov $79, %eax
	mov length(%rip), %esi
	syscall
	ret
finish through_r11

function ends_with_a_jump
	mov $79, %eax
	jmp 1f
	nop
1:	syscall
	.byte 0xe9
	.long 2f - . - 4
	ud2
2:	lea 1(%rax), %rax
	ret
finish ends_with_a_jump

function ends_with_a_return
	mov $79, %eax
	jmp 1f
	nop
1:	syscall
	mov %rax, %r9
	nop
	ret
finish ends_with_a_return

function number_is_given                # the number in r9
	mov %r9, %rax
	mov %rdi, %rdi
	mov %rsi, %rsi
	syscall
	ret
finish number_is_given

function number_of_a_loop
	mov $79, %r8d
	mov $2, %r9d
1:	mov %r8, %rax
	mov %rdi, %rdi
	nop
	syscall
	dec %r9d
	jne 1b
	ret
finish number_of_a_loop

function ends_leases                    # flock
	mov $-1, %edi
	mov $73, %eax
	syscall
	ret
finish ends_leases

function ends_leases_and_keeps_r11
	mov $-1, %edi
	cmpb $0, zero(%rip)
	jne 1f
	mov $73, %eax
	syscall
	ret
1:	mov %r11, %rax
	ret
finish ends_leases_and_keeps_r11

# Reading ends leases unless the descriptor, given in r8, is known. Those called "always" cannot tell.
function reads
	mov %r8, %rdi
	mov $0, %eax
	syscall
	ret
finish reads

function reads_behind_a_branch
	mov %r8, %rdi
	cmpb $0, zero(%rip)
	jne 1f
	xor %eax, %eax
	syscall
	ret
1:	mov %r11, %rax
	ret
finish reads_behind_a_branch

function reads_always_as_flags_are_in_use
	mov %r8, %rdi
	cmp $64, %esi
	lea 0x100(%rdx), %r10
	jne 1f
	xor %eax, %eax
	syscall
	ret
1:	mov %r11, %rax
	ret
finish reads_always_as_flags_are_in_use

function reads_always_as_the_descriptor_comes_later
	cmpb $0, zero(%rip)
	jne 1f
	mov %r8d, %edi
	xor %eax, %eax
	syscall
	ret
1:	mov %r11, %rax
	ret
finish reads_always_as_the_descriptor_comes_later

function controls                       # fcntl(r8, ...)
	mov %r8, %rdi
	mov $72, %eax
	syscall
	ret
finish controls

function controls_always_as_the_command_comes_later
	cmpb $0, zero(%rip)
	jne 1f
	mov %edx, %esi
	mov $72, %eax
	syscall
	ret
1:	mov %r11, %rax
	ret
finish controls_always_as_the_command_comes_later

function closes                         # close(-1)
	mov $-1, %edi
	mov $3, %eax
	syscall
	ret
finish closes

function cpuid_leaf
	push %rbx
	xor %ecx, %ecx
	mov $7, %eax
	cpuid
	mov %ebx, %esi
	pop %rbx
	ret
finish cpuid_leaf

# What must not be patched.
function branch_into
	mov $2, %r9d
	mov $79, %eax
1:	syscall
	dec %r9d
	jne 1b
	ret
finish branch_into

function signal_return
	mov $15, %rax
	syscall
	ret
finish signal_return

function plain
	mov $39, %eax
	syscall
	ret
finish plain

function prefixed
	mov $79, %eax
	.byte 0x48
	syscall
	ret
finish prefixed

function gate
	mov $20, %eax
	int $0x80
	ret
finish gate
