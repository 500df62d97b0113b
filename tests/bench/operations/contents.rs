//! Small files: reading, creating and replacing whole ones, as caches do.

use std::fs::{self, File};
use std::io::Read;

use super::names::small_files;
use super::{Operation, Timed, each, write_small};
use crate::Result;
use crate::kernel_cache::Cold;
use crate::place::{Place, names};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new("open+read+close warm", "file", read).goal(4.0, 2.5),
        Operation::new("open+read+close cold", "file", read).cold(Cold::Contents).goal(2.0, 1.5),
        Operation::new("create 4 KiB+write+close", "file", create).goal(5.0, 3.0),
        Operation::new("write temporary+rename over", "file", replace_by_rename).goal(2.3, 1.6),
        Operation::new("overwrite by O_TRUNC", "file", overwrite).goal(2.5, 1.6),
    ]
}

fn read(place: &Place) -> Result<Timed> {
    Ok(each(small_files(place)?, |number, path| {
        // Room for one byte more, so that a file that is too long is noticed.
        let mut content = [0; 4097];
        let length = File::open(path)?.read(&mut content)?;
        if length != 4096 || content[..8] != number.to_le_bytes() {
            return Err(format!("wrong content, {length} bytes").into());
        }
        Ok(())
    }))
}

fn create(place: &Place) -> Result<Timed> {
    let directory = place.empty("created")?;
    Ok(each(names(&directory, place.scale.changes), |number, path| write_small(path, number)))
}

fn replace_by_rename(place: &Place) -> Result<Timed> {
    let directory = place.fixture("replaced", |directory| {
        names(directory, place.scale.changes).iter().try_for_each(|path| write_small(path, 0))
    })?;
    Ok(each(names(&directory, place.scale.changes), |number, path| {
        let temporary = path.with_extension("tmp");
        write_small(&temporary, number)?;
        Ok(fs::rename(&temporary, path)?)
    }))
}

fn overwrite(place: &Place) -> Result<Timed> {
    let directory = place.fixture("overwritten", |directory| {
        names(directory, place.scale.changes).iter().try_for_each(|path| write_small(path, 0))
    })?;
    Ok(each(names(&directory, place.scale.changes), |number, path| write_small(path, number)))
}
