//! What the mount has seen being used (SEMANTICS 6.2).
//!
//! Each time a file is opened, or closed after it was written, its node is noted: at most once in
//! [`RESOLUTION`] for the same job, and so nearly always at the cost of one comparison. In the background, the
//! mark of the node's unit is found, and kept with the time and the job in a table of bounded size. From there
//! it gets into the store, as the mark's access time, at most once in [`WRITTEN`], and when it is unmounted.
//!
//! **What may be missed**: what the kernel answers without asking (look-ups and `stat` of names that it knows,
//! and the targets of links) is no use; every `open(2)` of a file is, with passthrough too. So a unit counts as used when one
//! of its files was opened last, or up to [`RESOLUTION`] earlier. After a crash, [`WRITTEN`] earlier. If more
//! than [`QUEUE`] different files are opened before the background has come to them, some are missed, and noted
//! when they are opened next. Of [`MOST`] units it is known who uses them; of others when they were used last,
//! by their access times.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use cachefs_mount::{Name, NodeId};
use lru::LruCache;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::cache::Cache;
use crate::cache::tree::Node;
use crate::platform;
use crate::platform::ffi::{OsStrExt, OsStringExt};
use crate::platform::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use crate::prune::layout;

/// A job that uses a file again within this time is not noted again.
const RESOLUTION: Duration = Duration::from_secs(60);

/// A mark's access time is set at most once in this time.
pub(super) const WRITTEN: Duration = Duration::from_secs(600);

/// So many notes may wait.
const QUEUE: usize = 1 << 14;

/// Of so many units it is known who uses them; each takes some 200 bytes.
const MOST: usize = 1 << 16;

/// So many jobs are known for each.
const JOBS: usize = 8;

/// A job that has made a part of a unit may make another within this time.
pub(super) const MAKING: Duration = Duration::from_secs(10);

/// A path in a store is no deeper, or its uses are not noted.
const DEEPEST: usize = 256;

/// What is known of the uses of a unit.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) last: SystemTime,
    /// Who has used it, by the numbers of their jobs.
    pub(super) jobs: SmallVec<[u64; 2]>,
    /// Who made a part of it last, and when.
    made: Option<(u64, Instant)>,
    /// In the order of all uses.
    number: u64,
    /// When its access time was set; the use was before that if not `changed`.
    written: Option<Instant>,
    changed: bool,
}

/// Uses, by marks.
pub(super) type Uses = Vec<(Box<Path>, Use)>;

/// Somebody has used a file, or made one.
#[derive(Debug)]
struct Note {
    /// The file; or where there is a name, the directory that it is in.
    node: NodeId,
    name: Option<Box<[u8]>>,
    job: u64,
    made: bool,
}

#[derive(Debug)]
pub(super) struct Recency {
    notes: SyncSender<Note>,
    /// There may be notes that wait.
    waiting: AtomicBool,
    noted: Mutex<Receiver<Note>>,
    uses: Mutex<LruCache<Box<Path>, Use>>,
    number: AtomicU64,
}

impl Recency {
    pub(super) fn new() -> Recency {
        let (notes, noted) = sync_channel(QUEUE);
        Recency {
            notes,
            waiting: AtomicBool::new(false),
            noted: Mutex::new(noted),
            // Unbounded to the map, which otherwise reserves room for all at once.
            uses: Mutex::new(LruCache::unbounded()),
            number: AtomicU64::new(0),
        }
    }

    /// The number of the newest use.
    pub(super) fn newest(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Whether somebody has used something, and it is not known yet what.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    pub(super) fn all(&self) -> Uses {
        let uses = self.uses.lock();
        uses.iter().map(|(mark, used)| (mark.clone(), used.clone())).collect()
    }

    /// The uses after the one with that number.
    pub(super) fn since(&self, number: u64) -> Uses {
        let uses = self.uses.lock();
        let newer = uses.iter().take_while(|(_, used)| used.number > number);
        newer.map(|(mark, used)| (mark.clone(), used.clone())).collect()
    }

    /// Notes one use; a unit that has to be forgotten for that, and its use.
    fn add(
        &self,
        mark: &Path,
        (job, made): (u64, bool),
        ended: impl Fn(u64) -> bool,
    ) -> Option<(Box<Path>, Use)> {
        let mut uses = self.uses.lock();
        let number = self.number.fetch_add(1, Ordering::AcqRel) + 1;
        let new = || Use {
            last: SystemTime::UNIX_EPOCH,
            jobs: SmallVec::new(),
            made: None,
            number,
            written: None,
            changed: true,
        };
        let used = uses.get_or_insert_mut(mark.into(), new);
        (used.number, used.changed, used.last) = (number, true, SystemTime::now());
        if made {
            used.made = Some((job, Instant::now()));
        }
        if !used.jobs.contains(&job) {
            if used.jobs.len() >= JOBS {
                used.jobs.retain(|job| !ended(*job));
            }
            if used.jobs.len() >= JOBS {
                used.jobs.remove(0);
            }
            used.jobs.push(job);
        }
        if uses.len() > MOST { uses.pop_lru() } else { None }
    }

    /// Those whose access times have to be set: of all that have changed, those that have not been for
    /// `at_least`.
    fn due(&self, at_least: Duration) -> Vec<(Box<Path>, SystemTime)> {
        let mut due = Vec::new();
        for (mark, used) in self.uses.lock().iter_mut() {
            if used.changed && used.written.is_none_or(|written| written.elapsed() >= at_least) {
                (used.changed, used.written) = (false, Some(Instant::now()));
                due.push((mark.clone(), used.last));
            }
        }
        due
    }
}

impl Use {
    /// Who may be in the middle of making it.
    pub(super) fn maker(&self) -> Option<u64> {
        self.made.filter(|(_, at)| at.elapsed() < MAKING).map(|(job, _)| job)
    }
}

/// The node's own note of who has used it last, and when: the job, and seconds.
fn stamp(job: u64, seconds: u32) -> u64 {
    job << 32 | u64::from(seconds)
}

fn is_fresh(before: u64, job: u64, seconds: u32) -> bool {
    before >> 32 == job & u64::from(u32::MAX)
        && u64::from(seconds.saturating_sub(before as u32)) < RESOLUTION.as_secs()
}

/// Of a clock that is never put back, and never 0.
pub(in crate::cache) fn seconds() -> u32 {
    let clock = platform::time::clock_gettime(platform::time::ClockId::MonotonicCoarse);
    (clock.tv_sec as u32).saturating_add(1)
}

impl Cache {
    /// A job uses a file.
    pub(in crate::cache) fn note_use(&self, node: &Node, job: u64) {
        let seconds = seconds();
        let before = node.used.load(Ordering::Relaxed);
        if before as u32 != 0 && is_fresh(before, job, seconds) {
            return;
        }
        if self.note(Note { node: node.id, name: None, job, made: false }) {
            node.used.store(stamp(job, seconds), Ordering::Relaxed);
        }
    }

    /// A job has made a file, or written it.
    pub(in crate::cache) fn note_stored_by(&self, node: NodeId, job: u64) {
        self.note(Note { node, name: None, job, made: true });
    }

    /// A job is about to give something that name. To be called before: who prunes must not see the one
    /// without knowing the other.
    pub(in crate::cache) fn note_named(&self, folder: NodeId, name: Name<'_>, job: u64) {
        self.note(Note { node: folder, name: Some(name.as_bytes().into()), job, made: true });
    }

    /// Whether there was room for it.
    fn note(&self, note: Note) -> bool {
        let recency = &self.pruner.recency;
        let noted = recency.notes.try_send(note).is_ok();
        if !recency.waiting.swap(true, Ordering::AcqRel) {
            self.pruner.wake();
        }
        noted
    }

    /// Finds the units of all that was noted.
    pub(super) fn settle_uses(&self) {
        let recency = &self.pruner.recency;
        let noted = recency.noted.lock();
        recency.waiting.store(false, Ordering::Release);
        // No more than may have waited: others go on noting.
        for note in noted.try_iter().take(QUEUE) {
            let Ok(node) = self.tree.get(note.node) else { continue };
            for path in self.paths_of(&node) {
                match &note.name {
                    Some(name) => self.settle(&path.join(OsStr::from_bytes(name)), &note),
                    None => self.settle(&path, &note),
                }
            }
        }
    }

    fn settle(&self, path: &Path, note: &Note) {
        let layouts = self.pruner.layouts();
        let Some(mark) = layout::mark(&layouts, path) else { return };
        let ended = |job| !self.readers.runs(job);
        let forgotten = self.pruner.recency.add(mark, (note.job, note.made), ended);
        if let Some((mark, used)) = forgotten.filter(|(_, used)| used.changed) {
            self.set_last_use(&mark, used.last);
        }
    }

    /// The live paths of a node, relative to the store.
    pub(in crate::cache) fn paths_of(&self, node: &Node) -> SmallVec<[PathBuf; 1]> {
        if node.id == NodeId::ROOT {
            return SmallVec::from_elem(PathBuf::new(), 1);
        }
        let path = |place: crate::cache::tree::Place| {
            let mut names = vec![place.name.clone()];
            let mut above = place.parent();
            while above != NodeId::ROOT {
                let place = self.tree.get(above).ok()?.place()?;
                if !place.is_public() || names.len() > DEEPEST {
                    return None;
                }
                above = place.parent();
                names.push(place.name);
            }
            names.reverse();
            Some(PathBuf::from(OsString::from_vec(names.join(&b'/'))))
        };
        node.places().into_iter().filter(|place| place.is_public()).filter_map(path).collect()
    }

    /// Writes in the store what was used since `at_least`, as marks' access times.
    pub(super) fn write_uses(&self, at_least: Duration) {
        for (mark, last) in self.pruner.recency.due(at_least) {
            self.set_last_use(&mark, last);
        }
    }

    /// Writes in the store all that is known of uses. To be called at the end.
    pub fn keep_recency(&self) {
        // Who has used nothing has nothing kept, and so nothing is looked for.
        if self.pruner.recency.is_waiting()
            && self.pruner.layouts().is_empty()
            && let Err(error) = self.find_layouts()
        {
            tracing::warn!("can't look which caches are in the store: {error}");
        }
        self.settle_uses();
        self.write_uses(Duration::ZERO);
    }

    /// Sets the access time of a mark, whose path leads through no link.
    pub(super) fn set_last_use(&self, mark: &Path, last: SystemTime) {
        if self.spill.read_only {
            return;
        }
        let (Some(name), folder) = (mark.file_name(), mark.parent().unwrap_or(Path::new("")))
        else {
            return;
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let since = last.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let omit = Timespec { tv_sec: 0, tv_nsec: platform::fs::UTIME_OMIT };
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: since.subsec_nanos().into(),
            },
            last_modification: omit,
        };
        let set = platform::fs::openat2(&*self.root, folder, flags, Mode::empty(), resolve)
            .and_then(|folder| {
                platform::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            });
        if let Err(error) = set {
            // It has gone meanwhile, or the store can't take it: it is only for the next mount.
            tracing::debug!(%error, mark = %mark.display(), "can't write when it was used");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_job_is_noted_once_in_a_while() {
        let used = stamp(7, 100);
        assert!(is_fresh(used, 7, 100) && is_fresh(used, 7, 159));
        assert!(!is_fresh(used, 7, 160) && !is_fresh(used, 8, 101));
        // Numbers of jobs may be larger than what is kept of them.
        assert!(is_fresh(stamp(u64::MAX, 5), u64::MAX, 6));
    }

    #[test]
    fn the_newest_uses_are_told_apart() {
        let recency = Recency::new();
        let running = |_| false;
        recency.add(Path::new("a"), (1, false), running);
        recency.add(Path::new("b"), (1, false), running);
        let seen = recency.newest();
        assert!(recency.since(seen).is_empty());
        recency.add(Path::new("a"), (2, false), running);
        let since = recency.since(seen);
        assert_eq!(since.len(), 1);
        assert_eq!((&*since[0].0, &since[0].1.jobs[..]), (Path::new("a"), &[1, 2][..]));
    }

    #[test]
    fn those_who_have_ended_make_room_first() {
        let recency = Recency::new();
        for job in 0..JOBS as u64 {
            recency.add(Path::new("a"), (job, false), |_| false);
        }
        recency.add(Path::new("a"), (100, false), |job| job == 3);
        let jobs = &recency.all()[0].1.jobs;
        assert!(jobs.len() == JOBS && !jobs.contains(&3) && jobs.contains(&0), "{jobs:?}");
    }

    #[test]
    fn what_was_not_used_since_is_not_written_again() {
        let recency = Recency::new();
        recency.add(Path::new("a"), (1, false), |_| false);
        assert_eq!(recency.due(WRITTEN).len(), 1);
        assert!(recency.due(Duration::ZERO).is_empty());
        recency.add(Path::new("a"), (1, false), |_| false);
        assert!(recency.due(WRITTEN).is_empty());
        assert_eq!(recency.due(Duration::ZERO).len(), 1);
    }
}
