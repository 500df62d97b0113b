//! What was asked over time: a chart, and the same as a table.

use std::fmt::Write;

use serde_json::Value;

use super::words::{ago, grouped};
use crate::cli::show;

/// It is shown in no more parts.
const PARTS: usize = 96;

/// Some minutes that follow each other.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    /// How long ago its first minute ended, in seconds.
    ago: u64,
    hits: u64,
    misses: u64,
}

impl Part {
    fn of(minutes: &[Value]) -> Part {
        let number = |minute: &Value, key: &str| minute[key].as_u64().unwrap_or(0);
        let sum = |key: &str| minutes.iter().map(|minute| number(minute, key)).sum();
        let ago = minutes.first().map_or(0, |minute| number(minute, "ago"));
        Part { ago, hits: sum("hits"), misses: sum("misses") }
    }

    fn all(&self) -> u64 {
        self.hits + self.misses
    }
}

/// Parts of so many minutes, the oldest first; that one may have fewer.
fn parts(minutes: &[Value]) -> (Vec<Part>, usize) {
    let each = minutes.len().div_ceil(PARTS).max(1);
    let mut parts: Vec<Part> = minutes.rchunks(each).map(Part::of).collect();
    parts.reverse();
    (parts, each)
}

/// Hits and misses by time, as far back as the daemon knows.
pub(super) fn over_time(history: &Value) -> String {
    let minutes = history.as_array().map_or(&[][..], Vec::as_slice);
    if minutes.len() < 2 {
        return "<p class=\"quiet note\">What is asked is taken down once a minute, for a day, and the daemon has not \
                run for long enough.</p>"
            .into();
    }
    let (parts, each) = parts(minutes);
    let most = parts.iter().map(Part::all).max().unwrap_or(0);
    let (first, minutes) = (ago(parts[0].ago), show::count(each as u64, "minute"));
    let total = |of: fn(&Part) -> u64| grouped(parts.iter().map(of).sum());
    let (hits, misses) = (total(|part| part.hits), total(|part| part.misses));
    format!(
        "<figure class=\"time\"><svg viewBox=\"0 0 {width} 100\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"Hits and misses over time, from {first} to now: {hits} hits, {misses} misses\">{bars}</svg>\
         <figcaption><span>{first}</span><span>now</span>\
         <span class=\"scale\">a bar: {minutes}; the highest: {most}</span></figcaption></figure>\n\
         <details><summary>The same as a table</summary>\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Hits and misses over time\"><table>\n\
         <thead><tr><th scope=\"col\">{minutes} from</th><th scope=\"col\" class=\"n\">Hits</th>\
         <th scope=\"col\" class=\"n\">Misses</th></tr></thead>\n<tbody>\n{rows}</tbody></table></div></details>",
        width = parts.len(),
        bars = bars(&parts, most),
        most = grouped(most),
        rows = rows(&parts),
    )
}

fn bars(parts: &[Part], most: u64) -> String {
    let mut bars = String::new();
    for (at, part) in parts.iter().enumerate() {
        let height = |count: u64| count as f64 * 100.0 / most.max(1) as f64;
        let (hit, miss) = (height(part.hits), height(part.misses));
        let (hits, misses) = (grouped(part.hits), grouped(part.misses));
        // Writing to a string does not fail.
        let _ = writeln!(
            bars,
            "<g><title>{}: {hits} hits, {misses} misses</title>\
             <rect class=\"all\" x=\"{at}\" width=\"1\" height=\"100\"/>\
             <rect class=\"hit\" x=\"{at}.08\" width=\".84\" y=\"{:.2}\" height=\"{hit:.2}\"/>\
             <rect class=\"miss\" x=\"{at}.08\" width=\".84\" y=\"{:.2}\" height=\"{miss:.2}\"/></g>",
            ago(part.ago),
            100.0 - hit,
            100.0 - hit - miss,
        );
    }
    bars
}

/// The latest first, without those in which nothing was asked.
fn rows(parts: &[Part]) -> String {
    let some = parts.iter().rev().filter(|part| part.all() > 0);
    let rows: String = some
        .map(|part| {
            let numbers = [part.hits, part.misses].map(grouped);
            let [hits, misses] = numbers.map(|it| format!("<td class=\"n\">{it}</td>"));
            format!("<tr><td>{}</td>{hits}{misses}</tr>\n", ago(part.ago))
        })
        .collect();
    match rows.is_empty() {
        true => "<tr><td colspan=\"3\">Nothing was asked.</td></tr>\n".into(),
        false => rows,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn minutes(count: u64) -> Vec<Value> {
        let minute = |ago: u64| json!({"ago": ago * 60, "hits": 10 + ago, "misses": 1});
        (0..count).rev().map(minute).collect()
    }

    #[test]
    fn nothing_is_lost_between_parts() {
        for count in [2, 96, 97, 500, 1441] {
            let all = minutes(count);
            let (parts, each) = parts(&all);
            assert!(parts.len() <= PARTS && parts.len() * each >= all.len(), "{count}");
            assert_eq!(parts[0].ago, (count - 1) * 60);
            assert_eq!(parts.iter().map(|part| part.misses).sum::<u64>(), count);
            let hits = count * 10 + count * (count - 1) / 2;
            assert_eq!(parts.iter().map(|part| part.hits).sum::<u64>(), hits);
            // The last one is whole.
            assert_eq!(parts.last().map(|part| part.misses), Some(each as u64));
        }
    }

    #[test]
    fn the_chart_says_what_the_table_says() {
        let said = over_time(&json!(minutes(3)));
        assert!(said.contains("from 2 minutes ago to now: 33 hits, 3 misses"), "{said}");
        assert!(said.contains("2 minutes ago: 12 hits, 1 misses</title>"), "{said}");
        assert!(said.contains("<td class=\"n\">12</td>"), "{said}");
        let quiet =
            json!([{"ago": 60, "hits": 0, "misses": 0}, {"ago": 0, "hits": 0, "misses": 0}]);
        assert!(over_time(&quiet).contains("Nothing was asked."));
        assert!(over_time(&json!([])).contains("has not run for long enough"));
    }
}
