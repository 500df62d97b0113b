//! What a job publishes may name a directory that it has made: uv unpacks a wheel into a directory with
//! a random name, puts that in place, and then writes a file that names it. If another job removes the
//! directory in between, the first one goes on seeing it, and would leave a name that leads nowhere to
//! all who begin later. So the directory comes back with the file that names it.
//!
//! Whether a file names a directory is found by searching for the name in its contents, as Nix finds
//! what a package needs (<https://nix.dev/manual/nix/latest/store/building>, "Processing outputs").

use std::collections::VecDeque;
use std::sync::Arc;

use cachefs_mount::{Errno, Kind, Name, NodeId, Result};
use memchr::memmem::Finder;

use super::Cache;
use super::additions::How;
use super::resolve::{errno, kind, open_at, status};
use super::tree::{Kept, Node, RETIRED, known_name};
use super::view::{Moment, Stage};
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::fs::{FileType, OFlags};
use crate::readers::Job;

/// Shorter names may stand in a file by chance.
const SHORTEST_NAME: usize = 12;

/// So many directories of a job are remembered, the newest.
const MOST: usize = 256;

/// In so many files that a job makes live it is looked where it names a directory that it has moved into place.
const LOOKED_AT: u32 = 64;

/// Longer files are not searched, in bytes.
const LONGEST_FILE: u64 = 16 * 1024;

/// The moment at which what is live was removed.
pub(super) const FOREVER: Moment = Moment(u64::MAX);

/// A directory that a job has put in place.
#[derive(Debug)]
pub(super) struct Product {
    /// Where; held.
    folder: NodeId,
    /// Its name, which files are searched for: a job may have made many, and writes many files.
    name: Finder<'static>,
    /// It was moved there, and is complete.
    moved: bool,
    /// In how many more files it is looked whether they name it.
    looks: u32,
}

/// A name that may be missing from a directory.
struct Missing {
    folder: Arc<Node>,
    name: Box<[u8]>,
    /// The directory has just come back, and with it what was still in it.
    came_along: bool,
}

/// What stands under a name that may have been missing.
enum Restored {
    /// Nothing that has come back, nor that anything may be missing in.
    Nothing,
    /// A file or symlink that has come back.
    Name,
    /// A directory that anything may be missing in, and whether it has come back itself.
    Directory(Arc<Node>, bool),
}

/// The products of a job, in the order in which they were made.
pub(super) type Products = VecDeque<Product>;

impl Cache {
    /// `job` has made a directory, or `moved` it there.
    pub(super) fn note_product(&self, job: &Job, folder: NodeId, name: Name<'_>, moved: bool) {
        if name.as_bytes().len() < SHORTEST_NAME || !self.tree.hold(folder) {
            return;
        }
        let mut products = self.products.entry(job.id).or_default();
        let looks = if moved { LOOKED_AT } else { 0 };
        let name = Finder::new(name.as_bytes()).into_owned();
        products.push_back(Product { folder, name, moved, looks });
        let surplus = if products.len() > MOST { products.pop_front() } else { None };
        drop(products);
        if let Some(product) = surplus {
            self.give_back(product.folder, 1);
        }
    }

    /// A job has ended.
    pub(super) fn forget_products(&self, job: u64) {
        let Some((_, products)) = self.products.remove(&job) else { return };
        for product in products {
            self.give_back(product.folder, 1);
        }
    }

    /// `job` is about to make a file live under a name in `folder`: brings back those of its directories that it
    /// names and that others have removed, so that who finds the file finds them. No name may be locked.
    pub(super) fn bring_back_what_it_names(
        &self,
        job: &Job,
        folder: &Arc<Node>,
        (lies, name): (&OwnedFd, Name<'_>),
    ) {
        if self.retired.newest() <= job.began || !self.products.contains_key(&job.id) {
            return;
        }
        // What can't be read can't be made live either, and who wants that hears of it.
        let Ok(contents) = contents(lies, name) else { return };
        let named = self.named_in(job, &contents, 0);
        if let Err(errno) = self.bring_back_products(job, folder, named) {
            tracing::warn!(%errno, "can't bring back what is to be named and was removed");
        }
    }

    /// `job` has made a name live: brings back what was removed meanwhile of what it names, and notes where that is
    /// named. No name may be locked.
    pub(super) fn bring_back_what_is_named(&self, job: &Job, folder: &Arc<Node>, name: Name<'_>) {
        // Nearly always it has made nothing, or what it has made is named, and nothing was removed since
        // it began.
        let looks = |products: &Products| products.iter().any(|product| product.looks > 0);
        match self.products.get(&job.id) {
            Some(products) if self.retired.newest() > job.began || looks(&products) => {}
            _ => return,
        }
        if let Err(errno) = self.bring_back_named(job, folder, name) {
            tracing::warn!(%errno, "can't bring back all that is named and was removed");
        }
    }

    /// `job` has moved a directory: brings back what it had made in there and others have removed, so
    /// that it is complete for those who begin later. No name may be locked.
    pub(super) fn complete(&self, job: &Job, folder: &Arc<Node>, name: Name<'_>) {
        if self.retired.newest() <= job.began || name.as_bytes().len() < SHORTEST_NAME {
            return;
        }
        if let Err(errno) = self.restore_product(job, folder, name) {
            tracing::warn!(%errno, "can't complete a directory that was moved");
        }
    }

    fn bring_back_named(&self, job: &Job, folder: &Arc<Node>, name: Name<'_>) -> Result<()> {
        let contents = contents(&*self.directory(folder.id)?, name)?;
        let named = self.named_in(job, &contents, 1);
        // Before it is looked whether any was removed: who removes one now finds this, or is found.
        for (product, product_name) in &named {
            let at = self.readers.tick();
            self.namings.note((*product, product_name), (folder.id, name), (at, job.id));
        }
        match self.retired.newest() <= job.began {
            true => Ok(()),
            false => self.bring_back_products(job, folder, named),
        }
    }

    /// The directories of a job that are named there; it is looked for them so many times less from now on.
    fn named_in(&self, job: &Job, contents: &[u8], looks: u32) -> Vec<(NodeId, Box<[u8]>)> {
        let mut named = Vec::new();
        if let Some(mut products) = self.products.get_mut(&job.id) {
            for product in products.iter_mut() {
                // Also what names it already: that may have been a temporary that is renamed now.
                if product.name.find(contents).is_some() {
                    named.push((product.folder, product.name.needle().into(), product.moved));
                }
                product.looks = product.looks.saturating_sub(looks);
            }
        }
        // Not while the products are locked: it goes up the tree.
        named.retain(|(folder, _, moved)| *moved || !self.is_part_of_what_moved(*folder));
        named.into_iter().map(|(folder, name, _)| (folder, name)).collect()
    }

    /// Brings back what others have removed of directories that are named by something in `folder`.
    fn bring_back_products(
        &self,
        job: &Job,
        folder: &Arc<Node>,
        named: Vec<(NodeId, Box<[u8]>)>,
    ) -> Result<()> {
        if named.is_empty() {
            return Ok(());
        }
        let seen_until = self.removed_at(folder)?;
        for (folder, name) in named {
            let folder = self.tree.get(folder)?;
            let name = known_name(&name);
            let removed_at = match self.kept_for(job, &folder, name) {
                Some((node, _)) => self.removed_at(&node)?,
                None => self.removed_at(&folder)?,
            };
            // Whoever does not see the directory does not see where it is named either.
            let complete = removed_at >= seen_until && removed_at != FOREVER;
            if !complete && self.make_reached(job, &folder)? {
                self.restore_product(job, &folder, name)?;
            }
        }
        Ok(())
    }

    /// Whether a directory was moved into place, or lies in one that was. What is in there is a part of
    /// something that comes back as a whole, or not at all: its name may be any word.
    fn is_part_of_what_moved(&self, folder: NodeId) -> bool {
        let folder = self.tree.get(folder);
        folder.is_ok_and(|folder| self.moved_since(&folder, Moment(0)) == Some(true))
    }

    /// Since when those who begin do not see a directory: when it was removed, or any directory that it
    /// lies in. [`FOREVER`] if it is live.
    pub(super) fn removed_at(&self, folder: &Arc<Node>) -> Result<Moment> {
        let (mut at, mut earliest) = (folder.clone(), FOREVER);
        while let Some(removed) = self.removed_above(&at)? {
            let was = removed.last_place().ok_or(Errno::ESTALE)?;
            at = self.tree.versioned(&self.tree.get(was.parent())?);
            let kept = at.versions(known_name(&was.name));
            let version = kept.iter().find(|kept| kept.version.what == removed.id);
            match version.map(|kept| &kept.version.stage) {
                Some(Stage::Retired { at, .. }) => earliest = earliest.min(*at),
                _ => return Ok(Moment(0)),
            }
        }
        Ok(earliest)
    }

    /// The retired directory that a directory lies in, or is; none if everyone sees it. `ESTALE` if it
    /// has no name any more.
    fn removed_above(&self, folder: &Arc<Node>) -> Result<Option<Arc<Node>>> {
        let mut at = folder.clone();
        loop {
            if at.id == NodeId::ROOT {
                return Ok(None);
            }
            let place = at.place().ok_or(Errno::ESTALE)?;
            if place.parent() == RETIRED {
                return Ok(Some(at));
            }
            at = self.tree.get(place.parent())?;
        }
    }

    /// Brings back the directories that a directory lies in, and itself. False: another one has that
    /// name now.
    fn make_reached(&self, job: &Job, folder: &Arc<Node>) -> Result<bool> {
        while let Some(removed) = self.removed_above(folder)? {
            let was = removed.last_place().ok_or(Errno::ESTALE)?;
            let above = self.tree.versioned(&self.tree.get(was.parent())?);
            let directory = self.directory(above.id)?;
            if !self.make_reached(job, &above)? {
                return Ok(false);
            }
            if !self.bring_back(&above, &directory, known_name(&was.name), (job, How::Moved))? {
                return Ok(false);
            }
            self.tell_kernel_later(above.id, &was.name);
        }
        Ok(true)
    }

    /// Brings back what was removed last under a name, if the job had made it and sees it, with all of
    /// that kind inside, and with what is named by the files that come back with it.
    fn restore_product(&self, job: &Job, folder: &Arc<Node>, name: Name<'_>) -> Result<()> {
        let (folder, name) = (folder.clone(), name.as_bytes().into());
        let first = Missing { folder, name, came_along: false };
        let mut held = Vec::new();
        let restored = self.restore_all(job, first, &mut held);
        for node in held {
            self.give_back(node, 1);
        }
        restored
    }

    fn restore_all(&self, job: &Job, first: Missing, held: &mut Vec<NodeId>) -> Result<()> {
        let mut pending = vec![first];
        let mut names = Vec::new();
        let mut failed = Ok(());
        while let Some(missing) = pending.pop() {
            match self.restore_one(job, &missing, held) {
                Ok(Restored::Nothing) => {}
                Ok(Restored::Name) => names.push(missing),
                Ok(Restored::Directory(node, back)) => match self.may_be_missing_in(&node, back) {
                    Ok(all) => pending.extend(all),
                    Err(errno) => failed = Err(errno),
                },
                // The rest of it is to come back all the same.
                Err(errno) => failed = Err(errno),
            }
        }
        for found in names {
            if self.may_name_others(&found.folder) {
                self.bring_back_named(job, &found.folder, known_name(&found.name))?;
            }
        }
        failed
    }

    /// Whether what lies in a directory may name what lies elsewhere: one that was moved into place is
    /// complete in itself, and may be large.
    fn may_name_others(&self, folder: &Arc<Node>) -> bool {
        self.moved_since(folder, Moment(0)) == Some(false)
    }

    /// What may be missing in a directory that is there: what has other versions, and what lies in
    /// directories that are still there; in one that has come `back`, all of it.
    fn may_be_missing_in(&self, node: &Arc<Node>, back: bool) -> Result<Vec<Missing>> {
        let versions = node.all_versions_for(None).into_iter().map(|(name, _)| name);
        let directory = self.directory(node.id)?;
        let came_along = back && self.may_name_others(node);
        let there = match came_along {
            true => self.names_in(&directory)?,
            false => directories_in(&directory)?,
        };
        let missing = |name| Missing { folder: node.clone(), name, came_along };
        Ok(versions.chain(there).map(missing).collect())
    }

    /// Brings back one name, if it isn't there. A directory is held.
    fn restore_one(
        &self,
        job: &Job,
        missing: &Missing,
        held: &mut Vec<NodeId>,
    ) -> Result<Restored> {
        let (folder, name) = (&missing.folder, known_name(&missing.name));
        let directory = self.directory(folder.id)?;
        let change = self.names.change(folder.id, name.as_bytes());
        match status(&*directory, name.as_bytes()) {
            Ok(live) if kind(&live) == Kind::Directory && missing.came_along => {
                let key = super::resolve::key(&live);
                let node = self.tree.know(key, Kind::Directory, folder.id, name);
                held.push(node.id);
                return Ok(Restored::Directory(node, true));
            }
            // Nobody knows it who does not know all above what was removed.
            Ok(live) if kind(&live) == Kind::Directory => {
                let known = self.tree.find(super::resolve::key(&live));
                let known = known.filter(|known| self.hold_for_now(known.id, held));
                return Ok(known.map_or(Restored::Nothing, |n| Restored::Directory(n, false)));
            }
            Ok(_) if missing.came_along => return Ok(Restored::Name),
            Ok(_) => return Ok(Restored::Nothing),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let Some((node, kept)) = self.kept_for(job, folder, name) else {
            return Ok(Restored::Nothing);
        };
        let added = self.additions.of(node.id, folder.id, name);
        if added.is_none_or(|added| added.by != job.id) {
            return Ok(Restored::Nothing);
        }
        // With its last version, a directory that the kernel does not know would be forgotten.
        if node.kind == Kind::Directory && !self.hold_for_now(node.id, held) {
            return Ok(Restored::Nothing);
        }
        let by = (job, How::Moved);
        self.return_to(&change, folder, &directory, name, (&node, &kept), by)?;
        drop(change);
        self.tell_kernel_later(folder.id, name.as_bytes());
        Ok(match node.kind {
            Kind::Directory => Restored::Directory(node, true),
            _ => Restored::Name,
        })
    }

    /// Whether the node is still known, and so until those that are `held` are given back.
    fn hold_for_now(&self, node: NodeId, held: &mut Vec<NodeId>) -> bool {
        let holds = self.tree.hold(node);
        if holds {
            held.push(node);
        }
        holds
    }

    /// What a job sees under a name that is not live, and that lies among what was removed.
    fn kept_for(&self, job: &Job, folder: &Node, name: Name<'_>) -> Option<(Arc<Node>, Kept)> {
        let kept = folder.versions(name);
        let seen = |kept: &&Kept| match &kept.version.stage {
            // Nothing comes back that is kept for a few only.
            Stage::Retired { at, hidden, only: None } => {
                job.began < *at && !hidden.contains(&job.id)
            }
            _ => false,
        };
        let newest = kept.iter().filter(seen).max_by_key(|kept| match kept.version.stage {
            Stage::Retired { at, .. } => at.0,
            _ => 0,
        })?;
        let node = self.tree.get(newest.version.what).ok()?;
        let here = node.place().is_some_and(|place| place.parent() == RETIRED);
        here.then(|| (node, newest.clone()))
    }
}

/// The directories in a directory.
fn directories_in(directory: &OwnedFd) -> Result<Vec<Box<[u8]>>> {
    let listed = open_at(directory, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in platform::fs::Dir::new(listed).map_err(errno)? {
        let entry = entry.map_err(errno)?;
        let name = entry.file_name().to_bytes();
        // Some filesystems do not say what it is.
        let may_be = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        if may_be && name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    Ok(names)
}

/// What a small file says, or where a symlink leads.
fn contents(directory: &OwnedFd, name: Name<'_>) -> Result<Vec<u8>> {
    let status = status(directory, name.as_bytes())?;
    match kind(&status) {
        Kind::Symlink => {
            let target = platform::fs::readlinkat(directory, name.as_bytes(), Vec::new());
            Ok(target.map_err(errno)?.into_bytes())
        }
        Kind::File if status.stx_size <= LONGEST_FILE => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let file = std::fs::File::from(open_at(directory, name.as_bytes(), flags)?);
            let mut contents = Vec::with_capacity(status.stx_size as usize);
            // Somebody may be adding to it.
            std::io::Read::read_to_end(
                &mut std::io::Read::take(file, LONGEST_FILE),
                &mut contents,
            )?;
            Ok(contents)
        }
        _ => Ok(Vec::new()),
    }
}
