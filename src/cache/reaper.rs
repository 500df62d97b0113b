//! Retired -> reclaimed (SEMANTICS 3.9), in the background; and what the kernel is told meanwhile.

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use cachefs_mount::{Errno, Kind, NodeId, Result};

use super::Cache;
use super::resolve::{errno, key, kind, open_at, status};
use super::retire::{Amount, Changed, Keep, Record, amount};
use super::tree::{Node, Place, known_name};
use super::view::Moment;
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{AtFlags, OFlags, Statx};
use crate::readers::Job;

/// An open directory, the names in it that are still to be removed, and its own.
type Emptied = (OwnedFd, Vec<Box<[u8]>>, Box<[u8]>);

/// So often in one tree somebody may be late; who fills it all the time is not waited for.
const LATE: u32 = 100;

impl Cache {
    /// Starts what reclaims in the background.
    pub(super) fn start_reaper(self: &Arc<Self>) -> std::io::Result<()> {
        let (wake, woken) = std::sync::mpsc::channel();
        *self.retired.reaper.lock() = Some(wake);
        let cache = Arc::downgrade(self);
        std::thread::Builder::new().name("reaper".into()).spawn(move || {
            // What an earlier mount has left is there to begin with.
            let (mut next, mut rested) = (Instant::now(), Instant::now());
            loop {
                let wait = next.max(rested).saturating_duration_since(Instant::now());
                let woken = match wait.is_zero() {
                    true => Err(RecvTimeoutError::Timeout),
                    false => woken.recv_timeout(wait),
                };
                let Some(cache) = cache.upgrade() else { return };
                match woken {
                    Ok(Wake::ToMeasure(number)) => {
                        cache.measure(number);
                        // Whoever it was to be kept for may have ended before it was.
                        next = next.min(Instant::now() + GOING_ON);
                    }
                    Ok(Wake::ToReclaim) => next = Instant::now(),
                    Err(RecvTimeoutError::Timeout) => {
                        let (due, looked) = cache.reclaim();
                        cache.drop_left();
                        next = due.unwrap_or_else(|| Instant::now() + IDLE);
                        rested = Instant::now() + looked * REST;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(())
    }

    /// Starts what tells the kernel of names, on behalf of those who answer it.
    pub(super) fn start_herald(self: &Arc<Self>) -> std::io::Result<()> {
        let (tell, told) = std::sync::mpsc::channel::<Changed>();
        *self.retired.herald.lock() = Some(tell);
        let cache = Arc::downgrade(self);
        std::thread::Builder::new().name("herald".into()).spawn(move || {
            while let Ok(changed) = told.recv() {
                let Some(cache) = cache.upgrade() else { return };
                match changed {
                    Changed::Name(folder, name) => cache.tell_kernel(folder, &name),
                    // Whoever waited may have gone.
                    Changed::Until(done) => drop(done.send(())),
                }
            }
        })?;
        Ok(())
    }

    /// Reclaims what nobody needs any more, in the order in which it was removed; when the next is due
    /// in any case, and how long it took to find out.
    fn reclaim(&self) -> (Option<Instant>, Duration) {
        let now = Instant::now();
        let newest = self.retired.records.lock().last_key_value().map(|(newest, _)| *newest);
        let Some(newest) = newest else { return (None, now.elapsed()) };
        // Only now: whoever needs one of these began before it was removed.
        let needs = Needs {
            removals: self.readers.removals_began(),
            now,
            ..Needs::new(self.readers.all(), self.options.keep)
        };
        let (mut due, mut next) = (Vec::new(), None);
        for (number, record) in self.retired.records.lock().range(..=newest) {
            match needs.until(record).filter(|until| *until > now) {
                Some(until) => next = Some(next.map_or(until, |next: Instant| next.min(until))),
                None => due.push(*number),
            }
        }
        let looked = now.elapsed();
        for number in due {
            self.measure(number);
            let Some(record) = self.retired.records.lock().get(&number).cloned() else { continue };
            if needs.holders(&record).next().is_some() {
                tracing::warn!(
                    name = %record.name(), kept_for = %needs.names(&record),
                    "kept for as long as --retain-for allows; running jobs may miss it now",
                );
            }
            self.reclaim_one(number, &record);
            self.retired.records.lock().remove(&number);
        }
        (next, looked)
    }

    fn reclaim_one(&self, number: u64, record: &Record) {
        let Ok(node) = self.tree.get(record.node) else { return };
        let still_lies = match &record.seen_as {
            Some((folder, name)) => {
                let name = known_name(name);
                let _change = self.names.change(folder.id, name.as_bytes());
                if !folder.every_version(name).iter().any(|kept| kept.number == number) {
                    // Brought back meanwhile.
                    return;
                }
                let still_lies = record.still_lies(&node);
                self.remove_retired(folder, name, record.node, number);
                still_lies
            }
            None => {
                let still_lies = record.still_lies(&node);
                self.give_back(record.node, 1);
                still_lies
            }
        };
        let Some(place) = still_lies else { return };
        let Some(folder) = self.own_folder(place.parent()) else { return };
        let removed = match node.kind {
            Kind::Directory => self.remove_tree(&folder, &place.name),
            _ => self.unlink_in((place.parent(), &folder), &place.name),
        };
        if let Err(errno) = removed {
            tracing::warn!(%errno, name = %record.name(), "can't reclaim; the next mount does");
        } else {
            self.numbers.reclaimed(record.amount.unwrap_or_default());
        }
    }

    /// Removes a directory of one of our own folders, with everything in it.
    pub(super) fn remove_tree(&self, own: &OwnedFd, name: &[u8]) -> Result<()> {
        // Not by recursion: trees may be deeper than a stack.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let top = open_at(own, name, flags)?;
        let mut open: Vec<Emptied> = Vec::new();
        let mut late = 0;
        let names = self.names_in(&top)?;
        open.push((top, names, name.into()));
        while let Some((directory, names, _)) = open.last_mut() {
            if let Some(next) = names.pop() {
                match open_at(&*directory, &next, flags) {
                    Ok(below) => {
                        let names = self.names_in(&below)?;
                        open.push((below, names, next));
                    }
                    Err(Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO | Errno::EACCES) => {
                        // Its node is found by its other names, if it has any.
                        match self.unlink_in((NodeId(0), directory), &next) {
                            // Whoever has the directory open may take things out of it.
                            Ok(()) | Err(Errno::ENOENT) => {}
                            Err(errno) => return Err(errno),
                        }
                    }
                    Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(errno),
                }
                continue;
            }
            let Some((directory, _, name)) = open.pop() else { break };
            let above = open.last().map_or(own, |(above, ..)| above);
            match platform::fs::unlinkat(above, &*name, AtFlags::REMOVEDIR).map_err(errno) {
                // Somebody who had it open has put something in since its names were read.
                Err(Errno::ENOTEMPTY) if late < LATE => {
                    late += 1;
                    let names = self.names_in(&directory)?;
                    open.push((directory, names, name));
                    continue;
                }
                // Moved away; it is not lost.
                Err(Errno::ENOENT) if !open.is_empty() => continue,
                removed => removed?,
            }
            let key = key(&status(&directory, b"")?);
            self.lose(key, directory);
        }
        Ok(())
    }

    /// Finds out how much there is of what was removed, if that is not known.
    fn measure(&self, number: u64) {
        let unmeasured = |record: &&Record| record.amount.is_none();
        let node = self.retired.records.lock().get(&number).filter(unmeasured).map(|r| r.node);
        let Some(node) = node else { return };
        let amount = self.directory(node).and_then(|top| self.amount_in(&top));
        if let Some(record) = self.retired.records.lock().get_mut(&number) {
            record.amount.get_or_insert(amount.unwrap_or_default());
        }
    }

    pub(super) fn amount_in(&self, top: &OwnedFd) -> Result<Amount> {
        let mut all = amount(&status(top, b"")?);
        self.each_in(top, |found| all.add(amount(found)))?;
        Ok(all)
    }

    /// Tells of everything in a directory.
    pub(super) fn each_in(&self, top: &OwnedFd, mut tell: impl FnMut(&Statx)) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut open = vec![(open_at(top, b".", flags)?, self.names_in(top)?)];
        while let Some((directory, names)) = open.last_mut() {
            let Some(name) = names.pop() else {
                open.pop();
                continue;
            };
            let Ok(found) = status(&*directory, &name) else { continue };
            tell(&found);
            if kind(&found) == Kind::Directory
                && let Ok(below) = open_at(&*directory, &name, flags)
            {
                let names = self.names_in(&below)?;
                open.push((below, names));
            }
        }
        Ok(())
    }
}

/// What the reaper is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wake {
    /// A directory was removed, and is kept under that number.
    ToMeasure(u64),
    /// Something may not be needed any more.
    ToReclaim,
}

/// So many times as long as it has looked for what is due the reaper rests, however often it is woken: there may be
/// much that is kept, and many who end.
const REST: u32 = 4;

/// How long the reaper sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

impl Record {
    /// Whether it is still where it was put: it may have been moved to somewhere else.
    fn still_lies(&self, node: &Node) -> Option<Place> {
        let is_here = |place: &Place| !place.is_public() && Some(&place.name) == self.lies.as_ref();
        node.places().into_iter().find(is_here)
    }

    fn name(&self) -> String {
        let name = self.seen_as.as_ref().map(|(_, name)| String::from_utf8_lossy(name));
        name.unwrap_or_default().into_owned()
    }
}

/// For whom things have to be kept.
struct Needs {
    /// The jobs that can be seen, the oldest first.
    jobs: Vec<Arc<Job>>,
    /// There are callers whose pids can't be seen.
    unknown: bool,
    /// What was removed after this moment is seen by jobs that are still to begin.
    removals: Option<Moment>,
    now: Instant,
    keep: Keep,
}

/// So long after a removal that was going on it is looked whether it still is.
const GOING_ON: Duration = Duration::from_secs(1);

impl Needs {
    fn new(mut jobs: Vec<Arc<Job>>, keep: Keep) -> Needs {
        let all = jobs.len();
        jobs.retain(|job| job.id != Job::UNKNOWN);
        let (removals, now) = (None, Instant::now());
        Needs { unknown: jobs.len() < all, jobs, removals, now, keep }
    }

    /// The jobs that can be seen and that need it.
    fn holders(&self, record: &Record) -> impl Iterator<Item = &Arc<Job>> {
        let for_it = |job: &Job| record.only.as_ref().is_none_or(|only| only.contains(&job.id));
        let older =
            move |job: &&Arc<Job>| job.was_there_before(record.at, &record.hidden) && for_it(job);
        let older = self.jobs.iter().filter(older);
        older.filter(|job| record.seen_as.is_some() && !record.hidden.contains(&job.id))
    }

    /// Until when it is kept at the longest; none: nobody needs it.
    fn until(&self, record: &Record) -> Option<Instant> {
        if self.holders(record).next().is_some() {
            return Some(record.since + self.keep.retain_for);
        }
        if record.only.is_some() {
            return None;
        }
        if record.seen_as.is_some() && self.removals.is_some_and(|began| began < record.at) {
            return Some(self.now + GOING_ON);
        }
        let unknown = self.unknown && record.seen_as.is_some();
        let unknown = unknown && !record.hidden.contains(&Job::UNKNOWN);
        unknown.then(|| record.since + self.keep.grace.min(self.keep.retain_for))
    }

    fn names(&self, record: &Record) -> String {
        self.holders(record).map(|job| format!("pid {}", job.pid)).collect::<Vec<_>>().join(", ")
    }
}
