//! SEMANTICS 2.1, 2.2 and 2.6 under load: sixteen jobs write eight names, sixteen read them, and some of the
//! writers are killed in the middle. Each read is one whole version, and none that was completed is lost.

mod common;
mod views;

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Mount, Run};
use serde_json::{Value, json};
use views::{Agent, Ground, soak};

const WRITERS: usize = 16;
const READERS: usize = 16;
const NAMES: usize = 8;
/// Names from this one on are removed and made anew as well.
const REMOVABLE: usize = 5;

/// How long a storm lasts: `CACHEFS_STORM_SECONDS`, or what there is time for.
fn seconds() -> u64 {
    let told = std::env::var("CACHEFS_STORM_SECONDS").ok();
    told.map_or(if soak() { 60 } else { 20 }, |told| told.parse().unwrap())
}

/// What came of a storm.
#[derive(Debug, Default)]
struct Outcome {
    read: u64,
    written: u64,
    killed: usize,
    wrong: Vec<String>,
    temporaries: Vec<String>,
}

struct Storm {
    by_rename: bool,
    until: Instant,
    logs: Vec<PathBuf>,
}

impl Storm {
    /// The end, for a job: it has another idea of time.
    fn until(&self) -> f64 {
        let left = self.until.saturating_duration_since(Instant::now());
        (SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + left).as_secs_f64()
    }

    fn writes(&self, agent: &mut Agent, own: usize, life: usize) {
        let arguments = json!({
            "names": NAMES, "removable": REMOVABLE, "writer": own, "seed": own * 1000 + life,
            "until": self.until(), "log": self.logs[own],
            "by_rename": self.by_rename,
        });
        agent.tell("call", ("storm.write", arguments));
    }

    fn reads(&self, agent: &mut Agent, own: usize) {
        let arguments = json!({
            "names": NAMES, "removable": REMOVABLE, "seed": own, "until": self.until(),
        });
        agent.tell("call", ("storm.read", arguments));
    }
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn storm(ground: &Ground, length: Duration, by_rename: bool) -> Outcome {
    let logs = ground.beside("logs");
    // All are up before any begins.
    let agents = |count| -> Vec<Agent> {
        let mut agents: Vec<Agent> =
            (0..count).map(|_| ground.agent().patience(Duration::from_secs(180))).collect();
        agents.iter_mut().for_each(|agent| drop(agent.does("pid", ())));
        agents
    };
    let (mut writers, mut readers) = (agents(WRITERS), agents(READERS));
    let storm = Storm {
        by_rename,
        until: Instant::now() + length,
        logs: (0..WRITERS).map(|own| logs.join(own.to_string())).collect(),
    };
    let mut outcome = Outcome::default();
    for (own, writer) in writers.iter_mut().enumerate() {
        storm.writes(writer, own, 0);
    }
    for (own, reader) in readers.iter_mut().enumerate() {
        storm.reads(reader, own);
    }
    // The first half of the writers is killed over and over, one after the other.
    while storm.until.saturating_duration_since(Instant::now()) > Duration::from_secs(1) {
        sleep(Duration::from_millis(150));
        let own = outcome.killed % (WRITERS / 2);
        outcome.killed += 1;
        let [mut next] = ground.agents();
        storm.writes(&mut next, own, outcome.killed);
        std::mem::replace(&mut writers[own], next.patience(Duration::from_secs(180))).kill();
    }
    for mut writer in writers {
        outcome.written += writer.finishes().as_u64().unwrap();
        writer.end();
    }
    for mut reader in readers {
        let told = reader.finishes();
        outcome.read += told["count"].as_u64().unwrap();
        outcome.wrong.extend(strings(&told["wrong"]));
        reader.end();
    }
    let left = json!({"names": NAMES, "removable": REMOVABLE, "logs": storm.logs});
    let left = ground.agent().does("call", ("storm.settle", left));
    outcome.wrong.extend(strings(&left["wrong"]));
    outcome.temporaries = strings(&left["temporaries"]);
    println!(
        "{} versions read, {} written by those who lived, {} writers killed, {} wrong",
        outcome.read,
        outcome.written,
        outcome.killed,
        outcome.wrong.len()
    );
    outcome
}

fn every_read_is_one_whole_version(options: &[&str]) {
    let length = Duration::from_secs(seconds());
    let builder =
        Mount::builder().options(options.to_vec()).watchdog(length * 3 + Duration::from_secs(120));
    let ground = Ground::built(builder);
    let outcome = storm(&ground, length, false);
    assert!(outcome.wrong.is_empty(), "{:#?}", outcome.wrong);
    // Else nothing was tried.
    assert!(outcome.read > 1000 && outcome.written > 50 && outcome.killed > 5, "{outcome:?}");
    // Those who were killed left at most what they had renamed or not yet removed: a temporary is live only
    // between its close and its rename.
    assert!(outcome.temporaries.len() <= outcome.killed, "{:?}", outcome.temporaries);
    ground.nothing_is_staged();
    ground.reclaimed();
}

#[test]
fn every_read_is_one_whole_version_read_by_the_kernel() {
    every_read_is_one_whole_version(&[]);
}

#[test]
fn every_read_is_one_whole_version_read_through_the_daemon() {
    every_read_is_one_whole_version(&["--no-passthrough"]);
}

/// What comes of writers who are killed as fast as they can be started.
fn killed(directory: &Path) -> Value {
    let script = views::scripts().join("killed.py");
    let run = Run::new("python3").arg(script).arg(directory).arg("10");
    let finished = run.timeout(Duration::from_secs(150)).succeeds();
    let told: Value = serde_json::from_str(&finished.stdout).unwrap();
    println!("{told} {}", finished.stderr);
    // Else nothing was tried.
    assert!(told["killed"].as_u64() > Some(100), "{told}");
    told
}

fn who_is_killed_leaves_what_was_there(options: &[&str]) {
    let builder = Mount::builder().options(options.to_vec()).watchdog(Duration::from_secs(200));
    let ground = Ground::built(builder);
    let told = killed(ground.mount().path());
    assert_eq!(told["wrong"], json!([]));
    assert!(told["read"].as_u64() > Some(500), "{told}");
    ground.nothing_is_staged();
    ground.reclaimed();
}

#[test]
fn who_is_killed_leaves_what_was_there_read_by_the_kernel() {
    who_is_killed_leaves_what_was_there(&[]);
}

#[test]
fn who_is_killed_leaves_what_was_there_read_through_the_daemon() {
    who_is_killed_leaves_what_was_there(&["--no-passthrough"]);
}

#[test]
fn on_a_plain_directory_who_is_killed_leaves_half_files() {
    let directory = tempfile::tempdir().unwrap();
    assert_ne!(killed(directory.path())["wrong"], json!([]));
}

#[test]
fn a_plain_directory_shows_half_files() {
    let outcome = storm(&Ground::plain(), Duration::from_secs(4), false);
    assert!(!outcome.wrong.is_empty(), "{outcome:?}");
}

/// So that it is clear whose fault a half file is.
#[test]
fn a_plain_directory_shows_whole_files_if_they_are_renamed_into_place() {
    let outcome = storm(&Ground::plain(), Duration::from_secs(4), true);
    assert!(outcome.wrong.is_empty() && outcome.read > 100, "{outcome:?}");
}
