//! Where in a TOML text something stands, for errors that are told with their line.

use std::{fmt, marker::PhantomData, ops::Range, str::FromStr};

use serde::{
    Deserializer,
    de::{Error, Visitor},
};
use toml::de::{DeTable, DeValue};

/// The value of a key in a table, with the bytes that it takes. A text that is no TOML has none.
pub(crate) fn value<'t>(text: &'t str, table: Option<&str>, key: &str) -> Option<(DeValue<'t>, Range<usize>)> {
    let mut root = DeTable::parse(text).ok()?.into_inner();
    let mut inner = match table {
        Some(table) => match root.remove(table)?.into_inner() {
            DeValue::Table(inner) => inner,
            _ => return None,
        },
        None => root,
    };
    let found = inner.remove(key)?;
    let span = found.span();
    Some((found.into_inner(), span))
}

/// The line of a key that may be `table.key`, counted from 1, as the front of an error: `line 3: `. Nothing where the text does not have it.
pub(crate) fn front(text: &str, key: &str) -> String {
    let (table, key) = key.rsplit_once('.').map_or((None, key), |(table, key)| (Some(table), key));
    match value(text, table, key) {
        Some((_, span)) => format!("line {}: ", text.as_bytes()[..span.start].iter().filter(|byte| **byte == b'\n').count() + 1),
        None => String::new(),
    }
}

/// Reads what is written as a text. Where it stands in a list, an error is told with its own line, and not with that of the list: the TOML
/// parser knows the place only while it is asked for the value.
pub(crate) fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(deserializer: D) -> Result<T, D::Error> {
    struct Text<T>(PhantomData<T>);
    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a text")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_its_table_and_its_neighbour_is_not() {
        let text = "name = 'a'\n[needs]\n# here\nmemory = '1 B'\n\nconnect = [\n  'x',\n]\n";
        for (key, line) in
            [("name", "line 1: "), ("needs.memory", "line 4: "), ("needs.connect", "line 6: "), ("memory", ""), ("needs.name", "")]
        {
            assert_eq!(front(text, key), line, "{key}");
        }
        assert_eq!(front("needs = { memory = '1 B' }", "needs.memory"), "line 1: ");
        assert_eq!(front("needs.memory = '1 B'", "needs.memory"), "line 1: ");
        assert_eq!(front("needs = 1", "needs.memory"), "");
        assert_eq!(front("[needs", "needs.memory"), "");
    }
}
