//! A function's bytes, cut into commands: a line, or with `+` in front a line and data to a single dot (control-spec, "Message format").
//!
//! Bytes go in as they come, whole commands come out. No input or output here.

/// Longest line, in bytes. The longest that is of use, a path of eight relays or a key, is under 1 KiB.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

/// Longest data, in bytes: a descriptor of an onion service has at most 50,000 (`HSV3MaxDescriptorSize`).
pub const DATA_BYTES_MAX: usize = 64 * 1024;

/// One command as it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// A line of printable ASCII.
    Line(String),
    /// A line that began with `+`, which is left out here, and its data, lines ended by `\n`.
    Data(String, String),
    /// A command with a byte that is no printable ASCII. Nothing of it is used.
    Garbled,
}

impl Request {
    /// About how long it is, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Data(line, data) => line.len() + data.len(),
            Self::Garbled => LINE_BYTES_MAX,
        }
    }
}

/// A line or data longer than any that there is. Where the next command begins cannot be known.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a command is longer than any that there is")]
pub struct TooLong;

/// Puts commands together from bytes.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// How far `bytes` was searched for the end of a line.
    searched: usize,
    open: Option<Open>,
}

/// A command whose data is coming.
#[derive(Debug)]
struct Open {
    line: Vec<u8>,
    data: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole command, if there is one.
    ///
    /// # Errors
    /// When a line or data is too long; nothing can be read after that.
    pub fn next_request(&mut self) -> Result<Option<Request>, TooLong> {
        let mut start = 0;
        let mut whole = None;
        while whole.is_none() {
            let from = start.max(self.searched);
            let Some(length) = self.bytes[from..].iter().position(|byte| *byte == b'\n') else { break };
            let end = from + length;
            let line = &self.bytes[start..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.len() > LINE_BYTES_MAX {
                return Err(TooLong);
            }
            whole = take(&mut self.open, line)?;
            start = end + 1;
            self.searched = start;
        }
        self.bytes.drain(..start);
        self.searched = if whole.is_some() { 0 } else { self.bytes.len() };
        if whole.is_none() && self.bytes.len() > LINE_BYTES_MAX {
            return Err(TooLong);
        }
        Ok(whole)
    }
}

/// Takes one line, and gives the command that it ends.
fn take(open: &mut Option<Open>, line: &[u8]) -> Result<Option<Request>, TooLong> {
    if let Some(mut command) = open.take() {
        if line == b"." {
            return Ok(Some(match (text(&command.line), text(&command.data)) {
                (Some(line), Some(data)) => Request::Data(line, data),
                _ => Request::Garbled,
            }));
        }
        // A dot at the start was doubled, because a dot alone ends the data.
        command.data.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        command.data.push(b'\n');
        if command.data.len() > DATA_BYTES_MAX {
            return Err(TooLong);
        }
        *open = Some(command);
        return Ok(None);
    }
    if let Some(line) = line.strip_prefix(b"+") {
        *open = Some(Open { line: line.to_vec(), data: Vec::new() });
        return Ok(None);
    }
    Ok(Some(text(line).map_or(Request::Garbled, Request::Line)))
}

fn text(bytes: &[u8]) -> Option<String> {
    let plain = bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n'));
    plain.then(|| String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], piece: usize) -> Result<Vec<Request>, TooLong> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for part in bytes.chunks(piece) {
            lines.push(part);
            while let Some(request) = lines.next_request()? {
                found.push(request);
            }
        }
        Ok(found)
    }

    #[test]
    fn commands_are_cut_the_same_however_they_arrive() {
        let bytes = b"GETINFO version\r\nQUIT\n+HSPOST SERVER=a\r\nhs-descriptor 3\r\n..dotted\r\n\r\n.\r\n\r\nSIGNAL NEWNYM\r\nhalf";
        let expected = vec![
            Request::Line("GETINFO version".into()),
            Request::Line("QUIT".into()),
            Request::Data("HSPOST SERVER=a".into(), "hs-descriptor 3\n.dotted\n\n".into()),
            Request::Line(String::new()),
            Request::Line("SIGNAL NEWNYM".into()),
        ];
        for piece in [1, 2, 3, 7, 1000] {
            assert_eq!(all(bytes, piece).unwrap(), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn other_bytes_make_no_second_command() {
        for garbled in [
            b"GETINFO a\rSIGNAL HALT\r\n".as_slice(),
            b"GETINFO \0\r\n",
            b"\xc3\xa4\r\n",
            b"+HSPOST\r\n\x1b[0m\r\n.\r\n",
            b"+HS\rX\r\n.\r\n",
        ] {
            assert_eq!(all(garbled, 5).unwrap(), [Request::Garbled], "{garbled:?}");
        }
    }

    #[test]
    fn what_has_no_end_is_not_kept() {
        let longest = [vec![b'a'; LINE_BYTES_MAX], b"\r\n".to_vec()].concat();
        assert_eq!(all(&longest, 1000).unwrap().len(), 1);
        assert_eq!(all(&[b"a".as_slice(), &longest].concat(), 1000), Err(TooLong));
        assert_eq!(all(&vec![b'a'; LINE_BYTES_MAX + 2], 1000), Err(TooLong));
        let line = [vec![b'a'; 1000], b"\n".to_vec()].concat();
        let data = |lines| [b"+HSPOST\r\n".to_vec(), line.repeat(lines), b".\r\n".to_vec()].concat();
        assert_eq!(all(&data(DATA_BYTES_MAX / line.len()), 1000).unwrap().len(), 1);
        assert_eq!(all(&data(DATA_BYTES_MAX / line.len() + 1), 1000), Err(TooLong));
    }
}
