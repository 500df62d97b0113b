//! Durations as people write them: `30d`, `12h`, `10m`, `45s`.

use std::time::Duration;

/// Reads a duration; says what is wrong with it otherwise.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let how = || "use a whole number and a unit: `30d`, `12h`, `10m` or `45s`".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let seconds: u64 = match &text[digits.len()..] {
        "d" => 24 * 60 * 60,
        "h" => 60 * 60,
        "m" => 60,
        "s" => 1,
        "" if !digits.is_empty() => return Err(format!("the unit is missing; {}", how())),
        _ => return Err(how()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(how());
    }
    let number: u64 = digits.parse().map_err(|_| LONGEST.to_owned())?;
    // Clocks count on from there; nobody waits for that long.
    match number.checked_mul(seconds) {
        Some(seconds) if seconds <= MOST => Ok(Duration::from_secs(seconds)),
        _ => Err(LONGEST.to_owned()),
    }
}

/// A hundred years of 365 days, in seconds.
const MOST: u64 = 36_500 * 24 * 60 * 60;

const LONGEST: &str = "that is too long; `36500d` is the most";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_counts() {
        for (text, seconds) in [
            ("30d", 30 * 86_400),
            ("12h", 12 * 3_600),
            ("10m", 600),
            ("45s", 45),
            ("0s", 0),
            ("007m", 420),
            ("36500d", MOST),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("", "use a whole number"),
            ("h", "use a whole number"),
            ("10", "unit is missing"),
            ("-1h", "use a whole number"),
            ("+1h", "use a whole number"),
            ("1.5h", "use a whole number"),
            ("1h30m", "use a whole number"),
            ("10 m", "use a whole number"),
            ("10M", "use a whole number"),
            ("10min", "use a whole number"),
            ("10µs", "use a whole number"),
            ("١٠m", "use a whole number"),
            ("36501d", "too long"),
            ("99999999999999999999s", "too long"),
            ("18446744073709551615d", "too long"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
