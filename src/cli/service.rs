//! What a daemon answers on its control socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cachefs_mount::fuse::Mount;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::options::AccessMode;
use super::{prune, told, units};
use crate::cache::{Cache, CleanError, Holding, Keep, Limits, PruneOptions, PruneRequest};
use crate::control::PruneWords;
use crate::control::server::Service;
use crate::prune::Only;
use crate::readers::{Job, ReaderOptions};
use crate::store::Store;
use crate::system::busy::{self, User};
use crate::system::containment::Containment;
use crate::system::outside::Outside;
use crate::system::processes;

/// A mount and all that belongs to it.
pub(super) struct Running {
    pub(super) mount: Mount,
    pub(super) cache: Arc<Cache>,
    pub(super) store: Arc<Store>,
    pub(super) mountpoint: PathBuf,
    pub(super) access: AccessMode,
    pub(super) keep: Keep,
    pub(super) pruning: PruneOptions,
    pub(super) readers: ReaderOptions,
    pub(super) since: OffsetDateTime,
    /// Where metrics are answered with.
    pub(super) metrics: Option<SocketAddr>,
    pub(super) containment: Containment,
    /// Does what the daemon can't do, or not any more.
    pub(super) outside: Arc<Outside>,
}

impl Running {
    /// Who is using the mount, for a message.
    pub(super) fn users(&self) -> String {
        in_words(&self.outside.users())
    }
}

fn in_words(users: &[User]) -> String {
    match busy::list(users) {
        users if users.is_empty() => "someone who can't be seen from here".into(),
        users => users,
    }
}

impl Running {
    /// As [`Service::status`], for programs that ask again and again: what the store holds is not counted anew
    /// for each.
    pub(super) fn status_for_metrics(&self) -> Value {
        told::status(self, FRESH_FOR_METRICS)
    }
}

impl Service for Running {
    fn status(&self) -> Value {
        told::status(self, FRESH)
    }

    fn readers(&self) -> Value {
        let readers: Vec<Value> = self.cache.readers().iter().map(describe).collect();
        json!({"mountpoint": self.mountpoint.to_string_lossy(), "readers": readers})
    }

    fn units(&self) -> Result<Value, String> {
        let inventory = self.cache.inventory().map_err(|error| error.to_string())?;
        Ok(units::answer(&inventory, &self.cache.history(), &self.mountpoint))
    }

    fn clean(&self, paths: &[PathBuf], by: u32) -> Result<Value, String> {
        let cleaned = self.cache.clean(&outermost(paths), by).map_err(|error| match error {
            CleanError::Absent(path) => format!(
                "there is no {} in the mount; paths count from {}",
                path.display(),
                self.mountpoint.display()
            ),
            error => format!("{error}; nothing was removed"),
        })?;
        tracing::info!(names = cleaned.names, seen_by = cleaned.seen_by, ?paths, "cleaned");
        Ok(json!({"removed": cleaned.names, "seen_by": cleaned.seen_by}))
    }

    fn prune(&self, words: PruneWords, by: u32) -> Result<Value, String> {
        let request = PruneRequest {
            limits: Limits {
                max_size: words.max_size,
                max_age: words.older_than.map(Duration::from_secs),
                min_free: words.min_free,
            },
            only: Only { tools: words.tools, paths: words.paths },
            dry_run: words.dry_run,
            by,
        };
        let pruned = self.cache.prune(&request).map_err(|error| error.to_string())?;
        if !words.dry_run {
            tracing::info!(
                units = pruned.units.len(),
                bytes = pruned.frees.bytes,
                seen_by = pruned.seen_by.len(),
                "pruned by hand",
            );
        }
        Ok(prune::answer(&pruned, words.dry_run, &self.mountpoint, processes::command))
    }

    fn unmount(&self, lazy: bool) -> Result<(), String> {
        let at = self.mountpoint.display();
        // While it is known which files were used.
        self.cache.keep_recency();
        let unseen_until = Instant::now() + UNSEEN_TIME;
        let mut users = Vec::new();
        loop {
            match self.mount.unmount(lazy) {
                Ok(()) => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                Err(e) => return Err(format!("can't unmount {at}: {e}")),
            }
            if !users.is_empty() || Instant::now() >= unseen_until {
                return Err(format!(
                    "{at} is in use by {}; end that, or use `cachefs umount --lazy {at}`",
                    in_words(&users)
                ));
            }
            users = self.outside.users();
            if users.is_empty() {
                std::thread::sleep(UNSEEN_PAUSE);
            }
        }
    }
}

/// So long a mount may be in use by no one that can be seen before that is an error: who has just ended holds what he
/// had open for a moment, and so does a process that is being started, until it runs its program.
const UNSEEN_TIME: Duration = Duration::from_secs(2);

/// And so long it takes until that is looked at again.
const UNSEEN_PAUSE: Duration = Duration::from_millis(20);

/// What a store holds is counted anew for who asks after this time.
const FRESH: Duration = Duration::from_secs(30);

/// And for metrics, after this time.
const FRESH_FOR_METRICS: Duration = Duration::from_secs(5 * 60);

/// A job, as `cachefs readers --json` has it.
fn describe(holding: &Holding) -> Value {
    let job: &Job = &holding.job;
    // Whole seconds: nobody starts jobs to be told apart by less.
    let since = OffsetDateTime::from(job.since).replace_nanosecond(0).ok();
    let known = job.id != Job::UNKNOWN;
    json!({
        "pid": job.pid,
        "command": known.then(|| processes::command(job.pid)).flatten(),
        "uid": job.uid,
        "cgroup": known.then(|| processes::cgroup(job.pid)).flatten(),
        "since": since.and_then(|since| since.format(&Rfc3339).ok()),
        "open_files": job.open_files(),
        "retired_bytes": holding.retired.bytes,
    })
}

/// `paths` without those that others contain: what lies in a directory goes with it.
fn outermost(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut sorted = paths.to_vec();
    // By components, so that a directory comes right before what is in it.
    sorted.sort();
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in sorted {
        if kept.last().is_none_or(|last| !path.starts_with(last)) {
            kept.push(path);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_another_path_goes_with_it() {
        let paths = ["a/b/c", "a-b", "a/b", "c", "a/b", "a/bc"].map(PathBuf::from);
        assert_eq!(outermost(&paths), ["a/b", "a/bc", "a-b", "c"].map(PathBuf::from));
        assert!(outermost(&[]).is_empty());
    }
}
