//! What a C library opens by itself, whatever the program: name service, character sets, locales, the loader's
//! configuration.

use std::collections::BTreeSet;

use super::compiled_in;
use super::gather::{Gather, TreeFiles};
use super::plan::{Because, Group, What};
use crate::error::UsageError;
use crate::report::escaped;
use crate::resolve::conf::{LD_SO_CONF, LdSoConf};
use crate::tree::{Tree, join, split};
use crate::warning::Warning;

/// Configuration of name service that is copied as it is.
const NSS_FILES: &[&[u8]] = &[
    b"/etc/nsswitch.conf",
    // Where a distribution keeps its default apart from the administrator's.
    b"/usr/etc/nsswitch.conf",
    b"/etc/hosts",
    b"/etc/host.conf",
    b"/etc/gai.conf",
    b"/etc/resolv.conf",
    b"/etc/services",
    b"/etc/protocols",
    b"/etc/networks",
    b"/etc/ethers",
    b"/etc/rpc",
];

/// Users and groups that a bundle keeps besides whoever makes it.
const ACCOUNTS: &[&[u8]] = &[b"root", b"nobody", b"nogroup"];

/// Adds everything that the C libraries found so far need.
pub(super) fn add(gather: &mut Gather<'_>) -> anyhow::Result<()> {
    loader_configuration(gather);
    if gather.options.nss {
        accounts(gather, b"/etc/passwd", rustix::process::getuid().as_raw());
        accounts(gather, b"/etc/group", rustix::process::getgid().as_raw());
        for path in NSS_FILES {
            gather.want(path, &Because::new(Group::Nss, "name service"));
        }
    }
    if gather.options.locale {
        gather.want(
            b"/etc/localtime",
            &Because::new(Group::Locale, "the time zone"),
        );
    }
    let libraries: Vec<Vec<u8>> = gather.c_libraries.glibc.iter().cloned().collect();
    for library in &libraries {
        let compiled_in = compiled_in_paths(gather, library);
        let directory = split(library).map_or(&b"/"[..], |(directory, _)| directory);
        // glibc loads it by itself in pthread_exit, pthread_cancel and backtrace.
        let unwinder = join(directory, b"libgcc_s.so.1");
        gather.want_module(&unwinder, &Because::new(Group::Library, library))?;
        if gather.options.nss {
            nss_modules(gather, directory, library)?;
        }
        if gather.options.gconv {
            gconv(gather, directory, library, &compiled_in)?;
        }
        locales(gather, library, &compiled_in)?;
    }
    if libraries.is_empty() && !gather.options.locales.is_empty() {
        let what =
            "--locale needs a program for glibc; other C libraries have no locale data".to_owned();
        return Err(UsageError::Contradiction(what).into());
    }
    Ok(())
}

fn compiled_in_paths(gather: &Gather<'_>, library: &[u8]) -> BTreeSet<Vec<u8>> {
    let tree = gather.source.tree();
    match tree
        .locate(library, true)
        .map_err(std::io::Error::from)
        .and_then(|node| tree.read(&node))
    {
        Ok(bytes) => compiled_in::paths(&bytes).map(<[u8]>::to_vec).collect(),
        Err(error) => {
            gather.out.warn(Warning::UnreadableFile, library, error);
            BTreeSet::new()
        }
    }
}

/// `ld.so.conf` with what it includes, and musl's list of directories. `ld.so.cache` is made anew afterwards, and
/// `ld.so.preload` speaks of the host.
fn loader_configuration(gather: &mut Gather<'_>) {
    let because = Because::new(Group::LoaderConfiguration, "the dynamic linker");
    if !gather.c_libraries.glibc.is_empty() {
        for path in LdSoConf::read(gather.source.tree(), LD_SO_CONF).files {
            gather.want(&path, &because);
        }
    }
    if gather.c_libraries.musl {
        for name in gather.source.names(b"/etc") {
            if name.starts_with(b"ld-musl-") && name.ends_with(b".path") {
                gather.want(&join(b"/etc", &name), &because);
            }
        }
    }
}

/// `passwd` or `group`, cut to who is needed: the rest of the host's users is nobody's business.
fn accounts(gather: &mut Gather<'_>, path: &[u8], own_id: u32) {
    let Some(text) = gather.source.read(path) else {
        return;
    };
    let kept = kept_accounts(&text, own_id.to_string().as_bytes());
    let because = Because::new(Group::Nss, "name service");
    // Where the host has it is not where it must be found: the name itself is what the C library opens.
    gather.plan.add(path, What::Written(kept), &because);
}

/// The lines of [`ACCOUNTS`] and those whose third field is `own_id`.
fn kept_accounts(text: &[u8], own_id: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next().unwrap_or_default();
        if ACCOUNTS.contains(&name) || fields.nth(1) == Some(own_id) {
            kept.extend_from_slice(line);
        }
    }
    kept
}

/// The modules that `nsswitch.conf` names, as far as they exist: a host may name some that it does not have.
fn nss_modules(gather: &mut Gather<'_>, directory: &[u8], library: &[u8]) -> anyhow::Result<()> {
    let mut services = BTreeSet::new();
    for path in [&b"/etc/nsswitch.conf"[..], b"/usr/etc/nsswitch.conf"] {
        services.extend(
            gather
                .source
                .read(path)
                .iter()
                .flat_map(|text| nss_services(text)),
        );
    }
    // What glibc falls back to where there is no file.
    services.extend([b"files".to_vec(), b"dns".to_vec()]);
    let configured = LdSoConf::read(gather.source.tree(), LD_SO_CONF).directories;
    let mut directories = vec![directory.to_vec()];
    directories.extend(configured.into_iter().map(|directory| directory.path));
    directories.extend([&b"/usr/lib64"[..], b"/usr/lib", b"/lib64", b"/lib"].map(<[u8]>::to_vec));
    for service in services {
        let name = [b"libnss_", service.as_slice(), b".so.2"].concat();
        let because = Because::new(Group::Nss, library);
        for directory in &directories {
            if gather.want_module(&join(directory, &name), &because)? {
                break;
            }
        }
    }
    Ok(())
}

/// The services in an `nsswitch.conf`: words after the colon, without the actions in brackets.
fn nss_services(text: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut services = BTreeSet::new();
    for line in text.split(|&byte| byte == b'\n') {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let mut in_brackets = false;
        for word in line[colon + 1..]
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty())
        {
            in_brackets |= word.starts_with(b"[");
            let plain = word
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
            if !in_brackets && plain {
                services.insert(word.to_vec());
            }
            in_brackets &= !word.ends_with(b"]");
        }
    }
    services
}

fn gconv(
    gather: &mut Gather<'_>,
    directory: &[u8],
    library: &[u8],
    compiled_in: &BTreeSet<Vec<u8>>,
) -> anyhow::Result<()> {
    let because = Because::new(Group::Gconv, library);
    let named = compiled_in
        .iter()
        .filter(|path| path.ends_with(b"/gconv"))
        .cloned();
    let mut candidates: Vec<Vec<u8>> = named.collect();
    // Should a C library hide it: beside it, and below /usr where /lib is no symlink.
    candidates.extend([
        join(directory, b"gconv"),
        join(&join(b"/usr", &directory[1..]), b"gconv"),
    ]);
    if let Some(found) = candidates
        .iter()
        .find(|path| gather.source.is_directory(path))
    {
        return gather.tree(found, &because, TreeFiles::Modules, &|_| true);
    }
    gather.out.warn(
        Warning::NamedButMissing,
        &candidates[0],
        "character set converters",
    );
    Ok(())
}

/// C.UTF-8 and the locales asked for.
fn locales(
    gather: &mut Gather<'_>,
    library: &[u8],
    compiled_in: &BTreeSet<Vec<u8>>,
) -> anyhow::Result<()> {
    let because = Because::new(Group::Locale, library);
    let named = compiled_in
        .iter()
        .filter(|path| path.ends_with(b"/lib/locale"))
        .cloned();
    let directories: Vec<Vec<u8>> = named.chain([b"/usr/lib/locale".to_vec()]).collect();
    let directory = directories
        .iter()
        .find(|path| gather.source.is_directory(path))
        .unwrap_or(&directories[0]);
    if gather.options.locale {
        // Not an error: C.UTF-8 came with glibc 2.35, and some distributions have it in the archive.
        if let Some(found) = locale_directory(gather, directory, b"C.UTF-8") {
            gather.tree(&found, &because, TreeFiles::Modules, &|_| true)?;
        } else if archive_holds(gather, directory, b"C.UTF-8") {
            gather.want(&join(directory, b"locale-archive"), &because);
        }
        gather.want(b"/usr/share/locale/locale.alias", &because);
    }
    for name in &gather.options.locales {
        if let Some(found) = locale_directory(gather, directory, name) {
            gather.tree(&found, &because, TreeFiles::Modules, &|_| true)?;
        } else if archive_holds(gather, directory, name) {
            gather.want(&join(directory, b"locale-archive"), &because);
        } else {
            let why = format!(
                "no such locale in {}; `locale -a` lists those there are",
                escaped(directory)
            );
            return Err(UsageError::NoSuchFile {
                path: escaped(name).into(),
                why,
            }
            .into());
        }
    }
    Ok(())
}

fn locale_directory(gather: &Gather<'_>, directory: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    spellings(name)
        .into_iter()
        .map(|name| join(directory, &name))
        .find(|path| gather.source.is_directory(path))
}

/// Whether the archive, a hash table of names and data, holds the locale: its names stand in it between NULs.
fn archive_holds(gather: &Gather<'_>, directory: &[u8], name: &[u8]) -> bool {
    let Some(archive) = gather.source.read(&join(directory, b"locale-archive")) else {
        return false;
    };
    let spellings = spellings(name);
    archive
        .split(|&byte| byte == 0)
        .any(|text| spellings.iter().any(|name| name == text))
}

/// A locale's name as given, and with its codeset the way glibc normalises it: `de_DE.UTF-8@euro` is
/// `de_DE.utf8@euro` on disk.
fn spellings(name: &[u8]) -> Vec<Vec<u8>> {
    let mut spellings = vec![name.to_vec()];
    if let Some(dot) = name.iter().position(|&byte| byte == b'.') {
        let end = name
            .iter()
            .position(|&byte| byte == b'@')
            .filter(|&at| at > dot)
            .unwrap_or(name.len());
        let codeset = name[dot + 1..end]
            .iter()
            .filter(|byte| byte.is_ascii_alphanumeric());
        let codeset: Vec<u8> = codeset.map(u8::to_ascii_lowercase).collect();
        spellings.push([&name[..=dot], &codeset, &name[end..]].concat());
    }
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_and_comments_in_nsswitch_are_no_services() {
        let text = b"# x: y\npasswd: files systemd\nhosts:\tmdns4_minimal [NOTFOUND=return] dns # mymachines\nbad\n";
        let services = nss_services(text);
        let expected: [&[u8]; 4] = [b"dns", b"files", b"mdns4_minimal", b"systemd"];
        assert_eq!(
            services,
            expected.iter().map(|name| name.to_vec()).collect()
        );
        assert!(nss_services(b"a: [ SUCCESS=return ] b").contains(b"b".as_slice()));
    }

    #[test]
    fn a_service_that_would_leave_its_directory_is_no_service() {
        assert!(nss_services(b"hosts: ../../x").is_empty());
    }

    #[test]
    fn only_root_nobody_and_oneself_are_kept_of_the_users() {
        let text = b"root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbob:x:10:10::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
        let kept = kept_accounts(text, b"1000");
        let kept = String::from_utf8(kept).unwrap();
        let names: Vec<&str> = kept
            .lines()
            .filter_map(|line| line.split(':').next())
            .collect();
        assert_eq!(names, ["root", "alice", "nobody"]);
    }

    #[test]
    fn a_locale_is_found_by_the_name_glibc_gives_it() {
        assert_eq!(spellings(b"de_DE.UTF-8@euro")[1], b"de_DE.utf8@euro");
        assert_eq!(spellings(b"C.UTF-8")[1], b"C.utf8");
        assert_eq!(spellings(b"de_DE"), [b"de_DE".to_vec()]);
    }
}
