#!/usr/bin/env bash
# What elfuse-index does, shown on programs of this very system: builds it, bundles a sysroot, indexes it, asks it questions.
# Without network (apart from Rust's crates), without root; everything it makes lies under target/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
plain() { printf '\n%s\n' "$*"; }
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then heading=say; else heading=plain; fi
run() { "$heading" "\$ $*"; "$@"; }

command -v cargo >/dev/null 2>&1 || {
  echo "demo: cargo is not in PATH; install Rust 1.90 or newer, from the distribution or by rustup" >&2
  exit 1
}

"$heading" 'Building elfuse-index (a minute or two the first time)'
cargo build --release --locked -p elfuse-indexer --bin elfuse-index
target=${CARGO_TARGET_DIR:-target}
PATH=$PWD/$target/release:$PATH

sysroot=target/demo/host
"$heading" 'Bundling a sysroot from programs of this system'
ELFUSE_INDEX=$PWD/$target/release/elfuse-index example-sysroots/host/make.sh "$sysroot" >/dev/null

run elfuse-index build "$sysroot"
program=
for name in python3 perl bash sh; do
  for directory in usr/bin bin; do
    if [ -z "$program" ] && [ -e "$sysroot/$directory/$name" ]; then
      program=/$directory/$name
    fi
  done
done
run elfuse-index tree "$program" --sysroot "$sysroot"
run elfuse-index probes "$program" --sysroot "$sysroot"
run elfuse-index verify "$sysroot"
"$heading" "The sysroot is $sysroot. Try: $target/release/elfuse-index --help"
