//! `cachefs status`: what each mount's daemon says of itself.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Failure, Named, show};
use crate::control::Command;
use crate::control::client::Client;
use crate::system::mounts::{self, MountPoint};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    named: Named,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mounts = match &args.named.mount {
        Some(named) => vec![mounts::find(Some(named))?],
        None => mounts::ours()?,
    };
    let told: Vec<Value> = mounts.iter().map(ask).collect();
    if args.json {
        return show::print(&format!("{:#}\n", json!({"version": 1, "mounts": told})));
    }
    if told.is_empty() {
        return show::print("There is no cachefs mount.\n");
    }
    show::print(&told.iter().map(describe).collect::<Vec<_>>().join("\n"))
}

/// What the daemon says, or why it says nothing.
fn ask(mount: &MountPoint) -> Value {
    let said = Client::of(mount).and_then(|mut daemon| daemon.ask(&Command::Status));
    said.unwrap_or_else(|error| {
        json!({
            "mountpoint": mount.path.to_string_lossy(),
            "store": mount.source.to_string_lossy(),
            "error": error.to_string(),
        })
    })
}

/// A mount, for people.
pub(super) fn describe(mount: &Value) -> String {
    let text = |key: &str| mount[key].as_str().unwrap_or("?");
    let number = |key: &str| mount[key].as_u64().unwrap_or(0);
    let mut out = format!("{}\n  store     {}\n", text("mountpoint"), text("store"));
    // Writing to a string does not fail.
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:9} {value}");
    };
    if let Some(error) = mount["error"].as_str() {
        row("problem", error.to_owned());
        return out;
    }
    row(
        "daemon",
        format!("pid {}, since {}, access {}", number("pid"), text("since"), text("access")),
    );
    row("health", health(&mount["degraded"]));
    if let (Some(available), Some(bytes)) =
        (mount["space"]["available"].as_u64(), mount["space"]["bytes"].as_u64())
    {
        row("space", format!("{} of {} free", show::bytes(available), show::bytes(bytes)));
    }
    row("live", live(mount));
    row("retired", removed(&mount["retired"]));
    if let Some(files @ 1..) = mount["spilled"]["files"].as_u64() {
        let bytes = mount["spilled"]["bytes"].as_u64().unwrap_or(0);
        let files = show::count(files, "file");
        row("spilled", format!("{} in {files}, until it is unmounted", show::bytes(bytes)));
    }
    for user in mount["users"].as_array().into_iter().flatten() {
        match mount["access"].as_str() {
            // What he removes is counted later.
            Some("scoped") => row("own", has(user, "at most ")),
            _ => row("quota", has(user, "")),
        }
    }
    row("readers", format!("{} running", number("readers")));
    row(
        "in use",
        format!("{} open, {} names known to the kernel", number("handles"), number("nodes")),
    );
    row("look-ups", format!("{} hits, {} misses", number("hits"), number("misses")));
    let is_on = |wanted: bool| names(&mount["kernel"], |value| value.as_bool() == Some(wanted));
    row("kernel", or_none(is_on(true)));
    row("without", or_none(is_on(false)));
    row("confined", confined(&mount["containment"]));
    let asked = mount["requests"].as_object().into_iter().flatten();
    let asked = asked.filter(|(_, count)| count.as_u64() != Some(0));
    row("requests", or_none(asked.map(|(name, count)| format!("{name} {count}")).collect()));
    out
}

/// What the daemon has given up, and what not.
fn confined(containment: &Value) -> String {
    let Some(landlock) = containment["landlock"].as_str() else { return "?".into() };
    let list = |key: &str| -> Vec<&str> {
        containment[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let left = list("capabilities");
    let capabilities = match containment["capabilities_dropped"].as_bool() {
        Some(true) if left.is_empty() => "no capabilities".to_owned(),
        Some(true) => format!("no capabilities but {}", left.join(", ")),
        _ => "all capabilities".to_owned(),
    };
    let mut said = vec![match landlock {
        "full" | "partial" => "to the store (landlock)".to_owned(),
        _ => "to nothing".to_owned(),
    }];
    said.push(capabilities);
    said.extend(list("lacking").into_iter().map(str::to_owned));
    if containment["store_closed"] == false {
        said.push("the store is open to others (see cachefs check)".into());
    }
    said.join("; ")
}

/// What the store holds.
fn live(mount: &Value) -> String {
    let live = &mount["live"];
    let (Some(bytes), Some(files)) = (live["bytes"].as_u64(), live["files"].as_u64()) else {
        return "being counted".into();
    };
    let units = mount["units"].as_u64().unwrap_or(0);
    let (files, units) = (show::count(files, "file"), show::count(units, "unit"));
    let mut said = format!("{} in {files}, {units}", show::bytes(bytes));
    if let Some(most) = mount["limits"]["max_size"].as_str() {
        // Writing to a string does not fail.
        let _ = write!(said, ", of {most}");
    }
    said
}

fn health(degraded: &Value) -> String {
    let Some(reason) = degraded["reason"].as_str() else { return "good".into() };
    match degraded["since"].as_str() {
        Some(since) => format!("degraded since {since}: {reason}"),
        None => format!("degraded: {reason}"),
    }
}

/// What was removed and is still there.
fn removed(retired: &Value) -> String {
    let number = |key: &str| retired[key].as_u64().unwrap_or(0);
    let files = match number("files") {
        0 => return "nothing".into(),
        files => show::count(files, "file"),
    };
    let until = match number("readers") {
        0 => "on its way out".to_owned(),
        1 => "kept for 1 reader (see cachefs readers)".to_owned(),
        many => format!("kept for {many} readers (see cachefs readers)"),
    };
    format!("{} in {files}, {until}", show::bytes(number("bytes")))
}

/// What a user has, and may have.
fn has(user: &Value, about: &str) -> String {
    let number = |key: &str| user["used"][key].as_u64().unwrap_or(0);
    let of = |limit: Option<String>| limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
    let limit = |key: &str| user["limit"][key].as_u64();
    format!(
        "user {}: {about}{}{}, {}{} names{}",
        user["uid"],
        show::bytes(number("bytes")),
        of(limit("bytes").map(show::bytes)),
        number("files"),
        of(limit("files").map(|files| files.to_string())),
        if user["over"] == true { "; over quota" } else { "" },
    )
}

fn names(of: &Value, wanted: impl Fn(&Value) -> bool) -> Vec<String> {
    let all = of.as_object().into_iter().flatten();
    all.filter(|(_, value)| wanted(value)).map(|(name, _)| name.replace('_', " ")).collect()
}

fn or_none(list: Vec<String>) -> String {
    if list.is_empty() { "none".into() } else { list.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_is_told() {
        let all = json!({"landlock": "full", "capabilities": [], "capabilities_dropped": true,
            "lacking": [], "store_closed": true});
        assert_eq!(confined(&all), "to the store (landlock); no capabilities");
        let none = json!({"landlock": "none", "capabilities": ["CHOWN"], "capabilities_dropped": true,
            "lacking": ["landlock is refused: no"], "store_closed": false});
        let said = "to nothing; no capabilities but CHOWN; landlock is refused: no; the store is open \
                    to others (see cachefs check)";
        assert_eq!(confined(&none), said);
        assert_eq!(confined(&json!(null)), "?");
    }

    #[test]
    fn health_is_told_with_its_reason() {
        assert_eq!(health(&json!(null)), "good");
        let degraded = json!({"since": "2026-01-02T03:04:05Z", "reason": "full"});
        assert_eq!(health(&degraded), "degraded since 2026-01-02T03:04:05Z: full");
    }

    #[test]
    fn what_is_live_is_told() {
        assert_eq!(live(&json!({"live": null})), "being counted");
        let mount = json!({"live": {"bytes": 2048, "files": 3}, "units": 2,
            "limits": {"max_size": "20G"}});
        assert_eq!(live(&mount), "2.00 KiB in 3 files, 2 units, of 20G");
    }

    #[test]
    fn what_users_have_is_told() {
        let user = json!({"uid": 2000, "used": {"bytes": 1024, "files": 3},
            "limit": {"bytes": 1 << 20, "files": 10}});
        assert_eq!(
            has(&user, "at most "),
            "user 2000: at most 1.00 KiB of 1.00 MiB, 3 of 10 names"
        );
        let over = json!({"uid": 0, "used": {"bytes": 1024, "files": 3},
            "limit": {"bytes": 1024, "files": null}, "over": true});
        assert_eq!(has(&over, ""), "user 0: 1.00 KiB of 1.00 KiB, 3 names; over quota");
    }

    #[test]
    fn what_is_kept_is_told() {
        let retired = json!({"bytes": 12_897_485, "files": 400, "readers": 2});
        let said = "12.3 MiB in 400 files, kept for 2 readers (see cachefs readers)";
        assert_eq!(removed(&retired), said);
        let last = json!({"bytes": 0, "files": 1, "readers": 0});
        assert_eq!(removed(&last), "0 B in 1 file, on its way out");
        assert_eq!(removed(&json!(null)), "nothing");
    }
}
