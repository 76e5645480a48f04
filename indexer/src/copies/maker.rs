//! One file at a time: what is known of its content from an earlier index, or its analysis, and its copy put into place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use elfuse_format::elf_facts::ContentHash;
use elfuse_format::keys::Time;
use elfuse_format::names;
use elfuse_format::text::{
    ArchivedTextCopy, RelocatedRun, SET_VERSION, TextCopy, TextVerdict, copy_name,
};

use super::room::Room;
use super::{NewCopy, Original, Text, read_copy};
use crate::index::Index;
use crate::inspect::{Seen, relocated_run};
use crate::patch::scan::{FirstLook, first_look};
use crate::patch::{self, Counts, MAX_FILE};
use crate::sys::{self, Root};

/// What files are analysed with.
pub(super) struct Maker<'m> {
    pub(super) root: &'m Root,
    /// Where copies go.
    pub(super) dir: &'m OwnedFd,
    /// Whether what changes in a file there shows in its times.
    pub(super) may_copy: bool,
    pub(super) room: Room,
}

impl Maker<'_> {
    /// Analyses a file, and puts its copy into place. `None`: it has no executable code, or is not what it was when it was scanned.
    pub(super) fn text(
        &self,
        hash: &ContentHash,
        original: &Original<'_>,
    ) -> io::Result<Option<Text>> {
        let without_copy = |verdict, relocated| Text {
            verdict,
            counts: Counts::default(),
            relocated,
            copy: None,
        };
        // What was seen when the hash was made is of the very bytes that it is of.
        if let Some(Seen { look, relocated }) = original.seen {
            match look {
                FirstLook::NoCode => return Ok(None),
                FirstLook::Nothing => {
                    return Ok(Some(without_copy(TextVerdict::Clean, relocated)));
                }
                FirstLook::Something => {}
            }
        }
        let file = sys::open_file(self.root.open_dir(&original.dir.path)?, original.name)?;
        if sys::fstat(&file)?.identity != original.identity {
            return Ok(None);
        }
        let Seen { look, relocated } = match original.seen {
            Some(seen) => seen,
            None => Seen {
                look: first_look(&file)?,
                relocated: relocated_run(&file, original.size)?,
            },
        };
        match look {
            FirstLook::NoCode => return Ok(None),
            FirstLook::Nothing => return Ok(Some(without_copy(TextVerdict::Clean, relocated))),
            FirstLook::Something if original.size > MAX_FILE => {
                return Ok(Some(without_copy(TextVerdict::Unpatched, relocated)));
            }
            FirstLook::Something => {}
        }
        let mut bytes = self.room.take(original.size);
        (&file).take(original.size).read_to_end(&mut bytes)?;
        // Times do not tell of every write through a mapping, and what is found here is believed of all files of this content.
        if *blake3::hash(&bytes).as_bytes() != *hash {
            return Ok(None);
        }
        let Some(analysis) = patch::analyse(&bytes) else {
            return Ok(None);
        };
        let (verdict, counts) = (analysis.verdict(), analysis.counts());
        let copy = analysis.copy(hash).filter(|_| self.may_copy);
        let copy = copy.map(|copy| put(self.dir, hash, &copy)).transpose()?;
        let verdict = match verdict {
            TextVerdict::Complete | TextVerdict::Partial if copy.is_none() => {
                TextVerdict::Unpatched
            }
            verdict => verdict,
        };
        Ok(Some(Text {
            verdict,
            counts,
            relocated,
            copy,
        }))
    }
}

fn is_read_only(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(file.metadata()?.permissions().mode() & 0o7777 == 0o444)
}

/// Puts a copy into place, unless the very same is there.
fn put(dir: &OwnedFd, hash: &ContentHash, copy: &patch::Copy) -> io::Result<NewCopy> {
    let name = copy_name(hash);
    let len = copy.bytes.len() as u64;
    let found = read_copy(dir, hash, len).ok().flatten();
    let found = found.filter(|(bytes, _)| *bytes == copy.bytes).is_some();
    let found = found && is_read_only(&sys::open_file(dir, &name)?)?;
    if !found {
        let mut temporary = name.to_vec();
        temporary.extend_from_slice(names::TEMPORARY_SUFFIX);
        sys::replace_read_only(dir, &temporary, &name, &copy.bytes)?;
    }
    let identity = sys::fstat(sys::open_file(dir, &name)?)?.identity;
    let small = |number: u64| u32::try_from(number).map_err(io::Error::other);
    let (block, segment) = (&copy.block, &copy.segment);
    Ok(NewCopy {
        row: TextCopy {
            content_hash: *hash,
            block: small(block.data())?,
            data_len: small(block.data_len())?,
            code_len: small(block.code_len())?,
            slots: block.slots(),
            annex: block.annex(),
            p_offset: segment.offset,
            p_vaddr: segment.vaddr,
            p_filesz: segment.file_len,
            checksum: copy.checksum,
            ino: 0,
            size: 0,
            mtime: Time::default(),
            ctime: Time::default(),
            set_version: SET_VERSION,
            device: 0,
            flags: copy.flags,
        },
        identity,
        written: !found,
    })
}

/// What an earlier index knows: by content, as its keys vouch for.
pub(super) struct Known<'i> {
    verdicts: HashMap<ContentHash, (TextVerdict, RelocatedRun, Option<&'i ArchivedTextCopy>)>,
    index: &'i Index,
    dir: &'i OwnedFd,
}

impl<'i> Known<'i> {
    pub(super) fn new(index: &'i Index, dir: &'i OwnedFd) -> Self {
        let mut verdicts = HashMap::new();
        index.each_text(|hash, verdict, run, copy| {
            // Of an index that does not say it has to be found out.
            if let Some(run) = run {
                verdicts.insert(hash, (verdict, run, copy));
            }
        });
        Self {
            verdicts,
            index,
            dir,
        }
    }

    /// What is known of a content, if its copy is the one that the keys were made of.
    pub(super) fn text(&self, hash: &ContentHash) -> Option<Text> {
        let (verdict, relocated, row) = *self.verdicts.get(hash)?;
        let copy = match row {
            None => None,
            Some(row) => {
                let identity = sys::stat_at(self.dir, &copy_name(hash)).ok()?.identity;
                self.index.copy_holds(row, &identity).then_some(())?;
                Some(NewCopy {
                    row: row.to_native(),
                    identity,
                    written: false,
                })
            }
        };
        // Without a copy, one may be possible by now.
        (row.is_some() || verdict == TextVerdict::Clean).then_some(Text {
            verdict,
            counts: Counts::default(),
            relocated,
            copy,
        })
    }
}
