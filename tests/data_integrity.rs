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

#[test]
fn stressors_find_no_fault() {
    for options in [&[][..], &["--no-passthrough"]] {
        let mount = mounted(options);
        for stressor in [
            "chmod",
            "copy-file",
            "dentry",
            "dir",
            "dirdeep",
            "fallocate",
            "filename",
            "flock",
            "fstat",
            "hdd",
            "io",
            "link",
            "lockf",
            "mmap",
            "open",
            "readahead",
            "rename",
            "sendfile",
            "symlink",
            "touch",
            "utime",
            "xattr",
        ] {
            Run::new(needs("stress-ng"))
                .args(stressor_words(stressor))
                .args(["--verify", "--timeout", "60s", "--temp-path"])
                .arg(mount.path())
                .directory(mount.path())
                .timeout(Duration::from_secs(150))
                .succeeds();
        }
    }
}

/// So many operations that each takes some seconds at most.
fn stressor_words(stressor: &str) -> Vec<String> {
    let operations = match stressor {
        "hdd" => 4_000,
        "mmap" => 20,
        "link" | "symlink" => 50,
        "fallocate" | "xattr" => 100,
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
