//! `cachefs run`: a mount for one command, for root and for users without privileges, of which nothing is left.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Mount, Run, binary, ends_with_its_starter, needs, needs_root, tool, wheelhouse};

/// Who runs something, in a home of its own.
struct Person {
    home: tempfile::TempDir,
    /// What the program is started by.
    wrapper: Vec<String>,
}

impl Person {
    fn new(uid: u32, wrapper: &[&str]) -> Person {
        needs_root();
        let home = tempfile::Builder::new().prefix("cachefs-run-").tempdir().unwrap();
        common::copy_program(&binary(), &home.path().join("cachefs"));
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(home.path(), Some(uid), Some(uid)).unwrap();
        Person { home, wrapper: wrapper.iter().map(|word| (*word).to_owned()).collect() }
    }

    fn root() -> Person {
        Person::new(0, &["env"])
    }

    fn user() -> Person {
        Person::new(1000, &["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"])
    }

    /// Who may make no user namespaces, and has `fusermount3`.
    fn without_namespaces() -> Person {
        needs("fusermount3");
        let strace = "strace -D -f -qq -e trace=unshare -e inject=unshare:error=EPERM -o /dev/null -u nobody";
        Person::new(65534, &strace.split(' ').collect::<Vec<_>>())
    }

    fn store(&self) -> PathBuf {
        self.home.path().join(".cache/cachefs")
    }

    fn mountpoint(&self) -> PathBuf {
        self.home.path().join(".cache/cachefs.mount")
    }

    /// `cachefs run` with words, and no settings of the tester's.
    fn words(&self, words: &[&str]) -> (String, Vec<String>) {
        let program = self.home.path().join("cachefs").display().to_string();
        let all = self.wrapper.iter().cloned().chain([program, "run".into()]);
        let mut all = all.chain(words.iter().map(|word| (*word).to_owned()));
        (all.next().unwrap(), all.collect())
    }

    fn run(&self, words: &[&str]) -> Run {
        let (program, words) = self.words(words);
        let run = Run::new(program).args(words).clean_environment(self.home.path());
        run.directory(self.home.path())
    }

    fn shell(&self, script: &str) -> Run {
        self.run(&["--", "sh", "-ec", script])
    }

    /// A command that goes on until the test lets it, or ends it; it has begun when this returns.
    fn start(&self, script: &str) -> Running {
        let (program, words) = self.words(&["--", "sh", "-ec", script]);
        let mut command = Command::new(program);
        command.args(words).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.home.path());
        command.current_dir(self.home.path()).stdin(Stdio::piped());
        ends_with_its_starter(&mut command, libc::SIGKILL);
        // Who runs the tests in the background or by nohup(1) has some of these ignored.
        // SAFETY: signal(2) may be called between fork and exec, and sets no handler here.
        unsafe {
            command.pre_exec(|| {
                for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
        let running = Running(command.spawn().unwrap());
        within("the command begins", || self.home.path().join("begun").exists());
        fs::remove_file(self.home.path().join("begun")).unwrap();
        running
    }

    /// Nothing is left but the store.
    #[track_caller]
    fn expect_gone(&self) {
        within("the daemon ends", || {
            fs::read(self.store().join(".cachefs/lock")).is_ok_and(|pid| pid.is_empty())
        });
        within("the mountpoint goes", || !self.mountpoint().exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.home.path().to_str().unwrap()), "{mounts}");
    }
}

struct Running(Child);

impl Running {
    fn signal(&self, name: &str) {
        Run::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string()).succeeds();
    }

    /// Lets the command go on; how it ends.
    fn end(mut self) -> std::process::ExitStatus {
        drop(self.0.stdin.take());
        self.ended()
    }

    /// How the command ends, which would go on for ever by itself.
    fn ended(mut self) -> std::process::ExitStatus {
        // wait(2) of the standard library closes it first.
        let _input = self.0.stdin.take();
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn within(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(40);
    while !is_so() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Says that it has begun, and waits until its input ends.
const WAIT: &str = "touch begun; read line || true";

#[test]
fn a_command_has_a_mount_that_is_gone_afterwards() {
    for person in [Person::root(), Person::user(), Person::without_namespaces()] {
        let at = person.mountpoint();
        let script = r#"
            test "$UV_CACHE_DIR" = "$PWD/.cache/cachefs.mount/uv"
            mkdir "$UV_CACHE_DIR"; echo kept > "$UV_CACHE_DIR/file"
            stat --file-system --format 'type %T' .cache/cachefs.mount
            ls -A .cache/cachefs.mount; exit 7
        "#;
        let said = person.shell(script).exits_with(7);
        said.says("type fuse").says("uv").does_not_say(".cachefs\n");
        person.expect_gone();
        assert_eq!(fs::read_to_string(person.store().join("uv/file")).unwrap(), "kept\n");
        assert!(!at.exists());
        // Once more, on what is there now; the command is of the user's own, without rights.
        let uid = person.shell(r#"cat "$UV_CACHE_DIR/file"; id -u; grep CapEff /proc/self/status"#);
        let said = uid.succeeds();
        said.says("kept");
        if !person.wrapper[0].contains("env") {
            said.says("CapEff:\t0000000000000000").does_not_say("\n0\n");
        }
        person.expect_gone();
    }
}

#[test]
fn namespaces_keep_the_mount_from_others() {
    for person in [Person::root(), Person::user()] {
        let running = person.start(WAIT);
        let others = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!others.contains(person.mountpoint().to_str().unwrap()), "{others}");
        assert!(running.end().success());
        person.expect_gone();
    }
}

#[test]
fn signals_are_passed_on() {
    for person in [Person::root(), Person::user()] {
        for (name, number) in
            [("TERM", libc::SIGTERM), ("INT", libc::SIGINT), ("HUP", libc::SIGHUP)]
        {
            let running = person.start(WAIT);
            running.signal(name);
            assert_eq!(running.ended().signal(), Some(number));
            person.expect_gone();
        }
        // The command decides what becomes of it.
        let running =
            person.start("trap 'kill $!; exit 5' TERM; sleep 100 & touch begun; wait; exit 6");
        running.signal("TERM");
        assert_eq!(running.ended().code(), Some(5));
        person.expect_gone();
    }
}

#[test]
fn nothing_is_left_when_it_is_killed() {
    for person in [Person::root(), Person::user()] {
        let running = person.start(&format!("echo $$ > pid; {WAIT}"));
        let pid = fs::read_to_string(person.home.path().join("pid")).unwrap();
        running.signal("KILL");
        assert_eq!(running.end().signal(), Some(libc::SIGKILL));
        let command = Path::new("/proc").join(pid.trim());
        within("the command ends", || !command.exists());
        person.expect_gone();
    }
}

#[test]
fn two_share_a_mount_until_the_last_one_ends() {
    for person in [Person::root(), Person::user(), Person::without_namespaces()] {
        let first = person.start(&format!("echo mine > $PWD/.cache/cachefs.mount/file; {WAIT}"));
        let script = r#"
            cat .cache/cachefs.mount/file; touch begun; read line || true
            cat .cache/cachefs.mount/file; echo again > .cache/cachefs.mount/second
            stat --file-system --format %T .cache/cachefs.mount | grep fuse
        "#;
        let second = person.start(script);
        // A third one comes and goes.
        person.shell("cat .cache/cachefs.mount/file").succeeds().says("mine");
        assert!(first.end().success());
        assert!(second.end().success());
        person.expect_gone();
        assert_eq!(fs::read_to_string(person.store().join("second")).unwrap(), "again\n");
    }
}

#[test]
fn a_mount_that_is_there_is_used_and_stays() {
    let person = Person::root();
    let mount = Mount::new();
    let store = mount.store().to_str().unwrap();
    let script = ["--store", store, "--", "sh", "-ec", "echo $UV_CACHE_DIR"];
    let uv = mount.path().join("uv");
    person.run(&script).succeeds().says(uv.to_str().unwrap());
    assert_eq!(mount.status()["mountpoint"].as_str(), mount.path().to_str());
}

#[test]
fn a_store_that_someone_else_has_is_refused() {
    let person = Person::root();
    let store = person.store();
    fs::create_dir_all(&store).unwrap();
    // In a mount namespace of its own, from which nothing comes out.
    let script = r#""$0" mount "$1" "$2"; touch begun; read line || true; "$0" umount "$2""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script]);
    command.arg(binary()).args([&store, &person.home.path().join("elsewhere")]);
    command.current_dir(person.home.path()).stdin(Stdio::piped());
    ends_with_its_starter(&mut command, libc::SIGKILL);
    let other = Running(command.spawn().unwrap());
    within("it is mounted", || person.home.path().join("begun").exists());
    let said = person.shell("exit 0").exits_with(1);
    said.says("is in use by a daemon (pid ").says("use another --store");
    assert!(other.end().success());
    person.shell("exit 0").succeeds();
}

#[test]
fn what_cannot_be_run_is_told() {
    let person = Person::user();
    person.run(&["--", "no-such-program"]).exits_with(127).says("no-such-program");
    person.run(&["--", "/etc/passwd"]).exits_with(126).says("/etc/passwd");
    person.run(&[]).exits_with(2).says("COMMAND");
    person.run(&["--store", "/proc/x", "--", "true"]).exits_with(1).says("another one by --store");
    let full = person.home.path().join("full");
    fs::create_dir_all(full.join("something")).unwrap();
    let at = ["--at", full.to_str().unwrap(), "--", "true"];
    person.run(&at).exits_with(1).says("not empty");
    person.expect_gone();
}

#[test]
fn in_a_chroot_the_command_stays_there() {
    needs_root();
    let place = tempfile::tempdir().unwrap();
    let script = r#"
        mount --bind "$1" "$1"; cd "$1"
        mkdir usr proc dev tmp root
        for name in bin lib lib64; do ln -s usr/$name; done
        mount --bind /usr usr; mount -t proc proc proc; mount --rbind /dev dev
        cp "$0" only-here
        chroot . env HOME=/root /only-here run -- /only-here --version
        chroot . env HOME=/root /only-here run -- sh -ec \
            'cd /; ls only-here; mkdir -p "$PIP_CACHE_DIR"; echo kept > "$PIP_CACHE_DIR/file"'
        cat root/.cache/cachefs/pip/file
    "#;
    let said = Run::shell_with_own_mounts(script).arg(binary()).arg(place.path()).succeeds();
    assert!(said.stdout.ends_with("\nonly-here\nkept\n"), "{said}");
}

#[test]
fn uv_installs_for_a_user_without_privileges() {
    let person = Person::user();
    let uv = person.home.path().join("uv");
    common::copy_program(&tool("uv"), &uv);
    let wheels = person.home.path().join("wheels");
    Run::new("cp").args(["-r".as_ref(), wheelhouse().as_os_str(), wheels.as_os_str()]).succeeds();
    let script = "./uv pip install --offline --no-index --find-links wheels --python /usr/bin/python3 \
                  --target $1 requests";
    for (target, said) in [("one", "Prepared"), ("two", "Installed")] {
        let words = ["--", "sh", "-ec", script, "sh", target];
        let installed = person.run(&words).succeeds();
        installed.says(said).does_not_say("Failed to hardlink");
        assert!(person.home.path().join(target).join("requests/api.py").exists());
        person.expect_gone();
    }
    assert!(person.store().join("uv/archive-v0").is_dir());
    // What they are spared.
    let bare = format!("unset UV_LINK_MODE; {script}");
    let warned = person.run(&["--", "sh", "-ec", &bare, "sh", "three"]).succeeds();
    warned.says("Failed to hardlink files; falling back to full copy");
}
