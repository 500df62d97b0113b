//! Which version of a name a reader sees: the one place where that is decided (SEMANTICS 1.3).
//!
//! Pure: no I/O, no clock, no locks.

use smallvec::SmallVec;

/// A point in the order in which jobs began and names were removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// A job that uses the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Which.
    pub id: u64,
    /// When it began.
    pub began: Moment,
}

/// What a version is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Being written, by this reader; nobody else sees it.
    Staged {
        /// The writer's [`Reader::id`].
        by: u64,
    },
    /// What the name stands for although the store could not take it: like the live version, which it
    /// hides.
    Aside,
    /// Not a thing: the live version was removed, and the store could not take that.
    Gone,
    /// What the name stands for in the store.
    Live,
    /// Removed, and kept for readers that began before that.
    Retired {
        /// When.
        at: Moment,
        /// Those who do not see it any more although they began before: who removed it, and who
        /// removed it once more because they still saw it.
        hidden: SmallVec<[u64; 1]>,
    },
}

/// One of the things that a name in a directory stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version<T> {
    /// The thing.
    pub what: T,
    /// In which state it is.
    pub stage: Stage,
}

impl<T> Version<T> {
    /// The version that is in the store.
    pub fn live(what: T) -> Version<T> {
        Version { what, stage: Stage::Live }
    }
}

/// What `reader` sees among the versions of one name: the version that it is staging itself; else
/// the one that the store could not take; else the live one, unless it is gone; else the one retired
/// last that was kept for it; else nothing.
pub fn seen<T>(versions: impl IntoIterator<Item = Version<T>>, reader: Reader) -> Option<T> {
    let (mut live, mut gone) = (None, false);
    let mut best: Option<((u8, u64), T)> = None;
    for Version { what, stage } in versions {
        match stage {
            Stage::Live => live = Some(what),
            Stage::Gone => gone = true,
            _ => {
                if let Some(rank) = rank(&stage, reader)
                    && best.as_ref().is_none_or(|(other, _)| *other <= rank)
                {
                    best = Some((rank, what));
                }
            }
        }
    }
    match (best, live.filter(|_| !gone)) {
        (Some((rank, what)), _) if rank >= ASIDE => Some(what),
        (_, Some(live)) => Some(live),
        (kept, None) => kept.map(|(_, what)| what),
    }
}

/// The claim of what hides the live version.
const ASIDE: (u8, u64) = (1, 0);

/// How strong the claim of a version that is not live is for `reader`; none if it does not see it at
/// all.
fn rank(stage: &Stage, reader: Reader) -> Option<(u8, u64)> {
    match stage {
        Stage::Staged { by } => (*by == reader.id).then_some((2, 0)),
        Stage::Aside => Some(ASIDE),
        Stage::Live | Stage::Gone => None,
        Stage::Retired { at, hidden } => {
            (reader.began < *at && !hidden.contains(&reader.id)).then_some((0, at.0))
        }
    }
}

/// Ends of names by which tools lock or recover: of lock files, and of what sqlite puts beside a
/// database, whose mere being there has a meaning (<https://sqlite.org/tempfiles.html>).
const LOCK_NAMES: [&[u8]; 6] = [b".lock", b".lck", b".pid", b"-journal", b"-wal", b"-shm"];

/// Names by which tools lock: they stay on one inode while they are written (SEMANTICS 2.4), and
/// nobody goes on seeing them once they are removed (3.7).
pub fn is_lock_name(name: &[u8]) -> bool {
    LOCK_NAMES.iter().any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stage() -> impl Strategy<Value = Stage> {
        prop_oneof![
            (0..4u64).prop_map(|by| Stage::Staged { by }),
            Just(Stage::Aside),
            Just(Stage::Gone),
            Just(Stage::Live),
            (0..8u64, prop::collection::vec(0..4u64, 1..3))
                .prop_map(|(at, by)| Stage::Retired { at: Moment(at), hidden: by.into() }),
        ]
    }

    /// SEMANTICS 1.3 once more, as its sentence has it: searches, one after the other. What the store
    /// could not take counts as live (4.1), and so does that something is not there any more.
    fn by_the_book(stages: &[Stage], reader: Reader) -> Option<Stage> {
        let staged = stages.iter().find(|s| **s == Stage::Staged { by: reader.id });
        let aside = stages.iter().find(|s| **s == Stage::Aside);
        let gone = stages.contains(&Stage::Gone);
        let live = stages.iter().find(|s| **s == Stage::Live && !gone);
        let mut kept: Vec<_> = stages
            .iter()
            .filter_map(|s| match s {
                Stage::Retired { at, hidden }
                    if !hidden.contains(&reader.id) && *at > reader.began =>
                {
                    Some((at, s))
                }
                _ => None,
            })
            .collect();
        kept.sort_by_key(|(at, _)| **at);
        staged.or(aside).or(live).or(kept.last().map(|(_, s)| *s)).cloned()
    }

    proptest! {
        #[test]
        fn the_rule_is_that_of_the_contract(
            stages in prop::collection::vec(stage(), 0..6), id in 0..4u64, began in 0..8u64,
        ) {
            let reader = Reader { id, began: Moment(began) };
            let versions = stages.iter().map(|stage| Version { what: stage.clone(), stage: stage.clone() });
            let (ours, theirs) = (seen(versions, reader), by_the_book(&stages, reader));
            // Two versions retired at one moment have equal claims.
            match (ours, theirs) {
                (Some(Stage::Retired { at: a, .. }), Some(Stage::Retired { at: b, .. })) => {
                    prop_assert_eq!(a, b);
                }
                (ours, theirs) => prop_assert_eq!(ours, theirs),
            }
        }

        #[test]
        fn names_of_locks(stem in "[a-z]{0,3}") {
            for suffix in [".lock", ".lck", ".pid"] {
                let name = format!("{stem}{suffix}");
                prop_assert!(is_lock_name(name.as_bytes()));
                let longer = format!("{name}x");
                prop_assert!(!is_lock_name(longer.as_bytes()));
            }
        }

        #[test]
        fn nobody_sees_what_another_stages(other in 1..4u64) {
            let reader = Reader { id: 0, began: Moment(0) };
            let staged = Version { what: (), stage: Stage::Staged { by: other } };
            prop_assert_eq!(seen([staged], reader), None);
        }
    }
}
