//! A store that is too small for all that is asked of it.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::common::{Mount, Run, tool};
use crate::ground::wait_until;
use crate::scene::soak;

const WHEELS: usize = 20;
const JOBS: usize = 4;
const MEBIBYTE: u64 = 1 << 20;
const CAP: u64 = 100 * MEBIBYTE;

/// Packages of 10 MiB that nothing can compress.
const MAKE_WHEELS: &str = r#"
import base64, hashlib, os, sys, zipfile
for number in range(int(sys.argv[2])):
    name = f"package{number}"
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": b"",
        f"{name}/data": os.urandom(10 << 20),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digest = lambda data: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    record = "".join(f"{path},sha256={digest(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    with zipfile.ZipFile(f"{sys.argv[1]}/{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, data in files.items():
            wheel.writestr(path, data)
"#;

/// What is on the disk below a directory.
fn bytes(at: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(at) else { return 0 };
    let one = |entry: fs::DirEntry| match entry.metadata() {
        Ok(status) if status.is_dir() => bytes(&entry.path()) + status.blocks() * 512,
        Ok(status) => status.blocks() * 512,
        // Gone meanwhile.
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(one).sum()
}

/// Which wheel is wanted next: some far more often than others.
struct Wishes(u64);

impl Wishes {
    fn next(&mut self) -> usize {
        let mut random = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) as usize
        };
        random() % (1 + random() % WHEELS)
    }
}

/// How many of these would be there, if the ones used last were kept, so many at a time.
fn hits_of_an_ideal(wishes: &[usize], room: usize) -> usize {
    let mut kept: VecDeque<usize> = VecDeque::new();
    let mut hits = 0;
    for wish in wishes {
        if let Some(at) = kept.iter().position(|one| one == wish) {
            hits += 1;
            kept.remove(at);
        }
        kept.push_front(*wish);
        kept.truncate(room);
    }
    hits
}

#[test]
fn a_cap_is_kept_while_jobs_come_and_go() {
    let mount = Mount::builder().options(["--max-size", "100M"]).mount();
    let (wheels, work) = (mount.beside("wheels"), mount.beside("work"));
    let make = Run::new("/usr/bin/python3").args(["-c", MAKE_WHEELS]).arg(&wheels);
    make.arg(WHEELS.to_string()).succeeds();
    let install = |job: usize, wheel: usize| {
        let target = work.join(format!("target-{job}"));
        let _ = fs::remove_dir_all(&target);
        let finished = Run::new(tool("uv"))
            .clean_environment(&work)
            .env("UV_CACHE_DIR", mount.path().join("uv"))
            .env("UV_NO_CONFIG", "1")
            .env("UV_LINK_MODE", "copy")
            .env("UV_PYTHON", "/usr/bin/python3")
            .args(["pip", "install", "--no-index", "--no-deps", "--find-links"])
            .arg(&wheels)
            .arg("--target")
            .arg(&target)
            .arg(format!("package{wheel}"))
            .succeeds();
        let installed = target.join(format!("package{wheel}/data"));
        assert_eq!(fs::metadata(&installed).unwrap().len(), 10 << 20, "{finished}");
        // What was not there had to be unpacked.
        !finished.stderr.contains("Prepared")
    };
    let (over, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let live = || {
        let all = bytes(mount.store());
        all.saturating_sub(bytes(&mount.store().join(".cachefs")))
    };
    let rounds = if soak() { 150 } else { 12 };
    let (mut wishes, mut order, mut hits) = (Wishes(7), Vec::new(), 0);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                most.fetch_max(live(), Ordering::SeqCst);
            }
        });
        for _ in 0..rounds {
            let wanted: Vec<usize> = (0..JOBS).map(|_| wishes.next()).collect();
            let jobs: Vec<_> = wanted
                .iter()
                .enumerate()
                .map(|(job, &wheel)| scope.spawn(move || install(job, wheel)))
                .collect();
            hits += jobs.into_iter().map(|job| job.join().unwrap()).filter(|hit| *hit).count();
            order.extend(wanted);
            // Nobody runs any more: nothing is held, and the cap counts.
            wait_until(&mount, "below the cap", || bytes(mount.store()) <= CAP);
        }
        over.store(true, Ordering::SeqCst);
        watch.join().unwrap();
    });
    let most = most.into_inner();
    println!(
        "{} installs: {hits} hits, {} of an ideal of 9 wheels; at most {} MiB live, of {} MiB",
        order.len(),
        hits_of_an_ideal(&order, 9),
        most / MEBIBYTE,
        CAP / MEBIBYTE
    );
    // More than the cap is only what running jobs have just written, or use.
    let held = JOBS as u64 * 11 * MEBIBYTE;
    assert!(most <= CAP + held, "{} MiB", most / MEBIBYTE);
    // Pruned to nothing after each round, it would not hit.
    assert!(hits > 0 && hits * 2 >= hits_of_an_ideal(&order, 9), "{hits} hits");
    let (_, units) = crate::scene::units(mount.path());
    assert!(units.total().bytes <= CAP && !units.units.is_empty());
}
