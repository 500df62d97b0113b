//! `cachefs env`: the variables that point tools at a mount.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;

use super::{Failure, Named, show};
use crate::system::mounts;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    named: Named,

    /// For which shell
    #[arg(long, value_enum, default_value_t = Shell::Sh)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    /// sh, bash, zsh, dash
    Sh,
    Fish,
    Powershell,
}

/// Variables of tools, and the folder for each. Only such as name a pure cache: `HF_HOME` and
/// `CARGO_HOME` hold credentials, Poetry's cache holds virtual environments.
const VARIABLES: &[(&str, &str)] = &[
    ("UV_CACHE_DIR", "uv"),
    ("PIP_CACHE_DIR", "pip"),
    ("RUFF_CACHE_DIR", "ruff"),
    ("PRE_COMMIT_HOME", "pre-commit"),
    ("npm_config_cache", "npm"),
    ("GOCACHE", "go-build"),
    ("GOMODCACHE", "go-mod"),
    ("CCACHE_DIR", "ccache"),
    ("SCCACHE_DIR", "sccache"),
    ("HF_HUB_CACHE", "huggingface/hub"),
];

/// What else tools have to know of a cache on a mount: uv can't make hard links out of one, and would say so
/// each time before it copies.
const SETTINGS: &[(&str, &str)] = &[("UV_LINK_MODE", "copy")];

/// The variables that point tools at the mount at `mountpoint`, and their values.
pub(super) fn variables(mountpoint: &Path) -> impl Iterator<Item = (&'static str, OsString)> {
    let folders = VARIABLES.iter().map(|(name, folder)| (*name, mountpoint.join(folder).into()));
    folders.chain(SETTINGS.iter().map(|(name, value)| (*name, OsString::from(value))))
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mount = mounts::find(args.named.mount.as_deref())?;
    let lines = variables(&mount.path).map(|(name, value)| match value.to_str() {
        Some(value) => Ok(line(args.shell, name, value)),
        None => {
            Err(format!("the mountpoint {} is not UTF-8; mount elsewhere", mount.path.display()))
        }
    });
    show::print(&lines.collect::<Result<String, _>>()?)
}

fn line(shell: Shell, name: &str, value: &str) -> String {
    match shell {
        Shell::Sh => format!("export {name}='{}'\n", value.replace('\'', r"'\''")),
        Shell::Fish => {
            format!("set -gx {name} '{}';\n", value.replace('\\', r"\\").replace('\'', r"\'"))
        }
        Shell::Powershell => format!("$env:{name} = '{}'\n", value.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_kept_out_of_the_shell() {
        let path = r"/m/o'x\y z";
        assert_eq!(line(Shell::Sh, "A", path), "export A='/m/o'\\''x\\y z'\n");
        assert_eq!(line(Shell::Fish, "A", path), "set -gx A '/m/o\\'x\\\\y z';\n");
        assert_eq!(line(Shell::Powershell, "A", path), "$env:A = '/m/o''x\\y z'\n");
    }
}
