//! Fields with their length in front, as messages and digests of this crate are made of.

use thiserror::Error;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Malformed {
    /// They end before they should.
    #[error("{0} is cut off")]
    Short(&'static str),
    /// More than there may be.
    #[error("{what} has {length} bytes, and {max} are the most")]
    Long {
        /// Which part.
        what: &'static str,
        /// How long it is.
        length: usize,
        /// How long it may be.
        max: usize,
    },
    /// Something is behind the end.
    #[error("there are bytes behind {0}")]
    Trailing(&'static str),
    /// No such value.
    #[error("{0} is not known here")]
    Unknown(&'static str),
}

/// Appends a field: four bytes of length, big-endian, and the bytes.
pub(crate) fn put(to: &mut Vec<u8>, field: &[u8]) {
    // No caller has a field of 4 GiB: each is capped where it is made or read.
    to.extend_from_slice(&(field.len() as u32).to_be_bytes());
    to.extend_from_slice(field);
}

/// All fields, each with its length in front.
pub(crate) fn fields(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields.iter().map(|field| field.len() + 4).sum());
    for field in fields {
        put(&mut out, field);
    }
    out
}

/// Reads what [`put`] wrote, front to back.
pub(crate) struct Reader<'a> {
    what: &'static str,
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, left: bytes }
    }

    /// So many bytes without a length.
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, left) = self.left.split_first_chunk::<N>().ok_or(Malformed::Short(self.what))?;
        self.left = left;
        Ok(*taken)
    }

    /// A field of at most `max` bytes.
    pub(crate) fn field(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], Malformed> {
        let length = u32::from_be_bytes(self.take()?) as usize;
        if length > max {
            return Err(Malformed::Long { what, length, max });
        }
        let (field, left) = self.left.split_at_checked(length).ok_or(Malformed::Short(what))?;
        self.left = left;
        Ok(field)
    }

    /// A field of exactly `N` bytes.
    pub(crate) fn exact<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        self.field(what, N)?.try_into().map_err(|_| Malformed::Short(what))
    }

    /// A field that is text.
    pub(crate) fn text(&mut self, what: &'static str, max: usize) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.field(what, max)?).map_err(|_| Malformed::Unknown(what))
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.left.is_empty() { Ok(()) } else { Err(Malformed::Trailing(self.what)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_comes_back_and_neither_more_nor_less_of_it() {
        let bytes = fields(&[b"ab", b""]);
        let mut whole = Reader::new("it", &bytes);
        assert_eq!(whole.field("first", 2), Ok(&b"ab"[..]));
        assert_eq!(whole.field("second", 0), Ok(&b""[..]));
        assert_eq!(whole.end(), Ok(()));

        assert_eq!(Reader::new("it", &bytes).field("first", 1), Err(Malformed::Long { what: "first", length: 2, max: 1 }));
        assert_eq!(Reader::new("it", &bytes[..5]).field("first", 2), Err(Malformed::Short("first")));
        assert_eq!(Reader::new("it", &bytes[..3]).field("first", 2), Err(Malformed::Short("it")));
        let mut early = Reader::new("it", &bytes);
        assert_eq!(early.field("first", 2), Ok(&b"ab"[..]));
        assert_eq!(early.end(), Err(Malformed::Trailing("it")));
    }

    #[test]
    fn fields_cannot_be_cut_differently_and_mean_the_same() {
        assert_ne!(fields(&[b"ab", b"c"]), fields(&[b"a", b"bc"]));
        assert_ne!(fields(&[b"abc"]), fields(&[b"abc", b""]));
    }

    #[test]
    fn a_length_of_four_gigabytes_is_refused_before_anything_is_made_of_it() {
        let bytes = u32::MAX.to_be_bytes();
        assert!(matches!(Reader::new("it", &bytes).field("first", 10), Err(Malformed::Long { .. })));
    }
}
