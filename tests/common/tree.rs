//! Everything that can be told of a directory tree, so that two can be compared.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// A snapshot of a directory; the daemon's own `.cachefs` at its top is left out.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    root: PathBuf,
    /// By path relative to the root, in byte order.
    pub(crate) entries: BTreeMap<PathBuf, Entry>,
}

/// One name of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// Permission bits, the special ones included.
    pub(crate) mode: u32,
    /// The first name, in order, of the hard links that this name belongs to; `None` for a file with no
    /// other name in the tree.
    pub(crate) linked_to: Option<PathBuf>,
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    File {
        size: u64,
        /// Of the contents, as far as [`Tree::of_normalised`] left them.
        digest: u64,
    },
    Directory,
    Symlink {
        target: PathBuf,
    },
    Fifo,
    Socket,
    Device,
}

impl Tree {
    #[track_caller]
    pub(crate) fn of(root: impl AsRef<Path>) -> Self {
        Self::of_normalised(root, |_, bytes| bytes)
    }

    /// A snapshot with a file's contents passed through `normalise` (relative path, contents) first.
    #[track_caller]
    pub(crate) fn of_normalised(
        root: impl AsRef<Path>,
        mut normalise: impl FnMut(&Path, Vec<u8>) -> Vec<u8>,
    ) -> Self {
        let root = root.as_ref().to_path_buf();
        let mut found = BTreeMap::new();
        walk(&root, Path::new(""), &mut found);
        let mut first_names: BTreeMap<(u64, u64), (PathBuf, usize)> = BTreeMap::new();
        for (path, metadata) in &found {
            if !metadata.is_dir() {
                first_names
                    .entry((metadata.dev(), metadata.ino()))
                    .or_insert_with(|| (path.clone(), 0))
                    .1 += 1;
            }
        }
        let entries = found
            .into_iter()
            .map(|(path, metadata)| {
                let linked_to = first_names
                    .get(&(metadata.dev(), metadata.ino()))
                    .filter(|(_, names)| *names > 1)
                    .map(|(first, _)| first.clone());
                let entry = Entry {
                    kind: kind(&root.join(&path), &metadata, |bytes| normalise(&path, bytes)),
                    mode: metadata.mode() & 0o7777,
                    linked_to,
                };
                (path, entry)
            })
            .collect();
        Self { root, entries }
    }

    /// The same tree with names mapped; `None` leaves a name out.
    pub(crate) fn renamed(&self, map: impl Fn(&Path) -> Option<PathBuf>) -> Self {
        Self {
            root: self.root.clone(),
            entries: self
                .entries
                .iter()
                .filter_map(|(path, entry)| {
                    let mut entry = entry.clone();
                    entry.linked_to = entry.linked_to.and_then(|first| map(&first));
                    Some((map(path)?, entry))
                })
                .collect(),
        }
    }

    /// The number of regular files.
    pub(crate) fn files(&self) -> usize {
        self.entries.values().filter(|entry| matches!(entry.kind, Kind::File { .. })).count()
    }

    /// What differs, a line a name; empty when nothing does.
    pub(crate) fn difference(&self, other: &Self) -> String {
        let mut lines = String::new();
        for (path, entry) in &self.entries {
            match other.entries.get(path) {
                None => writeln!(lines, "- {} {entry}", path.display()).unwrap(),
                Some(theirs) if theirs != entry => {
                    writeln!(lines, "- {} {entry}\n+ {} {theirs}", path.display(), path.display())
                        .unwrap();
                }
                Some(_) => {}
            }
        }
        for (path, entry) in &other.entries {
            if !self.entries.contains_key(path) {
                writeln!(lines, "+ {} {entry}", path.display()).unwrap();
            }
        }
        lines
    }

    /// Fails the test unless both hold the same names, kinds, modes, contents, targets and hard links.
    #[track_caller]
    pub(crate) fn assert_same(&self, other: &Self) {
        let difference = self.difference(other);
        assert!(
            difference.is_empty(),
            "trees differ\n--- {}\n+++ {}\n{difference}",
            self.root.display(),
            other.root.display()
        );
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:04o} ", self.mode)?;
        match &self.kind {
            Kind::File { size, digest } => {
                write!(to, "file of {size} bytes, digest {digest:016x}")?
            }
            Kind::Symlink { target } => write!(to, "symlink to {}", target.display())?,
            other => write!(to, "{other:?}")?,
        }
        if let Some(first) = &self.linked_to {
            write!(to, ", one file with {}", first.display())?;
        }
        Ok(())
    }
}

#[track_caller]
fn walk(root: &Path, below: &Path, found: &mut BTreeMap<PathBuf, Metadata>) {
    let directory = root.join(below);
    let names = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("listing {}: {error}", directory.display()));
    for name in names {
        let path = below.join(name.unwrap().file_name());
        if path == Path::new(".cachefs") {
            continue;
        }
        let metadata = fs::symlink_metadata(root.join(&path)).unwrap_or_else(|error| {
            panic!("stat of {}, which was listed: {error}", path.display())
        });
        let is_directory = metadata.is_dir();
        assert!(
            found.insert(path.clone(), metadata).is_none(),
            "{} is listed twice",
            path.display()
        );
        if is_directory {
            walk(root, &path, found);
        }
    }
}

#[track_caller]
fn kind(path: &Path, metadata: &Metadata, normalise: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Kind {
    let type_of = metadata.file_type();
    if type_of.is_dir() {
        Kind::Directory
    } else if type_of.is_symlink() {
        Kind::Symlink { target: fs::read_link(path).unwrap() }
    } else if type_of.is_file() {
        let bytes =
            fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
        assert_eq!(
            bytes.len() as u64,
            metadata.size(),
            "size and contents of {} disagree",
            path.display()
        );
        let bytes = normalise(bytes);
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        Kind::File { size: bytes.len() as u64, digest: hasher.finish() }
    } else if type_of.is_fifo() {
        Kind::Fifo
    } else if type_of.is_socket() {
        Kind::Socket
    } else {
        Kind::Device
    }
}

/// What lies in a store that is being written.
pub(crate) fn staged(store: &Path) -> Vec<PathBuf> {
    let stages = inside(&store.join(".cachefs/staged"));
    // The folders in which it is written stay.
    let files = |stage: PathBuf| if stage.is_dir() { inside(&stage) } else { vec![stage] };
    stages.into_iter().flat_map(files).collect()
}

/// What lies in a store that is not live: what is being written, and what was removed and is kept.
pub(crate) fn not_live(store: &Path) -> Vec<PathBuf> {
    staged(store).into_iter().chain(inside(&store.join(".cachefs/retired"))).collect()
}

/// Nothing, if the folder is gone.
fn inside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}
