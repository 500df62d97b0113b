//! Programs run in a real mount, with a process for each job.
//!
//! The test itself never opens a file of the mount: it would be a reader too.

use std::cell::RefCell;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::Mount;
use crate::conformance::{self, Agent};
use crate::engine::on_disk;
use crate::program::{Act, DOOR, How, JOBS, NAMES, Outcome, Seen, View, World};

/// A mount in which one program after the other has a directory.
pub(crate) struct Ground {
    mount: Mount,
    programs: usize,
}

impl Ground {
    pub(crate) fn new() -> Ground {
        let limit = std::env::var_os("CACHEFS_SOAK").map_or(600, |_| 24 * 3600);
        Ground { mount: Mount::builder().watchdog(Duration::from_secs(limit)).mount(), programs: 0 }
    }
}

pub(crate) struct Mounted<'a> {
    ground: &'a Ground,
    name: String,
    agents: [Option<Agent>; JOBS],
}

impl<'a> Mounted<'a> {
    pub(crate) fn new(ground: &'a mut Ground) -> Mounted<'a> {
        ground.programs += 1;
        let name = format!("program{}", ground.programs);
        let mut mounted = Mounted { ground, name, agents: Default::default() };
        let mut first = Agent::new();
        first.does(format!("job prepare {}", mounted.root().display()));
        first.end();
        mounted.agents = Default::default();
        mounted
    }

    fn root(&self) -> PathBuf {
        self.ground.mount.path().join(&self.name)
    }

    /// What an agent answers, which starts with `+`, or is the number of an error.
    fn ask(&mut self, place: usize, command: &str) -> Outcome {
        let root = self.root();
        let agent = self.agents[place].get_or_insert_with(Agent::new);
        let answer = agent.does(format!("job {command} {}", root.display()));
        match answer.strip_prefix('+') {
            Some(text) => Ok(text.to_owned()),
            None => Err(answer.parse().unwrap()),
        }
    }
}

impl World for Mounted<'_> {
    fn act(&mut self, place: usize, act: Act, text: &str) -> Outcome {
        match act {
            Act::End => self.agents[place].take().unwrap_or_else(Agent::new).end(),
            Act::Kill => self.agents[place].take().unwrap_or_else(Agent::new).kill(),
            Act::Begin => return self.ask(place, "begin"),
            Act::Open(path, how) => return self.ask(place, &format!("open {how:?} {path}")),
            Act::Write(which) => return self.ask(place, &format!("write {which} {text}")),
            Act::Read(which) => return self.ask(place, &format!("read {which}")),
            Act::Close(which) => return self.ask(place, &format!("close {which}")),
            Act::Unlink(path) => return self.ask(place, &format!("unlink {path}")),
            Act::Mkdir(path) => return self.ask(place, &format!("mkdir {path}")),
            Act::Rmdir(path) => return self.ask(place, &format!("rmdir {path}")),
            Act::Rename(from, to) => return self.ask(place, &format!("rename {from} {to}")),
            Act::Link(from, to) => return self.ask(place, &format!("link {from} {to}")),
            Act::Symlink(path) => return self.ask(place, &format!("symlink {text} {path}")),
            Act::List(path) => return self.ask(place, &format!("list /{path}")),
        }
        Ok(String::new())
    }

    fn clean(&mut self, path: &str) -> Outcome {
        let mount = &self.ground.mount;
        let path = format!("{}/{path}", self.name);
        let done = mount.cachefs(["clean"]).arg(mount.path()).arg(&path).finish();
        if done.status.success() {
            return Ok(String::new());
        }
        assert!(done.stderr.contains("there is no"), "{done}");
        Err(libc::ENOENT)
    }

    fn view(&mut self, place: usize) -> View {
        let text = self.ask(place, "look").unwrap_or_else(|errno| format!("then {errno}=d"));
        let entry = |entry: &str| {
            let (path, seen) = entry.split_once('=').unwrap();
            let seen = match seen.split_at(1) {
                ("f", contents) => Seen::File(contents.into()),
                ("l", target) => Seen::Symlink(target.into()),
                _ => Seen::Directory,
            };
            (path.to_owned(), seen)
        };
        text.split_terminator('|').map(entry).collect()
    }

    fn live(&mut self) -> View {
        let mut view = View::new();
        on_disk(&self.ground.mount.store().join(&self.name), "", &mut view);
        view
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(500)
    }
}

/// What an agent does.
pub(crate) fn serve() {
    let files = RefCell::new(Vec::new());
    conformance::serve(&|words| {
        Ok(obey(&mut files.borrow_mut(), words).map_or_else(
            |error| error.raw_os_error().unwrap_or_else(|| panic!("{error}")).to_string(),
            |text| format!("+{text}"),
        ))
    });
}

struct Opened {
    file: File,
    how: How,
    at: u64,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn obey(files: &mut Vec<Opened>, words: &[&str]) -> io::Result<String> {
    let (root, words) = words.split_last().unwrap();
    let at = |word: usize| format!("{root}/{}", words[word].trim_start_matches('/'));
    let path = |word: usize| CString::new(at(word)).unwrap();
    let nothing = |()| String::new();
    match words[0] {
        "prepare" => {
            fs::create_dir(root)?;
            fs::write(format!("{root}/{DOOR}"), "").map(nothing)
        }
        "begin" => File::open(format!("{root}/{DOOR}")).map(|_| String::new()),
        "open" => {
            let (how, flags) = how(words[1]);
            let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
            // SAFETY: the path is a C string that outlives the call, and the descriptor is nobody else's.
            let file = unsafe {
                let descriptor = check(libc::open(path(2).as_ptr(), flags, 0o644))?;
                File::from(OwnedFd::from_raw_fd(descriptor))
            };
            if file.metadata()?.is_dir() {
                return Err(io::Error::from_raw_os_error(libc::EISDIR));
            }
            files.push(Opened { file, how, at: 0 });
            Ok(String::new())
        }
        "write" | "read" | "close" if files.is_empty() => Ok(String::new()),
        "write" | "read" | "close" => {
            let which = words[1].parse::<usize>().unwrap() % files.len();
            let opened = &mut files[which];
            match words[0] {
                "write" if opened.how.writes() => {
                    // With `O_APPEND` the offset is not looked at.
                    opened.file.write_all_at(words[2].as_bytes(), opened.at)?;
                    opened.at += words[2].len() as u64;
                }
                "read" if !opened.how.writes() => return contents(&opened.file),
                "close" => drop(files.remove(which)),
                _ => {}
            }
            Ok(String::new())
        }
        "unlink" => fs::remove_file(at(1)).map(nothing),
        "mkdir" => fs::create_dir(at(1)).map(nothing),
        "rmdir" => fs::remove_dir(at(1)).map(nothing),
        "rename" => fs::rename(at(1), at(2)).map(nothing),
        // The standard library would follow links.
        "link" => {
            // SAFETY: both paths are C strings that outlive the call.
            check(unsafe { libc::link(path(1).as_ptr(), path(2).as_ptr()) })?;
            Ok(String::new())
        }
        "symlink" => std::os::unix::fs::symlink(words[1], at(2)).map(nothing),
        "list" => {
            let mut names = Vec::new();
            for entry in fs::read_dir(at(1))? {
                names.push(entry?.file_name().into_string().unwrap());
            }
            names.retain(|name| NAMES.contains(&name.as_str()));
            names.sort();
            Ok(names.join(" "))
        }
        "look" => {
            let mut all = String::new();
            look(root, "", &mut all)?;
            Ok(all)
        }
        other => panic!("no command {other}"),
    }
}

fn how(word: &str) -> (How, libc::c_int) {
    use How::{Append, Create, New, Read, Shared, Truncate, Write};
    let created = libc::O_WRONLY | libc::O_CREAT;
    let all = [
        (New, created | libc::O_EXCL),
        (Create, created | libc::O_TRUNC),
        (Shared, created),
        (Truncate, libc::O_WRONLY | libc::O_TRUNC),
        (Write, libc::O_WRONLY),
        (Append, libc::O_WRONLY | libc::O_APPEND),
        (Read, libc::O_RDONLY),
    ];
    all.into_iter().find(|(how, _)| format!("{how:?}") == word).unwrap()
}

fn contents(file: &File) -> io::Result<String> {
    let mut buffer = [0; 4096];
    let length = file.read_at(&mut buffer, 0)?;
    Ok(String::from_utf8(buffer[..length].to_vec()).unwrap())
}

/// What there is, found by asking for every name.
fn look(directory: &str, above: &str, all: &mut String) -> io::Result<()> {
    for name in NAMES {
        let path = format!("{directory}/{name}");
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let inside = format!("{above}{name}");
        if metadata.is_dir() {
            all.push_str(&format!("{inside}=d|"));
            look(&path, &format!("{inside}/"), all)?;
        } else if metadata.is_symlink() {
            all.push_str(&format!("{inside}=l{}|", fs::read_link(&path)?.display()));
        } else {
            all.push_str(&format!("{inside}=f{}|", contents(&File::open(&path)?)?));
        }
    }
    Ok(())
}
