//! The page, put together from what a daemon has told. What needs no script is there without one.

use std::fmt::Write;

use serde_json::Value;

use super::Told;
use super::figures::{AGES, Figures, class};
use super::time::over_time;
use super::words::{ago, data, escape, fill, grouped, name};
use crate::cli::{readers, show, status};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// So many units are in the table of the largest.
const LARGEST: usize = 100;

/// And so many readers in theirs.
const READERS: usize = 50;

/// The whole page.
pub(super) fn page(told: &Told) -> String {
    let status = &told.status;
    let text = |key: &str| status[key].as_str().unwrap_or("?").to_owned();
    let figures = Figures::of(&told.units);
    let at = told.units["at"].as_str().unwrap_or("?").replace('T', " ").replace('Z', " UTC");
    let values = [
        ("title", format!("{} - cachefs report", escape(&text("mountpoint")))),
        ("style", STYLE.to_owned()),
        ("script", SCRIPT.to_owned()),
        ("data", data(&figures.data())),
        ("mountpoint", name(&text("mountpoint"))),
        ("store", name(&text("store"))),
        ("access", escape(&text("access"))),
        ("at", escape(&at)),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("health", health(&status["degraded"])),
        ("tiles", tiles(told, &figures)),
        ("legend", legend()),
        ("ages", ages(&figures)),
        ("asked", asked(status)),
        ("since", escape(&since(&status["since"]))),
        ("over_time", over_time(&told.units["history"])),
        ("tools", tools(status)),
        ("readers", readers_of(&told.readers)),
        ("users", users(status)),
        ("facts", facts(told)),
        ("largest", largest(&figures)),
        ("notes", notes(told, &figures)),
    ];
    fill(PAGE, &values)
}

fn health(degraded: &Value) -> String {
    match degraded["reason"].as_str() {
        Some(reason) => format!("<p class=\"bad\">Degraded: {}</p>", escape(reason)),
        None => "<p class=\"good\">In good health</p>".into(),
    }
}

/// The numbers at the top.
fn tiles(told: &Told, figures: &Figures<'_>) -> String {
    let status = &told.status;
    let number = |key: &str| status[key].as_u64().unwrap_or(0);
    let (hits, misses) = (number("hits"), number("misses"));
    let of = match status["limits"]["max_size"].as_str() {
        Some(most) => format!("of {most}"),
        None => "no limit on its size".into(),
    };
    let share = match hits + misses {
        0 => "-".to_owned(),
        all => format!("{:.0}%", hits as f64 * 100.0 / all as f64),
    };
    let retired = show::bytes(status["retired"]["bytes"].as_u64().unwrap_or(0));
    let space = &status["space"];
    let bytes = |value: &Value| show::bytes(value.as_u64().unwrap_or(0));
    let files = grouped(told.units["held"]["files"].as_u64().unwrap_or(0));
    let all = [
        ("Held", show::bytes(figures.held), of),
        ("Units", grouped(figures.count()), format!("in {files} files")),
        ("Free", bytes(&space["available"]), format!("on a disk of {}", bytes(&space["bytes"]))),
        ("Found", share, format!("{} hits, {} misses", grouped(hits), grouped(misses))),
        ("Readers", grouped(number("readers")), format!("{retired} kept for them")),
    ];
    let tile = |(head, value, more): &(&str, String, String)| {
        let (value, more) = (escape(value), escape(more));
        format!("<div><dt>{head}</dt><dd><b>{value}</b><span>{more}</span></dd></div>\n")
    };
    all.iter().map(tile).collect()
}

fn legend() -> String {
    let one = |(number, (_, name)): (usize, &(u64, &str))| {
        format!("<li><i class=\"c{number}\"></i>{name}</li>")
    };
    AGES.iter().enumerate().map(one).collect()
}

/// A row with a bar: `parts` are classes and their shares of the whole width, from 0 to 1.
fn bar(head: &str, parts: &[(&str, f64)], value: &str) -> String {
    let mut out = format!("<tr><th scope=\"row\">{}</th><td class=\"bar\">", escape(head));
    for (class, share) in parts {
        let width = (share * 100.0).clamp(0.0, 100.0);
        // Writing to a string does not fail.
        let _ = write!(out, "<i class=\"{class}\" style=\"width:{width:.2}%\"></i>");
    }
    out + &format!("</td><td class=\"n\">{}</td></tr>\n", escape(value))
}

fn ages(figures: &Figures<'_>) -> String {
    let by_age = figures.by_age();
    let most = by_age.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0).max(1);
    let row = |(number, (bytes, units)): (usize, &(u64, u64))| {
        let class = format!("c{number}");
        let value = format!("{} in {}", show::bytes(*bytes), units_of(*units));
        bar(AGES[number].1, &[(&class, *bytes as f64 / most as f64)], &value)
    };
    by_age.iter().enumerate().map(row).collect()
}

fn units_of(units: u64) -> String {
    match units {
        1 => "1 unit".into(),
        many => format!("{} units", grouped(many)),
    }
}

/// Hits and misses by tool.
fn asked(status: &Value) -> String {
    let tools = status["tools"].as_array().into_iter().flatten();
    let numbers = |tool: &Value| {
        let number = |key: &str| tool[key].as_u64().unwrap_or(0);
        (tool["tool"].as_str().unwrap_or("?").to_owned(), number("hits"), number("misses"))
    };
    let mut all: Vec<_> =
        tools.map(numbers).filter(|(_, hits, misses)| hits + misses > 0).collect();
    all.sort_by_key(|(_, hits, misses)| std::cmp::Reverse(hits + misses));
    if all.is_empty() {
        return "<tr><td>Nothing was asked for since it was mounted.</td></tr>".into();
    }
    let most = all.iter().map(|(_, hits, misses)| hits + misses).max().unwrap_or(1) as f64;
    let row = |(tool, hits, misses): &(String, u64, u64)| {
        let parts = [("hit", *hits as f64 / most), ("miss", *misses as f64 / most)];
        bar(tool, &parts, &format!("{} / {}", grouped(*hits), grouped(*misses)))
    };
    all.iter().map(row).collect()
}

/// A row of a table: names first, then numbers.
fn row(names: &[String], numbers: &[String]) -> String {
    let names = names.iter().map(|text| format!("<td>{text}</td>"));
    let numbers = numbers.iter().map(|text| format!("<td class=\"n\">{}</td>", escape(text)));
    format!("<tr>{}</tr>\n", names.chain(numbers).collect::<String>())
}

fn tools(status: &Value) -> String {
    let mut all: Vec<&Value> = status["tools"].as_array().into_iter().flatten().collect();
    all.sort_by_key(|tool| std::cmp::Reverse(tool["bytes"].as_u64()));
    let one = |tool: &&Value| {
        let number = |key: &str| tool[key].as_u64().unwrap_or(0);
        let counts = ["units", "hits", "misses", "pruned_units"].map(|key| grouped(number(key)));
        let numbers: Vec<String> =
            [show::bytes(number("bytes"))].into_iter().chain(counts).collect();
        row(&[escape(tool["tool"].as_str().unwrap_or("?"))], &numbers)
    };
    all.iter().map(one).collect()
}

fn readers_of(told: &Value) -> String {
    let mut all: Vec<&Value> = told["readers"].as_array().into_iter().flatten().collect();
    if all.is_empty() {
        return "<tr><td colspan=\"5\">Nobody, just now.</td></tr>".into();
    }
    let number = |reader: &Value, key: &str| reader[key].as_u64().unwrap_or(0);
    all.sort_by_key(|reader| {
        std::cmp::Reverse((number(reader, "retired_bytes"), number(reader, "open_files")))
    });
    let one = |reader: &&Value| {
        let pid = number(reader, "pid");
        let command = match reader["command"].as_str() {
            Some(command) if pid != 0 => name(&readers::cut(command.to_owned())),
            _ => "(can't be seen from here)".into(),
        };
        let since = reader["since"].as_str().unwrap_or("?").replace('T', " ").replace('Z', "");
        let pid = if pid == 0 { "?".to_owned() } else { pid.to_string() };
        let numbers = [
            pid,
            number(reader, "uid").to_string(),
            grouped(number(reader, "open_files")),
            show::bytes(number(reader, "retired_bytes")),
        ];
        row(&[command, escape(&since)], &numbers)
    };
    let mut rows: String = all.iter().take(READERS).map(one).collect();
    if let Some(more @ 1..) = all.len().checked_sub(READERS) {
        rows += &format!("<tr><td colspan=\"6\">and {more} more</td></tr>");
    }
    rows
}

/// What users have: with `scoped` to themselves, and so in no unit; else in the store. Nothing where nobody is
/// counted.
fn users(status: &Value) -> String {
    let all = status["users"].as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        return String::new();
    }
    let (title, about) = match status["access"] == "scoped" {
        true => (
            "What users have to themselves",
            "Each of them alone sees it. It is in no unit, is not pruned, and goes when this is unmounted.",
        ),
        false => ("What users have", "In the store, by who made it."),
    };
    let one = |user: &Value| {
        let number = |of: &str, key: &str| user[of][key].as_u64();
        let most = |said: Option<String>| said.unwrap_or_else(|| "no limit".into());
        let name = match user["over"] == true {
            true => format!("{}, over quota", user["uid"]),
            false => user["uid"].to_string(),
        };
        let numbers = [
            show::bytes(number("used", "bytes").unwrap_or(0)),
            most(number("limit", "bytes").map(show::bytes)),
            grouped(number("used", "files").unwrap_or(0)),
            most(number("limit", "files").map(grouped)),
        ];
        row(&[escape(&name)], &numbers)
    };
    let mut all: Vec<&Value> = all.iter().collect();
    all.sort_by_key(|user| std::cmp::Reverse(user["used"]["bytes"].as_u64()));
    let mut rows: String = all.iter().take(READERS).map(|user| one(user)).collect();
    if let Some(more @ 1..) = all.len().checked_sub(READERS) {
        rows += &format!("<tr><td colspan=\"5\">and {more} more</td></tr>");
    }
    let heads: String = ["Held", "At most", "Names", "At most"]
        .iter()
        .map(|head| format!("<th scope=\"col\" class=\"n\">{head}</th>"))
        .collect();
    format!(
        "<section class=\"card\" aria-labelledby=\"have\">\n<h2 id=\"have\">{title}</h2>\n\
         <p class=\"quiet\">{about}</p>\n\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"have\"><table>\n\
         <thead><tr><th scope=\"col\">User</th>{heads}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n\
         </section>\n"
    )
}

/// When the mount was made, by which everything counts.
fn since(told: &Value) -> String {
    let told = told.as_str().unwrap_or("?").replace('T', " ");
    told.split(['.', 'Z']).next().map_or_else(String::new, |at| format!("{at} UTC"))
}

/// What `cachefs status` says, for those who want to know.
fn facts(told: &Told) -> String {
    let limits = &told.status["limits"];
    let seconds = |value: &Value| value.as_u64().map(|age| ago(age).replace(" ago", ""));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let limits = [
        ("at most", text(&limits["max_size"])),
        ("unused for at most", seconds(&limits["max_age"])),
        ("left free", text(&limits["min_free"])),
        ("looked after every", seconds(&limits["prune_every"])),
        ("layout", text(&limits["layout"])),
    ];
    let said: Vec<String> =
        limits.into_iter().filter_map(|(name, it)| Some(format!("{name} {}", it?))).collect();
    let mut rows = format!("<dt>limits</dt><dd>{}</dd>\n", escape(&said.join(", ")));
    // The first line is the mountpoint, which is above.
    for line in status::describe(&told.status).lines().skip(1) {
        let (key, value) = line.trim().split_once(' ').unwrap_or((line, ""));
        let _ = writeln!(rows, "<dt>{}</dt><dd>{}</dd>", escape(key), escape(value.trim()));
    }
    rows
}

fn largest(figures: &Figures<'_>) -> String {
    let one = |unit: &&super::figures::Unit<'_>| {
        let used = match unit.in_use {
            true => format!("{}, in use", ago(unit.age)),
            false => ago(unit.age),
        };
        let key = format!("<i class=\"c{}\"></i>{}", class(unit.age), escape(&used));
        row(&[name(unit.name), escape(unit.tool), key], &[show::bytes(unit.bytes)])
    };
    let rows: String = figures.largest().iter().take(LARGEST).map(one).collect();
    match rows.is_empty() {
        true => "<tr><td>There are none.</td></tr>".into(),
        false => rows,
    }
}

/// What the numbers leave out.
fn notes(told: &Told, figures: &Figures<'_>) -> String {
    let mut notes = Vec::new();
    if figures.kept > 0 {
        notes.push(format!(
            "{} of what is held is in no unit, such as lock files and databases, and is never pruned.",
            show::bytes(figures.kept)
        ));
    }
    if told.units["unknown"] == true {
        notes.push(
            "Nothing in the store looks like the cache of a tool that is known. Mounted with \
             --layout generic:DEPTH, every entry at that depth is a unit."
                .into(),
        );
    }
    if let Some(unread @ 1..) = told.units["unread"].as_u64() {
        notes.push(format!("{unread} directories could not be read."));
    }
    if told.units["others"].as_array().is_some_and(|others| !others.is_empty()) {
        notes.push(
            "The smallest units are only counted: a prune may take some of them, too.".into(),
        );
    }
    notes.iter().map(|note| format!("<p class=\"quiet\">{}</p>\n", escape(note))).collect()
}
