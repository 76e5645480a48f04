# shellcheck shell=bash
#
# What the make.sh scripts of the example sysroots share. Sourced, never run:
#
#     sysroot_name=debian
#     . "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
#
# Everything the scripts write is below $sysroots_root, or beside the directory
# that the caller names. A tree OUT is accompanied by
#
#     OUT.stamp   a hash of the recipe it was made from
#     OUT.lock    held while somebody makes it
#     OUT.tmp     the tree while it is being made
#     OUT.old     the tree before this one, while it is being replaced

if [ -n "${ELFUSE_SYSROOTS:-}" ]; then
    sysroots_root=$ELFUSE_SYSROOTS
elif [ -n "${XDG_CACHE_HOME:-}" ]; then
    sysroots_root=$XDG_CACHE_HOME/elfuse/sysroots
else
    sysroots_root=${HOME:?neither ELFUSE_SYSROOTS nor HOME says where to put the sysroots}/.cache/elfuse/sysroots
fi
sysroots_root=$(realpath -m -- "$sysroots_root")

# Packages of tools that could neither be found nor installed are unpacked here.
tools_dir=$sysroots_root/.tools
# The packages that sysroots are made from, kept so that the next one is quick.
# shellcheck disable=SC2034 # read by those who source this
packages_dir=$sysroots_root/.packages

# Trees must not depend on the caller's locale or umask. The administrator's
# directories are where an ordinary user's PATH lacks chroot and ldconfig.
export LC_ALL=C.UTF-8
umask 022
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:$tools_dir/bin

# ---------------------------------------------------------------- messages

say() {
    printf '%s: %s\n' "${sysroot_name:-sysroot}" "$*" >&2
}

# What set -e ends the script for says nothing by itself.
set -o errtrace
trap 'unexpected "$?" "$BASH_COMMAND" "${BASH_SOURCE[0]}:$LINENO"' ERR

unexpected() { # STATUS COMMAND PLACE
    if [ "$1" -ne "$died" ]; then
        say "error: $3: exit status $1 from: $2"
        exit "$died"
    fi
}
died=3

# die WHAT-FAILED [FOUND|HINT ...]: each further argument is a line of its own.
die() {
    say "error: $1"
    shift
    local line
    for line in "$@"; do
        printf '    %s\n' "$line" >&2
    done
    exit "$died"
}

# ------------------------------------------------------------------- trees

# Packages bring directories that not even their owner may write. What somebody may
# have mounted in a tree is neither changed nor removed.
remove_tree() {
    local tree
    for tree in "$@"; do
        if [ -d "$tree" ] && [ ! -L "$tree" ]; then
            find "$tree" -xdev -type d ! -perm -u=rwx -exec chmod u+rwx {} \;
        fi
        rm -rf --one-file-system -- "$tree"
    done
}

is_elf() {
    local magic=
    [ -f "$1" ] || return 1
    # Complaints are of null bytes, or of a file that cannot be read.
    { IFS= read -r -d '' -n 4 magic <"$1"; } 2>/dev/null || true
    [ "$magic" = $'\x7fELF' ]
}

need_space() { # DIRECTORY MIB
    local available
    available=$(df --output=avail -BM -- "$1" | tail -n 1 | tr -dc 0-9)
    if [ "$available" -lt "$2" ]; then
        die "not enough space in $1" \
            "needed: $2 MiB; available: $available MiB" \
            "free some, or name another place (ELFUSE_SYSROOTS, TMPDIR, OUTDIR)"
    fi
}

recipe_hash() {
    printf '%s\n' "$@" | sha256sum | cut -d ' ' -f 1
}

# The stamp is the only thing that says a tree is complete, so it is read
# without the lock as well: a tree kept where the caller may not write is usable.
sysroot_is_current() {
    [ -d "$out" ] && [ -r "$out.stamp" ] && [ "$(cat -- "$out.stamp")" = "$recipe" ]
}

sysroot_print_and_exit() {
    printf '%s\n' "$out"
    exit 0
}

# sysroot_begin OUTDIR RECIPE-HASH
#
# Ends the script when OUTDIR is already what the recipe makes. Otherwise sets
# $out (absolute) and $building (an empty directory to make the tree in) and
# holds the lock on descriptor 9, which long-lived children must not inherit.
sysroot_begin() {
    out=$(realpath -m -- "$1")
    recipe=$2
    building=$out.tmp

    if sysroot_is_current; then
        say "$out is up to date"
        sysroot_print_and_exit
    fi
    if [ "$out" = / ]; then
        die "OUTDIR is /" "name a directory to make"
    fi
    mkdir -p -- "$(dirname -- "$out")"
    if ! { exec 9>"$out.lock"; } 2>/dev/null; then
        die "cannot write $out.lock" "the directory must be one that $(id -un) may write in"
    fi
    if ! flock --nonblock 9; then
        say "waiting for whoever is making $out"
        flock 9
        if sysroot_is_current; then
            say "$out was made meanwhile"
            sysroot_print_and_exit
        fi
    fi

    # A stamp says that these paths are ours to replace.
    if [ ! -e "$out.stamp" ]; then
        local path
        for path in "$out" "$out.tmp" "$out.old"; do
            if [ -e "$path" ] && ! rmdir -- "$path" 2>/dev/null; then
                die "$path exists and was not made by this script" \
                    "there is no $out.stamp beside it" \
                    "move it away, or name another OUTDIR"
            fi
        done
    fi
    printf 'unfinished\n' >"$out.stamp"
    remove_tree "$out.tmp" "$out.old"
    mkdir -- "$building"
    SECONDS=0
    trap 'remove_tree "$building"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

sysroot_finish() {
    chmod -R u+rwX -- "$building"
    if [ -e "$out" ]; then
        mv -T -- "$out" "$out.old"
    fi
    mv -T -- "$building" "$out"
    printf '%s\n' "$recipe" >"$out.stamp"
    remove_tree "$out.old"
    say "$out: $(find "$out" -mindepth 1 | wc -l) entries," \
        "$(find "$out" -mindepth 1 -type d | wc -l) of them directories," \
        "$(du -sm -- "$out" | cut -f 1) MiB, made in $SECONDS s"
    sysroot_print_and_exit
}

# --------------------------------------------------------------------- apt

# Options that make apt use lists of our own; empty while the machine's serve.
apt_lists=()

# An ordinary user cannot refresh the machine's package lists, so when they are
# missing or out of date a private copy takes their place.
apt_use_private_lists() {
    local dir=$tools_dir/apt
    if [ "${#apt_lists[@]}" -gt 0 ]; then
        return
    fi
    say "fetching package lists into $dir"
    mkdir -p -- "$dir/state/lists/partial" "$dir/cache/archives/partial"
    apt_lists=(
        -o "Dir::State=$dir/state"
        -o "Dir::State::status=/var/lib/dpkg/status"
        -o "Dir::Cache=$dir/cache"
        # The sandbox user may not enter a private directory.
        -o "APT::Sandbox::User=root"
    )
    # Hooks that the machine runs after an update may complain that we are not root.
    local said
    if ! said=$(apt-get "${apt_lists[@]}" -qq update 2>&1); then
        die "apt-get update failed" "$said" \
            "it used the package sources that this machine is set up with" \
            "see whether apt-get update works by hand"
    fi
}

apt_targets() {
    # The dollars are apt's.
    # shellcheck disable=SC2016
    apt-get "${apt_lists[@]}" indextargets \
        --format '$(IDENTIFIER)|$(ORIGIN)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)'
}

# debian_sources SUITE: sources.list lines for SUITE, its updates and its security
# fixes, from the mirrors that apt is set up with on this machine, whichever
# release of Debian it runs. ELFUSE_DEBIAN_MIRROR (a URI) is used instead if set.
debian_sources() {
    local suite=$1 lines
    if [ -n "${ELFUSE_DEBIAN_MIRROR:-}" ]; then
        printf 'deb %s %s main\n' "$ELFUSE_DEBIAN_MIRROR" "$suite"
        return
    fi
    lines=$(
        apt_targets | awk -F '|' -v suite="$suite" '
            $1 != "Packages" || $2 != "Debian" || $3 != "main" { next }
            {
                pocket = $4
                sub(/^[^-\/]*/, "", pocket)
                if (pocket != "" && pocket != "-updates" && pocket != "-security")
                    next
                line = "deb " $5 " " suite pocket " main"
                if (!seen[line]++)
                    print line
            }'
    )
    if [ -z "$lines" ]; then
        return 1
    fi
    printf '%s\n' "$lines"
}

need_debian_sources() { # SUITE
    if debian_sources "$1"; then
        return
    fi
    apt_use_private_lists
    if ! debian_sources "$1"; then
        die "apt on this machine is set up with no Debian mirror" \
            "apt-get indextargets names none whose Origin is Debian" \
            "set ELFUSE_DEBIAN_MIRROR to the URI of one"
    fi
}

# Programs that read no apt.conf of this machine learn its proxy from here.
export_apt_proxy() {
    local proxy=
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    if [ -n "$proxy" ] && [ -z "${http_proxy:-}" ]; then
        export http_proxy=$proxy
    fi
}

# ------------------------------------------------------------------- tools

# need_tool NAME PACKAGE
#
# Makes sure that NAME can be run: from PATH if it is there, else from PACKAGE,
# installed if we are root, else unpacked into a directory of our own.
need_tool() {
    local name=$1 package=$2
    if command -v "$name" >/dev/null; then
        return
    fi
    if ! command -v apt-get >/dev/null; then
        die "$name is needed" "it is not on PATH, and there is no apt-get to get it with" \
            "install it (Debian's package is $package)"
    fi
    mkdir -p -- "$sysroots_root"
    # One at a time: apt's own locks make others fail instead of wait.
    exec 8>"$sysroots_root/.tools.lock"
    flock 8
    if ! install_package "$package" 8>&- 9>&-; then
        unpack_package "$package"
        link_tool "$name" "$package"
    fi
    exec 8>&-
    hash -r
    if ! command -v "$name" >/dev/null; then
        die "$name is needed" "package $package was fetched, but it has no $name" \
            "install $name so that it is on PATH"
    fi
}

install_package() {
    if [ "$(id -u)" -ne 0 ]; then
        return 1
    fi
    say "installing $1"
    local install=(
        env DEBIAN_FRONTEND=noninteractive
        apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=600 install "$1"
    )
    # The first try fails when the package lists are missing or out of date.
    if "${install[@]}" >/dev/null 2>&1; then
        return
    fi
    if apt-get -qq update >&2 && "${install[@]}" >&2; then
        return
    fi
    say "installing $1 failed; unpacking it instead"
    return 1
}

# The packages that installing PACKAGE would add, itself included. Those it would
# upgrade (whose line has the old version in brackets) serve as they are.
missing_packages() {
    apt-get "${apt_lists[@]}" -s -o Debug::NoLocking=true --no-install-recommends \
        install "$1" 2>/dev/null | awk '$1 == "Inst" && $3 !~ /^\[/ { print $2 }'
}

# $tools_dir/PACKAGE becomes the root of PACKAGE and of what it depends on.
unpack_package() {
    local package=$1 root=$tools_dir/$1 missing debs
    if [ -d "$root" ]; then
        return
    fi
    say "unpacking $package into $root"
    mkdir -p -- "$tools_dir/bin"
    debs=$(mktemp -d -- "$tools_dir/debs.XXXXXX")
    if ! { missing=$(missing_packages "$package") && [ -n "$missing" ] &&
        download_packages "$debs" "$missing"; }; then
        apt_use_private_lists
        missing=$(missing_packages "$package") || missing=
        if ! download_packages "$debs" "${missing:-$package}"; then
            die "cannot get package $package" \
                "apt-get download failed for: $(echo "${missing:-$package}" | tr '\n' ' ')" \
                "install $package, or see whether apt-get update works"
        fi
    fi
    remove_tree "$root.tmp"
    mkdir -- "$root.tmp"
    local deb
    for deb in "$debs"/*.deb; do
        dpkg-deb -x "$deb" "$root.tmp"
    done
    mv -T -- "$root.tmp" "$root"
    remove_tree "$debs"
}

download_packages() { # DIRECTORY LINES-OF-PACKAGES
    local names
    mapfile -t names <<<"$2"
    (cd -- "$1" && apt-get "${apt_lists[@]}" -qq download "${names[@]}" >&2)
}

# A wrapper, so that the libraries unpacked with a tool are seen by it alone.
link_tool() {
    local name=$1 root=$tools_dir/$2 program libs
    program=$(find "$root" -path "*bin/$name" | head -n 1)
    if [ -z "$program" ]; then
        return
    fi
    libs=$(find "$root" -name '*.so.*' -printf '%h\n' | sort -u | paste -s -d :)
    if [ -z "$libs" ]; then
        ln -sf -- "$program" "$tools_dir/bin/$name"
        return
    fi
    {
        printf '#!/bin/sh\n'
        printf 'LD_LIBRARY_PATH=%q exec %q "$@"\n' "$libs" "$program"
    } >"$tools_dir/bin/$name"
    chmod +x "$tools_dir/bin/$name"
}

# need_debian_keyring: prints the path of the keys that sign Debian's archive.
need_debian_keyring() {
    local file=usr/share/keyrings/debian-archive-keyring.gpg package=debian-archive-keyring
    if [ ! -r "/$file" ]; then
        install_package "$package" 9>&- || unpack_package "$package"
    fi
    if [ -r "/$file" ]; then
        printf '/%s\n' "$file"
    elif [ -r "$tools_dir/$package/$file" ]; then
        printf '%s/%s/%s\n' "$tools_dir" "$package" "$file"
    else
        die "the keys of Debian's archive are needed" "package $package has no /$file" \
            "install $package"
    fi
}
