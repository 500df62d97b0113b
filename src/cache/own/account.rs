//! How much a user has to himself, and how much he may have.
//!
//! What is written is added up, and taken from nothing: so it may be too much, when he writes over what he
//! has or removes it. Only when he seems to have too much it is counted what he really has.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cachefs_mount::{Errno, Kind, NodeId, Result};
use parking_lot::Mutex;

use super::super::Cache;
use super::super::handles::Open;
use super::super::quota::Usage;
use super::super::resolve::{key, kind, open_at, status};
use super::super::retire::{Amount, amount};
use super::super::tree::{Counted, Node, user_of};
use crate::platform;
use crate::platform::fs::OFlags;
use crate::prune::size::Size;

/// The part of the spill area's filesystem that a user may fill by himself, unless it was said otherwise.
const USUAL_PART: Size = Size::Percent(10);

/// So many names he may have, unless it was said otherwise.
const USUAL_FILES: u64 = 250_000;

/// So many files and directories he may have open; and so many without a name, open or not.
const MOST_OPEN: usize = 4096;

/// Part of the time that goes by between two counts which a count may take.
const COUNTING: u32 = 10;

/// So few things are counted whenever it matters: that costs no more than to list them.
const SOON_COUNTED: u64 = 1000;

/// What is known of a user.
#[derive(Debug)]
pub(super) struct Account {
    limit: Amount,
    bytes: AtomicU64,
    files: AtomicU64,
    /// Names that are gone for him: they cost memory.
    gone: AtomicU64,
    open: AtomicUsize,
    /// Descriptors of what he has without a name.
    nameless: Arc<AtomicUsize>,
    /// When his things may be counted again.
    next_count: Mutex<Option<Instant>>,
    /// Held by who copies something for him: one at a time.
    pub(super) copying: Mutex<()>,
    /// How many wait for that.
    pub(super) waiting: AtomicUsize,
}

impl Account {
    /// Adds that much, unless it is too much.
    fn add(&self, bytes: u64, files: u64) -> bool {
        let fits = self.bytes.load(Ordering::Relaxed).saturating_add(bytes) <= self.limit.bytes
            && self.files.load(Ordering::Relaxed).saturating_add(files) <= self.limit.files;
        if fits {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.files.fetch_add(files, Ordering::Relaxed);
        }
        fits
    }

    pub(super) fn note_gone(&self) {
        self.gone.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_not_gone(&self, names: u64) {
        let less = |gone: u64| Some(gone.saturating_sub(names));
        let _ = self.gone.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl Cache {
    pub(super) fn account(&self, user: u32) -> Arc<Account> {
        if let Some(account) = self.own.accounts.get(&user) {
            return account.clone();
        }
        let limit = self.limit_of(user);
        let new = || Account {
            limit,
            bytes: AtomicU64::new(0),
            files: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            nameless: Arc::default(),
            next_count: Mutex::new(None),
            copying: Mutex::new(()),
            waiting: AtomicUsize::new(0),
        };
        self.own.accounts.entry(user).or_insert_with(|| Arc::new(new())).clone()
    }

    fn limit_of(&self, user: u32) -> Amount {
        let quotas = &self.own.quotas;
        let said = quotas.users.get(&user).copied().or(quotas.usual);
        let space = self.own.folder().and_then(|folder| platform::fs::fstatvfs(&*folder).ok());
        let whole = space.map_or(u64::MAX, |space| space.f_blocks * space.f_frsize);
        let files = said.and_then(|limit| limit.files).unwrap_or(USUAL_FILES);
        Amount { bytes: said.map_or(USUAL_PART, |limit| limit.bytes).of(whole), files }
    }

    /// A user is about to have that much more; `EDQUOT` if that is too much, `ENOSPC` if there is no room.
    pub(in crate::cache) fn charge(&self, user: u32, bytes: u64, files: u64) -> Result<()> {
        let folder = self.users_folder()?;
        if super::super::spill::is_low(&*folder) {
            return Err(Errno::ENOSPC);
        }
        let account = self.account(user);
        if account.add(bytes, files) {
            return Ok(());
        }
        self.count(user, &account);
        if account.add(bytes, files) { Ok(()) } else { Err(Errno::EDQUOT) }
    }

    /// As [`Cache::charge`], to whoever has that node to himself.
    pub(in crate::cache) fn charge_bytes(&self, node: NodeId, bytes: u64) -> Result<()> {
        match self.user_of(node) {
            Some(user) => self.charge(user, bytes, 0),
            None => Ok(()),
        }
    }

    /// As [`Cache::charge_bytes`], for a file that is to be so large: what is not written takes no space,
    /// but may do so at once.
    pub(in crate::cache) fn charge_growth(&self, node: &Node, size: u64) -> Result<()> {
        let Some(user) = node.of else { return Ok(()) };
        let limit = self.account(user).limit.bytes;
        // What could never be written need not be promised.
        if size > limit { Err(Errno::EDQUOT) } else { Ok(()) }
    }

    /// As [`Cache::charge_bytes`], for so much of a file from there on as there is.
    pub(in crate::cache) fn charge_copy(
        &self,
        to: NodeId,
        from: &File,
        offset: u64,
        length: usize,
    ) -> Result<()> {
        if self.user_of(to).is_none() {
            return Ok(());
        }
        let there = from.metadata()?.len().saturating_sub(offset);
        self.charge_bytes(to, there.min(length as u64))
    }

    /// A user opens one more file or directory; `EMFILE` if he has too many open.
    pub(in crate::cache) fn admit(&self, user: Option<u32>) -> Result<()> {
        let Some(user) = user else { return Ok(()) };
        let account = self.account(user);
        if account.open.fetch_add(1, Ordering::Relaxed) >= MOST_OPEN {
            account.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::EMFILE);
        }
        Ok(())
    }

    /// He has closed one.
    pub(in crate::cache) fn dismiss(&self, user: Option<u32>) {
        if let Some(user) = user {
            self.account(user).open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A descriptor of something without a name is kept for a user; none if there are too many.
    pub(super) fn count_nameless(&self, user: u32) -> Option<Counted> {
        Counted::up_to(MOST_OPEN, &self.account(user).nameless)
    }

    /// Counts what a user has, unless that was done just now.
    fn count(&self, user: u32, account: &Account) {
        // Whoever else comes meanwhile is not to wait.
        let Some(mut next) = account.next_count.try_lock() else { return };
        let began = Instant::now();
        if next.is_some_and(|next| began < next) {
            return;
        }
        match self.amount_of(user) {
            Ok(found) => {
                account.bytes.store(found.bytes, Ordering::Relaxed);
                let files = found.files + account.gone.load(Ordering::Relaxed);
                account.files.store(files, Ordering::Relaxed);
                if found.files <= SOON_COUNTED {
                    return;
                }
            }
            Err(errno) => tracing::warn!(%errno, user, "can't count what a user has"),
        }
        let took: Duration = began.elapsed();
        *next = Some(Instant::now() + took * COUNTING);
    }

    /// What a user has: under names, and open without one.
    fn amount_of(&self, user: u32) -> Result<Amount> {
        let folder = self.users_folder()?;
        let mut all = Amount::default();
        let mut met = HashSet::new();
        for name in self.names_in(&folder)? {
            if user_of(&name) != Some(user) {
                continue;
            }
            let Ok(found) = status(&*folder, &name) else { continue };
            if kind(&found) != Kind::Directory {
                // A file with several names takes its space once.
                if met.insert(key(&found)) {
                    all.add(amount(&found));
                }
                continue;
            }
            all.add(amount(&found));
            if let Ok(below) = open_at(&*folder, &name, OFlags::RDONLY | OFlags::DIRECTORY) {
                self.each_in(&below, |found| {
                    if found.stx_nlink < 2
                        || kind(found) == Kind::Directory
                        || met.insert(key(found))
                    {
                        all.add(amount(found));
                    }
                })?;
            }
        }
        let mut nameless = |file: platform::fs::Statx| {
            if file.stx_nlink == 0 && met.insert(key(&file)) {
                all.add(amount(&file));
            }
        };
        for orphan in self.tree.orphans_of(user) {
            status(&*orphan, b"").into_iter().for_each(&mut nameless);
        }
        for handle in self.handles.all() {
            if handle.user == Some(user)
                && let Open::Writing { target, .. } = &handle.open
            {
                let file = target.read().file.clone();
                status(&*file, b"").into_iter().for_each(&mut nameless);
            }
        }
        Ok(all)
    }

    /// What each user who is not trusted has to himself, as far as that is known, and may have.
    pub(in crate::cache) fn own_usages(&self) -> Vec<Usage> {
        let mut usages: Vec<Usage> = self
            .own
            .accounts
            .iter()
            .map(|entry| {
                let (user, account) = (*entry.key(), entry.value());
                let bytes = account.bytes.load(Ordering::Relaxed);
                let files = account.files.load(Ordering::Relaxed);
                Usage { user, used: Amount { bytes, files }, limit: account.limit, over: None }
            })
            .collect();
        usages.sort_by_key(|usage| usage.user);
        usages
    }
}
