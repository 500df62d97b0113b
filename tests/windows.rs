//! What was reported from Windows, with real processes on the engine as a daemon has it: several programs persist
//! temporaries over one name while others hold it open, several build into one directory, and one has open what is
//! pruned.
//!
//! A daemon shows the engine by WinFsp, which is not here: each program is a process of its own that asks for what
//! it wants over its pipes, and a thread here does that for it as an adapter would, in its name. So which process sees
//! what, and when it ends, is found as in a daemon.
#![cfg(windows)]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cachefs::cache::{Access, Cache, CacheOptions, Keep, PruneOptions};
use cachefs::readers::{Grouping, ReaderOptions, Readers, Windows};
use cachefs::store::Store;
use cachefs_mount::{
    Caller, Errno, HandleId, Kind, Lookup, Name, NodeId, Notify, OpenFlags, RenameFlags, Result,
    Volume,
};

/// How often each program does what it does.
const ROUNDS: usize = 40;

/// What programs are told by who starts them.
const PROGRAM: &str = "CACHEFS_TEST_PROGRAM";

struct Deaf;

impl Notify for Deaf {
    fn expire(&self, _: NodeId, _: &OsStr) -> std::io::Result<()> {
        Ok(())
    }

    fn changed(&self, _: NodeId) -> std::io::Result<()> {
        Ok(())
    }

    fn device(&self) -> (u32, u32) {
        (0, 0)
    }
}

/// A store, and the engine on it, which is dropped first: what is open can't be removed everywhere.
fn daemon() -> (tempfile::TempDir, Arc<Cache>) {
    let folder = tempfile::tempdir().unwrap();
    let options = ReaderOptions { grouping: Grouping::Tree, idle: Duration::from_secs(5) };
    let readers = Arc::new(Readers::new(Arc::new(Windows::new()), options));
    let options = CacheOptions {
        access: Access::Shared { owner: (0, 0) },
        quotas: Default::default(),
        descriptors: 64,
        keep: Keep::default(),
        pruning: PruneOptions::default(),
    };
    let store = Arc::new(Store::open(folder.path()).unwrap());
    let cache = Cache::new(store, options, readers).unwrap();
    cache.mounted(Arc::new(Deaf));
    (folder, cache)
}

/// One program's view, as an adapter has it.
struct Session {
    cache: Arc<Cache>,
    caller: Caller,
    held: Option<HandleId>,
}

fn name(text: &str) -> Name<'_> {
    Name::new(OsStr::new(text)).unwrap()
}

impl Session {
    fn look(&self, path: &str) -> Result<NodeId> {
        let mut node = NodeId::ROOT;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            match self.cache.lookup(&self.caller, node, name(part))? {
                Lookup::Found(entry) => node = entry.attributes.node,
                Lookup::Absent { .. } => return Err(Errno::ENOENT),
            }
        }
        Ok(node)
    }

    fn split<'p>(&self, path: &'p str) -> Result<(NodeId, &'p str)> {
        let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.look(above)?, last))
    }

    /// An operation that may have to be looked up again, as adapters do.
    fn again<T>(&self, act: impl Fn() -> Result<T>) -> Result<T> {
        match act() {
            Err(Errno::ESTALE) => act(),
            done => done,
        }
    }

    fn put(&self, path: &str, text: &str) -> Result<()> {
        let (parent, last) = self.split(path)?;
        let flags = OpenFlags::WRITE | OpenFlags::EXCLUSIVE;
        let (_, opened) =
            self.again(|| self.cache.create(&self.caller, parent, name(last), 0o644, flags))?;
        let written = self.cache.write(opened.handle, 0, text.as_bytes());
        let flushed = self.cache.flush(&self.caller, opened.handle);
        self.cache.release(opened.handle);
        written.and(flushed.map(|()| 0)).map(drop)
    }

    fn hold(&mut self, path: &str) -> Result<()> {
        let opened = self.again(|| {
            let node = self.look(path)?;
            self.cache.open(&self.caller, node, OpenFlags::READ)
        })?;
        if let Some(old) = self.held.replace(opened.handle) {
            self.cache.release(old);
        }
        Ok(())
    }

    fn read(&self) -> Result<String> {
        let mut buffer = vec![0; 1 << 16];
        let length = self.cache.read(self.held.ok_or(Errno::EBADF)?, 0, &mut buffer)?;
        Ok(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.again(|| {
            let ((from, old), (to, new)) = (self.split(from)?, self.split(to)?);
            let flags = RenameFlags::empty();
            self.cache.rename(&self.caller, from, name(old), to, name(new), flags)
        })
    }

    fn answer(&mut self, request: &[&str]) -> Result<String> {
        match request {
            ["put", path, text] => self.put(path, text).map(|()| String::new()),
            ["hold", path] => self.hold(path).map(|()| String::new()),
            ["read"] => self.read(),
            ["rename", from, to] => self.rename(from, to).map(|()| String::new()),
            ["mkdir", path] => {
                let (parent, last) = self.split(path)?;
                match self.cache.make_directory(&self.caller, parent, name(last), 0o755) {
                    Ok(_) | Err(Errno::EEXIST) => Ok(String::new()),
                    Err(errno) => Err(errno),
                }
            }
            ["remove", path] => self
                .again(|| {
                    let (parent, last) = self.split(path)?;
                    self.cache.remove_file(&self.caller, parent, name(last))
                })
                .map(|()| String::new()),
            ["kind", path] => {
                let node = self.look(path)?;
                let found = self.cache.attributes(&self.caller, node, None)?.0;
                Ok(if found.kind == Kind::Directory { "directory" } else { "file" }.into())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Does what the program asks for until it ends; what went wrong, and what it said at last.
    fn serve(mut self, mut child: Child) -> (Vec<String>, String) {
        let mut requests = BufReader::new(child.stdout.take().unwrap());
        let mut answers = child.stdin.take().unwrap();
        let (mut failures, mut last) = (Vec::new(), String::new());
        let mut line = String::new();
        while requests.read_line(&mut line).unwrap() > 0 {
            // Other lines are the test harness's.
            if let Some(request) = line.trim_end().split_once("ask\t").map(|(_, asked)| asked) {
                let words: Vec<&str> = request.split('\t').collect();
                let answered = self.answer(&words);
                match &answered {
                    Ok(text) => writeln!(answers, "ok\t{text}").unwrap(),
                    Err(errno) => {
                        failures.push(format!("{request}: {errno}"));
                        writeln!(answers, "no\t{errno}").unwrap();
                    }
                }
            } else if let Some((_, said)) = line.trim_end().split_once("say\t") {
                last = said.to_owned();
            }
            line.clear();
        }
        if let Some(held) = self.held.take() {
            self.cache.release(held);
        }
        let status = child.wait().unwrap();
        if !status.success() {
            failures.push(format!("{status}"));
        }
        (failures, last)
    }
}

/// Starts a program, and a thread that does what it asks for.
fn start(cache: &Arc<Cache>, program: &str) -> std::thread::JoinHandle<(Vec<String>, String)> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_of_this_program_asks", "--nocapture"])
        .env(PROGRAM, program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let caller = Caller { uid: 0, gid: 0, thread: child.id() };
    let session = Session { cache: cache.clone(), caller, held: None };
    std::thread::spawn(move || session.serve(child))
}

/// In a program: asks, and waits for the answer.
fn ask(request: &[&str]) -> std::result::Result<String, String> {
    let mut out = std::io::stdout();
    writeln!(out, "ask\t{}", request.join("\t")).unwrap();
    out.flush().unwrap();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let (how, text) = line.trim_end_matches(['\r', '\n']).split_once('\t').unwrap();
    if how == "ok" { Ok(text.to_owned()) } else { Err(text.to_owned()) }
}

#[test]
fn a_process_of_this_program_asks() {
    let Ok(program) = std::env::var(PROGRAM) else { return };
    let me = std::process::id();
    match &*program {
        "persist" => {
            for round in 0..ROUNDS {
                let temporary = format!("tmp-{me}-{round}");
                let text = format!("{me} {round} ").repeat(500);
                let _ = ask(&["put", &temporary, &text]);
                let _ = ask(&["rename", &temporary, "index"]);
            }
        }
        "hold" => {
            for _ in 0..ROUNDS {
                let _ = ask(&["hold", "index"]);
                let (first, second) = (ask(&["read"]), ask(&["read"]));
                let first = first.unwrap();
                assert_eq!(Ok(&first), second.as_ref(), "it changed under who holds it");
                // Whole, and of one writer.
                let mut words = first.split_whitespace();
                let start = (words.next(), words.next());
                let whole = first.split_whitespace().count() == 1000;
                let one = first.split_whitespace().step_by(2).all(|word| Some(word) == start.0);
                assert!(first == "first" || whole && one, "torn: {first}");
            }
        }
        "build" => {
            for round in 0..ROUNDS {
                let _ = ask(&["mkdir", "target"]);
                let folder = format!("target/{round}");
                let _ = ask(&["mkdir", &folder]);
                let temporary = format!("{folder}/tmp-{me}");
                let _ = ask(&["put", &temporary, "built"]);
                let _ = ask(&["rename", &temporary, &format!("{folder}/object")]);
                let _ = ask(&["hold", &format!("{folder}/object")]);
                assert_eq!(ask(&["read"]).as_deref(), Ok("built"));
                let own = format!("{folder}/own-{me}");
                let _ = ask(&["put", &own, "mine"]);
                let _ = ask(&["remove", &own]);
            }
        }
        "read" => {
            let _ = ask(&["hold", "wheel"]);
            println!("say\t{}", ask(&["read"]).unwrap());
            // Until the other has gone on.
            while ask(&["kind", "pruned"]).is_err() {
                std::thread::sleep(Duration::from_millis(20));
            }
            println!("say\t{}", ask(&["read"]).unwrap());
        }
        other => panic!("{other}"),
    }
}

fn all_of(started: Vec<std::thread::JoinHandle<(Vec<String>, String)>>) -> Vec<String> {
    started.into_iter().flat_map(|thread| thread.join().unwrap().0).collect()
}

#[test]
fn temporaries_are_persisted_over_a_name_that_others_hold_open() {
    let (folder, cache) = daemon();
    fs::write(folder.path().join("index"), "first").unwrap();
    let programs = ["persist", "hold", "persist", "hold", "persist"];
    let failures = all_of(programs.iter().map(|program| start(&cache, program)).collect());
    assert!(failures.is_empty(), "{} failures: {failures:#?}", failures.len());
    let live = fs::read_to_string(folder.path().join("index")).unwrap();
    assert!(live.contains(&format!(" {} ", ROUNDS - 1)), "{live}");
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 2, "besides the index and the store's own folder");
}

/// What the test above would meet on a plain directory: `MoveFileEx`, as programs call it, refuses (os error 5).
#[test]
fn a_plain_directory_refuses_that() {
    use std::os::windows::ffi::OsStrExt as _;
    use windows_sys::Win32::Storage::FileSystem::{MOVEFILE_REPLACE_EXISTING, MoveFileExW};
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("temporary"), folder.path().join("index"));
    fs::write(&from, "new").unwrap();
    fs::write(&to, "old").unwrap();
    let held = fs::File::open(&to).unwrap();
    let wide = |path: &Path| path.as_os_str().encode_wide().chain([0]).collect::<Vec<u16>>();
    let (from, to) = (wide(&from), wide(&to));
    // SAFETY: both end with 0.
    let moved = unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), MOVEFILE_REPLACE_EXISTING) };
    let error = std::io::Error::last_os_error();
    assert_eq!((moved, error.raw_os_error()), (0, Some(5)), "{error}");
    drop(held);
}

#[test]
fn several_build_into_one_directory() {
    let (folder, cache) = daemon();
    let failures = all_of((0..4).map(|_| start(&cache, "build")).collect());
    assert!(failures.is_empty(), "{} failures: {failures:#?}", failures.len());
    for round in 0..ROUNDS {
        let below = folder.path().join("target").join(round.to_string());
        let names: Vec<_> = fs::read_dir(&below).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["object"], "{round}");
    }
}

#[test]
fn what_is_pruned_stays_for_who_has_it_open() {
    let (folder, cache) = daemon();
    fs::write(folder.path().join("wheel"), "its bytes").unwrap();
    let reader = start(&cache, "read");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while cache.counts().handles == 0 {
        assert!(std::time::Instant::now() < deadline, "nobody has opened it");
        std::thread::sleep(Duration::from_millis(10));
    }
    cache.clean(&["wheel".into()], 0).unwrap();
    assert!(!folder.path().join("wheel").exists());
    fs::create_dir(folder.path().join("pruned")).unwrap();
    let (failures, last) = reader.join().unwrap();
    assert_eq!(last, "its bytes");
    // It asked for what was not there yet.
    assert!(failures.iter().all(|failure| failure.starts_with("kind\tpruned")), "{failures:#?}");
}
