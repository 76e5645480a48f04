/* starts COUNT PROGRAM [ARGUMENT...]: starts a program so many times, one after the other, as a shell's loop does.
 *
 * Ends with the status of the first start that does not end with 0; 125 says that a call failed. */

#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>

extern char **environ;

int main(int count, char **arguments)
{
    if (count < 3)
        return 125;
    for (long left = atol(arguments[1]); left > 0; left--) {
        pid_t child;
        int status;
        if (posix_spawn(&child, arguments[2], NULL, NULL, arguments + 2, environ) != 0 || waitpid(child, &status, 0) != child)
            return 125;
        if (status != 0)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return 0;
}
