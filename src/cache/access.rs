//! Who may do what (SEMANTICS 5): what is everyone's, and what is one user's own.
//!
//! With [`Access::Scoped`], a user who is not trusted changes nothing that others see. In a directory that
//! is everyone's he has versions of names for himself (`own`); what lies below these is his alone, and is
//! for him as any directory.

use cachefs_mount::{Caller, Errno, HandleId, Kind, NodeId, Result};

use super::Cache;
use super::handles::Open;
use super::lookup::Step;
use super::tree::Node;

/// Who may do what (SEMANTICS 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Owners and modes are kept, and enforced by the kernel.
    Posix,
    /// Everyone who may enter the mount may use all of it.
    Shared {
        /// The user and group that all files appear to belong to.
        owner: (u32, u32),
    },
    /// Everyone may read all of it. What others write than those who are trusted, they alone see.
    Scoped {
        /// The user and group that what is everyone's appears to belong to.
        owner: (u32, u32),
        /// The users, besides root and the daemon's own, who write for everyone.
        trusted: Vec<u32>,
    },
}

/// Where a directory is for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It is everyone's, and he writes for everyone.
    Everyones,
    /// It is this user's own.
    Own(u32),
    /// It is everyone's, and what he does there is for this user, himself, alone.
    Beside(u32),
}

impl Cache {
    /// The caller, if he is a user who is not trusted.
    pub(super) fn user(&self, caller: &Caller) -> Option<u32> {
        let Access::Scoped { trusted, .. } = &self.options.access else { return None };
        let uid = caller.uid;
        let is_trusted = uid == 0 || uid == self.own_user.0 || trusted.contains(&uid);
        (!is_trusted).then_some(uid)
    }

    /// Where a directory is for a caller; `EACCES` if it is somebody else's own.
    pub(super) fn part(&self, caller: &Caller, folder: &Node) -> Result<Part> {
        match (self.user(caller), folder.of) {
            (None, None) => Ok(Part::Everyones),
            (Some(user), None) => Ok(Part::Beside(user)),
            (Some(user), Some(of)) if user == of => Ok(Part::Own(user)),
            // He was given a descriptor of it.
            _ => Err(Errno::EACCES),
        }
    }

    /// Whose versions a caller makes in a directory; none: those for all who see it.
    pub(super) fn layer(&self, caller: &Caller, folder: &Node) -> Option<u32> {
        if folder.of.is_some() { None } else { self.user(caller) }
    }

    /// Whether a file is everyone's and the caller may not change it; `EACCES` if it is somebody else's
    /// own.
    pub(super) fn is_foreign(&self, caller: &Caller, node: &Node) -> Result<bool> {
        Ok(matches!(self.part(caller, node)?, Part::Beside(_)))
    }

    /// Whose own a node is.
    pub(super) fn user_of(&self, node: NodeId) -> Option<u32> {
        // Nobody has anything to himself otherwise.
        let Access::Scoped { .. } = &self.options.access else { return None };
        self.tree.get(node).ok()?.of
    }

    /// Whether that is an open file that is written: who was given the descriptor may write by it.
    pub(super) fn is_written_by(&self, handle: Option<HandleId>) -> bool {
        let handle = handle.and_then(|handle| self.handles.get(handle).ok());
        handle.is_some_and(|handle| matches!(handle.open, Open::Writing { .. }))
    }

    /// Has a caller who is about to change a file that is everyone's look its name up once more, and meet
    /// a copy that is his own: `ESTALE`.
    pub(super) fn wants_own<T>(&self, caller: &Caller, node: &Node, empty: bool) -> Result<T> {
        // Those who can't be seen can't be told from each other.
        if caller.thread == 0 {
            return Err(Errno::EACCES);
        }
        self.steps.set(caller, Step::Own { node: node.id, empty, opening: false });
        Err(Errno::ESTALE)
    }

    /// Whether a caller comes again to be given a copy, which may take long.
    pub(super) fn is_to_copy(&self, caller: &Caller) -> bool {
        matches!(self.steps.of(caller), Some(Step::Own { empty: false, .. }))
    }

    /// To be called before an extended attribute of a node is changed.
    pub(super) fn before_xattr(&self, caller: &Caller, node: NodeId) -> Result<()> {
        let node = self.tree.get(node)?;
        match node.kind {
            _ if !self.is_foreign(caller, &node)? => Ok(()),
            Kind::File => self.wants_own(caller, &node, false),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}
