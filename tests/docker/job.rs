//! Containers that work with one cache at the same time, by `job.py`.

use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{Container, Engine};
use crate::common::tools_directory;

/// All that `job.py` knows to do.
pub(crate) const STEPS: [&str; 6] = ["uv", "build", "tox", "pip", "ruff", "npm"];

/// One of the containers.
pub(crate) struct Party<'a> {
    pub(crate) name: &'a str,
    pub(crate) container: Container<'a>,
    pub(crate) umask: &'a str,
    /// With no index to ask: all has to be in the cache.
    pub(crate) offline: bool,
}

/// How a step ended, cold or warm, in one of the containers.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Done {
    #[serde(default)]
    pub(crate) party: String,
    pub(crate) step: String,
    pub(crate) phase: String,
    pub(crate) seconds: f64,
    pub(crate) failed: Option<String>,
}

impl<'a> Party<'a> {
    /// A container as users have it, of this user.
    pub(crate) fn of(engine: &'a Engine, name: &'a str, uid: u32) -> Self {
        Self { name, container: engine.container().user(uid), umask: "022", offline: false }
    }
}

/// Has containers do these steps with a directory of the host as their cache, all at once. What came of it,
/// in no order; the test fails when one of them can't say how it went.
#[track_caller]
pub(crate) fn work_together(
    engine: &Engine,
    cache: &Path,
    parties: Vec<Party<'_>>,
    steps: &[&str],
) -> Vec<Done> {
    let meeting = engine.directory();
    let count = parties.len();
    let work = |party: Party<'_>| {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let run = party
            .container
            .bind(cache, "/cache", "rw")
            .bind(&meeting, "/meeting", "rw")
            .run([Path::new("/usr/bin/python3"), &tests.join("docker/job.py")])
            .args([
                "--cache=/cache",
                "--meeting=/meeting",
                "--work=/tmp/work",
                "--name",
                party.name,
            ])
            .args([format!("--parties={count}"), format!("--umask={}", party.umask)])
            .arg("--tools")
            .arg(tools_directory().canonicalize().unwrap())
            .args(party.offline.then_some("--offline"))
            .args(steps)
            .timeout(Duration::from_secs(600));
        let ended = run.succeeds();
        let told = ended.stdout.lines().map(|line| {
            let done: Done = serde_json::from_str(line).unwrap_or_else(|error| {
                panic!("not what a step ends with: {error}\n{ended}");
            });
            Done { party: party.name.to_owned(), ..done }
        });
        told.collect::<Vec<Done>>()
    };
    let done: Vec<Done> = thread::scope(|scope| {
        let all: Vec<_> = parties.into_iter().map(|party| scope.spawn(|| work(party))).collect();
        all.into_iter().flat_map(|party| party.join().unwrap()).collect()
    });
    assert_eq!(done.len(), count * steps.len() * 2, "not everyone did everything: {done:?}");
    done
}
