//! Maps a program or an interpreter for the guest: its code from the patched copy where there is one.

use super::block::Block;
use super::pool::Text as Room;
use super::populate;
use super::process::Process;
use super::text::{Plan as CodePlan, protection};
use crate::errno::Errno;
use crate::loader::map::{Base, Bias, image};
use crate::loader::plan::Plan;
use crate::sys::host::Fd;

/// A mapped image.
#[derive(Debug, Clone, Copy)]
pub struct Mapped {
    /// Where it is.
    pub bias: Bias,
    /// Whether every call from its code that matters goes through the runtime; else the filter has to be armed before it runs.
    pub is_complete: bool,
    /// Whether it asks the runtime instead of executing CPUID.
    pub asks_cpuid: bool,
}

/// Maps the image in `file`. `room` is for the path of its copy.
///
/// # Errors
/// Those of mmap(2).
pub fn map(
    process: &Process,
    plan: &Plan<'_>,
    file: Fd,
    base: Base,
    room: &mut Room,
) -> Result<Mapped, Errno> {
    let code = process.code.as_ref();
    let planned = code.map(|code| (code, code.plan_image(plan, file)));
    let number = planned.and_then(|(_, planned)| planned.file);
    let mapped = |code| -> Result<Bias, Errno> {
        let bias = image(plan, file, code, base)?;
        populate::image(process, plan, bias, number);
        Ok(bias)
    };
    let as_given = |is_complete| -> Result<Mapped, Errno> {
        Ok(Mapped {
            bias: mapped(file)?,
            is_complete,
            asks_cpuid: false,
        })
    };
    let (code, copy) = match planned.map(|(code, planned)| (code, planned.plan)) {
        Some((code, CodePlan::Copy(copy))) => (code, copy),
        Some((_, CodePlan::AsGiven)) => return as_given(true),
        Some((_, CodePlan::Arm)) | None => return as_given(false),
    };
    let Ok(block) = Block::reserve(code, copy, room) else {
        return as_given(false);
    };
    let asks_cpuid = block.asks_cpuid();
    let bias = mapped(block.file)?;
    let mut pieces = plan.pieces().filter(|piece| piece.flags.executable());
    let piece = pieces.next().ok_or(Errno::ENOEXEC)?;
    let is_patched = block.finish(bias.apply(piece.start), file, protection(&piece));
    Ok(Mapped {
        bias,
        is_complete: is_patched && copy.is_complete,
        asks_cpuid: is_patched && asks_cpuid,
    })
}
