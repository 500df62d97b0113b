//! Releases of uv from several years share one cache (SEMANTICS 2.1, 5.1): some of their folders are the same
//! ones, others are of one release alone.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use common::{Finished, Index, Mount, Run, needs_root, tool, tools_directory};

/// The newest one is that of all other tests.
const RELEASES: [&str; 5] = ["0.4.20", "0.8.19", "0.9.30", "0.12.5", "0.13.8"];

/// Two users that need no account.
const USERS: [u32; 2] = [64_101, 64_102];

/// Large and small wheels, and a source distribution that is built in isolation.
const PACKAGES: [&str; 4] = ["rich", "toolz", "markupsafe", "requests"];

/// One release in the hands of one user.
#[derive(Clone)]
struct Job {
    program: PathBuf,
    release: &'static str,
    user: u32,
    home: PathBuf,
    index: String,
}

impl Job {
    fn run(&self, cache: &Path, words: &[&str]) -> Run {
        Run::new(&self.program)
            .clean_environment(&self.home)
            .directory(&self.home)
            .user(self.user)
            .env("UV_CACHE_DIR", cache)
            .env("UV_INDEX_URL", &self.index)
            .env("UV_LINK_MODE", "copy")
            .env("UV_NO_CONFIG", "1")
            .env("UV_PYTHON", "/usr/bin/python3")
            .args(words)
            .timeout(Duration::from_secs(240))
    }

    /// Installs into a new environment and looks at all that is in it then. What went wrong, if anything did.
    fn install(&self, cache: &Path) -> Result<(), String> {
        let environment = self.home.join("environment");
        let _ = fs::remove_dir_all(&environment);
        let ok = |finished: Finished| match finished.status.success() {
            true => Ok(()),
            false => Err(format!("uv {} of {}: {finished}", self.release, self.user)),
        };
        ok(self.run(cache, &["venv"]).arg(&environment).finish())?;
        let install = self.run(cache, &["pip", "install", "--python"]);
        ok(install.arg(&environment).args(PACKAGES).finish())?;
        let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/views/records.py");
        let check = Run::new("/usr/bin/python3").arg(records);
        ok(check.arg(&environment).args(PACKAGES).finish())
    }
}

/// All releases for all users, in a place where these can get at them.
fn jobs(place: &Path, index: &Index) -> Vec<Job> {
    needs_root();
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    let mut jobs = Vec::new();
    for release in RELEASES {
        let apart = tools_directory().join("uv-releases").join(release).join("bin/uv");
        let from = if apart.exists() { apart } else { tool("uv") };
        let program = place.join(format!("uv-{release}"));
        // Not by this process: another one that it is just starting would have it open for writing.
        Run::new("cp").args([&from, &program]).succeeds();
        let version = Run::new(&program).arg("--version").succeeds();
        assert_eq!(version.stdout.split_whitespace().nth(1), Some(release), "run tests/setup");
        for user in USERS {
            let home = place.join(format!("home-{release}-{user}"));
            fs::create_dir(&home).unwrap();
            chown(&home, Some(user), Some(user)).unwrap();
            jobs.push(Job { program: program.clone(), release, user, home, index: index.url() });
        }
    }
    jobs
}

/// Has all of them install at the same time. Those that failed.
fn all_at_once(jobs: &[Job], cache: &Path) -> Vec<String> {
    let start = Barrier::new(jobs.len());
    thread::scope(|scope| {
        let install = |job: &Job| {
            start.wait();
            job.install(cache).err()
        };
        let all: Vec<_> = jobs.iter().map(|job| scope.spawn(move || install(job))).collect();
        all.into_iter().filter_map(|job| job.join().unwrap()).collect()
    })
}

#[test]
fn releases_of_two_users_fail_on_a_plain_directory() {
    let place = tempfile::tempdir().unwrap();
    let index = Index::new();
    let jobs = jobs(place.path(), &index);
    let plain = place.path().join("plain");
    fs::create_dir(&plain).unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o1777)).unwrap();
    let failed = all_at_once(&jobs, &plain);
    println!("{} of {} failed on a plain directory", failed.len(), jobs.len());
    assert!(failed.iter().any(|said| said.contains("Permission denied")), "{failed:#?}");
}

#[test]
fn five_releases_of_two_users_share_one_cache() {
    let rounds = if std::env::var_os("CACHEFS_SOAK").is_some() { 20 } else { 2 };
    let place = tempfile::tempdir().unwrap();
    let index = Index::new();
    let jobs = jobs(place.path(), &index);
    let mount = Mount::builder().watchdog(Duration::from_secs(3600)).mount();
    let cache = mount.path().join("uv");
    for round in 1..=rounds {
        mount.cachefs(["clean"]).arg(mount.path()).succeeds();
        for phase in ["cold", "warm"] {
            let before = index.downloads();
            let failed = all_at_once(&jobs, &cache);
            assert!(failed.is_empty(), "round {round}, {phase}: {}", failed.join("\n"));
            let downloads = index.downloads() - before;
            println!("round {round}, {phase}: {downloads} downloads for {} installs", jobs.len());
            // Each release finds what it or another one had put there.
            assert_eq!(downloads > 0, phase == "cold", "{phase}: {downloads} downloads");
        }
    }
    let kept = fs::read_dir(mount.store().join("uv")).unwrap();
    let kept: Vec<_> = kept.map(|entry| entry.unwrap().file_name()).collect();
    println!("folders: {kept:?}");
}
