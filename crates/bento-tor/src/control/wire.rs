//! The control protocol's lines, told apart: replies and events, single lines, several lines, data.
//!
//! Bytes go in as they come, whole replies come out. No input or output here.

use super::ControlError;

/// Longest line. A relay's descriptor lines and circuit lists stay far below it; more is not Tor.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Longest reply. All descriptors of the public network (`desc/all-recent`) are about 25 MB.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One reply of Tor, or one event: at least one line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    /// The lines, in order. The last often is just `OK`.
    pub lines: Vec<ReplyLine>,
}

/// One line of a reply.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplyLine {
    /// The three digits at its start.
    pub code: u16,
    /// What follows the digits and the separator.
    pub text: String,
    /// The data below a `250+` line, its lines ended by `\n`.
    pub data: Option<String>,
}

impl Reply {
    /// The code of the last line, which is the outcome of the whole.
    pub fn code(&self) -> u16 {
        self.lines.last().map_or(0, |line| line.code)
    }

    /// The text of the last line.
    pub fn text(&self) -> &str {
        self.lines.last().map_or("", |line| &line.text)
    }

    /// Whether Tor did what was asked.
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.code())
    }

    pub(super) fn is_event(&self) -> bool {
        self.lines.first().is_some_and(|line| line.code / 100 == 6)
    }

    /// The first line that starts so, without that start.
    pub(super) fn after(&self, start: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.text.strip_prefix(start))
    }
}

/// Puts replies together from bytes.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    bytes: Vec<u8>,
    /// How far `bytes` was searched for the end of a line.
    searched: usize,
    lines: Vec<ReplyLine>,
    data: Option<String>,
    size: usize,
}

impl Assembler {
    /// Takes the next bytes from the connection.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Gives the next whole reply or event, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Reply>, ControlError> {
        let mut start = 0;
        let mut whole = None;
        while whole.is_none() {
            let from = start.max(self.searched);
            let Some(length) = self.bytes[from..].iter().position(|byte| *byte == b'\n') else { break };
            let end = from + length;
            let line = self.bytes[start..end].strip_suffix(b"\r").unwrap_or(&self.bytes[start..end]);
            self.size += line.len() + 1;
            if self.size > REPLY_BYTES_MAX {
                return Err(ControlError::Protocol("a reply is too long"));
            }
            // Contact lines of relays may be in any encoding; they must not break the connection.
            let line = String::from_utf8_lossy(line).into_owned();
            start = end + 1;
            self.searched = start;
            whole = self.line(line)?;
        }
        self.bytes.drain(..start);
        self.searched = if whole.is_some() { 0 } else { self.bytes.len() };
        if self.bytes.len() > LINE_BYTES_MAX && whole.is_none() {
            return Err(ControlError::Protocol("a line is too long"));
        }
        Ok(whole)
    }

    /// Takes one line, and gives the reply that it ends.
    fn line(&mut self, line: String) -> Result<Option<Reply>, ControlError> {
        if let Some(mut data) = self.data.take() {
            if line == "." {
                if let Some(last) = self.lines.last_mut() {
                    last.data = Some(data);
                }
                return Ok(None);
            }
            data.push_str(line.strip_prefix('.').unwrap_or(&line));
            data.push('\n');
            self.data = Some(data);
            return Ok(None);
        }
        let (code, separator, text) = head(&line).ok_or(ControlError::Protocol("a line has no code"))?;
        self.lines.push(ReplyLine { code, text: text.to_owned(), data: None });
        match separator {
            '-' => Ok(None),
            '+' => {
                self.data = Some(String::new());
                Ok(None)
            }
            _ => {
                self.size = 0;
                Ok(Some(Reply { lines: std::mem::take(&mut self.lines) }))
            }
        }
    }
}

/// ```text
/// 250-version=0.4.9.11
/// 250+config-text=
/// 250 OK
/// ```
fn head(line: &str) -> Option<(u16, char, &str)> {
    let digits = line.get(..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let code = digits.parse().ok()?;
    let separator = line[3..].chars().next()?;
    matches!(separator, '-' | '+' | ' ').then(|| (code, separator, &line[4..]))
}

/// Writes a value as a quoted string.
pub(super) fn quote(value: &str) -> Result<String, ControlError> {
    if value.contains(['\r', '\n', '\0']) {
        return Err(ControlError::Argument("a value is a single line"));
    }
    Ok(format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Reads a value that may be a quoted string.
pub(super) fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        // Tor writes bytes that are not printable ASCII as one to three octal digits.
        let octal = rest.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
        let (escape, tail) = rest.split_at(octal.max(1).min(rest.len()));
        rest = tail;
        match escape {
            [b'n'] => bytes.push(b'\n'),
            [b'r'] => bytes.push(b'\r'),
            [b't'] => bytes.push(b'\t'),
            digits if octal > 0 => {
                let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                bytes.push(value as u8);
            }
            other => bytes.extend_from_slice(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Finds `KEY=VALUE` or `KEY="VALUE"` among words, as in `NOTICE BOOTSTRAP PROGRESS=80 SUMMARY="Connecting to a relay"`.
pub(super) fn field(text: &str, key: &str) -> Option<String> {
    words(text).find_map(|word| word.strip_prefix(key)?.strip_prefix('=').map(unquote))
}

/// The words of a line; a quoted string belongs to its word, spaces and all.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(' ');
        if rest.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.find(|character| {
            match character {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ' ' if !quoted => return true,
                _ => {}
            }
            false
        });
        let (word, tail) = rest.split_at(end.unwrap_or(rest.len()));
        rest = tail;
        Some(word)
    })
}
