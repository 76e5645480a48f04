#include "calls.h"
#include <asm/unistd_64.h>

static char line[1 << 17];
static word used;

void put_char(char c) {
    if (used < sizeof line - 1)
        line[used++] = c;
}

void put(const char *text) {
    while (*text)
        put_char(*text++);
}

void put_number(long number) {
    char digits[24];
    int count = 0;
    word rest = number < 0 ? -(word)number : (word)number;
    if (number < 0)
        put_char('-');
    do
        digits[count++] = '0' + rest % 10;
    while (rest /= 10);
    while (count)
        put_char(digits[--count]);
}

void put_octal(word number) {
    char digits[24];
    int count = 0;
    do
        digits[count++] = '0' + number % 8;
    while (number /= 8);
    put_char('0');
    while (count)
        put_char(digits[--count]);
}

/* Runs of one byte are counted: paths of 4095 bytes appear often. */
void put_escaped(const char *bytes, word count) {
    put_char('"');
    for (word i = 0; i < count;) {
        unsigned char c = bytes[i];
        word run = 1;
        while (i + run < count && bytes[i + run] == bytes[i])
            run++;
        word times = run > 16 ? 1 : run;
        for (word k = 0; k < times; k++) {
            if (c == '\n')
                put("\\n");
            else if (c == '"' || c == '\\') {
                put_char('\\');
                put_char(c);
            } else if (c < ' ' || c > '~') {
                put("\\x");
                put_char("0123456789abcdef"[c >> 4]);
                put_char("0123456789abcdef"[c & 15]);
            } else
                put_char(c);
        }
        if (run > 16) {
            put_char('{');
            put_number(run);
            put_char('}');
        }
        i += run;
    }
    put_char('"');
}

void put_error(long result) {
    put("-1 ");
    const char *name = error_name(-result);
    if (name)
        put(name);
    else {
        put("errno ");
        put_number(-result);
    }
}

void put_line(void) {
    put_char('\n');
    word done = 0;
    while (done < used) {
        long wrote = call(__NR_write, 1, line + done, used - done);
        if (wrote <= 0)
            break;
        done += wrote;
    }
    used = 0;
}

static int digit(char c) { return c >= '0' && c <= '9'; }

word without_ids(char *text, word count, word room) {
    static char out[1 << 16];
    long pid = call(__NR_getpid, 0, 0, 0);
    word to = 0;
    for (word i = 0; i < count && to < sizeof out - 8;) {
        word end = i;
        while (end < count && digit(text[end]))
            end++;
        if (end == i) {
            out[to++] = text[i++];
            continue;
        }
        long number = 0;
        for (word k = i; k < end; k++)
            number = number * 10 + (text[k] - '0');
        int alone = (i == 0 || text[i - 1] == '/') && (end == count || text[end] == '/');
        int inode = i > 1 && text[i - 1] == '[' && end < count && text[end] == ']';
        if ((alone && number == pid && number > 9) || inode) {
            copy(out + to, inode ? "N" : "PID", inode ? 1 : 3);
            to += inode ? 1 : 3;
        } else {
            copy(out + to, text + i, end - i);
            to += end - i;
        }
        i = end;
    }
    if (to > room)
        to = room;
    copy(text, out, to);
    return to;
}
