//! uv. A folder for each kind of things ("bucket"), `NAME-vNUMBER`; releases with different numbers use
//! one cache side by side.
//!
//! | bucket | a unit |
//! | --- | --- |
//! | `archive` | an unpacked wheel, or an environment of `uv run --with` or `uvx`: `ID/` |
//! | `wheels` | what is known of a wheel: `[pypi\|index/I\|url/U\|..]/PACKAGE/WHEEL{,.http,.rev,.msgpack}`; the one without an end is a link to an archive, `.http` and `.rev` hold an archive's ID |
//! | `sdists`, `built-wheels` | a source distribution, all its revisions: sources, built wheels, and links to these unpacked: `[pypi/P/V\|index/I/P/V\|url/U\|path/P\|editable/P\|git/R/COMMIT]/*` |
//! | `environments` | a link to an archive, `INTERPRETER/ID`, or an environment, `SCRIPT-ID/` |
//! | `git` | a repository, `db/R/`; a commit of it, `checkouts/R/COMMIT{,.ok}` |
//! | `usage` | `archive-vN/ID`: when an archive was used, as uv sees it |
//! | `builds`, `binaries` | an environment of a build that goes on or broke off; a downloaded program |
//! | `simple`, `flat-index`, `interpreter` | each file: an answer of an index, facts about an interpreter |
//!
//! An archive goes together with whatever points to it. uv believes a `.http` or `.rev` and does not look
//! whether the archive is still there, and it believes in an archive that is there, whatever is missing
//! in it. With both gone at once, uv fetches or builds the wheel again. Of a source distribution,
//! `revision.*` names the directory that counts: they go together, and uv begins a new revision.
//! With `--link-mode symlink`, environments in the cache are full of links into archives. Such an
//! environment needs these archives; when one of them goes, it goes along. A checkout needs its repository,
//! in the same way.
//!
//! Kept: locks, `CACHEDIR.TAG`, `.gitignore` and `sdists-v*/.git`, by which build tools know that they are
//! in no repository, and buckets that are not in the table.

use super::{Inside, Look, Place, Rules, Seen, is_hex, part_at, text, versioned};
use crate::cache::view::is_lock_name;
use crate::prune::gather::{Bond, Links};

pub(super) struct Uv;

/// How many components lead to an entry of `wheels`, by the name after the bucket's.
fn wheel_depth(kind: &[u8]) -> Option<usize> {
    match kind {
        b"pypi" => Some(4),
        b"index" | b"url" | b"path" | b"editable" => Some(5),
        b"git" => Some(6),
        _ => None,
    }
}

/// How many components lead to an entry of a source distribution.
fn sdist_depth(kind: &[u8]) -> Option<usize> {
    match kind {
        b"url" | b"path" | b"editable" => Some(4),
        b"pypi" | b"git" => Some(5),
        b"index" => Some(6),
        _ => None,
    }
}

/// An entry of a bucket whose entries lie at depths of their own. Unfinished ones lie at its top.
fn entry(path: &Inside<'_>, depth: fn(&[u8]) -> Option<usize>) -> Place {
    match path.get(1).copied() {
        None => Place::Folder,
        Some(name) if name.starts_with(b".tmp") => part_at(path, 2),
        Some(kind) => depth(kind).map_or(Place::Kept, |depth| part_at(path, depth)),
    }
}

/// The name of a wheel without the ends of the files that tell of it.
fn wheel(name: &[u8]) -> &[u8] {
    let ends: [&[u8]; 4] = [b".http", b".rev", b".msgpack", b".whl"];
    ends.into_iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// The archive that a link leads to, or into.
fn archive(target: &[u8]) -> Option<[&[u8]; 2]> {
    let names = super::components(target);
    let bucket = names.iter().rposition(|name| versioned(name) == Some(b"archive"))?;
    Some([names[bucket], *names.get(bucket + 1)?])
}

/// The bucket whose archives pointers name by ID alone.
const ARCHIVES: &[u8] = b"archive-v0";

/// Adds whatever may be an archive's ID in a pointer, which is in MessagePack: a string of less than 32
/// bytes follows a byte that tells its length.
fn pointer(content: &[u8], links: &mut Links<'_>) {
    let is_id = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    for (at, byte) in content.iter().enumerate() {
        let length = usize::from(byte & 0x1f);
        if byte & 0xe0 == 0xa0
            && length >= 8
            && let Some(id) = content.get(at + 1..at + 1 + length)
            && id.iter().all(is_id)
        {
            links.add(Bond::Same, &[ARCHIVES, id]);
        }
    }
}

impl Rules for Uv {
    fn name(&self) -> &'static str {
        "uv"
    }

    fn is_at(&self, look: &Look) -> bool {
        let known: [&[u8]; 5] = [b"archive", b"wheels", b"simple", b"sdists", b"built-wheels"];
        look.directories().any(|name| versioned(name).is_some_and(|bucket| known.contains(&bucket)))
    }

    fn place(&self, path: &Inside<'_>) -> Place {
        match versioned(path[0]).unwrap_or_default() {
            b"archive" | b"builds" => part_at(path, 2),
            b"usage" | b"binaries" => part_at(path, 3),
            b"wheels" => entry(path, wheel_depth),
            b"sdists" | b"built-wheels" => entry(path, sdist_depth),
            b"environments" => {
                let of_interpreter = path.get(1).is_some_and(|name| is_hex(name, 16));
                part_at(path, if of_interpreter { 3 } else { 2 })
            }
            b"git" => match path.get(1).copied() {
                None => Place::Folder,
                Some(b"db") => part_at(path, 3),
                Some(b"checkouts") => part_at(path, 4),
                Some(_) => Place::Kept,
            },
            b"simple" | b"flat-index" | b"interpreter" => {
                if path.iter().any(|name| is_lock_name(name)) { Place::Kept } else { Place::Loose }
            }
            _ => Place::Kept,
        }
    }

    fn stem<'p>(&self, path: &Inside<'p>) -> Option<&'p [u8]> {
        let name = *path.last()?;
        match versioned(path[0])? {
            b"wheels" if path.len() > 2 => Some(wheel(name)),
            b"sdists" | b"built-wheels" if path.len() > 2 => Some(b""),
            b"git" => Some(name.strip_suffix(b".ok").unwrap_or(name)),
            _ => None,
        }
    }

    fn reads(&self, path: &Inside<'_>) -> usize {
        let pointer = path.last().is_some_and(|n| n.ends_with(b".http") || n.ends_with(b".rev"));
        if pointer && versioned(path[0]) == Some(b"wheels") { 4096 } else { 0 }
    }

    fn links_inside(&self, path: &Inside<'_>) -> bool {
        let bucket = versioned(path[0]).unwrap_or_default();
        matches!(bucket, b"archive" | b"environments" | b"sdists" | b"built-wheels")
    }

    fn names_parts(&self) -> bool {
        true
    }

    fn links(&self, path: &Inside<'_>, seen: Seen<'_>, links: &mut Links<'_>) {
        match (versioned(path[0]).unwrap_or_default(), seen) {
            (b"wheels", Seen::Content(content)) => pointer(content, links),
            (b"archive" | b"environments", Seen::LinkInside(target)) => {
                if let Some(archive) = archive(target) {
                    links.add(Bond::Needs, &archive);
                }
            }
            (_, Seen::Link(target) | Seen::LinkInside(target)) => {
                if let Some(archive) = archive(target) {
                    links.add(Bond::Same, &archive);
                }
            }
            (b"usage", Seen::Part) => links.add(Bond::Same, &path[1..]),
            (b"git", Seen::Part) if path[1] == b"checkouts" => {
                links.add(Bond::Needs, &[path[0], b"db", path[2]]);
            }
            _ => {}
        }
    }

    fn title(&self, path: &Inside<'_>) -> Option<String> {
        let name = wheel(path.last()?);
        match versioned(path[0])? {
            b"wheels" if path.len() > 3 => {
                let package = text(path[path.len() - 2]);
                // Earlier releases have the package's name in the wheel's.
                let long = name.strip_prefix(package.replace('-', "_").as_bytes());
                let version = long.and_then(|rest| rest.strip_prefix(b"-")).unwrap_or(name);
                Some(format!("{package} {}", text(version)))
            }
            b"sdists" | b"built-wheels" if matches!(path[1], b"pypi" | b"index") => {
                let [.., package, version, _] = path else { return None };
                Some(format!("{} {} (source)", text(package), text(version)))
            }
            b"simple" => Some(format!("index of {}", text(name.strip_suffix(b".rkyv")?))),
            // Whoever points to it knows more.
            b"archive" | b"usage" => None,
            _ => Some(text(&path.join(&b'/'))),
        }
    }
}
