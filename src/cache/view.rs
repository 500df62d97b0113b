//! Which version of a name a reader sees: the one place where that is decided (SEMANTICS 1.3).
//!
//! Pure: no I/O, no clock, no locks.

use smallvec::SmallVec;

/// A point in the order in which jobs began and names were removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// So many removals that go on at the same time are told from each other.
const APART: usize = 4;

/// The removals that were going on when a job began: it sees all that they take away, also what had gone by then. Of
/// those that had ended it sees nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct During([Option<(u64, Moment)>; APART]);

impl During {
    /// There was none.
    pub const NONE: During = During([None; APART]);

    /// These, each the remover's [`Reader::id`] and the moment before its first; and from which moment on the job
    /// sees whatever was removed: from when it `began`, unless there are too many to tell them from each other.
    pub fn of(
        going_on: impl IntoIterator<Item = (u64, Moment)>,
        began: Moment,
    ) -> (During, Moment) {
        let (mut apart, mut sees, mut known) = (During::NONE, began, 0);
        for removal in going_on {
            match apart.0.get_mut(known) {
                Some(free) => *free = Some(removal),
                None => sees = sees.min(removal.1),
            }
            known += 1;
        }
        (apart, sees)
    }

    /// Whether one of them took away what went at that moment; the first of those who do not see it is who removed
    /// it.
    pub fn took(&self, at: Moment, hidden: &[u64]) -> bool {
        let by = hidden.first();
        self.0.iter().flatten().any(|(remover, began)| Some(remover) == by && *began < at)
    }
}

/// A job that uses the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Which.
    pub id: u64,
    /// When it began.
    pub began: Moment,
    /// What was being removed then.
    pub during: During,
    /// The user that it acts as now, if that is one who is not trusted and so has versions of his own
    /// (SEMANTICS 5.3).
    pub user: Option<u32>,
}

/// What a version is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Being written, by this reader; nobody else sees it.
    Staged {
        /// The writer's [`Reader::id`].
        by: u64,
    },
    /// What the name stands for although the store could not take it, or must not: like the live
    /// version, which it hides.
    Aside,
    /// Not a thing: the live version was removed, and the store could not take that, or must not.
    Gone,
    /// What the name stands for in the store.
    Live,
    /// Removed, and kept for readers that began before that, or while who did it removed one name after the other.
    Retired {
        /// When.
        at: Moment,
        /// Those who do not see it any more although they began before: who removed it, and who
        /// removed it once more because they still saw it.
        hidden: SmallVec<[u64; 1]>,
        /// The only ones it is kept for, if it is not kept for all that began before.
        only: Option<SmallVec<[u64; 1]>>,
    },
}

/// One of the things that a name in a directory stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version<T> {
    /// The thing.
    pub what: T,
    /// In which state it is.
    pub stage: Stage,
    /// The one user for whom it is there, if it is not there for everyone.
    pub of: Option<u32>,
}

impl<T> Version<T> {
    /// The version that is in the store.
    pub fn live(what: T) -> Version<T> {
        Version::shared(what, Stage::Live)
    }

    /// Whether it is in that state, for that user alone or for everyone.
    pub fn is(&self, stage: &Stage, of: Option<u32>) -> bool {
        self.stage == *stage && self.of == of
    }

    /// Something else in the same state, for the same.
    pub fn with<U>(&self, what: U) -> Version<U> {
        Version { what, stage: self.stage.clone(), of: self.of }
    }

    /// A version for everyone.
    pub fn shared(what: T, stage: Stage) -> Version<T> {
        Version { what, stage, of: None }
    }
}

/// What `reader` sees among the versions of one name: the version that it is staging itself; else the
/// one of its user alone; else, unless that is gone for its user alone, what is there for everyone: the
/// one that the store could not take, or the live one unless it is gone; else the one retired last that
/// was kept for it; else nothing.
pub fn seen<T>(versions: impl IntoIterator<Item = Version<T>>, reader: Reader) -> Option<T> {
    let (mut live, mut gone, mut hidden) = (None, false, false);
    // What is there for everyone, and what for the reader's user alone.
    let (mut shared, mut own): (Best<T>, Best<T>) = (None, None);
    for Version { what, stage, of } in versions {
        if of.is_some() && of != reader.user {
            continue;
        }
        match stage {
            Stage::Live => live = Some(what),
            Stage::Gone if of.is_some() => hidden = true,
            Stage::Gone => gone = true,
            _ => {
                let best = if of.is_some() { &mut own } else { &mut shared };
                if let Some(rank) = rank(&stage, reader)
                    && best.as_ref().is_none_or(|(other, _)| *other <= rank)
                {
                    *best = Some((rank, what));
                }
            }
        }
    }
    if hidden {
        (live, shared) = (None, shared.filter(|(rank, _)| *rank >= STAGED));
    }
    let above = match (shared, own) {
        // A job stages a name once for everyone, or once for its user.
        (Some(shared), own) if shared.0 >= STAGED => {
            return Some(own.filter(|o| o.0 >= STAGED).unwrap_or(shared).1);
        }
        (_, Some((rank, what))) if rank >= ASIDE => return Some(what),
        (Some((rank, what)), _) if rank >= ASIDE => return Some(what),
        (Some(shared), Some(own)) => Some(if own.0 >= shared.0 { own } else { shared }),
        (shared, own) => own.or(shared),
    };
    live.filter(|_| !gone).or(above.map(|(_, what)| what))
}

/// The strongest claim so far.
type Best<T> = Option<((u8, u64), T)>;

/// The claim of what hides the live version.
const ASIDE: (u8, u64) = (1, 0);

/// The claim of what the reader is writing.
const STAGED: (u8, u64) = (2, 0);

/// How strong the claim of a version that is not live is for `reader`; none if it does not see it at
/// all.
fn rank(stage: &Stage, reader: Reader) -> Option<(u8, u64)> {
    match stage {
        Stage::Staged { by } => (*by == reader.id).then_some(STAGED),
        Stage::Aside => Some(ASIDE),
        Stage::Live | Stage::Gone => None,
        Stage::Retired { at, hidden, only } => {
            let before = reader.began < *at || reader.during.took(*at, hidden);
            let seen = before && !hidden.contains(&reader.id);
            let kept = only.as_ref().is_none_or(|only| only.contains(&reader.id));
            (seen && kept).then_some((0, at.0))
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
            (0..8u64, jobs(), prop::option::of(jobs()))
                .prop_map(|(at, hidden, only)| { Stage::Retired { at: Moment(at), hidden, only } }),
        ]
    }

    fn jobs() -> impl Strategy<Value = SmallVec<[u64; 1]>> {
        prop::collection::vec(0..4u64, 1..3).prop_map(SmallVec::from_vec)
    }

    fn reader() -> impl Strategy<Value = Reader> {
        let going_on = prop::collection::vec((0..4u64, (0..8u64).prop_map(Moment)), 0..3);
        (0..4u64, 0..8u64, going_on, user()).prop_map(|(id, began, going_on, user)| {
            let (during, began) = During::of(going_on, Moment(began));
            Reader { id, began, during, user }
        })
    }

    #[test]
    fn removals_that_are_too_many_to_tell_apart_are_seen_from_the_first_of_the_rest_on() {
        let removals = (1..=APART as u64 + 2).map(|by| (by, Moment(10 * by)));
        let (during, sees) = During::of(removals, Moment(1000));
        assert!(during.took(Moment(11), &[1]) && !during.took(Moment(10), &[1]));
        assert!(!during.took(Moment(11), &[2]) && !during.took(Moment(11), &[]));
        assert_eq!(sees, Moment(10 * (APART as u64 + 1)));
        assert_eq!(During::of([], Moment(7)), (During::NONE, Moment(7)));
    }

    fn user() -> impl Strategy<Value = Option<u32>> {
        prop_oneof![Just(None), Just(Some(2000)), Just(Some(3000))]
    }

    type Told = (Stage, Option<u32>);

    /// SEMANTICS 1.3 and 5.3 once more, as their sentences have it: searches, one after the other. What the
    /// store could not take counts as live (4.1), and so does that something is not there any more.
    fn by_the_book(told: &[Told], reader: Reader) -> Option<Told> {
        let mine = |of: &Option<u32>| of.is_some() && *of == reader.user;
        let find = |wanted: Stage, of: &dyn Fn(&Option<u32>) -> bool| {
            told.iter().find(|(stage, user)| *stage == wanted && of(user))
        };
        let all = |of: &Option<u32>| of.is_none();
        let kept = |of: &dyn Fn(&Option<u32>) -> bool| {
            let kept = told.iter().filter(|(stage, user)| {
                let Stage::Retired { at, hidden, only } = stage else { return false };
                let for_it = only.as_ref().is_none_or(|only| only.contains(&reader.id));
                let going_on = reader.during.0.iter().flatten();
                let mut its = going_on.filter(|(by, began)| *by == hidden[0] && began < at);
                let before = *at > reader.began || its.next().is_some();
                of(user) && for_it && !hidden.contains(&reader.id) && before
            });
            kept.max_by_key(|(stage, _)| match stage {
                Stage::Retired { at, .. } => *at,
                _ => unreachable!("only those were looked for"),
            })
        };
        let staging = Stage::Staged { by: reader.id };
        let staged = find(staging.clone(), &mine).or(find(staging, &all));
        let own = staged.or(find(Stage::Aside, &mine));
        if find(Stage::Gone, &mine).is_some() {
            return own.or(kept(&mine)).cloned();
        }
        let live = find(Stage::Live, &all).filter(|_| find(Stage::Gone, &all).is_none());
        let seen = own.or(find(Stage::Aside, &all)).or(live);
        seen.or_else(|| kept(&|of| all(of) || mine(of))).cloned()
    }

    proptest! {
        #[test]
        fn the_rule_is_that_of_the_contract(
            mut told in prop::collection::vec((stage(), user()), 0..7), reader in reader(),
        ) {
            // What is live is there for everyone.
            told.iter_mut().filter(|(stage, _)| *stage == Stage::Live).for_each(|(_, of)| *of = None);
            let versions = told.iter().map(|told| Version {
                what: told.clone(), stage: told.0.clone(), of: told.1,
            });
            let (ours, theirs) = (seen(versions, reader), by_the_book(&told, reader));
            // Two versions retired at one moment have equal claims.
            match (ours, theirs) {
                (Some((Stage::Retired { at: a, .. }, _)), Some((Stage::Retired { at: b, .. }, _))) => {
                    prop_assert_eq!(a, b);
                }
                (ours, theirs) => prop_assert_eq!(ours, theirs),
            }
        }

        /// SEMANTICS 5.3: whatever one user has, or has removed, changes nothing for anybody else.
        #[test]
        fn nobody_sees_what_is_another_users(
            told in prop::collection::vec((stage(), user()), 0..7), reader in reader(),
        ) {
            let seen_among = |told: Vec<&Told>| {
                let version = |told: &Told| Version {
                    what: told.clone(), stage: told.0.clone(), of: told.1,
                };
                seen(told.into_iter().map(version), reader)
            };
            let without = told.iter().filter(|(_, of)| of.is_none() || *of == reader.user).collect();
            prop_assert_eq!(seen_among(told.iter().collect()), seen_among(without));
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
            let reader = Reader { id: 0, began: Moment(0), during: During::NONE, user: None };
            let staged = Version::shared((), Stage::Staged { by: other });
            prop_assert_eq!(seen([staged], reader), None);
        }
    }
}
