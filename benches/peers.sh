#!/usr/bin/env bash
#
# Gets the programs that the benchmarks compare with and prints where each is: NAME=PATH, a line each.

set -euo pipefail

# shellcheck disable=SC2034 # read by lib.sh
sysroot_name=peers
here=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=../example-sysroots/lib.sh
. "$here/../example-sysroots/lib.sh"

# Debian 12 and 13 have proot 5.1. Where the source of the newer one is.
newer_suite=forky
newer_version=5.4.0
# The perl of the Debian sysroot.
perl_suite=bookworm
perl_version=5.36.0

usage() {
    cat <<END
Usage: peers.sh

Gets the programs that the benchmarks compare elfuse with, as root by apt-get
install, else by unpacking their packages into $tools_dir, and prints a line
NAME=PATH for each. What cannot be had is told, has no line, and is no error.

proot-5.4 is built from the source that Debian $newer_suite has, as it stands;
perl-static, linked statically, from that of $perl_suite: it takes some minutes,
once.

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

# ------------------------------------------------------------------ from source

# Gets the source of a package into the working directory, as its authors have it.
fetch_source() { # SUITE PACKAGE
    local suite=$1 package=$2 state=$tools_dir/apt-$1 keyring
    keyring=$(need_debian_keyring)
    mkdir -p -- "$state/state/lists/partial" "$state/cache/archives/partial"
    # Updates and security fixes are left out: not every suite has them.
    need_debian_sources "$suite" | awk -v keys="$keyring" -v suite="$suite" '
        $3 == suite && !seen[$2]++ { print "deb-src [signed-by=" keys "] " $2 " " suite " main" }
    ' >"$state/sources.list"
    : >"$state/status"
    apt_lists=(
        -o "Dir::State=$state/state" -o "Dir::State::status=$state/status"
        -o "Dir::Cache=$state/cache"
        -o "Dir::Etc::sourcelist=$state/sources.list" -o "Dir::Etc::sourceparts=-"
        -o "APT::Sandbox::User=root" -o "Acquire::Languages=none"
    )
    say "fetching the source of $package from $suite"
    apt-get "${apt_lists[@]}" -qq update >&2
    apt-get "${apt_lists[@]}" -qq source --tar-only --download-only "$package" >&2
}

# Runs a function that puts a program into the working directory, and keeps the directory if it goes well.
build_once() { # NAME PROGRAM-VERSION FUNCTION
    local name=$1 root=$tools_dir/$2 build=$3 program=${2%-*}
    if [ ! -x "$root/$program" ]; then
        rm -rf -- "$root.tmp"
        mkdir -p -- "$root.tmp"
        cd -- "$root.tmp"
        "$build"
        cd /
        mv -T -- "$root.tmp" "$root"
    fi
    printf '%s=%s\n' "$name" "$root/$program"
}

# Debian's package of it is patched to do without seccomp, and opened the host's file where it was to open the guest's (seen on Linux 6.18).
build_proot() {
    need_tool cc gcc
    need_tool make make
    need_tool pkg-config pkg-config
    if [ ! -e /usr/include/talloc.h ] && ! install_package libtalloc-dev; then
        unpack_package libtalloc-dev
        local talloc=$tools_dir/libtalloc-dev/usr
        LIBRARY_PATH=$talloc/lib/$(cc -dumpmachine)
        # The last is where the program finds it again.
        export CPATH=$talloc/include LIBRARY_PATH PKG_CONFIG_PATH=$LIBRARY_PATH/pkgconfig LD_RUN_PATH=$LIBRARY_PATH
    fi
    fetch_source "$newer_suite" proot
    tar -xf proot_"$newer_version".orig.tar.*
    say "building proot $newer_version"
    # Its makefile asks git for the version.
    make -C proot-"$newer_version"/src proot "VERSION=v$newer_version" >&2
    cp -- proot-"$newer_version"/src/proot .
    rm -rf -- proot-"$newer_version"
}

# Without loading of extensions, which a static program cannot do.
build_perl() {
    need_tool cc gcc
    need_tool make make
    fetch_source "$perl_suite" perl
    tar -xf perl_"$perl_version".orig.tar.*
    say "building a static perl $perl_version"
    (
        cd -- perl-"$perl_version"
        sh ./Configure -des -Uusedl -Dldflags=-static >/dev/null 2>&1
        make -j "$(nproc)" perl >/dev/null 2>&1
    )
    cp -- perl-"$perl_version"/perl .
    rm -rf -- perl-"$perl_version"
}

offer bwrap bubblewrap
offer proot proot
offer fakechroot fakechroot
offer qemu-x86_64-static qemu-user-static
offer bindfs bindfs
# In a subshell too, and not as a condition: there it would go on behind what fails.
offer_built() { # NAME PROGRAM-VERSION FUNCTION
    (
        trap - ERR
        build_once "$@"
    ) &
    if ! wait "$!"; then
        say "going without $1"
    fi
}
offer_built proot-5.4 "proot-$newer_version" build_proot
offer_built perl-static "perl-$perl_version" build_perl
