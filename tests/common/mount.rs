//! A real mount with a daemon of its own, that is gone when its test is over, however that ends.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::run::{ends_with_its_starter, kill_group, wait};
use super::{Finished, Run, binary};

/// How long a daemon may take until its mount answers, or until it has gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a mount is to be made.
#[derive(Clone)]
pub(crate) struct MountBuilder {
    store: Option<PathBuf>,
    mountpoint: Option<PathBuf>,
    options: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    wrapper: Vec<OsString>,
    user: Option<u32>,
    open_files: Option<u64>,
    background: bool,
    watchdog: Duration,
}

/// A mount in use. Dropping it unmounts it; a test whose mount can't be unmounted cleanly fails.
pub(crate) struct Mount {
    builder: MountBuilder,
    /// Keeps the directories until the mount is gone.
    place: tempfile::TempDir,
    program: PathBuf,
    store: PathBuf,
    mountpoint: PathBuf,
    running: Option<Running>,
}

/// The daemon behind a mount.
struct Running {
    pid: u32,
    connection: Option<u32>,
    /// Our child in the foreground form; `None` once it was waited for.
    child: Arc<Mutex<Option<Child>>>,
    watchdog: Watchdog,
}

impl MountBuilder {
    /// The store to use, which then is not removed with the mount. Default: a new, empty directory.
    pub(crate) fn store(mut self, store: impl Into<PathBuf>) -> Self {
        self.store = Some(store.into());
        self
    }

    /// Where to mount. Default: a new, empty directory.
    pub(crate) fn mountpoint(mut self, mountpoint: impl Into<PathBuf>) -> Self {
        self.mountpoint = Some(mountpoint.into());
        self
    }

    /// A word more for `cachefs mount`.
    pub(crate) fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Words more for `cachefs mount`.
    pub(crate) fn options<Word: Into<OsString>>(
        mut self,
        options: impl IntoIterator<Item = Word>,
    ) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// A variable for the daemon.
    pub(crate) fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A command that runs the daemon as its arguments, such as `["strace", "-o", "FILE"]`.
    pub(crate) fn wrapper<Word: Into<OsString>>(
        mut self,
        words: impl IntoIterator<Item = Word>,
    ) -> Self {
        self.wrapper = words.into_iter().map(Into::into).collect();
        self
    }

    /// The user that the daemon runs as; the temporary directories are that user's then.
    pub(crate) fn user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// `ulimit -n` of the daemon, soft and hard.
    pub(crate) fn open_files(mut self, limit: u64) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// The daemon sends itself to the background, as for a person at a terminal.
    pub(crate) fn background(mut self) -> Self {
        self.background = true;
        self
    }

    /// How long the mount may live (default: 120 s), after which its connection is aborted and its daemon
    /// killed, so that nothing hangs.
    pub(crate) fn watchdog(mut self, limit: Duration) -> Self {
        self.watchdog = limit;
        self
    }

    /// Mounts; the test fails when that doesn't work.
    #[track_caller]
    pub(crate) fn mount(self) -> Mount {
        let mut mount = self.prepare();
        mount.mount_again();
        mount
    }

    /// Runs `cachefs mount`, which is to fail with exit code 1 or 2; the mount that is given back isn't
    /// mounted, but knows its directories.
    #[track_caller]
    pub(crate) fn refused(self) -> (Finished, Mount) {
        let mount = self.prepare();
        let finished = mount.run_mount_command();
        assert!(
            matches!(finished.status.code(), Some(1 | 2)),
            "mounting was to be refused\n{finished}"
        );
        assert!(
            mounted_at(&mount.mountpoint).is_none(),
            "refused, but mounted all the same\n{finished}"
        );
        (finished, mount)
    }

    #[track_caller]
    fn prepare(self) -> Mount {
        let place = tempfile::Builder::new().prefix("cachefs-test-").tempdir().unwrap();
        // Other users must get to what lies below it.
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let store = self.store.clone().unwrap_or_else(|| place.path().join("store"));
        let mountpoint = self.mountpoint.clone().unwrap_or_else(|| place.path().join("mount"));
        let mut program = binary();
        if self.store.is_none() {
            fs::create_dir(&store).unwrap();
        }
        if self.mountpoint.is_none() {
            fs::create_dir(&mountpoint).unwrap();
        }
        if let Some(uid) = self.user {
            for directory in [place.path(), &store, &mountpoint] {
                std::os::unix::fs::chown(directory, Some(uid), Some(uid)).unwrap();
            }
            // The work tree may be somewhere that this user can't enter.
            let copy = place.path().join("cachefs");
            super::copy_program(&program, &copy);
            program = copy;
        }
        // The kernel names mounts by their real paths.
        let mountpoint = fs::canonicalize(&mountpoint).unwrap_or(mountpoint);
        Mount { builder: self, place, program, store, mountpoint, running: None }
    }
}

impl Mount {
    /// An empty store, mounted with no options.
    #[track_caller]
    pub(crate) fn new() -> Self {
        Self::builder().mount()
    }

    pub(crate) fn builder() -> MountBuilder {
        MountBuilder {
            store: None,
            mountpoint: None,
            options: Vec::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
            user: None,
            open_files: None,
            background: false,
            watchdog: Duration::from_secs(120),
        }
    }

    /// The mountpoint.
    pub(crate) fn path(&self) -> &Path {
        &self.mountpoint
    }

    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// A directory beside the store and the mountpoint, on the store's filesystem, for whatever the test
    /// needs; it goes with the mount.
    #[track_caller]
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        let path = self.place.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The daemon's pid.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().expect("not mounted").pid
    }

    /// The number of the FUSE connection, as in `/sys/fs/fuse/connections`.
    #[track_caller]
    pub(crate) fn connection(&self) -> u32 {
        let running = self.running.as_ref().expect("not mounted");
        running.connection.expect("a mounted connection has a number")
    }

    /// Breaks its connection: every call in it returns with an error.
    #[track_caller]
    pub(crate) fn abort(&self) {
        abort(self.connection());
    }

    /// What the daemon has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read(self.log_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// `cachefs WORDS...`, by the program that this mount runs.
    pub(crate) fn cachefs(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        Run::new(&self.program).args(words)
    }

    /// This mount's part of `cachefs status --json`.
    #[track_caller]
    pub(crate) fn status(&self) -> serde_json::Value {
        let finished = self.cachefs(["status", "--json"]).arg(&self.mountpoint).succeeds();
        let document: serde_json::Value = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("not a JSON document: {error}\n{finished}"));
        document["mounts"][0].clone()
    }

    /// Unmounts by `cachefs umount` and waits until the daemon has gone; the directories stay.
    #[track_caller]
    pub(crate) fn unmount(&mut self) {
        let said = self.cachefs(["umount"]).arg(&self.mountpoint).finish();
        assert!(has_unmounted(&said), "{said}\ndaemon's log:\n{}", self.log());
        let running = self.running.take().expect("not mounted");
        assert!(!running.watchdog.fired(), "the watchdog had ended this mount");
        assert!(mounted_at(&self.mountpoint).is_none(), "still mounted after\n{said}");
        let gone = running.wait_until_gone();
        assert!(gone, "the daemon still runs {PATIENCE:?} after its mount went\n{}", self.log());
    }

    /// Waits until the daemon has ended by itself, as its mount or its connection was taken away, and detaches
    /// what it leaves behind; the directories stay.
    #[track_caller]
    pub(crate) fn ended(&mut self) {
        let running = self.running.take().expect("not mounted");
        assert!(running.wait_until_gone(), "the daemon still runs\n{}", self.log());
        detach(&self.mountpoint);
    }

    /// Kills the daemon as a crash would (SIGKILL) and detaches what it leaves behind; the directories stay.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        let running = self.running.take().expect("not mounted");
        running.kill();
        detach(&self.mountpoint);
    }

    /// Mounts the same store in the same place once more, after [`Mount::unmount`] or [`Mount::kill`].
    #[track_caller]
    pub(crate) fn mount_again(&mut self) {
        assert!(self.running.is_none(), "already mounted");
        let running = if self.builder.background {
            self.start_in_background()
        } else {
            self.start_in_foreground()
        };
        self.running = Some(running);
    }

    #[track_caller]
    fn start_in_foreground(&self) -> Running {
        let mut command = self.command();
        command
            .arg("--foreground")
            .stdout(Stdio::from(self.open_log()))
            .stderr(Stdio::from(self.open_log()));
        // It unmounts by itself then. So a mount must not outlive the thread of the test that made it.
        ends_with_its_starter(&mut command, libc::SIGTERM);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{} can't be started: {error}", self.program.display()));
        let pid = child.id();
        let deadline = Instant::now() + PATIENCE;
        let connection = loop {
            if let Some(connection) = mounted_at(&self.mountpoint) {
                break connection;
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the daemon went ({status}) before it mounted\n{}", self.log());
            }
            if Instant::now() > deadline {
                kill_group(pid);
                child.wait().unwrap();
                detach(&self.mountpoint);
                panic!("not mounted after {PATIENCE:?}\n{}", self.log());
            }
            sleep(Duration::from_millis(2));
        };
        let child = Arc::new(Mutex::new(Some(child)));
        let running = Running {
            pid,
            connection: Some(connection),
            watchdog: Watchdog::new(self.builder.watchdog, connection, Arc::clone(&child), pid),
            child,
        };
        self.wait_until_it_answers(&running);
        running
    }

    #[track_caller]
    fn start_in_background(&self) -> Running {
        let said = self.run_mount_command();
        let Some(connection) = mounted_at(&self.mountpoint) else {
            panic!("not mounted\n{said}\n{}", self.log());
        };
        // By its command line, not by its own word: a daemon that doesn't answer must be found as well.
        let pid = daemon_of(&self.mountpoint)
            .unwrap_or_else(|| panic!("mounted, but no daemon runs\n{said}\n{}", self.log()));
        let child = Arc::new(Mutex::new(None));
        let running = Running {
            pid,
            connection: Some(connection),
            watchdog: Watchdog::new(self.builder.watchdog, connection, Arc::clone(&child), pid),
            child,
        };
        if !said.status.success() {
            running.kill();
            detach(&self.mountpoint);
            panic!("mounted, but\n{said}\n{}", self.log());
        }
        running
    }

    /// The foreground form says nothing when it is ready. The first answer from the root is what counts.
    #[track_caller]
    fn wait_until_it_answers(&self, running: &Running) {
        let path = CString::new(self.mountpoint.as_os_str().as_bytes()).unwrap();
        // SAFETY: statfs is plain old data, and the path is a C string that outlives the call.
        let answers = unsafe {
            let mut out: libc::statfs = std::mem::zeroed();
            libc::statfs(path.as_ptr(), &raw mut out) == 0
        };
        if !answers {
            let error = std::io::Error::last_os_error();
            // Root may not look into a mount that a user made for himself alone.
            if error.raw_os_error() != Some(libc::EACCES) {
                running.kill();
                detach(&self.mountpoint);
                panic!("mounted, but doesn't answer: {error}\n{}", self.log());
            }
        }
    }

    /// `cachefs mount` in the background form, to its end.
    #[track_caller]
    fn run_mount_command(&self) -> Finished {
        let mut command = self.command();
        command.arg("--log").arg(self.log_file());
        Run::of(command).timeout(PATIENCE).finish()
    }

    fn command(&self) -> Command {
        let mut words = self.builder.wrapper.clone();
        words.extend([self.program.clone().into_os_string(), "mount".into()]);
        words.extend([self.store.clone().into_os_string(), self.mountpoint.clone().into()]);
        words.extend(self.builder.options.iter().cloned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .envs(self.builder.environment.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::null());
        if let Some(uid) = self.builder.user {
            command.uid(uid).gid(uid);
        }
        if let Some(limit) = self.builder.open_files {
            // SAFETY: setrlimit may be called between fork and exec, and gets a struct of its own.
            unsafe {
                command.pre_exec(move || {
                    let limits = libc::rlimit { rlim_cur: limit, rlim_max: limit };
                    match libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) {
                        0 => Ok(()),
                        _ => Err(std::io::Error::last_os_error()),
                    }
                });
            }
        }
        command
    }

    fn log_file(&self) -> PathBuf {
        self.place.path().join("log")
    }

    #[track_caller]
    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let failing = thread::panicking();
        if failing {
            eprintln!("--- the daemon's log\n{}---", self.log());
        }
        let mut complaint = String::new();
        if let Some(running) = self.running.take() {
            if !running.watchdog.fired() {
                let said =
                    self.cachefs(["umount"]).arg(&self.mountpoint).timeout(PATIENCE * 2).finish();
                if !has_unmounted(&said) {
                    complaint = format!("{said}");
                } else if !running.wait_until_gone() {
                    complaint = format!("{said}the daemon (pid {}) still runs", running.pid);
                }
            }
            if running.watchdog.fired() {
                complaint = format!(
                    "the watchdog ended this mount after {:?}\n{complaint}",
                    self.builder.watchdog
                );
            }
            if !complaint.is_empty() {
                detach(&self.mountpoint);
                running.kill();
            }
        }
        detach(&self.mountpoint);
        if !complaint.is_empty() {
            if failing {
                eprintln!("{complaint}");
            } else {
                panic!("{complaint}\n--- the daemon's log\n{}---", self.log());
            }
        }
    }
}

/// Whether `cachefs umount` has done its part: a mount namespace that another test makes has copies of all mounts,
/// and the daemon ends when that does.
fn has_unmounted(said: &Finished) -> bool {
    said.status.success() || said.stderr.contains("is unmounted here, but containers still have it")
}

impl Running {
    /// Waits until the daemon has exited by itself.
    fn wait_until_gone(&self) -> bool {
        let mut child = self.child.lock().unwrap();
        match child.as_mut() {
            Some(running) => {
                let gone = wait(running, PATIENCE).is_some();
                if gone {
                    *child = None;
                }
                gone
            }
            None => {
                let deadline = Instant::now() + PATIENCE;
                while is_daemon(self.pid) {
                    if Instant::now() > deadline {
                        return false;
                    }
                    sleep(Duration::from_millis(5));
                }
                true
            }
        }
    }

    fn kill(&self) {
        end(&self.child, self.pid);
    }
}

/// Ends a mount whose time is up, so that whoever is blocked in it goes on.
struct Watchdog {
    called_off: Option<Sender<()>>,
    fired: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    fn new(limit: Duration, connection: u32, child: Arc<Mutex<Option<Child>>>, pid: u32) -> Self {
        let (called_off, over) = mpsc::channel();
        let fired = Arc::new(AtomicBool::new(false));
        let barks = Arc::clone(&fired);
        let thread = thread::spawn(move || {
            if over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                barks.store(true, Ordering::SeqCst);
                abort(connection);
                end(&child, pid);
            }
        });
        Self { called_off: Some(called_off), fired, thread: Some(thread) }
    }

    fn fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.called_off.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say: a panic in it was printed.
            let _ = thread.join();
        }
    }
}

/// Kills a daemon: our child with its group, or the process in the background if it still is one of ours.
fn end(child: &Mutex<Option<Child>>, pid: u32) {
    match child.lock().unwrap().take() {
        Some(mut child) => {
            kill_group(pid);
            // Only fails for a child that was waited for, and this one wasn't.
            child.wait().unwrap();
        }
        None => {
            if is_daemon(pid) {
                // SAFETY: kill takes no pointers.
                unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
                while is_daemon(pid) {
                    sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

/// Breaks a FUSE connection: every call in it returns with an error.
fn abort(connection: u32) {
    let control = Path::new("/sys/fs/fuse/connections");
    let switch = control.join(connection.to_string()).join("abort");
    if fs::write(&switch, "1").is_ok() {
        return;
    }
    // The connection has gone already, or there is no control: machines without systemd don't have it mounted.
    // Where it can't be, the daemon's end has to do.
    let place = c"/sys/fs/fuse/connections";
    // SAFETY: all are C strings, and fusectl takes no data.
    let mounted = unsafe {
        libc::mount(c"none".as_ptr(), place.as_ptr(), c"fusectl".as_ptr(), 0, std::ptr::null())
    };
    if mounted == 0 {
        let _ = fs::write(switch, "1");
        // SAFETY: a C string.
        unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Detaches whatever FUSE mounts are at a path, busy or not.
fn detach(mountpoint: &Path) {
    while mounted_at(mountpoint).is_some() {
        let path = CString::new(mountpoint.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path is a C string that outlives the call.
        let detached = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } == 0;
        if !detached {
            let helped = Command::new("fusermount3").arg("-uz").arg(mountpoint).status();
            if !helped.is_ok_and(|status| status.success()) {
                eprintln!("{} can't be detached", mountpoint.display());
                return;
            }
        }
    }
}

/// The connection number of the FUSE mount at a path. It comes from mountinfo, not from `stat`, which a
/// mount that doesn't answer would block.
fn mounted_at(mountpoint: &Path) -> Option<u32> {
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap();
    let mut found = None;
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let Some(dash) = fields.iter().position(|&field| field == b"-") else {
            continue;
        };
        if unescape(fields[4]) == mountpoint.as_os_str() && fields[dash + 1].starts_with(b"fuse") {
            let device = std::str::from_utf8(fields[2]).unwrap();
            found = device.split_once(':').and_then(|(_, minor)| minor.parse().ok());
        }
    }
    found
}

/// Undoes mountinfo's octal escapes.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = octal {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    OsString::from_vec(bytes)
}

/// The process whose command line is `cachefs mount ... MOUNTPOINT ...`.
fn daemon_of(mountpoint: &Path) -> Option<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|&pid: &u32| {
            is_daemon(pid)
                && words(pid).iter().any(|word| word == mountpoint.as_os_str().as_bytes())
        })
}

/// Whether a process of this number runs and is a `cachefs mount`: a pid that went to another one isn't.
/// A process that has ended, waited for or not, has no command line any more.
fn is_daemon(pid: u32) -> bool {
    let words = words(pid);
    words.first().is_some_and(|program| program.ends_with(b"cachefs"))
        && words.get(1).is_some_and(|command| command == b"mount")
}

fn words(pid: u32) -> Vec<Vec<u8>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}
