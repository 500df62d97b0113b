//! How long it takes to find what is in a large store, and how much memory.
//!
//! `CACHEFS_LAYOUT_FILES` says how many files there are, instead of 50 000; a fiftieth as many units.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant, SystemTime};

use cachefs::prune::{self, Now, Policy, Units};

use crate::scene::{Scene, proved_as, units};

const FILES: usize = 50_000;
const FILES_IN_A_UNIT: usize = 50;

/// The most memory that this process has ever had.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// How long this thread has had a processor, which tells more where others want it too.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn a_store_of_many_files() {
    let asked = std::env::var("CACHEFS_LAYOUT_FILES").ok();
    let files = asked.map_or(FILES, |files| files.parse().expect("a number of files"));
    let scene = Scene::new();
    let at = |path: &str| scene.cache.join(path);
    let wheels = files / FILES_IN_A_UNIT;
    for wheel in 0..wheels {
        // An archive, a link to it, and a pointer.
        let archive = at(&format!("uv/archive-v0/archive-{wheel:08}"));
        fs::create_dir_all(archive.join("package/inner")).unwrap();
        for file in 0..FILES_IN_A_UNIT - 4 {
            let folder = if file % 2 == 0 { "package" } else { "package/inner" };
            File::create(archive.join(folder).join(format!("module_{file}.py"))).unwrap();
        }
        let package = at(&format!("uv/wheels-v5/index/0123456789abcdef/package-{wheel}"));
        fs::create_dir_all(&package).unwrap();
        symlink(&archive, package.join("1.0.0-py3-none-any")).unwrap();
        let mut pointer = b"\x93\xb0".to_vec();
        pointer.extend(format!("archive-{wheel:08}").bytes());
        fs::write(package.join("1.0.0-py3-none-any.http"), pointer).unwrap();
    }
    let before = peak();
    let (began, busy) = (Instant::now(), processor_time());
    let (found, units) = units(&scene.cache);
    let (walked, busy) = (began.elapsed(), processor_time() - busy);
    let after = peak();
    assert_eq!(units.units.len(), wheels);
    let began = Instant::now();
    let half = Policy {
        max_files: Some(units.total().files / 2),
        max_age: Some(Duration::from_secs(3600)),
        down_to: 100,
        ..Policy::default()
    };
    let plan = prune::plan(&units, &half, &Now::default());
    let planned = began.elapsed();
    println!(
        "{} files in {} units: walked in {walked:?} ({busy:?} of a processor), planned in \
         {planned:?}, {} MiB more memory",
        units.total().files,
        units.units.len(),
        (after - before) >> 20
    );
    assert!(after - before < 200 << 20);
    let freed = plan.frees.files;
    assert!(plan.lacks.files == 0 && freed >= units.total().files / 2, "{:?}", plan.frees);
    assert!(
        plan.chosen.iter().all(|chosen| units.units[chosen.unit].last_use <= SystemTime::now())
    );
    // Looking has left no trace: not even what was listed or read seems to be used.
    let root = File::open(&scene.cache).unwrap();
    let again = prune::units(root.as_fd(), &found).unwrap();
    let used = |units: &Units| units.units.iter().map(|unit| unit.last_use).collect::<Vec<_>>();
    assert!(used(&again) == used(&units), "to be looked at passes for a use");
    proved_as(&scene.cache, &found, units, &|_| false);
}
