//! What was chosen leaves the live view.

use std::path::PathBuf;
use std::sync::Arc;

use cachefs_mount::NodeId;
use parking_lot::MutexGuard;

use crate::cache::Cache;
use crate::cache::retire::CleanError;
use crate::readers::Job;

impl Cache {
    /// Takes these paths out of the live view as one change, for the job `by`: who goes on seeing them.
    /// What has gone meanwhile is no matter. `tell` is to tell the kernel of each name.
    pub(super) fn remove_at_once(
        &self,
        one: &MutexGuard<'_, ()>,
        paths: &[PathBuf],
        by: u64,
        tell: &dyn Fn(NodeId, &[u8]),
    ) -> Vec<Arc<Job>> {
        self.pruner.progress.at(2, paths.len());
        let mut targets = Vec::with_capacity(paths.len());
        for path in paths {
            match self.find(path, &mut targets) {
                Ok(()) | Err(CleanError::Absent(_)) => {}
                Err(error) => tracing::warn!("can't prune: {error}"),
            }
        }
        let each = || self.pruner.progress.one_more();
        let removed = self.retire_targets(one, &targets, by, &each, tell);
        for target in &targets {
            self.give_back_target(target);
        }
        for error in removed.errors {
            tracing::warn!("can't prune: {error}");
        }
        removed.seen_by
    }
}
