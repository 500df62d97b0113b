//! How things are shown to people.

use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Failure;

/// Prints to standard output. A reader that has seen enough (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("can't write to standard output: {e}").into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints a failure in one line.
pub(super) fn failure(failure: &(dyn std::error::Error + Send + Sync)) {
    eprintln!("cachefs: {}", one_line(&failure.to_string()));
}

/// `text` without line ends.
pub(super) fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// A time as RFC 3339 has it, in whole seconds; nobody used anything before 1970.
pub(super) fn time(time: SystemTime) -> Option<String> {
    let time = OffsetDateTime::from(time.max(SystemTime::UNIX_EPOCH));
    time.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}

/// So many of something whose name gets an `s` where there are several.
pub(super) fn count(count: u64, of: &str) -> String {
    match count {
        1 => format!("1 {of}"),
        many => format!("{many} {of}s"),
    }
}

/// A number of bytes, to three digits.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.95 {
        2
    } else if value < 99.5 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_three_digits() {
        let shown = [0, 1023, 1024, 10 * 1024, 1 << 20, 123 << 30, u64::MAX].map(bytes);
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1.00 KiB", "10.0 KiB", "1.00 MiB", "123 GiB", "16384 PiB"]
        );
    }

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(one_line("a\n  b\n\nc"), "a; b; c");
    }
}
