//! How a command talks to a running daemon, and how the daemon answers.
//!
//! One JSON document a line each way, over a Unix socket: at `STORE/.cachefs/control.sock` for root and the
//! daemon's user, and for everyone where [`public`] says:
//!
//! ```text
//! {"version":1,"command":"status"}                {"version":1,"ok":{...}}
//! {"version":1,"command":"readers"}               {"version":1,"ok":{...}}
//! {"version":1,"command":"clean","paths":["uv"]}  {"version":1,"ok":{"removed":7,"seen_by":1}}
//! {"version":1,"command":"prune","max_size":"20G"}  {"version":1,"ok":{"units":[...],"freed_now":4096,...}}
//! {"version":1,"command":"units"}                 {"version":1,"ok":{"units":[...],"held":{...},...}}
//! {"version":1,"command":"unmount","lazy":true}   {"version":1,"error":"what, why, what to do"}
//! ```
//!
//! Who may open the socket may ask for `status` and `readers`; what changes anything is for root and
//! the daemon's own user (SEMANTICS 5.6), and so is `units`, which tells the names of what users have cached.
//!
//! `units` answers with all that the store holds, by unit, in the order in which `prune` would choose them:
//! each with its `tool`, `name`, `path` (where it is not UTF-8, with replacement characters), `bytes`, `files`,
//! `last_used`, `age` (seconds since then), `in_use`, and `frees`: what becomes free when its turn has come, null
//! if it can't go now. `along` says that it goes with the one before it in the list. Of more than
//! [`MOST_UNITS`] units the smallest are only counted, by tool, in `others`. `history` has the `hits` and `misses`
//! of the last day, by minute.

pub mod client;
pub mod paths;
pub mod public;
mod room;
pub mod server;

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::prune::size::Size;

/// The version of the protocol.
pub const VERSION: u64 = 1;

/// The socket's name in the store's own folder.
pub const SOCKET: &str = "control.sock";

/// No line may be longer, in bytes.
pub const LONGEST_LINE: usize = 64 * 1024;

/// No more units are told one by one.
pub const MOST_UNITS: usize = 100_000;

/// What can be asked of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// How it is doing.
    Status,
    /// Who uses the mount, and what is kept for them.
    Readers,
    /// What the store holds, by unit.
    Units,
    /// To take names out of the live view, all in one step.
    Clean {
        /// Relative to the mount; all of it if there are none.
        #[serde(with = "paths")]
        paths: Vec<PathBuf>,
    },
    /// To prune by unit.
    Prune(PruneWords),
    /// To unmount; the answer comes before the daemon ends.
    Unmount {
        /// Also while it is in use: those who have files open may finish.
        #[serde(default)]
        lazy: bool,
    },
}

/// What is to be pruned. Without any limit: by those of the mount, or all that is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PruneWords {
    /// What may stay, such as `20G`.
    pub max_size: Option<Size>,
    /// What was last used longer ago goes, in seconds.
    pub older_than: Option<u64>,
    /// What is to be free, such as `10%`.
    pub min_free: Option<Size>,
    /// Only of these tools.
    pub tools: Vec<String>,
    /// Only with these paths, relative to the mount.
    #[serde(with = "paths")]
    pub paths: Vec<PathBuf>,
    /// Only say what would go.
    pub dry_run: bool,
}

impl Command {
    /// Whether everyone may ask it, who may use the mount.
    pub fn is_for_everyone(&self) -> bool {
        matches!(self, Command::Status | Command::Readers)
    }

    /// As a line of the protocol, with its end.
    fn to_line(&self) -> String {
        let mut request = serde_json::to_value(self).unwrap_or_default();
        request["version"] = VERSION.into();
        format!("{request}\n")
    }

    /// From a line of the protocol; what is wrong with it otherwise.
    fn from_line(line: &[u8]) -> Result<Command, String> {
        let request: Value = serde_json::from_slice(line)
            .map_err(|e| format!("this is not a JSON document on one line: {e}"))?;
        match request.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(other) => {
                return Err(format!(
                    "version {other} of the protocol is not known, only {VERSION}; use the `cachefs` of the \
                     same version as the daemon"
                ));
            }
            None => {
                return Err(format!(r#"the request says no version; add "version": {VERSION}"#));
            }
        }
        serde_json::from_value(request).map_err(|e| format!("the request is not understood: {e}"))
    }
}

/// As a line of the protocol, with its end.
fn answer_line(answer: Result<Value, String>) -> String {
    let answer = match answer {
        Ok(ok) => json!({"version": VERSION, "ok": ok}),
        Err(error) => json!({"version": VERSION, "error": error}),
    };
    format!("{answer}\n")
}

/// A socket's address may have no more than 107 bytes; this one leads through an open directory.
fn address(folder: BorrowedFd<'_>, name: impl AsRef<Path>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written() {
        let odd = PathBuf::from(std::ffi::OsString::from_vec(vec![b'a', 0xff]));
        for command in [
            Command::Status,
            Command::Readers,
            Command::Units,
            Command::Clean { paths: vec![] },
            Command::Clean { paths: vec!["uv/wheels".into(), odd] },
            Command::Prune(PruneWords::default()),
            Command::Prune(PruneWords {
                max_size: Some(Size::Bytes(20 << 30)),
                older_than: Some(60),
                min_free: Some(Size::Percent(10)),
                tools: vec!["uv".into()],
                paths: vec!["pip/http-v2".into()],
                dry_run: true,
            }),
            Command::Unmount { lazy: true },
        ] {
            assert_eq!(Command::from_line(command.to_line().trim().as_bytes()), Ok(command));
        }
        let short = br#"{"version":1,"command":"unmount"}"#;
        assert_eq!(Command::from_line(short), Ok(Command::Unmount { lazy: false }));
    }

    #[test]
    fn other_lines_are_explained() {
        for (line, why) in [
            (&b"\xff\x00"[..], "not a JSON"),
            (b"[]", "no version"),
            (br#"{"version":2,"command":"status"}"#, "version 2"),
            (br#"{"version":1,"command":"dance"}"#, "not understood"),
            (br#"{"version":1,"command":"unmount","lazy":3}"#, "not understood"),
            // Whoever means everything has to say so.
            (br#"{"version":1,"command":"clean"}"#, "paths"),
            (br#"{"version":1,"command":"clean","paths":"uv"}"#, "not understood"),
            (br#"{"version":1,"command":"clean","paths":[3]}"#, "not understood"),
            (br#"{"version":1,"command":"clean","paths":[[300]]}"#, "not understood"),
            (br#"{"version":1,"command":"clean","paths":["ok","../x"]}"#, "`..`"),
            (br#"{"version":1,"command":"clean","paths":["/etc"]}"#, "not relative"),
            (br#"{"version":1,"command":"clean","paths":["a\u0000"]}"#, "NUL"),
            (br#"{"version":1,"command":"clean","paths":[[47]]}"#, "not relative"),
            (br#"{"version":1,"command":"prune","max_size":"20"}"#, "unit is missing"),
            (br#"{"version":1,"command":"prune","older_than":-1}"#, "not understood"),
            (br#"{"version":1,"command":"prune","paths":["../x"]}"#, "`..`"),
            (&[b'['; 60_000], "not a JSON"),
        ] {
            let said = Command::from_line(line).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
