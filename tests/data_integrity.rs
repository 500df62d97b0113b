//! What is written is what is read, whichever way the bytes go: random operations by fsx, verified
//! patterns by fio, and stress-ng's file stressors.

mod common;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use common::{Mount, Run, needs, tool};

const LONG: Duration = Duration::from_secs(600);

/// fsx's own weights, but for syncing, which would have it wait for the disk every other time.
const WEIGHTS: &str = "
    nomsyncafterwrite = true
    [weights]
    read = 10
    write = 10
    mapread = 10
    mapwrite = 10
    truncate = 10
    fsync = 0.05
";

/// How many operations one fsx does: it never unmaps what it has mapped, and gets slower and slower.
const AT_ONCE: u32 = 5_000;

/// `operations` random reads, writes, truncations, mappings and so on, by one fsx after the other, each
/// on a file that `prepare` may open meanwhile.
fn fsx<Held>(mount: &Mount, operations: u32, prepare: impl Fn(&Path) -> Held) {
    let artifacts = mount.beside("artifacts");
    let configuration = artifacts.join("weights.toml");
    std::fs::write(&configuration, WEIGHTS).unwrap();
    for seed in 1..=operations / AT_ONCE {
        let path = mount.path().join(format!("fsx-{seed}"));
        let _held = prepare(&path);
        Run::new(tool("fsx"))
            .args(["-q", "-N", &AT_ONCE.to_string(), "-S", &seed.to_string(), "-P"])
            .arg(&artifacts)
            .arg("-f")
            .arg(&configuration)
            .arg(path)
            .timeout(LONG)
            .succeeds();
    }
}

fn mounted(options: &[&str]) -> Mount {
    Mount::builder().options(options).watchdog(LONG).mount()
}

#[test]
fn fsx_through_the_page_cache() {
    let mount = mounted(&[]);
    fsx(&mount, 50_000, |_| ());
    let requests = mount.status()["requests"].clone();
    assert!(requests["write"].as_u64().unwrap() > 5_000, "{requests}");
}

#[test]
fn fsx_by_passthrough() {
    let mount = mounted(&[]);
    // Open for reading all the while, a file keeps to passthrough, for writers as well.
    fsx(&mount, 200_000, |path| {
        File::create(path).unwrap();
        // The kernel tells of a close when it pleases, and a writer that was not open for passthrough keeps
        // others from it.
        while mount.status()["handles"] != 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        File::open(path).unwrap()
    });
    let requests = mount.status()["requests"].clone();
    assert_eq!(requests["write"], 0, "{requests}");
    assert_eq!(requests["read"], 0, "{requests}");
}

#[test]
fn fsx_without_passthrough() {
    let mount = mounted(&["--no-passthrough"]);
    fsx(&mount, 200_000, |_| ());
}

/// What fsx does not do unless it is told to: closing and opening again in between, on which the way of the
/// bytes is chosen anew, and all that changes a file without writing to it.
const EVERYTHING: &str = "
    flen = 262144
    nomsyncafterwrite = true
    [weights]
    close_open = 5
    read = 10
    write = 10
    mapread = 10
    mapwrite = 10
    invalidate = 0.02
    truncate = 5
    fsync = 0.02
    fdatasync = 0.02
    posix_fallocate = 2
    punch_hole = 2
    sendfile = 3
    posix_fadvise = 1
    copy_file_range = 3
";

#[test]
fn fsx_with_every_operation() {
    for options in [&[][..], &["--no-passthrough"]] {
        let mount = mounted(options);
        let artifacts = mount.beside("artifacts");
        let configuration = artifacts.join("fsx.toml");
        std::fs::write(&configuration, EVERYTHING).unwrap();
        for (seed, read_beside) in [("21", false), ("22", true)] {
            let path = mount.path().join(seed);
            File::create(&path).unwrap();
            // By itself it goes through the page cache, and beside a reader by passthrough.
            let reader = read_beside.then(|| File::open(&path).unwrap());
            Run::new(tool("fsx"))
                .args(["-q", "-N", "12000", "-S", seed, "-P"])
                .arg(&artifacts)
                .arg("-f")
                .arg(&configuration)
                .arg(&path)
                .timeout(LONG)
                .succeeds();
            drop(reader);
        }
    }
}

fn fio(mount: &Mount, words: &[&str]) {
    Run::new(needs("fio"))
        .args([
            "--name=verify",
            "--size=16m",
            "--numjobs=2",
            "--group_reporting",
            "--output-format=terse",
        ])
        .args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0"])
        .arg(format!("--directory={}", mount.path().display()))
        .args(words)
        .timeout(LONG)
        .succeeds();
}

#[test]
fn fio_reads_what_it_wrote() {
    for options in [&[][..], &["--no-passthrough"]] {
        let mount = mounted(options);
        fio(&mount, &["--rw=write", "--bs=64k", "--ioengine=psync"]);
        fio(&mount, &["--rw=randwrite", "--bs=4k", "--ioengine=psync", "--fsync=64"]);
        fio(&mount, &["--rw=randrw", "--bs=4k-32k", "--ioengine=mmap"]);
        fio(&mount, &["--rw=randwrite", "--bs=4k", "--ioengine=psync", "--direct=1"]);
    }
}

/// Those that write and read.
const OF_DATA: &[&str] = &[
    "copy-file",
    "fallocate",
    "fpunch",
    "fsize",
    "hdd",
    "io",
    "iomix",
    "mmap",
    "readahead",
    "sendfile",
    "sync-file",
];

/// Those for which it makes no difference which way the bytes go.
const OF_NAMES: &[&str] = &[
    "access",
    "chdir",
    "chmod",
    "chown",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "dup",
    "fcntl",
    "file-ioctl",
    "filename",
    "flock",
    "fstat",
    "getdent",
    "handle",
    "inotify",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "open",
    "rename",
    "symlink",
    "touch",
    "utime",
    "xattr",
];

fn stress(mount: &Mount, stressors: &[&str]) {
    for stressor in stressors {
        // Whatever comes first ends it: so many operations, or the time, which decides nothing.
        Run::new(needs("stress-ng"))
            .args(stressor_words(stressor))
            .args(["--verify", "--timeout", "3s", "--temp-path"])
            .arg(mount.path())
            .directory(mount.path())
            .timeout(Duration::from_secs(150))
            .succeeds();
    }
}

#[test]
fn stressors_find_no_fault() {
    // `access` is about owners and modes, which by default keep nobody out (SEMANTICS 5.1).
    let mount = mounted(&["--access", "posix"]);
    stress(&mount, OF_DATA);
    stress(&mount, OF_NAMES);
}

#[test]
fn stressors_find_no_fault_without_passthrough() {
    stress(&mounted(&["--no-passthrough"]), OF_DATA);
}

/// So many operations that each takes some seconds at most.
fn stressor_words(stressor: &str) -> Vec<String> {
    let operations = match stressor {
        "hdd" => 4_000,
        "mmap" => 20,
        "chdir" | "inotify" => 4,
        "link" | "symlink" | "sync-file" => 50,
        "access" | "chown" | "fallocate" | "fsize" | "lease" | "xattr" => 100,
        "copy-file" | "io" | "readahead" | "sendfile" => 200,
        _ => 1_000,
    };
    let mut words = vec![format!("--{stressor}"), "2".into()];
    words.extend([format!("--{stressor}-ops"), operations.to_string()]);
    match stressor {
        "hdd" | "readahead" | "fallocate" => {
            words.extend([format!("--{stressor}-bytes"), "16m".into()]);
        }
        "copy-file" => words.extend(["--copy-file-bytes".into(), "128m".into()]),
        "mmap" => words.extend(["--mmap-file".into(), "--mmap-bytes".into(), "4m".into()]),
        _ => {}
    }
    words
}
