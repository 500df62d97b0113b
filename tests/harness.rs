//! What the other tests rest on: however a mount ends, nothing hangs and nothing stays behind.

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Mount, Run, Tree, needs_root};

fn is_mounted(path: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(path.to_str().unwrap())
}

/// Not of one that has ended and waits for whoever adopted it to notice.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

/// Whether every thread of a process has stopped.
fn is_stopped(pid: u32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|thread| {
        let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    })
}

#[test]
fn both_forms_of_the_daemon_mount_and_go() {
    for builder in [Mount::builder(), Mount::builder().background()] {
        let mut mount = builder.mount();
        assert_eq!(mount.status()["pid"], mount.pid());
        fs::write(mount.path().join("a"), "b").unwrap();
        let (path, pid) = (mount.path().to_owned(), mount.pid());
        assert!(is_mounted(&path) && runs(pid));
        mount.unmount();
        assert!(!is_mounted(&path) && !runs(pid));
        mount.mount_again();
        assert_eq!(fs::read(mount.path().join("a")).unwrap(), b"b");
        let pid = mount.pid();
        drop(mount);
        assert!(!is_mounted(&path) && !runs(pid));
    }
}

#[test]
fn a_daemon_runs_as_whom_and_with_as_much_as_it_is_told() {
    needs_root();
    // nobody: fusermount3 serves only users that have a name.
    let mount = Mount::builder().user(65_534).open_files(300).mount();
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534"), "{status}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", mount.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("300"));
    let path = mount.path().join("a");
    Run::new("touch").arg(&path).user(65_534).succeeds();
}

#[test]
fn a_killed_daemon_leaves_nothing_behind() {
    let mut mount = Mount::new();
    fs::write(mount.path().join("a"), "b").unwrap();
    let (path, pid) = (mount.path().to_owned(), mount.pid());
    mount.kill();
    assert!(!is_mounted(&path) && !runs(pid));
    mount.mount_again();
    assert_eq!(fs::read(mount.path().join("a")).unwrap(), b"b");
}

#[test]
fn a_daemon_that_hangs_is_ended_by_the_watchdog() {
    let mount = Mount::builder().watchdog(Duration::from_secs(2)).mount();
    let (path, pid) = (mount.path().to_owned(), mount.pid());
    // SAFETY: kill takes no pointers, and the daemon is our child.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), libc::SIGSTOP) }, 0);
    // A thread that runs goes on until the signal has reached it.
    while !is_stopped(pid) {
        std::thread::yield_now();
    }
    // Blocks until somebody ends it.
    fs::metadata(path.join("nobody-answers")).unwrap_err();
    let complaint = catch_unwind(AssertUnwindSafe(|| drop(mount))).unwrap_err();
    let complaint = complaint.downcast_ref::<String>().unwrap();
    assert!(complaint.contains("the watchdog ended this mount"), "{complaint}");
    assert!(!is_mounted(&path) && !runs(pid));
}

#[test]
fn a_mount_goes_with_the_thread_that_made_it() {
    let maker = std::thread::spawn(|| {
        let mount = Mount::new();
        let (path, pid) = (mount.path().to_owned(), mount.pid());
        // As if the whole test had been killed: nothing is dropped.
        std::mem::forget(mount);
        (path, pid)
    });
    let (path, pid) = maker.join().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_mounted(&path) || runs(pid) {
        assert!(Instant::now() < deadline, "{} is left behind", path.display());
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_its_descendants() {
    let place = tempfile::tempdir().unwrap();
    let script = "sleep 600 & echo $! >child; wait";
    let run = Run::shell(script).directory(place.path()).timeout(Duration::from_millis(500));
    let complaint = catch_unwind(AssertUnwindSafe(|| run.finish())).map(drop).unwrap_err();
    let complaint = complaint.downcast_ref::<String>().unwrap();
    assert!(
        complaint.contains("not done after 500ms") && complaint.contains(script),
        "{complaint}"
    );
    let child = fs::read_to_string(place.path().join("child")).unwrap();
    let child = child.trim().parse().unwrap();
    // A signal that was sent takes a moment to arrive.
    let deadline = Instant::now() + Duration::from_secs(10);
    while runs(child) {
        assert!(Instant::now() < deadline, "the descendant {child} still runs");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn trees_that_differ_are_told_apart() {
    let place = tempfile::tempdir().unwrap();
    let make = "mkdir d && printf 1 >d/a && printf 1 >d/b && ln -s a d/l";
    for (change, told) in [
        ("printf 2 >d/a", "d/a 0644 file of 1 bytes"),
        ("chmod 600 d/a", "d/a 0600 file"),
        ("ln -f d/a d/b", "one file with d/a"),
        ("ln -sf b d/l", "symlink to b"),
        ("rm d/b", "- d/b"),
        ("mkdir d/e", "+ d/e 0755 Directory"),
        ("rm d/b && mkfifo d/b", "Fifo"),
    ] {
        let at = |name: &str| place.path().join(name);
        for (name, script) in [("one", make.to_owned()), ("two", format!("{make}\n{change}"))] {
            let _ = fs::remove_dir_all(at(name));
            fs::create_dir(at(name)).unwrap();
            Run::shell(format!("umask 022\n{script}")).directory(at(name)).succeeds();
        }
        let difference = Tree::of(at("one")).difference(&Tree::of(at("two")));
        assert!(difference.contains(told), "{change}: {difference}");
        assert_eq!(Tree::of(at("one")).difference(&Tree::of(at("one"))), "");
    }
}
