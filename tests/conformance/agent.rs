//! Processes that do as they are told: this test program, started again.
//!
//! They get commands by their standard input, a line each, and answer on their standard error, where
//! nothing of the test framework's gets in between.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt::Display;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// What a job that the test program brings along is called with.
pub(crate) type Jobs<'a> = &'a dyn Fn(&[&str]) -> Result<String, String>;

/// An errno, or a text.
pub(crate) type Answer = Result<String, i32>;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(200);

/// A process of this test program.
pub(crate) struct Agent {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Agent {
    /// Starts one; `entry` is the test that calls [`serve`].
    #[track_caller]
    pub(crate) fn new() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_process_of_this_program_answers",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("CACHEFS_TEST_AGENT", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in errors.lines() {
                let Ok(line) = line else { break };
                match line.strip_prefix("@ ") {
                    Some(answer) => {
                        if sender.send(answer.to_owned()).is_err() {
                            break;
                        }
                    }
                    None => eprintln!("agent: {line}"),
                }
            }
        });
        let input = child.stdin.take();
        Self { child, input, answers }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives a command and does not wait for the answer.
    #[track_caller]
    pub(crate) fn tell(&mut self, command: impl Display) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{command}").unwrap();
        input.flush().unwrap();
    }

    /// The answer to the command before.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> Answer {
        let answer = self.answers.recv_timeout(PATIENCE).expect("the agent did not answer");
        match answer.split_once(' ') {
            Some(("ok", text)) => Ok(text.to_owned()),
            Some(("errno", number)) => Err(number.parse().unwrap()),
            _ => panic!("the agent says: {answer}"),
        }
    }

    /// Gives a command and waits for the answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: impl Display) -> Answer {
        self.tell(command);
        self.hear()
    }

    /// A command that has to work.
    #[track_caller]
    pub(crate) fn does(&mut self, command: impl Display) -> String {
        let text = command.to_string();
        self.ask(command)
            .unwrap_or_else(|errno| panic!("{text}: {}", io::Error::from_raw_os_error(errno)))
    }

    /// Lets it end of itself.
    pub(crate) fn end(mut self) {
        drop(self.input.take());
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the agent does not end");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it by SIGKILL.
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

/// The body of the test `a_process_of_this_program_answers`: in an agent, answers commands until they end;
/// else starts an agent and looks whether it answers.
pub(crate) fn serve(jobs: Jobs<'_>) {
    if std::env::var_os("CACHEFS_TEST_AGENT").is_none() {
        let mut agent = Agent::new();
        assert_eq!(agent.does("echo a b"), "a b");
        return;
    }
    let mut hands = Hands::default();
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = if words[0] == "job" {
            jobs(&words[1..])
                .map_or_else(|text| format!("failed: {text}"), |text| format!("ok {text}"))
        } else {
            match hands.obey(&words) {
                Ok(text) => format!("ok {text}"),
                Err(error) => match error.raw_os_error() {
                    Some(number) => format!("errno {number}"),
                    None => format!("did not understand {line:?}: {error}"),
                },
            }
        };
        // Written whole, and past the framework's capture.
        io::stderr().write_all(format!("@ {answer}\n").as_bytes()).unwrap();
    }
    std::process::exit(0);
}

/// What an agent holds.
#[derive(Default)]
struct Hands {
    files: HashMap<String, OwnedFd>,
    maps: HashMap<String, Map>,
}

struct Map {
    address: *mut u8,
    length: usize,
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of that length, and nobody uses it any more.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn path(word: &str) -> CString {
    CString::new(Path::new(word).as_os_str().as_bytes()).unwrap()
}

impl Hands {
    fn fd(&self, name: &str) -> i32 {
        self.files[name].as_raw_fd()
    }

    fn obey(&mut self, words: &[&str]) -> io::Result<String> {
        let number = |index: usize| words[index].parse::<i64>().unwrap();
        // SAFETY: each call gets C strings and buffers of ours that outlive it, and descriptors that are open.
        unsafe {
            match words[0] {
                "echo" => return Ok(words[1..].join(" ")),
                // open NAME FLAGS PATH
                "open" => {
                    let fd = check(libc::open(path(words[3]).as_ptr(), number(2) as i32, 0o644))?;
                    self.files.insert(words[1].into(), OwnedFd::from_raw_fd(fd));
                }
                "close" => drop(self.files.remove(words[1]).expect("not open")),
                // read NAME OFFSET LENGTH
                "read" => {
                    let mut buffer = vec![0_u8; number(3) as usize];
                    let fd = self.fd(words[1]);
                    let got = libc::pread(fd, buffer.as_mut_ptr().cast(), buffer.len(), number(2));
                    buffer.truncate(check(got as i32)? as usize);
                    return Ok(String::from_utf8_lossy(&buffer).into_owned());
                }
                // write NAME OFFSET TEXT
                "write" => {
                    let fd = self.fd(words[1]);
                    let text = words[3].as_bytes();
                    let put = libc::pwrite(fd, text.as_ptr().cast(), text.len(), number(2));
                    return Ok(check(put as i32)?.to_string());
                }
                // stat NAME, where NAME is an open file or a path: inode, size, links
                "stat" => {
                    let mut stat: libc::stat = std::mem::zeroed();
                    check(match self.files.get(words[1]) {
                        Some(file) => libc::fstat(file.as_raw_fd(), &raw mut stat),
                        None => libc::lstat(path(words[1]).as_ptr(), &raw mut stat),
                    })?;
                    return Ok(format!("{} {} {}", stat.st_ino, stat.st_size, stat.st_nlink));
                }
                // map NAME LENGTH: shared, to be written
                "map" => {
                    let length = number(2) as usize;
                    let address = libc::mmap(
                        std::ptr::null_mut(),
                        length,
                        libc::PROT_READ | libc::PROT_WRITE,
                        libc::MAP_SHARED,
                        self.fd(words[1]),
                        0,
                    );
                    if address == libc::MAP_FAILED {
                        return Err(io::Error::last_os_error());
                    }
                    self.maps.insert(words[1].into(), Map { address: address.cast(), length });
                }
                "unmap" => drop(self.maps.remove(words[1]).expect("not mapped")),
                // peek NAME OFFSET LENGTH
                "peek" => {
                    let map = &self.maps[words[1]];
                    let (offset, length) = (number(2) as usize, number(3) as usize);
                    assert!(offset + length <= map.length);
                    let mut bytes = vec![0_u8; length];
                    map.address.add(offset).copy_to(bytes.as_mut_ptr(), length);
                    return Ok(String::from_utf8_lossy(&bytes).into_owned());
                }
                // poke NAME OFFSET TEXT
                "poke" => {
                    let map = &self.maps[words[1]];
                    let (offset, text) = (number(2) as usize, words[3].as_bytes());
                    assert!(offset + text.len() <= map.length);
                    map.address.add(offset).copy_from(text.as_ptr(), text.len());
                }
                // flock NAME OPERATION, which never waits
                "flock" => {
                    check(libc::flock(self.fd(words[1]), number(2) as i32 | libc::LOCK_NB))?;
                }
                // lock NAME TYPE START LENGTH: fcntl's, which never waits
                "lock" => {
                    let mut lock: libc::flock = std::mem::zeroed();
                    lock.l_type = number(2) as i16;
                    lock.l_whence = libc::SEEK_SET as i16;
                    (lock.l_start, lock.l_len) = (number(3), number(4));
                    check(libc::fcntl(self.fd(words[1]), libc::F_SETLK, &raw mut lock))?;
                }
                "chdir" => drop(check(libc::chdir(path(words[1]).as_ptr()))?),
                "cwd" => return Ok(std::env::current_dir()?.display().to_string()),
                "list" => {
                    let mut names: Vec<String> = std::fs::read_dir(words[1])?
                        .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
                        .collect::<io::Result<_>>()?;
                    names.sort();
                    return Ok(names.join(" "));
                }
                other => return Err(io::Error::other(format!("no command {other}"))),
            }
        }
        Ok(String::new())
    }
}
