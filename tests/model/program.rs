//! Programs: what several jobs do with one mount, step by step.
//!
//! They are plain data, so that one that fails can be shrunk, printed, and kept as a test. Files that are
//! open are named by their place among the open files of the job, modulo how many those are.

use std::time::{Duration, Instant};

use proptest::prelude::*;

/// How many jobs run side by side. When one ends another one takes its place.
pub(crate) const JOBS: usize = 3;

/// Every name there is.
pub(crate) const NAMES: [&str; 3] = ["a", "b", "c.lock"];

/// A file that is always there, which no program touches: jobs open it to begin.
pub(crate) const DOOR: &str = "door";

const PATHS: [&str; 14] = [
    "a", "b", "c.lock", "a/a", "a/b", "b/a", "b/b", "a/c.lock", "b/c.lock", "a/a/a", "a/a/b",
    "a/b/a", "b/a/a", "b/b/b",
];

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// `O_WRONLY | O_CREAT | O_EXCL`
    New,
    /// `O_WRONLY | O_CREAT | O_TRUNC`
    Create,
    /// `O_WRONLY | O_CREAT`
    Shared,
    /// `O_WRONLY | O_TRUNC`
    Truncate,
    /// `O_WRONLY`
    Write,
    /// `O_WRONLY | O_APPEND`
    Append,
    /// `O_RDONLY`
    Read,
}

impl How {
    pub(crate) fn creates(self) -> bool {
        matches!(self, How::New | How::Create | How::Shared)
    }

    pub(crate) fn truncates(self) -> bool {
        matches!(self, How::Create | How::Truncate)
    }

    pub(crate) fn writes(self) -> bool {
        self != How::Read
    }
}

type Path = &'static str;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Begin,
    Open(Path, How),
    /// Writes a text that nobody else ever writes.
    Write(u8),
    Read(u8),
    Close(u8),
    Unlink(Path),
    Mkdir(Path),
    Rmdir(Path),
    Rename(Path, Path),
    Link(Path, Path),
    Symlink(Path),
    List(Path),
    /// Ends of itself, which closes what it has open.
    End,
    /// Is killed.
    Kill,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The job in that place does something.
    Job(usize, Act),
    /// The administrator takes a path out of the live view.
    Clean(Path),
}

/// What a step comes to: what was read or listed, or the number of an error.
pub(crate) type Outcome = Result<String, i32>;

/// What a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    File(String),
    Symlink(String),
    Directory,
}

/// What somebody sees: all paths there are for him.
pub(crate) type View = std::collections::BTreeMap<String, Seen>;

/// Something that runs programs.
pub(crate) trait World {
    /// The job in that place does something; `text` is what it writes, if it does.
    fn act(&mut self, job: usize, act: Act, text: &str) -> Outcome;
    fn clean(&mut self, path: &str) -> Outcome;
    /// What the job in that place sees, found without listing anything.
    fn view(&mut self, job: usize) -> View;
    /// The live view: what lies in the store.
    fn live(&mut self) -> View;
    /// How long it may take until a process sees what another one has done.
    fn delay(&self) -> Duration {
        Duration::ZERO
    }
}

/// What to do where a directory would be seen under its old name and its new one by the same jobs: of what
/// is then done by way of the old one the contract says nothing. And where one job makes a name that another
/// is just writing, or links: written programs and the storm of writers have that, random ones do not yet.
/// Nor do they open directories as if they were files, which a mount can't tell from listing them, or twice
/// what the same job is writing, of which it can't tell the one close from the other. Nor what depends on how
/// soon something is reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tricky {
    Done,
    Skipped,
}

/// Runs a program in two worlds, which have to agree after each step.
pub(crate) fn agree(
    steps: &[Step],
    model: &mut crate::model::Model,
    other: &mut dyn World,
    tricky: Tricky,
) -> Result<(), String> {
    let mut begun = [false; JOBS];
    for (number, step) in steps.iter().enumerate() {
        let at = |what: String| format!("step {number}, {step:?}: {what}");
        let text = format!("{number};");
        match *step {
            Step::Clean(path) => same("it says", model.clean(path), other.clean(path)),
            Step::Job(job, act) => {
                if !begun[job] && !matches!(act, Act::Begin) {
                    model.act(job, Act::Begin, "").and(other.act(job, Act::Begin, "")).unwrap();
                }
                let tricks = matches!(act, Act::Link(..))
                    || model.opens_a_directory(job, act)
                    || model.opens_its_own_draft(job, act)
                    || model.gives_two_names(job, act)
                    || model.moves_what_is_reclaimed(job, act)
                    || model.makes_what_another_makes(job, act);
                if tricky == Tricky::Skipped && tricks {
                    continue;
                }
                begun[job] = !matches!(act, Act::End | Act::Kill);
                same("it says", model.act(job, act, &text), other.act(job, act, &text))
            }
        }
        .map_err(at)?;
        same("the live view is", model.live(), other.live()).map_err(at)?;
        for job in (0..JOBS).filter(|&job| begun[job]) {
            let (view, until) = (model.view(job), Instant::now() + other.delay());
            let mut seen = other.view(job);
            while seen != view && Instant::now() < until {
                seen = other.view(job);
            }
            same(&format!("job {job} sees"), view, seen).map_err(at)?;
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, model: T, other: T) -> Result<(), String> {
    if model == other { Ok(()) } else { Err(format!("{what} {other:?}, should be {model:?}")) }
}

fn path() -> impl Strategy<Value = Path> {
    prop_oneof![
        6 => prop::sample::select(&PATHS[..2]),
        4 => prop::sample::select(&PATHS[3..7]),
        1 => prop::sample::select(&PATHS[..]),
    ]
}

fn how() -> impl Strategy<Value = How> {
    use How::{Append, Create, New, Read, Shared, Truncate, Write};
    prop::sample::select(&[Create, New, Create, Shared, Truncate, Write, Append, Read][..])
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Begin),
        8 => (path(), how()).prop_map(|(path, how)| Act::Open(path, how)),
        6 => any::<u8>().prop_map(Act::Write),
        2 => any::<u8>().prop_map(Act::Read),
        6 => any::<u8>().prop_map(Act::Close),
        5 => path().prop_map(Act::Unlink),
        5 => path().prop_map(Act::Mkdir),
        3 => path().prop_map(Act::Rmdir),
        6 => (path(), path()).prop_map(|(from, to)| Act::Rename(from, to)),
        1 => (path(), path()).prop_map(|(from, to)| Act::Link(from, to)),
        1 => path().prop_map(Act::Symlink),
        2 => prop_oneof![1 => Just(""), 4 => path()].prop_map(Act::List),
        1 => Just(Act::End),
        1 => Just(Act::Kill),
    ]
}

/// Any program of that many steps.
pub(crate) fn programs(
    length: impl Into<prop::collection::SizeRange>,
) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        60 => (0..JOBS, act()).prop_map(|(job, act)| Step::Job(job, act)),
        1 => path().prop_map(Step::Clean),
    ];
    prop::collection::vec(step, length)
}
