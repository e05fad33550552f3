//! Events, written as Tor writes them (control-spec, "Asynchronous events").

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Reply, command::Purpose, options::Setting};

/// Kinds of event that can be asked for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Kind {
    /// Its circuits.
    Circ,
    /// Its circuits' purposes.
    CircMinor,
    /// Its streams.
    Stream,
    /// Descriptors that it publishes and fetches.
    HsDesc,
    /// Their content.
    HsDescContent,
    /// Its options.
    ConfChanged,
    /// Signals that it gave.
    Signal,
    /// Bytes of its streams, every second.
    Bw,
    /// One of which a function never sees any: it may be asked for, as Stem does without being told to.
    Silent(&'static str),
}

impl Kind {
    const SPOKEN: [(&'static str, Self); 8] = [
        ("CIRC", Self::Circ),
        ("CIRC_MINOR", Self::CircMinor),
        ("STREAM", Self::Stream),
        ("HS_DESC", Self::HsDesc),
        ("HS_DESC_CONTENT", Self::HsDescContent),
        ("CONF_CHANGED", Self::ConfChanged),
        ("SIGNAL", Self::Signal),
        ("BW", Self::Bw),
    ];

    /// What they would tell is the node's. Its log is not even here: a script that waits for lines of it should hear that there are none.
    const SILENT: [&'static str; 4] = ["NETWORK_LIVENESS", "STATUS_CLIENT", "STATUS_GENERAL", "STATUS_SERVER"];

    /// Their names.
    pub fn names() -> Vec<&'static str> {
        Self::SPOKEN.iter().map(|(name, _)| *name).chain(Self::SILENT).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let spoken = Self::SPOKEN.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, kind)| *kind);
        spoken.or_else(|| Self::SILENT.iter().find(|name| name.eq_ignore_ascii_case(text)).map(|name| Self::Silent(name)))
    }

    /// ```text
    /// SETEVENTS EXTENDED CIRC stream
    /// 552 Unrecognized event "FOO"
    /// ```
    pub(super) fn parse_all(words: &[String]) -> Result<Vec<Self>, Reply> {
        let words = words.iter().filter(|word| !word.eq_ignore_ascii_case("EXTENDED"));
        words.map(|word| Self::parse(word).ok_or_else(|| Reply::new(552, format!("Unrecognized event \"{word}\"")))).collect()
    }
}

/// Something that happened to what a function has.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// To a circuit.
    Circuit {
        /// How it is now.
        circuit: Circuit,
        /// Why it ended.
        reason: Option<String>,
    },
    /// To a circuit's purpose.
    Purpose {
        /// How it is now.
        circuit: Circuit,
        /// What it was for.
        before: Purpose,
    },
    /// To a stream.
    Stream {
        /// How it is now.
        stream: Stream,
        /// More, such as why it ended.
        more: String,
    },
    /// A descriptor, in Tor's own words behind HS_DESC.
    Descriptor(String),
    /// What a descriptor has in it: Tor's words behind HS_DESC_CONTENT, and the text, which is empty where there was none.
    Content(String, String),
    /// Options were set.
    Options(Vec<Setting>),
    /// A signal was given.
    Signal(&'static str),
    /// Bytes of the last second.
    Bandwidth {
        /// To the function.
        read: u64,
        /// From it.
        written: u64,
    },
}

/// A circuit as events and `circuit-status` show it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Circuit {
    /// The function's number for it.
    pub id: u64,
    /// `LAUNCHED`, `EXTENDED`, `BUILT`, `FAILED` or `CLOSED`.
    pub status: &'static str,
    /// `$FINGERPRINT~nickname` of the hops that are there, divided by commas.
    pub path: String,
    /// What it is for.
    pub purpose: Purpose,
    /// When it was begun.
    pub created: SystemTime,
}

/// A stream as events and `stream-status` show it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stream {
    /// The function's number for it.
    pub id: u64,
    /// `NEW`, `SENTCONNECT`, `SUCCEEDED`, `FAILED`, `DETACHED` or `CLOSED`.
    pub status: &'static str,
    /// Its circuit; 0 if it has none.
    pub circuit: u64,
    /// Where it goes, `host:port`.
    pub target: String,
}

impl Circuit {
    /// ```text
    /// 156 EXTENDED $168177F61FB6FED565A1E6538351A48ECD3DF23D~middle1 PURPOSE=GENERAL TIME_CREATED=2026-11-28T00:28:13.123498
    /// ```
    pub fn line(&self) -> String {
        let Self { id, status, path, purpose, created } = self;
        let path = if path.is_empty() { String::new() } else { format!(" {path}") };
        format!("{id} {status}{path} PURPOSE={} TIME_CREATED={}", purpose.as_str(), timestamp(*created))
    }
}

impl Stream {
    /// ```text
    /// 128 NEW 0 127.81.0.1:8081
    /// ```
    pub fn line(&self) -> String {
        let Self { id, status, circuit, target } = self;
        format!("{id} {status} {circuit} {target}")
    }
}

impl Event {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Circuit { .. } => Kind::Circ,
            Self::Purpose { .. } => Kind::CircMinor,
            Self::Stream { .. } => Kind::Stream,
            Self::Descriptor(_) => Kind::HsDesc,
            Self::Content(..) => Kind::HsDescContent,
            Self::Options(_) => Kind::ConfChanged,
            Self::Signal(_) => Kind::Signal,
            Self::Bandwidth { .. } => Kind::Bw,
        }
    }

    /// ```text
    /// 650 CIRC 156 CLOSED $1681…F23D~middle1 PURPOSE=GENERAL TIME_CREATED=2026-11-28T00:28:13.123498 REASON=REQUESTED
    /// 650 CIRC_MINOR 156 PURPOSE_CHANGED $1681…F23D~middle1 PURPOSE=CONTROLLER TIME_CREATED=2026-11-28T00:28:13.123498 OLD_PURPOSE=GENERAL
    /// 650 STREAM 128 CLOSED 156 127.81.0.1:8081 REASON=DONE
    /// 650 HS_DESC REQUESTED pg6m…cryd NO_AUTH $B318…2CA3~exit1 Zm5U…MEU HSDIR_INDEX=F474…2133
    /// 650+HS_DESC_CONTENT pg6m…cryd Zm5U…MEU $B318…2CA3~exit1
    /// hs-descriptor 3
    /// …
    /// .
    /// 650 OK
    /// 650-CONF_CHANGED
    /// 650-__LeaveStreamsUnattached=1
    /// 650 OK
    /// 650 SIGNAL NEWNYM
    /// 650 BW 1678 2505
    /// ```
    pub fn reply(&self) -> Reply {
        let line = |text: String| Reply::new(650, text);
        match self {
            Self::Circuit { circuit, reason: None } => line(format!("CIRC {}", circuit.line())),
            Self::Circuit { circuit, reason: Some(reason) } => line(format!("CIRC {} REASON={reason}", circuit.line())),
            Self::Purpose { circuit, before } => {
                let Circuit { id, path, purpose, created, .. } = circuit;
                let (purpose, created, before) = (purpose.as_str(), timestamp(*created), before.as_str());
                line(format!("CIRC_MINOR {id} PURPOSE_CHANGED {path} PURPOSE={purpose} TIME_CREATED={created} OLD_PURPOSE={before}"))
            }
            Self::Stream { stream, more } if more.is_empty() => line(format!("STREAM {}", stream.line())),
            Self::Stream { stream, more } => line(format!("STREAM {} {more}", stream.line())),
            Self::Descriptor(text) => line(format!("HS_DESC {text}")),
            Self::Content(text, data) => Reply::new(650, "OK").after_data(format!("HS_DESC_CONTENT {text}"), data),
            Self::Options(settings) => {
                let value = |setting: &Setting| format!("{}={}", setting.switch.name(), u8::from(setting.on.unwrap_or(false)));
                settings.iter().fold(Reply::new(650, "OK").after("CONF_CHANGED"), |reply, setting| reply.after(value(setting)))
            }
            Self::Signal(name) => line(format!("SIGNAL {name}")),
            Self::Bandwidth { read, written } => line(format!("BW {read} {written}")),
        }
    }
}

/// `2026-11-28T00:28:13.123498`, in UTC (control-spec, ISOTime2Frac).
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a date in years that begin in March (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}", since.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::options::Switch;

    #[test]
    fn events_are_what_tor_writes() {
        let created = UNIX_EPOCH + Duration::from_micros(1_795_825_693_123_498);
        let path = "$168177F61FB6FED565A1E6538351A48ECD3DF23D~middle1".to_owned();
        let launched = Circuit { id: 156, status: "LAUNCHED", path: String::new(), purpose: Purpose::General, created };
        let closed = Circuit { status: "CLOSED", path, ..launched.clone() };
        let stream = Stream { id: 128, status: "NEW", circuit: 0, target: "127.81.0.1:8081".into() };
        let setting = Setting { switch: Switch::LeaveStreamsUnattached, on: Some(true) };
        for (event, text) in [
            (
                Event::Circuit { circuit: launched, reason: None },
                "650 CIRC 156 LAUNCHED PURPOSE=GENERAL TIME_CREATED=2026-11-28T00:28:13.123498\r\n",
            ),
            (
                Event::Circuit { circuit: closed, reason: Some("REQUESTED".into()) },
                "650 CIRC 156 CLOSED $168177F61FB6FED565A1E6538351A48ECD3DF23D~middle1 PURPOSE=GENERAL TIME_CREATED=2026-11-28T00:28:13.123498 REASON=REQUESTED\r\n",
            ),
            (
                Event::Stream { stream, more: "SOURCE_ADDR=127.0.0.1:1 PURPOSE=USER".into() },
                "650 STREAM 128 NEW 0 127.81.0.1:8081 SOURCE_ADDR=127.0.0.1:1 PURPOSE=USER\r\n",
            ),
            (Event::Options(vec![setting]), "650-CONF_CHANGED\r\n650-__LeaveStreamsUnattached=1\r\n650 OK\r\n"),
            (
                Event::Content("a b c".into(), "hs-descriptor 3\nx\n".into()),
                "650+HS_DESC_CONTENT a b c\r\nhs-descriptor 3\r\nx\r\n.\r\n650 OK\r\n",
            ),
            (Event::Content("a b c".into(), String::new()), "650+HS_DESC_CONTENT a b c\r\n\r\n.\r\n650 OK\r\n"),
            (Event::Signal("NEWNYM"), "650 SIGNAL NEWNYM\r\n"),
            (Event::Bandwidth { read: 1678, written: 2505 }, "650 BW 1678 2505\r\n"),
        ] {
            assert_eq!(event.reply().write(), text);
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59.000000");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000000");
    }
}
