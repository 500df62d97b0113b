//! What a name stands for, for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cachefs_mount::{Caller, Entry, Errno, FOREVER, Kind, Lookup, Name, NodeId, Result};
use dashmap::DashMap;

use super::Cache;
use super::drafts::Old;
use super::name_locks::Look;
use super::resolve::{key, kind, status};
use super::tree::{KeptList, Node, Place};
use super::view::{self, During, Moment, Reader, Version};
use crate::platform::fd::OwnedFd;
use crate::platform::fs::Statx;

/// One who only looks around sees what is live.
pub(super) const NOBODY: Reader =
    Reader { id: u64::MAX - 1, began: Moment(u64::MAX), during: During::NONE, user: None };

/// What a caller sees under a name.
#[allow(clippy::large_enum_variant, reason = "it is nearly always the large one")]
pub(super) enum Seen {
    /// The live version, which lies in the store.
    Live(Live),
    /// A version that does not.
    Kept(NodeId),
    Nothing,
}

/// A live version: its status and its node, with one more reference.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) status: Statx,
    pub(super) node: Arc<Node>,
}

/// What a caller was told to come again for (`ESTALE`): he looks the name up once more, and gets a
/// fresh node to do it with. So whoever has the old one goes on with it.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// To replace what is in this file, which has, or had, this name.
    Replace { node: NodeId, at: Option<Place> },
    /// To open a file under the number that it has now.
    Reopen,
    /// To change this file, which is everyone's, in a copy that the caller has to himself.
    Own {
        node: NodeId,
        /// The copy may be empty.
        empty: bool,
        /// To open it, not to change its attributes.
        opening: bool,
    },
    /// To take away the directory `name` of `folder`.
    Remove { folder: NodeId, name: Box<[u8]> },
}

/// A caller comes again at once. Whoever has not after this time was ended in between.
const PATIENCE: Duration = Duration::from_secs(10);

/// So often what somebody sees is looked at again because it became another's meanwhile.
const TRIES: usize = 16;

/// The steps that callers, by their threads, have to come again for.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pending: DashMap<u32, (Step, Instant)>,
    count: AtomicUsize,
}

impl Steps {
    /// The step that the caller was told to take.
    pub(super) fn of(&self, caller: &Caller) -> Option<Step> {
        // Nearly always there is none at all.
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let (step, since) = self.pending.get(&caller.thread).map(|step| step.clone())?;
        (since.elapsed() < PATIENCE).then_some(step)
    }

    pub(super) fn set(&self, caller: &Caller, step: Step) {
        if self.pending.insert(caller.thread, (step, Instant::now())).is_none() {
            self.count.fetch_add(1, Ordering::Release);
        }
    }

    pub(super) fn take(&self, caller: &Caller) -> Option<Step> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let (_, (step, since)) = self.pending.remove(&caller.thread)?;
        self.count.fetch_sub(1, Ordering::Release);
        (since.elapsed() < PATIENCE).then_some(step)
    }
}

/// What stands under a name: the live version, with one more reference, and those that are kept.
struct Found {
    live: Result<Option<Live>>,
    kept: KeptList,
}

/// One who looks at a name in several steps.
struct Looking<'a> {
    cache: &'a Cache,
    folder: NodeId,
    name: Name<'a>,
}

impl Look<Found> for Looking<'_> {
    fn is_settled(&self, found: &Found) -> bool {
        let is_placed = |live: &Live| self.cache.tree.is_placed(&live.node, self.folder, self.name);
        found.live.as_ref().is_ok_and(|live| live.as_ref().is_none_or(is_placed))
    }

    fn settle(&self, found: &Found) {
        if let Ok(Some(live)) = &found.live {
            self.cache.tree.place(&live.node, self.folder, self.name);
        }
    }

    fn undo(&self, found: Found) {
        if let Ok(Some(live)) = found.live {
            self.cache.give_back(live.node.id, 1);
        }
    }
}

impl Cache {
    pub(super) fn lookup(&self, caller: &Caller, parent: NodeId, name: Name<'_>) -> Result<Lookup> {
        if self.is_private(parent, name) {
            return Ok(Lookup::Absent { valid: FOREVER });
        }
        let folder = self.tree.get(parent)?;
        self.part(caller, &folder)?;
        let (mut seen, mut valid) = self.see(caller, &folder, name)?;
        if self.wants_to_change(caller, &seen, valid) {
            // In this order: what he is told is there stays there for him.
            self.readers.job(caller);
            self.return_live(seen);
            (seen, valid) = self.see(caller, &folder, name)?;
        }
        match self.steps.of(caller) {
            Some(step) => self.lookup_again(caller, &folder, name, (seen, valid), &step),
            None => self.answer(&folder, name, (seen, valid)),
        }
    }

    /// What is answered to one who looks because he was told to come again.
    fn lookup_again(
        &self,
        caller: &Caller,
        folder: &Arc<Node>,
        name: Name<'_>,
        mut found: (Seen, Duration),
        step: &Step,
    ) -> Result<Lookup> {
        let mut tries = TRIES;
        loop {
            match self.next_step(caller, folder, name, &found.0, step) {
                Ok(None) => return self.answer(folder, name, found),
                // What he saw has become another's just now, and the kernel does not come a third time.
                Err(Errno::ESTALE) if matches!(step, Step::Replace { .. }) && tries > 0 => {
                    tries -= 1;
                    self.return_live(found.0);
                    found = self.see(caller, folder, name)?;
                }
                entry => {
                    self.return_live(found.0);
                    return entry.map(|entry| {
                        entry.map_or(Lookup::Absent { valid: Duration::ZERO }, Lookup::Found)
                    });
                }
            }
        }
    }

    /// What is answered to one who sees that, and may believe it for so long.
    fn answer(
        &self,
        folder: &Arc<Node>,
        name: Name<'_>,
        (seen, valid): (Seen, Duration),
    ) -> Result<Lookup> {
        match seen {
            Seen::Live(live) => {
                let entry = self.live_entry(&live);
                Ok(Lookup::Found(Entry { name_valid: valid, ..entry }))
            }
            Seen::Kept(node) => match self.kept_entry_in(folder, name, node) {
                // Reclaimed just now.
                Err(Errno::ESTALE | Errno::ENOENT) => Ok(Lookup::Absent { valid: Duration::ZERO }),
                entry => entry.map(Lookup::Found),
            },
            Seen::Nothing => {
                self.count_miss(folder);
                Ok(Lookup::Absent { valid })
            }
        }
    }

    /// Whether one who has no job yet asks for a directory that the kernel knows well. It then has a reason to ask:
    /// he makes a directory (`mkdir -p`), finds that it is there, and will rely on that.
    fn wants_to_change(&self, caller: &Caller, seen: &Seen, valid: Duration) -> bool {
        let Seen::Live(live) = seen else { return false };
        valid == FOREVER
            && self.tree.is_used_directory(live.node.id, 1)
            && self.ushering.reader(caller).is_none()
            && self.readers.known(caller).is_none()
    }

    fn return_live(&self, seen: Seen) {
        if let Seen::Live(live) = seen {
            self.give_back(live.node.id, 1);
        }
    }

    /// What the caller sees under a name, and how long that may be believed.
    pub(super) fn see(
        &self,
        caller: &Caller,
        folder: &Arc<Node>,
        name: Name<'_>,
    ) -> Result<(Seen, Duration)> {
        let directory = self.directory(folder.id)?;
        let (live, kept) = self.look(folder, &directory, name)?;
        if kept.is_empty() {
            return Ok((live.map_or(Seen::Nothing, Seen::Live), self.names_valid(folder)));
        }
        let seen = self.choose_or_give_back(&kept, live, self.reader(caller));
        if self.lists_no_more(caller, folder, &kept, &seen) {
            return self.see(caller, folder, name);
        }
        self.keep_reachable(caller, &kept, &seen);
        Ok((seen, Duration::ZERO))
    }

    /// The versions of a name: the live one, with one more reference, and those that are kept.
    pub(super) fn look(
        &self,
        folder: &Arc<Node>,
        directory: &OwnedFd,
        name: Name<'_>,
    ) -> Result<(Option<Live>, KeptList)> {
        let versioned = self.tree.versioned(folder);
        let look = || {
            let live = match status(directory, name.as_bytes()) {
                // Known before somebody can replace it, and so found by who does.
                Ok(status) => {
                    let (key, kind) = (key(&status), kind(&status));
                    let node = self.tree.know_unplaced(key, kind, folder.id, name);
                    Ok(Some(Live { status, node }))
                }
                Err(Errno::ENOENT) => Ok(None),
                Err(errno) => Err(errno),
            };
            Found { live, kept: versioned.every_version(name) }
        };
        let means = Looking { cache: self, folder: folder.id, name };
        let found = self.names.look(versioned.id, name.as_bytes(), look, &means);
        Ok((found.live?, found.kept))
    }

    /// The view function's answer; a reference to what is not seen is given back.
    pub(super) fn choose_or_give_back(
        &self,
        kept: &KeptList,
        live: Option<Live>,
        reader: Reader,
    ) -> Seen {
        let node = live.as_ref().map(|live| live.node.id);
        let seen = self.choose(kept, live, reader);
        if let (Some(node), Seen::Kept(_) | Seen::Nothing) = (node, &seen) {
            self.give_back(node, 1);
        }
        seen
    }

    /// As the view function knows the caller.
    pub(super) fn reader(&self, caller: &Caller) -> Reader {
        if let Some(usher) = self.ushering.reader(caller) {
            return usher;
        }
        let user = self.user(caller);
        match self.readers.known(caller) {
            Some(job) => job.reader_as(user),
            // Before and after it, he might see this and that: he begins here.
            None if self.readers.removals_began().is_some() => {
                self.readers.job(caller).reader_as(user)
            }
            None => Reader { user, ..NOBODY },
        }
    }

    /// The view function's answer.
    pub(super) fn choose(&self, kept: &KeptList, live: Option<Live>, reader: Reader) -> Seen {
        let others = kept.iter().map(|kept| Version {
            what: Seen::Kept(kept.version.what),
            stage: kept.version.stage.clone(),
            of: kept.version.of,
        });
        let live = live.map(|live| Version::live(Seen::Live(live)));
        view::seen(others.chain(live), reader).unwrap_or(Seen::Nothing)
    }

    /// The entry of a version that is not live: one more lookup of its node.
    pub(super) fn kept_entry(&self, id: NodeId) -> Result<Entry> {
        if !self.tree.hold(id) {
            return Err(Errno::ESTALE);
        }
        let entry = self.tree.get(id).and_then(|node| {
            let status = self.node_status(&node)?;
            Ok(Entry { name_valid: Duration::ZERO, ..self.entry(id, &status) })
        });
        if entry.is_err() {
            self.give_back(id, 1);
        }
        entry
    }

    /// The fresh node with which the caller comes again, if this is the name that he has to come
    /// again for.
    fn next_step(
        &self,
        caller: &Caller,
        folder: &Arc<Node>,
        name: Name<'_>,
        seen: &Seen,
        step: &Step,
    ) -> Result<Option<Entry>> {
        let id = match seen {
            Seen::Live(live) => live.node.id,
            Seen::Kept(id) => *id,
            Seen::Nothing => return Ok(None),
        };
        let versioned = self.tree.versioned(folder);
        match step {
            Step::Replace { node, at }
                if *node == id || at.as_ref().is_some_and(|at| at.is(versioned.id, name)) =>
            {
                let status = match seen {
                    Seen::Live(live) => live.status,
                    _ => self.node_status(&*self.tree.get(id)?)?,
                };
                if kind(&status) != Kind::File {
                    return Ok(None);
                }
                // Another file than the one he met first: one that jobs lock, perhaps.
                let standing = match seen {
                    Seen::Live(live) => Some(live.node.clone()),
                    _ => self.tree.get(id).ok().filter(|node| node.is_live()),
                };
                if standing.is_some_and(|node| self.is_emptied_in_place(&node, &status, 0)) {
                    return Ok(None);
                }
                // The kernel asks twice: once to hear that it is another node, and then for that. So
                // the step is done only when the draft is opened.
                let at = Some(Place::new(versioned.id, name));
                self.steps.set(caller, Step::Replace { node: *node, at });
                let old = Old { status, node: self.tree.get(id).ok() };
                self.begin_replacing(caller, &versioned, name, &old).map(Some)
            }
            Step::Own { node, empty, .. } if *node == id => {
                let Some(user) = self.user(caller) else { return Ok(None) };
                let node = self.tree.get(id)?;
                self.take_own(caller, user, (&versioned, name), &node, *empty)?;
                // The kernel asks once more, and meets it.
                self.steps.take(caller);
                let (seen, _) = self.see(caller, folder, name)?;
                match seen {
                    Seen::Live(live) => {
                        let entry = self.entry(live.node.id, &live.status);
                        Ok(Some(Entry { name_valid: Duration::ZERO, ..entry }))
                    }
                    Seen::Kept(own) => self.kept_entry(own).map(Some),
                    Seen::Nothing => Ok(None),
                }
            }
            Step::Remove { folder: wanted, name: wanted_name }
                if *wanted == versioned.id && **wanted_name == *name.as_bytes() =>
            {
                let status = match seen {
                    Seen::Live(live) => live.status,
                    _ => self.node_status(&*self.tree.get(id)?)?,
                };
                if kind(&status) != Kind::Directory {
                    return Ok(None);
                }
                // Each time anew: the kernel gives one back when it finds that it is not the one it had,
                // and asks once more.
                let dead = self.tree.second(key(&status), None).id;
                Ok(Some(Entry { name_valid: Duration::ZERO, ..self.entry(dead, &status) }))
            }
            _ => Ok(None),
        }
    }

    /// The entry of a file that was found under a name; one more lookup of its node.
    pub(super) fn found(&self, parent: NodeId, name: Name<'_>, status: &Statx) -> Entry {
        let node = self.tree.know(key(status), kind(status), parent, name);
        let entry = self.entry(node.id, status);
        let folder = self.tree.get(parent).map(|f| self.tree.versioned(&f));
        if folder.is_ok_and(|f| f.of.is_some() || !f.is_plain(name)) {
            return Entry { name_valid: Duration::ZERO, ..entry };
        }
        entry
    }

    /// Gives back references; true if the node is not known any more.
    pub(super) fn give_back(&self, id: NodeId, count: u64) -> bool {
        let gone = count > 0 && self.tree.give_back(id, count);
        // Others may have gone with it, or before it.
        for id in self.tree.take_gone() {
            self.descriptors.drop(id);
        }
        gone
    }
}
