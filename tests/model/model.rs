//! The reference: SEMANTICS 1 to 3 once more, in as few lines as they need, with everything in memory and
//! nobody at the same time.

use std::collections::{BTreeMap, BTreeSet};

use crate::program::{Act, DOOR, How, JOBS, NAMES, Outcome, Seen, View, World};

/// A job; never the same twice.
type Job = u32;
/// A file, directory or symbolic link.
type Id = usize;

const ROOT: Id = 0;

#[derive(Clone, Debug)]
enum Node {
    File(String),
    Symlink(String),
    Directory(BTreeMap<String, Vec<Version>>),
}

#[derive(Clone, Debug)]
enum Stage {
    Staged(Job),
    Live,
    /// Removed at that moment, and kept for those jobs: the ones that ran then and saw it, but for the remover.
    Retired(u64, BTreeSet<Job>),
}

#[derive(Clone, Debug)]
struct Version {
    node: Id,
    stage: Stage,
    /// Who made the name, if neither it nor any directory above was renamed since.
    maker: Option<Job>,
    /// It was made with `O_EXCL` or the like.
    is_lock: bool,
    /// Who brought it here, and when, so that it is known what came after a listing.
    added: (u64, Job),
    /// It is to replace the live file, which had something in it.
    replaces: Option<Id>,
    /// It was renamed away from here, and lives under another name, or did.
    is_old: bool,
}

#[derive(Clone, Debug)]
struct Handle {
    node: Id,
    how: How,
    at: usize,
}

#[derive(Default)]
pub(crate) struct Model {
    nodes: Vec<Node>,
    clock: u64,
    last_job: Job,
    /// Who is in each place, and what he has open.
    places: [Option<(Job, Vec<Handle>)>; JOBS],
    listed: BTreeMap<(Job, Id), u64>,
    /// Files that had something in them at some time.
    written: BTreeSet<Id>,
}

type Found<T> = Result<T, i32>;

fn is_lock_like(name: &str) -> bool {
    [".lock", ".lck", ".pid"].iter().any(|end| name.ends_with(end))
}

/// 1.3: staged by this job; else live; else what was retired last for it; else nothing.
fn seen(versions: &[Version], job: Job) -> Option<&Version> {
    let rank = |version: &&Version| match &version.stage {
        Stage::Staged(by) => (*by == job).then_some(u64::MAX),
        Stage::Live => Some(u64::MAX - 1),
        Stage::Retired(at, readers) => readers.contains(&job).then_some(*at),
    };
    versions.iter().filter(|version| rank(version).is_some()).max_by_key(rank)
}

impl Model {
    pub(crate) fn new() -> Model {
        let nodes = vec![Node::Directory(BTreeMap::new())];
        Model { nodes, ..Model::default() }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn running(&self) -> impl Iterator<Item = Job> {
        self.places.iter().flatten().map(|(job, _)| *job)
    }

    fn names(&self, directory: Id) -> Found<&BTreeMap<String, Vec<Version>>> {
        match &self.nodes[directory] {
            Node::Directory(names) => Ok(names),
            // Those that there are lead nowhere.
            Node::Symlink(_) => Err(libc::ENOENT),
            Node::File(_) => Err(libc::ENOTDIR),
        }
    }

    /// The versions of a name, to be changed.
    fn versions(&mut self, (directory, name): (Id, &str)) -> &mut Vec<Version> {
        let Node::Directory(names) = &mut self.nodes[directory] else { panic!("not a directory") };
        names.entry(name.into()).or_default()
    }

    fn view_of(&self, (directory, name): (Id, &str), job: Job) -> Option<&Version> {
        seen(self.names(directory).ok()?.get(name)?, job)
    }

    fn live_of(&self, at: (Id, &str)) -> Option<&Version> {
        self.view_of(at, 0)
    }

    fn walk<'p>(&self, job: Job, names: impl Iterator<Item = &'p str>) -> Found<Id> {
        names.into_iter().try_fold(ROOT, |directory, name| {
            self.names(directory)?;
            Ok(self.view_of((directory, name), job).ok_or(libc::ENOENT)?.node)
        })
    }

    fn parent<'p>(&self, job: Job, path: &'p str) -> Found<(Id, &'p str)> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = self.walk(job, above.split('/').filter(|name| !name.is_empty()))?;
        self.names(directory)?;
        Ok((directory, name))
    }

    fn is_directory(&self, node: Id) -> bool {
        matches!(self.nodes[node], Node::Directory(_))
    }

    /// Whether a walk through `node` can come to `to`, for whomever `through` says.
    fn leads(&self, node: Id, to: Id, through: &dyn Fn(&[Version]) -> Vec<Id>) -> bool {
        let below = |names: &BTreeMap<_, Vec<Version>>| {
            names.values().any(|v| through(v).into_iter().any(|next| self.leads(next, to, through)))
        };
        node == to || self.names(node).is_ok_and(below)
    }

    /// All who run and see what is in `directory`, besides one.
    fn readers(&self, directory: Id, besides: Job) -> BTreeSet<Job> {
        let sees = |job: Job| {
            self.leads(ROOT, directory, &|versions| {
                // What it is writing itself is there for a while only.
                let others = versions.iter().filter(|v| !matches!(v.stage, Stage::Staged(_)));
                let others: Vec<Version> = others.cloned().collect();
                seen(&others, job).map(|v| v.node).into_iter().collect()
            })
        };
        self.running().filter(|&job| job != besides && sees(job)).collect()
    }

    /// Puts a new version where this job sees none or is to see it instead.
    fn put(&mut self, at: (Id, &str), node: Id, stage: Stage, job: Job, is_lock: bool) {
        let added = (self.tick(), job);
        let version = Version {
            node,
            stage,
            maker: Some(job),
            is_lock,
            added,
            replaces: None,
            is_old: false,
        };
        self.versions(at).push(version);
    }

    /// 3.1, 3.2: takes a name out of the live view and that of `job`; others go on seeing what was live.
    fn take_away(&mut self, at: (Id, &str), job: Job, is_kept: bool) {
        let moment = self.tick();
        let readers = if is_kept { self.readers(at.0, job) } else { BTreeSet::new() };
        let versions = self.versions(at);
        for version in versions.iter_mut() {
            match &mut version.stage {
                Stage::Staged(by) if *by == job => {
                    version.stage = Stage::Retired(0, BTreeSet::new())
                }
                Stage::Live => version.stage = Stage::Retired(moment, readers.clone()),
                Stage::Retired(_, readers) => drop(readers.remove(&job)),
                Stage::Staged(_) => {}
            }
        }
        self.sweep();
    }

    /// What nobody sees any more is gone.
    fn sweep(&mut self) {
        for node in &mut self.nodes {
            let Node::Directory(names) = node else { continue };
            for versions in names.values_mut() {
                versions.retain(|v| !matches!(&v.stage, Stage::Retired(_, to) if to.is_empty()));
            }
            names.retain(|_, versions| !versions.is_empty());
        }
    }

    fn unlink(&mut self, job: Job, at: (Id, &str)) -> Found<()> {
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
        self.take_away(at, job, !is_lock_like(at.1) && !was_a_lock);
        Ok(())
    }

    /// 3.6, 3.7
    fn rmdir(&mut self, job: Job, at: (Id, &str)) -> Found<()> {
        let version = self.view_of(at, job).ok_or(libc::ENOENT)?.clone();
        let names = self.names(version.node).map_err(|_| libc::ENOTDIR)?.clone();
        let listed = self.listed.get(&(job, version.node));
        let is_news = |version: &Version| {
            if matches!(version.stage, Stage::Retired(..)) {
                return false;
            }
            let (when, who) = version.added;
            who != job && self.running().any(|r| r == who) && listed.is_some_and(|at| *at < when)
        };
        let is_there = |version: &&Version| match &version.stage {
            Stage::Staged(by) => *by == job,
            Stage::Live => true,
            Stage::Retired(_, readers) => readers.contains(&job),
        };
        if names.values().flatten().filter(is_there).any(|version| !is_news(version)) {
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
        self.take_away(at, job, !is_lock_like(at.1) && !of_no_use);
        Ok(())
    }

    /// 3.4
    fn mkdir(&mut self, job: Job, at: (Id, &str)) -> Found<()> {
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

    fn rename(&mut self, job: Job, from: (Id, &str), to: (Id, &str), is_above: bool) -> Found<()> {
        let version = self.view_of(from, job).ok_or(libc::ENOENT)?;
        let (moved, is_directory) = (version.node, self.is_directory(version.node));
        // The old name of something that lives under another one is not moved once more.
        let is_kept = matches!(version.stage, Stage::Retired(..));
        let is_gone = version.is_old && (is_directory || self.names_of(moved) == 0);
        let is_elsewhere = is_kept && (is_gone || self.links(moved) > 0);
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
        self.take_away(from, job, !is_lock_like(from.1) && !is_own);
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
            version.added = replaced.unwrap_or(version.added);
        }
        self.nobodys_own_below(moved);
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

    fn nobodys_own_below(&mut self, directory: Id) {
        let Node::Directory(names) = &mut self.nodes[directory] else { return };
        let mut below = Vec::new();
        let is_staged = |version: &&mut Version| matches!(version.stage, Stage::Staged(_));
        for version in names.values_mut().flatten().filter(|version| !is_staged(version)) {
            version.maker = None;
            below.push(version.node);
        }
        below.into_iter().for_each(|node| self.nobodys_own_below(node));
    }

    /// 2.1: the staged version of that name becomes live.
    fn publish(&mut self, at: (Id, &str), job: Job, is_closed: bool) -> Found<()> {
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
            staged.added = old.added;
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

    fn open(&mut self, job: Job, at: (Id, &str), how: How) -> Found<Id> {
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
                match version.stage {
                    Stage::Live if !is_shared => {}
                    Stage::Retired(..) if !is_live || !is_shared => {}
                    _ => {
                        self.nodes[version.node] = Node::File(String::new());
                        return Ok(version.node);
                    }
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
    fn is_taken(&self, at: (Id, &str)) -> bool {
        let is_it =
            |v: &Version| matches!(v.stage, Stage::Staged(_)) && v.is_lock && v.replaces.is_none();
        self.names(at.0).is_ok_and(|names| names.get(at.1).is_some_and(|v| v.iter().any(is_it)))
    }

    /// 2.1, 2.4
    fn create(&mut self, job: Job, at: (Id, &str), how: How) -> Found<Id> {
        if how == How::New && self.is_taken(at) {
            return Err(libc::EEXIST);
        }
        let others = self.names(at.0)?.get(at.1).map_or(&[][..], Vec::as_slice);
        let is_empty = |v: &&Version| {
            matches!(v.stage, Stage::Staged(_)) && !v.is_lock && !self.written.contains(&v.node)
        };
        let empty = others.iter().find(is_empty).cloned();
        if let (How::Shared, Some(Version { node, stage: Stage::Staged(by), .. })) = (how, empty) {
            self.publish(at, by, false)?;
            return Ok(node);
        }
        let is_shared = how == How::Shared || is_lock_like(at.1);
        let stage = if is_shared { Stage::Live } else { Stage::Staged(job) };
        let node = self.add(Node::File(String::new()));
        self.put(at, node, stage, job, how == How::New);
        Ok(node)
    }

    fn count(&self, node: Id, which: impl Fn(&Version) -> bool) -> usize {
        let all = self.nodes.iter().filter_map(|node| match node {
            Node::Directory(names) => Some(names.values().flatten()),
            _ => None,
        });
        all.flatten().filter(|version| version.node == node && which(version)).count()
    }

    /// Under how many names a file is live.
    fn links(&self, node: Id) -> usize {
        self.count(node, |version| matches!(version.stage, Stage::Live))
    }

    /// Whether it lives under a name that locks have.
    fn is_lock(&self, file: Id) -> bool {
        let is_it = |v: &Version| v.node == file && matches!(v.stage, Stage::Live);
        self.nodes.iter().any(|node| match node {
            Node::Directory(names) => {
                names.iter().any(|(name, v)| is_lock_like(name) && v.iter().any(is_it))
            }
            _ => false,
        })
    }

    /// The same with those under which it is kept.
    fn names_of(&self, node: Id) -> usize {
        self.count(node, |version| !matches!(version.stage, Stage::Staged(_)) && !version.is_old)
    }

    /// Where a job stages that file.
    fn staged_at(&self, job: Job, file: Id) -> Option<(Id, String)> {
        let is_it =
            |v: &Version| v.node == file && matches!(v.stage, Stage::Staged(by) if by == job);
        self.nodes.iter().enumerate().find_map(|(id, node)| match node {
            Node::Directory(names) => {
                names.iter().find(|(_, v)| v.iter().any(is_it)).map(|(name, _)| (id, name.clone()))
            }
            _ => None,
        })
    }

    fn close(&mut self, job: Job, handle: &Handle) -> Found<()> {
        if matches!(handle.how, How::New | How::Create | How::Truncate)
            && let Some((directory, name)) = self.staged_at(job, handle.node)
        {
            self.publish((directory, &name), job, true)?;
        }
        Ok(())
    }

    /// 2.6, and the end of 3.2
    fn end(&mut self, place: usize) {
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

    fn link(&mut self, job: Job, from: (Id, &str), to: (Id, &str)) -> Found<()> {
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

    fn symlink(&mut self, job: Job, at: (Id, &str), text: &str) -> Found<()> {
        if self.view_of(at, job).is_some() || self.is_taken(at) {
            return Err(libc::EEXIST);
        }
        let node = self.add(Node::Symlink(text.into()));
        self.put(at, node, Stage::Live, job, true);
        Ok(())
    }

    fn list(&mut self, job: Job, path: &str) -> Outcome {
        let directory = self.walk(job, path.split('/').filter(|name| !name.is_empty()))?;
        let names = self.names(directory)?.iter().filter(|(_, v)| seen(v, job).is_some());
        let list = names.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ");
        let now = self.tick();
        self.listed.insert((job, directory), now);
        Ok(list)
    }

    fn on_handle(&mut self, place: usize, act: Act, text: &str) -> Outcome {
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

    fn look(&self, job: Job, directory: Id, above: &str, view: &mut View) {
        for name in NAMES {
            let Some(version) = self.view_of((directory, name), job) else { continue };
            let path = format!("{above}{name}");
            let seen = match &self.nodes[version.node] {
                Node::File(text) => Seen::File(text.clone()),
                Node::Symlink(text) => Seen::Symlink(text.clone()),
                Node::Directory(_) => {
                    self.look(job, version.node, &format!("{path}/"), view);
                    Seen::Directory
                }
            };
            view.insert(path, seen);
        }
    }

    fn view_from(&self, job: Job) -> View {
        let mut view = View::new();
        self.look(job, ROOT, "", &mut view);
        view
    }
}

impl World for Model {
    fn act(&mut self, place: usize, act: Act, text: &str) -> Outcome {
        if self.places[place].is_none() {
            self.last_job += 1;
            self.places[place] = Some((self.last_job, Vec::new()));
        }
        let job = self.places[place].as_ref().map_or(0, |(job, _)| *job);
        let done = match act {
            Act::Begin => Ok(()),
            Act::Open(path, how) => self.parent(job, path).and_then(|at| {
                let node = self.open(job, at, how)?;
                let (_, handles) = self.places[place].as_mut().unwrap();
                handles.push(Handle { node, how, at: 0 });
                Ok(())
            }),
            Act::Write(_) | Act::Read(_) | Act::Close(_) => {
                return self.on_handle(place, act, text);
            }
            Act::Unlink(path) => self.parent(job, path).and_then(|at| self.unlink(job, at)),
            Act::Mkdir(path) => self.parent(job, path).and_then(|at| self.mkdir(job, at)),
            Act::Rmdir(path) => self.parent(job, path).and_then(|at| self.rmdir(job, at)),
            Act::Rename(old, new) => self.parent(job, old).and_then(|from| {
                let to = self.parent(job, new)?;
                if new.starts_with(&format!("{old}/")) && self.view_of(from, job).is_some() {
                    return Err(libc::EINVAL);
                }
                self.rename(job, from, to, old.starts_with(&format!("{new}/")))
            }),
            Act::Link(from, to) => self.parent(job, from).and_then(|from| {
                self.view_of(from, job).ok_or(libc::ENOENT)?;
                let to = self.parent(job, to)?;
                self.link(job, from, to)
            }),
            Act::Symlink(path) => self.parent(job, path).and_then(|at| self.symlink(job, at, text)),
            Act::List(path) => return self.list(job, path),
            Act::End => {
                let handles = self.places[place].take().unwrap().1;
                self.places[place] = Some((job, Vec::new()));
                // Whoever ends does not hear what comes of it.
                for handle in &handles {
                    let _ = self.close(job, handle);
                }
                self.end(place);
                Ok(())
            }
            Act::Kill => {
                self.end(place);
                Ok(())
            }
        };
        done.map(|()| String::new())
    }

    fn clean(&mut self, path: &str) -> Outcome {
        debug_assert_ne!(path, DOOR);
        let at = self.parent(0, path).map_err(|_| libc::ENOENT)?;
        self.live_of(at).ok_or(libc::ENOENT)?;
        self.take_away(at, 0, !is_lock_like(at.1));
        Ok(String::new())
    }

    fn view(&mut self, place: usize) -> View {
        self.view_from(self.places[place].as_ref().map_or(0, |(job, _)| *job))
    }

    fn live(&mut self) -> View {
        self.view_from(0)
    }
}
