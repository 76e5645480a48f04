//! x
#![allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub u16);
macro_rules! e { ($($n:ident = $v:literal,)*) => { impl Errno { $(pub const $n: Errno = Errno($v);)* } } }
e! { EPERM=1, ENOENT=2, EINTR=4, EIO=5, E2BIG=7, ENOEXEC=8, EBADF=9, EAGAIN=11, ENOMEM=12, EACCES=13, EFAULT=14, EBUSY=16, EEXIST=17, EXDEV=18, ENOTDIR=20, EISDIR=21, EINVAL=22, ENAMETOOLONG=36, ENOSYS=38, ENOTEMPTY=39, ELOOP=40, ERANGE=34, EROFS=30, ELIBBAD=80, EOPNOTSUPP=95, EADDRINUSE=98, ESRCH=3, ETXTBSY=26, ENFILE=23, EMFILE=24, }
