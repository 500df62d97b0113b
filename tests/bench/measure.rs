//! The rounds.

use std::time::{Duration, Instant};

use crate::Result;
use crate::kernel_cache::Cold;
use crate::operations::{Goal, Operation, Scale};
use crate::options::Options;
use crate::place::Place;
use crate::requests::{Counter, Requests, processor_time};
use crate::scratch::Scratch;
use crate::stats::Summary;
use crate::systems::System;
use crate::watchdog::Watchdog;

/// No single step takes longer than this.
const STEP: Duration = Duration::from_secs(120);

/// One operation on all systems.
pub(crate) struct Measured {
    pub(crate) operation: String,
    pub(crate) unit: &'static str,
    pub(crate) goal: Option<Goal>,
    /// The first is the plain directory.
    pub(crate) systems: Vec<OnSystem>,
    /// Why it was not measured at all.
    pub(crate) skipped: Option<&'static str>,
}

/// One operation on one system.
#[derive(Default)]
pub(crate) struct OnSystem {
    pub(crate) system: String,
    /// Seconds for one unit, a number for each round.
    pub(crate) seconds: Vec<f64>,
    /// Time to that of the plain directory in the same round.
    pub(crate) ratios: Vec<f64>,
    /// Seconds of processor time that the daemon spent on one unit.
    pub(crate) daemon_seconds: Vec<f64>,
    /// Requests to the daemon for one unit.
    pub(crate) requests: Option<Vec<(String, f64)>>,
    pub(crate) failure: Option<String>,
}

impl Measured {
    pub(crate) fn worked(&self) -> bool {
        self.systems.iter().all(|system| system.failure.is_none())
    }
}

/// Measures everything.
pub(crate) fn all(
    options: &Options,
    (scratch, outside): (&Scratch, &Scratch),
    systems: &[Box<dyn System>],
    operations: &[Operation],
) -> Result<Vec<Measured>> {
    let scale = Scale::of(options);
    let places = places(outside, systems, scale)?;
    let counter = Counter::new(scratch);
    eprintln!("requests are counted by: {}", counter.source());
    let watchdog = Watchdog::over(
        systems
            .iter()
            .filter(|system| system.connection().is_some())
            .map(|system| system.root().to_owned())
            .collect(),
    );
    let run = Run {
        systems,
        places: &places,
        counter: (!options.leaves_out("requests")).then_some(&counter),
        watchdog: &watchdog,
        rounds: options.rounds,
    };
    let results = operations
        .iter()
        .map(|operation| {
            let started = Instant::now();
            eprint!("{:<34}", operation.name);
            let measured = run.measure(operation);
            eprintln!("{:>6.1} s", started.elapsed().as_secs_f64());
            measured
        })
        .collect();
    Ok(results)
}

fn places(outside: &Scratch, systems: &[Box<dyn System>], scale: Scale) -> Result<Vec<Place>> {
    systems
        .iter()
        .enumerate()
        .map(|(number, system)| {
            Ok(Place {
                root: system.root().to_owned(),
                outside: outside.directory(&format!("outside-{number}"))?,
                scale,
            })
        })
        .collect()
}

struct Run<'a> {
    systems: &'a [Box<dyn System>],
    places: &'a [Place],
    counter: Option<&'a Counter>,
    watchdog: &'a Watchdog,
    rounds: usize,
}

impl Run<'_> {
    fn measure(&self, operation: &Operation) -> Measured {
        let mut measured = Measured {
            operation: operation.name.clone(),
            unit: operation.unit,
            goal: operation.goal,
            systems: Vec::new(),
            skipped: operation.lacks(),
        };
        if operation.cold.is_some() && !Cold::allowed() {
            measured.skipped = Some("needs root, to make the kernel forget");
        }
        if measured.skipped.is_some() {
            return measured;
        }
        for system in self.systems {
            measured
                .systems
                .push(OnSystem { system: system.name().to_owned(), ..OnSystem::default() });
        }
        // One round that does not count, and makes warm what shall be warm.
        self.round(operation, &mut measured.systems, 1, false);
        let rounds = if operation.long { self.rounds.div_ceil(2) } else { self.rounds };
        for round in 0..rounds {
            self.round(operation, &mut measured.systems, round, true);
        }
        self.count(operation, &mut measured.systems);
        for number in (0..measured.systems.len()).rev() {
            let plain = &measured.systems[0].seconds;
            let pairs = measured.systems[number].seconds.iter().zip(plain);
            measured.systems[number].ratios = pairs.map(|(ours, plain)| ours / plain).collect();
        }
        measured
    }

    /// Every system once.
    fn round(&self, operation: &Operation, results: &mut [OnSystem], round: usize, counts: bool) {
        let mut order: Vec<usize> = (0..self.systems.len()).collect();
        if !round.is_multiple_of(2) {
            order.reverse();
        }
        for number in order {
            if results[number].failure.is_some() {
                continue;
            }
            match self.time(operation, number) {
                Ok(_) if !counts => {}
                Ok(sample) => {
                    let per_unit = |time: Duration| time.as_secs_f64() / sample.units as f64;
                    results[number].seconds.push(per_unit(sample.elapsed));
                    if let Some(daemon) = sample.daemon {
                        results[number].daemon_seconds.push(per_unit(daemon));
                    }
                }
                Err(why) => results[number].failure = Some(why.to_string()),
            }
        }
    }

    fn time(&self, operation: &Operation, number: usize) -> Result<Sample> {
        self.watchdog.allow(STEP);
        let timed = operation.arm(&self.places[number])?;
        let daemon = self.systems[number].daemon();
        let busy_before = daemon.and_then(processor_time);
        let started = Instant::now();
        let units = timed()?;
        let elapsed = started.elapsed();
        let busy_after = daemon.and_then(processor_time);
        Ok(Sample {
            units,
            elapsed,
            daemon: busy_before.zip(busy_after).map(|(before, after)| after.saturating_sub(before)),
        })
    }

    /// One more round, not timed, in which requests are counted.
    fn count(&self, operation: &Operation, results: &mut [OnSystem]) {
        let Some(counter) = self.counter else { return };
        for (number, result) in results.iter_mut().enumerate() {
            if result.failure.is_some() {
                continue;
            }
            self.watchdog.allow(STEP);
            let counted = operation
                .arm(&self.places[number])
                .and_then(|timed| counter.during(&*self.systems[number], timed));
            match counted {
                Ok((units, requests)) => {
                    result.requests = requests.map(|requests| per_unit(&requests, units));
                }
                Err(why) => result.failure = Some(why.to_string()),
            }
        }
    }
}

struct Sample {
    units: u64,
    elapsed: Duration,
    daemon: Option<Duration>,
}

/// The most frequent first.
fn per_unit(requests: &Requests, units: u64) -> Vec<(String, f64)> {
    let mut each: Vec<_> =
        requests.iter().map(|(kind, count)| (kind.clone(), *count as f64 / units as f64)).collect();
    each.sort_by(|one, other| other.1.total_cmp(&one.1));
    each
}

impl OnSystem {
    pub(crate) fn time(&self) -> Option<Summary> {
        Summary::of(&self.seconds)
    }
    pub(crate) fn ratio(&self) -> Option<Summary> {
        Summary::of(&self.ratios)
    }
    pub(crate) fn daemon_time(&self) -> Option<Summary> {
        Summary::of(&self.daemon_seconds)
    }
    pub(crate) fn requests_in_all(&self) -> Option<f64> {
        let each = self.requests.as_ref()?;
        Some(each.iter().map(|(_, count)| count).sum())
    }
}
