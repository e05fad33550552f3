//! Amounts: what is read is what was written, as an independent reading in 128 bits has it.

use bento_proto::{Size, Span};

use crate::text;

const SIZES: &[(&str, u128)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
const SPANS: &[(&str, u128)] = &[("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Digits, at most one space, a unit: letter by letter, and nothing of it shared with the crate.
fn read(text: &str, units: &[(&str, u128)]) -> Option<u64> {
    let mut amount: u128 = 0;
    let mut letters = text.chars().peekable();
    letters.peek().filter(|letter| letter.is_ascii_digit())?;
    while let Some(digit) = letters.next_if(char::is_ascii_digit) {
        amount = (amount * 10 + u128::from(digit.to_digit(10)?)).min(1 << 80);
    }
    letters.next_if(|letter| *letter == ' ');
    let unit: String = letters.collect();
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    u64::try_from(amount * factor).ok()
}

pub fn run(data: &[u8]) {
    let Ok(written) = std::str::from_utf8(data) else { return };
    let size = written.parse::<Size>();
    assert_eq!(size.clone().ok().map(Size::as_bytes), read(written, SIZES), "{written:?}");
    match size {
        Ok(size) => assert_eq!(size.to_string().parse(), Ok(size)),
        Err(error) => text::is_short(&error.to_string()),
    }
    let span = written.parse::<Span>();
    assert_eq!(span.clone().ok().map(Span::as_millis), read(written, SPANS), "{written:?}");
    match span {
        Ok(span) => {
            assert_eq!(span.to_string().parse(), Ok(span));
            assert!(u128::from(span.as_seconds_up()) * 1000 >= u128::from(span.as_millis()));
        }
        Err(error) => text::is_short(&error.to_string()),
    }
}
