//! What users have in the store when it is mounted: counted in the background, once.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use cachefs_mount::{Kind, NodeId};
use rustix::fs::Statx;

use super::{Quota, mark};
use crate::cache::Cache;
use crate::cache::resolve::{key, kind, status};
use crate::cache::retire::amount;
use crate::cache::tree::known_name;
use crate::prune::directory::{list, open_directory};

/// A directory, and the names in it that are still to be counted.
type Counted = (OwnedFd, Vec<Box<[u8]>>);

/// A directory, for counting; none if it has vanished, or can't be read.
fn begin(at: impl AsFd, name: &[u8]) -> Option<Counted> {
    // As pruning does it: to be counted is not to be used.
    let directory = open_directory(at, name).ok()?;
    let mut names = Vec::new();
    list(&directory, |name, _| names.push(name.into())).ok()?;
    Some((directory, names))
}

impl Quota {
    /// Who is charged for a file of which nothing is known.
    pub(super) fn maker_of(&self, found: &Statx, at: (impl AsFd, &[u8])) -> Option<u32> {
        match (self.by_owner, kind(found)) {
            (true, _) => Some(found.stx_uid),
            (false, Kind::File | Kind::Directory) => mark::read(at),
            (false, _) => None,
        }
    }
}

impl Cache {
    /// Starts to count what is there. Until that has been done, users seem to have less than they have.
    pub(in crate::cache) fn start_counting(self: &Arc<Self>) -> std::io::Result<()> {
        if self.quota.is_none() {
            return Ok(());
        }
        let cache = Arc::downgrade(self);
        std::thread::Builder::new().name("quotas".into()).spawn(move || {
            let mut open: Vec<Counted> =
                cache.upgrade().and_then(|cache| begin(&*cache.root, b".")).into_iter().collect();
            while let Some((_, names)) = open.last_mut() {
                let Some(name) = names.pop() else {
                    open.pop();
                    continue;
                };
                // It may end meanwhile.
                let Some(cache) = cache.upgrade() else { return };
                if open.len() == 1 && cache.is_private(NodeId::ROOT, known_name(&name)) {
                    continue;
                }
                let directory = &open[open.len() - 1].0;
                let below = match cache.count_one(directory, &name) {
                    Some(Kind::Directory) => begin(directory, &name),
                    _ => None,
                };
                open.extend(below);
            }
        })?;
        Ok(())
    }

    /// Charges who made what has that name, if that is known; what it is.
    fn count_one(&self, directory: &OwnedFd, name: &[u8]) -> Option<Kind> {
        let quota = self.quota.as_ref()?;
        let found = status(directory, name).ok()?;
        let file = key(&found);
        let maker = quota.maker_of(&found, (directory, name));
        if let Some(maker) = maker
            && self.is_charged(file)
            && quota.charges.found(file, maker, amount(&found).bytes)
            // Removed in between, it would be charged for ever.
            && !status(directory, name).is_ok_and(|now| key(&now) == file)
        {
            quota.charges.gone(file);
        }
        Some(kind(&found))
    }
}
