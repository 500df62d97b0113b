//! Layouts: how the tools lay out their caches. One file each; `ALL` is the registry.
//!
//! A layout is rules about paths, and does no I/O but to recognise a cache. So the same rules that a walk
//! goes by tell of a single path which unit it is of ([`mark`]).

mod cargo;
mod ccache;
mod find;
mod generic;
mod go_build;
mod go_mod;
mod huggingface;
mod look;
mod npm;
mod pip;
mod pre_commit;
mod ruff;
mod sccache;
#[cfg(test)]
mod tests;
mod uv;

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use smallvec::SmallVec;

pub use self::find::{Found, find, whole};
use self::generic::{Generic, MOST};
use self::look::Look;
use super::gather::Links;
use crate::platform::ffi::OsStrExt;

/// All layouts that are found by looking.
const ALL: [&dyn Rules; 11] = [
    &uv::Uv,
    &pip::Pip,
    &npm::Npm,
    &cargo::Cargo,
    &go_mod::GoMod,
    &go_build::GoBuild,
    &huggingface::HuggingFace,
    &pre_commit::PreCommit,
    &ruff::Ruff,
    &sccache::Sccache,
    &ccache::Ccache,
];

/// A path in a tool's cache, in its components. Never empty.
pub(super) type Inside<'p> = [&'p [u8]];

/// What a path in a tool's cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A folder that units lie in. A file in this place is not known, and kept.
    Folder,
    /// A folder of files each of which is a part, in folders or not.
    Loose,
    /// In a part: the one that the first components, so many, lead to.
    Part(usize),
    /// Never pruned, nor is anything below it.
    Kept,
}

/// What is shown to the rules of a part.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen<'s> {
    /// That it is there.
    Part,
    /// The beginning of the file that it is.
    Content(&'s [u8]),
    /// What the symbolic link says that it is.
    Link(&'s [u8]),
    /// What a symbolic link in the directory that it is says.
    LinkInside(&'s [u8]),
}

/// What is known about one tool's cache.
pub(super) trait Rules: Sync {
    /// The name of the layout, as `--layout` takes it.
    fn name(&self) -> &'static str;

    /// The name of the tool, as `--tool` takes it.
    fn tool(&self) -> &'static str {
        self.name()
    }

    /// Whether this directory looks like the top of such a cache.
    fn is_at(&self, look: &Look) -> bool;

    /// What a path is. What it says of a path, it must say of all that lies below, too: below a
    /// [`Place::Part`] the same part, below what is [`Place::Kept`] the same.
    fn place(&self, path: &Inside<'_>) -> Place;

    /// Parts of one folder for which this is the same are one unit.
    fn stem<'p>(&self, path: &Inside<'p>) -> Option<&'p [u8]> {
        let _ = path;
        None
    }

    /// How many bytes of a part that is a file have to be seen.
    fn reads(&self, path: &Inside<'_>) -> usize {
        let _ = path;
        0
    }

    /// Whether the symbolic links in a part that is a directory have to be seen.
    fn links_inside(&self, path: &Inside<'_>) -> bool {
        let _ = path;
        false
    }

    /// Whether parts name one another.
    fn names_parts(&self) -> bool {
        false
    }

    /// What a part names, by what is seen of it.
    fn links(&self, path: &Inside<'_>, seen: Seen<'_>, links: &mut Links<'_>) {
        let _ = (path, seen, links);
    }

    /// What people call the unit that a part belongs to, if the part's path tells.
    fn title(&self, path: &Inside<'_>) -> Option<String> {
        let _ = path;
        None
    }
}

/// The rules for one tool's cache.
#[derive(Clone, Copy)]
pub struct Layout(&'static dyn Rules);

impl Layout {
    /// Its name, as `--layout` takes it.
    pub fn name(self) -> String {
        self.to_string()
    }

    /// The tool whose caches look so, as `--tool` takes it.
    pub fn tool(self) -> &'static str {
        self.0.tool()
    }

    /// The names of all layouts that are found by looking.
    pub fn all() -> impl Iterator<Item = &'static str> {
        ALL.into_iter().map(|rules| rules.name())
    }

    /// `generic:2`: what to take for units where nothing is known, and something has to go.
    pub fn entries() -> Layout {
        Layout(Generic::ENTRIES)
    }

    /// The names of all tools whose caches are known, and `generic`.
    pub fn tools() -> Vec<&'static str> {
        let mut tools: Vec<_> = ALL.into_iter().map(|rules| rules.tool()).collect();
        tools.push("generic");
        tools.sort_unstable();
        tools.dedup();
        tools
    }

    pub(super) fn rules(self) -> &'static dyn Rules {
        self.0
    }

    pub(super) fn title(self, path: &Inside<'_>) -> Option<String> {
        self.0.title(path)
    }
}

impl FromStr for Layout {
    type Err = String;

    /// One of [`Layout::all`], or `generic:DEPTH`.
    fn from_str(text: &str) -> Result<Layout, String> {
        if let Some(depth) = text.strip_prefix("generic:") {
            let known = depth.parse().ok().and_then(Generic::of_depth);
            return known.map(|rules| Layout(rules)).ok_or_else(|| {
                format!("use a depth from 1 to {MOST}, such as `generic:1` (every entry at the top is a unit)")
            });
        }
        ALL.into_iter().find(|rules| rules.name() == text).map(Layout).ok_or_else(|| {
            let names: Vec<_> = Layout::all().map(|name| format!("`{name}`")).collect();
            format!("use one of {} or `generic:DEPTH`", names.join(", "))
        })
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layout({self})")
    }
}

impl PartialEq for Layout {
    fn eq(&self, other: &Layout) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for Layout {}

/// The mark of the unit that a file is in: the path whose access time tells when it was last used. None
/// for what is in no unit.
///
/// `path` leads to a file, relative to the store and without `.` and `..`; the answer is a part of it,
/// from its beginning. It is one of [`super::Unit::paths`] of the file's unit. Nothing is looked up.
pub fn mark<'p>(found: &[Found], path: &'p Path) -> Option<&'p Path> {
    let bytes = path.as_os_str().as_bytes();
    let found = found.iter().find(|found| found.holds(bytes))?;
    let inside = components(bytes.get(found.start()..)?);
    if inside.is_empty() || inside[0] == crate::store::PRIVATE.as_bytes() {
        return None;
    }
    let parts = match found.layout().rules().place(&inside) {
        Place::Part(parts) => parts,
        Place::Loose => inside.len(),
        Place::Folder | Place::Kept => return None,
    };
    let length: usize = inside[..parts].iter().map(|name| name.len() + 1).sum();
    let end = found.start() + length - 1;
    Some(Path::new(OsStr::from_bytes(&bytes[..end])))
}

/// How the cache is laid out that a path, relative to the store, lies in or is the top of.
pub fn of(found: &[Found], path: &Path) -> Option<Layout> {
    let bytes = path.as_os_str().as_bytes();
    let found = found.iter().find(|found| found.holds(bytes) || found.prefix() == bytes)?;
    Some(found.layout())
}

/// The names in a path.
pub(super) fn components(path: &[u8]) -> SmallVec<[&[u8]; 12]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect()
}

/// A part at a fixed depth.
fn part_at(path: &Inside<'_>, depth: usize) -> Place {
    match path.get(depth - 1) {
        None => Place::Folder,
        // Somebody may hold it, and another who finds none makes a new one.
        Some(name) if crate::cache::view::is_lock_name(name) => Place::Kept,
        Some(_) => Place::Part(depth),
    }
}

/// `NAME-vNUMBER`, as the folders for the kinds of things in a cache are often called.
fn versioned(name: &[u8]) -> Option<&[u8]> {
    let dash = name.iter().rposition(|byte| *byte == b'-')?;
    let digits = name[dash..].strip_prefix(b"-v")?;
    (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then_some(&name[..dash])
}

/// So many lower-case hexadecimal digits.
fn is_hex(name: &[u8], digits: usize) -> bool {
    name.len() == digits && name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
