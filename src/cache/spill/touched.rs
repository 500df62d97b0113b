//! Attributes that the store can't take: they are kept in memory, and told instead of those that it has.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use cachefs_mount::{Attributes, SetAttributes, SetTime};

use crate::cache::Cache;
use crate::cache::tree::Node;
use crate::platform::fd::AsFd;

/// What was set.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Touched {
    permissions: Option<u16>,
    owner: (Option<u32>, Option<u32>),
    accessed: Option<SystemTime>,
    modified: Option<SystemTime>,
}

fn at(time: SetTime) -> SystemTime {
    match time {
        SetTime::Now => SystemTime::now(),
        SetTime::At(at) => at,
    }
}

impl Cache {
    /// Remembers attributes of a node; its size is not among them.
    pub(in crate::cache) fn touch(&self, node: &Node, changes: &SetAttributes) {
        self.spill.any_touched.store(true, Ordering::Release);
        let mut touched = self.spill.touched.entry(node.id.0).or_insert_with(|| {
            // Known as long as there is something to be told of it.
            self.tree.hold(node.id);
            Touched::default()
        });
        let touched = touched.value_mut();
        touched.permissions = changes.permissions.or(touched.permissions);
        let (uid, gid) = touched.owner;
        touched.owner = (changes.uid.or(uid), changes.gid.or(gid));
        touched.accessed = changes.accessed.map(at).or(touched.accessed);
        touched.modified = changes.modified.map(at).or(touched.modified);
    }

    /// Puts what was set in the place of what the store says.
    pub(in crate::cache) fn retouch(&self, attributes: &mut Attributes, owners: bool) {
        if !self.spill.any_touched.load(Ordering::Acquire) {
            return;
        }
        let Some(touched) = self.spill.touched.get(&attributes.node.0) else { return };
        attributes.permissions = touched.permissions.unwrap_or(attributes.permissions);
        if owners {
            attributes.uid = touched.owner.0.unwrap_or(attributes.uid);
            attributes.gid = touched.owner.1.unwrap_or(attributes.gid);
        }
        attributes.accessed = touched.accessed.unwrap_or(attributes.accessed);
        attributes.modified = touched.modified.unwrap_or(attributes.modified);
    }

    /// Its contents lie in the area now, which takes what was set.
    pub(super) fn settle_touched(&self, node: &Node, file: &File) {
        let Some((_, touched)) = self.spill.touched.remove(&node.id.0) else { return };
        let changes = SetAttributes {
            permissions: touched.permissions,
            uid: touched.owner.0,
            gid: touched.owner.1,
            accessed: touched.accessed.map(SetTime::At),
            modified: touched.modified.map(SetTime::At),
            size: None,
        };
        if let Err(errno) = self.change_attributes(file.as_fd(), node.kind, &changes) {
            tracing::debug!(%errno, "the spill area does not take the attributes of a file");
        }
        self.give_back(node.id, 1);
    }
}
