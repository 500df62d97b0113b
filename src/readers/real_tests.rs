//! Jobs of real processes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use super::*;
use crate::cache::view::Moment;

const IDLE: Duration = Duration::from_secs(3600);

/// Says which of the things in [`part_of_another_test`] a process is to do.
const PART: &str = "CACHEFS_READERS_TEST_PART";

/// Descriptors are counted, so one test at a time has some.
static ONE_BY_ONE: Mutex<()> = Mutex::new(());

struct Bench {
    system: Arc<Linux>,
    readers: Readers,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    fn new(grouping: Grouping) -> Bench {
        let alone = ONE_BY_ONE.lock();
        let system = Arc::new(Linux::new().unwrap());
        let asked = Arc::clone(&system) as Arc<dyn System>;
        let readers = Readers::new(asked, ReaderOptions { grouping, idle: IDLE });
        Bench { system, readers, _alone: alone }
    }

    fn job(&self, thread: u32) -> u64 {
        self.readers.job(&caller(thread)).id
    }

    fn is_empty(&self) -> bool {
        self.readers.registry.records() == [0; 5] && self.system.watched() == [0; 3]
    }
}

fn caller(thread: u32) -> Caller {
    Caller { uid: 0, gid: 0, thread }
}

fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `sh` that runs `script`, prints numbers, and goes on when its input ends.
fn sh(script: &str) -> (Child, Vec<u32>) {
    said(Command::new("sh").args(["-c", script]))
}

/// A process with threads, of this program, that plays `part`.
fn part(part: &str) -> (Child, Vec<u32>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "readers::real_tests::part_of_another_test";
    said(command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(PART, part))
}

/// Starts a process that prints a line of numbers between other ones.
fn said(command: &mut Command) -> (Child, Vec<u32>) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let numbers = lines.find_map(|line| {
        let line = line.ok()?;
        let (_, numbers) = line.split_once("pids: ")?;
        Some(numbers.split(' ').map(|number| number.parse().unwrap()).collect())
    });
    (child, numbers.unwrap_or_default())
}

#[test]
fn part_of_another_test() {
    let Ok(part) = std::env::var(PART) else { return };
    let tid = || rustix::thread::gettid().as_raw_nonzero().get();
    let (tell, told) = std::sync::mpsc::channel();
    for _ in 0..3 {
        let tell = tell.clone();
        std::thread::spawn(move || {
            tell.send(tid()).unwrap();
            loop {
                std::thread::park();
            }
        });
    }
    let one_that_ends = std::thread::spawn(move || {
        tell.send(tid()).unwrap();
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
    });
    let mut tids: Vec<String> = told.iter().take(4).map(|tid| tid.to_string()).collect();
    tids.push(tid().to_string());
    println!("pids: {}", tids.join(" "));
    one_that_ends.join().unwrap();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    match part.as_str() {
        "exit" => std::process::exit(3),
        "exit well" => std::process::exit(0),
        "abort" => std::process::abort(),
        _ => {}
    }
}

#[test]
fn children_and_theirs_are_one_job() {
    for is_old in [false, true] {
        let bench = Bench::new(Grouping::Tree);
        if is_old {
            bench.system.pretend_to_be_old();
        }
        let script = "sleep 1000 & a=$!; (sleep 1000 & echo pids: $$ $a $!; wait) & wait";
        let (mut child, pids) = sh(script);
        let (mut stranger, other) = sh("echo pids: $$; read x");
        let &[shell, sleep, grandchild] = pids.as_slice() else { panic!("{pids:?}") };
        assert_eq!(shell, child.id());
        assert!(bench.readers.known(&caller(shell)).is_none());
        let id = bench.job(shell);
        assert_ne!(id, Job::UNKNOWN);
        assert_eq!((bench.job(sleep), bench.job(grandchild)), (id, id));
        assert_ne!(bench.job(other[0]), id);
        child.kill().unwrap();
        child.wait().unwrap();
        soon("the first has gone", || bench.readers.registry.records()[1] == 3);
        assert!(bench.readers.runs(id));
        for pid in [sleep, grandchild] {
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid as i32).unwrap(),
                rustix::process::Signal::KILL,
            )
            .unwrap();
        }
        soon("the job ends", || !bench.readers.runs(id));
        drop(stranger.stdin.take());
        stranger.wait().unwrap();
        soon("all is forgotten", || bench.is_empty());
    }
}

#[test]
fn threads_and_their_ends() {
    let bench = Bench::new(Grouping::Tree);
    let (mut child, tids) = part("return");
    let id = bench.job(tids[0]);
    for &tid in &tids {
        assert_eq!(bench.job(tid), id);
        assert_eq!(bench.readers.process(&caller(tid)), child.id());
        assert_eq!(bench.readers.fate(&caller(tid)), Fate::Fine);
    }
    assert_eq!(bench.readers.all()[0].pid, child.id());
    assert_eq!(bench.readers.registry.records(), [5, 1, 1, 0, 1]);
    assert_eq!(bench.system.watched(), [1, 5, 0]);
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    soon("a thread is forgotten", || bench.readers.registry.records()[0] == 4);
    assert!(bench.readers.runs(id));
    drop(child.stdin.take());
    child.wait().unwrap();
    soon("all is forgotten", || bench.is_empty());
    // It is gone: nobody knows who that was, and nothing is kept for it.
    assert_eq!(bench.readers.process(&caller(tids[0])), 0);
    let gone = bench.job(tids[0]);
    assert!(gone != Job::UNKNOWN && !bench.readers.runs(gone));
}

/// Judged by what is left when they have ended: the task's files are closed by then, but what is
/// said of it in `/proc` is the same.
#[test]
fn fates_of_real_processes() {
    type End = fn(&mut Child);
    let goes_on: End = |child| drop(child.stdin.take());
    let is_killed: End = |child| child.kill().unwrap();
    let alone = |script: &str| sh(&format!("echo pids: $$; read x; {script}"));
    let cases = [
        ("ends", alone("exit 0"), goes_on, Fate::Fine),
        ("fails", alone("exit 3"), goes_on, Fate::Fine),
        ("is killed", alone("exit 0"), is_killed, Fate::Killed),
        ("has a fault", alone("kill -SEGV $$"), goes_on, Fate::Killed),
        ("aborts", alone("kill -ABRT $$"), goes_on, Fate::Killed),
        ("returns, with threads", part("return"), goes_on, Fate::Fine),
        ("exits, with threads", part("exit"), goes_on, Fate::Fine),
        ("exits well, with threads", part("exit well"), goes_on, Fate::Fine),
        ("aborts, with threads", part("abort"), goes_on, Fate::Killed),
        ("is killed, with threads", part("return"), is_killed, Fate::Killed),
    ];
    let bench = Bench::new(Grouping::Tree);
    for (what, (mut child, _), end, fate) in cases {
        let pid = child.id();
        let is_zombie = || proc::read(pid, "statm").is_some_and(|statm| !fate::has_memory(&statm));
        assert_eq!(bench.system.fate(pid), Fate::Fine, "runs: {what}");
        assert!(bench.system.watch(pid));
        assert_eq!(bench.system.fate_in(pid, pid), Fate::Fine, "runs: {what}");
        end(&mut child);
        soon(what, is_zombie);
        soon("all threads are gone", || bench.system.watched()[0] == 0);
        let stat = String::from_utf8(proc::read(pid, "stat").unwrap()).unwrap();
        assert_eq!(bench.system.fate(pid), fate, "{what}: {stat}");
        assert_eq!(bench.system.fate_in(pid, pid), fate, "{what}: {stat}");
        let status = child.wait().unwrap();
        assert_eq!(status.signal().is_some(), fate == Fate::Killed, "{what}: {status}");
    }
}

#[test]
fn open_files_and_locks() {
    use std::os::unix::fs::MetadataExt;
    let (system, file) = (Linux::new().unwrap(), tempfile::tempfile().unwrap());
    let (inode, device) = (file.metadata().unwrap().ino(), file.metadata().unwrap().dev());
    let device = (rustix::fs::major(device), rustix::fs::minor(device));
    assert!(system.has_open(std::process::id(), inode));
    assert!(!system.has_open(std::process::id(), u64::MAX));
    assert!(!system.is_locked(device, inode));
    let lock = |operation| rustix::fs::flock(&file, operation).unwrap();
    lock(rustix::fs::FlockOperation::LockExclusive);
    assert!(system.is_locked(device, inode));
    lock(rustix::fs::FlockOperation::Unlock);
    assert!(!system.is_locked(device, inode));
    drop(file);
    assert!(!system.has_open(std::process::id(), inode));
}

#[test]
fn ten_thousand_processes_leave_nothing() {
    let bench = Bench::new(Grouping::Tree);
    let mut ids = std::collections::HashSet::new();
    for _ in 0..10_000 {
        // Without exec: what counts is that there is a process, which is quicker so.
        // SAFETY: the child only waits and ends, which it may do in the copy of a program with threads.
        let pid = match unsafe { libc::fork() } {
            // SAFETY: as above.
            0 => unsafe {
                libc::pause();
                libc::_exit(0)
            },
            pid => pid,
        };
        ids.insert(bench.job(pid as u32));
        // SAFETY: a child of ours, which nobody else waits for.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
    }
    assert!(!ids.contains(&Job::UNKNOWN));
    soon("all is forgotten", || bench.is_empty());
    assert_eq!(ids.len(), 10_000);
    assert_eq!(pidfds(), 0);
}

/// How many processes and threads this process has descriptors of.
fn pidfds() -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
    links.filter(|to| to.to_string_lossy().contains("pidfd")).count()
}

#[test]
fn more_threads_than_are_watched() {
    const MORE: usize = 4096 + 50;
    let bench = Bench::new(Grouping::Tree);
    let id = bench.job(std::process::id());
    let stop = parking_lot::RwLock::new(());
    let hold = stop.write();
    std::thread::scope(|scope| {
        for _ in 0..MORE {
            let (tell, told) = std::sync::mpsc::channel();
            let stop = &stop;
            let start = std::thread::Builder::new().stack_size(64 << 10);
            let started = start.spawn_scoped(scope, move || {
                let _ = tell.send(rustix::thread::gettid().as_raw_nonzero().get());
                drop(stop.read());
            });
            started.unwrap();
            let tid = told.recv().unwrap() as u32;
            assert_eq!(bench.job(tid), id);
        }
        assert_eq!(bench.system.watched(), [1, 4096, 0]);
        assert_eq!(pidfds(), 4097);
        assert_eq!(bench.readers.registry.records()[0], 4097);
        drop(hold);
    });
    soon("their ends are noticed", || bench.readers.registry.records()[0] == 1);
    assert_eq!(bench.system.watched(), [1, 0, 0]);
}

/// Where cgroups can be made (by root, in an own hierarchy); nothing is tested elsewhere.
#[test]
fn a_real_cgroup_is_a_job() {
    let Some(root) = proc::cgroup_folder("/") else { return };
    let folder = root.join(format!("cachefs-test-{}", std::process::id()));
    if std::fs::create_dir(&folder).is_err() {
        return;
    }
    let bench = Bench::new(Grouping::Cgroup);
    let enter = |pid: u32| std::fs::write(folder.join("cgroup.procs"), pid.to_string());
    let mut sleeps: Vec<Child> = (0..2).map(|_| sh("echo pids: $$; read x").0).collect();
    for child in &sleeps {
        enter(child.id()).unwrap();
    }
    let id = bench.job(sleeps[0].id());
    assert_eq!(bench.system.watched(), [1, 0, 1]);
    let path = about::cgroup_path(sleeps[0].id()).unwrap();
    assert!(path.contains("cachefs-test"), "{path}");
    for (index, child) in sleeps.iter_mut().enumerate() {
        assert!(bench.readers.runs(id), "{index}");
        child.kill().unwrap();
        child.wait().unwrap();
        soon("its process is forgotten", || bench.readers.registry.records()[1] == 0);
    }
    soon("the job ends", || bench.is_empty());
    soon("the cgroup can go", || std::fs::remove_dir(&folder).is_ok());
}

/// `cargo test --release -p cachefs --lib readers -- --ignored --nocapture costs`
#[test]
#[ignore = "measures"]
fn costs() {
    fn median(mut all: Vec<Duration>) -> Duration {
        all.sort_unstable();
        all[all.len() / 2]
    }
    fn each(rounds: u32, mut what: impl FnMut()) -> Duration {
        let begun = Instant::now();
        (0..rounds).for_each(|_| what());
        begun.elapsed() / rounds
    }
    let bench = Bench::new(Grouping::Tree);
    let children: Vec<Child> = (0..500).map(|_| sh("echo pids: $$; read x").0).collect();
    let first = children.iter().map(|child| {
        let caller = caller(child.id());
        let begun = Instant::now();
        bench.readers.job(&caller);
        begun.elapsed()
    });
    println!("first call of a process: {:?}", median(first.collect()));
    let (caller, thread) = (caller(children[0].id()), children[0].id());
    println!("job, again: {:?}", each(1_000_000, || _ = bench.readers.job(&caller)));
    println!("fate, runs: {:?}", each(100_000, || _ = bench.readers.fate(&caller)));
    println!("fate, runs, no record: {:?}", each(100_000, || _ = bench.system.fate(thread)));
    println!("process, no record: {:?}", each(100_000, || _ = bench.system.process(thread)));
    let seen = || _ = bench.readers.is_seen_by_others(1, Moment(0));
    println!("seen by one of 500: {:?}", each(1_000_000, seen));
    for mut child in children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    soon("all is forgotten", || bench.is_empty());
}
