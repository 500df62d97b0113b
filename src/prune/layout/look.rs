//! What is seen of a directory that may be a cache.

use crate::platform::fd::OwnedFd;
use crate::platform::fs::FileType;
use crate::platform::io::Errno;
use crate::prune::directory::{head, kind, list, open_directory, status};

/// A directory's names, and a way further in.
pub(in crate::prune) struct Look {
    directory: OwnedFd,
    names: Vec<(Box<[u8]>, bool)>,
}

impl Look {
    pub(super) fn at(directory: OwnedFd) -> Result<Look, Errno> {
        let mut names = Vec::new();
        list(&directory, |name, mut found| {
            if found == FileType::Unknown
                && let Ok(status) = status(&directory, name)
            {
                found = kind(&status);
            }
            names.push((name.into(), found == FileType::Directory));
        })?;
        Ok(Look { directory, names })
    }

    /// The names of the directories in it.
    pub(super) fn directories(&self) -> impl Iterator<Item = &[u8]> {
        self.names.iter().filter(|(_, directory)| *directory).map(|(name, _)| &**name)
    }

    /// The names of everything else in it.
    pub(super) fn files(&self) -> impl Iterator<Item = &[u8]> {
        self.names.iter().filter(|(_, directory)| !directory).map(|(name, _)| &**name)
    }

    pub(super) fn has_directory(&self, name: &str) -> bool {
        self.directories().any(|known| known == name.as_bytes())
    }

    pub(super) fn has_file(&self, name: &str) -> bool {
        self.files().any(|known| known == name.as_bytes())
    }

    /// The beginning of a file; nothing if it can't be read.
    pub(super) fn head(&self, name: &str) -> Vec<u8> {
        head(&self.directory, name.as_bytes(), 512).unwrap_or_default()
    }

    /// One of the directories in it; none if it can't be read.
    pub(super) fn inside(&self, name: &[u8]) -> Option<Look> {
        Look::at(open_directory(&self.directory, name).ok()?).ok()
    }

    /// Whether `wanted` holds for one of the directories in it, of which not all are looked at.
    pub(super) fn any_inside(
        &self,
        named: impl Fn(&[u8]) -> bool,
        wanted: impl Fn(&Look) -> bool,
    ) -> bool {
        const ENOUGH: usize = 256;
        let inside = self.directories().filter(|name| named(name)).take(ENOUGH);
        inside.filter_map(|name| self.inside(name)).any(|look| wanted(&look))
    }
}
