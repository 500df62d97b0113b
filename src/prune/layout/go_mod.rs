//! Go's module cache.
//!
//! | path | a unit |
//! | --- | --- |
//! | `MODULE@VERSION/` and `cache/download/MODULE/@v/VERSION.{info,mod,zip,ziphash}` | a version of a module: unpacked, and as it was fetched |
//! | `cache/download/MODULE/@v/list`, `@latest` | which versions there are |
//! | `cache/download/sumdb/**` | each file: what the checksum database answered |
//! | `cache/vcs/KEY{,.info}` | a repository |
//!
//! Go believes in an unpacked module that is there, and checks it by its `.ziphash`: they go together, and
//! Go fetches the version again.
//!
//! Kept: locks (`VERSION.lock`, `cache/lock`), anything else.

use super::{Inside, Look, Place, Rules, Seen, part_at, text};
use crate::cache::view::is_lock_name;
use crate::prune::gather::{Bond, Links};

pub(super) struct GoMod;

/// The version that a file in `@v` is of.
fn version<'p>(path: &Inside<'p>) -> Option<&'p [u8]> {
    let [b"cache", b"download", .., b"@v", name] = path else { return None };
    let ends: [&[u8]; 4] = [b".info", b".mod", b".zip", b".ziphash"];
    ends.into_iter().find_map(|end| name.strip_suffix(end))
}

/// A path as people write it: capital letters are kept as small ones after a `!`.
fn plain(path: &[u8]) -> String {
    let mut plain = String::new();
    let mut capital = false;
    for letter in text(path).chars() {
        match letter {
            '!' => capital = true,
            _ if std::mem::take(&mut capital) => plain.push(letter.to_ascii_uppercase()),
            _ => plain.push(letter),
        }
    }
    plain
}

impl Rules for GoMod {
    fn name(&self) -> &'static str {
        "go-mod"
    }

    fn tool(&self) -> &'static str {
        "go"
    }

    fn is_at(&self, look: &Look) -> bool {
        look.inside(b"cache").is_some_and(|look| {
            look.has_directory("download") && (look.has_file("lock") || look.has_directory("vcs"))
        })
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        match path {
            [b"cache"] | [b"cache", b"download"] => Place::Folder,
            [b"cache", b"download", b"sumdb", rest @ ..] => {
                if rest.iter().any(|name| is_lock_name(name)) { Place::Kept } else { Place::Loose }
            }
            [b"cache", b"download", rest @ ..] => {
                match rest.iter().position(|name| matches!(*name, b"@v" | b"@latest")) {
                    None => Place::Folder,
                    Some(at) if rest[at] == b"@latest" => Place::Part(at + 3),
                    Some(at) => part_at(path, at + 4),
                }
            }
            [b"cache", b"vcs", ..] => part_at(path, 3),
            [b"cache", ..] => Place::Kept,
            _ => path
                .iter()
                .position(|name| name.contains(&b'@'))
                .map_or(Place::Folder, |at| Place::Part(at + 1)),
        }
    }

    fn stem<'p>(&self, path: &Inside<'p>) -> Option<&'p [u8]> {
        match path {
            [b"cache", b"vcs", name] => Some(name.strip_suffix(b".info").unwrap_or(name)),
            _ => version(path),
        }
    }

    fn names_parts(&self) -> bool {
        true
    }

    fn links(&self, path: &Inside<'_>, seen: Seen<'_>, links: &mut Links<'_>) {
        if let (Seen::Part, Some(version)) = (seen, version(path)) {
            let module = path[2..path.len() - 2].join(&b'/');
            links.add(Bond::Same, &[&[&module, b"@".as_slice(), version].concat()]);
        }
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        match (version(path), path) {
            (Some(version), [_, _, module @ .., _, _]) => {
                Some(format!("{}@{}", plain(&module.join(&b'/')), text(version)))
            }
            _ => Some(plain(&path.join(&b'/'))),
        }
    }
}
