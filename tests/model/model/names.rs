//! Making, moving and removing names.

use std::collections::BTreeMap;

use super::{Found, Id, Job, Model, Node, Stage, Version, seen};
use crate::program::Act;

impl Model {
    pub(super) fn unlink(&mut self, job: Job, at: (Id, &str)) -> Found<()> {
        let version = self.view_of(at, job).ok_or(libc::ENOENT)?;
        if self.is_directory(version.node) {
            return Err(libc::EISDIR);
        }
        let live = self.live_of(at);
        if live.is_some_and(|live| self.is_directory(live.node)) {
            // Another one was faster. What was staged is given up.
            let is_mine = |v: &Version| matches!(v.stage, Stage::Staged(by) if by == job);
            self.versions(at).retain(|version| !is_mine(version));
            return Ok(());
        }
        let was_a_lock = live.is_some_and(|live| live.is_lock && live.maker == Some(job));
        self.take_away(at, job, !self.is_lock_name(at) && !was_a_lock);
        Ok(())
    }

    /// 3.6, 3.7
    pub(super) fn rmdir(&mut self, job: Job, at: (Id, &str)) -> Found<()> {
        let version = self.view_of(at, job).ok_or(libc::ENOENT)?.clone();
        let names = self.names(version.node).map_err(|_| libc::ENOTDIR)?.clone();
        let listed = self.listed.get(&(job, version.node));
        // Also what has come and gone since; but of a name only what was given it last is known. What is being
        // written is not given it yet.
        let is_news = |versions: &Vec<Version>, version: &Version| {
            let (when, who) = version.added;
            let is_given = |other: &&Version| !matches!(other.stage, Stage::Staged(_));
            let is_last = versions.iter().filter(is_given).all(|other| other.added.0 <= when);
            let is_known = is_last || !matches!(version.stage, Stage::Retired(..));
            is_known && who != job && listed.is_some_and(|at| *at < when)
        };
        let is_there = |version: &&Version| match &version.stage {
            Stage::Staged(by) => *by == job,
            Stage::Live => true,
            Stage::Retired(_, readers) => readers.contains(&job),
        };
        let is_old = |versions: &Vec<Version>| {
            versions.iter().filter(is_there).any(|version| !is_news(versions, version))
        };
        if names.values().any(is_old) {
            return Err(libc::ENOTEMPTY);
        }
        let of_no_use = names.is_empty() && version.maker == Some(job);
        for name in names.keys().cloned().collect::<Vec<_>>() {
            for version in self.versions((version.node, &name)) {
                if let Stage::Retired(_, readers) = &mut version.stage {
                    readers.remove(&job);
                }
            }
        }
        self.take_away(at, job, !self.is_lock_name(at) && !of_no_use);
        Ok(())
    }

    /// 3.4
    pub(super) fn mkdir(&mut self, job: Job, at: (Id, &str)) -> Found<()> {
        if self.view_of(at, job).is_some() || self.is_taken(at) {
            return Err(libc::EEXIST);
        }
        let moment = self.tick();
        let retired = |version: &Version| match version.stage {
            Stage::Retired(at, _) => Some((at, version.node, version.is_old)),
            _ => None,
        };
        let versions = self.names(at.0)?.get(at.1).map_or(&[][..], Vec::as_slice);
        // It may live under another name.
        let last = versions.iter().filter_map(retired).max().filter(|&(_, node, is_old)| {
            self.is_directory(node) && !is_old && self.links(node) == 0
        });
        let Some((_, node, _)) = last else {
            let node = self.add(Node::Directory(BTreeMap::new()));
            self.put(at, node, Stage::Live, job, true);
            return Ok(());
        };
        // What is in it stays for those who see it there.
        let readers = self.readers(node, job);
        self.versions(at).retain(|version| version.node != node);
        for name in self.names(node)?.keys().cloned().collect::<Vec<_>>() {
            for version in self.versions((node, &name)) {
                if matches!(version.stage, Stage::Live) {
                    version.stage = Stage::Retired(moment, readers.clone());
                }
            }
        }
        self.put(at, node, Stage::Live, job, true);
        self.sweep();
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        job: Job,
        from: (Id, &str),
        to: (Id, &str),
        is_above: bool,
    ) -> Found<()> {
        let version = self.view_of(from, job).ok_or(libc::ENOENT)?;
        let (moved, is_directory) = (version.node, self.is_directory(version.node));
        // The old name of something that lives under another one is not moved once more.
        let is_kept = matches!(version.stage, Stage::Retired(..));
        let is_old = version.is_old && (is_directory || !self.is_removed(moved));
        let is_elsewhere = is_kept && (is_old || version.is_old && self.links(moved) > 0);
        if let Some(target) = self.view_of(to, job) {
            if target.node == moved && (!is_directory || from == to) {
                return Ok(());
            }
            if is_above {
                return Err(libc::ENOTEMPTY);
            }
            match (is_directory, self.names(target.node)) {
                (true, Err(_)) => return Err(libc::ENOTDIR),
                (false, Ok(_)) => return Err(libc::EISDIR),
                (true, Ok(names)) if !is_elsewhere => {
                    let is_there = |v| seen(v, job).is_some() || seen(v, 0).is_some();
                    if names.values().any(|v| is_there(v)) {
                        return Err(libc::ENOTEMPTY);
                    }
                }
                _ => {}
            }
        }
        if is_elsewhere {
            return Err(libc::ENOENT);
        }
        let every = |v: &[Version]| v.iter().map(|v| v.node).collect();
        if self.leads(moved, to.0, &every) {
            return Err(libc::EINVAL);
        }
        self.publish(from, job, false)?;
        if !is_directory && self.live_of(to).is_some_and(|live| self.is_directory(live.node)) {
            return Err(libc::EISDIR);
        }
        let is_own = self.live_of(from).is_some_and(|live| live.maker == Some(job));
        let replaced = self.live_of(to).map(|live| live.added);
        self.take_away(from, job, !self.is_lock_name(from) && !is_own);
        for node in &mut self.nodes {
            let Node::Directory(names) = node else { continue };
            for version in names.values_mut().flatten().filter(|version| version.node == moved) {
                // From now on it is there, wherever it was kept.
                version.is_old |= matches!(version.stage, Stage::Retired(..));
            }
        }
        self.take_away(to, job, false);
        self.put(to, moved, Stage::Live, job, false);
        if let Some(version) = self.versions(to).last_mut() {
            version.maker = None;
            version.added.0 = replaced.map_or(version.added.0, |(when, _)| when);
        }
        self.nobodys_own_below(moved);
        if is_directory {
            self.moved.insert(moved);
        }
        self.sweep();
        Ok(())
    }

    /// Whether a directory would have two names then, one of them for those who saw it there.
    pub(crate) fn gives_two_names(&self, place: usize, act: Act) -> bool {
        let (Act::Rename(from, _), Some((job, _))) = (act, &self.places[place]) else {
            return false;
        };
        let Ok(at) = self.parent(*job, from) else { return false };
        let is_kept = |v: &Version| matches!(v.stage, Stage::Retired(..)) || v.maker != Some(*job);
        self.view_of(at, *job).is_some_and(|v| self.is_directory(v.node) && is_kept(v))
    }

    /// Whether a file is kept where it was removed.
    fn is_removed(&self, file: Id) -> bool {
        self.count(file, |v| matches!(v.stage, Stage::Retired(..)) && !v.is_old) > 0
    }

    /// Whether an act renames a file by its old name, of which nobody sees the newest any more: it works as
    /// long as that is not reclaimed, which nobody waits for.
    pub(crate) fn moves_what_is_reclaimed(&self, place: usize, act: Act) -> bool {
        let (Act::Rename(from, _), Some((job, _))) = (act, &self.places[place]) else {
            return false;
        };
        let Ok(at) = self.parent(*job, from) else { return false };
        self.view_of(at, *job).is_some_and(|v| {
            v.is_old
                && self.links(v.node) == 0
                && !self.is_directory(v.node)
                && !self.is_removed(v.node)
        })
    }

    /// Whether an act opens what the same job is just writing.
    pub(crate) fn opens_its_own_draft(&self, place: usize, act: Act) -> bool {
        let (Act::Open(path, _), Some((job, _))) = (act, &self.places[place]) else { return false };
        let Ok(at) = self.parent(*job, path) else { return false };
        self.view_of(at, *job).is_some_and(|version| matches!(version.stage, Stage::Staged(_)))
    }

    /// Whether an act opens what is a directory.
    pub(crate) fn opens_a_directory(&self, place: usize, act: Act) -> bool {
        let (Act::Open(path, _), Some((job, _))) = (act, &self.places[place]) else { return false };
        let Ok(at) = self.parent(*job, path) else { return false };
        self.view_of(at, *job).is_some_and(|version| self.is_directory(version.node))
    }

    /// Whether an act makes, or moves, a name that another job is just writing.
    pub(crate) fn makes_what_another_makes(&self, place: usize, act: Act) -> bool {
        let Some((job, _)) = &self.places[place] else { return false };
        let paths = match act {
            Act::Open(path, _) | Act::Mkdir(path) | Act::Symlink(path) => vec![path],
            Act::Link(from, to) | Act::Rename(from, to) => vec![from, to],
            _ => return false,
        };
        paths.into_iter().any(|path| {
            let Ok((folder, name)) = self.parent(*job, path) else { return false };
            let versions = self.names(folder).ok().and_then(|names| names.get(name));
            let other = |v: &Version| matches!(v.stage, Stage::Staged(by) if by != *job);
            versions.is_some_and(|versions| versions.iter().any(other))
        })
    }

    pub(super) fn nobodys_own_below(&mut self, directory: Id) {
        let Node::Directory(names) = &mut self.nodes[directory] else { return };
        let mut below = Vec::new();
        let is_staged = |version: &&mut Version| matches!(version.stage, Stage::Staged(_));
        for version in names.values_mut().flatten().filter(|version| !is_staged(version)) {
            version.maker = None;
            below.push(version.node);
        }
        below.into_iter().for_each(|node| self.nobodys_own_below(node));
    }

    pub(super) fn link(&mut self, job: Job, from: (Id, &str), to: (Id, &str)) -> Found<()> {
        let node = self.view_of(from, job).ok_or(libc::ENOENT)?.node;
        if self.view_of(to, job).is_some() {
            return Err(libc::EEXIST);
        }
        if self.is_directory(node) {
            return Err(libc::EPERM);
        }
        self.publish(from, job, false)?;
        if self.is_taken(to) {
            return Err(libc::EEXIST);
        }
        self.put(to, node, Stage::Live, job, true);
        Ok(())
    }

    pub(super) fn symlink(&mut self, job: Job, at: (Id, &str), text: &str) -> Found<()> {
        if self.view_of(at, job).is_some() || self.is_taken(at) {
            return Err(libc::EEXIST);
        }
        let node = self.add(Node::Symlink(text.into()));
        self.put(at, node, Stage::Live, job, true);
        Ok(())
    }
}
