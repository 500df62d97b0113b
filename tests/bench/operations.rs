//! What is measured. Each operation is written once and run on every system.

mod contents;
mod names;
mod streams;
mod tools;

use std::path::Path;

use serde::Serialize;

use crate::Result;
use crate::kernel_cache::Cold;
use crate::options::Options;
use crate::place::Place;

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Small files in one directory.
    pub(crate) files: u64,
    /// Entries of the large directory.
    pub(crate) large_directory: u64,
    /// The tree has this many directories in two levels, and the square of it below those.
    pub(crate) branches: u64,
    /// Files created, replaced and removed in a round.
    pub(crate) changes: u64,
    /// Bytes of the file that is streamed.
    pub(crate) stream: u64,
}

impl Scale {
    pub(crate) fn of(options: &Options) -> Scale {
        let part = if options.quick { 10 } else { 1 };
        Scale {
            files: 4000 / part,
            large_directory: 10_000 / part,
            branches: if options.quick { 6 } else { 20 },
            changes: 1000 / part,
            stream: options.stream_mib << 20,
        }
    }
}

/// Ratios to the plain directory that are to be reached.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) must: f64,
    pub(crate) aim: f64,
}

/// The part of a round that is timed; tells how many units of work it did.
pub(crate) type Timed = Box<dyn FnOnce() -> Result<u64>>;

type Arm = Box<dyn Fn(&Place) -> Result<Timed>>;

/// Something that programs do with a cache.
pub(crate) struct Operation {
    pub(crate) name: String,
    /// What the time is given for.
    pub(crate) unit: &'static str,
    /// What the kernel has to forget first.
    pub(crate) cold: Option<Cold>,
    pub(crate) goal: Option<Goal>,
    /// One round takes long: half as many are enough.
    pub(crate) long: bool,
    lacks: Option<&'static str>,
    arm: Arm,
    thaw: fn() -> Result<()>,
}

impl Operation {
    /// `arm` does what has to be done before a round, and answers with what is timed.
    fn new(
        name: &str,
        unit: &'static str,
        arm: impl Fn(&Place) -> Result<Timed> + 'static,
    ) -> Operation {
        Operation {
            name: name.to_owned(),
            unit,
            cold: None,
            goal: None,
            long: false,
            lacks: None,
            arm: Box::new(arm),
            thaw: || Ok(()),
        }
    }

    fn cold(mut self, cold: Cold) -> Operation {
        self.cold = Some(cold);
        self
    }

    fn goal(mut self, must: f64, aim: f64) -> Operation {
        self.goal = Some(Goal { must, aim });
        self
    }

    fn long(mut self) -> Operation {
        self.long = true;
        self
    }

    /// Not measured, because of this.
    fn lacking(mut self, what: Option<&'static str>) -> Operation {
        self.lacks = what;
        self
    }

    /// What is done after the kernel forgot, for what shall not be cold.
    fn thaw(mut self, thaw: fn() -> Result<()>) -> Operation {
        self.thaw = thaw;
        self
    }

    pub(crate) fn lacks(&self) -> Option<&'static str> {
        self.lacks
    }

    /// Everything up to the moment when the clock starts.
    pub(crate) fn arm(&self, place: &Place) -> Result<Timed> {
        let timed = (self.arm)(place)?;
        if let Some(cold) = self.cold {
            cold.chill()?;
            (self.thaw)()?;
        }
        Ok(timed)
    }
}

/// The operations that `options` ask for, in the order of the tables.
pub(crate) fn selected(options: &Options) -> Vec<Operation> {
    let mut operations = names::operations();
    operations.extend(contents::operations());
    operations.extend(streams::operations());
    operations.extend(tools::operations());
    operations.retain(|operation| options.selects(&operation.name));
    operations
}

/// Writes the `number`th small file: 4 KiB that no other one has.
fn write_small(path: &Path, number: u64) -> Result<()> {
    let mut content = [b'.'; 4096];
    content[..8].copy_from_slice(&number.to_le_bytes());
    Ok(std::fs::write(path, content)?)
}

/// How often a round does what takes next to no time, so that it takes some.
const REPEATED: usize = 10;

/// Runs `step` on each path, as one timed part.
fn each(
    paths: Vec<std::path::PathBuf>,
    step: impl Fn(u64, &Path) -> Result<()> + 'static,
) -> Timed {
    each_repeated(1, paths, step)
}

/// The same, several times over.
fn each_repeated(
    times: usize,
    paths: Vec<std::path::PathBuf>,
    step: impl Fn(u64, &Path) -> Result<()> + 'static,
) -> Timed {
    Box::new(move || {
        for _ in 0..times {
            for (number, path) in (0..).zip(&paths) {
                step(number, path).map_err(|why| format!("{}: {why}", path.display()))?;
            }
        }
        Ok((times * paths.len()) as u64)
    })
}
