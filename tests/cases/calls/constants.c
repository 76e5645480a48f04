#define _GNU_SOURCE
#include "calls.h"
#include <asm/unistd_64.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define NAMED(name) {#name, name}
#define CALL(name) {#name, __NR_##name}

static const struct {
    const char *name;
    long value;
} names[] = {
    NAMED(O_RDONLY), NAMED(O_WRONLY), NAMED(O_RDWR), NAMED(O_CREAT), NAMED(O_EXCL), NAMED(O_TRUNC), NAMED(O_APPEND),
    NAMED(O_NONBLOCK), NAMED(O_DIRECTORY), NAMED(O_NOFOLLOW), NAMED(O_CLOEXEC), NAMED(O_PATH), NAMED(O_TMPFILE),
    NAMED(O_NOCTTY), NAMED(O_NOATIME), NAMED(O_SYNC), NAMED(O_DIRECT), NAMED(AT_FDCWD), NAMED(AT_SYMLINK_NOFOLLOW),
    NAMED(AT_SYMLINK_FOLLOW), NAMED(AT_REMOVEDIR), NAMED(AT_EMPTY_PATH), NAMED(AT_EACCESS), NAMED(AT_NO_AUTOMOUNT),
    NAMED(AT_STATX_FORCE_SYNC), NAMED(AT_STATX_DONT_SYNC), NAMED(F_OK), NAMED(R_OK), NAMED(W_OK), NAMED(X_OK),
    NAMED(STATX_BASIC_STATS), NAMED(STATX_ALL), NAMED(STATX_TYPE), NAMED(RESOLVE_NO_XDEV),
    NAMED(RESOLVE_NO_MAGICLINKS), NAMED(RESOLVE_NO_SYMLINKS), NAMED(RESOLVE_BENEATH), NAMED(RESOLVE_IN_ROOT),
    NAMED(S_IFREG), NAMED(S_IFIFO), NAMED(S_IFSOCK), NAMED(S_IFCHR), NAMED(S_IFDIR), NAMED(S_IFLNK),
    {"RENAME_NOREPLACE", 1}, {"RENAME_EXCHANGE", 2}, {"RENAME_WHITEOUT", 4}, NAMED(UTIME_NOW), NAMED(UTIME_OMIT),
    NAMED(XATTR_CREATE), NAMED(XATTR_REPLACE), NAMED(SEEK_SET), NAMED(SEEK_CUR), NAMED(SEEK_END), NAMED(AF_UNIX),
    NAMED(SOCK_STREAM), NAMED(SOCK_DGRAM), NAMED(SOCK_SEQPACKET), NAMED(SOCK_CLOEXEC), NAMED(SOCK_NONBLOCK),
    NAMED(MSG_DONTWAIT), NAMED(IN_CREATE), NAMED(IN_DELETE), NAMED(IN_MODIFY), NAMED(IN_OPEN), NAMED(IN_ONLYDIR),
    NAMED(IN_DONT_FOLLOW), NAMED(IN_MOVED_FROM), NAMED(IN_MOVED_TO), NAMED(IN_DELETE_SELF), NAMED(PROT_NONE),
    NAMED(PROT_READ), NAMED(PROT_WRITE), NAMED(PROT_EXEC), NAMED(MAP_PRIVATE), NAMED(MAP_SHARED),
    NAMED(MAP_ANONYMOUS), NAMED(MFD_CLOEXEC), NAMED(MFD_ALLOW_SEALING), NAMED(F_DUPFD), NAMED(F_DUPFD_CLOEXEC),
    NAMED(F_GETFD), NAMED(F_SETFD), NAMED(F_GETFL), NAMED(F_SETFL), NAMED(FD_CLOEXEC), NAMED(RLIMIT_NOFILE),
    NAMED(RLIMIT_FSIZE), NAMED(RLIMIT_STACK), NAMED(PR_SET_NAME), NAMED(PR_GET_NAME), NAMED(PR_SET_DUMPABLE),
    NAMED(CLONE_NEWNS), NAMED(CLONE_NEWUSER), NAMED(CLONE_FS), NAMED(CLONE_FILES), NAMED(SIGUSR1), NAMED(SIGSYS),
    NAMED(SIGSEGV), NAMED(SIGCHLD),
    /* Younger than the headers of Debian 12. */
    {"RESOLVE_CACHED", 0x20}, {"AT_RECURSIVE", 0x8000}, {"AT_EXECVE_CHECK", 0x10000}, {"AT_HANDLE_FID", 0x200},
    {"CLOSE_RANGE_CLOEXEC", 4}, {"CLOSE_RANGE_UNSHARE", 2},
}, calls[] = {
    CALL(read), CALL(write), CALL(open), CALL(close), CALL(stat), CALL(fstat), CALL(lstat), CALL(poll), CALL(lseek),
    CALL(mmap), CALL(mprotect), CALL(munmap), CALL(brk), CALL(rt_sigaction), CALL(rt_sigprocmask), CALL(ioctl),
    CALL(pread64), CALL(pwrite64), CALL(readv), CALL(writev), CALL(access), CALL(pipe), CALL(select),
    CALL(sched_yield), CALL(mremap), CALL(msync), CALL(mincore), CALL(madvise), CALL(shmget), CALL(shmat),
    CALL(shmctl), CALL(dup), CALL(dup2), CALL(pause), CALL(nanosleep), CALL(getitimer), CALL(alarm), CALL(setitimer),
    CALL(getpid), CALL(sendfile), CALL(socket), CALL(connect), CALL(accept), CALL(sendto), CALL(recvfrom),
    CALL(sendmsg), CALL(recvmsg), CALL(shutdown), CALL(bind), CALL(listen), CALL(getsockname), CALL(getpeername),
    CALL(socketpair), CALL(setsockopt), CALL(getsockopt), CALL(execve), CALL(wait4), CALL(kill), CALL(uname),
    CALL(semget), CALL(semop), CALL(semctl), CALL(shmdt), CALL(msgget), CALL(msgsnd), CALL(msgrcv), CALL(msgctl),
    CALL(fcntl), CALL(flock), CALL(fsync), CALL(fdatasync), CALL(truncate), CALL(ftruncate), CALL(getdents),
    CALL(getcwd), CALL(chdir), CALL(fchdir), CALL(rename), CALL(mkdir), CALL(rmdir), CALL(creat), CALL(link),
    CALL(unlink), CALL(symlink), CALL(readlink), CALL(chmod), CALL(fchmod), CALL(chown), CALL(fchown), CALL(lchown),
    CALL(umask), CALL(gettimeofday), CALL(getrlimit), CALL(getrusage), CALL(sysinfo), CALL(times), CALL(ptrace),
    CALL(getuid), CALL(syslog), CALL(getgid), CALL(setuid), CALL(setgid), CALL(geteuid), CALL(getegid), CALL(setpgid),
    CALL(getppid), CALL(getpgrp), CALL(setsid), CALL(setreuid), CALL(setregid), CALL(getgroups), CALL(setgroups),
    CALL(setresuid), CALL(getresuid), CALL(setresgid), CALL(getresgid), CALL(getpgid), CALL(setfsuid), CALL(setfsgid),
    CALL(getsid), CALL(capget), CALL(capset), CALL(rt_sigpending), CALL(rt_sigtimedwait), CALL(rt_sigqueueinfo),
    CALL(rt_sigsuspend), CALL(sigaltstack), CALL(utime), CALL(mknod), CALL(uselib), CALL(personality), CALL(ustat),
    CALL(statfs), CALL(fstatfs), CALL(sysfs), CALL(getpriority), CALL(setpriority), CALL(sched_setparam),
    CALL(sched_getparam), CALL(sched_setscheduler), CALL(sched_getscheduler), CALL(sched_get_priority_max),
    CALL(sched_get_priority_min), CALL(sched_rr_get_interval), CALL(mlock), CALL(munlock), CALL(mlockall),
    CALL(munlockall), CALL(vhangup), CALL(modify_ldt), CALL(pivot_root), CALL(_sysctl), CALL(prctl), CALL(arch_prctl),
    CALL(adjtimex), CALL(setrlimit), CALL(chroot), CALL(sync), CALL(acct), CALL(settimeofday), CALL(mount),
    CALL(umount2), CALL(swapon), CALL(swapoff), CALL(reboot), CALL(sethostname), CALL(setdomainname), CALL(iopl),
    CALL(ioperm), CALL(create_module), CALL(init_module), CALL(delete_module), CALL(get_kernel_syms),
    CALL(query_module), CALL(quotactl), CALL(nfsservctl), CALL(getpmsg), CALL(putpmsg), CALL(afs_syscall),
    CALL(tuxcall), CALL(security), CALL(gettid), CALL(readahead), CALL(setxattr), CALL(lsetxattr), CALL(fsetxattr),
    CALL(getxattr), CALL(lgetxattr), CALL(fgetxattr), CALL(listxattr), CALL(llistxattr), CALL(flistxattr),
    CALL(removexattr), CALL(lremovexattr), CALL(fremovexattr), CALL(tkill), CALL(time), CALL(futex),
    CALL(sched_setaffinity), CALL(sched_getaffinity), CALL(set_thread_area), CALL(io_setup), CALL(io_destroy),
    CALL(io_getevents), CALL(io_submit), CALL(io_cancel), CALL(get_thread_area), CALL(lookup_dcookie),
    CALL(epoll_create), CALL(epoll_ctl_old), CALL(epoll_wait_old), CALL(remap_file_pages), CALL(getdents64),
    CALL(set_tid_address), CALL(restart_syscall), CALL(semtimedop), CALL(fadvise64), CALL(timer_create),
    CALL(timer_settime), CALL(timer_gettime), CALL(timer_getoverrun), CALL(timer_delete), CALL(clock_settime),
    CALL(clock_gettime), CALL(clock_getres), CALL(clock_nanosleep), CALL(exit_group), CALL(epoll_wait),
    CALL(epoll_ctl), CALL(tgkill), CALL(utimes), CALL(vserver), CALL(mbind), CALL(set_mempolicy), CALL(get_mempolicy),
    CALL(mq_open), CALL(mq_unlink), CALL(mq_timedsend), CALL(mq_timedreceive), CALL(mq_notify), CALL(mq_getsetattr),
    CALL(kexec_load), CALL(waitid), CALL(add_key), CALL(request_key), CALL(keyctl), CALL(ioprio_set),
    CALL(ioprio_get), CALL(inotify_init), CALL(inotify_add_watch), CALL(inotify_rm_watch), CALL(migrate_pages),
    CALL(openat), CALL(mkdirat), CALL(mknodat), CALL(fchownat), CALL(futimesat), CALL(newfstatat), CALL(unlinkat),
    CALL(renameat), CALL(linkat), CALL(symlinkat), CALL(readlinkat), CALL(fchmodat), CALL(faccessat), CALL(pselect6),
    CALL(ppoll), CALL(unshare), CALL(set_robust_list), CALL(get_robust_list), CALL(splice), CALL(tee),
    CALL(sync_file_range), CALL(vmsplice), CALL(move_pages), CALL(utimensat), CALL(epoll_pwait), CALL(signalfd),
    CALL(timerfd_create), CALL(eventfd), CALL(fallocate), CALL(timerfd_settime), CALL(timerfd_gettime), CALL(accept4),
    CALL(signalfd4), CALL(eventfd2), CALL(epoll_create1), CALL(dup3), CALL(pipe2), CALL(inotify_init1), CALL(preadv),
    CALL(pwritev), CALL(rt_tgsigqueueinfo), CALL(perf_event_open), CALL(recvmmsg), CALL(fanotify_init),
    CALL(fanotify_mark), CALL(prlimit64), CALL(name_to_handle_at), CALL(open_by_handle_at), CALL(clock_adjtime),
    CALL(syncfs), CALL(sendmmsg), CALL(setns), CALL(getcpu), CALL(process_vm_readv), CALL(process_vm_writev),
    CALL(kcmp), CALL(finit_module), CALL(sched_setattr), CALL(sched_getattr), CALL(renameat2), CALL(seccomp),
    CALL(getrandom), CALL(memfd_create), CALL(kexec_file_load), CALL(bpf), CALL(execveat), CALL(userfaultfd),
    CALL(membarrier), CALL(mlock2), CALL(copy_file_range), CALL(preadv2), CALL(pwritev2), CALL(pkey_mprotect),
    CALL(pkey_alloc), CALL(pkey_free), CALL(statx), CALL(io_pgetevents), CALL(rseq), CALL(pidfd_send_signal),
    CALL(io_uring_setup), CALL(io_uring_enter), CALL(io_uring_register), CALL(open_tree), CALL(move_mount),
    CALL(fsopen), CALL(fsconfig), CALL(fsmount), CALL(fspick), CALL(pidfd_open), CALL(close_range), CALL(openat2),
    CALL(pidfd_getfd), CALL(faccessat2), CALL(process_madvise), CALL(epoll_pwait2), CALL(mount_setattr),
    CALL(quotactl_fd), CALL(landlock_create_ruleset), CALL(landlock_add_rule), CALL(landlock_restrict_self),
    CALL(memfd_secret), CALL(process_mrelease), CALL(futex_waitv), CALL(set_mempolicy_home_node),
    /* Younger than the headers of Debian 12. */
    {"fchmodat2", 452}, {"map_shadow_stack", 453}, {"statmount", 457}, {"listmount", 458}, {"cachestat", 451},
    {"setxattrat", 463}, {"getxattrat", 464}, {"listxattrat", 465}, {"removexattrat", 466}, {"open_tree_attr", 467},
    {"file_getattr", 468}, {"file_setattr", 469},
};

static const char *const errors[] = {
    [EPERM] = "EPERM", [ENOENT] = "ENOENT", [ESRCH] = "ESRCH", [EINTR] = "EINTR", [EIO] = "EIO", [ENXIO] = "ENXIO",
    [E2BIG] = "E2BIG", [ENOEXEC] = "ENOEXEC", [EBADF] = "EBADF", [ECHILD] = "ECHILD", [EAGAIN] = "EAGAIN",
    [ENOMEM] = "ENOMEM", [EACCES] = "EACCES", [EFAULT] = "EFAULT", [ENOTBLK] = "ENOTBLK", [EBUSY] = "EBUSY",
    [EEXIST] = "EEXIST", [EXDEV] = "EXDEV", [ENODEV] = "ENODEV", [ENOTDIR] = "ENOTDIR", [EISDIR] = "EISDIR",
    [EINVAL] = "EINVAL", [ENFILE] = "ENFILE", [EMFILE] = "EMFILE", [ENOTTY] = "ENOTTY", [ETXTBSY] = "ETXTBSY",
    [EFBIG] = "EFBIG", [ENOSPC] = "ENOSPC", [ESPIPE] = "ESPIPE", [EROFS] = "EROFS", [EMLINK] = "EMLINK",
    [EPIPE] = "EPIPE", [EDOM] = "EDOM", [ERANGE] = "ERANGE", [EDEADLK] = "EDEADLK", [ENAMETOOLONG] = "ENAMETOOLONG",
    [ENOLCK] = "ENOLCK", [ENOSYS] = "ENOSYS", [ENOTEMPTY] = "ENOTEMPTY", [ELOOP] = "ELOOP", [ENOMSG] = "ENOMSG",
    [EIDRM] = "EIDRM", [ECHRNG] = "ECHRNG", [EL2NSYNC] = "EL2NSYNC", [EL3HLT] = "EL3HLT", [EL3RST] = "EL3RST",
    [ELNRNG] = "ELNRNG", [EUNATCH] = "EUNATCH", [ENOCSI] = "ENOCSI", [EL2HLT] = "EL2HLT", [EBADE] = "EBADE",
    [EBADR] = "EBADR", [EXFULL] = "EXFULL", [ENOANO] = "ENOANO", [EBADRQC] = "EBADRQC", [EBADSLT] = "EBADSLT",
    [EBFONT] = "EBFONT", [ENOSTR] = "ENOSTR", [ENODATA] = "ENODATA", [ETIME] = "ETIME", [ENOSR] = "ENOSR",
    [ENONET] = "ENONET", [ENOPKG] = "ENOPKG", [EREMOTE] = "EREMOTE", [ENOLINK] = "ENOLINK", [EADV] = "EADV",
    [ESRMNT] = "ESRMNT", [ECOMM] = "ECOMM", [EPROTO] = "EPROTO", [EMULTIHOP] = "EMULTIHOP", [EDOTDOT] = "EDOTDOT",
    [EBADMSG] = "EBADMSG", [EOVERFLOW] = "EOVERFLOW", [ENOTUNIQ] = "ENOTUNIQ", [EBADFD] = "EBADFD",
    [EREMCHG] = "EREMCHG", [ELIBACC] = "ELIBACC", [ELIBBAD] = "ELIBBAD", [ELIBSCN] = "ELIBSCN", [ELIBMAX] = "ELIBMAX",
    [ELIBEXEC] = "ELIBEXEC", [EILSEQ] = "EILSEQ", [ERESTART] = "ERESTART", [ESTRPIPE] = "ESTRPIPE",
    [EUSERS] = "EUSERS", [ENOTSOCK] = "ENOTSOCK", [EDESTADDRREQ] = "EDESTADDRREQ", [EMSGSIZE] = "EMSGSIZE",
    [EPROTOTYPE] = "EPROTOTYPE", [ENOPROTOOPT] = "ENOPROTOOPT", [EPROTONOSUPPORT] = "EPROTONOSUPPORT",
    [ESOCKTNOSUPPORT] = "ESOCKTNOSUPPORT", [EOPNOTSUPP] = "EOPNOTSUPP", [EPFNOSUPPORT] = "EPFNOSUPPORT",
    [EAFNOSUPPORT] = "EAFNOSUPPORT", [EADDRINUSE] = "EADDRINUSE", [EADDRNOTAVAIL] = "EADDRNOTAVAIL",
    [ENETDOWN] = "ENETDOWN", [ENETUNREACH] = "ENETUNREACH", [ENETRESET] = "ENETRESET",
    [ECONNABORTED] = "ECONNABORTED", [ECONNRESET] = "ECONNRESET", [ENOBUFS] = "ENOBUFS", [EISCONN] = "EISCONN",
    [ENOTCONN] = "ENOTCONN", [ESHUTDOWN] = "ESHUTDOWN", [ETOOMANYREFS] = "ETOOMANYREFS", [ETIMEDOUT] = "ETIMEDOUT",
    [ECONNREFUSED] = "ECONNREFUSED", [EHOSTDOWN] = "EHOSTDOWN", [EHOSTUNREACH] = "EHOSTUNREACH",
    [EALREADY] = "EALREADY", [EINPROGRESS] = "EINPROGRESS", [ESTALE] = "ESTALE", [EUCLEAN] = "EUCLEAN",
    [ENOTNAM] = "ENOTNAM", [ENAVAIL] = "ENAVAIL", [EISNAM] = "EISNAM", [EREMOTEIO] = "EREMOTEIO", [EDQUOT] = "EDQUOT",
    [ENOMEDIUM] = "ENOMEDIUM", [EMEDIUMTYPE] = "EMEDIUMTYPE", [ECANCELED] = "ECANCELED", [ENOKEY] = "ENOKEY",
    [EKEYEXPIRED] = "EKEYEXPIRED", [EKEYREVOKED] = "EKEYREVOKED", [EKEYREJECTED] = "EKEYREJECTED",
    [EOWNERDEAD] = "EOWNERDEAD", [ENOTRECOVERABLE] = "ENOTRECOVERABLE", [ERFKILL] = "ERFKILL",
    [EHWPOISON] = "EHWPOISON",
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

int constant(const char *name, word count, word *value) {
    for (word i = 0; i < COUNT(names); i++)
        if (length(names[i].name) == count && starts(name, names[i].name)) {
            *value = names[i].value;
            return 1;
        }
    return 0;
}

long call_number(const char *name) {
    for (word i = 0; i < COUNT(calls); i++)
        if (same_text(calls[i].name, name))
            return calls[i].value;
    return -1;
}

const char *error_name(long error) { return error > 0 && error < (long)COUNT(errors) ? errors[error] : 0; }
