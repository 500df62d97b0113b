//! Where log lines go: standard error, a file, or the journal.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

/// The variable that says what is logged, as `tracing` filters are written: `debug`,
/// `cachefs=trace,warn`.
pub const FILTER: &str = "CACHEFS_LOG";

const JOURNAL: &str = "/run/systemd/journal/stdout";

/// For commands: warnings, on standard error.
pub fn for_commands() {
    let filter = filter("warn");
    let start = tracing_subscriber::fmt().with_env_filter(filter).without_time();
    let _ = start.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).try_init();
}

/// For a daemon: to `file` if it is given, else to the journal for one in the background (nowhere
/// where there is no journal), else to standard error.
pub fn for_daemon(file: Option<&Path>, background: bool) -> io::Result<()> {
    let filter = filter("warn,cachefs=info,cachefs_mount=info");
    let start = tracing_subscriber::fmt().with_env_filter(filter);
    if let Some(path) = file {
        let file = File::options().append(true).create(true).open(path)?;
        let _ = start.with_ansi(false).with_writer(Mutex::new(file)).try_init();
    } else if !background {
        let _ = start.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).try_init();
    } else if let Ok(journal) = journal() {
        // The journal has its own clock.
        let start = start.with_ansi(false).without_time();
        let _ = start.with_writer(Mutex::new(journal)).try_init();
    }
    Ok(())
}

fn filter(default: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(std::env::var(FILTER).as_deref().unwrap_or(default))
}

/// A connection on which the journal takes lines, as `systemd-cat` opens it.
fn journal() -> io::Result<UnixStream> {
    let mut journal = UnixStream::connect(JOURNAL)?;
    // Identifier, unit, priority (6: information), then no prefixes and no forwarding.
    journal.write_all(b"cachefs\n\n6\n0\n0\n0\n0\n")?;
    Ok(journal)
}
