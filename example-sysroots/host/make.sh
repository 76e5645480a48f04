#!/usr/bin/env bash
#
# Makes a small sysroot from programs of this very system, by elfuse-index bundle.
# Needs neither a network nor root.

set -euo pipefail

# shellcheck disable=SC2034 # read by lib.sh
sysroot_name=host
here=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")
repository=$(realpath -- "$here/../..")
# shellcheck source=../lib.sh
. "$here/../lib.sh"

# Raise it with any change that makes the same programs into another tree.
version=1

# Those that this system lacks are left out.
default_programs=(sh ls cat true env grep sed getent python3 perl)

usage() {
    cat <<END
Usage: make.sh [OUTDIR]

Bundles programs of this system and what they load into OUTDIR
($sysroots_root/host if not given) and prints its absolute path. Does nothing if
it is already there, made from the same programs by the same elfuse-index.

Environment:
  ELFUSE_INDEX           the elfuse-index to use (default: the one built in this
                         repository, else the one on PATH, else it is built)
  ELFUSE_HOST_PROGRAMS   programs, separated by spaces
                         (default: ${default_programs[*]})
  ELFUSE_HOST_ADD        further files and directories, separated by colons
  ELFUSE_SYSROOTS        where sysroots are kept
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

# Sets $index. A build is found again by the next run.
find_index() {
    local target=${CARGO_TARGET_DIR:-$repository/target}
    if [ -n "${ELFUSE_INDEX:-}" ]; then
        index=$ELFUSE_INDEX
        return
    fi
    for index in "$target/release/elfuse-index" "$target/debug/elfuse-index"; do
        if [ -x "$index" ]; then
            return
        fi
    done
    if index=$(command -v elfuse-index); then
        return
    fi
    if ! command -v cargo >/dev/null; then
        die "elfuse-index is needed" \
            "ELFUSE_INDEX is not set; there is none in $target/{release,debug} and none on PATH" \
            "install Rust, so that it can be built"
    fi
    say "building elfuse-index"
    # A relative CARGO_TARGET_DIR is one to cargo's directory as well.
    cargo build --release --locked --manifest-path "$repository/Cargo.toml" \
        -p elfuse-indexer --bin elfuse-index >&2
    index=$target/release/elfuse-index
}

# find_program NAME: sets REPLY to its path. In PATH a version manager may have put
# scripts first that find the program elsewhere, and would not find it in a bundle.
find_program() {
    local paths path
    mapfile -t paths < <(type -aP -- "$1")
    REPLY=${paths[0]:-}
    for path in "${paths[@]}"; do
        if is_elf "$path"; then
            REPLY=$path
            break
        fi
    done
    [ -n "$REPLY" ]
}

find_index
if ! index_version=$("$index" --version); then
    die "elfuse-index does not run" "it was found as $index" "set ELFUSE_INDEX to one that does"
fi

asked=("${default_programs[@]}")
if [ -n "${ELFUSE_HOST_PROGRAMS:-}" ]; then
    read -r -a asked <<<"$ELFUSE_HOST_PROGRAMS"
fi
programs=()
for program in "${asked[@]}"; do
    if find_program "$program"; then
        programs+=("$REPLY")
    elif [ -n "${ELFUSE_HOST_PROGRAMS:-}" ]; then
        die "$program is not to be found" "ELFUSE_HOST_PROGRAMS names it; PATH is $PATH" \
            "install it, or name another"
    fi
done
if [ "${#programs[@]}" -eq 0 ]; then
    die "there is no program to bundle" "looked for: ${asked[*]}; PATH is $PATH"
fi

add=()
additions=()
if [ -n "${ELFUSE_HOST_ADD:-}" ]; then
    IFS=: read -r -a additions <<<"$ELFUSE_HOST_ADD"
    for path in "${additions[@]}"; do
        add+=(--add "$path")
    done
fi

# An upgraded program is another program.
identity=$(stat --dereference --format='%n %s %Y' -- "${programs[@]}" "${additions[@]}")

sysroot_begin "${1:-$sysroots_root/host}" \
    "$(recipe_hash host "$version" "$index_version" "$identity")"
say "bundling ${programs[*]}"
if ! "$index" bundle --into "$building" "${add[@]}" -- "${programs[@]}" >&2 9>&-; then
    die "elfuse-index bundle failed" "$index ($index_version) says why above"
fi
sysroot_finish
