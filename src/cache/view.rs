//! Which version of a name a reader sees: the one place where that is decided (SEMANTICS 1.3).
//!
//! Pure: no I/O, no clock, no locks.

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Being written, by this reader; nobody else sees it.
    Staged {
        /// The writer's [`Reader::id`].
        by: u64,
    },
    /// What the name stands for in the store.
    Live,
    /// Removed, and kept for readers that began before that.
    Retired {
        /// When.
        at: Moment,
        /// The remover's [`Reader::id`], who does not see it any more.
        by: u64,
    },
}

/// One of the things that a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
/// the live one; else the one retired last that was kept for it; else nothing.
pub fn seen<T>(versions: impl IntoIterator<Item = Version<T>>, reader: Reader) -> Option<T> {
    versions
        .into_iter()
        .filter_map(|version| Some((rank(version.stage, reader)?, version.what)))
        .max_by_key(|(rank, _)| *rank)
        .map(|(_, what)| what)
}

/// How strong a version's claim is for `reader`; none if it does not see it at all.
fn rank(stage: Stage, reader: Reader) -> Option<(u8, u64)> {
    match stage {
        Stage::Staged { by } => (by == reader.id).then_some((2, 0)),
        Stage::Live => Some((1, 0)),
        Stage::Retired { at, by } => (by != reader.id && reader.began < at).then_some((0, at.0)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stage() -> impl Strategy<Value = Stage> {
        prop_oneof![
            (0..4u64).prop_map(|by| Stage::Staged { by }),
            Just(Stage::Live),
            (0..8u64, 0..4u64).prop_map(|(at, by)| Stage::Retired { at: Moment(at), by }),
        ]
    }

    /// SEMANTICS 1.3 once more, as its sentence has it: three searches, one after the other.
    fn by_the_book(stages: &[Stage], reader: Reader) -> Option<Stage> {
        let staged = stages.iter().find(|s| **s == Stage::Staged { by: reader.id });
        let live = stages.iter().find(|s| **s == Stage::Live);
        let mut kept: Vec<_> = stages
            .iter()
            .filter_map(|s| match s {
                Stage::Retired { at, by } if *by != reader.id && *at > reader.began => {
                    Some((at, s))
                }
                _ => None,
            })
            .collect();
        kept.sort_by_key(|(at, _)| **at);
        staged.or(live).or(kept.last().map(|(_, s)| *s)).copied()
    }

    proptest! {
        #[test]
        fn the_rule_is_that_of_the_contract(
            stages in prop::collection::vec(stage(), 0..6), id in 0..4u64, began in 0..8u64,
        ) {
            let reader = Reader { id, began: Moment(began) };
            let versions = stages.iter().map(|&stage| Version { what: stage, stage });
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
        fn nobody_sees_what_another_stages(other in 1..4u64) {
            let reader = Reader { id: 0, began: Moment(0) };
            let staged = Version { what: (), stage: Stage::Staged { by: other } };
            prop_assert_eq!(seen([staged], reader), None);
        }
    }
}
