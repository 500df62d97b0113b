//! The commands, one file each.

mod check;
mod clean;
mod daemon;
mod documents;
mod duration;
mod env;
mod examples;
mod helper;
mod mount;
mod options;
mod places;
mod prune;
mod readers;
mod report;
mod run;
mod service;
mod show;
mod status;
mod told;
mod top;
mod r#try;
mod umount;
mod units;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::system::outside;

/// Why a command could not do its work: what, where, why, what to do, in one line.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One cache directory for everyone: a mount that makes shared tool caches safe.
#[derive(Debug, Parser)]
#[command(name = "cachefs", version, propagate_version = true, after_help = examples::ALL)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount a cache directory; returns when the mount answers
    #[command(after_help = examples::MOUNT)]
    Mount(Box<options::MountArgs>),
    /// Unmount, and wait until the daemon has let go of the store
    #[command(after_help = examples::UMOUNT)]
    Umount(umount::Args),
    /// Show every mount, or one
    #[command(after_help = examples::STATUS)]
    Status(status::Args),
    /// Show the jobs that use a mount, and what is kept for each
    #[command(after_help = examples::READERS)]
    Readers(readers::Args),
    /// Watch a mount as it is used
    #[command(after_help = examples::TOP)]
    Top(top::Args),
    /// Write a page that shows what fills a cache, how old it is, who uses it, and what a prune would take
    #[command(after_help = examples::REPORT)]
    Report(report::Args),
    /// Remove everything, or some paths, in one step; jobs that run go on seeing it
    #[command(after_help = examples::CLEAN)]
    Clean(clean::Args),
    /// Remove what was used least recently, each piece of a cache as a whole
    #[command(after_help = examples::PRUNE)]
    Prune(prune::Args),
    /// Say whether this machine and a store are fit, and how to mend what is not
    #[command(after_help = examples::CHECK)]
    Check(check::Args),
    /// Print the variables that point tools at a mount, for `eval`
    #[command(after_help = examples::ENV)]
    Env(env::Args),
    /// Run a command with a mount of its own, which is gone when it ends; needs no privileges
    #[command(after_help = examples::RUN)]
    Run(run::Args),
    /// Demonstrate a mount with real processes in a temporary directory
    #[command(after_help = examples::TRY)]
    Try,
    /// Print what lets a shell complete the words of this program
    #[command(after_help = examples::COMPLETIONS)]
    Completions(documents::CompletionsArgs),
    /// Print the manual page, or write one for each command
    #[command(after_help = examples::MAN)]
    Man(documents::ManArgs),
    /// What `run` starts for itself: keeps the mount for all who run something with it
    #[command(name = run::KEEPER, hide = true)]
    Keeper(run::KeeperArgs),
    /// What a daemon starts for itself, and nobody else
    #[command(name = outside::COMMAND, hide = true)]
    Outside {
        /// What it may unmount
        mountpoint: PathBuf,
        /// What is mounted there
        store: PathBuf,
        /// What it removes at last, if it is empty
        leftovers: Vec<PathBuf>,
    },
}

/// A mount, named by its mountpoint or its store.
#[derive(Debug, clap::Args)]
struct Named {
    /// The mount: its mountpoint or its store; may be left out where there is just one
    mount: Option<PathBuf>,
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    if helper::is_called() {
        return helper::main();
    }
    let cli = Cli::parse();
    let done = match cli.command {
        // The others log as commands do; a daemon decides that for itself.
        Command::Mount(args) => mount::run(*args),
        Command::Umount(args) => quietly(|| umount::run(&args)),
        Command::Status(args) => quietly(|| status::run(&args)),
        Command::Readers(args) => quietly(|| readers::run(&args)),
        Command::Top(args) => quietly(|| top::run(&args)),
        Command::Report(args) => quietly(|| report::run(&args)),
        Command::Clean(args) => quietly(|| clean::run(&args)),
        Command::Prune(args) => quietly(|| prune::run(&args)),
        Command::Check(args) => quietly(|| check::run(&args)),
        Command::Env(args) => quietly(|| env::run(&args)),
        Command::Run(args) => quietly(|| run::run(&args)),
        Command::Keeper(args) => quietly(|| run::keep(&args)),
        Command::Try => quietly(r#try::run),
        Command::Completions(args) => quietly(|| documents::completions(&args)),
        Command::Man(args) => quietly(|| documents::man(&args)),
        Command::Outside { mountpoint, store, leftovers } => {
            Ok(outside::run(&mountpoint, &store, &leftovers))
        }
    };
    done.unwrap_or_else(|failure| {
        show::failure(&*failure);
        ExitCode::FAILURE
    })
}

fn quietly(command: impl FnOnce() -> Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
    crate::telemetry::for_commands();
    command()
}
