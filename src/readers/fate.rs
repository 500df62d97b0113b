//! Whether a process that closes a file does so itself, or because a signal has ended it.

use super::Fate;

/// In the flags of a task: a signal has ended it.
const SIGNALED: u64 = 0x400;

/// Whether a task still has memory, by what its `statm` says. It gives it back before it closes its
/// files, when it ends.
pub(super) fn has_memory(statm: &[u8]) -> bool {
    statm.iter().any(|b| matches!(b, b'1'..=b'9'))
}

/// What has become of a process that is ending, by what its `stat` says.
///
/// The flags alone don't tell: a thread that calls `exit` ends the other ones by a signal.
pub(super) fn of_ending(stat: &[u8]) -> Fate {
    let fate = || {
        // The name, in parentheses, may contain anything.
        let end = stat.iter().rposition(|&b| b == b')')?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // As proc(5) numbers them, the name being the second.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let code = field(52)?;
        // 0 also stands for "not yours to know". Then "is waiting" is always 0 too, which it is not
        // for a task that waits for us or has ended, and which may be seen.
        let may_know = code != 0 || field(35)? != 0;
        let by_signal = if may_know {
            code & 0x7f != 0
        } else {
            // With threads, no telling which of them the signal was for.
            field(20)? == 1 && field(9)? & SIGNALED != 0
        };
        by_signal.then_some(Fate::Killed)
    };
    fate().unwrap_or(Fate::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `stat` of a task that ends, with these fields.
    fn stat(flags: u64, threads: u64, waits: u64, code: u64) -> String {
        format!(
            "77 (a) Z 1) Z 1 77 77 0 -1 {flags} 90 0 0 0 0 0 0 0 20 0 {threads} 0 1239363 0 0 \
             18446744073709551615 0 0 0 0 0 0 0 0 0 {waits} 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 {code}\n"
        )
    }

    #[test]
    fn memory_or_none() {
        assert!(has_memory(b"765 416 400 5 0 120 0\n"));
        assert!(!has_memory(b"0 0 0 0 0 0 0\n"));
        assert!(!has_memory(b""));
    }

    #[test]
    fn the_group_s_code_decides() {
        let of =
            |flags, threads, waits, code| of_ending(stat(flags, threads, waits, code).as_bytes());
        assert_eq!(of(0x40_000c, 1, 1, 0), Fate::Fine);
        assert_eq!(of(0x40_000c, 1, 1, 3 << 8), Fate::Fine);
        assert_eq!(of(0x40_040c, 1, 1, 9), Fate::Killed);
        assert_eq!(of(0x40_040c, 1, 1, 0x80 | 11), Fate::Killed);
        // One thread has called exit(3); the one that closes the file was ended for that.
        assert_eq!(of(0x40_040c, 4, 0, 3 << 8), Fate::Fine);
        assert_eq!(of(0x40_040c, 1, 1, 0), Fate::Fine);
        assert_eq!(of(0x40_040c, 4, 0, 9), Fate::Killed);
    }

    /// As they were while the kernel (6.18) waited for the answer to FLUSH.
    #[test]
    fn captured_while_they_closed_a_file() {
        let cases = [
            (4194380, 1, 1, 0, Fate::Fine, "exit(0)"),
            (4194380, 1, 1, 768, Fate::Fine, "exit(3)"),
            (4195404, 1, 1, 9, Fate::Killed, "SIGKILL"),
            (4195916, 1, 1, 6, Fate::Killed, "abort()"),
            (4195916, 1, 1, 11, Fate::Killed, "SIGSEGV"),
            (4195404, 2, 0, 768, Fate::Fine, "the first of four threads calls exit(3)"),
            (4195404, 1, 1, 768, Fate::Fine, "another one of them does, the first closes"),
            (4195404, 1, 1, 0, Fate::Fine, "as before, exit(0)"),
            (4194380, 2, 0, 0, Fate::Fine, "the first has ended, another one calls exit(0)"),
            (4195404, 1, 1, 9, Fate::Killed, "SIGKILL, with threads"),
            (4195404, 2, 0, 6, Fate::Killed, "abort(), with threads"),
        ];
        for (flags, threads, waits, code, fate, what) in cases {
            assert_eq!(of_ending(stat(flags, threads, waits, code).as_bytes()), fate, "{what}");
        }
    }

    #[test]
    fn the_flags_decide_where_the_code_is_hidden() {
        assert_eq!(of_ending(stat(0x40_040c, 1, 0, 0).as_bytes()), Fate::Killed);
        assert_eq!(of_ending(stat(0x40_000c, 1, 0, 0).as_bytes()), Fate::Fine);
        assert_eq!(of_ending(stat(0x40_040c, 2, 0, 0).as_bytes()), Fate::Fine);
    }

    #[test]
    fn nonsense_kills_nobody() {
        for text in ["", "77", "77 (x", "77 (x)", "77 (x) Z 1 2", "77 (x) Z a b c"] {
            assert_eq!(of_ending(text.as_bytes()), Fate::Fine, "{text}");
        }
    }
}
