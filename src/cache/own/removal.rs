//! Names that a user removes in a directory that is everyone's: he does not see them any more.

use cachefs_mount::{Caller, Errno, Kind, Name, NodeId, Result};

use super::super::Cache;
use super::super::name_locks::Change;
use super::super::view::Moment;
use super::names::{At, Met, Whose};
use crate::readers::Job;

impl Cache {
    pub(in crate::cache) fn remove_file_beside(
        &self,
        caller: &Caller,
        user: u32,
        (parent, name): (NodeId, Name<'_>),
    ) -> Result<()> {
        if self.is_private(parent, name) {
            return Err(Errno::ENOENT);
        }
        let folder = &self.tree.versioned(&self.tree.get(parent)?);
        let directory = &self.directory(parent)?;
        let at = At { user, folder, directory, name };
        let job = self.readers.job(caller);
        self.charge_gone(at)?;
        let change = self.names.change(folder.id, name.as_bytes());
        let own = self.own_draft(&folder.versions_of(name, Some(user)), job.id);
        if let Some(draft) = &own {
            self.abandon(&change, draft, job.id);
        }
        let Some(met) = self.meet(at, job.reader_as(Some(user)))? else {
            return if own.is_some() { Ok(()) } else { Err(Errno::ENOENT) };
        };
        let removed = if met.node.kind == Kind::Directory {
            if own.is_some() { Ok(()) } else { Err(Errno::EISDIR) }
        } else {
            let moment = self.readers.tick();
            let kept = met.how != Whose::Kept
                && self.is_kept(job.id, moment, (folder, name), || {
                    self.is_temporary(&job, folder, name, &met.node)
                });
            self.take_out_for(&change, at, &met, &job, kept.then_some(moment))
        };
        self.give_back(met.node.id, 1);
        removed
    }

    pub(in crate::cache) fn remove_directory_beside(
        &self,
        caller: &Caller,
        user: u32,
        (parent, name): (NodeId, Name<'_>),
    ) -> Result<()> {
        if self.is_private(parent, name) {
            return Err(Errno::ENOENT);
        }
        let folder = &self.tree.versioned(&self.tree.get(parent)?);
        let directory = &self.directory(parent)?;
        let at = At { user, folder, directory, name };
        let job = self.readers.job(caller);
        let step = self.steps.take(caller);
        self.charge_gone(at)?;
        let reader = job.reader_as(Some(user));
        let change = self.names.change(folder.id, name.as_bytes());
        let met = self.meet(at, reader)?.ok_or(Errno::ENOENT)?;
        let remove = || {
            if met.node.kind != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            let moment = self.readers.tick();
            let is_empty = self.is_empty_for(&job, reader, &met.node)?;
            let kept = met.how != Whose::Kept
                && (!is_empty || self.is_kept(job.id, moment, (folder, name), || false));
            let dies = kept || met.how != Whose::Own;
            if dies && self.has_to_come_again(caller, step, folder, name) {
                return Err(Errno::ESTALE);
            }
            if met.how != Whose::Own && caller.thread == 0 {
                // The kernel would take everyone's directory for removed.
                return Err(Errno::EBUSY);
            }
            self.take_out_for(&change, at, &met, &job, kept.then_some(moment))?;
            Ok(is_empty && !kept && met.how == Whose::Everyones)
        };
        let removed = remove();
        drop(change);
        if removed == Ok(true) {
            self.forget_within(&met.node, Some(user));
        }
        self.give_back(met.node.id, 1);
        removed.map(drop)
    }

    /// To be called before a name is removed: what is gone for a user counts as what he has, unless he had
    /// something there before.
    fn charge_gone(&self, at: At<'_>) -> Result<()> {
        let own = at.folder.versions_of(at.name, Some(at.user));
        if own.is_empty() && self.is_anything_below(at)? {
            self.charge(at.user, 0, 1)?;
        }
        Ok(())
    }

    /// Takes what a name stands for out of a user's view; from `kept` on, if his jobs that began before are
    /// to see it still.
    fn take_out_for(
        &self,
        change: &Change<'_>,
        at: At<'_>,
        met: &Met,
        job: &Job,
        kept: Option<Moment>,
    ) -> Result<()> {
        let At { user, folder, name, .. } = at;
        let was = self.take_own_version(folder, name, user);
        // In any case, what lies below must not come up again.
        if self.is_anything_below(at)? {
            self.note_gone_for(at);
        }
        self.hide_of(Some(user), change, folder, name, job.id);
        match (was, kept) {
            (Some(node), Some(moment)) => {
                let lies = node.places().into_iter().find(Cache::is_own_place);
                let lies = lies.map(|place| place.name);
                // It takes over the reference.
                self.keep_for(Some(user), folder, name, (node.id, lies), (moment, job.id));
            }
            (Some(node), None) => self.discard(&node),
            (None, Some(moment)) if met.how == Whose::Everyones => {
                self.tree.hold(met.node.id);
                self.keep_for(Some(user), folder, name, (met.node.id, None), (moment, job.id));
            }
            (None, _) => {}
        }
        Ok(())
    }
}
