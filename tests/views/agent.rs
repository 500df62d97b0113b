//! Processes that do as they are told, each a job of its own: see `agent.py`.

use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{PYTHON, View, scripts};

/// How long an answer may take, unless a test gives more time.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Agent {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    patience: Duration,
    last: String,
    /// What the system said last when it refused something.
    complaint: String,
}

impl Agent {
    /// Starts one that will work below `root`, and has not touched it yet.
    #[track_caller]
    pub(crate) fn new(root: &Path) -> Self {
        Self::of(PYTHON, root)
    }

    /// The same, by another Python.
    #[track_caller]
    pub(crate) fn of(python: impl AsRef<OsStr>, root: &Path) -> Self {
        let mut command = Command::new(python);
        command
            .arg(scripts().join("agent.py"))
            .arg(root)
            .current_dir("/")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // SAFETY: prctl may be called between fork and exec, and this option takes no pointers.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let mut child = command.spawn().expect("this test needs /usr/bin/python3: run tests/setup");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, answers) = mpsc::channel();
        // Of its own, so that an agent that hangs in the mount doesn't hang the test.
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let input = child.stdin.take();
        Self {
            child,
            input,
            answers,
            patience: PATIENCE,
            last: String::new(),
            complaint: String::new(),
        }
    }

    /// It may take so long to answer.
    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives a command, and does not wait for the answer. `arguments` are a tuple or an array.
    #[track_caller]
    pub(crate) fn tell(&mut self, what: &str, arguments: impl Serialize) {
        let mut command = vec![Value::from(what)];
        match serde_json::to_value(arguments).unwrap() {
            Value::Array(arguments) => command.extend(arguments),
            Value::Null => {}
            other => command.push(other),
        }
        self.last = Value::from(command).to_string();
        writeln!(self.input.as_mut().unwrap(), "{}", self.last).unwrap();
    }

    /// The answer to the command before: a value, or what the system said.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> Result<Value, i32> {
        let answer = self
            .answers
            .recv_timeout(self.patience)
            .unwrap_or_else(|error| panic!("{}: no answer: {error}", self.last));
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        match (answer.get("ok"), answer["errno"].as_i64()) {
            (Some(_), _) => Ok(answer["ok"].take()),
            (None, Some(errno)) => {
                self.complaint = text(answer["error"].take());
                Err(errno as i32)
            }
            (None, None) => panic!("{}: {}", self.last, answer["failed"].as_str().unwrap_or("?")),
        }
    }

    /// Gives a command and waits for the answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, what: &str, arguments: impl Serialize) -> Result<Value, i32> {
        self.tell(what, arguments);
        self.hear()
    }

    /// A command that has to work.
    #[track_caller]
    pub(crate) fn does(&mut self, what: &str, arguments: impl Serialize) -> Value {
        self.tell(what, arguments);
        self.finishes()
    }

    /// What the command before, which has to work, gives.
    #[track_caller]
    pub(crate) fn finishes(&mut self) -> Value {
        let answer = self.hear();
        answer.unwrap_or_else(|_| panic!("{}: {}", self.last, self.complaint))
    }

    /// A command that the system has to refuse, with this errno.
    #[track_caller]
    pub(crate) fn refused(&mut self, errno: i32, what: &str, arguments: impl Serialize) {
        let answer = self.ask(what, arguments);
        assert_eq!(answer, Err(errno), "{}", self.last);
    }

    /// What a file holds, by name.
    #[track_caller]
    pub(crate) fn read(&mut self, path: &str) -> String {
        text(self.does("read", [path]))
    }

    /// What an open file holds.
    #[track_caller]
    pub(crate) fn held(&mut self, name: &str) -> String {
        text(self.does("held_text", [name]))
    }

    #[track_caller]
    pub(crate) fn exists(&mut self, path: &str) -> bool {
        self.does("exists", [path]).as_bool().unwrap()
    }

    #[track_caller]
    pub(crate) fn list(&mut self, path: &str) -> Vec<String> {
        serde_json::from_value(self.does("list", [path])).unwrap()
    }

    /// All that it sees below a directory.
    #[track_caller]
    pub(crate) fn view(&mut self, path: &str) -> View {
        serde_json::from_value(self.does("view", [path])).unwrap()
    }

    /// The inode number behind a name.
    #[track_caller]
    pub(crate) fn inode(&mut self, path: &str) -> u64 {
        self.does("status", [path])["ino"].as_u64().unwrap()
    }

    /// Lets it end as programs do, and waits until it has.
    #[track_caller]
    pub(crate) fn end(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }

    /// Ends it by SIGKILL, and waits until it has.
    pub(crate) fn kill(mut self) {
        // Fails only when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(value: Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Has several agents do something at once, and gathers what they say.
#[track_caller]
pub(crate) fn all<Arguments: Serialize>(
    agents: &mut [Agent],
    what: &str,
    arguments: impl Fn(usize) -> Arguments,
) -> Vec<Value> {
    // All are up before any begins, so that they meet.
    for agent in &mut *agents {
        agent.does("pid", ());
    }
    for (number, agent) in agents.iter_mut().enumerate() {
        agent.tell(what, arguments(number));
    }
    agents.iter_mut().map(Agent::finishes).collect()
}
