#!/bin/sh
# Makes fuzz/corpus/TARGET from real files: small ELF files and the ld.so.cache of this system, an index of a small tree,
# and trees for the resolver written out below. Run it again whenever you like; what a fuzzer added stays.
#
# ELFUSE_INDEX: the program that makes the index (default: target/debug/elfuse-index, built if it is not there).
# ELFUSE: the program that makes snapshots, beside its elfuse-tools (default: target/debug/elfuse, likewise).
set -eu
cd "$(dirname "$0")"
elfuse_index=${ELFUSE_INDEX:-../target/debug/elfuse-index}
elfuse=${ELFUSE:-../target/debug/elfuse}
[ -x "$elfuse_index" ] || (cd .. && cargo build -p elfuse-indexer)
[ -x "$elfuse" ] || (cd .. && cargo build -p elfuse-launcher -p elfuse-tools)
for target in sidecar keys loader_cache ld_so_cache inspect walk conf resolve inherited vfs patch copy_data snapshot; do
    mkdir -p "corpus/$target"
done

echo "seeds: small ELF files"
number=0
find -L /usr/lib /usr/bin -maxdepth 3 -type f -size -24k \( -name '*.so*' -o -name '*.o' -o -perm -100 \) 2>/dev/null |
    sort | while read -r file && [ "$number" -lt 60 ]; do
    if [ "$(head -c 4 "$file" | tail -c 3)" = ELF ]; then
        cp "$file" "corpus/inspect/seed-$number"
        number=$((number + 1))
    fi
done

echo "seeds: ld.so.cache"
[ ! -f /etc/ld.so.cache ] || cp /etc/ld.so.cache corpus/ld_so_cache/seed-system
small=$(mktemp -d)
trap 'rm -rf "$small"' EXIT
mkdir -p "$small/etc" "$small/lib" "$small/usr/bin/empty" "$small/usr/lib/glibc-hwcaps/x86-64-v3"
for number in 0 1 2 3; do
    if [ -f "corpus/inspect/seed-$number" ]; then
        cp "corpus/inspect/seed-$number" "$small/lib/lib$number.so"
        cp "corpus/inspect/seed-$number" "$small/usr/lib/glibc-hwcaps/x86-64-v3/lib$number.so"
    fi
done
cp /bin/true "$small/usr/bin/true"
ln -s ../lib/lib0.so "$small/usr/bin/link"
ln -s /nowhere "$small/usr/dangling"
mkfifo "$small/usr/fifo"
printf 'text\n' >"$small/etc/name with blanks"
if /sbin/ldconfig -r "$small" -X -C /etc/ld.so.cache -f /dev/null 2>/dev/null; then
    cp "$small/etc/ld.so.cache" corpus/ld_so_cache/seed-small
fi

echo "seeds: an index"
"$elfuse_index" --quiet build "$small"
cp "$small/.elfuse/keys" corpus/keys/seed-small
cp "$small/.elfuse/loader-cache" corpus/loader_cache/seed-small
number=0
find "$small" -name .elfuse-sidecar-index | sort | while read -r file; do
    cp "$file" "corpus/sidecar/seed-$number"
    # The target also takes a payload without its header.
    tail -c +65 "$file" >"corpus/sidecar/seed-payload-$number"
    number=$((number + 1))
done

echo "seeds: snapshots"
mkdir "$small/kept"
for program in true perl python3 git bash; do
    # What this system does not have, or what lies on a file system without trusted times, is no seed.
    "$elfuse" resident add --sysroot / --index-dir "$small/kept" "$program" 2>/dev/null || continue
    for file in "$small"/kept/resident/*.snap; do
        # The target takes the first bytes of a long one too; what comes behind its tables is never read.
        head -c 16384 "$file" >"corpus/snapshot/seed-$program"
        rm "$file"
    done
done

echo "seeds: paths over an index"
seed_path() {
    # Two bytes of length, how to resolve, where to start; the path; the index.
    { printf '%b' "\\0$(printf %03o "${#2}")\\0000\\000$3\\0$4"; printf '%s' "$2"; cat "$small/.elfuse/loader-cache"; } >"corpus/vfs/seed-$1"
}
seed_path missing /usr/bin/missing 0 000
seed_path link usr/bin/link/../../lib/x 0 000
seed_path text bin/link 2 100
seed_path make /usr/bin/empty/new/ 4 000
seed_path beneath ../../etc/./ 1 010
seed_path magic /proc/self/exe 0 000
seed_path mount /m/../m/a//b 3 200

echo "seeds: trees"
printf '/a/l/../b\n/a/l\n>../c/./d\0/c/d\n/\0/c/b\n=file\0/x\n>x\0/y\n>/a//l/\0' >corpus/walk/seed-links
printf '/a\n/a\n>b\0/b\n>a\0' >corpus/walk/seed-loop
printf '/etc/ld.so.conf\n=include /etc/ld.so.conf.d/*.conf\n/usr/local/lib # comment\n\t/opt/lib=libc6\nhwcap 1 nosegneg\n\0/etc/ld.so.conf.d/a.conf\n=/lib/x86_64-linux-gnu\ninclude ../*.conf [a-c]?*.conf\n\0/etc/b.conf\n=include /etc/ld.so.conf\n\0' >corpus/conf/seed-includes
# shellcheck disable=SC2016 # ORIGIN and LIB are for the dynamic linker
printf '/bin/p\n/bin/p\ninterp:/lib64/ld-linux-x86-64.so.2 needed:liba.so.1 needed:libc.so.6 runpath:$ORIGIN/../lib:/opt/${LIB}\0/lib64/ld-linux-x86-64.so.2\nsoname:ld-linux-x86-64.so.2\0/lib/liba.so.1\nsoname:liba.so.1 needed:libb.so rpath:/r\0/usr/lib/libc.so.6\nsoname:libc.so.6\0/etc/ld.so.preload\n=/lib/liba.so.1 libx.so\n\0/r/libb.so\n>../lib/liba.so.1\0' >corpus/resolve/seed-glibc
# shellcheck disable=SC2016 # ORIGIN and LIB are for the dynamic linker
printf '/bin/p\n/bin/p\ninterp:/lib/ld-musl-x86_64.so.1 needed:liba.so needed:libc.so runpath:$ORIGIN/../lib\0/lib/ld-musl-x86_64.so.1\nsoname:libc.musl-x86_64.so.1\0/etc/ld-musl-x86_64.path\n=/lib:/m\n/n\n\0/m/liba.so\nneeded:libb.so rpath:${ORIGIN}\0/n/libb.so\nneeded:liba.so\0' >corpus/resolve/seed-musl
if [ -f corpus/ld_so_cache/seed-small ]; then
    # A cache holds NULs and so cannot stand in a tree whole; what stands before the first still starts like one.
    { printf '/bin/p\n/bin/p\ninterp:/lib64/ld-linux-x86-64.so.2 needed:lib0.so\0/etc/ld.so.cache\n='; head -c 100 corpus/ld_so_cache/seed-small; } >corpus/resolve/seed-cache
fi

echo "seeds: an inherited argument"
tail -n 1 ../runtime/tests/snapshots/options_inherited__a_typical_run_takes_less_than_300_bytes.snap |
    tr -d '\n' >corpus/inherited/seed-typical
du -sh corpus
