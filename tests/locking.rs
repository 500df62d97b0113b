//! SEMANTICS 2.4: every locking protocol in use works across jobs. Each test adds to a counter under a lock,
//! by several jobs at once that were all running before the first lock was taken; the total has to be exact.
//! Nobody waits for ever: jobs give up, and fail, before the watchdog ends their mount.

mod common;
mod views;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use common::{Run, needs, tools_directory};
use serde_json::json;
use views::{Agent, Ground, all, everywhere, soak};

const JOBS: usize = 5;

fn times() -> usize {
    if soak() { 400 } else { 40 }
}

/// Jobs that have begun, by a Python that has all that is needed.
fn jobs(ground: &Ground, python: &Path) -> Vec<Agent> {
    (0..JOBS)
        .map(|_| {
            let mut agent = Agent::of(python, ground.root());
            assert_eq!(agent.read("/anchor"), "anchor");
            agent
        })
        .collect()
}

/// The Python of `tests/setup`, which has `filelock`. By its own path: through a link it would not know its
/// packages.
fn venv() -> PathBuf {
    let python = tools_directory().join("venv/bin/python");
    assert!(python.exists(), "this test needs {}: run tests/setup", python.display());
    python
}

fn counted_by(python: &Path, kind: &str, names: &[&str]) {
    everywhere(|ground| {
        let mut jobs = jobs(ground, python);
        for name in names {
            for write in ["written", "replaced"] {
                let counter = format!("/count-{name}-{write}");
                all(&mut jobs, "call", |_| {
                    let arguments = json!({
                        "kind": kind, "lock": format!("/{name}"), "counter": counter,
                        "write": write, "times": times(),
                    });
                    ("locks.count", arguments)
                });
                let total = format!("= {}\n", JOBS * times());
                assert_eq!(ground.live()[&counter[1..]], total, "{kind} on {name}, {write}");
            }
        }
        // Nothing of all the locks and temporaries that came and went is kept for anybody.
        ground.nothing_is_staged();
    });
}

macro_rules! counters {
    ($($name:ident: $kind:expr, $python:expr, $names:expr;)*) => {$(
        #[test]
        fn $name() {
            counted_by($python.as_ref(), $kind, &$names);
        }
    )*};
}

const NAMES: [&str; 2] = ["guard", "guard.lock"];

counters! {
    flock_on_a_file_opened_to_be_written: "flock-w", views::PYTHON, NAMES;
    flock_on_a_file_opened_to_be_written_that_names_its_holder: "flock-w-pid", views::PYTHON, NAMES;
    flock_on_a_file_opened_to_append: "flock-a+", views::PYTHON, NAMES;
    flock_on_a_file_opened_to_append_that_names_its_holder: "flock-a+-pid", views::PYTHON, NAMES;
    flock_that_waits_in_the_kernel: "flock-waiting", views::PYTHON, NAMES;
    flock_on_a_file_that_goes_with_the_lock: "flock-unlink", views::PYTHON, NAMES;
    lockf_on_a_file_opened_to_be_written: "lockf-w", views::PYTHON, NAMES;
    lockf_on_a_file_opened_to_append_that_names_its_holder: "lockf-a+-pid", views::PYTHON, NAMES;
    a_file_made_exclusively: "exclusive", views::PYTHON, NAMES;
    a_file_made_exclusively_that_names_its_holder: "exclusive-pid", views::PYTHON, NAMES;
    a_directory: "mkdir", views::PYTHON, NAMES;
    a_hard_link: "link", views::PYTHON, NAMES;
    a_symlink: "symlink", views::PYTHON, NAMES;
    filelock: "FileLock", venv(), NAMES;
    soft_filelock: "SoftFileLock", venv(), NAMES;
}

#[test]
fn exclusive_creation_is_decided_at_once_though_nobody_sees_the_file_yet() {
    everywhere(|ground| {
        let [mut one, mut two] = ground.agents();
        one.does("open", ["f", "/taken", "x"]);
        two.refused(libc::EEXIST, "open", ["f", "/taken", "x"]);
        one.does("write", ["f", "text"]);
        two.refused(libc::EEXIST, "open", ["f", "/taken", "x"]);
        two.refused(libc::EEXIST, "mkdir", ["/taken"]);
        two.refused(libc::EEXIST, "symlink", ["anything", "/taken"]);
        two.refused(libc::EEXIST, "link", ["/anchor", "/taken"]);
        one.does("close", ["f"]);
        two.refused(libc::EEXIST, "open", ["f", "/taken", "x"]);
        one.does("unlink", ["/taken"]);
        two.does("open", ["f", "/taken", "x"]);
    });
}

#[test]
fn two_who_open_an_empty_file_to_write_it_lock_the_same_one() {
    everywhere(|ground| {
        let [mut one, mut two, mut three] = ground.agents();
        for (path, first, then) in
            [("/a", "w", "w"), ("/b", "w", "a+"), ("/c", "create", "w"), ("/d", "x", "create")]
        {
            for how in ["flock", "lockf"] {
                let path = &format!("{path}-{how}");
                one.does("open", ["f", path, first]);
                two.does("open", ["f", path, then]);
                three.does("open", ["f", path, "create"]);
                one.does(how, ["f", "EX"]);
                for other in [&mut two, &mut three] {
                    other.refused(libc::EAGAIN, how, ["f", "EX"]);
                }
                // The holder says who it is, and those who come then still find the same file.
                one.does("write", ["f", "pid"]);
                two.refused(libc::EAGAIN, how, ["f", "EX"]);
                three.does("close", ["f"]);
                three.does("open", ["f", path, if then == "create" { "a" } else { then }]);
                three.refused(libc::EAGAIN, how, ["f", "EX"]);
                one.does("close", ["f"]);
                two.does(how, ["f", "EX"]);
                three.refused(libc::EAGAIN, how, ["f", "EX"]);
                two.does("close", ["f"]);
                three.does(how, ["f", "EX"]);
                three.does("close", ["f"]);
            }
        }
    });
}

#[test]
fn a_lock_is_free_when_its_holder_was_killed() {
    everywhere(|ground| {
        for how in ["flock", "lockf"] {
            for mode in ["w", "a+", "create"] {
                let (mut holder, mut other) = (ground.older(), ground.older());
                holder.does("open", ["f", "/guard", mode]);
                holder.does(how, ["f", "EX"]);
                holder.does("write", ["f", "pid"]);
                other.does("open", ["f", "/guard", mode]);
                other.refused(libc::EAGAIN, how, ["f", "EX"]);
                holder.kill();
                other.does(how, ["f", "EX"]);
                let mut third = ground.agent();
                third.does("open", ["f", "/guard", mode]);
                third.refused(libc::EAGAIN, how, ["f", "EX"]);
                other.end();
                third.does(how, ["f", "EX"]);
            }
        }
    });
}

/// Each turn is a job of its own, and another one's lock is held by processes that inherited it.
#[test]
fn flock_of_the_shell() {
    everywhere(|ground| {
        let turn = "flock guard sh -c 'n=$(cat count 2>/dev/null || echo 0); echo $((n+1)) >count'";
        let script = format!("for i in $(seq 30); do {turn}; done");
        let other = "for i in $(seq 30); do (flock 9; n=$(cat count 2>/dev/null || echo 0); \
                     echo $((n+1)) >count) 9>guard; done";
        thread::scope(|scope| {
            for script in [&script, &script, other, other] {
                scope.spawn(|| ground.shell(script));
            }
        });
        assert_eq!(ground.live()["count"], "= 120\n");
    });
}

fn counted_in_a_database(journal: &str) {
    everywhere(|ground| {
        for reopen in [false, true] {
            let mut jobs = jobs(ground, views::PYTHON.as_ref());
            let path = format!("/base-{reopen}");
            let prepared = json!({"path": path, "journal": journal});
            ground.agent().does("call", ("locks.prepare_database", prepared));
            let times = times() / 2;
            all(&mut jobs, "call", |job| {
                let arguments = json!({
                    "path": path, "journal": journal, "job": job, "times": times, "reopen": reopen,
                });
                ("locks.count_in_database", arguments)
            });
            let total = JOBS * times;
            for agent in [&mut ground.agent(), &mut jobs[0]] {
                let told = agent.does("call", ("locks.look_into_database", json!({"path": path})));
                assert_eq!(told, json!([total, total, "ok"]), "{journal}, reopened: {reopen}");
            }
        }
    });
}

#[test]
fn sqlite_with_a_journal_that_is_removed() {
    counted_in_a_database("delete");
}

#[test]
fn sqlite_with_a_journal_that_is_emptied() {
    counted_in_a_database("truncate");
}

#[test]
fn sqlite_with_a_journal_that_stays() {
    counted_in_a_database("persist");
}

#[test]
fn sqlite_with_a_log_written_ahead() {
    counted_in_a_database("wal");
}

/// Whoever comes next undoes what a killed job has left, and removes its journal: that must be gone for
/// those as well who ran before, or they would undo what has been done since.
#[test]
fn sqlite_undoes_what_a_killed_job_left_once() {
    everywhere(|ground| {
        let base = json!({"path": "/base", "journal": "delete"});
        let count = |job: usize| {
            let arguments = json!({
                "path": "/base", "journal": "delete", "job": job, "times": 5, "reopen": true,
            });
            ("locks.count_in_database", arguments)
        };
        let (mut first, mut second) = (ground.older(), ground.older());
        first.does("call", ("locks.prepare_database", &base));
        first.does("call", count(1));
        let mut killed = ground.older();
        killed.does("call", ("locks.half_a_transaction", &base));
        assert!(second.exists("/base-journal"));
        killed.kill();
        first.does("call", count(1));
        second.does("call", count(2));
        first.does("call", count(1));
        for agent in [&mut first, &mut second, &mut ground.agent()] {
            let told = agent.does("call", ("locks.look_into_database", json!({"path": "/base"})));
            assert_eq!(told, json!([20, 20, "ok"]));
        }
    });
}

/// Builds of one project at once: cargo takes turns by its own locks, in its home and in the target directory,
/// and the build script counts the turns.
#[test]
fn cargo() {
    const BUILDS: usize = 6;
    let cargo = std::env::var_os("CARGO").map_or_else(|| needs("cargo"), Into::into);
    let ground = Ground::new();
    let project = ground.beside("project");
    for (name, text) in [
        (
            "Cargo.toml",
            "[package]\nname = \"example\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
             build = \"build.rs\"\n[dependencies]\nother = { path = \"other\" }\n",
        ),
        ("src/main.rs", "fn main() { println!(\"{}\", other::NUMBER); }\n"),
        (
            "build.rs",
            "use std::{env, fs, thread, time::Duration};\n\
             fn main() {\n\
             println!(\"cargo:rerun-if-env-changed=TURN\");\n\
             let path = env::var(\"COUNTER\").unwrap();\n\
             let text = fs::read_to_string(&path).unwrap_or_default();\n\
             let number: u32 = text.parse().unwrap_or(0);\n\
             thread::sleep(Duration::from_millis(50));\n\
             fs::write(path, (number + 1).to_string()).unwrap();\n}\n",
        ),
        (
            "other/Cargo.toml",
            "[package]\nname = \"other\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
        ),
        ("other/src/lib.rs", "pub const NUMBER: u32 = 42;\n"),
    ] {
        let path = project.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let at = |name: &str| ground.root().join(name);
    let build = |turn: usize| {
        Run::new(&cargo)
            .args(["build", "--offline", "--quiet"])
            .directory(&project)
            .env("CARGO_HOME", at("home"))
            .env("CARGO_TARGET_DIR", at("target"))
            .env("CARGO_INCREMENTAL", "0")
            .env("COUNTER", at("count"))
            .env("TURN", turn.to_string())
            .timeout(Duration::from_secs(100))
            .succeeds();
    };
    thread::scope(|scope| {
        for turn in 0..BUILDS {
            scope.spawn(move || build(turn));
        }
    });
    assert_eq!(ground.live()["count"], format!("= {BUILDS}"));
    Run::new(at("target/debug/example")).succeeds().says("42");
}
