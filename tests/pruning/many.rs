//! A large store is pruned while somebody reads from it.
//!
//! `CACHEFS_SOAK=1` makes it one of a million files in 20 000 units, instead of 50 000 in 1000.

use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Mount, Run};
use crate::ground::prune;
use crate::scene::soak;

const FILES_IN_A_UNIT: usize = 50;

/// The most memory that a process has ever had.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Reads one file 2000 times, and says how often, and how long the longest took, in microseconds.
const READ: &str = r#"
import sys, time
longest = 0
for count in range(2000):
    began = time.monotonic()
    with open(sys.argv[1]) as file:
        assert file.read() == "here"
    longest = max(longest, time.monotonic() - began)
print(count + 1, int(longest * 1e6))
"#;

#[test]
fn a_large_store_is_pruned_to_half() {
    let units = if soak() { 20_000 } else { 1000 };
    let mut options = Mount::builder().options(["--layout", "generic:2"]);
    options = options.watchdog(Duration::from_secs(1000));
    let mount = options.mount();
    let at = mount.store().join("cache");
    for unit in 0..units {
        let folder = at.join(format!("unit-{unit:05}/inner"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..FILES_IN_A_UNIT - 2 {
            File::create(folder.join(file.to_string())).unwrap();
        }
    }
    fs::create_dir(at.join("used")).unwrap();
    fs::write(at.join("used/file"), "here").unwrap();
    let before = peak(mount.pid());
    let over = AtomicBool::new(false);
    let reader = || {
        let (mut reads, mut longest) = (0, 0);
        while !over.load(Ordering::SeqCst) {
            let run = Run::new("/usr/bin/python3").args(["-c", READ]);
            let said = run.arg(mount.path().join("cache/used/file")).succeeds().stdout;
            let numbers = said.trim().split(' ');
            let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
            reads += numbers[0];
            longest = longest.max(numbers[1]);
        }
        (reads, longest)
    };
    thread::scope(|scope| {
        let reader = scope.spawn(reader);
        let held = mount.status()["live"]["bytes"].as_u64().unwrap();
        let began = Instant::now();
        let told = prune(&mount, &["--max-size", &format!("{}B", held / 2)]);
        let took = began.elapsed();
        over.store(true, Ordering::SeqCst);
        let (reads, longest) = reader.join().unwrap();
        let gone = told["units"].as_array().unwrap().len();
        let grown = (peak(mount.pid()) - before) >> 20;
        println!(
            "{gone} of {units} units pruned in {took:?}, with {grown} MiB more memory; {reads} reads meanwhile, \
             the longest took {longest} us"
        );
        assert!(gone >= units / 2 && gone < units, "{gone}");
        assert_eq!(told["lacks"]["bytes"], 0);
        assert!(grown < 400, "{grown} MiB");
        let left = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path());
        let whole = left
            .filter(|unit| !unit.ends_with("used"))
            .all(|unit| fs::read_dir(unit.join("inner")).unwrap().count() == FILES_IN_A_UNIT - 2);
        assert!(whole && at.join("used/file").exists());
    });
}
