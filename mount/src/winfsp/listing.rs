//! What a directory search finds: a listing as it was when the search began, in the order of names.

use std::os::windows::ffi::OsStrExt;

use super::names::fold;
use super::pattern::matches;
use crate::{Attributes, Caller, Kind, Listed, ListingSink, Lookup, Name, NodeId, Result, Volume};

/// One name of a listing.
pub(super) struct Item {
    /// What it is sorted by: `.`, `..`, then the others whatever their case.
    key: (u8, Vec<u16>),
    pub(super) name: Vec<u16>,
    pub(super) attributes: Attributes,
}

/// The sorted names of a directory.
#[derive(Default)]
pub(super) struct Listing(Vec<Item>);

impl Listing {
    /// Lists `directory`, whose own attributes `.` and `..` get, except in the root, which has neither.
    pub(super) fn new<V: Volume>(
        volume: &V,
        caller: &Caller,
        directory: &Attributes,
    ) -> Result<Listing> {
        let (handle, _) = volume.open_directory(caller, directory.node)?;
        let mut sink = Sink { volume, caller, directory, items: Vec::new(), next: None };
        let mut offset = 0;
        let listed = loop {
            match volume.read_directory(caller, handle, offset, &mut sink) {
                Ok(()) => match sink.next.take() {
                    Some(next) => offset = next,
                    None => break Ok(sink.items),
                },
                Err(errno) => break Err(errno),
            }
        };
        volume.release_directory(handle);
        let mut items = listed?;
        items.sort_by(|one, other| (&one.key, &one.name).cmp(&(&other.key, &other.name)));
        Ok(Listing(items))
    }

    /// What comes after the name `marker` (everything, if there is none) and matches `pattern`.
    pub(super) fn after(
        &self,
        marker: Option<&[u16]>,
        pattern: Option<&[u16]>,
    ) -> impl Iterator<Item = &Item> {
        let begin = marker.map_or(0, |marker| {
            let key = key(marker);
            self.0.partition_point(|item| (&item.key, &item.name[..]) <= (&key, marker))
        });
        self.0[begin..].iter().filter(move |item| pattern.is_none_or(|p| matches(p, &item.name)))
    }

    /// Whether there is nothing but the directory itself and the one above it.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|item| item.key.0 < OTHERS)
    }
}

/// The first part of the key of what is neither `.` nor `..`.
const OTHERS: u8 = 2;

fn key(name: &[u16]) -> (u8, Vec<u16>) {
    let dot = u16::from(b'.');
    match name {
        _ if name == [dot] => (0, Vec::new()),
        _ if name == [dot, dot] => (1, Vec::new()),
        _ => (OTHERS, fold(name)),
    }
}

struct Sink<'a, V> {
    volume: &'a V,
    caller: &'a Caller,
    directory: &'a Attributes,
    items: Vec<Item>,
    /// Where to go on; none when nothing was taken.
    next: Option<u64>,
}

impl<V: Volume> Sink<'_, V> {
    /// The attributes of `listed`; none when it is gone already.
    fn attributes(&self, listed: &Listed<'_>) -> Option<Attributes> {
        let entry = match listed.entry {
            Some(entry) => entry,
            None => {
                let name = Name::new(listed.name).ok()?;
                match self.volume.lookup(self.caller, self.directory.node, name) {
                    Ok(Lookup::Found(entry)) => entry,
                    _ => return None,
                }
            }
        };
        // Only what it is like is kept: its name will be looked up by whoever wants more.
        if entry.attributes.node != NodeId::ROOT {
            self.volume.forget(entry.attributes.node, 1);
        }
        Some(entry.attributes)
    }
}

impl<V: Volume> ListingSink for Sink<'_, V> {
    fn wants_attributes(&self) -> bool {
        true
    }

    fn take(&mut self, listed: &Listed<'_>) -> bool {
        self.next = Some(listed.next);
        let name: Vec<u16> = listed.name.encode_wide().collect();
        let key = key(&name);
        let attributes = match key.0 {
            OTHERS => self.attributes(listed),
            _ if self.directory.node == NodeId::ROOT => None,
            _ => Some(Attributes { kind: Kind::Directory, ..*self.directory }),
        };
        if let Some(attributes) = attributes {
            self.items.push(Item { key, name, attributes });
        }
        true
    }
}
