//! Names and attributes: looking up, listing, making and removing.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::{Operation, REPEATED, Timed, each, each_repeated, write_small};
use crate::Result;
use crate::kernel_cache::Cold;
use crate::place::{Place, names};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new("stat warm", "stat", |place| stat(place, REPEATED)).goal(1.1, 1.0),
        Operation::new("stat cold", "stat", |place| stat(place, 1))
            .cold(Cold::Names)
            .goal(3.0, 1.8),
        Operation::new("negative lookup warm", "stat", stat_absent).goal(1.1, 1.0),
        Operation::new("readdir+stat of 10,000 warm", "entry", list).goal(1.1, 1.0),
        Operation::new("readdir+stat of 10,000 cold", "entry", list)
            .cold(Cold::Names)
            .goal(1.6, 1.2),
        Operation::new("walk of a tree warm", "entry", walk).goal(1.1, 1.0),
        Operation::new("walk of a tree cold", "entry", walk).cold(Cold::Names).goal(2.5, 1.5),
        Operation::new("flock+unlock", "lock", lock).goal(1.1, 1.0),
        Operation::new("mkdir+rmdir", "directory", directories).goal(2.5, 1.5),
        Operation::new("unlink", "file", unlink).goal(2.2, 1.5),
    ]
}

/// The directory of small files that most operations read.
pub(super) fn small_files(place: &Place) -> Result<Vec<PathBuf>> {
    let count = place.scale.files;
    let directory = place.fixture("small", |directory| fill(directory, count))?;
    Ok(names(&directory, count))
}

fn fill(directory: &Path, count: u64) -> Result<()> {
    (0..).zip(names(directory, count)).try_for_each(|(number, path)| write_small(&path, number))
}

fn stat(place: &Place, times: usize) -> Result<Timed> {
    Ok(each_repeated(times, small_files(place)?, |_, path| {
        fs::metadata(path)?;
        Ok(())
    }))
}

fn stat_absent(place: &Place) -> Result<Timed> {
    small_files(place)?;
    let absent = names(&place.root.join("small"), place.scale.files);
    let absent = absent.into_iter().map(|path| path.with_extension("absent")).collect();
    Ok(each_repeated(REPEATED, absent, |_, path| match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => Err(format!("not absent: {other:?}").into()),
    }))
}

fn list(place: &Place) -> Result<Timed> {
    let count = place.scale.large_directory;
    let directory = place.fixture("large", |directory| {
        names(directory, count).iter().try_for_each(|path| Ok(fs::write(path, "")?))
    })?;
    Ok(Box::new(move || {
        let mut seen = 0;
        for entry in fs::read_dir(directory)? {
            entry?.metadata()?;
            seen += 1;
        }
        if seen != count {
            return Err(format!("{seen} entries listed, not {count}").into());
        }
        Ok(seen)
    }))
}

/// Like `find`: kinds come with the listing, and nothing is asked for each file.
fn walk(place: &Place) -> Result<Timed> {
    let branches = place.scale.branches;
    let root = place.fixture("tree", |root| {
        for (number, directory) in (0..).zip(names(root, branches)) {
            fs::create_dir(&directory)?;
            for below in names(&directory, branches) {
                let below = below.with_extension("d");
                fs::create_dir(&below)?;
                names(&below, 10).iter().try_for_each(|path| write_small(path, number))?;
            }
        }
        Ok(())
    })?;
    Ok(Box::new(move || {
        let mut seen = 0;
        let mut left = vec![root];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                seen += 1;
                if entry.file_type()?.is_dir() {
                    left.push(entry.path());
                }
            }
        }
        Ok(seen)
    }))
}

fn lock(place: &Place) -> Result<Timed> {
    let count = place.scale.files * REPEATED as u64;
    let file = fs::File::create(place.root.join("bench.lock"))?;
    Ok(Box::new(move || {
        for _ in 0..count {
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            rustix::fs::flock(&file, FlockOperation::Unlock)?;
        }
        Ok(count)
    }))
}

fn directories(place: &Place) -> Result<Timed> {
    let parent = place.empty("directories")?;
    Ok(each(names(&parent, place.scale.changes), |_, path| {
        fs::create_dir(path)?;
        Ok(fs::remove_dir(path)?)
    }))
}

fn unlink(place: &Place) -> Result<Timed> {
    let count = place.scale.changes;
    let directory = place.empty("unlinked")?;
    fill(&directory, count)?;
    Ok(each(names(&directory, count), |_, path| Ok(fs::remove_file(path)?)))
}
