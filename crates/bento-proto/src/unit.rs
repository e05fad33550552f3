//! Amounts as a person writes them: `"32 MiB"`, `"12 h"`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// An amount of memory, storage or traffic, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

/// A length of time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(u64);

/// A part of one processor core, in whole percent: more than 100 % means more than one core.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Share(u32);

/// An amount of traffic in a second, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(Size);

/// Most that a share can be, in percent: 64 cores. More is a slip of the hand.
const SHARE_MAX: u32 = 6400;

/// Why a text is no amount.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnitError {
    /// The text is not a whole number, a space and a unit.
    #[error("`{text}` is not an amount: write a whole number and one of {units}, such as `{example}`")]
    Form {
        /// What was written.
        text: String,
        /// The units there are.
        units: &'static str,
        /// A right one.
        example: &'static str,
    },
    /// The amount passes what can be counted.
    #[error("`{0}` is too large to count")]
    Overflow(String),
    /// The text is no share.
    #[error("`{0}` is no share of a processor core: write a whole number from 1 to {SHARE_MAX} and `%`, such as `50 %`")]
    Share(String),
}

const SIZES: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
const SPANS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Size {
    /// So many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 1,048,576 bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// In bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

impl Span {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds * 1000)
    }

    /// So many milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(millis)
    }

    /// In milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// In whole seconds, rounded up, so that a bound is never below what was granted.
    pub const fn as_seconds_up(self) -> u64 {
        self.0.div_ceil(1000)
    }

    /// As the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl Share {
    /// One whole core.
    pub const CORE: Self = Self(100);

    /// In percent of one core.
    pub const fn percent(self) -> u32 {
        self.0
    }
}

impl Rate {
    /// So many times 1,048,576 bytes a second.
    pub const fn mib(count: u64) -> Self {
        Self(Size::mib(count))
    }

    /// In bytes a second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0.as_bytes()
    }
}

fn parse(text: &str, units: &[(&str, u64)], names: &'static str, example: &'static str) -> Result<u64, UnitError> {
    let form = || UnitError::Form { text: text.chars().take(40).collect(), units: names, example };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or_else(form)?;
    if number.is_empty() {
        return Err(form());
    }
    let overflow = || UnitError::Overflow(text.chars().take(40).collect());
    let number: u64 = number.parse().map_err(|_| overflow())?;
    number.checked_mul(*factor).ok_or_else(overflow)
}

fn write(amount: u64, units: &[(&str, u64)], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let whole = units.iter().rev().find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor));
    let (name, factor) = whole.unwrap_or(&units[0]);
    write!(out, "{} {name}", amount / factor)
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, SIZES, "B, KiB, MiB, GiB, TiB", "32 MiB").map(Self)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, SPANS, "ms, s, min, h, d", "10 min").map(Self)
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let no = || UnitError::Share(text.chars().take(40).collect());
        let number = text.strip_suffix('%').ok_or_else(no)?;
        let number = number.strip_suffix(' ').unwrap_or(number);
        // The standard library would take a plus sign as well.
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let percent = digits.then(|| number.parse().ok()).flatten().filter(|percent| (1..=SHARE_MAX).contains(percent));
        percent.map(Self).ok_or_else(no)
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const UNITS: &str = "B/s, KiB/s, MiB/s, GiB/s, TiB/s";
        let form = || UnitError::Form { text: text.chars().take(40).collect(), units: UNITS, example: "4 MiB/s" };
        parse(text.strip_suffix("/s").ok_or_else(form)?, SIZES, UNITS, "4 MiB/s").map(|bytes| Self(Size(bytes))).map_err(
            |error| match error {
                UnitError::Overflow(_) => UnitError::Overflow(text.chars().take(40).collect()),
                _ => form(),
            },
        )
    }
}

impl fmt::Display for Share {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} %", self.0)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/s", self.0)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, SIZES, out)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, SPANS, out)
    }
}

impl TryFrom<String> for Size {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl TryFrom<String> for Span {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl TryFrom<String> for Share {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<Share> for String {
    fn from(amount: Share) -> Self {
        amount.to_string()
    }
}

impl TryFrom<String> for Rate {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(amount: Rate) -> Self {
        amount.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_read_and_their_wrong_neighbours_refused() {
        assert_eq!("32 MiB".parse(), Ok(Size::mib(32)));
        assert_eq!("32MiB".parse(), Ok(Size::mib(32)));
        assert_eq!("0 B".parse(), Ok(Size::bytes(0)));
        assert_eq!("12 h".parse(), Ok(Span::seconds(43_200)));
        for wrong in ["", "MiB", "32", "32 MB", "-1 B", "1.5 GiB", "1  B", " 1 B", "1 B ", "32 mib", "٣ B"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong:?}");
        }
        assert_eq!("99999999 TiB".parse::<Size>(), Err(UnitError::Overflow("99999999 TiB".into())));
        // Zeros in front count for nothing, and make no long error.
        let zeros = "0".repeat(10_000);
        assert_eq!(format!("{zeros}1 B").parse(), Ok(Size::bytes(1)));
        assert!(format!("{zeros}99999999 TiB").parse::<Size>().unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn shares_and_rates_are_read_and_their_wrong_neighbours_refused() {
        assert_eq!("50 %".parse(), Ok(Share(50)));
        assert_eq!("6400%".parse(), Ok(Share(SHARE_MAX)));
        for wrong in ["", "%", "0 %", "6401 %", "50", "50  %", "+50 %", "-1 %", "1.5 %", " 50 %", "50 % ", "99999999999 %", "٣ %"] {
            assert_eq!(wrong.parse::<Share>(), Err(UnitError::Share(wrong.into())));
        }
        assert_eq!("4 MiB/s".parse(), Ok(Rate::mib(4)));
        assert_eq!("0 B/s".parse::<Rate>().unwrap().bytes_per_second(), 0);
        for wrong in ["", "/s", "4", "4 MiB", "4 MiB/", "4 MiB / s", "4 MiB/min", "4 MB/s", "-4 B/s", "4 MiB/s/s"] {
            let error = wrong.parse::<Rate>().unwrap_err();
            assert!(matches!(&error, UnitError::Form { text, example: "4 MiB/s", .. } if text == wrong), "{error:?}");
        }
        assert_eq!("16777216 TiB/s".parse::<Rate>(), Err(UnitError::Overflow("16777216 TiB/s".into())));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(amount in any::<u64>(), percent in 1..=SHARE_MAX) {
            prop_assert_eq!(Share(percent).to_string().parse::<Share>().unwrap(), Share(percent));
            prop_assert_eq!(Rate(Size(amount)).to_string().parse::<Rate>().unwrap(), Rate(Size(amount)));
            prop_assert_eq!(Size(amount).to_string().parse::<Size>().unwrap(), Size(amount));
            prop_assert_eq!(Span(amount).to_string().parse::<Span>().unwrap(), Span(amount));
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<Size>();
            let _ = (text.parse::<Share>(), text.parse::<Rate>());
            let _ = text.parse::<Span>();
        }
    }
}
