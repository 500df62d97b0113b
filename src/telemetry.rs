//! Where log lines go: standard error, a file, or the journal. Warnings that repeat themselves are
//! limited (`limit.rs`).

mod limit;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::str::FromStr;
use std::sync::Mutex;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use self::limit::Limit;

/// The variable that says what is logged, as `tracing` filters are written: `debug`,
/// `cachefs=trace,warn`.
pub const FILTER: &str = "CACHEFS_LOG";

const JOURNAL: &str = "/run/systemd/journal/stdout";

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document a line: `timestamp` (RFC 3339), `level`, `target`, and in `fields` the `message` and
    /// what belongs to it.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err("use `text` or `json`".into()),
        }
    }
}

/// For commands: warnings, on standard error.
pub fn for_commands() {
    let filter = filter("warn");
    let start = tracing_subscriber::fmt().with_env_filter(filter).without_time();
    let _ = start.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).try_init();
}

/// For a daemon: to `file` if it is given, else to the journal for one in the background (nowhere
/// where there is no journal), else to standard error.
pub fn for_daemon(file: Option<&Path>, background: bool, format: Format) -> io::Result<()> {
    if let Some(path) = file {
        let file = File::options().append(true).create(true).open(path)?;
        start(format, Mutex::new(file), false, true);
    } else if !background {
        start(format, io::stderr, io::stderr().is_terminal(), true);
    } else if let Ok(journal) = journal() {
        // The journal has its own clock.
        start(format, Mutex::new(journal), false, false);
    }
    Ok(())
}

/// Says what was left out since it was last said. For the end of a daemon.
pub fn finish() {
    limit::finish();
}

fn start<W>(format: Format, to: W, colours: bool, time: bool)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(to).with_ansi(colours);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match (format, time) {
        (Format::Text, true) => lines.boxed(),
        (Format::Text, false) => lines.without_time().boxed(),
        (Format::Json, _) => lines.json().boxed(),
    };
    let filter = filter("warn,cachefs=info,cachefs_mount=info");
    // Fails only where there is a log already.
    let _ = tracing_subscriber::registry().with(lines).with(filter).with(Limit).try_init();
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
