//! `cachefs report`: one page that shows what fills a cache, how old it is, who uses it, and what a prune would
//! take. It holds all that it needs, and asks nothing of the network.

mod figures;
mod page;
mod time;
mod words;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use super::{Failure, Named, show};
use crate::control::Command;
use crate::control::client::Client;
use crate::system::mounts;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The page to write, such as `report.html`: for you alone, as it names what others have cached
    file: PathBuf,

    #[command(flatten)]
    named: Named,
}

/// What a daemon has told.
struct Told {
    status: Value,
    readers: Value,
    units: Value,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    refuse_what_is_no_file(&args.file)?;
    let mount = mounts::find(args.named.mount.as_deref())?;
    let mut daemon = Client::of(&mount)?;
    // First: then what is counted for the status is fresh.
    let units = daemon.ask_patiently(&Command::Units, || {})?;
    let status = daemon.ask(&Command::Status)?;
    let readers = daemon.ask(&Command::Readers)?;
    let count = units["units"].as_array().map_or(0, Vec::len) as u64;
    let page = page::page(&Told { status, readers, units });
    write(&args.file, page.as_bytes())
        .map_err(|e| format!("can't write {}: {e}; name another file", args.file.display()))?;
    let (file, units) = (args.file.display(), show::count(count, "unit"));
    show::print(&format!("Wrote {file}: {units}. Open it in a browser.\n"))
}

/// Before anything is asked of the daemon, which may take a while.
fn refuse_what_is_no_file(file: &Path) -> Result<(), Failure> {
    match fs::symlink_metadata(file) {
        Ok(found) if !found.is_file() => {
            let shown = file.display();
            Err(format!("{shown} is there and is no regular file; name another one").into())
        }
        _ => Ok(()),
    }
}

/// Writes it in one step, for its owner alone.
fn write(file: &Path, page: &[u8]) -> io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut new = tempfile::Builder::new().prefix(".cachefs-report-").tempfile_in(folder)?;
    new.write_all(page)?;
    new.persist(file)?;
    Ok(())
}
