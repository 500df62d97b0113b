//! How much of the store each user takes, and may take, where all write for everyone (SEMANTICS 5.5).
//!
//! What is made in the store is charged to who makes it, and what a file grows by to who writes it. It is
//! given back when the file is gone from the disk: not before nobody needs any more what was removed. What
//! would be too much goes to the spill area, as if the store were full for that user alone.
//!
//! * `charges`: the sums, and what makes them up; in memory.
//! * `mark`: who made a file, written on the file itself: so the next mount counts the same.
//! * `count`: what is there when it is mounted.
//!
//! What bears no mark is charged to nobody: what was there before there were quotas, and symbolic links,
//! fifos and sockets of former mounts, which can't bear one. With [`Access::Posix`] the owner of a file
//! is who is charged, and there are no marks. With [`Access::Scoped`] users have their own accounts.

mod charges;
mod count;
mod mark;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use cachefs_mount::{Caller, Errno, Kind, NodeId, Result};

use self::charges::Charges;
pub(super) use self::mark::MARK;
use super::drafts::Draft;
use super::handles::{Handle, Open};
use super::resolve::{key, kind, status};
use super::retire::{Amount, amount};
use super::spill::Degraded;
use super::tree::{ASIDE, FileKey, Node};
use super::{Access, Cache, CacheOptions};
use crate::platform;
use crate::platform::fd::AsFd;
use crate::platform::fs::{SeekFrom, Statx};
use crate::prune::size::Size;
use crate::store::Store;

/// How much a user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Space taken: in bytes, or a part of the filesystem that it lies on.
    pub bytes: Size,
    /// Files, directories and whatever else has a name; none: as many as usual.
    pub files: Option<u64>,
}

/// How much users may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Of those that were named.
    pub users: BTreeMap<u32, Limit>,
    /// Of all others; none: as usual.
    pub usual: Option<Limit>,
}

/// What a user has, and may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Which user.
    pub user: u32,
    /// What he has.
    pub used: Amount,
    /// What he may have; `u64::MAX` of what is not limited.
    pub limit: Amount,
    /// Since when what he writes is not taken any more, if that is so.
    pub over: Option<SystemTime>,
}

/// Without any limit.
const NO_LIMIT: Amount = Amount { bytes: u64::MAX, files: u64::MAX };

/// What users have in the store, and may have.
#[derive(Debug)]
pub(super) struct Quota {
    limits: BTreeMap<u32, Amount>,
    usual: Amount,
    charges: Charges,
    /// Whether the owner of a file is who is charged for it.
    by_owner: bool,
    /// Whether what is too much goes somewhere else.
    spills: bool,
}

impl Quota {
    /// None: there are no quotas, or they are for what users have to themselves.
    pub(super) fn new(store: &Store, options: &CacheOptions) -> Option<Quota> {
        let Quotas { users, usual } = &options.quotas;
        let by_owner = match options.access {
            Access::Shared { .. } => false,
            Access::Posix => true,
            Access::Scoped { .. } => return None,
        };
        if users.is_empty() && usual.is_none() || store.read_only().is_some() {
            return None;
        }
        let space = platform::fs::fstatvfs(store.root());
        let whole = space.map_or(u64::MAX, |space| space.f_blocks.saturating_mul(space.f_frsize));
        let most = |limit: &Limit| Amount {
            bytes: limit.bytes.of(whole),
            files: limit.files.unwrap_or(u64::MAX),
        };
        Some(Quota {
            limits: users.iter().map(|(user, limit)| (*user, most(limit))).collect(),
            usual: usual.as_ref().map_or(NO_LIMIT, most),
            charges: Charges::default(),
            by_owner,
            spills: store.area().is_some(),
        })
    }

    fn limit(&self, user: u32) -> Amount {
        self.limits.get(&user).copied().unwrap_or(self.usual)
    }

    /// Whether a user has more than he may have, as by what was written at the same time.
    fn has_too_much(&self, user: u32) -> bool {
        self.charges.sum(user).amount().bytes > self.limit(user).bytes
    }

    /// Whether a user may have that much more.
    fn may_have(&self, user: u32, more: Amount) -> bool {
        let (limit, sum) = (self.limit(user), self.charges.sum(user));
        let used = sum.amount();
        let fits = used.bytes.saturating_add(more.bytes) <= limit.bytes
            && used.files.saturating_add(more.files) <= limit.files;
        if sum.note_over(!fits) {
            let then = if self.spills { "goes to the spill area" } else { "is refused" };
            tracing::warn!(user, "a user has reached his quota; what he writes beyond that {then}");
        }
        fits
    }
}

/// What a write may add to a file: so many bytes from there on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Stretch {
    /// Nothing is added.
    pub(super) const NONE: Stretch = Stretch { offset: 0, length: 0 };

    fn end(self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// By how much a file without holes that takes so many bytes may grow, at most.
    fn growth(self, taken: u64) -> u64 {
        self.end().saturating_sub(taken).min(self.length)
    }

    /// Whether a part of it has no data yet: it is a hole, or behind the end.
    fn is_partly_new(self, file: &File) -> bool {
        match platform::fs::seek(file, SeekFrom::Hole(self.offset)) {
            Ok(hole) => hole < self.end(),
            // Where the filesystem does not tell, there are none.
            Err(error) => error == platform::io::Errno::NXIO,
        }
    }
}

impl Cache {
    /// Whether something new in a directory is to be made in the spill area because its maker has too
    /// much in the store; `EDQUOT` if there is no such area.
    pub(super) fn is_over(&self, caller: &Caller, parent: NodeId) -> Result<bool> {
        if self.quota.is_none() {
            return Ok(false);
        }
        let folder = self.tree.versioned(&self.tree.get(parent)?);
        self.is_too_much_in(&folder, Some(caller.uid))
    }

    /// As [`Cache::is_over`], for a known directory and maker.
    pub(super) fn is_too_much_in(&self, folder: &Arc<Node>, user: Option<u32>) -> Result<bool> {
        let (Some(quota), Some(user)) = (&self.quota, user) else { return Ok(false) };
        if self.lies_in_area(folder) || quota.may_have(user, Amount { bytes: 1, files: 1 }) {
            return Ok(false);
        }
        if self.spill.folder().is_some() { Ok(true) } else { Err(Errno::EDQUOT) }
    }

    /// Something was made in the store, by a user if that is known.
    pub(super) fn charge_made(&self, user: Option<u32>, found: &Statx, at: (impl AsFd, &[u8])) {
        let (Some(quota), Some(user)) = (&self.quota, user) else { return };
        if !self.is_charged(key(found)) {
            return;
        }
        quota.charges.made(key(found), Some(user), amount(found).bytes);
        if !quota.by_owner && matches!(kind(found), Kind::File | Kind::Directory) {
            mark::write(at, user);
        }
    }

    /// As [`Cache::charge_made`], for a file that is open.
    pub(super) fn charge_made_file(&self, user: Option<u32>, file: impl AsFd) -> Result<()> {
        if self.quota.is_none() {
            return Ok(());
        }
        let found = status(&file, b"")?;
        self.charge_made(user, &found, (file, b""));
        Ok(())
    }

    /// A file was opened to be emptied, and that is all.
    pub(super) fn charge_emptied(&self, file: platform::fd::OwnedFd) -> Result<()> {
        self.charging(None, &File::from(file), || Ok(()))
    }

    /// Whether a handle may not write that much to a file because its user has too much then.
    pub(super) fn exceeds(&self, handle: &Handle, file: &File, stretch: Stretch) -> bool {
        let Some(quota) = &self.quota else { return false };
        let Ok(found) = status(file, b"") else { return false };
        let taken = amount(&found).bytes;
        let mut growth = stretch.growth(taken);
        // What it takes may lie elsewhere: behind holes that are filled now, or reserved behind its end.
        // Some filesystems reserve by themselves: so that counts only for who has too much.
        if growth < stretch.length
            && (taken < found.stx_size || quota.has_too_much(handle.uid))
            && stretch.is_partly_new(file)
        {
            growth = stretch.length;
        }
        growth > 0
            && self.is_charged(key(&found))
            && !quota.may_have(handle.uid, Amount { bytes: growth, files: 0 })
    }

    /// Has a file go on in the spill area because who writes it has too much; `EDQUOT` if it can't.
    pub(super) fn move_what_exceeds(&self, file: &File) -> Result<()> {
        if self.spill.folder().is_none() {
            return Err(Errno::EDQUOT);
        }
        self.move_file(file, Errno::EDQUOT, None)
    }

    /// Does something to a file, and charges a user with what it has grown by then, or gives back what it
    /// has lost.
    pub(super) fn charging<T>(
        &self,
        user: Option<u32>,
        file: &File,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if self.quota.is_none() {
            return act();
        }
        let before = status(file, b"")?;
        let done = act();
        // What was done before it failed is charged, too.
        self.recharge(user, file, &before);
        done
    }

    fn recharge(&self, user: Option<u32>, file: &File, before: &Statx) {
        let (Some(quota), Ok(now)) = (&self.quota, status(file, b"")) else { return };
        let file_key = key(&now);
        if !self.is_charged(file_key) {
            return;
        }
        let maker = || quota.maker_of(before, (file, b""));
        let became_his = quota.charges.now_takes(
            file_key,
            user,
            (amount(before).bytes, maker),
            amount(&now).bytes,
        );
        if became_his
            && !quota.by_owner
            && let Some(user) = user
        {
            mark::write((file, b""), user);
        }
    }

    /// A file has lost its last name, or a directory its only one: nobody is charged for it any more,
    /// unless it is open still.
    pub(super) fn charge_lost(&self, file: FileKey, node: Option<&Node>) {
        let Some(quota) = &self.quota else { return };
        if !node.is_some_and(|node| node.kind == Kind::File && node.is_open()) {
            quota.charges.gone(file);
        }
    }

    /// A file goes on in the spill area, and was this one: if it had no name, it is gone now.
    pub(super) fn charge_moved(&self, from: &Statx) {
        if from.stx_nlink == 0 {
            self.charge_lost(key(from), None);
        }
    }

    /// A handle was closed: what was written past the daemon is charged now, and what has lost its last
    /// name is not any more.
    pub(super) fn charge_closed(&self, handle: &Handle) {
        let Some(quota) = &self.quota else { return };
        let node = self.tree.get(handle.node).ok();
        let others = node.as_ref().filter(|node| node.is_open()).map(|node| node.key());
        let closed = match &handle.open {
            Open::Writing { target, .. } => {
                let file = target.read().file.clone();
                let Ok(found) = status(&*file, b"") else { return };
                if found.stx_nlink > 0 {
                    self.recharge(Some(handle.uid), &file, &found);
                    return;
                }
                Some(key(&found))
            }
            Open::Reading => {
                node.as_ref().filter(|node| node.orphan().is_some()).map(|node| node.key())
            }
            Open::Directory(_) => None,
        };
        if let Some(closed) = closed
            && others != Some(closed)
        {
            quota.charges.gone(closed);
        }
    }

    /// A file was given to another user.
    pub(super) fn charge_given(&self, file: impl AsFd) {
        if let Some(quota) = &self.quota
            && let Ok(found) = status(file, b"")
            && self.is_charged(key(&found))
        {
            quota.charges.made(key(&found), Some(found.stx_uid), amount(&found).bytes);
        }
    }

    /// Whether a file lies where it counts: in the store, and not in the spill area.
    fn is_charged(&self, file: FileKey) -> bool {
        if !self.spill.shares_device() {
            return !self.spill.has_device(file.device);
        }
        !self.tree.find(file).is_some_and(|node| self.is_in_area(&node))
    }

    /// Whether a node lies in the spill area.
    fn is_in_area(&self, node: &Node) -> bool {
        self.spill.is_used()
            && node.place().is_some_and(|place| {
                place.parent() == ASIDE
                    || self.tree.get(place.parent()).is_ok_and(|folder| self.lies_in_area(&folder))
            })
    }

    /// Whether something in the spill area, on the store's own filesystem, would become a part of the store
    /// if it were given a name in that directory.
    pub(super) fn would_come_in(&self, node: &Node, folder: NodeId) -> bool {
        let in_area = |folder| self.tree.get(folder).is_ok_and(|f| self.lies_in_area(&f));
        self.spill.shares_device() && self.is_in_area(node) && !in_area(folder)
    }

    /// Whether a draft lies in the spill area although the store could take it.
    pub(super) fn has_to_stay_aside(&self, draft: &Draft) -> bool {
        self.spill.is_used()
            && self
                .tree
                .get(draft.node)
                .is_ok_and(|node| self.would_come_in(&node, draft.folder.id))
    }

    /// As [`Cache::would_come_in`], for what is renamed from one directory to another.
    pub(super) fn would_bring_in(&self, parent: NodeId, new_parent: NodeId) -> bool {
        let in_area = |folder| self.tree.get(folder).is_ok_and(|folder| self.lies_in_area(&folder));
        self.spill.shares_device()
            && self.spill.is_used()
            && in_area(parent)
            && !in_area(new_parent)
    }

    /// What each user has, and may have.
    pub fn usages(&self) -> Vec<Usage> {
        let Some(quota) = &self.quota else { return self.own_usages() };
        let all = quota.charges.all().into_iter();
        let mut usages: Vec<Usage> = all
            .map(|(user, used, over)| Usage { user, used, limit: quota.limit(user), over })
            .collect();
        usages.sort_by_key(|usage| usage.user);
        usages
    }

    /// Since when and of whom the store takes nothing because he has too much, where that is spilled.
    pub(super) fn users_over(&self) -> Option<Degraded> {
        self.spill.folder()?;
        self.quota.as_ref()?;
        let over: Vec<Usage> = self.usages().into_iter().filter(|u| u.over.is_some()).collect();
        let since = over.iter().filter_map(|usage| usage.over).min()?;
        let who = over.iter().map(|usage| usage.user.to_string()).collect::<Vec<_>>().join(", ");
        let who =
            if over.len() > 1 { format!("users {who} are") } else { format!("user {who} is") };
        let reason = format!("{who} over quota: what is written by them goes to the spill area");
        Some(Degraded { since, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_added_counts() {
        let growth = |offset, length, taken| Stretch { offset, length }.growth(taken);
        assert_eq!(growth(0, 10, 0), 10);
        assert_eq!(growth(0, 10, 4096), 0);
        assert_eq!(growth(4090, 10, 4096), 4);
        assert_eq!(growth(1 << 40, 10, 4096), 10);
        assert_eq!(Stretch::NONE.growth(0), 0);
    }

    #[cfg(unix)]
    #[test]
    fn holes_and_what_is_behind_the_end_are_new() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.set_len(1 << 20).unwrap();
        platform::fs::FileExt::write_all_at(&file, &[1; 8192], 65536).unwrap();
        let is_new = |offset, length| Stretch { offset, length }.is_partly_new(&file);
        assert!(!is_new(65536, 8192) && !is_new(65540, 1));
        assert!(is_new(65535, 8192) && is_new(65536, 8193) && is_new(1 << 30, 1));
    }
}
