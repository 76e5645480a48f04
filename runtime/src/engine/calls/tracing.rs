//! ptrace(2), as far as traps and tracers meet.

use crate::engine::call::Call;
use crate::sys::raw::Raw;

/// ptrace(2). A child of vfork(2) that is traced would stop at its first trap, while its tracer waits for it to execute something: it is
/// traced from its exec on.
pub fn ptrace(call: &mut Call<'_>) -> Raw {
    const PTRACE_TRACEME: usize = 0;
    if call.args[0] == PTRACE_TRACEME && call.process.pool.trace_from_exec() {
        return Raw(0);
    }
    call.as_given()
}
