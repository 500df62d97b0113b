//! `cachefs env`: the variables that point tools at a mount.

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
pub(super) const VARIABLES: &[(&str, &str)] = &[
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

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mount = mounts::find(args.named.mount.as_deref())?;
    let lines = VARIABLES.iter().map(|(name, folder)| {
        let path = mount.path.join(folder);
        line(args.shell, name, &path)
    });
    show::print(&lines.collect::<Result<String, _>>()?)
}

fn line(shell: Shell, name: &str, path: &Path) -> Result<String, Failure> {
    let Some(path) = path.to_str() else {
        return Err(
            format!("the mountpoint {} is not UTF-8; mount elsewhere", path.display()).into()
        );
    };
    Ok(match shell {
        Shell::Sh => format!("export {name}='{}'\n", path.replace('\'', r"'\''")),
        Shell::Fish => {
            format!("set -gx {name} '{}';\n", path.replace('\\', r"\\").replace('\'', r"\'"))
        }
        Shell::Powershell => format!("$env:{name} = '{}'\n", path.replace('\'', "''")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_kept_out_of_the_shell() {
        let path = Path::new(r"/m/o'x\y z");
        assert_eq!(line(Shell::Sh, "A", path).unwrap(), "export A='/m/o'\\''x\\y z'\n");
        assert_eq!(line(Shell::Fish, "A", path).unwrap(), "set -gx A '/m/o\\'x\\\\y z';\n");
        assert_eq!(line(Shell::Powershell, "A", path).unwrap(), "$env:A = '/m/o''x\\y z'\n");
    }
}
