#include "calls.h"
#include <asm/unistd_64.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#define UNMAPPED 0x1000ul /* below vm.mmap_min_addr */
#define NOT_CANONICAL 0x8000000000000000ul

static char arena[1 << 19];
static word arena_used;

static struct {
    char name[32];
    word value;
} variables[64];
static int variable_count;

void forget_arena(void) { arena_used = 0; }

void *room(word count) {
    arena_used = (arena_used + 15) & ~15ul;
    if (arena_used + count > sizeof arena)
        misuse("too much on one line", "");
    char *at = arena + arena_used;
    for (word i = 0; i < count; i++)
        at[i] = 0;
    arena_used += count;
    return at;
}

void skip_spaces(const char **at) {
    while (**at == ' ')
        (*at)++;
}

static int ends_word(char c) { return c == 0 || c == ' ' || c == ',' || c == '|' || c == ']' || c == '*' || c == '+'; }

void assign(const char *name, word count, word value) {
    int at = 0;
    while (at < variable_count && !(starts(name, variables[at].name) && length(variables[at].name) == count))
        at++;
    if (at == variable_count) {
        if (count > 31 || at == 64)
            misuse("too many variables, or too long a name", name);
        copy(variables[at].name, name, count);
        variable_count++;
    }
    variables[at].value = value;
}

static word variable(const char **at) {
    const char *name = *at;
    word count = 0;
    while (!ends_word(name[count]))
        count++;
    *at += count;
    for (int i = 0; i < variable_count; i++)
        if (length(variables[i].name) == count && starts(name, variables[i].name))
            return variables[i].value;
    misuse("no such variable", name);
}

static int hex(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static word plain_number(const char **at) {
    const char *start = *at;
    int negative = **at == '-';
    *at += negative;
    word base = 10, number = 0;
    if (starts(*at, "0x")) {
        base = 16;
        *at += 2;
    } else if (**at == '0')
        base = 8;
    for (; hex(**at) >= 0 && (word)hex(**at) < base; (*at)++)
        number = number * base + hex(**at);
    if (!ends_word(**at))
        misuse("no number", start);
    return negative ? -number : number;
}

/* Names and numbers, or-ed. */
static word number(const char **at) {
    word all = 0;
    for (;;) {
        const char *name = *at;
        word one = 0, count = 0;
        if (*name == '$') {
            (*at)++;
            one = variable(at);
        } else if (hex(*name) >= 0 && *name <= '9')
            one = plain_number(at);
        else if (*name == '-')
            one = plain_number(at);
        else {
            while (!ends_word(name[count]))
                count++;
            if (!constant(name, count, &one))
                misuse("no such name", name);
            *at += count;
        }
        all |= one;
        if (**at != '|')
            return all;
        (*at)++;
    }
}

/* One quoted piece: its bytes go to `to`; their number is returned. */
static word piece(const char **at, char *to) {
    const char *from = *at;
    if (*from++ != '"')
        misuse("no string", *at);
    word count = 0;
    while (*from && *from != '"') {
        char c = *from++;
        if (c == '\\') {
            c = *from++;
            if (c == 'n')
                c = '\n';
            else if (c == 't')
                c = '\t';
            else if (c == '0')
                c = 0;
            else if (c == 'x') {
                c = hex(from[0]) << 4 | hex(from[1]);
                from += 2;
            }
        }
        to[count++] = c;
    }
    if (!*from)
        misuse("a string without an end", *at);
    *at = from + 1;
    return count;
}

static char *joined(const char **at, word *count, word room_behind) {
    static char one[1 << 12];
    /* Nobody writes a longer one: the arena is large enough for a few. */
    char *all = room((1 << 16) + room_behind);
    word used = 0;
    for (;;) {
        word got = piece(at, one), times = 1;
        if (**at == '*') {
            (*at)++;
            times = plain_number(at);
        }
        if (used + got * times > 1 << 16)
            misuse("a string that is too long", *at);
        while (times--) {
            copy(all + used, one, got);
            used += got;
        }
        if (**at != '+')
            break;
        (*at)++;
    }
    all[used] = 0;
    *count = used;
    arena_used -= (1 << 16) - used - 1;
    return all;
}

char *text_value(const char **at) {
    word count;
    return joined(at, &count, 1);
}

static char *with_pid(const char **at) {
    char *text = text_value(at);
    char *out = room(length(text) + 64), *to = out;
    for (; *text; text++) {
        if (*text != '%') {
            *to++ = *text;
            continue;
        }
        char digits[24];
        int count = 0;
        for (long rest = call(__NR_getpid, 0, 0, 0); rest; rest /= 10)
            digits[count++] = '0' + rest % 10;
        while (count)
            *to++ = digits[--count];
    }
    *to = 0;
    return out;
}

/* `text` where it ends with a page, behind which nothing is mapped. */
static word at_the_edge(const char *text, word count) {
    word pages = (count + 4095) / 4096 + 1;
    long at = call6(__NR_mmap, 0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at < 0)
        misuse("mmap", "edge");
    word end = at + (pages - 1) * 4096;
    copy((char *)(end - count), text, count);
    call(__NR_munmap, end, 4096, 0);
    return end - count;
}

static void push(struct arguments *to, word value) {
    if (to->count == 8)
        misuse("too many arguments", "");
    to->values[to->count++] = value;
}

static word shown(struct arguments *in, enum output kind, word size, word *room_word) {
    char *at = room(size);
    /* So that what a call leaves alone does not pass for a zero it has written. */
    for (word i = 0; i < size; i++)
        at[i] = 0x5a;
    if (in->shown_count == 4)
        misuse("too many buffers", "");
    in->shown[in->shown_count++] = (struct shown){kind, at, room_word};
    return (word)at;
}

static word words(const char **at, int size) {
    char *all = room(256);
    for (int i = 0;; i++) {
        word one = number(at);
        copy(all + i * size, &one, size);
        if (**at != ',')
            return (word)all;
        (*at)++;
    }
}

static word strings(const char **at) {
    char **all = room(64 * sizeof *all);
    int count = 0;
    for (skip_spaces(at); **at != ']'; skip_spaces(at)) {
        if (!**at || count == 63)
            misuse("an array without an end", *at);
        all[count++] = text_value(at);
    }
    (*at)++;
    return (word)all;
}

static word unix_address(const char **at, struct arguments *in, int before, int after) {
    struct sockaddr_un *address = room(sizeof *address + 512);
    word count;
    char *text = joined(at, &count, 1);
    address->sun_family = AF_UNIX;
    copy(address->sun_path + before, text, count);
    push(in, (word)address);
    return offsetof(struct sockaddr_un, sun_path) + before + count + after;
}

static int prefix(const char **at, const char *name) {
    if (!starts(*at, name))
        return 0;
    *at += length(name);
    return 1;
}

word value(const char **at, struct arguments *in) {
    word count;
    if (**at == '"')
        return (word)text_value(at);
    if (prefix(at, "["))
        return strings(at);
    if (prefix(at, "pid:"))
        return (word)with_pid(at);
    if (prefix(at, "edge:")) {
        char *text = joined(at, &count, 1);
        return at_the_edge(text, count);
    }
    if (prefix(at, "fits:")) {
        char *text = joined(at, &count, 1);
        return at_the_edge(text, count + 1);
    }
    if (prefix(at, "u64:"))
        return words(at, 8);
    if (prefix(at, "u32:"))
        return words(at, 4);
    if (prefix(at, "buf:"))
        return shown(in, BUFFER, plain_number(at) + 1, 0);
    if (prefix(at, "addr:")) {
        word *size = room(8);
        *size = plain_number(at);
        push(in, shown(in, ADDRESS, 256, size));
        return (word)size;
    }
    if (prefix(at, "unix:"))
        return unix_address(at, in, 0, 1);
    if (prefix(at, "unixraw:"))
        return unix_address(at, in, 0, 0);
    if (prefix(at, "abstract:"))
        return unix_address(at, in, 1, 0);
    if (starts(*at, "stx") && ends_word((*at)[3])) {
        *at += 3;
        return shown(in, STATX, 256, 0);
    }
    if (starts(*at, "sfs") && ends_word((*at)[3])) {
        *at += 3;
        return shown(in, STATFS, 256, 0);
    }
    if (starts(*at, "st") && ends_word((*at)[2])) {
        *at += 2;
        return shown(in, STAT, 256, 0);
    }
    if (prefix(at, "scratch"))
        return (word)room(4096);
    if (prefix(at, "word"))
        return (word)room(8);
    if (prefix(at, "NULL"))
        return 0;
    if (prefix(at, "BAD"))
        return UNMAPPED;
    if (prefix(at, "HIGH"))
        return NOT_CANONICAL;
    return number(at);
}

void parse_arguments(const char *at, struct arguments *arguments) {
    for (skip_spaces(&at); *at; skip_spaces(&at)) {
        push(arguments, value(&at, arguments));
        if (*at && *at != ' ')
            misuse("something behind an argument", at);
    }
}
