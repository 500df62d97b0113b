//! The heart of it, with the tool that started it: jobs install from a cache that others clean, prune and remove
//! all the time, and nobody notices. Every file that was installed is right, by the hashes in its RECORD.
//!
//! The same on a plain directory fails at once, which is shown first.

mod common;
mod views;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use common::{Finished, Mount, Run, tool, wheelhouse};
use views::{Ground, PYTHON, scripts, soak};

const INSTALLERS: usize = 4;

/// What is installed in turn: large wheels, source distributions that are built in isolation, small ones. They
/// overlap, so that jobs use what others are just making.
const SETS: [&[&str]; 4] = [
    &["rich", "toolz", "markupsafe"],
    &["requests", "idna", "pyyaml", "rich"],
    &["pytest", "toolz", "jinja2"],
    &["numpy", "pandas", "rich"],
];

/// `uv` with its cache in a place.
struct Uv<'a> {
    ground: &'a Ground,
    home: PathBuf,
}

impl<'a> Uv<'a> {
    fn new(ground: &'a Ground) -> Self {
        Self { ground, home: ground.beside("home") }
    }

    fn cache(&self) -> PathBuf {
        self.ground.root().join("uv")
    }

    fn run(&self, words: &[&str]) -> Run {
        Run::new(tool("uv"))
            .clean_environment(&self.home)
            .directory(&self.home)
            .envs(&self.settings())
            .args(words)
            .timeout(Duration::from_secs(240))
    }

    fn settings(&self) -> [(&'static str, PathBuf); 7] {
        [
            ("UV_CACHE_DIR", self.cache()),
            ("UV_NO_CONFIG", "1".into()),
            ("UV_LINK_MODE", "copy".into()),
            ("UV_PYTHON", PYTHON.into()),
            ("UV_OFFLINE", "1".into()),
            ("UV_NO_INDEX", "1".into()),
            ("UV_FIND_LINKS", wheelhouse()),
        ]
    }

    /// Makes an environment and looks at all that is in it then. What went wrong, if anything did.
    fn install(&self, environment: &Path, packages: &[&str]) -> Result<(), String> {
        let ok = |finished: Finished| match finished.status.success() {
            true => Ok(()),
            false => Err(finished.to_string()),
        };
        ok(self.run(&["venv", "--clear"]).arg(environment).finish())?;
        ok(self.run(&["pip", "install", "--python"]).arg(environment).args(packages).finish())?;
        let records = scripts().join("records.py");
        ok(Run::new(PYTHON).arg(records).arg(environment).args(packages).finish())
    }

    /// One of the ways to remove what is cached, in turn.
    fn remove(&self, turn: usize) -> Finished {
        let packages = ["rich", "toolz", "numpy", "idna"];
        match turn % 5 {
            0 => self.run(&["cache", "clean", "--force"]).finish(),
            1 => self.run(&["cache", "clean", packages[turn / 5 % 4], "--force"]).finish(),
            2 => self.run(&["cache", "prune", "--force"]).finish(),
            3 => Run::shell(format!("rm -rf {}/*", self.ground.root().display())).finish(),
            _ => self.ground.clean(&[]),
        }
    }
}

#[derive(Default)]
struct Outcome {
    installs: AtomicUsize,
    removals: AtomicUsize,
    failed_installs: Mutex<Vec<String>>,
    failed_removals: Mutex<Vec<String>>,
}

/// Installs and removes beside each other until there were so many of each, the time is up, or, if wanted,
/// an install has failed.
fn storm(uv: &Uv<'_>, enough: (usize, usize), limit: Duration, until_it_fails: bool) -> Outcome {
    let outcome = Outcome::default();
    let over = AtomicBool::new(false);
    let deadline = Instant::now() + limit;
    let (installs, removals) = (&outcome.installs, &outcome.removals);
    let done = || {
        installs.load(Ordering::SeqCst) >= enough.0 && removals.load(Ordering::SeqCst) >= enough.1
    };
    thread::scope(|scope| {
        for own in 0..INSTALLERS {
            let (over, failed) = (&over, &outcome.failed_installs);
            scope.spawn(move || {
                let environment = uv.home.join(format!("environment-{own}"));
                for round in own.. {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    if let Err(what) = uv.install(&environment, SETS[round % SETS.len()]) {
                        failed.lock().unwrap().push(what);
                        over.fetch_or(until_it_fails, Ordering::SeqCst);
                    }
                    installs.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for turn in 0.. {
            // Now and then a cache may fill, so that there is something to use, and to remove.
            let fill = installs.load(Ordering::SeqCst) + [0, 0, 1, 0, 3][turn % 5];
            while installs.load(Ordering::SeqCst) < fill && !over.load(Ordering::SeqCst) {
                if Instant::now() > deadline {
                    break;
                }
                sleep(Duration::from_millis(5));
            }
            if done() || Instant::now() > deadline || over.load(Ordering::SeqCst) {
                break;
            }
            let removed = uv.remove(turn);
            if !removed.status.success() {
                outcome.failed_removals.lock().unwrap().push(removed.to_string());
            }
            removals.fetch_add(1, Ordering::SeqCst);
        }
        over.store(true, Ordering::SeqCst);
    });
    println!(
        "{} installs beside {} removals, of which {} and {} failed",
        installs.load(Ordering::SeqCst),
        removals.load(Ordering::SeqCst),
        outcome.failed_installs.lock().unwrap().len(),
        outcome.failed_removals.lock().unwrap().len(),
    );
    outcome
}

#[test]
fn installs_fail_on_a_plain_directory_when_others_remove() {
    let ground = Ground::plain();
    let uv = Uv::new(&ground);
    let outcome = storm(&uv, (60, 60), Duration::from_secs(90), true);
    let failed = outcome.failed_installs.into_inner().unwrap();
    println!("{}", failed.first().expect("a plain directory does as well"));
}

#[test]
fn installs_do_not_notice_that_others_remove() {
    let (enough, limit) = if soak() { ((200, 200), 3600) } else { ((40, 40), 600) };
    let limit = Duration::from_secs(limit);
    let builder = Mount::builder().watchdog(limit + Duration::from_secs(300));
    let ground = Ground::built(builder);
    let uv = Uv::new(&ground);
    let outcome = storm(&uv, enough, limit, false);
    let failed = [
        ("installs", outcome.failed_installs.into_inner().unwrap()),
        ("removals", outcome.failed_removals.into_inner().unwrap()),
    ];
    for (what, failed) in &failed {
        println!("{} {what} failed\n{}", failed.len(), failed.join("\n"));
    }
    assert!(failed.iter().all(|(_, failed)| failed.is_empty()), "some failed; they are above");
    let (installs, removals) = (outcome.installs.into_inner(), outcome.removals.into_inner());
    assert!(
        installs >= enough.0 && removals >= enough.1,
        "in {limit:?} only {installs}, {removals}"
    );
    // All jobs have ended: what was removed is gone, and what is left is a cache that serves.
    ground.nothing_is_staged();
    ground.reclaimed();
    uv.install(&uv.home.join("last"), SETS[1]).unwrap();
    uv.install(&uv.home.join("last"), SETS[1]).unwrap();
}

/// A program that runs in the cache itself, loads a part of itself, lets others remove, and loads another.
/// How it ended, and what it said.
fn runs_on_after(uv: &Uv<'_>, remove: impl FnOnce()) -> (bool, String) {
    let script = "import sys, rich, rich.text; print('ready', flush=True); sys.stdin.readline(); \
                  import rich.table, rich.markdown; print(rich.table.Table().columns)";
    let mut command = Command::new(tool("uv"));
    command
        .args(["tool", "run", "--quiet", "--from", "rich", "python", "-c", script])
        .current_dir(&uv.home)
        .env("HOME", &uv.home)
        .envs(uv.settings())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: prctl may be called between fork and exec, and this option takes no pointers.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (sender, ready) = mpsc::channel();
    let said = thread::spawn(move || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let _ = sender.send(line.clone());
        output.read_to_string(&mut line).unwrap();
        line
    });
    let line = ready.recv_timeout(Duration::from_secs(60));
    if line.as_deref() == Ok("ready\n") {
        remove();
    }
    // It has ended already when it wasn't ready.
    let _ = child.stdin.take().unwrap().write_all(b"go on\n");
    let mut complaints = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    (child.wait().unwrap().success(), said.join().unwrap() + &complaints)
}

/// Each of the ways to remove, the prune first: it is the one that was asked for.
const TURNS: [(usize, &str); 5] = [
    (2, "uv cache prune"),
    (0, "uv cache clean"),
    (1, "uv cache clean rich"),
    (3, "rm -rf"),
    (4, "cachefs clean"),
];

#[test]
fn a_program_that_runs_in_the_cache_dies_on_a_plain_directory() {
    for (turn, name) in TURNS {
        let ground = Ground::plain();
        let uv = Uv::new(&ground);
        let (lived, said) = runs_on_after(&uv, || drop(uv.remove(turn)));
        println!("{name}: lived: {lived}\n{said}");
        // To clean one package leaves the environments that are made of it.
        if turn != 1 {
            assert!(
                !lived && said.contains("ready"),
                "a plain directory does as well after {name}: {said}"
            );
        }
    }
}

#[test]
fn a_program_that_runs_in_the_cache_survives_what_others_remove() {
    for (turn, name) in TURNS {
        let ground = Ground::new();
        let uv = Uv::new(&ground);
        let (lived, said) = runs_on_after(&uv, || {
            let removed = uv.remove(turn);
            assert!(removed.status.success(), "{removed}");
        });
        assert!(lived, "after {name}: {said}");
        ground.reclaimed();
    }
}
