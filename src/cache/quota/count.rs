//! What users have in the store when it is mounted: counted in the background, once.

use std::ops::ControlFlow;
use std::sync::Arc;

use cachefs_mount::{Kind, NodeId};

use super::{Quota, mark};
use crate::cache::Cache;
use crate::cache::resolve::{key, kind, status};
use crate::cache::retire::amount;
use crate::cache::tree::{FileKey, known_name};
use crate::platform;
use crate::platform::fd::{AsFd, OwnedFd};
use crate::platform::fs::{Mode, OFlags, Statx};
use crate::prune::directory::{list, open_directory};

/// How often all is gone through where something was moved each time, at most.
const ROUNDS: usize = 10;

/// The names in a directory that are still to be counted.
type Names = Vec<Box<[u8]>>;

/// A directory, for counting; none if it has vanished, or can't be read.
fn begin(at: impl AsFd, name: &[u8]) -> Option<(OwnedFd, Names)> {
    // As pruning does it: to be counted is not to be used.
    let directory = open_directory(at, name).ok()?;
    let mut names = Vec::new();
    list(&directory, |name, _| names.push(name.into())).ok()?;
    Some((directory, names))
}

/// Shows each name below a directory to `see`, with the directory that it is in and whether that is the first,
/// and goes down where it says that it was a directory. True if all was seen: `see` found whatever it was shown,
/// and no directory was moved while one below it was looked at.
///
/// However deep it goes, one directory is open.
fn go_through(
    root: OwnedFd,
    names: Names,
    mut see: impl FnMut(&OwnedFd, &[u8], bool) -> ControlFlow<(), Option<Kind>>,
) -> ControlFlow<(), bool> {
    let (mut directory, mut names, mut all) = (root, names, true);
    let mut above: Vec<(FileKey, Names)> = Vec::new();
    let known = |directory: &OwnedFd| status(directory, b"").ok().map(|found| key(&found));
    loop {
        let Some(name) = names.pop() else {
            let Some((expected, left)) = above.pop() else { return ControlFlow::Continue(all) };
            let back = open_directory(&directory, b"..").ok();
            let Some(back) = back.filter(|back| known(back) == Some(expected)) else {
                return ControlFlow::Continue(false);
            };
            (directory, names) = (back, left);
            continue;
        };
        match see(&directory, &name, above.is_empty())? {
            Some(Kind::Directory) => {
                if let (Some((below, within)), Some(here)) =
                    (begin(&directory, &name), known(&directory))
                {
                    above.push((here, std::mem::replace(&mut names, within)));
                    directory = below;
                }
            }
            Some(_) => {}
            None => all = false,
        }
    }
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
            for _ in 0..ROUNDS {
                let root = cache.upgrade().and_then(|cache| begin(&*cache.root, b"."));
                let Some((root, names)) = root else { return };
                let counted = go_through(root, names, |directory, name, is_root| {
                    // It may end meanwhile.
                    let Some(cache) = cache.upgrade() else { return ControlFlow::Break(()) };
                    if is_root && cache.is_private(NodeId::ROOT, known_name(name)) {
                        // Whatever it is, it is not gone into.
                        return ControlFlow::Continue(Some(Kind::File));
                    }
                    ControlFlow::Continue(cache.count_one(directory, name))
                });
                if counted != ControlFlow::Continue(false) {
                    return;
                }
            }
        })?;
        Ok(())
    }

    /// Charges who made what has that name, if that is known; what it is. None if it has vanished.
    fn count_one(&self, directory: &OwnedFd, name: &[u8]) -> Option<Kind> {
        let quota = self.quota.as_ref()?;
        // Whatever becomes of its name meanwhile.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = platform::fs::openat(directory, name, flags, Mode::empty()).ok()?;
        let found = status(&file, b"").ok()?;
        if let Some(maker) = quota.maker_of(&found, (&file, b""))
            && self.is_charged(key(&found))
            && quota.charges.found(key(&found), maker, amount(&found).bytes)
            // Removed in between, it would be charged for ever.
            && status(&file, b"").is_ok_and(|now| now.stx_nlink == 0)
        {
            quota.charges.gone(key(&found));
        }
        Some(kind(&found))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    /// Goes through a directory, in which `meanwhile` is done when something was seen; what was seen.
    fn seen(at: &std::path::Path, mut meanwhile: impl FnMut(&str)) -> (BTreeSet<String>, bool) {
        let mut seen = BTreeSet::new();
        let (root, names) = begin(platform::fs::CWD, at.as_os_str().as_encoded_bytes()).unwrap();
        let all = go_through(root, names, |directory, name, _| {
            let Ok(found) = status(directory, name) else { return ControlFlow::Continue(None) };
            let name = String::from_utf8(name.to_vec()).unwrap();
            meanwhile(&name);
            seen.insert(name);
            ControlFlow::Continue(Some(kind(&found)))
        });
        (seen, all == ControlFlow::Continue(true))
    }

    #[cfg(unix)]
    #[test]
    fn what_is_deep_is_seen_with_one_directory_open() {
        let folder = tempfile::tempdir().unwrap();
        let mut deep = folder.path().to_owned();
        for number in 0..300 {
            fs::write(deep.join(format!("file{number}")), "").unwrap();
            deep.push(format!("{number}"));
            fs::create_dir(&deep).unwrap();
        }
        let prefix = folder.path().to_str().unwrap();
        let mut open = BTreeSet::new();
        let (seen, all) = seen(folder.path(), |_| {
            // Other tests have others open.
            let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
            let links = links.filter_map(|link| fs::read_link(link.path()).ok());
            open.insert(links.filter(|link| link.starts_with(prefix)).count());
        });
        assert_eq!((seen.len(), all), (600, true));
        assert_eq!(open, BTreeSet::from([1]));
    }

    #[test]
    fn what_is_moved_meanwhile_is_seen_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a/b/c", "d"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["a/1", "a/b/2", "a/b/c/3", "d/4"] {
            fs::write(at(name), "").unwrap();
        }
        let (first, all) = seen(folder.path(), |name| match name {
            "c" => fs::rename(at("a/b"), at("d/b")).unwrap(),
            "a" if at("d/4").exists() => fs::rename(at("d/4"), at("a/5")).unwrap(),
            _ => {}
        });
        assert!(!all, "{first:?}");
        let (second, all) = seen(folder.path(), |_| {});
        assert!(all);
        assert_eq!(second, ["a", "1", "b", "2", "c", "3", "d", "5"].map(str::to_owned).into());
    }
}
