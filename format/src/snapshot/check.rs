//! Every row is compared with what it points into.

use super::{
    MALFORMED, MAX_PAGES, NO_FILE, Outcome, PAGE, PROGRAM, Snapshot, TASK_SIZE, Value, region_flags,
};
use crate::error::FormatError;

impl Snapshot<'_> {
    /// Compares all of them.
    pub(super) fn check(&self) -> Result<(), FormatError> {
        let when = |is_good: bool, what: &'static str| {
            if is_good {
                Ok(())
            } else {
                Err(MALFORMED(what))
            }
        };
        let files = self.files.len() as u64;
        when(files > u64::from(PROGRAM), "snapshot files")?;
        when(self.head.exe.of(self.paths).is_some(), "snapshot head")?;
        for lookup in self.lookups {
            let path = lookup.path.of(self.paths);
            let is_path = path.is_some_and(|path| path.starts_with(b"/") && !path.contains(&0));
            let is_known = match lookup.outcome() {
                Some(Outcome::File(file)) => u64::from(file) < files,
                Some(Outcome::Error(errno)) => (1..4096).contains(&errno),
                Some(Outcome::Directory | Outcome::Other) => true,
                None => false,
            };
            when(is_path && is_known, "snapshot lookups")?;
        }
        let mut end = PAGE;
        for region in self.regions {
            let (start, len) = (region.start.to_native(), region.len.to_native());
            let file = region.file.to_native();
            let protection = region.protection.to_native();
            let is_good = start.is_multiple_of(PAGE)
                && len.is_multiple_of(PAGE)
                && len > 0
                && region.offset.to_native().is_multiple_of(PAGE)
                && start >= end
                && start
                    .checked_add(len)
                    .is_some_and(|region_end| region_end <= TASK_SIZE)
                && (file == NO_FILE || u64::from(file) < files)
                // What can be written and executed is captured from nobody.
                && protection < 8 && protection & 6 != 6
                && region.flags.to_native() <= region_flags::MOVES;
            when(is_good, "snapshot regions")?;
            end = start + len;
        }
        let (mut pages, mut previous) = (0_u64, (0, 0_u64));
        for run in self.runs {
            let number = run.region.to_native();
            let region = self.regions.get(number as usize);
            let (first, count) = (
                u64::from(run.first.to_native()),
                u64::from(run.pages.to_native()),
            );
            let fits = region.is_some_and(|region| {
                (first + count) * PAGE <= region.len.to_native() && !region.is_executable()
            });
            when(
                fits && count > 0 && (number, first) >= previous,
                "snapshot runs",
            )?;
            previous = (number, first + count);
            pages += count;
        }
        when(
            pages == self.slides.len() as u64 && pages <= MAX_PAGES,
            "snapshot runs",
        )?;
        let mut previous = (0, 0);
        for fix_up in self.fix_ups {
            let (page, at) = (fix_up.page.to_native(), fix_up.at.to_native());
            let width = fix_up.value().map_or(0, Value::width);
            let is_good = width != 0
                && u64::from(page) < pages
                && usize::from(at).is_multiple_of(width)
                && u64::from(at) < PAGE
                && (page, at) >= previous;
            when(is_good, "snapshot fix-ups")?;
            previous = (page, at + width as u16);
        }
        Ok(())
    }
}
