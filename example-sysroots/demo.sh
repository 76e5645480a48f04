#!/usr/bin/env bash
# What elfuse does, shown on programs of this very system: builds it, bundles a sysroot, indexes it, asks the index questions, and runs
# a program from it, natively, without and with the index. Without network (apart from Rust's crates), without root; everything it
# makes lies under target/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
plain() { printf '\n%s\n' "$*"; }
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then heading=say; else heading=plain; fi
run() {
  local shown='$' word
  for word; do
    case $word in
      *[!A-Za-z0-9_./=:,+-]*) shown+=" '$word'" ;;
      *) shown+=" $word" ;;
    esac
  done
  "$heading" "$shown"
  "$@"
}

command -v cargo >/dev/null 2>&1 || {
  echo "demo: cargo is not in PATH; install Rust 1.90 or newer, from the distribution or by rustup" >&2
  exit 1
}

"$heading" 'Building elfuse and elfuse-index (a minute or two the first time)'
cargo build --release --locked -p elfuse-indexer -p elfuse-launcher -p elfuse-tools
target=${CARGO_TARGET_DIR:-target}
PATH=$(realpath -- "$target")/release:$PATH

sysroot=target/demo/host
"$heading" 'Bundling a sysroot from programs of this system'
ELFUSE_INDEX=$(realpath -- "$target")/release/elfuse-index example-sysroots/host/make.sh "$sysroot" >/dev/null

run elfuse-index build "$sysroot"

# The program whose start searches most, of those that this system has.
program=
arguments=()
choose() {
  local name=$1 directory
  shift
  for directory in usr/bin bin; do
    if [ -z "$program" ] && [ -e "$sysroot/$directory/$name" ] && [ -x "/$directory/$name" ]; then
      program=/$directory/$name
      arguments=("$@")
    fi
  done
}
choose python3 -c 'import json; print(json.dumps({"answer": 42}))'
choose perl -MPOSIX -e 'print floor(42.5), "\n"'
choose bash -c 'echo 42'
choose sh -c 'echo 42'

run elfuse-index tree "$program" --sysroot "$sysroot"
run elfuse-index probes "$program" --sysroot "$sysroot"
run elfuse-index verify "$sysroot"
run elfuse run --sysroot "$sysroot" "$program" "${arguments[@]}"

# How a start was: failing lookups and all system calls, by elfuse's own count and by strace's.

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
sysroot=$(realpath -- "$sysroot")
# The same few variables for each, and a directory that all have.
alone=(env -i "PATH=$PATH" LC_ALL=C.UTF-8)
with_elfuse=(elfuse run --sysroot "$sysroot")

# Prints "FAILING ALL" from the JSON document that --stats=json leaves on standard error.
by_elfuse() {
  (cd / && "${alone[@]}" "$@") >/dev/null 2>"$scratch/stats"
  local counts
  counts=$(sed -n 's/^{"schema":1,.*"host_calls":{"total":\([0-9]*\),"failing_lookups":\([0-9]*\),.*/\2 \1/p' "$scratch/stats")
  if [ -z "$counts" ]; then
    echo "demo: no statistics from $*:" >&2
    cat "$scratch/stats" >&2
    return 1
  fi
  echo "$counts"
}

# Prints "FAILING ALL" as strace sees them. A call that elfuse's filter traps does not reach the kernel's code, and is left out: strace
# shows it in front of its SIGSYS. So is the return from that signal, whose line shows the trapped call's result.
by_strace() {
  (cd / && "${alone[@]}" strace -f -qq -o "$scratch/strace" "$@") >/dev/null 2>&1
  awk '
    / --- SIGSYS / { if (last[$1] != "") { all--; failing -= failed[$1] } next }
    / rt_sigreturn\(/ { last[$1] = ""; next }
    /\) += / || / = -1 E[A-Z]+ \(/ {
      all++
      last[$1] = $0
      failed[$1] = / = -1 (ENOENT|ENOTDIR|ELOOP) / || / readlink(at)?\(.* = -1 EINVAL / || / readlink(at)? resumed>.* = -1 EINVAL /
      failing += failed[$1]
    }
    END { print failing + 0, all + 0 }
  ' "$scratch/strace"
}

row() {
  local what=$1 elfuse=$2 strace=$3
  printf '%-24s %8s %8s   %8s %8s\n' "$what" "${elfuse% *}" "${elfuse#* }" "${strace% *}" "${strace#* }"
}

"$heading" "One start of $program: failing lookups that reach the host, and system calls in all"
count_by_strace=by_strace
if ! command -v strace >/dev/null 2>&1 || ! strace -qq -o /dev/null true 2>/dev/null; then
  count_by_strace=false
fi
strace_or_dashes() { "$count_by_strace" "$@" || echo '- -'; }
printf '%-24s %17s   %17s\n' '' '  elfuse --stats' '         strace'
printf '%-24s %8s %8s   %8s %8s\n' '' failing calls failing calls
counted=$(strace_or_dashes "$program" "${arguments[@]}")
row natively '- -' "$counted"
for coherence in off lease; do
  case $coherence in
    off) what='elfuse, no index' ;;
    lease) what='elfuse, with the index' ;;
  esac
  command=("${with_elfuse[@]}" --coherence "$coherence")
  own=$(by_elfuse "${command[@]}" --stats=json "$program" "${arguments[@]}")
  counted=$(strace_or_dashes "${command[@]}" "$program" "${arguments[@]}")
  row "$what" "$own" "$counted"
done
cat <<'END'
failing: no such name, or readlink of what is no symlink. elfuse counts the calls that it makes itself, strace those of the whole
process; what a trap catches is no call that reaches the host.
END
[ "$count_by_strace" = by_strace ] || echo 'strace is not here, or may not trace: install it to see its columns.'

"$heading" "The sysroot is $sysroot. Try: elfuse run --help, elfuse doctor --sysroot $sysroot"
