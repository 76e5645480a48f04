#!/usr/bin/env bash
#
# Makes a Debian sysroot: fully configured, owned by whoever runs this.

set -euo pipefail

# shellcheck disable=SC2034 # read by lib.sh
sysroot_name=debian
here=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=../lib.sh
. "$here/../lib.sh"

suite=bookworm
packages=(
    libc-bin bash coreutils findutils tar sed grep gawk binutils
    python3 python3-numpy python3-scipy perl ruby guile-3.0 nodejs
    git ffmpeg emacs-nox
    gcc libc6-dev musl musl-dev musl-tools busybox-static
)
# Raise it with any change that makes the same packages into another tree.
version=1

usage() {
    cat <<END
Usage: make.sh [OUTDIR]

Makes a Debian $suite sysroot in OUTDIR ($sysroots_root/debian if not given)
and prints its absolute path. Does nothing if it is already there.

Root and ordinary users get the same tree: owned by themselves, without device
nodes, without setuid bits.

Environment:
  ELFUSE_SYSROOTS        where sysroots, packages and tools are kept
  ELFUSE_DEBIAN_MIRROR   URI of the Debian mirror (default: the machine's own)
  ELFUSE_DEBIAN_MODE     unshare or proot (default: the first of them that works)
  TMPDIR                 where to unpack (default: /tmp, or /var/tmp if it is full)
END
}

case "${1:-}" in
    -h | --help)
        usage
        exit 0
        ;;
    -*)
        usage >&2
        exit 2
        ;;
esac
if [ "$#" -gt 1 ]; then
    usage >&2
    exit 2
fi

for tool in dpkg dpkg-deb apt-get; do
    if ! command -v "$tool" >/dev/null; then
        die "$tool is needed" "it is not on PATH" "run this on Debian or a descendant of it"
    fi
done
architecture=$(dpkg --print-architecture)

# The temporary files go where there is room for the tree, which mmdebstrap makes
# there before it is read out. In unshare mode other user ids must be able to
# enter the directory, so one below a private home would not do.
make_workdir() {
    local dir
    for dir in "${TMPDIR:-}" /tmp /var/tmp; do
        if [ -n "$dir" ] && [ -w "$dir" ] &&
            [ "$(df --output=avail -BM -- "$dir" | tail -n 1 | tr -dc 0-9)" -ge "$1" ]; then
            work=$(mktemp -d -- "$dir/elfuse-debian.XXXXXX")
            chmod 755 -- "$work"
            return
        fi
    done
    die "no room for temporary files" "needed: $1 MiB in one of: ${TMPDIR:-} /tmp /var/tmp" \
        "set TMPDIR to a directory that has it"
}

# Prints the first way of making the tree that works here.
choose_mode() {
    if [ -n "${ELFUSE_DEBIAN_MODE:-}" ]; then
        case "$ELFUSE_DEBIAN_MODE" in
            unshare | proot) printf '%s\n' "$ELFUSE_DEBIAN_MODE" ;;
            *) die "ELFUSE_DEBIAN_MODE is $ELFUSE_DEBIAN_MODE" "it must be unshare or proot" ;;
        esac
    elif can_unshare; then
        printf 'unshare\n'
    else
        printf 'proot\n'
    fi
}

# Root needs the right to mount, which it may lack in a container; others need a range
# of user ids. This asks the kernel and newuidmap, not only the files that are to allow
# it. Where the kernel refuses, unshare may wait for ever for its own child.
can_unshare() {
    if [ "$(id -u)" -eq 0 ]; then
        unshare --mount --propagation unchanged true 2>/dev/null
        return
    fi
    command -v newuidmap >/dev/null || return 1
    timeout 10 unshare --user --map-auto --map-root-user true 2>/dev/null
}

# ------------------------------------------------------ with mmdebstrap (unshare)

# Writes the tree as a tar archive to standard output. For root too the mode is
# unshare: what is mounted on the way is then in a namespace of its own, and gone
# with it however this ends.
run_mmdebstrap() {
    # shellcheck disable=SC2016 # the hook's $1 is mmdebstrap's to give
    local arguments=(
        --mode=unshare --variant=minbase --format=tar --architectures="$architecture"
        --keyring="$work/keys"
        --aptopt='Apt::Install-Recommends "false"'
        --dpkgopt='force-unsafe-io'
        --include="$(IFS=,; printf '%s' "${packages[*]}")"
        # What the package cache has is put in place before anything is fetched
        # and all of it taken back once everything is installed; so mmdebstrap
        # must neither expect an empty archive nor clear it in between.
        --skip=download/empty --skip=essential/unlink
        --setup-hook='mkdir -p "$1"/var/cache/apt/archives'
        --setup-hook="sync-in ${packages_dir@Q} /var/cache/apt/archives"
        --customize-hook="sync-out /var/cache/apt/archives ${packages_dir@Q}"
    )
    # Its children (gpg-agent for one) may outlive this script. With exec the script
    # waits for mmdebstrap itself to clean up, when both are told to stop.
    export TMPDIR=$work
    exec mmdebstrap "${arguments[@]}" "$suite" - <"$work/sources.list" 9>&-
}

# --------------------------------------------------------------- with proot (proot)

# without_new_syscalls COMMAND: runs it with the system calls that take a path and
# that proot before 5.4 does not know (it would leave the path alone, and the
# program would see this machine instead of the tree) failing as they do on a
# kernel that lacks them; libc then does the same by older ones.
# shellcheck disable=SC2317 # called through an array
without_new_syscalls() {
    local prctl numbers
    case "$architecture" in
        # renameat2, execveat, statx, openat2, faccessat2, fchmodat2
        amd64) prctl=157 numbers=316,322,332,437,439,452 ;;
        arm64) prctl=167 numbers=276,281,291,437,439,452 ;;
        *) die "proot is not usable on $architecture" "the numbers of its system calls are not known here" \
            "set ELFUSE_DEBIAN_MODE to root or unshare" ;;
    esac
    # shellcheck disable=SC2016 # the dollars are perl's
    perl -e '
        my ($prctl, @numbers) = (shift, split(/,/, shift));
        # Classic BPF: load the number; equal to one of these: ENOSYS; else allow.
        my @program = (pack "SCCL", 0x20, 0, 0, 0);
        push @program, pack "SCCL", 0x15, @numbers - $_, 0, $numbers[$_] for 0 .. $#numbers;
        push @program, pack("SCCL", 0x06, 0, 0, 0x7fff0000), pack("SCCL", 0x06, 0, 0, 0x00050026);
        my $filter = pack "S x![Q] P", scalar @program, join "", @program;
        syscall($prctl, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!\n";
        syscall($prctl, 22, 2, $filter, 0, 0) == 0 or die "seccomp: $!\n";
        exec @ARGV or die "$ARGV[0]: $!\n";
    ' "$prctl" "$numbers" "$@"
}

# What mmdebstrap does, by one who can neither chroot nor own files as anybody
# else: proot has programs see the tree as / and themselves as root.
run_by_proot() {
    local root=$work/root archives=$work/archives file
    mkdir -p -- "$root"/etc/apt/{apt.conf.d,preferences.d} "$root/var/lib/dpkg" \
        "$root"/var/lib/apt/lists/partial "$root"/var/cache/apt/archives/partial \
        "$archives/partial"
    : >"$root/var/lib/dpkg/status"
    cp -- "$work/sources.list" "$root/etc/apt/sources.list"
    printf 'Apt::Install-Recommends "false";\n' >"$root/etc/apt/apt.conf.d/99mmdebstrap"
    cat >"$work/apt.conf" <<END
Dir "$root";
Dir::State::status "$root/var/lib/dpkg/status";
Dir::Cache::archives "$archives";
Dir::Etc::Trusted "/dev/null";
Dir::Etc::TrustedParts "$work/keys";
Apt::Architecture "$architecture";
Apt::Architectures { "$architecture"; };
Apt::Sandbox::User "root";
END
    local apt=(env "APT_CONFIG=$work/apt.conf" apt-get -qq -y)

    say "fetching package lists"
    "${apt[@]}" update >&2
    say "fetching packages"
    find "$packages_dir" -maxdepth 1 -name '*.deb' -exec ln -t "$archives" -- {} + 2>/dev/null ||
        find "$packages_dir" -maxdepth 1 -name '*.deb' -exec cp -t "$archives" -- {} +
    local essential
    mapfile -t essential < <(
        "${apt[@]}" -s install '?essential' apt | awk '$1 == "Inst" { print $2 }'
    )
    "${apt[@]}" --download-only install '?essential' '?priority(required)' apt "${packages[@]}" >&2

    say "unpacking the essential packages"
    local essential_debs=() name
    mkdir -- "$work/essential"
    for name in "${essential[@]}"; do
        for file in "$archives/${name%%:*}"_*.deb; do
            essential_debs+=("/essential/${file##*/}")
            ln -- "$file" "$work/essential/"
            dpkg-deb -x "$file" "$root"
        done
    done

    local guest=(
        without_new_syscalls proot -0 -r "$root" -w /
        -b /dev -b /proc -b /sys -b "$archives:/var/cache/apt/archives" -b "$work/essential:/essential"
        /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
        DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true TERM=dumb HOME=/root
    )
    say "installing the essential packages"
    "${guest[@]}" dpkg --force-unsafe-io --force-depends --install "${essential_debs[@]}" >"$work/log" 2>&1 ||
        die_with_log "installing the essential packages under proot failed"
    say "installing the other packages"
    "${guest[@]}" apt-get -qq -y -o Apt::Sandbox::User=root -o DPkg::Options::=--force-unsafe-io \
        install '?priority(required)' "${packages[@]}" >"$work/log" 2>&1 ||
        die_with_log "installing the packages under proot failed"

    for file in "$archives"/*.deb; do
        if [ ! -e "$packages_dir/${file##*/}" ]; then
            mv -- "$file" "$packages_dir/"
        fi
    done
    rm -rf -- "$root"/var/lib/apt/lists "$root"/var/cache/apt/*.bin
    mkdir -p -- "$root"/var/lib/apt/lists/partial
    rm -f -- "$root"/var/log/{dpkg.log,alternatives.log,apt/history.log,apt/term.log,apt/eipp.log.xz} \
        "$root"/var/cache/ldconfig/aux-cache
    tar --create --directory="$root" --sort=name .
}

die_with_log() {
    local lines
    mapfile -t lines < <(tail -n 15 -- "$work/log")
    die "$1" "${lines[@]}" \
        "with a line for $(id -un) in /etc/subuid and /etc/subgid, and the package uidmap," \
        "mmdebstrap is used instead of proot"
}

# --------------------------------------------------------------------- either way

# Nothing that tells of this machine stays, and little of what the modes do
# differently: settings of this build, locks, backups of files changed twice.
tidy_tree() {
    cd -- "$building"
    rm -f -- etc/hostname etc/resolv.conf etc/fstab etc/{group,gshadow,passwd,shadow,subgid,subuid}- \
        etc/apt/apt.conf.d/99mmdebstrap etc/dpkg/dpkg.cfg.d/99mmdebstrap \
        var/cache/apt/archives/lock var/lib/apt/lists/lock var/lib/dpkg/arch \
        var/{cache/debconf,lib/dpkg}/*-old var/log/fontconfig.log
    printf 'sysroot\n' >etc/hostname
    : >etc/resolv.conf
    cp -- "$work/sources.list" etc/apt/sources.list
    chmod 755 -- var/cache/apt/archives/partial var/lib/apt/lists/partial
    cd -- "$OLDPWD"
}

check_tree() {
    local file bad
    for file in etc/ld.so.cache etc/alternatives/awk usr/bin/python3 usr/bin/emacs usr/bin/ffmpeg; do
        if [ ! -e "$building/$file" ] && [ ! -L "$building/$file" ]; then
            die "the tree that was made has no /$file"
        fi
    done
    bad=$(dpkg-query --admindir="$building/var/lib/dpkg" -W -f '${db:Status-Abbrev}|${Package}\n' |
        awk -F '|' '$1 !~ /^ii/ { print $2 }' | tr '\n' ' ')
    if [ -n "$bad" ]; then
        die "the tree that was made is not fully configured" "not so: $bad"
    fi
}

# Packages that a newer version has replaced would only pile up.
prune_packages() {
    local file
    rm -rf -- "$packages_dir/lock" "$packages_dir/partial"
    dpkg-query --admindir="$building/var/lib/dpkg" -W \
        -f '${Package}_${Version}_${Architecture}.deb\n' | sed 's/:/%3a/g' >"$work/used"
    for file in "$packages_dir"/*.deb; do
        if ! grep -Fqx -- "${file##*/}" "$work/used"; then
            rm -f -- "$file"
        fi
    done
}

sysroot_begin "${1:-$sysroots_root/debian}" \
    "$(recipe_hash debian "$version" "$suite" "$architecture" "${packages[@]}")"
need_space "$(dirname -- "$out")" 3072
work=
mode=
# shellcheck disable=SC2317 # called by a trap
clean_up() {
    local status=$?
    # Above 128 are signals, which say nothing about the mode.
    if [ "$status" -ne 0 ] && [ "$status" -lt 128 ] && [ -n "$mode" ]; then
        say "the mode was $mode; ELFUSE_DEBIAN_MODE chooses the other of unshare and proot"
    fi
    remove_tree "$building" ${work:+"$work"}
}
trap clean_up EXIT

keyring=$(need_debian_keyring)
mode=$(choose_mode)
case "$mode" in
    unshare) need_tool mmdebstrap mmdebstrap ;;
    proot) need_tool proot proot ;;
esac
make_workdir 4096
mkdir -- "$work/keys"
cp -- "$keyring" "$work/keys/debian-archive.gpg"
need_debian_sources "$suite" >"$work/sources.list"
export_apt_proxy
mkdir -p -- "$packages_dir"
# Sysroots in different places share the packages.
exec 8>"$sysroots_root/.packages.lock"
flock 8

say "making $out (mode $mode, in $work)"
say "from: $(tr '\n' ';' <"$work/sources.list")"
# The archive goes straight into tar: kept, it would take as much room as the
# tree, and the packages that are kept make a new one as quickly.
unpack=(
    tar --extract --directory="$building" --no-same-owner --no-same-permissions
    --delay-directory-restore '--exclude=./dev/*'
)
case "$mode" in
    unshare) run_mmdebstrap 8>&- | "${unpack[@]}" ;;
    proot) run_by_proot 8>&- | "${unpack[@]}" ;;
esac
chmod -R u+rwX -- "$building"

say "tidying and checking"
tidy_tree
check_tree
prune_packages
sysroot_finish
