//! `cachefs prune`: takes the least recently used units of a mounted store out of the live view.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Failure, clean, duration, show};
use crate::control::client::Client;
use crate::control::{Command, PruneWords};
use crate::prune::layout::Layout;
use crate::prune::size::Size;
use crate::store::PRIVATE;
use crate::system::mounts::MountPoint;

#[derive(Debug, clap::Args)]
#[command(override_usage = "cachefs prune [OPTIONS] [MOUNT] [PATH]...")]
pub(super) struct Args {
    /// The mount, by its mountpoint or its store (may be left out where there is just one), then what may
    /// go: paths relative to the mount, or absolute ones in it. Everything if there are none
    #[arg(value_name = "PATH")]
    words: Vec<PathBuf>,

    /// How much may stay: `20G`, `512MiB`, or `10%` of the filesystem
    #[arg(long, value_name = "SIZE")]
    max_size: Option<Size>,

    /// What was last used longer ago goes: `30d`, `12h`, `10m` or `45s`
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    older_than: Option<Duration>,

    /// How much of the filesystem should be free
    #[arg(long, value_name = "SIZE")]
    min_free: Option<Size>,

    /// Only what this tool keeps; may be given several times
    #[arg(long = "tool", value_name = "TOOL", value_parser = tool)]
    tools: Vec<String>,

    /// Only say what would go
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const UNKNOWN: &str = "There is nothing to prune: nothing in the store looks like the cache of a tool that is known. \
    Mount it with `--layout generic:DEPTH` to have every entry at that depth pruned as one.";

/// A tool, or a layout.
fn tool(text: &str) -> Result<String, String> {
    let tools = Layout::tools();
    if tools.contains(&text) || text.parse::<Layout>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(format!("use one of {}", tools.join(", ")))
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (mount, given) = clean::split(&args.words).map_err(|error| not_mounted(args, error))?;
    let inside = given.iter().map(|path| clean::relative(path, &mount.path));
    let words = PruneWords {
        max_size: args.max_size,
        older_than: args.older_than.map(|age| age.as_secs()),
        min_free: args.min_free,
        tools: args.tools.clone(),
        paths: inside.collect::<Result<_, _>>()?,
        dry_run: args.dry_run,
    };
    let mut progress = Progress::of(&mount);
    let done = Client::of(&mount)?.ask_patiently(&Command::Prune(words), || progress.show());
    progress.clear();
    let mut done = done?;
    if args.json {
        done["version"] = 1.into();
        return show::print(&format!("{done:#}\n"));
    }
    show::print(&describe(&done))
}

/// A store that is there, but not mounted, is what is most likely meant.
fn not_mounted(args: &Args, error: Failure) -> Failure {
    let store = args.words.first().filter(|word| word.join(PRIVATE).is_dir());
    match store.map(|store| store.display()) {
        Some(store) => format!(
            "the store {store} is not mounted; `cachefs mount {store} MOUNTPOINT` mounts it, and then it can be \
             pruned"
        )
        .into(),
        None => error,
    }
}

/// Says on a terminal how far it has come.
struct Progress<'a> {
    mount: &'a MountPoint,
    shown: bool,
}

impl Progress<'_> {
    fn of(mount: &MountPoint) -> Progress<'_> {
        Progress { mount, shown: false }
    }

    fn show(&mut self) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let Ok(status) = Client::of(self.mount).and_then(|mut daemon| daemon.ask(&Command::Status))
        else {
            return;
        };
        let pruning = &status["pruning"];
        let number = |key: &str| pruning[key].as_u64().unwrap_or(0);
        let text = match pruning["step"].as_str() {
            Some("removing") => format!("removing {} of {} names", number("done"), number("of")),
            _ => "looking which units there are".to_owned(),
        };
        eprint!("\r\x1b[K{text} ...");
        self.shown = true;
    }

    fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// What was done, for people.
fn describe(done: &Value) -> String {
    let units: Vec<&Value> = done["units"].as_array().into_iter().flatten().collect();
    let number = |key: &str| done[key].as_u64().unwrap_or(0);
    let dry = done["dry_run"].as_bool() == Some(true);
    let mut out = String::new();
    for unit in &units {
        let text = |key: &str| unit[key].as_str().unwrap_or("?");
        let bytes = show::bytes(unit["bytes"].as_u64().unwrap_or(0));
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{:<12} {:>9}  {}  {}",
            text("tool"),
            bytes,
            text("last_used"),
            show::one_line(text("name"))
        );
    }
    out += &match units.len() {
        0 if done["unknown"].as_bool() == Some(true) => UNKNOWN.to_owned(),
        0 => "There is nothing to prune.".to_owned(),
        1 => format!("{} 1 unit.", if dry { "Would prune" } else { "Pruned" }),
        many => format!("{} {many} units.", if dry { "Would prune" } else { "Pruned" }),
    };
    if !units.is_empty() {
        out += &freed(done, dry);
    }
    if let Some(lacking @ 1..) = done["lacks"]["bytes"].as_u64() {
        let lacking = show::bytes(lacking);
        let _ = write!(out, " {lacking} more should go, but nothing else can.");
    }
    if number("unread") > 0 {
        let _ = write!(out, " {} directories could not be read.", number("unread"));
    }
    out.push('\n');
    out
}

fn freed(done: &Value, dry: bool) -> String {
    let bytes = |key: &str| done[key].as_u64().unwrap_or(0);
    let (now, later) = (bytes("freed_now"), bytes("freed_later"));
    let would = if dry { "That would free" } else { "Freed" };
    if later == 0 {
        return format!(" {would} {}.", show::bytes(now));
    }
    let waits: Vec<String> = done["waits_for"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|job| match job["pid"].as_u64() {
            Some(pid @ 1..) => {
                format!("{} (pid {pid})", job["command"].as_str().unwrap_or("a job"))
            }
            _ => "jobs that can't be seen from here".to_owned(),
        })
        .collect();
    format!(
        " {would} {} now, and {} when these have ended: {}.",
        show::bytes(now),
        show::bytes(later),
        show::one_line(&waits.join(", "))
    )
}

/// What a daemon answers.
pub(super) fn answer(
    pruned: &crate::cache::Pruned,
    dry_run: bool,
    mountpoint: &Path,
    command: impl Fn(u32) -> Option<String>,
) -> Value {
    use crate::prune::Why;
    use std::os::unix::ffi::OsStrExt;
    let why = |why: &Why| match why {
        Why::Age => "age",
        Why::Size => "size",
        Why::Files => "named",
        Why::Free => "free",
        Why::Needs(_) => "needs another",
        Why::Unneeded(_) => "not needed any more",
    };
    let text = |path: &PathBuf| String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    let units: Vec<Value> = pruned
        .units
        .iter()
        .map(|unit| {
            json!({
                "tool": unit.tool,
                "name": unit.name,
                "path": unit.paths.first().map(text),
                "paths": unit.paths.iter().map(text).collect::<Vec<_>>(),
                "bytes": unit.size.bytes,
                "files": unit.size.files,
                "last_used": show::time(unit.last_used),
                "why": why(&unit.why),
            })
        })
        .collect();
    // Nobody goes on seeing nothing.
    let jobs = if pruned.units.is_empty() { &[][..] } else { &pruned.seen_by[..] };
    let waits: Vec<Value> = jobs
        .iter()
        .map(|job| json!({"pid": job.pid, "command": (job.pid != 0).then(|| command(job.pid)).flatten()}))
        .collect();
    let (now, later) =
        if waits.is_empty() { (pruned.frees.bytes, 0) } else { (0, pruned.frees.bytes) };
    json!({
        "mountpoint": mountpoint.to_string_lossy(),
        "dry_run": dry_run,
        "units": units,
        "freed_now": now,
        "freed_later": later,
        "freed_files": pruned.frees.files,
        "waits_for": waits,
        "held": {"bytes": pruned.held.bytes, "files": pruned.held.files},
        "lacks": {"bytes": pruned.lacks.bytes, "files": pruned.lacks.files},
        "unread": pruned.unread,
        "unknown": pruned.unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_is_told() {
        let unit = json!({"tool": "uv", "name": "rich 15.0.0", "bytes": 2048,
            "last_used": "2026-01-02T03:04:05Z"});
        let none = json!({"dry_run": false, "units": [], "freed_now": 0, "freed_later": 0});
        assert_eq!(describe(&none), "There is nothing to prune.\n");
        let one = json!({"dry_run": false, "units": [unit], "freed_now": 2048, "freed_later": 0});
        assert_eq!(
            describe(&one),
            "uv            2.00 KiB  2026-01-02T03:04:05Z  rich 15.0.0\nPruned 1 unit. Freed 2.00 KiB.\n"
        );
        let later = json!({"dry_run": true, "units": [unit, unit], "freed_now": 0,
            "freed_later": 4096, "waits_for": [{"pid": 7, "command": "uv sync"}, {"pid": 0}],
            "lacks": {"bytes": 1024}});
        assert!(describe(&later).ends_with(
            "Would prune 2 units. That would free 0 B now, and 4.00 KiB when these have ended: uv sync \
             (pid 7), jobs that can't be seen from here. 1.00 KiB more should go, but nothing else can.\n"
        ));
    }

    #[test]
    fn tools_are_known() {
        assert_eq!(tool("uv"), Ok("uv".into()));
        assert!(tool("generic:2").is_ok());
        assert!(tool("emacs").unwrap_err().contains("ccache"));
    }
}
