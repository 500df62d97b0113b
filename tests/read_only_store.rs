//! SEMANTICS 4.4: a store in which nothing can be written is served for reading, and all that is written goes to
//! the spill area, lock files included.

mod common;
mod conformance;

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Mount, Run, Tree, needs_root};
use conformance::{Filesystem, Image};
use rustix::fs::{CWD, RenameFlags};

/// A directory with something in it, and what is shown of it in another place, which can't be written.
struct ReadOnly {
    /// Unmounted before the rest goes.
    shown: PathBuf,
    source: PathBuf,
    _image: Option<Image>,
    _place: tempfile::TempDir,
}

fn furnish(store: &Path) {
    fs::create_dir_all(store.join("folder/deep")).unwrap();
    for (name, text) in [
        ("file", "text\n"),
        ("other", "other\n"),
        ("folder/inside", "inside\n"),
        ("folder/deep/down", "down\n"),
        ("there.lock", ""),
    ] {
        fs::write(store.join(name), text).unwrap();
    }
    symlink("file", store.join("link")).unwrap();
}

impl ReadOnly {
    /// By a bind mount that is read-only.
    fn bound() -> ReadOnly {
        needs_root();
        let place = tempfile::tempdir().unwrap();
        let (source, shown) = (place.path().join("source"), place.path().join("shown"));
        fs::create_dir(&shown).unwrap();
        furnish(&source);
        Run::new("mount").arg("--bind").args([&source, &shown]).succeeds();
        Run::new("mount").args(["-o", "remount,bind,ro"]).arg(&shown).succeeds();
        ReadOnly { shown, source, _image: None, _place: place }
    }

    /// By a filesystem that is mounted read-only.
    fn filesystem() -> ReadOnly {
        let image = Image::new(Filesystem::Ext4, 16);
        let place = tempfile::tempdir().unwrap();
        let shown = place.path().join("shown");
        fs::create_dir(&shown).unwrap();
        let source = image.directory("store");
        furnish(&source);
        Run::new("mount").args(["-o", "remount,ro"]).arg(image.path()).succeeds();
        Run::new("mount").arg("--bind").args([&source, &shown]).succeeds();
        ReadOnly { shown, source, _image: Some(image), _place: place }
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.shown).status();
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names in a directory, as another job sees them.
fn list(path: &Path) -> Vec<String> {
    let listed = Run::new("ls").arg("-A").arg(path).succeeds().stdout;
    listed.lines().map(str::to_owned).collect()
}

/// Every kind of change, and what is seen of it.
fn everything_is_absorbed(mount: &Mount) {
    let at = |name: &str| mount.path().join(name);
    assert_eq!(read(&at("file")), "text\n");
    assert_eq!(read(&at("link")), "text\n");
    assert_eq!(read(&at("folder/deep/down")), "down\n");

    // New ones.
    fs::write(at("new"), "new\n").unwrap();
    fs::create_dir_all(at("made/deep")).unwrap();
    fs::write(at("made/deep/file"), "made\n").unwrap();
    fs::write(at("folder/new"), "beside\n").unwrap();
    symlink("made/deep/file", at("symbolic")).unwrap();
    assert_eq!(read(&at("symbolic")), "made\n");
    fs::hard_link(at("other"), at("second")).unwrap();
    // Those that are there are changed: in place, replaced, and as to their attributes.
    let number = fs::metadata(at("other")).unwrap().ino();
    OpenOptions::new().append(true).open(at("second")).unwrap().write_all(b"more\n").unwrap();
    assert_eq!(read(&at("other")), "other\nmore\n");
    assert_eq!(fs::metadata(at("other")).unwrap().ino(), number);
    fs::write(at("file"), "replaced\n").unwrap();
    assert_eq!(read(&at("link")), "replaced\n");
    fs::set_permissions(at("folder"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(fs::metadata(at("folder")).unwrap().mode() & 0o7777, 0o700);
    Run::new("touch").args(["-d", "2001-02-03"]).arg(at("folder/inside")).succeeds();
    let time = fs::metadata(at("folder/inside")).unwrap().mtime();
    assert!((981_000_000..982_000_000).contains(&time), "{time}");
    OpenOptions::new().write(true).open(at("folder/inside")).unwrap().set_len(2).unwrap();
    assert_eq!(read(&at("folder/inside")), "in");
    let attribute = |value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(at("folder/deep/down"), "user.key", value, flags)
    };
    attribute(b"value").unwrap();
    assert_eq!(read(&at("folder/deep/down")), "down\n");
    // Names move.
    fs::rename(at("folder"), at("made/folder")).unwrap();
    assert_eq!(read(&at("made/folder/deep/down")), "down\n");
    assert_eq!(read(&at("made/folder/new")), "beside\n");
    assert_eq!(list(&at("made")), ["deep", "folder"]);
    fs::rename(at("new"), at("other")).unwrap();
    assert_eq!((read(&at("other")), read(&at("second"))), ("new\n".into(), "other\nmore\n".into()));
    let exchange = |a: &str, b: &str| {
        rustix::fs::renameat_with(CWD, at(a), CWD, at(b), RenameFlags::EXCHANGE).unwrap();
    };
    exchange("file", "other");
    assert_eq!((read(&at("file")), read(&at("other"))), ("new\n".into(), "replaced\n".into()));
    let kept = rustix::fs::renameat_with(CWD, at("file"), CWD, at("other"), RenameFlags::NOREPLACE);
    assert_eq!(kept, Err(rustix::io::Errno::EXIST));
    fs::rename(at("made/deep/file"), at("up")).unwrap();
    fs::rename(at("up"), at("made/deep/again")).unwrap();
    assert_eq!(list(&at("made/deep")), ["again"]);
    assert_eq!(
        list(mount.path()),
        ["file", "link", "made", "other", "second", "symbolic", "there.lock"]
    );
    // And go.
    let full = fs::remove_dir(at("made")).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOTEMPTY), "{full}");
    fs::remove_file(at("link")).unwrap();
    fs::remove_dir_all(at("made")).unwrap();
    assert_eq!(list(mount.path()), ["file", "other", "second", "symbolic", "there.lock"]);
    let missing = File::open(at("made")).unwrap_err();
    assert_eq!(missing.raw_os_error(), Some(libc::ENOENT), "{missing}");
    fs::create_dir(at("folder")).unwrap();
    assert_eq!(list(&at("folder")), Vec::<String>::new());
    fs::write(at("folder/inside"), "once more\n").unwrap();
    assert_eq!(read(&at("folder/inside")), "once more\n");
    let locked = format!("flock -n {} true", at("there.lock").display());
    Run::shell(&locked).succeeds();
    for name in list(mount.path()) {
        Run::new("rm").arg("-r").arg(at(&name)).succeeds();
    }
    assert_eq!(list(mount.path()), Vec::<String>::new());
}

fn served_for_reading(place: &ReadOnly, options: &[&str]) {
    let before = Tree::of(&place.source);
    let mut mount = Mount::builder().store(&place.shown).options(options).mount();
    let status = mount.status();
    assert!(status["degraded"]["reason"].is_string(), "{status}");
    everything_is_absorbed(&mount);
    mount.unmount();
    before.assert_same(&Tree::of(&place.source));
    // All is as before, also for the next one.
    mount.mount_again();
    before.assert_same(&Tree::of(mount.path()));
    mount.unmount();
}

#[test]
fn a_bind_mount_that_is_read_only() {
    served_for_reading(&ReadOnly::bound(), &[]);
}

#[test]
fn a_filesystem_that_is_read_only() {
    served_for_reading(&ReadOnly::filesystem(), &["--no-passthrough"]);
}

#[test]
fn a_store_that_is_not_to_be_written() {
    let place = tempfile::tempdir().unwrap();
    furnish(place.path());
    let before = Tree::of(place.path());
    let mut mount = Mount::builder().store(place.path()).option("--read-only-store").mount();
    // Nobody but the daemon keeps it from being written.
    assert!(!place.path().join(".cachefs").exists());
    fs::write(mount.path().join("new"), "x").unwrap();
    OpenOptions::new()
        .append(true)
        .open(mount.path().join("file"))
        .unwrap()
        .write_all(b"!")
        .unwrap();
    fs::remove_file(mount.path().join("other")).unwrap();
    assert_eq!(list(mount.path()), ["file", "folder", "link", "new", "there.lock"]);
    mount.unmount();
    before.assert_same(&Tree::of(place.path()));
}

#[test]
fn a_directory_that_may_not_be_written() {
    needs_root();
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let store = place.path().join("store");
    furnish(&store);
    fs::set_permissions(&store, fs::Permissions::from_mode(0o555)).unwrap();
    let before = Tree::of(&store);
    let mut mount = Mount::builder().store(&store).user(1000).mount();
    let at = |name: &str| mount.path().join(name).into_os_string().into_string().unwrap();
    let script = format!(
        "cat {file}; echo new > {new}; echo more >> {file}; flock -n {lock} true; rm -r {folder}; ls {all}",
        file = at("file"),
        new = at("new"),
        lock = at("there.lock"),
        folder = at("folder"),
        all = at(""),
    );
    let said = Run::shell(script).user(1000).succeeds().stdout;
    assert_eq!(said, "text\nfile\nlink\nnew\nother\nthere.lock\n");
    let again = format!("cat {} {}", at("file"), at("new"));
    assert_eq!(Run::shell(again).user(1000).succeeds().stdout, "text\nmore\nnew\n");
    mount.unmount();
    before.assert_same(&Tree::of(&store));
}

#[test]
fn an_administrator_removes_what_is_there_and_what_is_spilled() {
    let place = ReadOnly::bound();
    let mount = Mount::builder().store(&place.shown).mount();
    let mut job = Job::new(mount.path());
    job.says("mkdir -p made/deep; echo new > made/deep/file; echo new > new", "");
    let clean = |paths: &[&str]| {
        mount.cachefs(["clean"]).arg(mount.path()).args(paths).succeeds();
    };
    clean(&["made/deep/file", "folder/inside"]);
    Job::new(mount.path())
        .says("cat new; ls made/deep folder", "new\nfolder:\ndeep\n\nmade/deep:\n");
    job.says("cat made/deep/file folder/inside", "new\ninside\n");
    mount.cachefs(["clean"]).arg(mount.path()).arg("folder/inside").exits_with(1).says("no folder");
    clean(&[]);
    // A lock is kept for nobody.
    job.says("cat new; ls", "new\nfile\nfolder\nlink\nmade\nnew\nother\n");
    let late = Run::new("ls").arg("-A").arg(mount.path()).succeeds().stdout;
    assert_eq!(late, "");
    drop(job);
}

/// A lock that another process holds until its input ends.
fn hold(lock: &Path) -> Child {
    let mut child = Command::new("flock")
        .arg(lock)
        .args(["-c", "echo held; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"held\n");
    child
}

#[test]
fn locks_exclude_all_jobs() {
    let place = ReadOnly::bound();
    let mount = Mount::builder().store(&place.shown).mount();
    // One that is in the store, one that is not, and one below a folder that is not.
    fs::create_dir(mount.path().join("made")).unwrap();
    for name in ["there.lock", "new.lock", "made/new.lock", "file"] {
        let lock = mount.path().join(name);
        // Opened for reading, as `flock` does where it may.
        let held = File::open(&lock).ok();
        let mut holder = hold(&lock);
        let try_it = || Run::new("flock").arg("-n").arg(&lock).arg("true");
        try_it().exits_with(1);
        // Whoever writes it locks the same one.
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&lock)
            .unwrap()
            .write_all(b"pid")
            .unwrap();
        try_it().exits_with(1);
        drop(holder.stdin.take());
        holder.wait().unwrap();
        try_it().succeeds();
        drop(held);
    }
}

/// A job that does what it is told, and uses the mount from the beginning.
struct Job(Child);

impl Job {
    fn new(directory: &Path) -> Job {
        let child = Command::new("sh")
            .current_dir("/")
            .args(["-c", "cd \"$1\" && : < there.lock; while read -r line; do eval \"$line\" 2>&1; echo =; done"])
            .arg("job")
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut job = Job(child);
        job.says("true", "");
        job
    }

    /// Does something, and says this.
    #[track_caller]
    fn says(&mut self, what: &str, expected: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{what}").unwrap();
        let mut said = String::new();
        let output = self.0.stdout.as_mut().unwrap();
        while !said.ends_with("=\n") {
            let mut byte = [0];
            assert_eq!(output.read(&mut byte).unwrap(), 1, "it has ended, and said {said:?}");
            said.push(byte[0] as char);
        }
        assert_eq!(said.trim_end_matches("=\n"), expected, "{what}");
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn who_runs_goes_on_seeing_what_is_removed() {
    let place = ReadOnly::bound();
    let mount = Mount::builder().store(&place.shown).mount();
    // This process must not use the mount, or all those that it starts would be one job.
    let mut first = Job::new(mount.path());
    first.says("echo spilled > spilled; mkdir made; echo made > made/file", "");
    let mut reader = Job::new(mount.path());
    reader.says("cat file made/file", "text\nmade\n");
    first.says("rm -r file spilled folder made; mv other moved; ls", "link\nmoved\nthere.lock\n");
    Job::new(mount.path()).says("ls; cat moved", "link\nmoved\nthere.lock\nother\n");
    let kept = "text\nspilled\nother\ndown\nmade\n";
    reader.says("cat file spilled other folder/deep/down made/file", kept);
    // What comes anew is seen by all.
    first.says("echo anew > file", "");
    reader.says("cat file", "anew\n");
}
