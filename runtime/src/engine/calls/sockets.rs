//! Calls that name or reveal the path of an AF_UNIX socket (unix(7)).
//!
//! A relative path that needs no resolving is handed on as it is: the kernel keeps it as the socket's name, as it would have. Any other
//! becomes the host's absolute path, or, where that does not fit the 108 bytes, one through the sysroot's descriptor; what the kernel
//! later tells of a host path is turned back.

use core::ffi::CStr;

use crate::engine::call::{Call, FOLLOW, PARENT, fd_link};
use crate::engine::pool::{Text, Work};
use crate::errno::Errno;
use crate::guest::Address;
use crate::sys::abi::{AF_UNIX, O_CLOEXEC, O_DIRECTORY, O_PATH};
use crate::sys::host::{Fd, close, openat};
use crate::sys::nr;
use crate::sys::raw::Raw;
use crate::vfs::path::{AT_ROOM, PathBuf};
use crate::vfs::{Base, Want};

/// Bytes of `struct sockaddr_un`: the family, and a path that need not end in a NUL.
const ADDRESS_LEN: usize = 110;
/// Bytes of the longest name that the kernel tells: such a path and a NUL.
const TOLD_LEN: usize = ADDRESS_LEN + 1;
const FAMILY_LEN: usize = 2;
/// Bytes of `struct sockaddr_storage`: no address is longer.
const STORAGE_LEN: usize = 128;

/// An address of ours in the place of one of the guest's.
#[derive(Debug)]
struct Name {
    bytes: [u8; TOLD_LEN],
    /// With the NUL behind the path.
    len: usize,
    /// A directory that the path goes through, open for as long as the address is needed.
    through: Option<Fd>,
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Some(dir) = self.through {
            close(dir);
        }
    }
}

impl Name {
    fn new(parts: &[&[u8]]) -> Option<Self> {
        let mut name = Self {
            bytes: [0; TOLD_LEN],
            len: FAMILY_LEN,
            through: None,
        };
        name.bytes[..FAMILY_LEN].copy_from_slice(&AF_UNIX.to_ne_bytes());
        for part in parts {
            let room = name.bytes[..ADDRESS_LEN].get_mut(name.len..name.len + part.len())?;
            room.copy_from_slice(part);
            name.len += part.len();
        }
        name.len += 1;
        Some(name)
    }

    /// How long it is when it is passed to the kernel, which adds the NUL that does not fit.
    fn passed_len(&self) -> usize {
        self.len.min(ADDRESS_LEN)
    }
}

/// Whether the call's first argument is a socket of that family.
fn is_unix_socket(call: &Call<'_>) -> bool {
    const SOL_SOCKET: usize = 1;
    const SO_DOMAIN: usize = 39;
    let (mut domain, mut len) = (0_i32, size_of::<i32>() as u32);
    let (domain_at, len_at) = (
        (&raw mut domain).expose_provenance(),
        (&raw mut len).expose_provenance(),
    );
    let args = [call.args[0], SOL_SOCKET, SO_DOMAIN, domain_at, len_at, 0];
    call.host(nr::GETSOCKOPT, args).0 == 0 && domain == i32::from(AF_UNIX)
}

/// What is to be passed in the place of a guest's address; `None`: that one, as it is no path.
fn host_name(call: &Call<'_>, at: Address, len: usize, want: Want) -> Result<Option<Name>, Errno> {
    if len <= FAMILY_LEN || len > ADDRESS_LEN {
        return Ok(None);
    }
    let mut given = [0; ADDRESS_LEN];
    call.memory.read(at, &mut given[..len])?;
    if given[..FAMILY_LEN] != AF_UNIX.to_ne_bytes() || given[FAMILY_LEN] == 0 {
        return Ok(None);
    }
    if !is_unix_socket(call) {
        // The kernel says what it says before it reads the address.
        return Ok(None);
    }
    let path = &given[FAMILY_LEN..len];
    let end = path
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(path.len());
    let path = &path[..end];
    let mut taken = call.area()?;
    let Work {
        told,
        start,
        area,
        second_start,
        ..
    } = taken.work();
    let found = call.locate((Fd::CWD, at), path, want, told, start, area)?;
    let (Some(host), Some(guest)) = (found.host, found.guest) else {
        return Ok(None);
    };
    if !path.starts_with(b"/") {
        // Where the kernel would go by itself: no symlink, no dots, no mount on the way.
        second_start.set(start.as_bytes())?;
        let straight = second_start.push(path).is_ok() && second_start.as_bytes() == guest;
        let mounts = call.process.vfs.mounts();
        if straight && mounts.over(start.as_bytes()) == mounts.over(guest) {
            return Ok(None);
        }
    }
    let short = match found.base {
        Base::Host => Name::new(&[host.to_bytes()]),
        Base::Sysroot => Name::new(&[call.process.run.sysroot, b"/", host.to_bytes()]),
    };
    match short {
        Some(name) => Ok(Some(name)),
        None => through_parent(found.dir, host, told).map(Some),
    }
}

/// An address that goes through a descriptor of the directory that the last component is in: always short enough.
fn through_parent(dir: Fd, host: &CStr, room: &mut Text) -> Result<Name, Errno> {
    let path = host.to_bytes();
    let slash = path.iter().rposition(|byte| *byte == b'/');
    let (parent, last) = match slash {
        Some(slash) => (&path[..=slash], &path[slash + 1..]),
        None => (&b"."[..], path),
    };
    let parent_room = room.get_mut(..=parent.len()).ok_or(Errno::ENAMETOOLONG)?;
    parent_room[..parent.len()].copy_from_slice(parent);
    parent_room[parent.len()] = 0;
    let parent = CStr::from_bytes_with_nul(parent_room).map_err(|_| Errno::EINVAL)?;
    let parent = openat(dir, parent, O_PATH | O_DIRECTORY | O_CLOEXEC, 0)?;
    let mut text = [0; 32];
    let link = fd_link(parent, &mut text).map_or(&b""[..], CStr::to_bytes);
    match Name::new(&[link, b"/", last]) {
        Some(mut name) => {
            name.through = Some(parent);
            Ok(name)
        }
        None => {
            close(parent);
            Err(Errno::ENAMETOOLONG)
        }
    }
}

/// What the call fails with although its path leads nowhere: the kernel looks at the socket first. The path here never leads anywhere,
/// and nothing can be made at it.
fn socket_first(call: &Call<'_>, at: usize, errno: Errno) -> Raw {
    let Some(nowhere) = Name::new(&[b"/proc/self/nowhere/at-all"]) else {
        return errno.into();
    };
    let mut args = call.args;
    args[at] = nowhere.bytes.as_ptr().expose_provenance();
    args[at + 1] = nowhere.len;
    let result = call.host(call.nr, args);
    if result == Errno::ENOENT.into() {
        errno.into()
    } else {
        result
    }
}

/// The call with the address at arguments `at` and `at + 1` replaced.
fn named(call: &mut Call<'_>, at: usize, want: Want, mutates: bool) -> Raw {
    let len = call.args[at + 1] as u32 as usize;
    match host_name(call, call.address(at), len, want) {
        Ok(None) if mutates => call.process.mutating(|| call.as_given()),
        Ok(None) => call.as_given(),
        // bind and connect walk the path first.
        Err(errno) if call.nr == nr::SENDTO => socket_first(call, at, errno),
        Err(errno) => errno.into(),
        Ok(Some(name)) => {
            let mut args = call.args;
            args[at] = name.bytes.as_ptr().expose_provenance();
            args[at + 1] = name.passed_len();
            let make = || call.host(call.nr, args);
            if mutates {
                call.process.mutating(make)
            } else {
                make()
            }
        }
    }
}

/// bind(2).
pub fn bind(call: &mut Call<'_>) -> Raw {
    named(call, 1, PARENT, true)
}

/// connect(2).
pub fn connect(call: &mut Call<'_>) -> Raw {
    named(call, 1, FOLLOW, false)
}

/// sendto(2).
pub fn sendto(call: &mut Call<'_>) -> Raw {
    if call.args[4] == 0 {
        return call.as_given();
    }
    named(call, 4, FOLLOW, false)
}

/// What the guest is to see of an address that the kernel told; `None`: just that.
fn guest_name(call: &Call<'_>, told: &[u8], room: &mut PathBuf<AT_ROOM>) -> Option<Name> {
    let path = told.strip_prefix(&AF_UNIX.to_ne_bytes())?;
    if !path.starts_with(b"/") {
        return None;
    }
    let end = path
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(path.len());
    call.process
        .vfs
        .mounts()
        .to_guest(&path[..end], room)
        .ok()?;
    Name::new(&[room.as_bytes()])
}

/// The call with a buffer of ours for the address that it tells at arguments `at` and `at + 1`.
fn told(call: &mut Call<'_>, at: usize) -> Raw {
    let (into, len_at) = (call.address(at), call.address(at + 1));
    if into.is_null() || len_at.is_null() {
        return call.as_given();
    }
    let run = || {
        let mut address = [0_u8; STORAGE_LEN];
        let mut len = STORAGE_LEN as u32;
        let mut args = call.args;
        args[at] = address.as_mut_ptr().expose_provenance();
        args[at + 1] = (&raw mut len).expose_provenance();
        let result = call.host(call.nr, args).result()?;
        let show = || {
            // As the kernel does it: what is wrong with the room is told when the connection or the message is taken.
            let room = i32::from_ne_bytes(call.memory.read_bytes(len_at)?);
            let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
            let mut taken = call.area()?;
            let told = &address[..(len as usize).min(STORAGE_LEN)];
            let shown = guest_name(call, told, &mut taken.work().start);
            let shown = shown.as_ref().map_or(told, |name| &name.bytes[..name.len]);
            call.memory.write(into, &shown[..shown.len().min(room)])?;
            call.memory
                .write(len_at, &(shown.len() as u32).to_ne_bytes())?;
            Ok(())
        };
        if let Err(errno) = show() {
            if matches!(call.nr, nr::ACCEPT | nr::ACCEPT4) {
                // As the kernel does it: nobody learns the new descriptor's number.
                close(Fd(result as i32));
            }
            return Err(errno);
        }
        Ok(result)
    };
    run().into()
}

/// getsockname(2), getpeername(2), accept(2), accept4(2).
pub fn told_second(call: &mut Call<'_>) -> Raw {
    told(call, 1)
}

/// recvfrom(2).
pub fn recvfrom(call: &mut Call<'_>) -> Raw {
    told(call, 4)
}

/// Bytes of `struct msghdr`; the name's address is its first word, its length the next 32 bits.
const HEADER_LEN: usize = 56;
/// Bytes of `struct mmsghdr`: a header and what was moved.
const VECTOR_ENTRY_LEN: usize = 64;

fn header_name(header: &[u8; HEADER_LEN]) -> (Address, usize) {
    let mut at = [0; 8];
    at.copy_from_slice(&header[..8]);
    let mut len = [0; 4];
    len.copy_from_slice(&header[8..12]);
    (
        Address(usize::from_ne_bytes(at)),
        u32::from_ne_bytes(len) as usize,
    )
}

/// sendmsg(2) of one header; `None`: it names no path.
fn send_one(call: &Call<'_>, header_at: Address, flags: usize) -> Result<Option<usize>, Errno> {
    let mut header = call.memory.read_bytes::<HEADER_LEN>(header_at)?;
    let (name_at, len) = header_name(&header);
    if name_at.is_null() {
        return Ok(None);
    }
    let Some(name) = host_name(call, name_at, len, FOLLOW)? else {
        return Ok(None);
    };
    header[..8].copy_from_slice(&name.bytes.as_ptr().expose_provenance().to_ne_bytes());
    header[8..12].copy_from_slice(&(name.passed_len() as u32).to_ne_bytes());
    let args = [
        call.args[0],
        header.as_ptr().expose_provenance(),
        flags,
        0,
        0,
        0,
    ];
    call.host(nr::SENDMSG, args).result().map(Some)
}

/// sendmsg(2).
pub fn sendmsg(call: &mut Call<'_>) -> Raw {
    match send_one(call, call.address(1), call.args[2]) {
        Ok(Some(sent)) => Ok(sent).into(),
        Ok(None) => call.as_given(),
        Err(errno) => errno.into(),
    }
}

/// sendmmsg(2): as given while no message names a path; from the first that does, one by one.
pub fn sendmmsg(call: &mut Call<'_>) -> Raw {
    let [socket, _, count, flags, ..] = call.args;
    let count = (count as u32).min(1024) as usize;
    let entry = |number: usize| call.address(1).plus(number * VECTOR_ENTRY_LEN);
    let mut sent = 0;
    let run = |number: usize| match send_one(call, entry(number), flags)? {
        Some(len) => {
            call.memory
                .write(entry(number).plus(HEADER_LEN), &(len as u32).to_ne_bytes())?;
            Ok(1)
        }
        None => call
            .host(nr::SENDMMSG, [socket, entry(number).0, 1, flags, 0, 0])
            .result(),
    };
    let names = |number: usize| {
        let header = call.memory.read_bytes::<HEADER_LEN>(entry(number));
        header.is_ok_and(|header| !header_name(&header).0.is_null())
    };
    if !(0..count).any(names) {
        return call.as_given();
    }
    while sent < count {
        match run(sent) {
            Ok(1) => sent += 1,
            // What was sent counts; the error comes again with the next call.
            Ok(_) => break,
            Err(_) if sent > 0 => break,
            Err(errno) => return errno.into(),
        }
    }
    Ok(sent).into()
}

/// Turns the name that a received header tells back.
fn show_one(call: &Call<'_>, header_at: Address, room: usize) -> Result<(), Errno> {
    let header = call.memory.read_bytes::<HEADER_LEN>(header_at)?;
    let (name_at, len) = header_name(&header);
    if name_at.is_null() || len <= FAMILY_LEN || room <= FAMILY_LEN {
        return Ok(());
    }
    let mut told = [0; TOLD_LEN];
    let told = &mut told[..len.min(room).min(TOLD_LEN)];
    call.memory.read(name_at, told)?;
    let mut taken = call.area()?;
    if let Some(name) = guest_name(call, told, &mut taken.work().start) {
        call.memory
            .write(name_at, &name.bytes[..name.len.min(room)])?;
        call.memory
            .write(header_at.plus(8), &(name.len as u32).to_ne_bytes())?;
    }
    Ok(())
}

fn name_room(call: &Call<'_>, header_at: Address) -> usize {
    let header = call.memory.read_bytes::<HEADER_LEN>(header_at);
    header.map_or(0, |header| header_name(&header).1)
}

/// recvmsg(2).
pub fn recvmsg(call: &mut Call<'_>) -> Raw {
    let header = call.address(1);
    let room = name_room(call, header);
    let received = call.as_given();
    if received.0 >= 0 {
        // The message is the guest's whether or not its name could be turned back.
        let _ = show_one(call, header, room);
    }
    received
}

/// recvmmsg(2). The room for each name is not kept over the call: names that path sockets have fit where the kernel put longer ones.
pub fn recvmmsg(call: &mut Call<'_>) -> Raw {
    let received = call.as_given();
    for number in 0..usize::try_from(received.0).unwrap_or(0) {
        let header = call.address(1).plus(number * VECTOR_ENTRY_LEN);
        let _ = show_one(call, header, name_room(call, header));
    }
    received
}
