//! The backing directory, which exactly one daemon owns.
//!
//! A store is a plain directory with one more folder, [`PRIVATE`], in it. Everything that is not in
//! that folder is the live view as it is (SEMANTICS 1.1); everything in it is worthless after a
//! crash but for `format` (SEMANTICS 1.2):
//!
//! | name | what |
//! | --- | --- |
//! | `format` | the version of this layout |
//! | `lock` | held by the daemon, with its pid |
//! | `control.sock` | where the daemon answers |
//! | `staged/`, `retired/`, `spilled/` | versions that are not live |
//! | `swept/` | what a crash left, while it is being removed |
//!
//! What the store can't take lies in an [`Area`] outside. A store that can't have a folder of its own,
//! because nothing can be written there, is read only: its folders are in the area, too.

mod area;
mod elsewhere;
mod lock;
mod stages;
mod sweep;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::io;
use std::path::{Path, PathBuf};

pub use area::Area;
pub use elsewhere::find as find_elsewhere;
use lock::Lock;
#[cfg(unix)]
use unix as system;
#[cfg(unix)]
pub use unix::is_closed;
#[cfg(windows)]
use windows as system;

use crate::platform;
use crate::platform::fd::{AsFd, BorrowedFd, OwnedFd};
use crate::platform::fs::{AtFlags, CWD, Graves, Mode, OFlags};
use crate::platform::io::Errno;

/// The store's own folder, which no mount shows.
pub const PRIVATE: &str = ".cachefs";

/// The version of the layout below [`PRIVATE`] that this program writes.
pub const FORMAT: u32 = 1;

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StoreError {
    #[error(
        "can't create the store {}: there is no directory {}; create it first",
        path.display(), path.parent().unwrap_or(path).display()
    )]
    MissingParent { path: PathBuf },

    #[error("the store {} is not a directory; name a directory, or one to be created", .0.display())]
    NotADirectory(PathBuf),

    #[error(
        "not permitted to {what} in the store {}; run cachefs as the directory's owner or as root",
        path.display()
    )]
    NotPermitted { path: PathBuf, what: &'static str },

    #[error(
        "the store {} is on a read-only filesystem; remount it writable, or choose another directory",
        .0.display()
    )]
    ReadOnly(PathBuf),

    #[error(
        "the store {} is in use by another cachefs daemon{}; use that mount, or end it with `cachefs umount {}`",
        path.display(), Holder(*pid), path.display()
    )]
    InUse { path: PathBuf, pid: Option<u32> },

    #[error(
        "the store {} was written by a newer cachefs (format {found}, this one knows {FORMAT}); use the newer \
         program, or remove {}/{PRIVATE} while nothing is mounted (the cached files stay)",
        path.display(), path.display()
    )]
    Newer { path: PathBuf, found: u32 },

    #[error(
        "{}/{PRIVATE}{inside} is not what cachefs put there; move it out of the way (the cached files stay)",
        path.display()
    )]
    Foreign { path: PathBuf, inside: &'static str },

    #[error(
        "can't make a spill area{}: {source}; name a directory that can be written with `--spill`",
        path.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default()
    )]
    NoArea { path: Option<PathBuf>, source: io::Error },

    #[error("can't {what} in the store {}: {source}", path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
}

/// Shows the pid of a store's holder, where it is known.
struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

impl StoreError {
    fn new(path: &Path, what: &'static str, error: impl Into<io::Error>) -> StoreError {
        let (path, source) = (path.to_owned(), error.into());
        match Errno::from_io_error(&source) {
            Some(Errno::ACCESS | Errno::PERM) => StoreError::NotPermitted { path, what },
            Some(Errno::ROFS) => StoreError::ReadOnly(path),
            _ => StoreError::Io { path, what, source },
        }
    }

    /// Why nothing can be written there, if that is what it says.
    fn says_read_only(&self) -> Option<String> {
        match self {
            StoreError::ReadOnly(_) => Some("it is on a read-only filesystem".into()),
            StoreError::NotPermitted { what, .. } => Some(format!("not permitted to {what} there")),
            StoreError::Io { what, source, .. } => match Errno::from_io_error(source) {
                Some(Errno::NOSPC | Errno::DQUOT) => Some(format!("can't {what} there: {source}")),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What becomes of what a store can't take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Spilling {
    /// There is no spill area: whoever writes is told of the error.
    #[default]
    Off,
    /// It is put into an area in a directory for temporary files.
    Somewhere,
    /// It is put into an area in this directory.
    In(PathBuf),
}

/// How a store is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Nothing is to be written in the store, whether that is possible or not.
    pub read_only: bool,
    /// What becomes of what it can't take.
    pub spilling: Spilling,
    /// Users are to have something to themselves, for which there has to be an area in any case.
    pub users: bool,
}

/// Why nothing can be written in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOnly {
    /// For people.
    pub reason: String,
    /// Where its lock and its control socket are.
    elsewhere: PathBuf,
}

/// A backing directory that this process owns.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    root: OwnedFd,
    private: OwnedFd,
    created: Created,
    area: Option<Area>,
    /// For what is removed while it is open.
    _graves: Option<Graves>,
    /// Whether what the store can't take goes to the area.
    absorbs: bool,
    read_only: Option<ReadOnly>,
    // Last, so that the store is let go of when all else is done.
    lock: Lock,
}

/// Which directories this opening made, so that a mount that fails leaves nothing behind.
#[derive(Clone, Copy, Debug, Default)]
struct Created {
    root: bool,
    private: bool,
}

impl Store {
    /// Opens `path` as a store and owns it until it is dropped: creates it if just the last name is
    /// missing, refuses when another daemon has it or a newer one wrote it, and moves away what a crash
    /// has left, for [`Store::sweep`].
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        Self::open_as(path, &Wishes::default())
    }

    /// As [`Store::open`]. A store in which nothing can be written is opened for reading if there is to
    /// be a spill area.
    pub fn open_as(path: &Path, wishes: &Wishes) -> Result<Store, StoreError> {
        let (path, created_root) = find_or_create(path)?;
        let mut created = Created { root: created_root, private: false };
        let opened = if wishes.read_only {
            Self::open_for_reading(&path, wishes, "--read-only-store was given".into())
        } else {
            Self::open_existing(&path, &mut created).or_else(|error| match error.says_read_only() {
                Some(reason) if wishes.spilling != Spilling::Off => {
                    tracing::warn!(store = %path.display(), "served for reading only: {reason}");
                    Self::open_for_reading(&path, wishes, reason)
                }
                _ => Err(error),
            })
        };
        let opened = opened.and_then(|store| store.with_area(wishes));
        if opened.is_err() {
            created.undo(&path);
        }
        opened
    }

    /// Gives it a spill area, if there is to be one.
    fn with_area(mut self, wishes: &Wishes) -> Result<Store, StoreError> {
        if self.area.is_some() {
            return Ok(self);
        }
        match &wishes.spilling {
            Spilling::Off if !wishes.users => return Ok(self),
            Spilling::In(path) => {
                let made = Area::make(path, &self.path);
                let failed = |source| StoreError::NoArea { path: Some(path.clone()), source };
                self.area = Some(made.map_err(failed)?);
            }
            // Nobody has asked for it: there is just nothing to spill to.
            Spilling::Somewhere | Spilling::Off => {
                match Area::make_somewhere(self.root.as_fd(), &self.path) {
                    Ok(area) => self.area = Some(area),
                    Err(source) if wishes.users => {
                        return Err(StoreError::NoArea { path: None, source });
                    }
                    Err(error) => {
                        tracing::warn!("no spill area ({error}): a full store makes tools fail")
                    }
                }
            }
        }
        self.absorbs = self.area.is_some() && wishes.spilling != Spilling::Off;
        Ok(self)
    }

    /// Opens a store in which nothing is written.
    fn open_for_reading(path: &Path, wishes: &Wishes, reason: String) -> Result<Store, StoreError> {
        let root = open_root(path)?;
        let made = match &wishes.spilling {
            Spilling::In(parent) => Area::make(parent, path),
            _ => Area::make_somewhere(root.as_fd(), path),
        };
        let parent = match &wishes.spilling {
            Spilling::In(parent) => Some(parent.clone()),
            _ => None,
        };
        let area = made.map_err(|source| StoreError::NoArea { path: parent, source })?;
        let (elsewhere, private) = elsewhere::make(path)
            .map_err(|e| StoreError::new(path, "make a folder for the lock of what lies", e))?;
        let lock = Lock::take(path, &private)?;
        Ok(Store {
            path: path.to_owned(),
            root,
            private,
            created: Created::default(),
            area: Some(area),
            _graves: None,
            absorbs: wishes.spilling != Spilling::Off,
            read_only: Some(ReadOnly { reason, elsewhere }),
            lock,
        })
    }

    fn open_existing(path: &Path, created: &mut Created) -> Result<Store, StoreError> {
        let root = open_root(path)?;
        if let Some(private) = open_private(path, &root)? {
            // Before anything is touched: a newer layout must stay as it is.
            read_format(path, &private)?;
        }
        created.private = match platform::fs::mkdirat(&root, PRIVATE, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(StoreError::new(path, "create files", e)),
        };
        let private = open_private(path, &root)?
            .ok_or_else(|| StoreError::new(path, "open .cachefs", Errno::NOENT))?;
        system::close_to_others(&private)
            .map_err(|e| StoreError::new(path, "protect .cachefs", e))?;
        let lock = Lock::take(path, &private)?;
        // Again, now that nobody else can write it.
        if read_format(path, &private)?.is_none() {
            write_format(&private)
                .map_err(|e| StoreError::new(path, "write .cachefs/format", e))?;
        }
        sweep::prepare(&private).map_err(|e| StoreError::new(path, "empty .cachefs", e))?;
        let graves = Graves::open(&private)
            .map_err(|e| StoreError::new(path, "make a folder for what is removed", e))?;
        Ok(Store {
            path: path.to_owned(),
            root,
            private,
            created: *created,
            area: None,
            _graves: Some(graves),
            absorbs: false,
            read_only: None,
            lock,
        })
    }

    /// Starts to remove what a crash has left, in a thread of its own.
    pub fn sweep(&self) -> io::Result<()> {
        sweep::sweep(&self.private)
    }

    /// The store's root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// To be called when the process is about to end, where threads that end with it may still hold
    /// the store.
    pub fn let_go(&self) {
        self.lock.let_go();
        if let Some(area) = &self.area {
            area.remove();
        }
        if let Some(read_only) = &self.read_only {
            elsewhere::remove(&read_only.elsewhere);
        }
    }

    /// Where what the store can't take goes, if it goes anywhere.
    pub fn area(&self) -> Option<&Area> {
        self.area.as_ref().filter(|_| self.absorbs)
    }

    /// The folder of what users have to themselves.
    pub fn users(&self) -> io::Result<OwnedFd> {
        let area = self.area.as_ref().ok_or(io::Error::from(Errno::NOENT))?;
        area.folder("users")
    }

    /// All directories that it needs: its root, and what lies outside.
    pub fn directories(&self) -> Vec<BorrowedFd<'_>> {
        let area = self.area.as_ref().map(Area::directory);
        let elsewhere = self.read_only.as_ref().map(|_| self.private.as_fd());
        [Some(self.root.as_fd()), area, elsewhere].into_iter().flatten().collect()
    }

    /// The directories outside that are empty when it is let go of, and then to be removed, in this
    /// order.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut left: Vec<PathBuf> = self.area.iter().map(|area| area.path().to_owned()).collect();
        if let Some(ReadOnly { elsewhere, .. }) = &self.read_only {
            left.push(elsewhere.clone());
            left.extend(elsewhere.parent().map(Path::to_owned));
        }
        left
    }

    /// Why nothing can be written in it, if that is so.
    pub fn read_only(&self) -> Option<&ReadOnly> {
        self.read_only.as_ref()
    }

    /// Whether it lies on overlayfs, a filesystem that is stacked on others.
    pub fn is_stacked(&self) -> bool {
        system::is_stacked(&self.root)
    }

    /// The store's own folder [`PRIVATE`].
    pub fn private(&self) -> BorrowedFd<'_> {
        self.private.as_fd()
    }

    /// One of the folders in [`PRIVATE`] for versions that are not live.
    pub fn folder(&self, name: &str) -> io::Result<OwnedFd> {
        if let (Some(area), Some(_)) = (&self.area, &self.read_only) {
            return area.folder(name);
        }
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        Ok(platform::fs::openat(&self.private, name, flags, Mode::empty())?)
    }

    /// Folders in which files are written that have no name yet: as many as there are to be, or fewer if
    /// there is no room, but at least one.
    pub fn stages(&self, count: usize) -> io::Result<Vec<OwnedFd>> {
        stages::open(self.folder("staged")?, count)
    }

    /// The store's absolute path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether [`Store::open`] created the root directory.
    pub fn is_new(&self) -> bool {
        self.created.root
    }

    /// Removes whatever directories [`Store::open`] had to create: for a mount that failed.
    pub fn abandon(&self) {
        self.created.undo(&self.path);
        if let Some(read_only) = &self.read_only {
            elsewhere::remove(&read_only.elsewhere);
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Created {
    /// Only what this opening made is removed, and a root only when nobody has put anything there.
    fn undo(self, path: &Path) {
        if self.private {
            let _ = system::remove_tree(&path.join(PRIVATE));
        }
        if self.root {
            let _ = std::fs::remove_dir(path);
        }
    }
}

fn open_root(path: &Path) -> Result<OwnedFd, StoreError> {
    platform::fs::openat(CWD, path, DIRECTORY, Mode::empty()).map_err(|e| match e {
        Errno::NOTDIR => StoreError::NotADirectory(path.to_owned()),
        e => StoreError::new(path, "read", e),
    })
}

/// The canonical path of an existing or newly made directory, and whether it is new.
fn find_or_create(path: &Path) -> Result<(PathBuf, bool), StoreError> {
    match std::fs::canonicalize(path) {
        Ok(found) => return Ok((found, false)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(StoreError::NotADirectory(path.to_owned()));
        }
        Err(e) => return Err(StoreError::new(path, "look", e)),
    }
    match platform::fs::mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Err(StoreError::MissingParent { path: path.to_owned() }),
        Err(e) => return Err(StoreError::new(path, "create the directory", e)),
    }
    let found = std::fs::canonicalize(path).map_err(|e| StoreError::new(path, "look", e))?;
    Ok((found, true))
}

/// Opens [`PRIVATE`], unless it is missing. A symbolic link there would lead the daemon elsewhere.
fn open_private(path: &Path, root: &OwnedFd) -> Result<Option<OwnedFd>, StoreError> {
    match platform::fs::openat(root, PRIVATE, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(private) => Ok(Some(private)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            Err(StoreError::Foreign { path: path.to_owned(), inside: "" })
        }
        Err(e) => Err(StoreError::new(path, "open .cachefs", e)),
    }
}

/// The format that is written there, if any; an error when this program can't read it.
fn read_format(path: &Path, private: &OwnedFd) -> Result<Option<u32>, StoreError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match platform::fs::openat(private, "format", flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(StoreError::new(path, "read .cachefs/format", e)),
    };
    let mut text = [0; 32];
    let length = platform::io::read(&file, &mut text)
        .map_err(|e| StoreError::new(path, "read .cachefs/format", e))?;
    let found = std::str::from_utf8(&text[..length]).ok().and_then(|t| t.trim().parse().ok());
    match found {
        Some(found @ 1..=FORMAT) => Ok(Some(found)),
        Some(found) if found > FORMAT => Err(StoreError::Newer { path: path.to_owned(), found }),
        _ => Err(StoreError::Foreign { path: path.to_owned(), inside: "/format" }),
    }
}

/// Writes the format in one step: after a crash it is there whole, or not at all.
fn write_format(private: &OwnedFd) -> io::Result<()> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = platform::fs::openat(private, "format.new", flags, Mode::RUSR | Mode::WUSR)?;
    platform::io::write(&file, format!("{FORMAT}\n").as_bytes())?;
    platform::fs::fsync(&file)?;
    platform::fs::renameat(private, "format.new", private, "format")?;
    Ok(platform::fs::fsync(private)?)
}

/// The pid of the daemon that owns the store at `path`, as its lock file tells.
pub fn holder(path: &Path) -> Option<u32> {
    if let Some(pid) = find_elsewhere(path).and_then(|folder| lock::read_pid(&folder)) {
        return Some(pid);
    }
    let private = platform::fs::openat(CWD, path.join(PRIVATE), DIRECTORY, Mode::empty()).ok()?;
    platform::fs::statat(&private, "lock", AtFlags::SYMLINK_NOFOLLOW).ok()?;
    lock::read_pid(&private)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn sorted(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    // Windows removes what is open only by POSIX semantics, which Wine has not.
    #[cfg(unix)]
    #[test]
    fn creates_adopts_and_abandons() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store");
        let store = Store::open(&path).unwrap();
        assert_eq!(sorted(&path), [PRIVATE]);
        store.abandon();
        drop(store);
        assert!(!path.exists());

        fs::create_dir(&path).unwrap();
        fs::write(path.join("wheel"), "w").unwrap();
        let store = Store::open(&path).unwrap();
        store.abandon();
        assert_eq!(sorted(&path), ["wheel"]);
    }

    #[test]
    fn second_owner_is_refused_with_the_pid_of_the_first() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        match Store::open(home.path()) {
            Err(StoreError::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        assert_eq!(holder(home.path()), Some(std::process::id()));
        drop(store);
        assert_eq!(holder(home.path()), None);
        Store::open(home.path()).unwrap();
    }

    #[test]
    fn newer_format_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let private = home.path().join(PRIVATE);
        fs::create_dir(&private).unwrap();
        fs::write(private.join("format"), "2\n").unwrap();
        let refused = Store::open(home.path()).unwrap_err();
        assert!(matches!(refused, StoreError::Newer { found: 2, .. }), "{refused}");
        assert_eq!(sorted(&private), ["format"]);
        fs::write(private.join("format"), "what?").unwrap();
        assert!(matches!(Store::open(home.path()), Err(StoreError::Foreign { .. })));
    }

    #[test]
    fn leftovers_of_a_crash_go() {
        let home = tempfile::tempdir().unwrap();
        drop(Store::open(home.path()).unwrap());
        let private = home.path().join(PRIVATE);
        fs::create_dir(private.join("staged/deep")).unwrap();
        fs::write(private.join("staged/deep/file"), "x").unwrap();
        Store::open(home.path()).unwrap().sweep().unwrap();
        assert!(sorted(&private.join("staged")).is_empty());
        for _ in 0..500 {
            if sorted(&private.join("swept")).is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("not swept");
    }
}
