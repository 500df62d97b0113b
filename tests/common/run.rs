//! A command that ends in time, and says everything when it didn't do what the test expected.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A command to be run to its end.
pub(crate) struct Run {
    command: Command,
    input: Vec<u8>,
    timeout: Duration,
}

/// A command that has run.
pub(crate) struct Finished {
    line: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
}

/// Unmounts, in a new namespace, what other tests have mounted.
pub(crate) const FORGET_OTHERS: &str = r#"
sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .* - fuse\.cachefs .*/\1/p' /proc/self/mountinfo |
    while read -r other; do umount --lazy "$other"; done
"#;

impl Run {
    /// A command with no input and a minute's time.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self::of(Command::new(program))
    }

    /// A command that was put together elsewhere.
    pub(crate) fn of(mut command: Command) -> Self {
        // A group of its own, so that the time limit ends its descendants too and nobody else.
        command.process_group(0);
        ends_with_its_starter(&mut command, libc::SIGKILL);
        Self { command, input: Vec::new(), timeout: Duration::from_secs(60) }
    }

    /// `sh -ec SCRIPT`.
    pub(crate) fn shell(script: impl AsRef<OsStr>) -> Self {
        Self::new("sh").arg("-ec").arg(script)
    }

    /// `sh -ec SCRIPT` in a mount namespace of its own, which does not keep the mounts of other tests; what
    /// is mounted there goes with it.
    pub(crate) fn shell_with_own_mounts(script: impl AsRef<OsStr>) -> Self {
        let mut whole = std::ffi::OsString::from(FORGET_OTHERS);
        whole.push(script);
        let unshare = Self::new("unshare").args(["--mount", "--propagation", "private"]);
        unshare.args(["sh", "-ec"]).arg(whole)
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn envs<Name: AsRef<OsStr>, Value: AsRef<OsStr>>(
        mut self,
        variables: &[(Name, Value)],
    ) -> Self {
        self.command.envs(variables.iter().map(|(name, value)| (name, value)));
        self
    }

    pub(crate) fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Nothing of the tester's own settings: a path, a language and this home.
    pub(crate) fn clean_environment(mut self, home: impl AsRef<Path>) -> Self {
        self.command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", home.as_ref());
        self
    }

    pub(crate) fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs as another user, with that user's group only.
    pub(crate) fn user(mut self, uid: u32) -> Self {
        self.command.uid(uid).gid(uid);
        self
    }

    pub(crate) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it, whatever its exit code; only running out of time fails the test.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let line = line(&self.command);
        // Files, not pipes: a daemon that keeps its starter's output open must not hold up the test.
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(&self.input).unwrap();
        input.rewind().unwrap();
        let stdout = tempfile::tempfile().unwrap();
        let stderr = tempfile::tempfile().unwrap();
        self.command
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(stdout.try_clone().unwrap()))
            .stderr(Stdio::from(stderr.try_clone().unwrap()));
        let began = Instant::now();
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("{line}\ncould not be started: {error}"));
        let in_time = wait(&mut child, self.timeout);
        let elapsed = began.elapsed();
        if in_time.is_none() {
            kill_group(child.id());
        }
        let status = in_time.unwrap_or_else(|| child.wait().unwrap());
        let finished =
            Finished { line, status, stdout: text(stdout), stderr: text(stderr), elapsed };
        assert!(in_time.is_some(), "not done after {:?}, and ended:\n{finished}", self.timeout);
        finished
    }

    /// Runs it; anything but exit code 0 fails the test.
    #[track_caller]
    pub(crate) fn succeeds(self) -> Finished {
        let finished = self.finish();
        assert!(finished.status.success(), "{finished}");
        finished
    }

    /// Runs it; anything but this exit code fails the test.
    #[track_caller]
    pub(crate) fn exits_with(self, code: i32) -> Finished {
        let finished = self.finish();
        assert_eq!(finished.status.code(), Some(code), "{finished}");
        finished
    }
}

impl Finished {
    /// Both outputs, for tools whose messages wander between them.
    pub(crate) fn all_output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Fails the test unless one of the outputs has this text.
    #[track_caller]
    pub(crate) fn says(&self, what: &str) -> &Self {
        assert!(self.all_output().contains(what), "expected to read {what:?} in\n{self}");
        self
    }

    /// Fails the test if one of the outputs has this text.
    #[track_caller]
    pub(crate) fn does_not_say(&self, what: &str) -> &Self {
        assert!(!self.all_output().contains(what), "expected not to read {what:?} in\n{self}");
        self
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "$ {}", self.line)?;
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => writeln!(to, "exit code {code} after {:?}", self.elapsed)?,
            (None, signal) => writeln!(to, "ended by signal {signal:?} after {:?}", self.elapsed)?,
        }
        writeln!(to, "--- standard output\n{}", self.stdout.trim_end())?;
        writeln!(to, "--- standard error\n{}", self.stderr.trim_end())
    }
}

/// Has a child signalled when the thread that starts it ends, so that a test that is killed leaves nothing
/// running behind it.
pub(crate) fn ends_with_its_starter(command: &mut Command, signal: libc::c_int) {
    // SAFETY: prctl may be called between fork and exec, and this option takes no pointers.
    unsafe {
        command.pre_exec(move || match libc::prctl(libc::PR_SET_PDEATHSIG, signal) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Waits for a child until the time is up: `None` if it still runs then.
pub(super) fn wait(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Ends a process group whose leader is a child that was not yet waited for.
pub(super) fn kill_group(leader: u32) {
    // SAFETY: kill takes no pointers; the leader isn't reaped, so the group is still ours.
    unsafe { libc::kill(-leader.cast_signed(), libc::SIGKILL) };
}

fn text(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn line(command: &Command) -> String {
    let directory: PathBuf = command.get_current_dir().map(Path::to_path_buf).unwrap_or_default();
    let mut words: Vec<OsString> = Vec::new();
    if !directory.as_os_str().is_empty() {
        words.push(format!("cd {} &&", directory.display()).into());
    }
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", name.display(), value.display()).into());
        }
    }
    words.push(command.get_program().into());
    words.extend(command.get_args().map(OsStr::to_os_string));
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
