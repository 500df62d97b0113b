//! `cachefs top`: a mount, as it is used.

mod draw;
mod view;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal;
use ratatui::{DefaultTerminal, Terminal};

use self::view::{Sample, View};
use super::{Failure, Named, duration, show};
use crate::control::Command;
use crate::control::client::Client;
use crate::system::mounts::{self, MountPoint};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    named: Named,

    /// How long to look before numbers are shown anew
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "1s")]
    interval: Duration,

    /// Look once, print that, and end
    #[arg(long)]
    once: bool,
}

/// Where there is no terminal to ask for its size.
const USUAL: (u16, u16) = (100, 40);

/// With less than that a daemon would have more to do with this than with anything else.
const SHORTEST: Duration = Duration::from_secs(1);

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mount = mounts::find(args.named.mount.as_deref())?;
    let interval = args.interval.max(SHORTEST);
    let first = ask(&mount)?;
    if args.once {
        std::thread::sleep(interval);
        let view = View::between(&first, &ask(&mount)?);
        let (width, height) = terminal::size().unwrap_or(USUAL);
        return show::print(&text(&view, width.max(40), height.max(view.height())));
    }
    if !std::io::stdout().is_terminal() {
        return Err("standard output is no terminal; `cachefs top --once` prints one look".into());
    }
    let mut screen = ratatui::init();
    let ended = watch(&mut screen, &mount, first, interval);
    ratatui::restore();
    ended
}

fn ask(mount: &MountPoint) -> Result<Sample, Failure> {
    let mut daemon = Client::of(mount)?;
    let status = daemon.ask(&Command::Status)?;
    let readers = daemon.ask(&Command::Readers)?;
    Ok(Sample { at: Instant::now(), status, readers })
}

/// Until somebody has seen enough.
fn watch(
    screen: &mut DefaultTerminal,
    mount: &MountPoint,
    first: Sample,
    interval: Duration,
) -> Result<ExitCode, Failure> {
    let mut last = first;
    let mut view = View::between(&last, &last);
    let mut next = last.at + interval;
    loop {
        screen.draw(|frame| draw::draw(&view, frame))?;
        let now = Instant::now();
        if now >= next {
            let sample = ask(mount)?;
            view = View::between(&last, &sample);
            next = sample.at + interval;
            last = sample;
        } else if event::poll(next - now)? && is_enough(&event::read()?) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn is_enough(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let interrupted =
        key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press
        && (interrupted || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

/// As it is drawn on a screen of that size, without colours.
fn text(view: &View, width: u16, height: u16) -> String {
    let Ok(mut screen) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = screen.draw(|frame| draw::draw(view, frame));
    lines(screen.backend().buffer())
}

fn lines(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let rows = buffer.content.chunks(width).map(|row| {
        let row: String = row.iter().map(|cell| cell.symbol()).collect();
        format!("{}\n", row.trim_end())
    });
    rows.collect()
}
