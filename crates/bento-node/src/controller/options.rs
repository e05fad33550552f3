//! The options that a function's view of Tor has: two switches of its own, and what scripts ask to learn what kind of Tor they talk to.
//!
//! A switch is the function's, never the node's `tor`'s: there, it would reach everybody's streams.

use super::{Reply, words::Word};

/// Options that can be set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Switch {
    /// Streams wait for ATTACHSTREAM.
    LeaveStreamsUnattached,
    /// No circuits but those asked for. It always is so.
    DisablePredictedCircuits,
}

/// An option and its new value; its default, if it has none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Setting {
    /// Which.
    pub switch: Switch,
    /// Its value.
    pub on: Option<bool>,
}

impl Switch {
    const ALL: [Self; 2] = [Self::LeaveStreamsUnattached, Self::DisablePredictedCircuits];

    /// As Tor writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeaveStreamsUnattached => "__LeaveStreamsUnattached",
            Self::DisablePredictedCircuits => "__DisablePredictedCircuits",
        }
    }
}

/// The values of the switches.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Options {
    leave_streams: bool,
    no_predicted: bool,
}

/// What else can be asked for, as a function's own `tor` would have it. Nothing of the node's configuration is here.
const FIXED: [(&str, Option<&str>); 11] = [
    ("BridgeRelay", Some("0")),
    ("ControlPort", Some("9051")),
    ("HiddenServiceNonAnonymousMode", Some("0")),
    ("HiddenServiceOptions", None),
    ("HiddenServiceSingleHopMode", Some("0")),
    ("ORPort", None),
    ("PidFile", None),
    ("SocksPort", Some("9050")),
    ("UseBridges", Some("0")),
    ("UseMicrodescriptors", Some("auto")),
    ("__OwningControllerProcess", None),
];

impl Options {
    /// Is this one on?
    pub fn is_on(&self, switch: Switch) -> bool {
        match switch {
            Switch::LeaveStreamsUnattached => self.leave_streams,
            Switch::DisablePredictedCircuits => self.no_predicted,
        }
    }

    /// Makes the settings, and tells those that changed something.
    pub fn set(&mut self, settings: &[Setting]) -> Vec<Setting> {
        let mut changed = Vec::new();
        for Setting { switch, on } in settings.iter().copied() {
            let value = match switch {
                Switch::LeaveStreamsUnattached => &mut self.leave_streams,
                Switch::DisablePredictedCircuits => &mut self.no_predicted,
            };
            if std::mem::replace(value, on.unwrap_or(false)) != *value {
                changed.push(Setting { switch, on: Some(*value) });
            }
        }
        changed
    }

    /// ```text
    /// GETCONF __leavestreamsunattached ORPort
    /// 250-__LeaveStreamsUnattached=0
    /// 250 ORPort
    ///
    /// 552 Unrecognized configuration key "foo"
    /// ```
    pub fn get(&self, names: &[String]) -> Reply {
        let value = |name: &str| {
            let switch = Switch::ALL.into_iter().find(|switch| switch.name().eq_ignore_ascii_case(name));
            let switch = switch.map(|switch| format!("{}={}", switch.name(), u8::from(self.is_on(switch))));
            let fixed = FIXED.iter().find(|(option, _)| option.eq_ignore_ascii_case(name));
            switch.or_else(|| fixed.map(|(option, value)| value.map_or((*option).to_owned(), |value| format!("{option}={value}"))))
        };
        let unknown = names.iter().filter(|name| value(name).is_none()).map(|name| format!("Unrecognized configuration key \"{name}\""));
        let unknown: Vec<String> = unknown.collect();
        if !unknown.is_empty() {
            return several(552, unknown);
        }
        several(250, names.iter().filter_map(|name| value(name)).collect())
    }
}

/// Lines of one code; `250 OK` if there are none.
pub(super) fn several(code: u16, mut lines: Vec<String>) -> Reply {
    let Some(last) = lines.pop() else { return Reply::ok() };
    lines.into_iter().fold(Reply::new(code, last), Reply::after)
}

/// ```text
/// SETCONF __LeaveStreamsUnattached=1
/// RESETCONF __LeaveStreamsUnattached
///
/// 552 Unrecognized option: Unknown option 'foo'.  Failing.
/// 513 Unacceptable option value: Could not parse __LeaveStreamsUnattached: Unrecognized value 5. Allowed values are 0 and 1.
/// ```
pub(super) fn settings(words: Vec<Word>) -> Result<Vec<Setting>, Reply> {
    let setting = |word: Word| {
        let (name, value) = match word.key {
            Some(key) => (key, Some(word.value)),
            None => (word.value, None),
        };
        let switch = Switch::ALL.into_iter().find(|switch| switch.name().eq_ignore_ascii_case(&name));
        let switch = switch.ok_or_else(|| Reply::new(552, format!("Unrecognized option: Unknown option '{name}'.  Failing.")))?;
        let on = match value.as_deref() {
            None | Some("") => None,
            Some("0") => Some(false),
            Some("1") => Some(true),
            Some(value) => {
                let name = switch.name();
                let text = format!("Could not parse {name}: Unrecognized value {value}. Allowed values are 0 and 1.");
                return Err(Reply::new(513, format!("Unacceptable option value: {text}")));
            }
        };
        Ok(Setting { switch, on })
    };
    words.into_iter().map(setting).collect()
}
