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
        let mut items = Vec::new();
        each(volume, caller, directory.node, true, |listed| {
            let name: Vec<u16> = listed.name.encode_wide().collect();
            let key = key(&name);
            let attributes = match key.0 {
                OTHERS => attributes(volume, caller, directory.node, listed),
                _ if directory.node == NodeId::ROOT => None,
                _ => Some(Attributes { kind: Kind::Directory, ..*directory }),
            };
            if let Some(attributes) = attributes {
                items.push(Item { key, name, attributes });
            }
        })?;
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

/// The attributes of `listed`; none when it is gone already.
fn attributes<V: Volume>(
    volume: &V,
    caller: &Caller,
    directory: NodeId,
    listed: &Listed<'_>,
) -> Option<Attributes> {
    let entry = match listed.entry {
        Some(entry) => entry,
        None => match volume.lookup(caller, directory, Name::new(listed.name).ok()?) {
            Ok(Lookup::Found(entry)) => entry,
            _ => return None,
        },
    };
    // Only what it is like is kept: its name will be looked up by whoever wants more.
    if entry.attributes.node != NodeId::ROOT {
        volume.forget(entry.attributes.node, 1);
    }
    Some(entry.attributes)
}

/// Hands over each entry of a directory, with its attributes if they are wanted and can be had. Whether the
/// listing is the same for everyone.
pub(super) fn each<V: Volume>(
    volume: &V,
    caller: &Caller,
    directory: NodeId,
    attributes: bool,
    take: impl FnMut(&Listed<'_>),
) -> Result<bool> {
    let (handle, everybodys) = volume.open_directory(caller, directory)?;
    let mut sink = Sink { attributes, take, next: None };
    let mut offset = 0;
    let listed = loop {
        match volume.read_directory(caller, handle, offset, &mut sink) {
            Ok(()) => match sink.next.take() {
                Some(next) => offset = next,
                None => break Ok(everybodys),
            },
            Err(errno) => break Err(errno),
        }
    };
    volume.release_directory(handle);
    listed
}

struct Sink<Take> {
    attributes: bool,
    take: Take,
    /// Where to go on; none when nothing was taken.
    next: Option<u64>,
}

impl<Take: FnMut(&Listed<'_>)> ListingSink for Sink<Take> {
    fn wants_attributes(&self) -> bool {
        self.attributes
    }

    fn take(&mut self, entry: &Listed<'_>) -> bool {
        self.next = Some(entry.next);
        (self.take)(entry);
        true
    }
}
