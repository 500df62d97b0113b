//! Warnings that repeat themselves: a store that fails has something to say for every call on it, and a log
//! that is filled with that helps nobody.
//!
//! Of each kind (each place in the source that warns) [`MOST`] are logged in [`PERIOD`]. How many were left out
//! is said as soon as something is logged after that, and at the end.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// So many of a kind are logged.
const MOST: u32 = 10;

/// In this time, which begins with the first of them.
const PERIOD: Duration = Duration::from_secs(60);

/// What was logged of one kind.
#[derive(Debug)]
struct Kind {
    since: Instant,
    logged: u32,
    left_out: u64,
    /// The last one that was left out.
    last: String,
}

static KINDS: Mutex<Option<HashMap<Identifier, Kind>>> = Mutex::new(None);

/// What was left out of a kind: how many, and the last of them.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    count: u64,
    last: String,
}

/// Takes one of a kind, which says `message`: whether it is to be logged.
fn take(
    kinds: &mut HashMap<Identifier, Kind>,
    kind: Identifier,
    now: Instant,
    message: impl FnOnce() -> String,
) -> bool {
    let fresh = || Kind { since: now, logged: 0, left_out: 0, last: String::new() };
    let kind = kinds.entry(kind).or_insert_with(fresh);
    if kind.logged < MOST {
        kind.logged += 1;
        return true;
    }
    kind.left_out += 1;
    kind.last = message();
    false
}

/// Ends the periods that are over (or all), and tells what was left out in them.
fn end(kinds: &mut HashMap<Identifier, Kind>, now: Instant, all: bool) -> Vec<LeftOut> {
    let over = |kind: &Kind| all || now.duration_since(kind.since) >= PERIOD;
    let over = kinds.extract_if(|_, kind| over(kind)).map(|(_, kind)| kind);
    let missed = over.filter(|kind| kind.left_out > 0);
    missed.map(|kind| LeftOut { count: kind.left_out, last: kind.last }).collect()
}

fn tell(left_out: Vec<LeftOut>) {
    for LeftOut { count, last } in left_out {
        tracing::warn!(left_out = count, last, "warnings of one kind were left out");
    }
}

/// Says what was left out until now.
pub(super) fn finish() {
    let left_out = KINDS.lock().as_mut().map(|kinds| end(kinds, Instant::now(), true));
    tell(left_out.unwrap_or_default());
}

/// Lets through what is not said too often.
pub(super) struct Limit;

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let about = event.metadata();
        if about.target() == module_path!() {
            return true;
        }
        let now = Instant::now();
        let (left_out, logged) = {
            let mut kinds = KINDS.lock();
            let kinds = kinds.get_or_insert_default();
            let left_out = end(kinds, now, false);
            let limited = *about.level() <= Level::WARN;
            (left_out, !limited || take(kinds, about.callsite(), now, || message(event)))
        };
        // Without the lock: what is told here comes back to this function, by way of the log of the whole
        // process (one of a thread alone takes nothing in the midst of something else).
        tell(left_out);
        logged
    }
}

/// What an event says, without what belongs to it.
fn message(event: &Event<'_>) -> String {
    struct Message(String);
    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }
    let mut found = Message(String::new());
    event.record(&mut found);
    found.0
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn kinds() -> (Identifier, Identifier) {
        let one = tracing::callsite!(name: "one", kind: tracing::metadata::Kind::EVENT, fields: a);
        let two = tracing::callsite!(name: "two", kind: tracing::metadata::Kind::EVENT, fields: a);
        (
            tracing::callsite::Callsite::metadata(one).callsite(),
            tracing::callsite::Callsite::metadata(two).callsite(),
        )
    }

    #[test]
    fn each_kind_has_its_own_limit() {
        let (one, two) = kinds();
        let (mut all, now) = (HashMap::new(), Instant::now());
        let mut logged = |kind: &Identifier, number: u32| {
            take(&mut all, kind.clone(), now, || format!("number {number}"))
        };
        assert_eq!((0..MOST + 5).filter(|n| logged(&one, *n)).count() as u32, MOST);
        assert_eq!((0..MOST).filter(|n| logged(&two, *n)).count() as u32, MOST);
        // Of the other kind nothing was left out.
        let last = format!("number {}", MOST + 4);
        assert_eq!(end(&mut all, now, true), [LeftOut { count: 5, last }]);
    }

    #[test]
    fn a_new_period_begins_when_one_is_over() {
        let (one, _) = kinds();
        let (mut all, begin) = (HashMap::new(), Instant::now());
        for _ in 0..MOST + 1 {
            take(&mut all, one.clone(), begin, || "it".into());
        }
        let later = begin + PERIOD - Duration::from_secs(1);
        assert!(end(&mut all, later, false).is_empty());
        assert!(!take(&mut all, one.clone(), later, || "that".into()));
        let over = begin + PERIOD;
        assert_eq!(end(&mut all, over, false), [LeftOut { count: 2, last: "that".into() }]);
        assert!(take(&mut all, one, over, || "this".into()));
    }

    #[test]
    fn a_log_has_ten_of_a_kind_and_how_many_more_there_were() {
        let file = tempfile::tempfile().unwrap();
        let to = std::sync::Mutex::new(file.try_clone().unwrap());
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(to);
        let log = tracing_subscriber::registry().with(lines).with(Limit);
        tracing::subscriber::with_default(log, || {
            for number in 0..MOST + 3 {
                tracing::warn!("full for the time {number}");
                tracing::info!("no warning");
            }
            tracing::error!("something else");
            finish();
        });
        let mut text = String::new();
        std::io::Seek::rewind(&mut &file).unwrap();
        std::io::Read::read_to_string(&mut &file, &mut text).unwrap();
        let count = |what: &str| text.matches(what).count();
        let limited = MOST as usize;
        assert_eq!(count("WARN") - 1, limited, "{text}");
        assert_eq!((count("no warning"), count("something else")), (limited + 3, 1), "{text}");
        assert!(text.contains("left_out=3 last=\"full for the time 12\""), "{text}");
    }
}
