//! `cachefs completions` and `cachefs man`: what packagers install beside the program, made from the same
//! description of the command line that the program reads its words by.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{fs, io};

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Failure, show};

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Known,
}

/// The shells that there are completions for.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Known {
    Bash,
    Fish,
    Powershell,
    Zsh,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Write a page for each command to this directory, which is created if it is missing, instead of the
    /// first page to standard output
    directory: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let shell = match args.shell {
        Known::Bash => Shell::Bash,
        Known::Fish => Shell::Fish,
        Known::Powershell => Shell::PowerShell,
        Known::Zsh => Shell::Zsh,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut visible(), "cachefs", &mut text);
    show::print(&String::from_utf8(text)?)
}

pub(super) fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    let mut pages = pages()?;
    let Some(directory) = &args.directory else {
        // The first page is the program's own.
        return show::print(&String::from_utf8(pages.swap_remove(0).1)?);
    };
    let write = || {
        fs::create_dir_all(directory)?;
        pages.iter().try_for_each(|(name, page)| fs::write(directory.join(name), page))
    };
    write().map_err(|e: io::Error| {
        format!("can't write manual pages to {}: {e}; name another directory", directory.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The manual pages with their file names: the program's, one for each command, and that of the helper of
/// `mount(8)`.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut all = visible().disable_help_subcommand(true);
    all.build();
    let commands: Vec<_> = all.get_subcommands().cloned().collect();
    let version = env!("CARGO_PKG_VERSION");
    let mut pages = Vec::new();
    for command in std::iter::once(all).chain(commands) {
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let page = Man::new(command).source(format!("cachefs {version}"));
        pages.push((page.get_filename(), render(&page, &examples)?));
    }
    let helper = super::helper::Args::augment_args(clap::Command::new(super::helper::NAME))
        .about("helps mount(8) to make cachefs mounts")
        .version(version);
    let page = Man::new(helper).section("8").source(format!("cachefs {version}"));
    pages.push((format!("{}.8", super::helper::NAME), render(&page, super::examples::HELPER)?));
    Ok(pages)
}

/// A page. The examples are laid out as they are: whoever copies a line must get a whole one.
fn render(page: &Man, examples: &str) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    page.render_subcommands_section(&mut out)?;
    let lines = examples.lines().skip(1).collect::<Vec<_>>().join("\n");
    let mut roff = roff::Roff::new();
    roff.control("SH", ["EXAMPLES"]).control("nf", []).text([lines.into()]).control("fi", []);
    roff.to_writer(&mut out)?;
    page.render_version_section(&mut out)?;
    Ok(out)
}

/// The command line without what is nobody's to type: clap can hide a command, but not from what is
/// generated for shells.
fn visible() -> clap::Command {
    let all = Cli::command();
    let shown: Vec<_> = all.get_subcommands().filter(|it| !it.is_hide_set()).cloned().collect();
    let mut without = clap::Command::new("cachefs").subcommand_required(true).subcommands(shown);
    without = without.version(env!("CARGO_PKG_VERSION")).propagate_version(true);
    if let Some(about) = all.get_about() {
        without = without.about(about.clone());
    }
    match all.get_after_help() {
        Some(text) => without.after_help(text.clone()),
        None => without,
    }
}
