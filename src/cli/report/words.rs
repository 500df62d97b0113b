//! What a daemon tells, as words in a page. Names of files are anybody's: nothing gets into a page but through
//! here.

use serde_json::Value;

/// `text` between tags, or in an attribute with quotes. Control characters are shown as replaced.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\t' => out.push(' '),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A name that may be written from right to left without turning what stands beside it.
pub(super) fn name(text: &str) -> String {
    format!("<bdi>{}</bdi>", escape(text))
}

/// As the contents of a `<script>`: no tag can end or begin in it.
pub(super) fn data(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out += &format!("\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out
}

/// A template with each `{{key}}` replaced. What is put in is not looked at again.
pub(super) fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out += before;
        let (key, after) = after.split_once("}}").unwrap_or((after, ""));
        out += values.iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value);
        rest = after;
    }
    out + rest
}

/// How long ago something was.
pub(super) fn ago(seconds: u64) -> String {
    const DAY: u64 = 24 * 60 * 60;
    // Nobody had a cache then: such is the access time of what was never used.
    const NEVER: u64 = 40 * 365 * DAY;
    // Each up to there, in so many seconds.
    const UNITS: [(u64, u64, &str); 5] = [
        (60 * 60, 60, "minute"),
        (DAY, 60 * 60, "hour"),
        (60 * DAY, DAY, "day"),
        (2 * 365 * DAY, 30 * DAY, "month"),
        (NEVER, 365 * DAY, "year"),
    ];
    if seconds < 60 {
        return "just now".into();
    }
    match UNITS.iter().find(|(end, ..)| seconds < *end) {
        Some((_, length, of)) => format!("{} ago", crate::cli::show::count(seconds / length, of)),
        None => "never, as far as is known".into(),
    }
}

/// 1234567 as 1,234,567.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_gets_out_of_its_place() {
        let hostile = "</script><img src=x onerror=\"alert('1')\">&\0\n\u{202e}";
        let escaped = escape(hostile);
        assert!(!escaped.contains(['<', '>', '"', '\'', '\0', '\n']), "{escaped}");
        let data = data(&json!({ hostile: "\u{2028}" }));
        assert!(!data.contains(['<', '>', '&', '\u{2028}']), "{data}");
        let again: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(again[hostile], "\u{2028}");
    }

    #[test]
    fn what_is_put_in_is_not_filled_again() {
        let filled = fill("a {{x}} b {{y}}{{z}}", &[("x", "{{y}}".into()), ("y", "1".into())]);
        assert_eq!(filled, "a {{y}} b 1");
    }

    #[test]
    fn times_are_told_in_words() {
        let said = [0, 60, 7200, 86_400 * 59, 86_400 * 60, 86_400 * 800, u64::MAX].map(ago);
        assert_eq!(said[..4], ["just now", "1 minute ago", "2 hours ago", "59 days ago"]);
        assert_eq!(said[4..], ["2 months ago", "2 years ago", "never, as far as is known"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
