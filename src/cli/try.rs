//! `cachefs try`: a demonstration with real processes in a temporary directory.
//!
//! This process only starts others and looks: the daemon is a process of its own, as always.

mod stage;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use self::stage::{Stage, Waiting, finish, script};
use super::{Failure, readers, show, status};
use crate::control::Command as Control;
use crate::control::client::Client;

/// How many jobs write at once.
const JOBS: usize = 4;

/// What was kept for a job goes within this time after its end.
const RECLAIM_TIME: Duration = Duration::from_secs(20);

pub(super) fn run() -> Result<ExitCode, Failure> {
    let stage = Stage::new()?;
    let shown = demonstrate(&stage);
    // Also when a step has failed: nothing stays.
    let cleaned = stage.clear();
    shown?;
    cleaned?;
    show::print("\nEverything worked, and nothing of it is left.\n")
}

fn demonstrate(stage: &Stage) -> Result<(), Failure> {
    let (store, mount) = (&stage.store, &stage.mountpoint);
    say(&format!("1. Mounting {} at {}", store.display(), mount.display()))?;
    stage.cachefs(&["mount"], &[store, mount])?;

    say("2. A job writes through the mount; the store holds plain files")?;
    stage.shell(
        "mkdir -p wheels && echo one > wheels/a && ln wheels/a wheels/b && ln -s a wheels/c",
    )?;
    compare(stage)?;

    say(&format!("3. {JOBS} jobs append to one file under one lock, and add files of their own"))?;
    write_at_once(stage)?;
    compare(stage)?;

    say("4. Tools that people use")?;
    use_tools(stage)?;
    compare(stage)?;

    say("5. A job is at work while another one removes everything (`rm -rf`)")?;
    let remove = |directory: &Path| stage.shell_in(directory, "rm -rf -- *");
    let plain = removal(stage, &stage.plain, || remove(&stage.plain).map(drop))?;
    note(&format!("on a plain directory {}", plain.told()))?;
    let shared = removal(stage, mount, || remove(mount).map(drop))?;
    note(&format!("on the mount {}", shared.told()))?;
    shared.expect_undisturbed()?;
    expect(listing(store)?.is_empty(), "the store still shows what was removed")?;

    say("6. The same by `cachefs clean`, and who still sees what was removed (`cachefs readers`)")?;
    let shared = removal(stage, mount, || {
        note(&stage.cachefs(&["clean"], &[mount])?)?;
        // Directories are measured after they were removed.
        let until = Instant::now() + RECLAIM_TIME;
        while retired(store)? == 0 {
            expect(Instant::now() < until, "nothing is kept for the job at work")?;
            std::thread::sleep(Duration::from_millis(10));
        }
        let told = Client::connect(store)?.ask(&Control::Readers)?;
        expect(told["readers"].as_array().is_some_and(|all| !all.is_empty()), "no job is seen")?;
        note(&readers::table(&told))
    })?;
    note(&format!("on the mount {}", shared.told()))?;
    shared.expect_undisturbed()?;
    let until = Instant::now() + RECLAIM_TIME;
    while retired(store)? > 0 {
        expect(Instant::now() < until, "what was removed is kept for a job that has ended")?;
        std::thread::sleep(Duration::from_millis(50));
    }
    note("the job has ended, and nothing is kept any more")?;

    say("7. What the daemon says of itself (`cachefs status`)")?;
    stage.shell("mkdir wheels && echo again > wheels/a")?;
    compare(stage)?;
    let told = Client::connect(store)?.ask(&Control::Status)?;
    note(&status::describe(&told))?;

    say("8. Unmounting gives back a plain directory")?;
    let before = listing(store)?;
    stage.cachefs(&["umount"], &[mount])?;
    expect(listing(store)? == before, "the store is not what the mount was")?;
    expect(fs::read_dir(mount)?.next().is_none(), "the mountpoint is not empty")?;
    note(&format!("{} names in the store, as before; the mountpoint is empty", before.len()))
}

/// How a removal went for a job that was at work, and for one that began after it.
struct Removal {
    /// What the job read after the removal, by name; why it could not.
    old: Result<String, String>,
    /// What a new job lists.
    new: String,
}

impl Removal {
    fn told(&self) -> String {
        let old = match &self.old {
            Ok(said) if said == READ => "the job goes on with all that it had".to_owned(),
            Ok(said) => format!("the job read something else: {}", show::one_line(said)),
            Err(why) => format!("the job fails: {}", show::one_line(why)),
        };
        let new = if self.new.is_empty() {
            "one that begins now sees nothing".to_owned()
        } else {
            format!("one that begins now still sees {}", show::one_line(&self.new))
        };
        format!("{old}; {new}")
    }

    fn expect_undisturbed(&self) -> Result<(), Failure> {
        expect(self.old.as_deref() == Ok(READ), "the job that was at work was disturbed")?;
        expect(self.new.is_empty(), "a new job sees what was removed")
    }
}

/// What the job at work reads from the file that it has open, from another one by its name, and from
/// their directory.
const READ: &str = "one\ntwo\na\nsub\n";

/// Has a job at work in `directory` while `remove` removes everything.
fn removal(
    stage: &Stage,
    directory: &Path,
    remove: impl FnOnce() -> Result<(), Failure>,
) -> Result<Removal, Failure> {
    stage.shell_in(directory, "mkdir -p tool/sub; echo one > tool/a; echo two > tool/sub/b")?;
    let work = "exec 3< tool/a; echo ready; read go; cat <&3; cat tool/sub/b; ls tool";
    let mut at_work = Waiting::start(script(directory, work))?;
    remove()?;
    let new = stage.shell_in(directory, "ls -A")?;
    Ok(Removal { old: at_work.go_on()?, new })
}

/// How many files are kept for running jobs.
fn retired(store: &Path) -> Result<u64, Failure> {
    let told = Client::connect(store)?.ask(&Control::Status)?;
    Ok(told["retired"]["files"].as_u64().unwrap_or(0))
}

fn write_at_once(stage: &Stage) -> Result<(), Failure> {
    const LINES: usize = 100;
    let started = Instant::now();
    let script = |job: usize| {
        format!(
            "i=0; while [ $i -lt {LINES} ]; do \
               (flock 9; echo \"job {job} line $i\" >> log) 9> log.lock; \
               echo $i > f.{job}.$i.new; mv f.{job}.$i.new f.{job}.$i; i=$((i+1)); done"
        )
    };
    at_once(stage, script)?;
    let log = fs::read_to_string(stage.store.join("log"))?;
    let whole =
        log.lines().filter(|line| line.starts_with("job ") && line.contains(" line ")).count();
    expect(whole == JOBS * LINES, "lines of the shared log are lost or mixed")?;
    note(&format!(
        "{whole} lines, none lost, none mixed; {} files renamed into place; {:.1} s",
        JOBS * LINES,
        started.elapsed().as_secs_f64()
    ))
}

/// Lets real tools keep their caches there; none needs a network.
fn use_tools(stage: &Stage) -> Result<(), Failure> {
    if stage.shell("python3 -c 'import zipfile'").is_err() {
        return note("python3 is not on PATH: nothing to show here");
    }
    let python = "PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$PWD/bytecode \
                  python3 -c 'import json, email, http.client'";
    at_once(stage, |_| python.to_owned())?;
    let compiled = listing(&stage.store.join("bytecode"))?.len();
    note(&format!("{JOBS} times python3 at once: {compiled} names in its bytecode cache"))?;
    if stage.shell("uv --version").is_err() {
        return note("uv is not on PATH: nothing more to show here");
    }
    stage.shell(&format!("python3 -c '{WHEEL}' ../demo-1.0-py3-none-any.whl"))?;
    at_once(stage, |job| {
        format!(
            "UV_CACHE_DIR=$PWD/uv uv pip install --offline --no-index --link-mode copy --no-progress \
             --target ../installed.{job} ../demo-1.0-py3-none-any.whl"
        )
    })?;
    let kept = listing(&stage.store.join("uv"))?.len();
    note(&format!("{JOBS} times `uv pip install` at once: {kept} names in its cache"))
}

/// Python, without single quotes: writes the smallest wheel to the path that it is given.
const WHEEL: &str = r#"
import sys, zipfile
info = "demo-1.0.dist-info/"
files = {
    "demo.py": "answer = 42\n",
    info + "METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
    info + "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
files[info + "RECORD"] = "".join(name + ",,\n" for name in [*files, info + "RECORD"])
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
"#;

/// Runs a script for each of the jobs, all at the same time.
fn at_once(stage: &Stage, script: impl Fn(usize) -> String) -> Result<(), Failure> {
    let scripts: Vec<String> = (0..JOBS).map(script).collect();
    std::thread::scope(|scope| {
        let jobs: Vec<_> =
            scripts.iter().map(|script| scope.spawn(move || stage.shell(script))).collect();
        jobs.into_iter().try_for_each(|job| {
            job.join().map_err(|_| "a job of the demonstration failed")??;
            Ok(())
        })
    })
}

/// Compares what the mount shows with what the store holds.
fn compare(stage: &Stage) -> Result<(), Failure> {
    let (in_mount, in_store) = (listing(&stage.mountpoint)?, listing(&stage.store)?);
    expect(in_mount == in_store, "the mount and the store differ")?;
    note(&format!("mount and store agree on {} names and their contents", in_mount.len()))
}

/// Every name below a directory with what it stands for, but for what is the store's own. By other
/// processes: if this one opened files in the mount, all that it starts would be the same job.
fn listing(root: &Path) -> Result<Vec<String>, Failure> {
    let told = finish(script(root, LIST))?;
    Ok(told.lines().filter(|line| *line != ".").map(str::to_owned).collect())
}

const LIST: &str = r#"
find . -path ./.cachefs -prune -o \
    -type l -exec sh -c 'for link; do echo "$link -> $(readlink "$link")"; done' sh {} + -o \
    -type f -exec cksum {} + -o -print | LC_ALL=C sort
"#;

fn expect(is_so: bool, otherwise: &str) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(format!("{otherwise}; please report this").into()) }
}

fn say(what: &str) -> Result<(), Failure> {
    show::print(&format!("{what}\n")).map(drop)
}

fn note(what: &str) -> Result<(), Failure> {
    show::print(&indent(what)).map(drop)
}

fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "   {line}");
        out
    })
}
