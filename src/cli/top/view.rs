//! What is shown: computed from two looks at a daemon.

use std::time::Instant;

use serde_json::Value;

use crate::cli::show;

/// What a daemon has told.
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) status: Value,
    pub(super) readers: Value,
}

/// How full something is.
pub(super) struct Full {
    pub(super) text: String,
    /// From 0 to 1.
    pub(super) share: f64,
}

/// A table: its heads and rows. The first column is what a row is about, all others are numbers.
pub(super) struct Table<const N: usize> {
    pub(super) heads: [&'static str; N],
    pub(super) rows: Vec<[String; N]>,
}

/// All that is shown.
pub(super) struct View {
    pub(super) title: String,
    pub(super) degraded: Option<String>,
    pub(super) live: Option<Full>,
    pub(super) space: Option<Full>,
    pub(super) kept: String,
    pub(super) rates: String,
    pub(super) tools: Table<6>,
    pub(super) operations: Table<4>,
    pub(super) readers: Table<5>,
}

impl View {
    /// What the daemon has done between two looks, and how it was at the second.
    pub(super) fn between(before: &Sample, now: &Sample) -> View {
        let status = &now.status;
        let text = |key: &str| status[key].as_str().unwrap_or("?");
        let seconds = now.at.duration_since(before.at).as_secs_f64();
        // Nothing is known of the first look but how it is now.
        let rate = |was: u64, is: u64| match seconds > 0.0 {
            true => is.saturating_sub(was) as f64 / seconds,
            false => 0.0,
        };
        let number = |at: &[&str]| (find(&before.status, at), find(status, at));
        let per_second = |at: &[&str]| {
            let (was, is) = number(at);
            rate(was, is)
        };
        let degraded = status["degraded"]["reason"].as_str();
        let kept = format!(
            "{} kept for {} of {} readers, {} spilled, {} open",
            show::bytes(find(status, &["retired", "bytes"])),
            find(status, &["retired", "readers"]),
            find(status, &["readers"]),
            show::bytes(find(status, &["spilled", "bytes"])),
            find(status, &["handles"]),
        );
        let rates = format!(
            "{}/s hits, {}/s misses, {}/s published, {}/s written, {}/s read",
            short(per_second(&["hits"])),
            short(per_second(&["misses"])),
            short(per_second(&["published"])),
            show::bytes(per_second(&["written_bytes"]) as u64),
            show::bytes(per_second(&["read_bytes"]) as u64),
        );
        View {
            title: format!(
                "{} on {}, access {}",
                text("mountpoint"),
                text("store"),
                text("access")
            ),
            degraded: degraded.map(show::one_line),
            live: live(status),
            space: space(status),
            kept,
            rates,
            tools: tools(status),
            operations: operations(&before.status, status, rate),
            readers: readers(&now.readers),
        }
    }

    /// So many lines show all of it.
    pub(super) fn height(&self) -> u16 {
        let both = self.tools.rows.len() + self.operations.rows.len();
        let rows = both + self.readers.rows.len();
        u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(16)
    }
}

fn find(value: &Value, at: &[&str]) -> u64 {
    at.iter().fold(value, |value, key| &value[*key]).as_u64().unwrap_or(0)
}

fn live(status: &Value) -> Option<Full> {
    let (bytes, files) = (status["live"]["bytes"].as_u64()?, find(status, &["live", "files"]));
    let units = find(status, &["units"]);
    let (files, units) = (show::count(files, "file"), show::count(units, "unit"));
    let mut text = format!("{} in {files}, {units}", show::bytes(bytes));
    let whole = find(status, &["space", "bytes"]);
    let limit = status["limits"]["max_size"].as_str();
    let most = limit.and_then(|limit| limit.parse::<crate::prune::size::Size>().ok());
    let mut share = bytes as f64 / whole.max(1) as f64;
    if let (Some(limit), Some(most)) = (limit, most) {
        text += &format!(", of {limit}");
        share = bytes as f64 / most.of(whole).max(1) as f64;
    }
    Some(Full { text, share: share.clamp(0.0, 1.0) })
}

fn space(status: &Value) -> Option<Full> {
    let bytes = status["space"]["bytes"].as_u64()?;
    let free = find(status, &["space", "available"]);
    let text = format!("{} of {} free", show::bytes(free), show::bytes(bytes));
    let share = 1.0 - free as f64 / bytes.max(1) as f64;
    Some(Full { text, share: share.clamp(0.0, 1.0) })
}

/// What each tool keeps, the largest first.
fn tools(status: &Value) -> Table<6> {
    let mut told: Vec<&Value> = status["tools"].as_array().into_iter().flatten().collect();
    told.sort_by_key(|tool| std::cmp::Reverse(tool["bytes"].as_u64()));
    let row = |tool: &Value| {
        let number = |key: &str| tool[key].as_u64().unwrap_or(0);
        [
            tool["tool"].as_str().unwrap_or("?").to_owned(),
            show::bytes(number("bytes")),
            number("units").to_string(),
            number("hits").to_string(),
            number("misses").to_string(),
            number("pruned_units").to_string(),
        ]
    };
    let heads = ["TOOL", "HELD", "UNITS", "HITS", "MISSES", "PRUNED"];
    Table { heads, rows: told.into_iter().map(row).collect() }
}

/// What the kernel asked for most just now.
fn operations(before: &Value, now: &Value, rate: impl Fn(u64, u64) -> f64) -> Table<4> {
    let mut asked: Vec<(&str, f64)> = Vec::new();
    for (name, count) in now["requests"].as_object().into_iter().flatten() {
        let was = find(before, &["requests", name]);
        let count = count.as_u64().unwrap_or(0);
        if count > 0 {
            asked.push((name, rate(was, count)));
        }
    }
    asked.sort_by(|(one, a), (other, b)| b.total_cmp(a).then(one.cmp(other)));
    let row = |(name, rate): (&str, f64)| {
        let latency = &now["latency"][name];
        let time = |key: &str| match latency[key].as_u64() {
            Some(microseconds) => format!("{microseconds} us"),
            None => "-".to_owned(),
        };
        [name.to_owned(), short(rate), time("p50"), time("p99")]
    };
    let heads = ["REQUEST", "PER S", "HALF <", "99% <"];
    Table { heads, rows: asked.into_iter().map(row).collect() }
}

/// Who uses the mount: first those for whom most is kept.
fn readers(told: &Value) -> Table<5> {
    let mut all: Vec<&Value> = told["readers"].as_array().into_iter().flatten().collect();
    let key = |reader: &Value| (find(reader, &["retired_bytes"]), find(reader, &["open_files"]));
    all.sort_by_key(|reader| std::cmp::Reverse(key(reader)));
    let row = |reader: &Value| {
        let number = |key: &str| reader[key].as_u64().unwrap_or(0);
        let pid = number("pid");
        let command = reader["command"].as_str().unwrap_or("?").to_owned();
        [
            if pid == 0 { "(can't be seen from here)".to_owned() } else { command },
            if pid == 0 { "?".to_owned() } else { pid.to_string() },
            number("uid").to_string(),
            number("open_files").to_string(),
            show::bytes(number("retired_bytes")),
        ]
    };
    let heads = ["READER", "PID", "USER", "OPEN", "KEPT"];
    Table { heads, rows: all.into_iter().map(row).collect() }
}

/// A rate, to a few digits.
fn short(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{rate:.1}"),
        ..100_000.0 => format!("{rate:.0}"),
        _ => format!("{:.0}k", rate / 1000.0),
    }
}
