/* lookups: prints "NAME DEPTH NS" for lookups that succeed and that fail, in the directories /l/1, /l/1/2/3, /l/1/2/3/4/5/6.
 * lookups NAME DEPTH TIMES: makes that one so often and prints nothing, for whoever counts calls from outside.
 *
 * Each directory of the path has a `file` and a `link`. Outcomes are checked by each call: a lookup that is answered wrongly
 * ends the run. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "timing.h"

static char file[64], link_[64], missing[64];
static struct stat status;
static char text[64];

static void open_close(void)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    must(fd >= 0, "open");
    close(fd);
}
static void stat_file(void) { must(stat(file, &status) == 0, "stat"); }
static void access_file(void) { must(access(file, R_OK) == 0, "access"); }
static void readlink_link(void) { must(readlink(link_, text, sizeof text) == 4, "readlink"); }
static void open_missing(void) { must(open(missing, O_RDONLY | O_CLOEXEC) < 0 && errno == ENOENT, "open of nothing"); }
static void stat_missing(void) { must(stat(missing, &status) < 0 && errno == ENOENT, "stat of nothing"); }
static void access_missing(void) { must(access(missing, F_OK) < 0 && errno == ENOENT, "access of nothing"); }
static void readlink_missing(void) { must(readlink(missing, text, sizeof text) < 0 && errno == ENOENT, "readlink of nothing"); }
static void readlink_file(void) { must(readlink(file, text, sizeof text) < 0 && errno == EINVAL, "readlink of a file"); }

static const struct {
    const char *name;
    void (*body)(void);
} lookups[] = {
    {"open+close", open_close},         {"stat", stat_file},
    {"access", access_file},            {"readlink", readlink_link},
    {"open_missing", open_missing},     {"stat_missing", stat_missing},
    {"access_missing", access_missing}, {"readlink_missing", readlink_missing},
    {"readlink_einval", readlink_file},
};
enum { LOOKUPS = sizeof lookups / sizeof *lookups };

static void at_depth(int depth)
{
    char directory[32] = "/l";
    for (int level = 1; level <= depth; level++)
        sprintf(directory + strlen(directory), "/%d", level);
    sprintf(file, "%s/file", directory);
    sprintf(link_, "%s/link", directory);
    sprintf(missing, "%s/missing", directory);
}

int main(int count, char **arguments)
{
    static const int depths[] = {1, 3, 6};
    if (count == 4) {
        at_depth(atoi(arguments[2]));
        for (int i = 0; i < LOOKUPS; i++)
            if (!strcmp(lookups[i].name, arguments[1]))
                for (long left = atol(arguments[3]); left > 0; left--)
                    lookups[i].body();
        return 0;
    }
    for (int i = 0; i < LOOKUPS; i++)
        for (int d = 0; d < 3; d++) {
            at_depth(depths[d]);
            printf("%s %d %.2f\n", lookups[i].name, depths[d], ns_per_call(lookups[i].body));
        }
    return 0;
}
