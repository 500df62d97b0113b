//! The directory in which a run works, removed when it ends.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, systems};

const PREFIX: &str = "scratch-";

/// `scratch-PID` in the chosen directory.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Also removes what runs that were killed have left.
    pub(crate) fn new(parent: &Path) -> Result<Scratch> {
        fs::create_dir_all(parent)?;
        let parent = parent.canonicalize()?;
        for entry in fs::read_dir(&parent)? {
            let entry = entry?;
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok())
                && !Path::new(&format!("/proc/{pid}")).exists()
            {
                remove(&entry.path());
            }
        }
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Scratch(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A directory in it.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes a scratch directory, but never what is mounted in it.
fn remove(scratch: &Path) {
    for mountpoint in mountpoints_below(scratch) {
        systems::detach(&mountpoint);
    }
    if !mountpoints_below(scratch).is_empty() {
        eprintln!("bench: something is still mounted in {}", scratch.display());
    } else if let Err(error) = fs::remove_dir_all(scratch) {
        eprintln!("bench: {} is left: {error}", scratch.display());
    }
}

fn mountpoints_below(directory: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mountpoint| mountpoint.starts_with(directory))
        .collect()
}
