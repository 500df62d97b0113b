//! What is done before anything is spilled (SEMANTICS 4.2): the least recently used of what is in the
//! store goes, where that makes room.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cachefs_mount::{Kind, NodeId, Result};
use rustix::fs::{OFlags, Statx};

use super::health;
use crate::cache::Cache;
use crate::cache::resolve::{kind, open_at, status};
use crate::cache::retire::Amount;
use crate::cache::tree::known_name;

/// What is removed is gone soon after, if nobody who runs may go on using it.
const SOON: Duration = Duration::from_secs(2);

/// An entry of the store, how much there is of it, and when it was used last.
struct Entry {
    path: PathBuf,
    amount: Amount,
    used: i64,
}

impl Cache {
    /// Makes room in a store that is full, for `job`; whether there is room now. Who is running keeps
    /// what it may be using, and so there may be none before they have ended. Not to be called by who has
    /// locked a name.
    pub(super) fn make_room(&self, job: u64) -> bool {
        if self.spill.read_only {
            return false;
        }
        let Some((free, whole)) = health::room(&*self.root) else { return false };
        let wanted = 4 * health::margin(whole);
        let Some(missing) = wanted.checked_sub(free).filter(|_| free < health::margin(whole))
        else {
            return false;
        };
        // What has been removed makes room by and by.
        let coming = self.retired().bytes;
        if coming < missing
            && let Ok(entries) = self.least_used(missing - coming)
            && !entries.is_empty()
        {
            tracing::info!(?entries, "the store is full: removing what was used least recently");
            if let Err(error) = self.clean_for(&entries, job) {
                tracing::warn!("can't make room in the store: {error}");
                return false;
            }
        } else if coming == 0 {
            return false;
        }
        let until = Instant::now() + SOON;
        loop {
            let roomy =
                || health::room(&*self.root).is_some_and(|(free, _)| free > health::margin(whole));
            if roomy() {
                return true;
            }
            if self.retired.records.lock().is_empty() || Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Entries of the second level, and files of the first, that are worth so many bytes together and
    /// were used least recently. None if all together are worth less: then nothing is to be lost.
    fn least_used(&self, bytes: u64) -> Result<Vec<PathBuf>> {
        let mut entries = Vec::new();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        for name in self.names_in(&self.root)? {
            if self.is_private(NodeId::ROOT, known_name(&name)) {
                continue;
            }
            let Ok(found) = status(&*self.root, &name) else { continue };
            let path = PathBuf::from(OsString::from_vec(name.to_vec()));
            if kind(&found) != Kind::Directory {
                entries.push(entry(path, &found));
                continue;
            }
            let Ok(folder) = open_at(&*self.root, &name, flags) else { continue };
            for inner in self.names_in(&folder)? {
                let Ok(found) = status(&folder, &inner) else { continue };
                let mut one = entry(path.join(OsString::from_vec(inner.to_vec())), &found);
                if kind(&found) == Kind::Directory
                    && let Ok(below) = open_at(&folder, &inner, flags)
                {
                    self.each_in(&below, |found| {
                        one.amount.add(crate::cache::retire::amount(found));
                        one.used = one.used.max(used(found));
                    })?;
                }
                entries.push(one);
            }
        }
        // Small ones that mean something by being there, such as locks, make no room.
        entries.retain(|entry| entry.amount.bytes > 0);
        entries.sort_by_key(|entry| entry.used);
        if entries.iter().map(|entry| entry.amount.bytes).sum::<u64>() < bytes {
            return Ok(Vec::new());
        }
        let mut worth = 0;
        let enough = entries.into_iter().take_while(|entry| {
            let before = worth;
            worth += entry.amount.bytes;
            before < bytes
        });
        Ok(enough.map(|entry| entry.path).collect())
    }
}

fn entry(path: PathBuf, found: &Statx) -> Entry {
    Entry { path, amount: crate::cache::retire::amount(found), used: used(found) }
}

/// When something was used last, in seconds: read, or written.
fn used(found: &Statx) -> i64 {
    match kind(found) {
        // To list it is not to use it.
        Kind::Directory => found.stx_mtime.tv_sec,
        _ => found.stx_atime.tv_sec.max(found.stx_mtime.tv_sec),
    }
}
