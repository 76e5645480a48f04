//! Path calls that are served on a few hundred bytes of stack: what the index knows without asking, [`Vfs::quick`](crate::vfs::Vfs::quick).

use core::ffi::CStr;
use core::mem::MaybeUninit;

use super::call::{At, Call};
use crate::errno::Errno;
use crate::guest::Address;
use crate::sys::raw::Raw;
use crate::vfs::{Base, Quick, Room, SHORT, Want};

impl Call<'_> {
    /// Serves a call whose path is at `from`; `None`: it is to be resolved the long way. `then` is made twice where the descriptor of
    /// the sysroot turns out to be closed, which the host tells before it does anything.
    #[inline(always)]
    pub(super) fn quick(
        &self,
        from: Address,
        want: Want,
        then: &impl Fn(&Self, &At<'_>) -> Raw,
    ) -> Option<Raw> {
        let process = self.process;
        // Where something is absent the host's own tree is to be tried.
        if process.run.host_fallback {
            return None;
        }
        let mut given = MaybeUninit::<[u8; SHORT]>::uninit();
        let path = self.memory.read_short(from, &mut given)?;
        let mut found = Room::new();
        let (guest, kind) = match process
            .vfs
            .quick(process, path.to_bytes(), want, &mut found)?
        {
            Quick::Fails(errno) => return Some(errno.into()),
            Quick::Text(text) => {
                let at = At {
                    text: Some(text),
                    ..At::NOWHERE
                };
                return Some(then(self, &at));
            }
            Quick::AsGiven { kind } => (path, kind),
            Quick::Leads { guest, kind } => (CStr::from_bytes_with_nul(guest).ok()?, kind),
        };
        // It is absolute.
        let host = &guest[1..];
        let at = At {
            dir: process.trusted_sysroot().ok()?,
            path: host.as_ptr().addr(),
            guest: Some(guest.to_bytes()),
            base: Base::Sysroot,
            host: Some(host),
            kind: Some(kind),
            ..At::NOWHERE
        };
        let result = then(self, &at);
        if result == Errno::EBADF.into() {
            process.distrust();
            return None;
        }
        Some(result)
    }
}
