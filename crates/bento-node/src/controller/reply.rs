//! Replies and events, written as Tor writes them (control-spec, "Replies from Tor to the controller").
//!
//! Whatever a text has in it, it makes no second line: names of relays and hosts come from strangers.

use std::fmt::Write;

/// A reply, or an event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    code: u16,
    /// The lines before the last, each with data or none.
    before: Vec<(String, Option<String>)>,
    last: String,
}

impl Reply {
    /// One line.
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        Self { code, before: Vec::new(), last: text.into() }
    }

    /// It was done.
    pub fn ok() -> Self {
        Self::new(250, "OK")
    }

    /// A line more, in front of the last one.
    #[must_use]
    pub fn after(mut self, line: impl Into<String>) -> Self {
        self.before.push((line.into(), None));
        self
    }

    /// A line with data, in front of the last one.
    #[must_use]
    pub fn after_data(mut self, line: impl Into<String>, data: impl Into<String>) -> Self {
        self.before.push((line.into(), Some(data.into())));
        self
    }

    /// A value of GETINFO: data if it has several lines.
    #[must_use]
    pub fn after_value(self, key: &str, value: String) -> Self {
        if value.contains('\n') { self.after_data(format!("{key}="), value) } else { self.after(format!("{key}={value}")) }
    }

    /// Does it say that nothing was done?
    pub fn is_error(&self) -> bool {
        self.code >= 400 && self.code < 600
    }

    /// Its code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// As it goes over the stream:
    ///
    /// ```text
    /// 250-version=0.4.9.11
    /// 250+onions/current=
    /// bkbb6dh5jemwfj6yuhqnwyj6cerqi5dt47fp5em6lu4hm3tp363gduad
    /// tzayottd2mdeppk3rmzr73pewb7xgwz2re5kuier5yr6bhwtdyp47lid
    /// .
    /// 250 OK
    /// ```
    pub fn write(&self) -> String {
        let mut out = String::new();
        for (line, data) in &self.before {
            let _ = write!(out, "{}{}{}\r\n", self.code, if data.is_some() { '+' } else { '-' }, one_line(line));
            let Some(data) = data else { continue };
            // A last line end is none of the data, but an empty text is an empty line, as Tor writes it.
            for line in data.strip_suffix('\n').unwrap_or(data).split('\n') {
                // A dot alone would end the data.
                if line.starts_with('.') {
                    out.push('.');
                }
                out.push_str(&one_line(line));
                out.push_str("\r\n");
            }
            out.push_str(".\r\n");
        }
        let _ = write!(out, "{} {}\r\n", self.code, one_line(&self.last));
        out
    }
}

fn one_line(text: &str) -> String {
    text.strip_suffix('\r').unwrap_or(text).chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_what_tor_writes() {
        assert_eq!(Reply::ok().write(), "250 OK\r\n");
        let reply = Reply::ok().after_value("version", "0.4.9.11".into()).after_value("onions/current", "a\nb".into());
        assert_eq!(reply.write(), "250-version=0.4.9.11\r\n250+onions/current=\r\na\r\nb\r\n.\r\n250 OK\r\n");
        assert_eq!(
            Reply::ok().after_value("md/id/x", "onion-key\r\n.\n..a\n".into()).write(),
            "250+md/id/x=\r\nonion-key\r\n..\r\n...a\r\n.\r\n250 OK\r\n"
        );
        assert_eq!(
            Reply::new(650, "OK").after_data("HS_DESC_CONTENT a b c", "").write(),
            "650+HS_DESC_CONTENT a b c\r\n\r\n.\r\n650 OK\r\n"
        );
    }

    #[test]
    fn no_text_makes_a_second_line() {
        let bad = "x\r\n250 OK\r\n650 CIRC 1\0";
        let written = Reply::new(552, bad).after(bad).after_data(bad, bad).write();
        assert_eq!(written.lines().filter(|line| line.starts_with("552")).count(), 3, "{written}");
        assert!(!written.contains('\0') && written.lines().all(|line| !line.contains('\r')));
        assert_eq!(written.matches("\r\n.\r\n").count(), 1);
    }
}
