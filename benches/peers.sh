#!/usr/bin/env bash
#
# Gets the programs that the benchmarks compare with and prints where each is: NAME=PATH, a line each.

set -euo pipefail

# shellcheck disable=SC2034 # read by lib.sh
sysroot_name=peers
here=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=../example-sysroots/lib.sh
. "$here/../example-sysroots/lib.sh"

# The suite whose proot is not the 5.1 of Debian 12 and 13.
newer_suite=forky

usage() {
    cat <<END
Usage: peers.sh

Gets the programs that the benchmarks compare elfuse with, as root by apt-get
install, else by unpacking their packages into $tools_dir, and prints a line
NAME=PATH for each. What cannot be had is told, has no line, and is no error.

proot-5.4 is the proot of Debian $newer_suite with that suite's libraries, unpacked.

Environment: ELFUSE_SYSROOTS, ELFUSE_DEBIAN_MIRROR as for example-sysroots/*/make.sh
END
}

case "${1:-}" in
    "") ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac

# In a subshell, as what cannot be had ends it.
offer() { # NAME PACKAGE
    local path
    if path=$(
        trap - ERR
        need_tool "$1" "$2"
        command -v "$1"
    ); then
        printf '%s=%s\n' "$1" "$path"
    else
        say "going without $1"
    fi
}

# ----------------------------------------------------------------- a newer proot

# With its interpreter and its libraries' place written into it, so that it starts as any program does.
newer_proot() {
    local root=$tools_dir/proot-$newer_suite version program=usr/bin/proot
    if [ ! -x "$root/$program" ]; then
        unpack_newer_proot "$root"
    fi
    # Debian's 5.4 does not tell its version itself.
    version=$(cat -- "$root/version")
    say "proot of $newer_suite is $version"
    case "$version" in
        5.4.*) printf 'proot-5.4=%s\n' "$root/$program" ;;
        *) die "proot of $newer_suite is $version, not 5.4" ;;
    esac
}

unpack_newer_proot() { # DIRECTORY
    local root=$1 state=$tools_dir/apt-$newer_suite keyring missing deb
    need_tool patchelf patchelf
    keyring=$(need_debian_keyring)
    mkdir -p -- "$state/state/lists/partial" "$state/cache/archives/partial"
    # Updates and security fixes are left out: not every suite has them.
    need_debian_sources "$newer_suite" | awk -v keys="$keyring" -v suite="$newer_suite" '
        $3 == suite && !seen[$2]++ { print "deb [signed-by=" keys "] " $2 " " suite " main" }
    ' >"$state/sources.list"
    : >"$state/status"
    apt_lists=(
        -o "Dir::State=$state/state" -o "Dir::State::status=$state/status"
        -o "Dir::Cache=$state/cache"
        -o "Dir::Etc::sourcelist=$state/sources.list" -o "Dir::Etc::sourceparts=-"
        -o "APT::Sandbox::User=root" -o "Acquire::Languages=none"
        -o "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"
    )
    say "fetching the package lists of $newer_suite"
    apt-get "${apt_lists[@]}" -qq update >&2
    # Nothing counts as installed, so that its libraries come with it.
    missing=$(missing_packages proot)
    rm -rf -- "$root.tmp" "$root.debs"
    mkdir -p -- "$root.tmp" "$root.debs"
    download_packages "$root.debs" "$missing"
    for deb in "$root.debs"/*.deb; do
        dpkg-deb -x "$deb" "$root.tmp"
    done
    dpkg-deb -f "$root.debs"/proot_*.deb Version >"$root.tmp/version"
    rm -rf -- "$root.debs"
    local libs interpreter
    libs=$(cd -- "$root.tmp" && find . -name '*.so.*' -printf "$root/%P\n" | sed 's,/[^/]*$,,' | sort -u | paste -s -d :)
    interpreter=$(cd -- "$root.tmp" && find . -name 'ld-linux-x86-64.so.2' -type f -printf "$root/%P\n" | head -n 1)
    patchelf --set-interpreter "$interpreter" --force-rpath --set-rpath "$libs" "$root.tmp/usr/bin/proot"
    mv -T -- "$root.tmp" "$root"
}

offer bwrap bubblewrap
offer proot proot
offer fakechroot fakechroot
offer qemu-x86_64-static qemu-user-static
offer bindfs bindfs
offer squashfuse squashfuse
offer mksquashfs squashfs-tools
if ! (
    trap - ERR
    newer_proot
); then
    say "going without proot 5.4"
fi
