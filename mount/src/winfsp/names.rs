//! Paths and names as Windows has them: UTF-16, `\` between names, and upper and lower case alike.

use super::status::Status;

pub(super) const SEPARATOR: u16 = b'\\' as u16;

/// What no name contains. `:` would name a stream of a file, and there are none.
const NEVER: &[u8] = b"\"*/:<>?\\|";

/// The names in a path from the volume's root, as WinFsp hands it over: it begins with `\`, and has neither
/// `.` nor `..` in it.
pub(super) fn split(path: &[u16]) -> Result<Vec<&[u16]>, Status> {
    let Some((&SEPARATOR, rest)) = path.split_first() else {
        return Err(Status::OBJECT_NAME_INVALID);
    };
    let rest = rest.strip_suffix(&[SEPARATOR]).unwrap_or(rest);
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> = rest.split(|&unit| unit == SEPARATOR).collect();
    if names.iter().all(|name| can_be(name)) { Ok(names) } else { Err(Status::OBJECT_NAME_INVALID) }
}

/// Whether something may have that name in a directory.
pub(super) fn can_be(name: &[u16]) -> bool {
    let dot = u16::from(b'.');
    let wrong = |&unit: &u16| unit < 0x20 || NEVER.iter().any(|&never| unit == u16::from(never));
    !name.is_empty() && name != [dot] && name != [dot, dot] && !name.iter().any(wrong)
}

/// Whether something new may be called so: not what programs could never open or delete again, because
/// Windows takes it for a device, or drops its end. (`nul.txt` is a file to newer versions, and allowed.)
pub(super) fn may_be_new(name: &[u16]) -> bool {
    !matches!(name.last(), Some(&end) if end == u16::from(b'.') || end == u16::from(b' '))
        && !is_device(&String::from_utf16_lossy(name).to_ascii_uppercase())
}

fn is_device(name: &str) -> bool {
    let numbered = |rest: &str| {
        let mut digits = rest.chars();
        matches!((digits.next(), digits.next()), (Some('1'..='9' | '¹' | '²' | '³'), None))
    };
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&name)
        || name.strip_prefix("COM").or_else(|| name.strip_prefix("LPT")).is_some_and(numbered)
}

/// The name by which names that differ only in case are the same.
pub(super) fn fold(name: &[u16]) -> Vec<u16> {
    name.iter().map(|&unit| upper(unit)).collect()
}

/// What the system, and so WinFsp's driver, takes for the upper case.
#[cfg(windows)]
fn upper(unit: u16) -> u16 {
    // SAFETY: a function of numbers.
    unsafe { windows_sys::Wdk::System::SystemServices::RtlUpcaseUnicodeChar(unit) }
}

#[cfg(not(windows))]
fn upper(unit: u16) -> u16 {
    let Some(character) = char::from_u32(unit.into()) else { return unit };
    let mut upper = character.to_uppercase();
    match (upper.next().map(|c| u16::try_from(u32::from(c))), upper.next()) {
        (Some(Ok(upper)), None) => upper,
        _ => unit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(text: &str) -> Vec<u16> {
        text.encode_utf16().collect()
    }

    #[test]
    fn a_path_is_its_names() {
        let names = |path: &str| {
            let path = wide(path);
            split(&path).map(|names| names.into_iter().map(String::from_utf16_lossy).collect())
        };
        assert_eq!(names("\\"), Ok(Vec::<String>::new()));
        assert_eq!(names("\\a"), Ok(vec!["a".to_owned()]));
        assert_eq!(names("\\a b\\ü.txt\\"), Ok(vec!["a b".to_owned(), "ü.txt".to_owned()]));
        for wrong in
            ["", "a", "\\\\a", "\\a\\\\b", "\\.", "\\a\\..", "\\a:b", "\\a\0", "\\a/b", "\\*"]
        {
            assert_eq!(names(wrong), Err(Status::OBJECT_NAME_INVALID), "{wrong:?}");
        }
    }

    #[test]
    fn devices_are_not_made() {
        for name in ["con", "NUL", "Com1", "lpt9", "COM²", "conin$", "a.", "b "] {
            assert!(!may_be_new(&wide(name)), "{name}");
        }
        for name in ["console", "nul.txt", "com", "com0", "com10", "lpt", ".a", "a b", "aux.py"] {
            assert!(may_be_new(&wide(name)), "{name}");
        }
    }

    #[test]
    fn case_is_folded() {
        for (one, other) in [("Straße", "STRAßE"), ("äÖü", "ÄöÜ"), ("README.md", "readme.MD")]
        {
            assert_eq!(fold(&wide(one)), fold(&wide(other)), "{one}");
        }
        for (one, other) in [("ss", "ß"), ("a", "ä"), ("🦀", "🦁")] {
            assert_ne!(fold(&wide(one)), fold(&wide(other)), "{one}");
        }
    }
}
