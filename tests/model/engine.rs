//! Programs run against the engine itself, by a kernel that caches nothing.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachefs::cache::{Access, Cache, CacheOptions, CleanError, Keep, PruneOptions};
use cachefs::readers::made_up::MadeUp;
use cachefs::readers::{Grouping, ReaderOptions, Readers};
use cachefs::store::{PRIVATE, Store, Wishes};
use cachefs_mount::{
    Caller, Entry, Errno, HandleId, Kind, Listed, ListingSink, Lookup, Name, NodeId, Notify,
    OpenFlags, RenameFlags, Result, Volume,
};

use crate::program::{Act, DOOR, How, JOBS, NAMES, Outcome, Seen, View, World};

/// A kernel: finds paths name by name, and asks for each every time.
pub(crate) struct Engine {
    cache: Arc<Cache>,
    /// What it was told and has not given back. A kernel with little memory gives back at once.
    memory: Option<Mutex<Vec<NodeId>>>,
    /// Nodes that are always there.
    nodes: u64,
    system: Arc<MadeUp>,
    places: [Process; JOBS],
    /// Who acts in which place.
    users: [u32; JOBS],
    last_pid: u32,
    directory: tempfile::TempDir,
}

#[derive(Default)]
struct Process {
    /// 0 if there is none.
    pid: u32,
    files: Vec<File>,
}

struct File {
    handle: HandleId,
    node: NodeId,
    wants_flush: bool,
    how: How,
    at: u64,
    /// Nodes that the kernel knows as long as this is open.
    known: Vec<NodeId>,
}

/// A kernel without a cache need not be told what has changed.
pub(crate) struct Deaf;

impl Notify for Deaf {
    fn expire(&self, _: NodeId, _: &OsStr) -> io::Result<()> {
        Ok(())
    }

    fn changed(&self, _: NodeId) -> io::Result<()> {
        Ok(())
    }

    fn device(&self) -> (u32, u32) {
        (0, 0)
    }
}

/// Nodes that were told to the kernel, in the course of one call.
struct Known<'a>(&'a Engine, Vec<NodeId>);

fn give_back(cache: &Cache, nodes: &[NodeId]) {
    for node in nodes.iter().rev() {
        cache.forget(*node, 1);
    }
}

impl Known<'_> {
    fn take(&mut self, entry: &Entry) -> (NodeId, Kind) {
        self.1.push(entry.attributes.node);
        (entry.attributes.node, entry.attributes.kind)
    }
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        match &self.0.memory {
            Some(memory) => memory.lock().unwrap().append(&mut self.1),
            None => give_back(&self.0.cache, &self.1),
        }
    }
}

struct Names(Vec<String>);

impl ListingSink for Names {
    fn wants_attributes(&self) -> bool {
        false
    }

    fn take(&mut self, entry: &Listed<'_>) -> bool {
        self.0.push(entry.name.to_str().unwrap().to_owned());
        true
    }
}

pub(crate) fn name(text: &str) -> Name<'_> {
    Name::new(OsStr::new(text)).unwrap()
}

fn flags(how: How) -> OpenFlags {
    let mut flags = if how.writes() { OpenFlags::WRITE } else { OpenFlags::READ };
    flags.set(OpenFlags::TRUNCATE, how.truncates());
    flags.set(OpenFlags::APPEND, how == How::Append);
    flags.set(OpenFlags::EXCLUSIVE, how == How::New);
    flags
}

fn read(cache: &Cache, handle: HandleId) -> Result<String> {
    let mut buffer = [0; 4096];
    let length = cache.read(handle, 0, &mut buffer)?;
    Ok(String::from_utf8(buffer[..length].to_vec()).unwrap())
}

impl Engine {
    pub(crate) fn new(remembers: bool) -> Engine {
        Self::with(remembers, Access::Shared { owner: (0, 0) }, [0; JOBS])
    }

    /// In each place another user, of whom root alone is trusted.
    pub(crate) fn for_users(users: [u32; JOBS]) -> Engine {
        let access = Access::Scoped { owner: (0, 0), trusted: Vec::new() };
        Self::with(true, access, users)
    }

    fn with(remembers: bool, access: Access, users: [u32; JOBS]) -> Engine {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(DOOR), "").unwrap();
        let system = MadeUp::new();
        let options = ReaderOptions { grouping: Grouping::Tree, idle: Duration::from_secs(5) };
        let readers = Arc::new(Readers::new(system.clone(), options));
        let apart = matches!(access, Access::Scoped { .. });
        let wishes = Wishes { users: apart, ..Wishes::default() };
        let store = Arc::new(Store::open_as(directory.path(), &wishes).unwrap());
        let (keep, pruning) = (Keep::default(), PruneOptions::default());
        let quotas = Default::default();
        let options = CacheOptions { access, quotas, descriptors: 16, keep, pruning };
        let cache = Cache::new(store, options, readers).unwrap();
        cache.mounted(Arc::new(Deaf));
        let nodes = cache.counts().nodes;
        let memory = remembers.then(Mutex::default);
        Engine {
            cache,
            memory,
            nodes,
            system,
            places: Default::default(),
            users,
            last_pid: 100,
            directory,
        }
    }

    fn caller(&self, place: usize) -> Caller {
        Caller { uid: self.users[place], gid: 0, thread: self.places[place].pid }
    }

    fn lookup(
        &self,
        caller: &Caller,
        known: &mut Known<'_>,
        parent: NodeId,
        text: &str,
    ) -> Result<Option<(NodeId, Kind)>> {
        Ok(match self.cache.lookup(caller, parent, name(text))? {
            Lookup::Found(entry) => Some(known.take(&entry)),
            Lookup::Absent { .. } => None,
        })
    }

    fn walk(&self, caller: &Caller, known: &mut Known<'_>, path: &str) -> Result<NodeId> {
        let mut node = NodeId::ROOT;
        for text in path.split('/').filter(|text| !text.is_empty()) {
            let found = self.lookup(caller, known, node, text)?;
            let (next, kind) = found.ok_or(Errno::ENOENT)?;
            match kind {
                Kind::Directory => node = next,
                // Those that there are lead nowhere.
                Kind::Symlink => return Err(Errno::ENOENT),
                _ => return Err(Errno::ENOTDIR),
            }
        }
        Ok(node)
    }

    fn parent<'p>(
        &self,
        caller: &Caller,
        known: &mut Known<'_>,
        path: &'p str,
    ) -> Result<(NodeId, &'p str)> {
        let (above, text) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.walk(caller, known, above)?, text))
    }

    /// As the kernel does when it is told that what it knew of a path is out of date.
    fn again_if_stale<T>(&self, call: impl Fn(&mut Known<'_>) -> Result<T>) -> Result<T> {
        let once = || call(&mut Known(self, Vec::new()));
        match once() {
            Err(Errno::ESTALE) => once(),
            result => result,
        }
    }

    fn open(&self, caller: &Caller, known: &mut Known<'_>, path: &str, how: How) -> Result<File> {
        let (parent, text) = self.parent(caller, known, path)?;
        let (node, opened) = match self.lookup(caller, known, parent, text)? {
            Some(_) if how == How::New => return Err(Errno::EEXIST),
            Some((_, Kind::Symlink)) => return Err(Errno::ELOOP),
            Some((_, Kind::Directory)) => return Err(Errno::EISDIR),
            Some((node, _)) => (node, self.cache.open(caller, node, flags(how))?),
            None if how.creates() => {
                let name = name(text);
                let (entry, opened) = self.cache.create(caller, parent, name, 0o644, flags(how))?;
                (known.take(&entry).0, opened)
            }
            None => return Err(Errno::ENOENT),
        };
        let (handle, wants_flush) = (opened.handle, opened.wants_flush);
        Ok(File { handle, node, wants_flush, how, at: 0, known: std::mem::take(&mut known.1) })
    }

    fn close(&mut self, place: usize, file: File) -> Result<()> {
        let caller = self.caller(place);
        if self.places[place].files.iter().all(|other| other.node != file.node) {
            self.system.close(caller.thread, file.node.0);
        }
        let flushed = match file.wants_flush {
            true => self.cache.flush(&caller, file.handle),
            false => Ok(()),
        };
        self.cache.release(file.handle);
        drop(Known(self, file.known));
        flushed
    }

    fn on_file(&mut self, place: usize, act: Act, text: &str) -> Result<String> {
        let caller = self.caller(place);
        let (Act::Write(which) | Act::Read(which) | Act::Close(which)) = act else { panic!() };
        let count = self.places[place].files.len();
        if count == 0 {
            return Ok(String::new());
        }
        let file = &mut self.places[place].files[which as usize % count];
        match act {
            Act::Write(_) if file.how.writes() => {
                if file.how == How::Append {
                    let handle = Some(file.handle);
                    file.at = self.cache.attributes(&caller, file.node, handle)?.0.size;
                }
                let done = self.cache.write(file.handle, file.at, text.as_bytes())?;
                assert_eq!(done, text.len());
                file.at += done as u64;
            }
            Act::Read(_) if !file.how.writes() => return read(&self.cache, file.handle),
            Act::Close(_) => {
                let file = self.places[place].files.remove(which as usize % count);
                // What it says is not of the contract.
                let _ = self.close(place, file);
            }
            _ => {}
        }
        Ok(String::new())
    }

    fn rename(
        &self,
        caller: &Caller,
        known: &mut Known<'_>,
        (from, to): (&str, &str),
    ) -> Result<()> {
        let (from, name_from) = self.parent(caller, known, from)?;
        let above_from = known.1.clone();
        let (to, name_to) = self.parent(caller, known, to)?;
        let above_to = known.1[above_from.len()..].to_vec();
        let moved = self.lookup(caller, known, from, name_from)?.ok_or(Errno::ENOENT)?;
        let target = self.lookup(caller, known, to, name_to)?;
        if above_to.contains(&moved.0) {
            return Err(Errno::EINVAL);
        }
        match target {
            Some((node, _)) if above_from.contains(&node) => return Err(Errno::ENOTEMPTY),
            Some((node, _)) if node == moved.0 => return Ok(()),
            Some((_, kind)) if kind != moved.1 => {
                if kind == Kind::Directory {
                    return Err(Errno::EISDIR);
                }
                if moved.1 == Kind::Directory {
                    return Err(Errno::ENOTDIR);
                }
            }
            _ => {}
        }
        let (old, new) = (name(name_from), name(name_to));
        self.cache.rename(caller, from, old, to, new, RenameFlags::empty())
    }

    /// Calls that walk paths, and what they do where these end.
    fn by_path(&self, caller: &Caller, known: &mut Known<'_>, act: Act, text: &str) -> Result<()> {
        let (Act::Unlink(path)
        | Act::Mkdir(path)
        | Act::Rmdir(path)
        | Act::Symlink(path)
        | Act::Rename(path, _)
        | Act::Link(path, _)) = act
        else {
            panic!("{act:?}")
        };
        if let Act::Rename(from, to) = act {
            return self.rename(caller, known, (from, to));
        }
        let (parent, last) = self.parent(caller, known, path)?;
        let found = self.lookup(caller, known, parent, last)?;
        let there = found.ok_or(Errno::ENOENT);
        let name = name(last);
        match act {
            Act::Unlink(_) if there?.1 == Kind::Directory => Err(Errno::EISDIR),
            Act::Unlink(_) => self.cache.remove_file(caller, parent, name),
            Act::Rmdir(_) if there?.1 != Kind::Directory => Err(Errno::ENOTDIR),
            Act::Rmdir(_) => self.cache.remove_directory(caller, parent, name),
            Act::Link(_, to) => {
                let (node, kind) = there?;
                let (parent, last) = self.parent(caller, known, to)?;
                match self.lookup(caller, known, parent, last)? {
                    Some(_) => return Err(Errno::EEXIST),
                    None if kind == Kind::Directory => return Err(Errno::EPERM),
                    None => {}
                }
                let name = self::name(last);
                self.cache
                    .make_link(caller, node, parent, name)
                    .map(|new| known.1.push(new.attributes.node))
            }
            _ if found.is_some() => Err(Errno::EEXIST),
            Act::Mkdir(_) => {
                let made = self.cache.make_directory(caller, parent, name, 0o755);
                made.map(|new| known.1.push(new.attributes.node))
            }
            _ => {
                let made = self.cache.make_symlink(caller, parent, name, OsStr::new(text));
                made.map(|new| known.1.push(new.attributes.node))
            }
        }
    }

    fn list(&self, caller: &Caller, known: &mut Known<'_>, path: &str) -> Result<String> {
        let node = self.walk(caller, known, path)?;
        let (handle, _) = self.cache.open_directory(caller, node)?;
        let mut names = Names(Vec::new());
        let listed = self.cache.read_directory(caller, handle, 0, &mut names);
        self.cache.release_directory(handle);
        listed?;
        assert!(!names.0.iter().any(|name| name == PRIVATE));
        names.0.retain(|name| NAMES.contains(&name.as_str()));
        names.0.sort();
        Ok(names.0.join(" "))
    }

    fn look(&self, caller: &Caller, parent: NodeId, above: &str, view: &mut View) -> Result<()> {
        for text in NAMES {
            let known = &mut Known(self, Vec::new());
            let Some((node, kind)) = self.lookup(caller, known, parent, text)? else { continue };
            let path = format!("{above}{text}");
            let seen = match kind {
                Kind::Directory => {
                    self.look(caller, node, &format!("{path}/"), view)?;
                    Seen::Directory
                }
                Kind::Symlink => {
                    let target = self.cache.read_link(caller, node)?;
                    Seen::Symlink(String::from_utf8(target).unwrap())
                }
                _ => {
                    let opened = self.cache.open(caller, node, OpenFlags::READ)?;
                    let contents = read(&self.cache, opened.handle);
                    self.cache.release(opened.handle);
                    Seen::File(contents?)
                }
            };
            view.insert(path, seen);
        }
        Ok(())
    }

    /// When nobody is left, nothing is left but what is live.
    pub(crate) fn end(mut self) -> std::result::Result<(), String> {
        for place in 0..JOBS {
            self.act(place, Act::End, "").map_err(|errno| format!("ending: {errno}"))?;
        }
        if let Some(memory) = &self.memory {
            give_back(&self.cache, &std::mem::take(&mut *memory.lock().unwrap()));
        }
        let left = || crate::common::not_live(self.directory.path());
        // Reclaiming is nobody's business while he waits for an answer.
        for _ in 0..500 {
            let counts = self.cache.counts();
            if left().is_empty() && (counts.nodes, counts.handles) == (self.nodes, 0) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(format!("at the end there are {:?} and {:?}", self.cache.counts(), left()))
    }
}

/// What lies in a store.
pub(crate) fn on_disk(directory: &Path, above: &str, view: &mut View) {
    for name in NAMES {
        let path = directory.join(name);
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let inside = format!("{above}{name}");
        let seen = if metadata.is_dir() {
            on_disk(&path, &format!("{inside}/"), view);
            Seen::Directory
        } else if metadata.is_symlink() {
            Seen::Symlink(std::fs::read_link(&path).unwrap().to_str().unwrap().to_owned())
        } else {
            Seen::File(std::fs::read_to_string(&path).unwrap())
        };
        view.insert(inside, seen);
    }
}

impl World for Engine {
    fn act(&mut self, place: usize, act: Act, text: &str) -> Outcome {
        if self.places[place].pid == 0 {
            self.last_pid += 1;
            self.places[place].pid = self.last_pid;
            self.system.start(self.last_pid, 1);
        }
        let caller = &self.caller(place);
        let nothing = |()| String::new();
        let done = match act {
            Act::Begin => self
                .again_if_stale(|known| self.open(caller, known, DOOR, How::Read))
                .and_then(|file| self.close(place, file))
                .map(nothing),
            Act::Open(path, how) => self
                .again_if_stale(|known| self.open(caller, known, path, how))
                .map(|file| {
                    self.system.open(caller.thread, file.node.0);
                    self.places[place].files.push(file);
                })
                .map(nothing),
            Act::Write(_) | Act::Read(_) | Act::Close(_) => self.on_file(place, act, text),
            Act::List(path) => self.again_if_stale(|known| self.list(caller, known, path)),
            Act::End | Act::Kill => {
                if act == Act::Kill {
                    self.system.kill(caller.thread);
                }
                while !self.places[place].files.is_empty() {
                    let file = self.places[place].files.remove(0);
                    // Whoever ends does not hear what comes of it.
                    let _ = self.close(place, file);
                }
                self.system.end(caller.thread);
                // What was kept for it may be reclaimed now, and nothing else.
                std::thread::sleep(Duration::from_micros(300));
                self.places[place].pid = 0;
                Ok(String::new())
            }
            _ => self.again_if_stale(|known| self.by_path(caller, known, act, text)).map(nothing),
        };
        done.map_err(Errno::raw)
    }

    fn clean(&mut self, path: &str) -> Outcome {
        match self.cache.clean(&[PathBuf::from(path)], 0) {
            Ok(_) => Ok(String::new()),
            Err(CleanError::Absent(_)) => Err(libc::ENOENT),
            Err(error) => panic!("{error}"),
        }
    }

    fn view(&mut self, place: usize) -> View {
        let mut view = View::new();
        let looked = self.look(&self.caller(place), NodeId::ROOT, "", &mut view);
        if let Err(errno) = looked {
            view.insert(format!("then {errno:?}"), Seen::Directory);
        }
        view
    }

    fn live(&mut self) -> View {
        let mut view = View::new();
        on_disk(self.directory.path(), "", &mut view);
        view
    }
}
