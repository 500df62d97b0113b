//! A cache of a million files: nothing is counted when it is mounted, few descriptors do for all of it, and
//! what the daemon remembers of each is little.

mod common;
mod conformance;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Mount, Run, needs, needs_root};
use conformance::{Filesystem, Image, drop_caches};

const DIRECTORIES: usize = 1000;
const FILES: usize = 1000;
const DESCRIPTORS: u64 = 1024;

/// Bytes of memory that a process has.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn nodes(mount: &Mount) -> u64 {
    mount.status()["nodes"].as_u64().expect("status tells the number of nodes")
}

/// What the daemon holds when the kernel knows most.
#[derive(Default)]
struct Known {
    nodes: u64,
    resident: u64,
    descriptors: usize,
}

impl Known {
    fn note(&mut self, mount: &Mount) {
        let nodes = nodes(mount);
        if nodes >= self.nodes {
            (self.nodes, self.resident) = (nodes, resident(mount.pid()));
        }
        self.descriptors = self.descriptors.max(descriptors(mount.pid()));
    }
}

/// The text of the few files that hold any: a million blocks would be 4 GB.
fn text(directory: usize) -> String {
    format!("the first file of {directory}")
}

fn fill(store: &Path) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= DIRECTORIES {
                        break;
                    }
                    let directory = store.join(format!("dir{number}"));
                    fs::create_dir(&directory).unwrap();
                    fs::write(directory.join("f0"), text(number)).unwrap();
                    for file in 1..FILES {
                        File::create(directory.join(format!("f{file}"))).unwrap();
                    }
                }
            });
        }
    });
}

/// How many files `find` finds.
fn walk(root: &Path) -> usize {
    let finished = Run::new("find")
        .arg(root)
        .args(["-type", "f", "-printf", "x"])
        .timeout(Duration::from_secs(300))
        .succeeds();
    assert_eq!(finished.stderr, "");
    finished.stdout.len()
}

#[test]
fn a_million_files() {
    needs_root();
    let image = Image::with(Filesystem::Ext4, 6 << 10, &["-N", "1300000", "-O", "^has_journal"]);
    let store = image.directory("store");
    let began = Instant::now();
    fill(&store);
    println!("made {} files in {:?}", DIRECTORIES * FILES, began.elapsed());

    // What the daemon does until the mount answers is independent of what the store holds: it lists none of
    // the directories.
    let trace = image.path().join("trace");
    let traced = Mount::builder()
        .store(&store)
        .wrapper([needs("strace").as_os_str(), "-f".as_ref(), "-o".as_ref(), trace.as_os_str()])
        .mount();
    drop(traced);
    let calls = fs::read_to_string(&trace).unwrap();
    let of_store =
        calls.lines().filter(|line| line.contains("dir99") || line.contains("\"f0\"")).count();
    let listings = calls.lines().filter(|line| line.contains("getdents64(")).count();
    assert_eq!(of_store, 0, "calls that name what the store holds");
    // /proc/self/fd, /sys and the daemon's own directory are listed; a listing of the root alone takes two.
    println!(
        "system calls from start to end: {}, of these listings: {listings}",
        calls.lines().count()
    );
    assert!(
        listings < 40 && calls.lines().count() < 5000,
        "{listings} of {}",
        calls.lines().count()
    );

    let began = Instant::now();
    let mount = Mount::builder()
        .store(&store)
        .open_files(DESCRIPTORS)
        .watchdog(Duration::from_secs(900))
        .mount();
    println!("mounted and answered after {:?}", began.elapsed());
    let pid = mount.pid();
    let (before, nodes_before) = (resident(pid), nodes(&mount));
    assert!(nodes_before < 10, "{nodes_before} nodes are known before anyone asked");

    // Whoever drops the kernel's caches meanwhile takes away what is to be measured, so it may take more than
    // one walk until the kernel knows most of it.
    let mut most = Known::default();
    for _ in 0..3 {
        let began = Instant::now();
        let seen = thread::scope(|scope| {
            let walker = scope.spawn(|| assert_eq!(walk(mount.path()), DIRECTORIES * FILES));
            let mut seen = Known::default();
            while !walker.is_finished() {
                thread::sleep(Duration::from_millis(100));
                seen.note(&mount);
            }
            walker.join().unwrap();
            seen.note(&mount);
            seen
        });
        println!("walked in {:?}, descriptors at most {}", began.elapsed(), seen.descriptors);
        assert!(seen.descriptors as u64 <= DESCRIPTORS);
        most = if seen.nodes > most.nodes { seen } else { most };
        if most.nodes > (DIRECTORIES * FILES / 2) as u64 {
            break;
        }
    }
    let each = most.resident.saturating_sub(before) as f64 / most.nodes as f64;
    println!(
        "{} nodes known: {} MiB resident ({} MiB before), {each:.0} bytes a node",
        most.nodes,
        most.resident >> 20,
        before >> 20
    );
    assert!(most.nodes > (DIRECTORIES * FILES / 2) as u64, "the kernel knew {} nodes", most.nodes);
    assert!(each < 1000.0, "{each} bytes a node");
    let after = most.resident;

    // Reading in every directory needs descriptors of all of them, one after the other.
    for number in 0..DIRECTORIES {
        let path = mount.path().join(format!("dir{number}/f0"));
        assert_eq!(fs::read_to_string(path).unwrap(), text(number));
    }
    // And more files open at once than the daemon may have descriptors. The limit is ours as well.
    raise_own_limit();
    let mut held: Vec<(usize, File)> = Vec::new();
    for number in 0..DIRECTORIES {
        for file in 0..2 {
            let path = mount.path().join(format!("dir{number}/f{file}"));
            let opened = File::open(&path).unwrap_or_else(|error| {
                panic!("file {} at once, {}: {error}", held.len() + 1, path.display())
            });
            if file == 0 {
                held.push((number, opened));
            } else {
                held.push((usize::MAX, opened));
            }
        }
    }
    println!("{} files open at once, the daemon has {} descriptors", held.len(), descriptors(pid));
    for (number, file) in &mut held {
        let mut contents = String::new();
        file.read_to_string(&mut contents).unwrap();
        assert_eq!(contents, if *number == usize::MAX { String::new() } else { text(*number) });
    }
    drop(held);

    // What the kernel gives back is forgotten, and the room is used again.
    let deadline = Instant::now() + Duration::from_secs(120);
    let left = loop {
        drop_caches();
        let left = nodes(&mount);
        if left < 2000 {
            break left;
        }
        assert!(Instant::now() < deadline, "{left} nodes are still known");
        thread::sleep(Duration::from_millis(200));
    };
    println!("after forgetting: {left} nodes, {} MiB resident", resident(pid) >> 20);
    assert_eq!(walk(mount.path()), DIRECTORIES * FILES);
    let again = resident(pid);
    println!("after a second walk: {} MiB resident", again >> 20);
    assert!(again < after + after / 4, "{} MiB, and {} before", again >> 20, after >> 20);
}

fn raise_own_limit() {
    let limit = libc::rlimit { rlim_cur: 8192, rlim_max: 8192 };
    // SAFETY: the struct is ours.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
