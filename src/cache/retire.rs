//! Live -> retired -> reclaimed (SEMANTICS 3).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Cache;
use crate::readers::Job;

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Space taken, in bytes.
    pub bytes: u64,
    /// Files, directories and whatever else has a name.
    pub files: u64,
}

/// A running job, and what is kept for it.
#[derive(Clone, Debug)]
pub struct Holding {
    /// The job.
    pub job: Arc<Job>,
    /// What was removed and is kept because this job still sees it.
    pub retired: Amount,
}

/// What `clean` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Names taken out of the live view.
    pub names: u64,
    /// How many jobs still see what was removed; its space is free when they have ended.
    pub seen_by: usize,
}

/// Why `clean` removed nothing.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The path leads out of the mount, or is no path of it.
    #[error("{} is not a path in the mount; give paths relative to it", .0.display())]
    NotInside(PathBuf),
    /// There is nothing of that name.
    #[error("there is no {} in the mount", .0.display())]
    Absent(PathBuf),
    /// The store refuses.
    #[error("can't remove {}: {error}", path.display())]
    Store {
        /// What was to be removed.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
}

/// How long what was removed is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// At most so long for any job.
    pub retain_for: Duration,
    /// So long for callers whose pids the daemon can't see.
    pub grace: Duration,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep { retain_for: Duration::from_secs(24 * 3600), grace: Duration::from_secs(600) }
    }
}

impl Cache {
    /// Takes `paths` (relative to the mount; all of it if there are none) out of the live view in one
    /// step. Nobody who runs is disturbed.
    pub fn clean(&self, paths: &[PathBuf]) -> Result<Cleaned, CleanError> {
        Err(CleanError::Absent(paths.first().cloned().unwrap_or_default()))
    }

    /// The running jobs, the oldest first, and what each holds.
    pub fn readers(&self) -> Vec<Holding> {
        Vec::new()
    }

    /// What was removed and is still there for running jobs, or on its way out.
    pub fn retired(&self) -> Amount {
        Amount::default()
    }
}
