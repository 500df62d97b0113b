//! Listing directories.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cachefs_mount::{
    Caller, Entry, Errno, HandleId, Kind, Listed, ListingSink, Name, NodeId, Result,
};
use parking_lot::Mutex;

use super::Cache;
use super::handles::{Handle, Listing, Open};
use super::lookup::Seen;
use super::resolve::{errno, known_kind, open_at, status};
use super::tree::{FileKey, Node, known_name};
use super::view::Reader;
use crate::platform;
use crate::platform::fd::OwnedFd;
use crate::platform::ffi::OsStrExt;
use crate::platform::fs::OFlags;

/// An open directory of the store, and what was listed of it.
#[derive(Debug)]
pub(super) struct Stream {
    entries: platform::fs::Entries,
    /// The live ones that were listed: the offset after each, and its name. What is removed after it was
    /// listed must not follow once more, and what was removed before must.
    listed: Vec<(u64, u64)>,
    names: RandomState,
    /// What follows the live ones, once they have been listed.
    others: Option<Vec<Other>>,
    /// The kernel has listed what comes before by itself, as it remembered it.
    goes_on: bool,
}

/// Number, name and node of a version that is not live.
type Other = (u64, Box<[u8]>, NodeId);

/// Set in the offsets of what is not live. No filesystem uses it: offsets are signed (`lseek(2)`). So
/// one can't seek there, only go on.
const OTHERS: u64 = 1 << 63;

/// What became of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Put {
    Listed,
    /// It is not there, for this reader.
    LeftOut,
    NoRoom,
}

impl Put {
    fn of(taken: bool) -> Put {
        if taken { Put::Listed } else { Put::NoRoom }
    }
}

impl Stream {
    fn new(descriptor: OwnedFd) -> Stream {
        Stream {
            entries: platform::fs::Entries::new(descriptor),
            listed: Vec::new(),
            names: RandomState::new(),
            others: None,
            goes_on: false,
        }
    }

    /// The kernel goes on at `offset`: what was listed after that, it had no room for.
    fn forget_listed_after(&mut self, offset: u64) {
        let kept = self.listed.iter().rposition(|(next, _)| *next == offset);
        self.listed.truncate(kept.map_or(0, |last| last + 1));
    }

    /// Those others that were not listed while they were live.
    fn not_yet_listed(&self, mut others: Vec<Other>) -> Vec<Other> {
        if !others.is_empty() {
            let listed: HashSet<u64> = self.listed.iter().map(|(_, name)| *name).collect();
            others.retain(|(_, name, _)| !listed.contains(&self.names.hash_one(&**name)));
        }
        others
    }
}

impl Cache {
    pub(super) fn open_directory(&self, caller: &Caller, id: NodeId) -> Result<(HandleId, bool)> {
        let node = self.tree.get(id)?;
        if node.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.part(caller, &node)?;
        let user = self.user(caller);
        self.admit(user)?;
        let versioned = self.tree.versioned(&node);
        // What one user sees must not get into the kernel's one listing for all.
        let same = versioned.same_for_all() && user.is_none();
        let job = self.readers.job(caller);
        let process = self.readers.process(caller);
        // Who removes a tree opens directories that he has listed only to get back to them (`fts`, by "..").
        // Whether he lists them again, he is to say himself.
        let gets_back = job.has_removed() && job.listed(versioned.id.0).is_some();
        if !gets_back {
            // The kernel may have a listing and ask for no other.
            job.note_listed(versioned.id.0, self.readers.tick(), process);
        }
        let cached = same && !gets_back;
        // Between two directories he still removes the same tree.
        let counts = cached || gets_back && job.lists_any();
        if counts {
            self.begin_to_list(&job, versioned.id);
        }
        // Who takes a name away has his answer before the kernel forgets the listing that it is in. Asked for after
        // it is known that this one lists: who takes one away later keeps it for him.
        let cached = cached && !versioned.was_thinned_lately();
        let open = Open::Directory(Mutex::new(Listing { stream: None, counts, cached }));
        let handle = Handle { node: id, job, process, uid: caller.uid, user, open };
        Ok((self.handles.insert(handle), cached))
    }

    pub(super) fn release_directory(&self, id: HandleId) {
        let Some(handle) = self.handles.remove(id) else { return };
        self.dismiss(handle.user);
        if !matches!(&handle.open, Open::Directory(listing) if listing.lock().counts) {
            return;
        }
        let versioned = self.tree.get(handle.node).map(|node| self.tree.versioned(&node).id);
        let versioned = versioned.unwrap_or(handle.node);
        let job = &handle.job;
        let ended = job.ends_to_list(versioned.0);
        self.listings.fetch_sub(1, Ordering::AcqRel);
        for folder in ended {
            self.drop_kept_while_listed(job.id, NodeId(folder));
        }
        self.removes_no_more(job);
    }

    fn open_stream(&self, id: NodeId) -> Result<Stream> {
        let directory = self.directory(id)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        // Who lists it does not use what lies in it. Only the owner and root may leave no trace.
        let opened = match open_at(&*directory, b".", flags | OFlags::NOATIME) {
            Err(Errno::EPERM) => open_at(&*directory, b".", flags),
            opened => opened,
        };
        Ok(Stream::new(opened?))
    }

    pub(super) fn read_directory(
        &self,
        id: HandleId,
        offset: u64,
        sink: &mut dyn ListingSink,
    ) -> Result<()> {
        let handle = self.handles.get(id)?;
        let Open::Directory(listing) = &handle.open else { return Err(Errno::ENOTDIR) };
        let node = self.tree.get(handle.node)?;
        let versioned = self.tree.versioned(&node);
        if offset == 0 {
            handle.job.note_listed(versioned.id.0, self.readers.tick(), handle.process);
            // Whoever removes what he lists now means it.
            handle.job.forget_spared(self.tree.number(versioned.key()).0);
            self.drop_kept_while_listed(handle.job.id, versioned.id);
        }
        // Only those who list by this very handle wait for each other here.
        let mut listing = listing.lock();
        let cached = listing.cached;
        if !std::mem::replace(&mut listing.counts, true) {
            self.begin_to_list(&handle.job, versioned.id);
        }
        let stream = match &mut listing.stream {
            Some(stream) => stream,
            none => {
                let stream = none.insert(self.open_stream(handle.node)?);
                stream.goes_on = offset != 0;
                stream
            }
        };
        let reader = handle.job.reader_as(handle.user);
        let mut any = false;
        if offset & OTHERS == 0 {
            stream.entries.go_to(offset).map_err(errno)?;
            stream.forget_listed_after(offset);
            stream.others = None;
            let (directory, names) = (self.directory(handle.node)?, stream.names.clone());
            while let Some(raw) = stream.entries.peek().map_err(errno)? {
                let (length, next, name) = (raw.length, raw.next, raw.name.as_bytes());
                let name = names.hash_one(name);
                let put = self.list_one(&node, &versioned, &directory, &raw, reader, sink)?;
                if put == Put::NoRoom {
                    return Ok(());
                }
                stream.entries.advance(length, next);
                stream.goes_on = false;
                if put == Put::Listed {
                    any = true;
                    stream.listed.push((next, name));
                }
            }
        }
        let others = match stream.others {
            Some(ref others) => others,
            None => {
                // The kernel remembers a listing of a directory in which there were none: what is one now was live
                // then, and was listed.
                let others = match stream.goes_on {
                    true => Vec::new(),
                    false => stream.not_yet_listed(self.others_in(&node, &versioned, reader)?),
                };
                stream.others.insert(others)
            }
        };
        if cached && !others.is_empty() {
            // The kernel remembers for all what it is told, and is not to remember what only this reader sees. It
            // can't put that where it has put the rest, once it has let go of that; and it asks for it anew.
            if any {
                return Ok(());
            }
            if let Some(kernel) = self.kernel.get() {
                kernel.changed(handle.node).map_err(|_| Errno::EIO)?;
            }
        }
        // The offsets of what is live say nothing of these.
        let after = if offset & OTHERS == 0 { 0 } else { offset & !OTHERS };
        for (number, name, id) in others.iter().filter(|(number, ..)| *number > after) {
            if !self.list_kept(&node, known_name(name), *id, OTHERS | number, sink) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What a reader sees in a directory that is not live there.
    fn others_in(&self, node: &Node, versioned: &Node, reader: Reader) -> Result<Vec<Other>> {
        let directory = self.directory(node.id)?;
        if !versioned.same_for_all() || self.readers.removals_began().is_some() {
            // What is just being removed is not live any more, and has no version yet.
            drop(self.moves.write());
        }
        let mut others = Vec::new();
        for (name, kept) in versioned.all_versions_for(reader.user) {
            if status(&*directory, &name).is_ok() {
                // Listed among the live ones.
                continue;
            }
            if let Seen::Kept(id) = self.choose(&kept, None, reader) {
                let number = kept.iter().find(|kept| kept.version.what == id);
                others.push((number.map_or(0, |kept| kept.number), name, id));
            }
        }
        others.sort_unstable_by_key(|(number, ..)| *number);
        Ok(others)
    }

    /// Puts a version that is not live into the sink; false when there is no room for it.
    fn list_kept(
        &self,
        folder: &Arc<Node>,
        name: Name<'_>,
        id: NodeId,
        next: u64,
        sink: &mut dyn ListingSink,
    ) -> bool {
        let Ok(entry) = self.kept_entry_in(folder, name, id) else { return true };
        let (id, kind) = (entry.attributes.node, entry.attributes.kind);
        let name = name.as_os_str();
        let taken = sink.take(&Listed { name, node: id, kind, next, entry: Some(entry) });
        if !taken || !sink.wants_attributes() {
            self.give_back(id, 1);
        }
        taken
    }

    /// Puts one entry into the sink.
    fn list_one(
        &self,
        directory: &Arc<Node>,
        versioned: &Node,
        descriptor: &OwnedFd,
        raw: &platform::fs::Entry<'_>,
        reader: Reader,
        sink: &mut dyn ListingSink,
    ) -> Result<Put> {
        let bare = |node, kind| Listed { name: raw.name, node, kind, next: raw.next, entry: None };
        match raw.name.as_bytes() {
            b"." => return Ok(Put::of(sink.take(&bare(directory.id, Kind::Directory)))),
            b".." => {
                let parent = directory.place().map_or(directory.id, |place| place.parent());
                return Ok(Put::of(sink.take(&bare(parent, Kind::Directory))));
            }
            _ => {}
        }
        let Ok(name) = Name::new(raw.name) else { return Ok(Put::LeftOut) };
        if self.is_private(directory.id, name) {
            return Ok(Put::LeftOut);
        }
        let plain = !sink.wants_attributes();
        if plain
            && versioned.is_plain(name)
            && let Some(kind) = known_kind(raw.kind)
        {
            let key = FileKey { device: directory.key().device, inode: raw.inode };
            let number = self.found_as(self.tree.number_below(key, kind, directory.face));
            return Ok(Put::of(sink.take(&bare(number, kind))));
        }
        // A name that went away meanwhile is left out.
        let Ok((Some(live), kept)) = self.look(directory, descriptor, name) else {
            return Ok(Put::LeftOut);
        };
        let entry = match self.choose_or_give_back(&kept, Some(live), reader) {
            Seen::Live(live) => {
                let name_valid = match kept.is_empty() {
                    true => self.names_valid(directory),
                    false => Duration::ZERO,
                };
                Entry { name_valid, ..self.live_entry(&live) }
            }
            Seen::Kept(id) => {
                return Ok(Put::of(self.list_kept(directory, name, id, raw.next, sink)));
            }
            Seen::Nothing => return Ok(Put::LeftOut),
        };
        let listed = Listed {
            node: entry.attributes.node,
            kind: entry.attributes.kind,
            entry: Some(entry),
            ..bare(directory.id, Kind::File)
        };
        let taken = sink.take(&listed);
        if !taken || plain {
            self.give_back(entry.attributes.node, 1);
        }
        Ok(Put::of(taken))
    }

    pub(super) fn sync_directory(&self, id: HandleId) -> Result<()> {
        let handle = self.handles.get(id)?;
        let stream = self.open_stream(handle.node)?;
        platform::fs::fsync(stream.entries.descriptor()).map_err(errno)
    }
}
