//! What a removal spares because it was decided on by what is not so any more.
//!
//! `uv cache prune` reads all files that name directories, and then removes the directories that none of them
//! names. A job that puts a directory in place meanwhile, and then a file that names it, would lose the
//! directory and leave the file, and whoever finds the file later would fail. So a process that has looked where
//! the file lies now, but before it was there, does not remove what the file names: to it, it is as if the
//! directory had come right after it was removed.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cachefs_mount::{Caller, Name, NodeId, Result};
use lru::LruCache;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::Cache;
use super::additions::How;
use super::lookup::Seen;
use super::name_locks::Change;
use super::references::FOREVER;
use super::resolve::status;
use super::tree::{DEEPEST, Kept, KeptList, Node, known_name};
use super::view::{Moment, Stage};
use crate::readers::Job;

/// So many directories are known that are named by files; which were named last.
const KNOWN: NonZeroUsize = NonZeroUsize::new(1 << 12).unwrap();

/// Who looked longer ago does not decide by what he saw then.
const DECIDES: Duration = Duration::from_secs(300);

/// Where a directory is named.
#[derive(Clone, Debug)]
struct Naming {
    /// The directory that the file lies in.
    folder: NodeId,
    name: Box<[u8]>,
    /// Since when.
    at: Moment,
    /// The job that has written it.
    by: u64,
}

/// What goes away in a directory that others may list. A name may be a lock, for the end of which somebody waits.
#[derive(Clone, Copy)]
pub(super) enum Gone<'a> {
    /// What was renamed, or what its remover has come to by listing the directory: none of these gives up a lock.
    InPassing,
    /// A lock.
    Lock,
    /// A file, of which one who removes what he lists does not wait for the end.
    File,
    /// A directory. One that has been listed is no lock.
    Directory(&'a Arc<Node>),
}

/// Which directories are named where.
pub(super) struct Namings {
    hasher: RandomState,
    /// By the names of the directories.
    known: Mutex<LruCache<u64, Naming>>,
    any: AtomicBool,
}

impl Namings {
    pub(super) fn new() -> Namings {
        // Unbounded to the map, which otherwise reserves room for all at once.
        let known = Mutex::new(LruCache::unbounded());
        Namings { hasher: RandomState::new(), known, any: AtomicBool::new(false) }
    }

    fn hash(&self, folder: NodeId, name: &[u8]) -> u64 {
        self.hasher.hash_one((folder.0, name))
    }

    /// A directory is named by that file since then.
    pub(super) fn note(
        &self,
        (folder, name): (NodeId, &[u8]),
        (by_folder, by_name): (NodeId, Name<'_>),
        (at, by): (Moment, u64),
    ) {
        let naming = Naming { folder: by_folder, name: by_name.as_bytes().into(), at, by };
        let mut known = self.known.lock();
        known.put(self.hash(folder, name), naming);
        if known.len() > KNOWN.get() {
            known.pop_lru();
        }
        self.any.store(true, Ordering::Release);
    }

    fn of(&self, folder: NodeId, name: &[u8]) -> Option<Naming> {
        self.known.lock().peek(&self.hash(folder, name)).cloned()
    }
}

impl Cache {
    /// Whether the caller's removal of a name in `folder`, which it knows as `parent`, is to change nothing.
    pub(super) fn is_spared(
        &self,
        caller: &Caller,
        job: &Job,
        (parent, folder): (NodeId, &Arc<Node>),
        name: Name<'_>,
    ) -> bool {
        let process = self.readers.process(caller);
        // Seen by an old name: who removes that does not mean what has another one by now.
        let by_old_name =
            self.tree.get(parent).is_ok_and(|parent| !self.partings.is_live(parent.face));
        if by_old_name || self.was_moved_while_listed(process, job, folder) {
            // By the first of its numbers, which the operating system may not know at the moment.
            let first = self.tree.number(folder.key());
            job.note_spared(&[first.0], process);
            return true;
        }
        // Of what goes away while it is looked at, nothing is to be spared.
        self.is_named_since(caller, job, folder, name).unwrap_or(false)
    }

    /// Whether another job has moved a directory, or one above it, that a process has open and has listed
    /// before. Who removes a tree by descriptors would go on with it wherever it is.
    fn was_moved_while_listed(&self, process: u32, job: &Job, folder: &Arc<Node>) -> bool {
        if !job.lists_any() {
            return false;
        }
        let mut at = folder.clone();
        while at.id != NodeId::ROOT {
            let Some(place) = at.place() else { return false };
            let Ok(above) = self.tree.get(place.parent()) else { return false };
            let above = self.tree.versioned(&above);
            if job.is_listing(at.id.0)
                && let Some(listed) = job.listed_by(process, at.id.0, DECIDES)
                && let Some(added) = self.additions.of(at.id, above.id, known_name(&place.name))
                && added.how == How::Moved
                && added.by != job.id
                && added.at > listed
            {
                return true;
            }
            at = above;
        }
        false
    }

    fn is_named_since(
        &self,
        caller: &Caller,
        job: &Job,
        folder: &Arc<Node>,
        name: Name<'_>,
    ) -> Result<bool> {
        // Only what is everyone's is named for others.
        if !self.namings.any.load(Ordering::Acquire) || folder.of.is_some() {
            return Ok(false);
        }
        let process = self.readers.process(caller);
        let (mut at, mut called): (Arc<Node>, Box<[u8]>) = (folder.clone(), name.as_bytes().into());
        let mut above = Vec::new();
        loop {
            // What names only a part of it tells nothing of the whole.
            if let Some(naming) = self.namings.of(at.id, &called)
                && self.is_news_to(process, job, &naming)?
            {
                break;
            }
            above.push(at.id.0);
            if at.id == NodeId::ROOT || above.len() > DEEPEST {
                return Ok(false);
            }
            let Some(place) = at.place() else { return Ok(false) };
            at = self.tree.versioned(&self.tree.get(place.parent())?);
            called = place.name;
        }
        // Nor are the directories removed in which it lies.
        loop {
            above.push(at.id.0);
            let Some(place) = at.place().filter(|_| at.id != NodeId::ROOT) else { break };
            at = self.tree.versioned(&self.tree.get(place.parent())?);
        }
        job.note_spared(&above, process);
        Ok(true)
    }

    /// Whether a file is there of which a process can't know that has looked where it is.
    fn is_news_to(&self, process: u32, job: &Job, naming: &Naming) -> Result<bool> {
        // It knows what it has written itself, and clears up after itself.
        if naming.by == job.id {
            return Ok(false);
        }
        let Ok(mut at) = self.tree.get(naming.folder) else { return Ok(false) };
        let there = status(&*self.directory(at.id)?, &naming.name);
        if there.is_err() || self.removed_at(&at)? != FOREVER {
            return Ok(false);
        }
        let mut came = naming.at;
        for _ in 0..DEEPEST {
            if let Some(listed) = job.listed_by(process, at.id.0, DECIDES) {
                return Ok(listed < came);
            }
            let Some(place) = at.place().filter(|_| at.id != NodeId::ROOT) else { break };
            let above = self.tree.versioned(&self.tree.get(place.parent())?);
            let added = self.additions.of(at.id, above.id, known_name(&place.name));
            came = added.map_or(Moment(0), |added| added.at);
            at = above;
        }
        Ok(false)
    }

    /// Whether something that lies in a directory was spared when the caller removed it.
    pub(super) fn has_spared_in(&self, caller: &Caller, job: &Job, node: &Node) -> bool {
        let first = self.tree.number(node.key());
        job.has_spared_any() && job.has_spared(self.readers.process(caller), first.0, DECIDES)
    }

    /// The other jobs that list a directory at this moment, and would stumble over what goes away in it.
    fn listing_beside(&self, job: &Job, folder: &Node, gone: Gone<'_>) -> SmallVec<[u64; 1]> {
        if self.listings.load(Ordering::Acquire) == 0 && self.readers.removals_began().is_none() {
            return SmallVec::new();
        }
        let stumbles = |other: &Job| match gone {
            Gone::InPassing => true,
            Gone::Lock => false,
            Gone::File => other.has_removed(),
            Gone::Directory(it) => job.listed(it.id.0).is_some() || other.listed(it.id.0).is_some(),
        };
        let listing = self.readers.all().into_iter().filter(|other| {
            other.id != job.id && other.goes_through(folder.id.0) && stumbles(other)
        });
        listing.map(|other| other.id).collect()
    }

    /// Whether what goes away in a directory has to be kept for others who list it. The answer is true for as
    /// long as [`Cache::moves`] is locked.
    pub(super) fn is_listed_beside(&self, job: &Job, folder: &Node, gone: Gone<'_>) -> bool {
        !self.listing_beside(job, folder, gone).is_empty()
    }

    /// A job begins to list a directory.
    pub(super) fn begin_to_list(&self, job: &Job, folder: NodeId) {
        self.listings.fetch_add(1, Ordering::AcqRel);
        job.begins_to_list(folder.0);
        // Whoever has found that nobody lists it takes away what he is about to, and it is not in the listing.
        drop(self.moves.write());
    }

    /// What was just kept under a name is kept for those only who list the directory, and while they do.
    ///
    /// Who lists a directory that others work in meets names in it that are gone by the time he looks at them
    /// (temporary ones mostly), and most programs that remove trees fail at that.
    pub(super) fn keep_while_listed(
        &self,
        change: &Change<'_>,
        remover: &Job,
        folder: &Node,
        name: Name<'_>,
        gone: Gone<'_>,
    ) {
        // Also who has begun to list it in between.
        let listing = self.listing_beside(remover, folder, gone);
        self.keep_only_for(change, folder, name, &listing);
        for job in listing {
            let mut listed = self.kept_while_listed.entry((job, folder.id.0)).or_default();
            listed.push(name.as_bytes().into());
        }
    }

    /// Whether the caller has come by a name that was kept for him while he listed a directory, which he does not any
    /// more. It is kept no longer then.
    pub(super) fn lists_no_more(
        &self,
        caller: &Caller,
        folder: &Arc<Node>,
        kept: &KeptList,
        seen: &Seen,
    ) -> bool {
        let is_seen = |kept: &&Kept| matches!(seen, Seen::Kept(what) if *what == kept.version.what);
        let only = |kept: &Kept| matches!(kept.version.stage, Stage::Retired { only: Some(_), .. });
        if !kept.iter().find(is_seen).is_some_and(only) {
            return false;
        }
        let job = self.readers.job(caller);
        let folder = self.tree.versioned(folder).id;
        !job.goes_through(folder.0) && self.drop_kept_while_listed(job.id, folder)
    }

    /// A job has ended.
    pub(super) fn forget_kept_while_listed(&self, job: u64) {
        self.kept_while_listed.retain(|(of, _), _| *of != job);
    }

    /// A job does not list a directory any more; whether anything was kept for it.
    pub(super) fn drop_kept_while_listed(&self, job: u64, folder: NodeId) -> bool {
        let Some((_, names)) = self.kept_while_listed.remove(&(job, folder.0)) else {
            return false;
        };
        let Ok(node) = self.tree.get(folder) else { return false };
        for name in names {
            let change = self.names.change(folder, &name);
            self.hide(&change, &node, known_name(&name), job);
        }
        true
    }
}
