/*
 * An interpreter for scripts of system calls, read from standard input.
 *
 *     fd = openat AT_FDCWD "d/file" O_RDONLY|O_NOFOLLOW
 *     newfstatat $fd "" st AT_EMPTY_PATH
 *
 * Each line is echoed with its result, so that two kernels, or a kernel and a runtime, can be compared by their output. There is no
 * libc in it: every call reaches the kernel exactly as it is written down, and start-up makes none.
 *
 * Arguments:
 *     12 0755 0x10 -1     numbers
 *     O_CREAT|O_EXCL|4    names (constants.c) and numbers, or-ed
 *     $name               what an earlier line assigned
 *     "text"              a string; \n \t \\ \" \0 \xHH; "a"*255+"/b" repeats and joins
 *     pid:"/proc/%/cwd"   a string in which % is the process id
 *     edge:"text"         the same without a NUL, ending where the next page is not mapped
 *     fits:"text"         the same with its NUL there
 *     NULL BAD HIGH       null, an address that is not mapped, one that no program may have
 *     ["a" "b"]           a null-terminated array of strings
 *     u32:1,2  u64:1,2    words in memory: a timespec, an open_how, a rlimit
 *     buf:N               N bytes that the call fills, shown up to its result
 *     word                8 bytes that the call fills, not shown
 *     st stx sfs          struct stat, statx and statfs: shown but for what is different at every run
 *     unix:"path"         an AF_UNIX address, and its length as the next argument; unixraw: without the NUL, abstract: with one in front
 *     addr:N              room for an address of N bytes, and a pointer to N as the next argument; shown
 *     scratch             4096 bytes of zeros, not shown
 * Verbs, beside the names of calls: those of verbs.c, and `fork` … `end`, which a child executes and its parent waits for.
 * Executed with arguments, or under another name than /bin/calls, it says what it was given (shown_program.c).
 */
#ifndef CALLS_H
#define CALLS_H

typedef unsigned long word;

/* main.c */
long call6(long number, word a, word b, word c, word d, word e, word f);
#define call(number, a, b, c) call6(number, (word)(a), (word)(b), (word)(c), 0, 0, 0)
#define call4(number, a, b, c, d) call6(number, (word)(a), (word)(b), (word)(c), (word)(d), 0, 0)
_Noreturn void quit(int status);
_Noreturn void misuse(const char *what, const char *where);
word length(const char *text);
int same_text(const char *a, const char *b);
int starts(const char *text, const char *with);
void *copy(void *to, const void *from, word count);
void run(int from, int to);

/* print.c: one line is collected and written at once. */
void put_char(char c);
void put(const char *text);
void put_number(long number);
void put_octal(word number);
void put_escaped(const char *bytes, word count);
void put_error(long result);
void put_line(void);
/* Replaces what differs at every run: this process's id as a component, inode numbers of pipes and sockets, random parts. */
word without_ids(char *text, word count, word room);

/* constants.c */
int constant(const char *name, word count, word *value);
long call_number(const char *name);
const char *error_name(long error);

/* value.c */
enum output { NOTHING, BUFFER, STAT, STATX, STATFS, ADDRESS };
struct shown {
    enum output kind;
    char *at;
    word *room; /* ADDRESS: what the call has made of the length */
};
struct arguments {
    int count;
    word values[8];
    int shown_count;
    struct shown shown[4];
};
void forget_arena(void);
void *room(word count);
word value(const char **at, struct arguments *arguments);
char *text_value(const char **at);
void parse_arguments(const char *at, struct arguments *arguments);
void assign(const char *name, word count, word value);
void skip_spaces(const char **at);

/* show.c */
void show(const struct shown *shown, long result);
void show_stat(const void *stat);

/* shown_program.c */
void show_program(char **arguments, char **environment);

/* verbs.c: whether the line is one. */
int verb(const char *name, const char *rest);

#endif
