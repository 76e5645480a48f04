#!/usr/bin/env bash
#
# Makes a sysroot laid out as Guix and Nix lay out a system: every package in a
# directory of its own below /store, found by RUNPATH instead of by ld.so.cache.
# Its packages are those of the Debian sysroot, taken apart.

set -euo pipefail

# shellcheck disable=SC2034 # read by lib.sh
sysroot_name=store
here=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=../lib.sh
. "$here/../lib.sh"

# Raise it with any change that makes the same packages into another tree.
version=1

# What is installed: the libraries these need follow.
programs=(ffmpeg emacs-nox busybox-static)

# What Debian splits and a store does not: package -> the one it is put into.
declare -A part_of=(
    [emacs-common]=emacs-nox
    [emacs-bin-common]=emacs-nox
    # Without the sources emacs does not find what is compiled from them.
    [emacs-el]=emacs-nox
)
# Store names where Debian's would mislead.
declare -A renamed=(
    [libc6]=glibc
    [busybox-static]=busybox
)

usage() {
    cat <<END
Usage: make.sh [OUTDIR]

Makes a sysroot with one directory per package (/store/HASH-NAME-VERSION) in
OUTDIR ($sysroots_root/store if not given) and prints its absolute path. Does
nothing if it is already there. It is made from the Debian sysroot, which is
made first if need be.

In it are ffmpeg, emacs and a static busybox with all libraries they need.

Environment:
  ELFUSE_SYSROOTS    where sysroots, packages and tools are kept
  and what debian/make.sh reads
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

debian=$("$here/../debian/make.sh")

sysroot_begin "${1:-$sysroots_root/store}" \
    "$(recipe_hash store "$version" "$(sha256sum <"$debian/var/lib/dpkg/status")")"
need_space "$(dirname -- "$out")" 1024
need_tool patchelf patchelf
need_tool ldconfig libc-bin
work=$(mktemp -d -- "${TMPDIR:-/tmp}/elfuse-store.XXXXXX")
trap 'remove_tree "$building" "$work"' EXIT

libc=$(cd -- "$debian" && echo usr/lib/*-linux-gnu/libc.so.6)
triplet=${libc#usr/lib/}
triplet=${triplet%/libc.so.6}

# Where a file of a Debian package goes below its package's store directory: a sed
# program over paths without the leading slash, which tar takes as well.
place="s,^usr/lib/$triplet/,lib/,;s,^usr/sbin/,bin/,;s,^usr/,,"
# What has no place there: documentation, what belongs to a running system, and
# what only makes sense where libraries are looked for in a few directories.
no_place='^usr/share/(doc|man|info|lintian|bug)/|^usr/lib/systemd/|^usr/lib64/|^(var|run)/|^etc/ld\.so\.conf\.d/'

# ------------------------------------------------- the Debian tree, read once

say "reading which file is whose"
mkdir -- "$work/paths" "$work/files"
for list in "$debian"/var/lib/dpkg/info/*.list; do
    package=${list##*/}
    package=${package%.list}
    package=${package%%:*}
    # The /usr of the tree is merged, while some packages still say /lib.
    sed -E 's,^/(bin|sbin|lib|lib64)(/|$),/usr&,; s,^/,,; /^\.?$/d' "$list" |
        { grep -Ev -- "$no_place" || true; } >>"$work/paths/${part_of[$package]:-$package}"
done

declare -A owner=()  # path -> package; of a directory, one of its packages
declare -A placed=() # path -> its place below its package's store directory
for list in "$work/paths"/*; do
    package=${list##*/}
    sort -u -o "$list" "$list"
    while IFS=$'\t' read -r path to; do
        owner[$path]=$package
        placed[$path]=$to
        if [ -L "$debian/$path" ] || [ -f "$debian/$path" ]; then
            printf '%s\n' "$path"
        fi
    done < <(sed "$place" "$list" | paste "$list" -) >"$work/files/$package"
done

# merged PATH: sets REPLY to PATH, normalized, without its first slash, and as the
# merged /usr has it.
merged() {
    REPLY=$1
    if [[ $REPLY == */./* || $REPLY == */../* || $REPLY == *//* ]]; then
        REPLY=$(realpath -ms -- "$REPLY")
    fi
    REPLY=${REPLY#/}
    case "$REPLY" in
        bin/* | sbin/* | lib/* | lib64/*) REPLY=usr/$REPLY ;;
    esac
}

declare -A cached=() # soname -> path, as ld.so.cache has it
while read -r soname path; do
    if [ -z "${cached[$soname]:-}" ]; then
        merged "$path"
        cached[$soname]=$REPLY
    fi
done < <(ldconfig -p -C "$debian/etc/ld.so.cache" | awk '/ => / { print $1, $NF }')
if [ "${#cached[@]}" -eq 0 ]; then
    die "nothing could be read from $debian/etc/ld.so.cache" "ldconfig -p prints no library" \
        "remove $debian.stamp and make the Debian sysroot anew"
fi

# Object files and archives' members are ELF too, but have nothing to resolve.
is_dynamic_elf() {
    [ ! -L "$1" ] && is_elf "$1" && patchelf --print-needed "$1" >/dev/null 2>&1
}

# find_library SONAME RUNPATH DIRECTORY: sets REPLY to the file that ld.so opens
# in the Debian tree for a file in DIRECTORY that needs SONAME. Of the links that
# lead there it is the last still called SONAME, for RUNPATH is to name its directory.
find_library() {
    local soname=$1 path='' found='' dir dirs
    IFS=: read -r -a dirs <<<"$2"
    for dir in "${dirs[@]}"; do
        dir=${dir//\$\{ORIGIN\}/$3}
        dir=${dir//\$ORIGIN/$3}
        merged "$dir/$soname"
        if [ -e "$debian/$REPLY" ] || [ -L "$debian/$REPLY" ]; then
            path=$REPLY
            break
        fi
    done
    path=${path:-${cached[$soname]:-}}
    # The cache has libraries by the names they give themselves only.
    for dir in "usr/lib/$triplet" usr/lib; do
        if [ -z "$path" ] && [ -e "$debian/$dir/$soname" ]; then
            path=$dir/$soname
        fi
    done
    while [ -n "$path" ]; do
        if [ "${path##*/}" = "$soname" ] && [ -n "${owner[$path]:-}" ]; then
            found=$path
        fi
        if [ ! -L "$debian/$path" ]; then
            break
        fi
        dir=${path%/*}
        path=$(readlink -- "$debian/$path")
        case "$path" in
            /*) merged "$path" ;;
            *) merged "/$dir/$path" ;;
        esac
        path=$REPLY
    done
    REPLY=$found
}

# --------------------------------------------------------------- the closure

# A package needs what any of its files needs, modules and helpers included. A
# module that needs what the Debian sysroot does not have (Debian merely recommends
# it) is left out: it could not be loaded there either.
say "finding what ${programs[*]} need"
declare -A item=() # package -> its name in the store
declare -A resolved=()
left_out=0
queue=("${programs[@]}" libc6)
mkdir -- "$work/needed"

# note_needed PACKAGE PATH: writes PATH and the files it needs, separated by tabs.
note_needed() {
    local path=$2 dir=/${2%/*} runpath sonames soname key
    local libraries=()
    runpath=$(patchelf --print-rpath "$debian/$path")
    mapfile -t sonames < <(patchelf --print-needed "$debian/$path")
    for soname in "${sonames[@]}"; do
        key=$soname${runpath:+|$runpath|$dir}
        if [ -z "${resolved[$key]:-}" ]; then
            find_library "$soname" "$runpath" "$dir"
            if [ -z "$REPLY" ]; then
                printf '%s\n' "$path" >>"$work/left-out"
                left_out=$((left_out + 1))
                return
            fi
            resolved[$key]=$REPLY
        fi
        libraries+=("${resolved[$key]}")
    done
    printf '%s' "$path" >>"$work/needed/$1"
    local library
    for library in "${libraries[@]}"; do
        printf '\t%s' "$library" >>"$work/needed/$1"
        queue+=("${owner[$library]}")
    done
    printf '\n' >>"$work/needed/$1"
}

: >"$work/left-out"
while [ "${#queue[@]}" -gt 0 ]; do
    package=${queue[0]}
    queue=("${queue[@]:1}")
    if [ -n "${item[$package]:-}" ]; then
        continue
    fi
    item[$package]=-
    : >"$work/needed/$package"
    while read -r path; do
        if is_dynamic_elf "$debian/$path"; then
            note_needed "$package" "$path"
        fi
    done <"$work/files/$package"
done
if [ "$left_out" -gt 0 ]; then
    say "left out, for want of what they need: $(tr '\n' ' ' <"$work/left-out")"
fi

# ----------------------------------------------------------------- the store

# store_hash: 160 bits of the digest of standard input, in base 32 with the
# alphabet that Guix and Nix use.
store_hash() {
    sha256sum | head -c 40 | tr a-f A-F | basenc --decode --base16 | basenc --base32hex |
        tr 0-9A-V 0-9a-df-np-sv-z
}

# The hash is of what Debian ships, as a normalized archive, and not of what is made
# of it here: paths within the files depend on the hashes.
copy_package() { # PACKAGE
    local name=${renamed[$1]:-$1} upstream
    upstream=$(dpkg-query --admindir="$debian/var/lib/dpkg" -W -f '${Version}\n' "$1" | head -n 1)
    # An epoch says nothing outside Debian, and a tilde is not for store names.
    upstream=${upstream#*:}
    upstream=${upstream//\~/-}
    { grep -Fvx -f "$work/left-out" "$work/files/$1" || true; } |
        tar --create --file="$work/archive" --directory="$debian" --format=gnu \
            --mtime=@1 --owner=0 --group=0 --numeric-owner --hard-dereference \
            --transform="flags=rSH;$place" \
            --no-recursion --verbatim-files-from --files-from=-
    item[$1]=$({ printf '%s\n' "$name" "$upstream" && cat "$work/archive"; } | store_hash)-$name-$upstream
    mkdir -- "$building/store/${item[$1]}"
    tar --extract --file="$work/archive" --directory="$building/store/${item[$1]}" \
        --no-same-owner --no-same-permissions
}

# Links within a package mostly stay as they are. Those that lead out of it, by an
# absolute path or in Debian by a relative one, lead to the directory of the other
# package, or go, if nothing here needs what they lead to.
mend_links() { # PACKAGE
    local target=$building/store/${item[$1]} path link to other
    while read -r path; do
        if [ ! -L "$debian/$path" ]; then
            continue
        fi
        link=$target/${placed[$path]}
        to=$(readlink -- "$debian/$path")
        if [[ $to != /* && -e $link ]]; then
            continue
        fi
        rm -- "$link"
        case "$to" in
            /*) merged "$to" ;;
            *) merged "/${path%/*}/$to" ;;
        esac
        # A directory may be of several packages: of this one rather than another.
        for other in "$1" "${owner[$REPLY]:-none}"; do
            if [ -n "${item[$other]:-}" ] && [ -e "$building/store/${item[$other]}/${placed[$REPLY]:-}" ]; then
                ln -s -- "/store/${item[$other]}/${placed[$REPLY]:-}" "$link"
                break
            fi
        done
    done <"$work/files/$1"
}

say "copying ${#item[@]} packages"
mkdir -- "$building/store"
for package in "${!item[@]}"; do
    copy_package "$package"
done
for package in "${!item[@]}"; do
    mend_links "$package"
done

glibc=/store/${item[libc6]}
interpreter=$(patchelf --print-interpreter "$debian/usr/bin/env")
interpreter=$glibc/lib/${interpreter##*/}

# As Guix links a program: its own lib directory, those of the libraries it needs
# in the order it needs them, and that of libc.
say "setting interpreters and RUNPATHs"
patch_package() { # PACKAGE
    local own=/store/${item[$1]} path library dir libraries runpath arguments
    while IFS=$'\t' read -r -a libraries; do
        path=$own/${placed[${libraries[0]}]}
        # ld.so needs nothing, and must not be moved about.
        if [ "$path" = "$interpreter" ]; then
            continue
        fi
        runpath=
        if [ -d "$building$own/lib" ]; then
            runpath=$own/lib
        fi
        for library in "${libraries[@]:1}" ''; do
            if [ -n "$library" ]; then
                dir=/store/${item[${owner[$library]}]}/${placed[$library]}
                dir=${dir%/*}
            else
                dir=$glibc/lib
            fi
            case ":$runpath:" in
                *":$dir:"*) ;;
                *) runpath=${runpath:+$runpath:}$dir ;;
            esac
        done
        arguments=(--set-rpath "$runpath")
        if patchelf --print-interpreter "$building$path" >/dev/null 2>&1; then
            arguments+=(--set-interpreter "$interpreter")
        fi
        patchelf "${arguments[@]}" "$building$path"
    done <"$work/needed/$1"
}
for package in "${!item[@]}"; do
    patch_package "$package"
done

# ------------------------------------------------------- what is not a package

say "making the profile"
: >"$work/profile"
for package in "${programs[@]}"; do
    for program in "$building/store/${item[$package]}"/bin/*; do
        program=${program##*/}
        printf '%s\t%s\n' "$program" "/store/${item[$package]}/bin/$program"
    done
done >"$work/profile"
printf '%s\t%s\n' \
    emacs "/store/${item[emacs-nox]}/bin/emacs-nox" \
    sh "/store/${item[busybox-static]}/bin/busybox" >>"$work/profile"
profile=/store/$(store_hash <"$work/profile")-profile
mkdir -p -- "$building$profile/bin"
while IFS=$'\t' read -r name target; do
    ln -s -- "$target" "$building$profile/bin/$name"
done <"$work/profile"

cd -- "$building"
mkdir -- dev etc proc root tmp usr usr/lib usr/libexec usr/share
ln -s -- "$profile/bin" bin
# The paths that are compiled into emacs.
for dir in lib/emacs libexec/emacs share/emacs; do
    ln -s -- "/store/${item[emacs-nox]}/$dir" "usr/$dir"
done
ln -s -- "/store/${item[emacs-nox]}/etc/emacs" etc/emacs
printf 'root:x:0:0:root:/root:/bin/sh\n' >etc/passwd
printf 'root:x:0:\n' >etc/group
printf '%s: files\n' passwd group hosts >etc/nsswitch.conf
# As in the stores that this one is like, no file is older or newer than another.
find store -exec touch -h -d @1 -- {} +

# --------------------------------------------------------------------- a trial

# Everything that this shows could only be found out by running ld.so of the tree.
check_tree() {
    local chroot=(chroot "$building") path program
    if [ "$(id -u)" -ne 0 ]; then
        chroot=(unshare --user --map-root-user "${chroot[@]}")
    fi
    if ! "${chroot[@]}" /bin/sh -c : 2>/dev/null; then
        say "note: cannot chroot here, so nothing of the tree was run"
        return
    fi
    say "running its programs"
    for program in '/bin/ffmpeg -version' '/bin/emacs --batch --eval t'; do
        # shellcheck disable=SC2086 # words on purpose
        if ! "${chroot[@]}" $program >"$work/log" 2>&1 </dev/null; then
            mapfile -t path < <(tail -n 15 "$work/log")
            die "$program fails in the tree that was made" "${path[@]}"
        fi
    done
    for package in "${!item[@]}"; do
        cut -f 1 "$work/needed/$package" | sed "$place; s,^,/store/${item[$package]}/,"
    done | grep -Fvx -- "$interpreter" >"$work/elf"
    # shellcheck disable=SC2016 # the dollar is the inner shell's
    "${chroot[@]}" /bin/sh -c 'while read -r file; do "$0" --list "$file" 2>&1; done' \
        "$interpreter" <"$work/elf" >"$work/log" || true
    if grep -Ev '=> /store/|^[[:space:]]*(/store/|linux-vdso|statically linked)' "$work/log" >"$work/bad"; then
        mapfile -t path < <(sort -u "$work/bad" | head -n 15)
        die "libraries of the tree that was made are not found in /store" "${path[@]}"
    fi
    say "$(wc -l <"$work/elf") programs and libraries find all that they need"
}
check_tree
cd /
sysroot_finish
