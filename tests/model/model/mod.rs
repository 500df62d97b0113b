//! The reference: SEMANTICS 1 to 3 once more, in as few lines as they need, with everything in memory and
//! nobody at the same time.

mod files;
mod names;

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
    /// Directories that were renamed.
    moved: BTreeSet<Id>,
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

    /// 3.7: a name by which tools lock, and no part of what was put in place.
    fn is_lock_name(&self, (directory, name): (Id, &str)) -> bool {
        let there = |versions: &[Version]| {
            let is_there = |v: &&Version| !v.is_old && !matches!(v.stage, Stage::Staged(_));
            versions.iter().filter(is_there).map(|v| v.node).collect()
        };
        is_lock_like(name) && !self.moved.iter().any(|&moved| self.leads(moved, directory, &there))
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

    fn list(&mut self, job: Job, path: &str) -> Outcome {
        let directory = self.walk(job, path.split('/').filter(|name| !name.is_empty()))?;
        let names = self.names(directory)?.iter().filter(|(_, v)| seen(v, job).is_some());
        let list = names.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ");
        let now = self.tick();
        self.listed.insert((job, directory), now);
        Ok(list)
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
        self.take_away(at, 0, !self.is_lock_name(at));
        Ok(String::new())
    }

    fn view(&mut self, place: usize) -> View {
        self.view_from(self.places[place].as_ref().map_or(0, |(job, _)| *job))
    }

    fn live(&mut self) -> View {
        self.view_from(0)
    }
}
