/* A library that wants its variables of each thread at a fixed distance from the thread pointer. */
static __thread int count __attribute__((tls_model("initial-exec"))) = 100;

int next(void) { return ++count; }
