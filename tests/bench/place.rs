//! Where an operation works, and what it finds there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::operations::Scale;

/// A system's directory, as operations see it.
pub(crate) struct Place {
    /// The directory that is measured: plain, or a mountpoint.
    pub(crate) root: PathBuf,
    /// A plain directory, for what a tool writes elsewhere.
    pub(crate) outside: PathBuf,
    pub(crate) scale: Scale,
}

impl Place {
    /// A directory that is filled once and used by several operations.
    pub(crate) fn fixture(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let directory = self.root.join(name);
        if !directory.exists() {
            fs::create_dir(&directory)?;
            fill(&directory)?;
        }
        Ok(directory)
    }

    /// An empty directory, removed and made again.
    pub(crate) fn empty(&self, name: &str) -> Result<PathBuf> {
        emptied(self.root.join(name))
    }

    /// The same, outside of what is measured.
    pub(crate) fn empty_outside(&self, name: &str) -> Result<PathBuf> {
        emptied(self.outside.join(name))
    }
}

fn emptied(directory: PathBuf) -> Result<PathBuf> {
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir(&directory)?;
    Ok(directory)
}

/// `count` names in `directory`.
pub(crate) fn names(directory: &Path, count: u64) -> Vec<PathBuf> {
    (0..count).map(|number| directory.join(format!("file-{number:06}"))).collect()
}
