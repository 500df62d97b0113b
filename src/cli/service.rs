//! What a daemon answers on its control socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cachefs_mount::fuse::Mount;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::options::{self, AccessMode};
use super::{prune, show};
use crate::cache::{Cache, CleanError, Holding, Keep, Limits, PruneOptions, PruneRequest};
use crate::control::PruneWords;
use crate::control::server::Service;
use crate::prune::Only;
use crate::readers::{Job, ReaderOptions};
use crate::store::{self, Store};
use crate::system::containment::Containment;
use crate::system::outside::Outside;
use crate::system::{busy, processes};

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
    pub(super) containment: Containment,
    /// Does what the daemon can't do any more.
    pub(super) outside: Option<Arc<Outside>>,
}

impl Running {
    /// Who is using the mount, for a message.
    pub(super) fn users(&self) -> String {
        let users = match &self.outside {
            Some(outside) => outside.users(),
            None => busy::users(&self.mountpoint),
        };
        match busy::list(&users) {
            users if users.is_empty() => "someone who can't be seen from here".into(),
            users => users,
        }
    }
}

impl Service for Running {
    fn status(&self) -> Value {
        let counts = self.cache.counts();
        let kernel: Map<String, Value> =
            self.mount.features().list().into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let requests: Map<String, Value> =
            self.mount.requests().into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let space = rustix::fs::fstatvfs(self.store.root()).ok().map(
            |s| json!({"bytes": s.f_blocks * s.f_frsize, "available": s.f_bavail * s.f_frsize}),
        );
        let (retired, spilled) = (self.cache.retired(), self.cache.spilled());
        let degraded = self.cache.degraded().map(|degraded| {
            let since = OffsetDateTime::from(degraded.since).replace_nanosecond(0).ok();
            json!({"since": since.and_then(|at| at.format(&Rfc3339).ok()), "reason": degraded.reason})
        });
        let (step, done, of) = self.cache.prune_progress();
        let known = self.cache.known(FRESH);
        let readers = self.cache.readers();
        let holders = readers.iter().filter(|reader| reader.retired.files > 0).count();
        let mut containment = self.containment.to_json();
        containment["store_closed"] = store::is_closed(self.store.path()).into();
        json!({
            "mountpoint": self.mountpoint.to_string_lossy(),
            "store": self.store.path().to_string_lossy(),
            "pid": std::process::id(),
            "since": self.since.format(&Rfc3339).ok(),
            "access": self.access.name(),
            "degraded": degraded,
            "connection": self.mount.connection(),
            "space": space,
            "live": known.map(|known| json!({
                "bytes": known.live.bytes, "files": known.live.files,
                "in_use": known.in_use.bytes, "at": show::time(known.at),
            })),
            "units": known.map(|known| known.units),
            "pruning": {"step": step, "done": done, "of": of},
            "limits": limits(&self.pruning),
            "spilled": {"bytes": spilled.bytes, "files": spilled.files},
            "retired": {"bytes": retired.bytes, "files": retired.files, "readers": holders},
            "readers": readers.len(),
            "reader": options::grouping_name(self.readers.grouping),
            "retain_for": self.keep.retain_for.as_secs(),
            "grace": self.keep.grace.as_secs(),
            "idle": self.readers.idle.as_secs(),
            "nodes": counts.nodes,
            "handles": counts.handles,
            "hits": counts.hits,
            "misses": counts.misses,
            "kernel": kernel,
            "containment": containment,
            "requests": requests,
        })
    }

    fn readers(&self) -> Value {
        let readers: Vec<Value> = self.cache.readers().iter().map(describe).collect();
        json!({"mountpoint": self.mountpoint.to_string_lossy(), "readers": readers})
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
        match self.mount.unmount(lazy) {
            Ok(()) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Err(format!(
                "{at} is in use by {}; end that, or use `cachefs umount --lazy {at}`",
                self.users()
            )),
            Err(e) => Err(format!("can't unmount {at}: {e}")),
        }
    }
}

/// What a store holds is counted anew for who asks after this time.
const FRESH: Duration = Duration::from_secs(30);

/// What the mount was told to keep.
fn limits(options: &PruneOptions) -> Value {
    json!({
        "max_size": options.limits.max_size.map(|size| size.to_string()),
        "max_age": options.limits.max_age.map(|age| age.as_secs()),
        "min_free": options.limits.min_free.map(|size| size.to_string()),
        "prune_every": options.every.map(|every| every.as_secs()),
        "layout": options.layout.map_or_else(|| "auto".to_owned(), |layout| layout.name()),
    })
}

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
