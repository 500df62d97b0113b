//! One file, open in every way at once: its contents are right whichever way the bytes go.
//!
//! The kernel answers EIO where opens of one node that go different ways are mixed, and knows nothing of what
//! went around its page cache. A model in memory says what every read has to find.

mod common;
mod conformance;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use conformance::{Agent, Random, everywhere, serve};

const PAGE: usize = 4096;
const LIMIT: usize = 24 * PAGE;

#[test]
fn a_process_of_this_program_answers() {
    serve(&|words| Err(format!("no job {words:?}")));
}

/// Memory at an address that `O_DIRECT` takes.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(length: usize) -> Self {
        let memory = vec![0; length + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        Self(memory, start)
    }

    fn get(&mut self, length: usize) -> &mut [u8] {
        &mut self.0[self.1..self.1 + length]
    }
}

struct Map {
    address: *mut u8,
    length: usize,
    writable: bool,
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of that length, and nobody uses it any more.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

/// An open file, and how it was opened.
struct Opened {
    file: File,
    flags: i32,
}

impl Opened {
    fn reads(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_WRONLY
    }

    fn writes(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    fn direct(&self) -> bool {
        self.flags & libc::O_DIRECT != 0
    }
}

/// The file, its model, and whatever is open.
struct Model {
    path: PathBuf,
    contents: Vec<u8>,
    files: Vec<Opened>,
    maps: Vec<Map>,
    random: Random,
    history: Vec<String>,
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a C string that outlives the call; the descriptor is nobody else's.
    unsafe {
        let fd = libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o644);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd).into()) }
    }
}

impl Model {
    fn new(path: PathBuf, seed: u64) -> Self {
        fs::write(&path, b"").unwrap();
        // With a second name it stays one file, also when it is opened to be replaced.
        fs::hard_link(&path, path.with_extension("link")).unwrap();
        Self {
            path,
            contents: Vec::new(),
            files: Vec::new(),
            maps: Vec::new(),
            random: Random::new(seed),
            history: Vec::new(),
        }
    }

    fn note(&mut self, text: String) {
        self.history.push(text);
    }

    /// Compares bytes that were read at an offset.
    #[track_caller]
    fn compare(&self, what: &str, offset: usize, got: &[u8], asked: usize) {
        let end = self.contents.len().min(offset + asked);
        let expected = self.contents.get(offset..end).unwrap_or_default();
        if got != expected {
            let first = got.iter().zip(expected).position(|(a, b)| a != b);
            self.fail(&format!(
                "{what} of {asked} at {offset}: got {} bytes, expected {}; first difference at {:?}",
                got.len(),
                expected.len(),
                first.map(|index| index + offset)
            ));
        }
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        let from = self.history.len().saturating_sub(40);
        panic!(
            "step {}: {what}\nbefore it:\n{}",
            self.history.len(),
            self.history[from..].join("\n")
        );
    }

    #[track_caller]
    fn worked<T>(&self, what: &str, result: io::Result<T>) -> T {
        result.unwrap_or_else(|error| self.fail(&format!("{what}: {error}")))
    }

    fn pick(&mut self, which: impl Fn(&Opened) -> bool) -> Option<usize> {
        let fit: Vec<usize> =
            (0..self.files.len()).filter(|&index| which(&self.files[index])).collect();
        (!fit.is_empty()).then(|| fit[self.random.below(fit.len())])
    }

    fn put(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if self.contents.len() < end {
            self.contents.resize(end, 0);
        }
        self.contents[offset..end].copy_from_slice(data);
    }

    fn step(&mut self) {
        let choice = self.random.below(100);
        match choice {
            0..14 => self.open(),
            14..22 => {
                if let Some(index) = self.pick(|_| true) {
                    self.note(format!("close #{index}"));
                    self.files.swap_remove(index);
                }
            }
            // All at once, so that the way of the bytes is chosen anew.
            22..24 => {
                self.note("close and unmap all".into());
                self.files.clear();
                self.maps.clear();
            }
            24..44 => self.read(),
            44..62 => self.write(),
            62..68 => self.map(),
            68..71 => {
                if !self.maps.is_empty() {
                    let index = self.random.below(self.maps.len());
                    self.note(format!("unmap #{index}"));
                    self.maps.swap_remove(index);
                }
            }
            71..80 => self.peek(),
            80..86 => self.poke(),
            86..90 => self.resize(),
            90..92 => self.punch(),
            92..94 => {
                if let Some(index) = self.pick(Opened::writes) {
                    self.note(format!("fsync #{index}"));
                    self.worked("fsync", self.files[index].file.sync_all());
                }
            }
            94..96 => {
                let metadata = self.worked("stat", fs::metadata(&self.path));
                if metadata.size() != self.contents.len() as u64 {
                    self.fail(&format!(
                        "stat says {} bytes, expected {}",
                        metadata.size(),
                        self.contents.len()
                    ));
                }
            }
            96..98 => {
                let got = self.worked("reading all", fs::read(&self.path));
                self.note("read all by path".into());
                self.compare("reading all", 0, &got, usize::MAX >> 1);
            }
            // The writing of one who has no business with the others.
            98..99 => {
                let length = self.random.below(LIMIT);
                let data = self.random.bytes(length);
                self.note(format!("replace all by {length} bytes"));
                self.worked("replacing all", fs::write(&self.path, &data));
                self.contents = data;
            }
            _ => {
                let to = self.path.with_extension(if self.path.extension().is_some() {
                    ""
                } else {
                    "x"
                });
                self.note("rename".into());
                self.worked("rename", fs::rename(&self.path, &to));
                self.path = to;
            }
        }
    }

    fn open(&mut self) {
        if self.files.len() >= 6 {
            return;
        }
        let access = [libc::O_RDONLY, libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY];
        let mut flags = access[self.random.below(access.len())];
        let writes = flags != libc::O_RDONLY;
        match self.random.below(10) {
            0 => flags |= libc::O_DIRECT,
            1 if writes => flags |= libc::O_APPEND,
            2 if writes => flags |= libc::O_TRUNC,
            3 if writes => flags |= libc::O_DSYNC,
            4 => flags |= libc::O_CREAT,
            _ => {}
        }
        self.note(format!("open #{} flags {flags:#o}", self.files.len()));
        let file = self.worked("open", open(&self.path, flags));
        if flags & libc::O_TRUNC != 0 {
            self.contents.clear();
        }
        self.files.push(Opened { file, flags });
    }

    fn read(&mut self) {
        let Some(index) = self.pick(Opened::reads) else { return };
        let mut offset = self.random.below(LIMIT + PAGE);
        let mut length = 1 + self.random.below(3 * PAGE);
        if self.files[index].direct() {
            offset -= offset % PAGE;
            length = length.next_multiple_of(PAGE);
        }
        self.note(format!("read #{index} {length} at {offset}"));
        let mut memory = Aligned::new(length);
        let buffer = memory.get(length);
        let got = self.files[index].file.read_at(buffer, offset as u64);
        let got = self.worked("read", got);
        self.compare("read", offset, &buffer[..got], length);
    }

    fn write(&mut self) {
        let Some(index) = self.pick(Opened::writes) else { return };
        let appends = self.files[index].flags & libc::O_APPEND != 0;
        let mut offset = if appends { self.contents.len() } else { self.random.below(LIMIT) };
        let mut length = 1 + self.random.below(3 * PAGE);
        if self.files[index].direct() {
            offset -= offset % PAGE;
            length = length.next_multiple_of(PAGE);
        }
        if offset + length > LIMIT + 4 * PAGE {
            return;
        }
        let data = self.random.bytes(length);
        let mut memory = Aligned::new(length);
        memory.get(length).copy_from_slice(&data);
        self.note(format!("write #{index} {length} at {offset}"));
        let put = self.files[index].file.write_at(memory.get(length), offset as u64);
        let put = self.worked("write", put);
        if put != length {
            self.fail(&format!("wrote {put} bytes of {length}"));
        }
        self.put(offset, &data);
    }

    fn map(&mut self) {
        if self.maps.len() >= 4 || self.contents.is_empty() {
            return;
        }
        let writable = self.random.below(2) == 0;
        let fits = |opened: &Opened| opened.reads() && (opened.writes() || !writable);
        let Some(index) = self.pick(fits) else { return };
        let length = self.contents.len();
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        self.note(format!("map #{index} {length} bytes, writable: {writable}"));
        let fd = self.files[index].file.as_raw_fd();
        // SAFETY: a new mapping, of an open file.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, 0)
        };
        if address == libc::MAP_FAILED {
            self.fail(&format!("mmap: {}", io::Error::last_os_error()));
        }
        self.maps.push(Map { address: address.cast(), length, writable });
    }

    /// A range of a mapping that the file still has: beyond its end there is SIGBUS.
    fn mapped(&mut self, which: impl Fn(&Map) -> bool) -> Option<(usize, usize, usize)> {
        let size = self.contents.len();
        let fit: Vec<usize> = (0..self.maps.len())
            .filter(|&index| which(&self.maps[index]) && self.maps[index].length.min(size) > 0)
            .collect();
        let index = *fit.get(self.random.below(fit.len().max(1)))?;
        let limit = self.maps[index].length.min(size);
        let offset = self.random.below(limit);
        let length = 1 + self.random.below((limit - offset).min(2 * PAGE));
        Some((index, offset, length))
    }

    fn peek(&mut self) {
        let Some((index, offset, length)) = self.mapped(|_| true) else { return };
        self.note(format!("peek #{index} {length} at {offset}"));
        let mut got = vec![0; length];
        // SAFETY: the range is inside the mapping and inside the file.
        unsafe { self.maps[index].address.add(offset).copy_to(got.as_mut_ptr(), length) };
        self.compare("peek", offset, &got, length);
    }

    fn poke(&mut self) {
        let Some((index, offset, length)) = self.mapped(|map| map.writable) else { return };
        self.note(format!("poke #{index} {length} at {offset}"));
        let data = self.random.bytes(length);
        // SAFETY: as above, and the mapping is writable.
        unsafe { self.maps[index].address.add(offset).copy_from(data.as_ptr(), length) };
        self.put(offset, &data);
    }

    fn resize(&mut self) {
        let length = self.random.below(LIMIT);
        if let Some(index) = self.pick(Opened::writes) {
            self.note(format!("ftruncate #{index} to {length}"));
            self.worked("ftruncate", self.files[index].file.set_len(length as u64));
        } else {
            self.note(format!("truncate to {length}"));
            let file = self.worked("open", open(&self.path, libc::O_WRONLY));
            self.worked("ftruncate", file.set_len(length as u64));
        }
        self.contents.resize(length, 0);
    }

    fn punch(&mut self) {
        let Some(index) = self.pick(Opened::writes) else { return };
        let offset = self.random.below(LIMIT);
        let length = 1 + self.random.below(3 * PAGE);
        self.note(format!("punch #{index} {length} at {offset}"));
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let fd = self.files[index].file.as_raw_fd();
        // SAFETY: an open descriptor and numbers.
        if unsafe { libc::fallocate(fd, mode, offset as i64, length as i64) } != 0 {
            self.fail(&format!("punching a hole: {}", io::Error::last_os_error()));
        }
        let end = self.contents.len().min(offset + length);
        if offset < end {
            self.contents[offset..end].fill(0);
        }
    }
}

#[test]
fn whatever_is_open_at_once_every_read_finds_what_was_written_last() {
    everywhere(|place| {
        for seed in 0..12 {
            let mut model = Model::new(place.at(format!("file{seed}")), seed);
            for _ in 0..3000 {
                model.step();
            }
            model.files.clear();
            model.maps.clear();
            let got = fs::read(&model.path).unwrap();
            model.compare("at the end", 0, &got, usize::MAX >> 1);
            if let Some(mount) = place.mount() {
                let in_store = mount.store().join(model.path.file_name().unwrap());
                let got = fs::read(in_store).unwrap();
                model.compare("in the store", 0, &got, usize::MAX >> 1);
            }
        }
    });
}

/// Each order of two or three opens, by two processes, with a mapping wherever there can be one.
#[test]
fn every_order_of_opens_by_two_processes_works() {
    let ways = [
        ("read", libc::O_RDONLY),
        ("write", libc::O_WRONLY),
        ("both", libc::O_RDWR),
        ("append", libc::O_WRONLY | libc::O_APPEND),
        ("direct", libc::O_RDWR | libc::O_DIRECT),
    ];
    everywhere(|place| {
        let mut agents = [Agent::new(), Agent::new()];
        let mut number = 0;
        for first in &ways {
            for second in &ways {
                for third in &ways {
                    number += 1;
                    let path = place.at(format!("o{number}"));
                    let context = format!("{}, {}, {}", first.0, second.0, third.0);
                    let mut text = vec![b'.'; 2 * PAGE];
                    fs::write(&path, &text).unwrap();
                    for (index, way) in [first, second, third].into_iter().enumerate() {
                        let agent = &mut agents[index % 2];
                        let name = format!("f{index}");
                        agent.does(format!("open {name} {} {}", way.1, path.display()));
                        let access = way.1 & libc::O_ACCMODE;
                        if access == libc::O_RDWR {
                            agent.does(format!("map {name} {}", 2 * PAGE));
                            agent.does(format!("poke {name} {} MAP{index}", 100 * index));
                            text[100 * index..][..4]
                                .copy_from_slice(format!("MAP{index}").as_bytes());
                        }
                        if access != libc::O_RDONLY && way.1 & libc::O_DIRECT == 0 {
                            let offset = if way.1 & libc::O_APPEND == 0 {
                                PAGE + 10 * index
                            } else {
                                text.len()
                            };
                            agent.does(format!("write {name} {offset} PUT{index}"));
                            text.resize(text.len().max(offset + 4), b'?');
                            text[offset..][..4].copy_from_slice(format!("PUT{index}").as_bytes());
                        }
                        // Everyone who can read sees all of it, at once.
                        let expected = String::from_utf8(text.clone()).unwrap();
                        for (reader, way) in
                            [first, second, third].into_iter().enumerate().take(index + 1)
                        {
                            let name = format!("f{reader}");
                            let agent = &mut agents[reader % 2];
                            if way.1 & libc::O_ACCMODE == libc::O_RDWR {
                                let got = agent.does(format!("peek {name} 0 {}", 2 * PAGE));
                                assert!(
                                    got == expected[..2 * PAGE],
                                    "mapping {reader} of {context}"
                                );
                            }
                            if way.1 == libc::O_RDONLY || way.1 == libc::O_RDWR {
                                let got = agent.does(format!("read {name} 0 {}", 4 * PAGE));
                                assert!(got == expected, "reading {reader} of {context}");
                            }
                        }
                        let by_path = fs::read_to_string(&path).unwrap();
                        assert!(by_path == expected, "by path after {index} of {context}");
                    }
                    for (index, way) in [first, second, third].into_iter().enumerate() {
                        if way.1 & libc::O_ACCMODE == libc::O_RDWR {
                            agents[index % 2].does(format!("unmap f{index}"));
                        }
                        agents[index % 2].does(format!("close f{index}"));
                    }
                    assert!(fs::read(&path).unwrap() == text, "at the end of {context}");
                }
            }
        }
    });
}

/// A file that is open keeps its contents when its name goes, moves, or comes to stand for another.
#[test]
fn a_file_that_is_open_outlives_its_name() {
    everywhere(|place| {
        let mut number = 0;
        for flags in [libc::O_RDONLY, libc::O_RDWR] {
            for change in ["unlink", "rename", "replace", "exchange"] {
                number += 1;
                let (path, other) =
                    (place.at(format!("n{number}")), place.at(format!("m{number}")));
                fs::write(&path, "the first file").unwrap();
                fs::write(&other, "the second one").unwrap();
                let held = open(&path, flags).unwrap();
                let inode = held.metadata().unwrap().ino();
                // The second is open as well, so that both go their ways when they change places.
                let second = open(&other, flags).unwrap();
                match change {
                    "unlink" => fs::remove_file(&path).unwrap(),
                    "rename" => fs::rename(&path, place.at(format!("z{number}"))).unwrap(),
                    "replace" => fs::rename(&other, &path).unwrap(),
                    _ => rustix::fs::renameat_with(
                        rustix::fs::CWD,
                        &path,
                        rustix::fs::CWD,
                        &other,
                        rustix::fs::RenameFlags::EXCHANGE,
                    )
                    .unwrap(),
                }
                let read = |file: &File| {
                    let mut buffer = [0; 64];
                    let got = file.read_at(&mut buffer, 0).unwrap();
                    String::from_utf8_lossy(&buffer[..got]).into_owned()
                };
                assert_eq!(read(&held), "the first file", "{change}");
                assert_eq!(read(&second), "the second one", "{change}");
                let metadata = held.metadata().unwrap();
                let links = u64::from(change == "rename" || change == "exchange");
                assert_eq!((metadata.ino(), metadata.nlink()), (inode, links), "{change}");
                if flags == libc::O_RDWR {
                    held.write_at(b"THE", 0).unwrap();
                    held.set_len(9).unwrap();
                    assert_eq!(read(&held), "THE first", "{change}");
                    assert_eq!(held.metadata().unwrap().size(), 9, "{change}");
                }
                match change {
                    "unlink" | "rename" => {
                        assert_eq!(
                            fs::read(&path).unwrap_err().kind(),
                            io::ErrorKind::NotFound,
                            "{change}"
                        );
                        // A new file of that name is another file.
                        fs::write(&path, "a third").unwrap();
                        assert_eq!(fs::read_to_string(&path).unwrap(), "a third");
                        assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
                    }
                    _ => {
                        assert_eq!(fs::read_to_string(&path).unwrap(), "the second one", "{change}")
                    }
                }
            }
        }
    });
}
