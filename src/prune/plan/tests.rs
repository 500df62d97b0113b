use std::collections::HashSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::order::order;
use super::super::policy::Only;
use super::super::unit::{Shared, Unit};
use smallvec::smallvec;

use super::*;

const NOW: u64 = 1000;

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn now(free: Option<u64>) -> Now {
    Now { time: at(NOW), free }
}

fn unit(number: usize, bytes: u64, files: u64, last_use: u64) -> Unit {
    let layout = if number.is_multiple_of(2) { "pip" } else { "ruff" };
    Unit {
        layout: layout.parse().unwrap(),
        prefix: 0,
        paths: [Path::new(&format!("u{number}")).into()].into_iter().collect(),
        size: Amount { bytes, files },
        last_use: at(last_use),
        in_use: false,
        being_made: false,
        needs: SmallVec::new(),
        only_needed: false,
        used_through_needs: false,
    }
}

/// Units of ten bytes each, last used in this order.
fn in_order(number: usize) -> Units {
    let units = (0..number).map(|i| unit(i, 10, 1, 1 + i as u64)).collect();
    Units { units, ..Units::default() }
}

fn sizes(most: u64) -> Policy {
    Policy { max_size: Some(most), down_to: 100, ..Policy::default() }
}

fn numbers(plan: &Plan) -> Vec<usize> {
    plan.chosen.iter().map(|chosen| chosen.unit).collect()
}

#[test]
fn the_oldest_go_until_it_fits() {
    let units = in_order(5);
    let chosen = plan(&units, &sizes(25), &now(None));
    assert_eq!(numbers(&chosen), [0, 1, 2]);
    assert!(chosen.chosen.iter().all(|chosen| chosen.why == Why::Size));
    assert_eq!(chosen.frees, Amount { bytes: 30, files: 3 });
    assert_eq!(chosen.lacks, Amount::default());
    assert_eq!(plan(&units, &sizes(50), &now(None)), Plan::default());
    assert_eq!(plan(&units, &Policy::default(), &now(None)), Plan::default());
}

#[test]
fn a_limit_that_is_passed_is_gone_below_by_a_part() {
    let units = in_order(10);
    let policy = Policy { down_to: 50, ..sizes(99) };
    assert_eq!(numbers(&plan(&units, &policy, &now(None))), [0, 1, 2, 3, 4, 5]);
    // One that is kept is left alone.
    assert!(numbers(&plan(&units, &Policy { down_to: 50, ..sizes(100) }, &now(None))).is_empty());

    let policy = Policy { min_free: Some(100), down_to: 80, ..Policy::default() };
    assert_eq!(numbers(&plan(&units, &policy, &now(Some(99)))), [0, 1, 2]);
    assert!(numbers(&plan(&units, &policy, &now(Some(100)))).is_empty());
    assert!(numbers(&plan(&units, &policy, &now(None))).is_empty());
}

#[test]
fn what_is_being_made_stays() {
    let mut units = in_order(3);
    units.units[1].being_made = true;
    assert_eq!(numbers(&plan(&units, &sizes(0), &now(None))), [0, 2]);
    // What it needs stays as well.
    units.units[1].needs = smallvec![0];
    let plan = plan(&units, &sizes(0), &now(None));
    assert_eq!(numbers(&plan), [2]);
    assert!(plan.lacks.bytes > 0);
}

#[test]
fn what_is_in_use_goes_last() {
    let mut units = in_order(3);
    units.units[0].in_use = true;
    assert_eq!(numbers(&plan(&units, &sizes(15), &now(None))), [1, 2]);
    assert_eq!(numbers(&plan(&units, &sizes(5), &now(None))), [1, 2, 0]);
    // Age is no reason to disturb a job.
    let old = Policy { max_age: Some(Duration::from_secs(1)), ..Policy::default() };
    assert_eq!(numbers(&plan(&units, &old, &now(None))), [1, 2]);
}

#[test]
fn what_is_needed_goes_after_those_that_need_it() {
    let mut units = in_order(4);
    // The oldest is needed by the newest.
    units.units[3].needs.push(0);
    assert_eq!(numbers(&plan(&units, &sizes(10), &now(None))), [1, 2, 3]);
    assert_eq!(numbers(&plan(&units, &sizes(0), &now(None))), [1, 2, 3, 0]);
    // When it alone may be chosen, the other goes along.
    let only = Only { paths: vec![PathBuf::from("u0")], ..Only::default() };
    let chosen = plan(&units, &Policy { only, ..sizes(0) }, &now(None));
    let expected = [Chosen { unit: 0, why: Why::Size }, Chosen { unit: 3, why: Why::Needs(0) }];
    assert_eq!(chosen.chosen, expected);
}

#[test]
fn what_nobody_needs_any_more_goes_along() {
    let mut units = in_order(4);
    units.units[3].only_needed = true;
    units.units[0].needs.push(3);
    units.units[1].needs.push(3);
    assert_eq!(numbers(&plan(&units, &sizes(30), &now(None))), [0]);
    let chosen = plan(&units, &sizes(20), &now(None)).chosen;
    let expected = [
        Chosen { unit: 0, why: Why::Size },
        Chosen { unit: 1, why: Why::Size },
        Chosen { unit: 3, why: Why::Unneeded(1) },
    ];
    assert_eq!(chosen, expected);
}

#[test]
fn a_use_may_be_seen_only_at_what_is_needed() {
    let mut units = in_order(3);
    units.units[0].needs.push(2);
    assert_eq!(numbers(&plan(&units, &sizes(20), &now(None))), [0]);
    units.units[0].used_through_needs = true;
    assert_eq!(numbers(&plan(&units, &sizes(20), &now(None))), [1]);
}

#[test]
fn shared_blocks_become_free_with_the_last_who_shares_them() {
    let mut units = in_order(3);
    let shared = |units: &[u32], elsewhere| Shared {
        bytes: 100,
        units: units.iter().copied().collect(),
        elsewhere,
    };
    units.shared = vec![shared(&[0, 1], false), shared(&[0], true)];
    assert_eq!(units.total(), Amount { bytes: 230, files: 5 });
    let chosen = plan(&units, &sizes(120), &now(None));
    assert_eq!(numbers(&chosen), [0, 1]);
    assert_eq!(chosen.frees, Amount { bytes: 120, files: 3 });
    // Nothing makes the rest free.
    let chosen = plan(&units, &sizes(0), &now(None));
    assert_eq!(chosen.lacks, Amount { bytes: 100, files: 0 });
}

#[test]
fn what_is_kept_counts_unless_only_some_are_asked_for() {
    let mut units = in_order(3);
    units.kept = Amount { bytes: 15, files: 3 };
    let chosen = plan(&units, &sizes(25), &now(None));
    assert_eq!(numbers(&chosen), [0, 1]);
    let only = Only { tools: vec!["pip".into()], ..Only::default() };
    let chosen = plan(&units, &Policy { only, ..sizes(19) }, &now(None));
    assert_eq!(numbers(&chosen), [0]);
    let files = Policy { max_files: Some(5), down_to: 100, ..Policy::default() };
    let chosen = plan(&units, &files, &now(None)).chosen;
    assert_eq!(chosen, [Chosen { unit: 0, why: Why::Files }]);
}

#[test]
fn who_names_a_path_in_a_unit_means_the_unit() {
    let mut units = in_order(2);
    units.units[0].paths = [Path::new("a/b").into(), Path::new("c").into()].into_iter().collect();
    for (path, allowed) in
        [("a", true), ("a/b", true), ("a/b/x/y", true), ("c/d", true), ("a/bb", false), ("", true)]
    {
        let only = Only { paths: vec![path.into()], ..Only::default() };
        assert_eq!(only.allows(&units.units[0]), allowed, "{path}");
    }
}

#[test]
fn a_clock_that_was_put_back_makes_nothing_immortal() {
    let mut units = in_order(3);
    units.units[0].last_use = at(NOW + 500);
    let chosen = plan(&units, &sizes(10), &now(None));
    assert_eq!((numbers(&chosen), chosen.ahead), (vec![1, 2], vec![0]));
    // An age beyond the beginning of time is none that anything has.
    let old = Policy { max_age: Some(Duration::MAX), ..Policy::default() };
    assert!(numbers(&plan(&units, &old, &now(None))).is_empty());
    units.units[1].last_use = SystemTime::UNIX_EPOCH;
    assert!(numbers(&plan(&units, &old, &now(None))).is_empty());
    let now = Now { time: SystemTime::UNIX_EPOCH, free: None };
    assert_eq!(numbers(&plan(&units, &sizes(29), &now)).len(), 1);
}

fn any_unit(number: usize) -> impl Strategy<Value = Unit> {
    let needs = prop::collection::vec(0..8u32, 0..3);
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.3), prop::bool::weighted(0.3));
    (0..50u64, 1..4u64, 900..1010u64, needs, flags).prop_map(
        move |(bytes, files, last_use, needs, (in_use, only_needed, through))| Unit {
            in_use,
            being_made: false,
            needs: needs.into_iter().filter(|need| *need as usize != number).collect(),
            only_needed,
            used_through_needs: through,
            ..unit(number, bytes, files, last_use)
        },
    )
}

prop_compose! {
    fn any_units()(number in 0..8usize)(
        units in (0..number).map(any_unit).collect::<Vec<_>>(),
        shared in prop::collection::vec(
            (1..50u64, prop::collection::btree_set(0..number.max(1) as u32, 1..4), any::<bool>()),
            if number == 0 { 0..1 } else { 0..4 },
        ),
        kept in (0..40u64, 0..4u64),
    ) -> Units {
        let mut units = units;
        let number = units.len() as u32;
        for unit in &mut units {
            unit.needs.retain(|need| *need < number);
            unit.needs.sort_unstable();
            unit.needs.dedup();
        }
        let shared = shared.into_iter().filter(|_| number > 0).map(|(bytes, units, elsewhere)| {
            Shared { bytes, units: units.into_iter().collect(), elsewhere }
        });
        let shared = shared.collect();
        Units { units, shared, kept: Amount { bytes: kept.0, files: kept.1 }, unread: 0 }
    }
}

prop_compose! {
    fn any_policy()(
        max_size in prop::option::of(0..400u64),
        max_files in prop::option::of(0..20u64),
        max_age in prop::option::of(0..110u64),
        min_free in prop::option::of(0..200u64),
        down_to in 1..=100u8,
        tools in prop::collection::vec(prop_oneof!["pip", "ruff"], 0..2),
        paths in prop::collection::vec("u[0-7]", 0..3),
    ) -> Policy {
        let only = Only { tools, paths: paths.into_iter().map(PathBuf::from).collect() };
        let max_age = max_age.map(Duration::from_secs);
        Policy { max_size, max_files, max_age, min_free, down_to, only }
    }
}

/// What is left of the store when these are gone, counted anew.
fn left(units: &Units, counted: impl Fn(usize) -> bool, gone: &HashSet<usize>) -> Amount {
    let mut left = Amount::default();
    for (number, unit) in units.units.iter().enumerate() {
        if counted(number) && !gone.contains(&number) {
            left += unit.size;
        }
    }
    for shared in &units.shared {
        let mut of = shared.units.iter().map(|unit| *unit as usize);
        if of.clone().any(&counted) && (shared.elsewhere || of.any(|unit| !gone.contains(&unit))) {
            left += Amount { bytes: shared.bytes, files: 1 };
        }
    }
    left
}

/// Which limits are not kept when these are gone: of bytes, of files, of free bytes.
fn passed(units: &Units, policy: &Policy, free: Option<u64>, gone: &HashSet<usize>) -> [bool; 3] {
    let all = policy.only.is_all();
    let counted = |number: usize| all || policy.only.allows(&units.units[number]);
    // Others that go along free something as well.
    let freed = |gone| {
        let before = left(units, |_| true, &HashSet::new());
        let after = left(units, |_| true, gone);
        Amount { bytes: before.bytes - after.bytes, files: before.files - after.files }
    };
    let mut before = left(units, counted, &HashSet::new());
    if all {
        before += units.kept;
    }
    let gone = freed(gone);
    let down_to = u64::from(policy.down_to);
    let over = |before: u64, gone: u64, most: Option<u64>| {
        most.is_some_and(|most| before > most && before.saturating_sub(gone) > most * down_to / 100)
    };
    let short = policy.min_free.zip(free).is_some_and(|(least, free)| {
        free < least && free + gone.bytes < least * (200 - down_to) / 100
    });
    [
        over(before.bytes, gone.bytes, policy.max_size),
        over(before.files, gone.files, policy.max_files),
        short,
    ]
}

/// When each unit was used, also through those that need it: by going on until nothing changes.
fn uses(units: &Units) -> Vec<(bool, SystemTime)> {
    let mut uses = own_uses(units, at(NOW));
    loop {
        let before = uses.clone();
        for (number, unit) in units.units.iter().enumerate() {
            for need in &unit.needs {
                uses[*need as usize] = uses[*need as usize].max(uses[number]);
            }
        }
        if uses == before {
            return uses;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn plans_are_right(
        units in any_units(),
        policy in any_policy(),
        free in prop::option::of(0..200u64),
    ) {
        let made = plan(&units, &policy, &now(free));
        let gone: HashSet<usize> = numbers(&made).into_iter().collect();
        let allowed = |number: usize| policy.only.allows(&units.units[number]);
        let led = |chosen: &Chosen| !matches!(chosen.why, Why::Needs(_) | Why::Unneeded(_));
        let uses = uses(&units);

        // Nothing twice.
        prop_assert_eq!(gone.len(), made.chosen.len());
        // What it frees, it frees.
        let (before, after) =
            (left(&units, |_| true, &HashSet::new()), left(&units, |_| true, &gone));
        prop_assert_eq!(made.frees.bytes, before.bytes - after.bytes);
        prop_assert_eq!(made.frees.files, before.files - after.files);

        // Nothing is left that needs what is gone, or that is there for nobody.
        for (number, unit) in units.units.iter().enumerate() {
            let needs_gone = unit.needs.iter().any(|need| gone.contains(&(*need as usize)));
            prop_assert!(gone.contains(&number) || !needs_gone);
            let mut by = (0..units.units.len())
                .filter(|other| units.units[*other].needs.contains(&(number as u32)));
            let for_nobody = unit.only_needed && by.clone().next().is_some()
                && by.all(|other| gone.contains(&other));
            prop_assert!(gone.contains(&number) || !for_nobody);
        }

        // The limits are kept, or all that may go is gone.
        let unkept = passed(&units, &policy, free, &gone);
        let all = (0..units.units.len()).all(|number| !allowed(number) || gone.contains(&number));
        prop_assert!(all || unkept == [false; 3], "{:?}", made);
        let lacks = [made.lacks.bytes > 0, made.lacks.files > 0];
        prop_assert_eq!(lacks, [unkept[0] || unkept[2], unkept[1]]);

        // Nothing goes that need not: without the last that was chosen for a limit, and what went along
        // with it, that limit would not be kept.
        if let Some(last) = made.chosen.iter().rposition(led) {
            let earlier = made.chosen[..last].iter().map(|chosen| chosen.unit).collect();
            let [size, files, short] = passed(&units, &policy, free, &earlier);
            let needed = match made.chosen[last].why {
                Why::Size => size,
                Why::Files => files,
                Why::Free => short,
                _ => true,
            };
            prop_assert!(needed);
        }

        // Exactly what is too old goes for its age.
        if let Some(age) = policy.max_age {
            for (number, (in_use, time)) in uses.iter().enumerate() {
                let old = !in_use && *time < at(NOW) - age;
                prop_assert!(gone.contains(&number) || !(old && allowed(number)));
            }
        }
        for chosen in made.chosen.iter().filter(|chosen| chosen.why == Why::Age) {
            let (in_use, time) = uses[chosen.unit];
            prop_assert!(!in_use && policy.max_age.is_some_and(|age| time < at(NOW) - age));
        }

        // Least recently used first, in use last.
        for chosen in made.chosen.iter().filter(|chosen| led(chosen)) {
            prop_assert!(allowed(chosen.unit));
            for other in (0..units.units.len()).filter(|other| !gone.contains(other)) {
                prop_assert!(!allowed(other) || uses[chosen.unit] <= uses[other]);
            }
        }
        let order: Vec<_> = made.chosen.iter().filter(|c| led(c)).map(|c| uses[c.unit]).collect();
        prop_assert!(order.is_sorted(), "{:?}", order);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_plan_for_a_size_is_the_beginning_of_the_order(units in any_units(), most in 0..200u64) {
        let now = now(None);
        let planned = plan(&units, &sizes(most), &now);
        let total = units.total().bytes;
        let (mut gone, mut freed) = (Vec::new(), Amount::default());
        for turn in order(&units, &now) {
            if !turn.along && freed.bytes >= total.saturating_sub(most) {
                break;
            }
            gone.push(turn.unit);
            freed += turn.frees;
        }
        prop_assert_eq!(gone, numbers(&planned));
        prop_assert_eq!(freed, planned.frees);
    }
}
