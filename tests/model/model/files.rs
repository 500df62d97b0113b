//! Opening, writing and closing files.

use super::{Found, Handle, Id, Job, Model, Node, ROOT, Stage, Version, is_lock_like};
use crate::program::{Act, How, Outcome};

impl Model {
    /// 2.1: the staged version of that name becomes live.
    pub(super) fn publish(&mut self, at: (Id, &str), job: Job, is_closed: bool) -> Found<()> {
        let is_mine = |version: &Version| matches!(version.stage, Stage::Staged(by) if by == job);
        let Some(index) = self.versions(at).iter().position(is_mine) else { return Ok(()) };
        let mut staged = self.versions(at).remove(index);
        let old = self.live_of(at).cloned();
        if let Some(old) = &old {
            match &self.nodes[old.node] {
                Node::Directory(_) => return Err(libc::EISDIR),
                Node::File(_) if is_closed && !self.written.contains(&staged.node) => {
                    self.nodes[old.node] = Node::File(String::new());
                    return Ok(());
                }
                _ => {}
            }
            // Who puts something else there has not made the name.
            (staged.maker, staged.is_lock) = (old.maker.filter(|m| *m == job), old.is_lock);
            // And knows of it, since whenever it is there.
            staged.added = (old.added.0, job);
        } else {
            staged.added = (self.tick(), job);
            (staged.maker, staged.is_lock) =
                (Some(job), staged.is_lock && staged.replaces.is_none());
        }
        staged.stage = Stage::Live;
        staged.replaces = None;
        self.versions(at).retain(|version| !matches!(version.stage, Stage::Live));
        self.versions(at).push(staged);
        Ok(())
    }

    pub(super) fn open(&mut self, job: Job, at: (Id, &str), how: How) -> Found<Id> {
        let Some(version) = self.view_of(at, job).cloned() else {
            return if how.creates() { self.create(job, at, how) } else { Err(libc::ENOENT) };
        };
        match &self.nodes[version.node] {
            _ if how == How::New => Err(libc::EEXIST),
            Node::Symlink(_) => Err(libc::ELOOP),
            Node::Directory(_) => Err(libc::EISDIR),
            Node::File(text) if how.truncates() => {
                let is_shared = text.is_empty()
                    || is_lock_like(at.1)
                    || self.names_of(version.node) > 1
                    || self.is_lock(version.node);
                let is_live = self.links(version.node) > 0;
                let is_new = match version.stage {
                    Stage::Live => !is_shared,
                    // Those who still see a lock go on locking each other by it.
                    Stage::Retired(..) => !(is_lock_like(at.1) || is_live && is_shared),
                    Stage::Staged(_) => false,
                };
                if !is_new {
                    self.nodes[version.node] = Node::File(String::new());
                    return Ok(version.node);
                }
                let node = self.add(Node::File(String::new()));
                self.put(at, node, Stage::Staged(job), job, false);
                if let (Some(new), Stage::Live) = (self.versions(at).last_mut(), version.stage) {
                    (new.maker, new.is_lock) = (version.maker, version.is_lock);
                    new.replaces = Some(version.node);
                }
                Ok(node)
            }
            _ => Ok(version.node),
        }
    }

    /// Somebody creates it exclusively.
    pub(super) fn is_taken(&self, at: (Id, &str)) -> bool {
        let is_it =
            |v: &Version| matches!(v.stage, Stage::Staged(_)) && v.is_lock && v.replaces.is_none();
        self.names(at.0).is_ok_and(|names| names.get(at.1).is_some_and(|v| v.iter().any(is_it)))
    }

    /// 2.1, 2.4
    pub(super) fn create(&mut self, job: Job, at: (Id, &str), how: How) -> Found<Id> {
        if how == How::New && self.is_taken(at) {
            return Err(libc::EEXIST);
        }
        let others = self.names(at.0)?.get(at.1).map_or(&[][..], Vec::as_slice);
        let is_empty =
            |v: &&Version| matches!(v.stage, Stage::Staged(_)) && !self.written.contains(&v.node);
        let empty = others.iter().find(is_empty).cloned();
        if let (How::Shared, Some(Version { node, stage: Stage::Staged(by), .. })) = (how, empty) {
            self.publish(at, by, false)?;
            return Ok(node);
        }
        let is_shared = how == How::Shared || is_lock_like(at.1);
        let stage = if is_shared { Stage::Live } else { Stage::Staged(job) };
        let node = self.add(Node::File(String::new()));
        // What is made to be shared may be a lock as well.
        self.put(at, node, stage, job, is_shared || how != How::Create);
        Ok(node)
    }

    /// Under how many names of that kind a file is there, in directories that somebody sees.
    pub(super) fn count(&self, node: Id, which: impl Fn(&Version) -> bool) -> usize {
        let every = |v: &[Version]| v.iter().map(|v| v.node).collect();
        let all = self.nodes.iter().enumerate().filter_map(|(id, node)| match node {
            Node::Directory(names) if self.leads(ROOT, id, &every) => {
                Some(names.values().flatten())
            }
            _ => None,
        });
        all.flatten().filter(|version| version.node == node && which(version)).count()
    }

    /// Under how many names a file is live.
    pub(super) fn links(&self, node: Id) -> usize {
        self.count(node, |version| matches!(version.stage, Stage::Live))
    }

    /// Whether it lives under a name that locks have.
    pub(super) fn is_lock(&self, file: Id) -> bool {
        let is_it = |v: &Version| v.node == file && matches!(v.stage, Stage::Live);
        self.nodes.iter().any(|node| match node {
            Node::Directory(names) => {
                names.iter().any(|(name, v)| is_lock_like(name) && v.iter().any(is_it))
            }
            _ => false,
        })
    }

    /// The same with those under which it is kept.
    pub(super) fn names_of(&self, node: Id) -> usize {
        self.count(node, |version| !matches!(version.stage, Stage::Staged(_)) && !version.is_old)
    }

    /// Where a job stages that file.
    pub(super) fn staged_at(&self, job: Job, file: Id) -> Option<(Id, String)> {
        let is_it =
            |v: &Version| v.node == file && matches!(v.stage, Stage::Staged(by) if by == job);
        self.nodes.iter().enumerate().find_map(|(id, node)| match node {
            Node::Directory(names) => {
                names.iter().find(|(_, v)| v.iter().any(is_it)).map(|(name, _)| (id, name.clone()))
            }
            _ => None,
        })
    }

    pub(super) fn close(&mut self, job: Job, handle: &Handle) -> Found<()> {
        if matches!(handle.how, How::New | How::Create | How::Truncate)
            && let Some((directory, name)) = self.staged_at(job, handle.node)
        {
            self.publish((directory, &name), job, true)?;
        }
        Ok(())
    }

    /// 2.6, and the end of 3.2
    pub(super) fn end(&mut self, place: usize) {
        let Some((job, _)) = self.places[place].take() else { return };
        for node in &mut self.nodes {
            let Node::Directory(names) = node else { continue };
            for versions in names.values_mut() {
                versions.retain(|v| !matches!(v.stage, Stage::Staged(by) if by == job));
                for version in versions {
                    if let Stage::Retired(_, readers) = &mut version.stage {
                        readers.remove(&job);
                    }
                }
            }
        }
        self.sweep();
    }

    pub(super) fn on_handle(&mut self, place: usize, act: Act, text: &str) -> Outcome {
        let Some((job, handles)) = &mut self.places[place] else { return Ok(String::new()) };
        let (job, count) = (*job, handles.len());
        let (Act::Write(which) | Act::Read(which) | Act::Close(which)) = act else { panic!() };
        if count == 0 {
            return Ok(String::new());
        }
        let handle = &mut handles[which as usize % count];
        let Node::File(contents) = &mut self.nodes[handle.node] else { return Ok(String::new()) };
        match act {
            Act::Write(_) if handle.how.writes() => {
                self.written.insert(handle.node);
                let at = if handle.how == How::Append { contents.len() } else { handle.at };
                let mut bytes = std::mem::take(contents).into_bytes();
                bytes.resize(bytes.len().max(at + text.len()), 0);
                bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
                *contents = String::from_utf8(bytes).unwrap();
                handle.at = at + text.len();
            }
            Act::Read(_) if !handle.how.writes() => return Ok(contents.clone()),
            Act::Close(_) => {
                let handle = handles.remove(which as usize % count);
                let _ = self.close(job, &handle);
            }
            _ => {}
        }
        Ok(String::new())
    }
}
