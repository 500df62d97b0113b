//! The patterns of a directory search, with the characters that Windows puts for MS-DOS's rules.
//!
//! | | stands for |
//! | --- | --- |
//! | `*` | any characters |
//! | `?` | one character |
//! | `<` | any characters but the name's last dot |
//! | `>` | one character; nothing before a dot and at the end |
//! | `"` | a dot; nothing at the end |

use super::names::fold;

/// Whether `name` matches `pattern`, whatever the case of either. Takes time in proportion to the product of
/// their lengths.
pub(super) fn matches(pattern: &[u16], name: &[u16]) -> bool {
    let (pattern, name) = (fold(pattern), fold(name));
    let last_dot = name.iter().rposition(|&unit| unit == u16::from(b'.'));
    // Where in the pattern one can be after what was read of the name.
    let mut here = vec![false; pattern.len() + 1];
    here[0] = true;
    skip(&pattern, &mut here, name.first().copied());
    for (at, &unit) in name.iter().enumerate() {
        let mut next = vec![false; pattern.len() + 1];
        for (place, &wild) in pattern.iter().enumerate().filter(|&(place, _)| here[place]) {
            let dot = unit == u16::from(b'.');
            match u8::try_from(wild) {
                Ok(b'*') => next[place] = true,
                Ok(b'<') => next[place] |= last_dot != Some(at),
                Ok(b'?') => next[place + 1] = true,
                Ok(b'>') => next[place + 1] |= !dot,
                Ok(b'"') => next[place + 1] |= dot,
                _ => next[place + 1] |= wild == unit,
            }
        }
        here = next;
        skip(&pattern, &mut here, name.get(at + 1).copied());
    }
    here[pattern.len()]
}

/// Goes past what may stand for nothing, where `next` is to be read.
fn skip(pattern: &[u16], here: &mut [bool], next: Option<u16>) {
    for (place, &wild) in pattern.iter().enumerate() {
        let nothing = match u8::try_from(wild) {
            Ok(b'*' | b'<') => true,
            Ok(b'>') => next.is_none_or(|unit| unit == u16::from(b'.')),
            Ok(b'"') => next.is_none(),
            _ => false,
        };
        here[place + 1] |= here[place] && nothing;
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    fn check(pattern: &str, takes: &[&str], refuses: &[&str]) {
        let wide = |text: &str| text.encode_utf16().collect::<Vec<_>>();
        for name in takes {
            assert!(matches(&wide(pattern), &wide(name)), "{pattern} {name}");
        }
        for name in refuses {
            assert!(!matches(&wide(pattern), &wide(name)), "{pattern} {name}");
        }
    }

    #[test]
    fn patterns() {
        check("*", &["", "a", "a.b"], &[]);
        check("*.PY", &["a.py", ".py", "a.b.Py"], &["a.pyc", "py"]);
        check("a?c", &["abc", "a.c"], &["ac", "abbc"]);
        check("exact.txt", &["EXACT.TXT"], &["exact.txt2", "xexact.txt"]);
        check(
            "*a*a*a*a*a*a*b",
            &["aaaaaaaaaaaaaaaaaaaaaaaab"],
            &["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
        );
    }

    #[test]
    fn patterns_of_ms_dos() {
        check("<.txt", &["a.txt", "a.b.txt"], &["a.txt.gz"]);
        check("<", &["name"], &["a.b.c"]);
        check("a>>", &["a", "ab", "abc"], &["abcd"]);
        check("a>.c", &["a.c", "ab.c"], &["abb.c"]);
        check("a\"", &["a", "a."], &["a.b"]);
        check("a\"b", &["a.b"], &["ab"]);
    }
}
