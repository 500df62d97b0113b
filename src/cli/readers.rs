//! `cachefs readers`: the jobs that use a mount, and what is kept for each.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::Value;

use super::{Failure, Named, show};
use crate::control::Command;
use crate::control::client::Client;
use crate::system::mounts;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    named: Named,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mount = mounts::find(args.named.mount.as_deref())?;
    let mut told = Client::of(&mount)?.ask(&Command::Readers)?;
    if args.json {
        told["version"] = 1.into();
        return show::print(&format!("{told:#}\n"));
    }
    show::print(&table(&told))
}

/// The jobs, for people.
pub(super) fn table(told: &Value) -> String {
    let readers: Vec<&Value> = told["readers"].as_array().into_iter().flatten().collect();
    if readers.is_empty() {
        let at = told["mountpoint"].as_str().unwrap_or("the mount");
        return format!("No job uses {at}.\n");
    }
    let heads = ["PID", "USER", "SINCE", "OPEN", "KEPT", "CGROUP", "COMMAND"].map(str::to_owned);
    let rows: Vec<[String; 7]> =
        std::iter::once(heads).chain(readers.into_iter().map(row)).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, text) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            // Writing to a string does not fail.
            let _ = write!(line, "{text:width$}  ");
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

fn row(reader: &Value) -> [String; 7] {
    let text = |key: &str| reader[key].as_str().unwrap_or("?").to_owned();
    let number = |key: &str| reader[key].as_u64().unwrap_or(0);
    let seen = number("pid") != 0;
    let pid = if seen { number("pid").to_string() } else { "?".into() };
    let command = if seen { text("command") } else { "(can't be seen from here)".into() };
    [
        pid,
        number("uid").to_string(),
        text("since"),
        number("open_files").to_string(),
        show::bytes(number("retired_bytes")),
        short_cgroup(&text("cgroup")),
        cut(command),
    ]
}

/// No more of a command is shown, in characters.
const LONGEST_COMMAND: usize = 80;

/// A command, no longer than is shown of it.
pub(super) fn cut(text: String) -> String {
    match text.char_indices().nth(LONGEST_COMMAND) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The last part of a cgroup's path, with a container's id as `docker ps` shows it.
fn short_cgroup(path: &str) -> String {
    let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("/");
    let is_id = |word: &&str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    match name.split(['-', '.']).find(is_id) {
        Some(id) => name.replace(id, &id[..12]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let told = json!({"mountpoint": "/m", "readers": [
            {"pid": 7, "command": "uv pip install x", "uid": 1000, "cgroup": "/user.slice/a.scope",
             "since": "2026-01-02T03:04:05Z", "open_files": 3, "retired_bytes": 2048},
            {"pid": 0, "command": null, "uid": 0, "cgroup": null, "since": "2026-01-02T03:04:06Z",
             "open_files": 0, "retired_bytes": 0},
        ]});
        let shown = table(&told);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[0], "PID  USER  SINCE                 OPEN  KEPT      CGROUP   COMMAND");
        assert_eq!(
            lines[1],
            "7    1000  2026-01-02T03:04:05Z  3     2.00 KiB  a.scope  uv pip install x"
        );
        assert!(lines[2].starts_with("?    0"), "{shown}");
        assert_eq!(table(&json!({"mountpoint": "/m", "readers": []})), "No job uses /m.\n");
    }

    #[test]
    fn containers_are_named_as_people_know_them() {
        let id = "0123456789abcdef".repeat(4);
        let docker = format!("/system.slice/docker-{id}.scope");
        assert_eq!(short_cgroup(&docker), "docker-0123456789ab.scope");
        assert_eq!(short_cgroup(&format!("/docker/{id}")), "0123456789ab");
        assert_eq!(short_cgroup("/"), "/");
        assert_eq!(short_cgroup("?"), "?");
    }

    #[test]
    fn long_commands_are_cut_between_characters() {
        let longest = "ä".repeat(LONGEST_COMMAND);
        assert_eq!(cut(format!("{longest}ä")), format!("{longest}..."));
        assert_eq!(cut(longest.clone()), longest);
    }
}
