//! Sizes as people write them: `20G`, `512MiB`, `10%`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, or a part of something whose size is known only later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths, 0 to 100.
    Percent(u8),
}

impl Size {
    /// In bytes, where the whole has so many.
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Size::Bytes(bytes) => bytes,
            Size::Percent(percent) => share(whole, percent.into()),
        }
    }
}

/// So many hundredths of `whole`, rounded down; as much as there is room for, if they are too many.
pub(super) fn share(whole: u64, percent: u64) -> u64 {
    let share = u128::from(whole) * u128::from(percent) / 100;
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// What follows a number: powers of 1024, and of 1000 where a `B` stands alone behind the letter, as the
/// commands of GNU have it.
const UNITS: [(&str, u64); 16] = [
    ("B", 1),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("T", 1 << 40),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("P", 1 << 50),
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
];

impl FromStr for Size {
    type Err = String;

    /// Reads a size; says what is wrong with it otherwise.
    fn from_str(text: &str) -> Result<Size, String> {
        let how = || "use a whole number and a unit: `20G`, `512MiB`, or `10%`".to_owned();
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        if digits.is_empty() {
            return Err(how());
        }
        if unit.is_empty() {
            return Err(format!("the unit is missing; {}", how()));
        }
        let number: Option<u64> = digits.parse().ok();
        if unit == "%" {
            let percent = number.and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= 100);
            return percent.map(Size::Percent).ok_or_else(|| "that is more than all".into());
        }
        let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(how)?;
        let bytes = number.and_then(|number| number.checked_mul(factor));
        bytes.map(Size::Bytes).ok_or_else(|| "that is too much; `16383P` is the most".into())
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Size, String> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}

impl fmt::Display for Size {
    /// As [`Size::from_str`] reads it, in the largest unit in which it is a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Size::Percent(percent) => write!(f, "{percent}%"),
            Size::Bytes(bytes) => {
                let letters = ["B", "K", "M", "G", "T", "P"];
                let fits =
                    |power: &usize| bytes != 0 && bytes.trailing_zeros() as usize >= 10 * power;
                let power = (1..letters.len()).rev().find(fits).unwrap_or(0);
                write!(f, "{}{}", bytes >> (10 * power), letters[power])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_unit_counts() {
        for (text, bytes) in [
            ("20G", 20 << 30),
            ("512MiB", 512 << 20),
            ("512MB", 512_000_000),
            ("0B", 0),
            ("007K", 7 << 10),
            ("3TB", 3_000_000_000_000),
            ("2P", 2 << 50),
            ("16383P", 16383 << 50),
        ] {
            assert_eq!(text.parse(), Ok(Size::Bytes(bytes)), "{text}");
        }
        assert_eq!("10%".parse(), Ok(Size::Percent(10)));
        assert_eq!("100%".parse(), Ok(Size::Percent(100)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("", "use a whole number"),
            ("G", "use a whole number"),
            ("%", "use a whole number"),
            ("10", "unit is missing"),
            ("-1G", "use a whole number"),
            ("1.5G", "use a whole number"),
            ("1 G", "use a whole number"),
            ("1g", "use a whole number"),
            ("1Gi", "use a whole number"),
            ("1G2M", "use a whole number"),
            ("١G", "use a whole number"),
            ("101%", "more than all"),
            ("300%", "more than all"),
            ("16384P", "too much"),
            ("99999999999999999999G", "too much"),
        ] {
            let said = text.parse::<Size>().unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn parts_of_a_whole() {
        assert_eq!(Size::Percent(10).of(1005), 100);
        assert_eq!(Size::Percent(100).of(u64::MAX), u64::MAX);
        assert_eq!(Size::Bytes(7).of(3), 7);
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(bytes: u64, power in 0..64u32, percent in 0..=100u8) {
            for size in [Size::Bytes(bytes >> power << power), Size::Percent(percent)] {
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
        }

        #[test]
        fn nothing_makes_it_panic(text: String) {
            let _ = text.parse::<Size>();
        }
    }
}
