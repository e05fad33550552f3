//! Commands of the control protocol, each parsed into what it means and no more (control-spec, "Commands").
//!
//! A command that is not here is one that a function has no use for or no right to: those that set up, end or own the `tor`, and those
//! about others. They are answered as Tor answers a word it does not know.

use super::{
    Reply, Request,
    event::Kind,
    info::Key,
    onion::AddOnion,
    options::{Setting, settings},
    words::{Word, words},
};

/// Most words of one command. GETINFO and SETEVENTS of everything there is have fewer.
const WORDS_MAX: usize = 64;

/// Most relays of one EXTENDCIRCUIT. Tor builds circuits of at most eight hops (tor-spec, "Handling relay early cells").
const PATH_MAX: usize = 8;

/// A command, understood.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// Which authentication there is.
    ProtocolInfo,
    /// Begin. Whoever has the stream may use it.
    Authenticate,
    /// Of another kind of authentication than there is.
    AuthChallenge,
    /// End the connection.
    Quit,
    /// Ask for values, by keys as they were written.
    GetInfo(Vec<(String, Key)>),
    /// Ask for options.
    GetConf(Vec<String>),
    /// Set options.
    SetConf(Vec<Setting>),
    /// Give options their defaults back.
    ResetConf(Vec<Setting>),
    /// Which events are to come, instead of those before.
    SetEvents(Vec<Kind>),
    /// Features that are always on.
    UseFeature,
    /// A new circuit, or more relays for one.
    Extend(Extend),
    /// What a circuit is for.
    Repurpose {
        /// Which.
        circuit: u64,
        /// For what.
        purpose: Purpose,
    },
    /// Close a circuit.
    CloseCircuit {
        /// Which.
        circuit: u64,
        /// Only if no stream is on it.
        if_unused: bool,
    },
    /// Put a stream on a circuit.
    AttachStream {
        /// Which.
        stream: u64,
        /// On which circuit; 0 leaves it to Tor.
        circuit: u64,
        /// The hop where it leaves, counted from 1; the last one if nothing is said.
        hop: Option<u8>,
    },
    /// Close a stream.
    CloseStream {
        /// Which.
        stream: u64,
    },
    /// Use other circuits from now on.
    NewIdentity,
    /// Forget cached names: there are none.
    ClearDnsCache,
    /// Make an onion service.
    AddOnion(AddOnion),
    /// End an onion service, named by its 56 characters.
    DelOnion(String),
    /// Fetch the descriptor of an onion service.
    HsFetch {
        /// Its address, 56 characters.
        address: String,
        /// From these directories alone.
        servers: Vec<Router>,
    },
    /// Publish the descriptor of an onion service.
    HsPost {
        /// The service's address, 56 characters.
        address: Option<String>,
        /// At these directories alone.
        servers: Vec<Router>,
        /// The descriptor.
        descriptor: String,
    },
}

/// EXTENDCIRCUIT.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Extend {
    /// The circuit; none is a new one.
    pub circuit: Option<u64>,
    /// The relays to add, none where Tor is to choose.
    pub path: Vec<Router>,
    /// What it is for.
    pub purpose: Purpose,
}

/// What a circuit is for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Purpose {
    /// Whatever needs one.
    #[default]
    General,
    /// Only what is attached to it.
    Controller,
}

impl Purpose {
    /// As events have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::General => "GENERAL",
            Self::Controller => "CONTROLLER",
        }
    }

    fn parse(text: &str) -> Result<Self, Reply> {
        match text.to_ascii_lowercase().as_str() {
            "general" => Ok(Self::General),
            "controller" => Ok(Self::Controller),
            _ => Err(Reply::new(552, format!("Unknown purpose \"{text}\""))),
        }
    }
}

/// A relay, by its fingerprint or its nickname.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Router {
    /// 40 hexadecimal digits, in upper case.
    Fingerprint(String),
    /// 1 to 19 letters and digits.
    Nickname(String),
}

impl std::fmt::Display for Router {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fingerprint(fingerprint) => write!(out, "${fingerprint}"),
            Self::Nickname(nickname) => out.write_str(nickname),
        }
    }
}

impl Router {
    /// `$AE68…6225~authority1`, `$AE68…6225`, `AE68…6225` or `authority1`.
    pub fn parse(text: &str) -> Option<Self> {
        let (is_hex, rest) = text.strip_prefix('$').map_or((false, text), |rest| (true, rest));
        let (name, nickname) = rest.split_once('~').map_or((rest, None), |(name, nickname)| (name, Some(nickname)));
        if nickname.is_some_and(|nickname| !is_nickname(nickname)) {
            return None;
        }
        if name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Some(Self::Fingerprint(name.to_ascii_uppercase()));
        }
        (!is_hex && nickname.is_none() && is_nickname(name)).then(|| Self::Nickname(name.to_owned()))
    }
}

fn is_nickname(text: &str) -> bool {
    (1..=19).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// With Tor's own reply, when it is none or its arguments are wrong.
    pub fn parse(request: &Request) -> Result<Self, Reply> {
        let (line, data) = match request {
            Request::Line(line) => (line.as_str(), None),
            Request::Data(line, data) => (line.as_str(), Some(data)),
            Request::Garbled => return Err(Reply::new(500, "Syntax error: a command is printable ASCII")),
        };
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let name = word.to_ascii_uppercase();
        if let Some(descriptor) = data {
            return match name.as_str() {
                "HSPOST" => Arguments::parse(&name, rest)?.hs_post(descriptor),
                _ => Err(unrecognized(&format!("+{word}"))),
            };
        }
        let bare = |text: &str| text.split([' ', '\t']).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let arguments = || Arguments::parse(&name, rest);
        match name.as_str() {
            "AUTHENTICATE" => Ok(Self::Authenticate),
            "QUIT" => Ok(Self::Quit),
            "PROTOCOLINFO" => protocol_info(&bare(rest)),
            "AUTHCHALLENGE" => Ok(Self::AuthChallenge),
            "GETINFO" => {
                let keys = few(&name, bare(rest))?.into_iter();
                Ok(Self::GetInfo(keys.map(|text| (text.clone(), Key::parse(&text))).collect()))
            }
            "GETCONF" => few(&name, bare(rest)).map(Self::GetConf),
            "SETCONF" => settings(arguments()?.words).map(Self::SetConf),
            "RESETCONF" => settings(arguments()?.words).map(Self::ResetConf),
            "SETEVENTS" => Kind::parse_all(&few(&name, bare(rest))?).map(Self::SetEvents),
            "USEFEATURE" => use_feature(&bare(rest)),
            "EXTENDCIRCUIT" => arguments()?.extend(),
            "SETCIRCUITPURPOSE" => arguments()?.repurpose(),
            "CLOSECIRCUIT" => arguments()?.close_circuit(),
            "ATTACHSTREAM" => arguments()?.attach_stream(),
            "CLOSESTREAM" => arguments()?.close_stream(),
            "SIGNAL" => arguments()?.signal(),
            "ADD_ONION" => {
                let mut arguments = arguments()?;
                let key = arguments.least(1)?.remove(0);
                AddOnion::parse(&key, &arguments.words).map(Self::AddOnion)
            }
            "DEL_ONION" => arguments()?.del_onion(),
            "HSFETCH" => arguments()?.hs_fetch(),
            _ => Err(unrecognized(word)),
        }
    }
}

/// ```text
/// 510 Unrecognized command "FOO"
/// ```
fn unrecognized(word: &str) -> Reply {
    Reply::new(510, format!("Unrecognized command \"{word}\""))
}

/// ```text
/// 512 Bad arguments to SIGNAL: Need at least 1 argument(s)
/// ```
pub(super) fn bad_arguments(command: &str, what: &str) -> Reply {
    Reply::new(512, format!("Bad arguments to {command}: {what}"))
}

fn few<T>(command: &str, words: Vec<T>) -> Result<Vec<T>, Reply> {
    if words.len() > WORDS_MAX {
        return Err(bad_arguments(command, &format!("Cannot accept more than {WORDS_MAX} argument(s)")));
    }
    Ok(words)
}

/// ```text
/// PROTOCOLINFO 1
/// 513 No such version "foo"
/// ```
fn protocol_info(versions: &[String]) -> Result<Command, Reply> {
    match versions.iter().find(|version| version.parse::<u32>().is_err()) {
        Some(version) => Err(Reply::new(513, format!("No such version \"{version}\""))),
        None => Ok(Command::ProtocolInfo),
    }
}

/// ```text
/// USEFEATURE VERBOSE_NAMES EXTENDED_EVENTS
/// 552 Unrecognized feature "FOO"
/// ```
fn use_feature(features: &[String]) -> Result<Command, Reply> {
    let known = |feature: &&String| ["VERBOSE_NAMES", "EXTENDED_EVENTS"].iter().any(|known| feature.eq_ignore_ascii_case(known));
    match features.iter().find(|feature| !known(feature)) {
        Some(feature) => Err(Reply::new(552, format!("Unrecognized feature \"{feature}\""))),
        None => Ok(Command::UseFeature),
    }
}

/// A command's words, and its name for what is said of them.
struct Arguments<'a> {
    name: &'a str,
    words: Vec<Word>,
}

impl<'a> Arguments<'a> {
    fn parse(name: &'a str, text: &str) -> Result<Self, Reply> {
        let words = words(text).ok_or_else(|| bad_arguments(name, "Cannot parse keyword argument(s)"))?;
        Ok(Self { name, words: few(name, words)? })
    }

    /// Takes the words without a key off.
    fn bare(&mut self) -> Vec<String> {
        let (bare, keyed) = std::mem::take(&mut self.words).into_iter().partition(|word| word.key.is_none());
        self.words = keyed;
        bare.into_iter().map(|word: Word| word.value).collect()
    }

    fn least(&mut self, least: usize) -> Result<Vec<String>, Reply> {
        let bare = self.bare();
        if bare.len() < least {
            return Err(bad_arguments(self.name, &format!("Need at least {least} argument(s)")));
        }
        Ok(bare)
    }

    fn most(&self, bare: &[String], most: usize) -> Result<(), Reply> {
        if bare.len() + self.words.len() > most {
            return Err(bad_arguments(self.name, &format!("Cannot accept more than {most} argument(s)")));
        }
        Ok(())
    }

    fn only(&self, keys: &[&str]) -> Result<(), Reply> {
        let known = |word: &&Word| keys.iter().any(|key| word.is(key));
        match self.words.iter().find(|word| !known(word)) {
            Some(Word { key: Some(key), .. }) => Err(bad_arguments(self.name, &format!("Unrecognized keyword argument \"{key}\""))),
            _ => Ok(()),
        }
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.words.iter().find(|word| word.is(key)).map(|word| word.value.as_str())
    }

    fn servers(&self) -> Result<Vec<Router>, Reply> {
        let servers = self.words.iter().filter(|word| word.is("SERVER"));
        let parse = |word: &Word| Router::parse(&word.value).ok_or_else(|| Reply::new(552, format!("Server \"{}\" not found", word.value)));
        servers.map(parse).collect()
    }

    /// ```text
    /// EXTENDCIRCUIT 0 middle1,$B3180620C1F672D857AEB4446A19DF9161DC2CA3~exit1 purpose=general
    /// EXTENDCIRCUIT 25 exit2
    /// EXTENDCIRCUIT 0
    /// ```
    fn extend(mut self) -> Result<Command, Reply> {
        let bare = self.least(1)?;
        let circuit = match circuit(&bare[0])? {
            0 => None,
            circuit => Some(circuit),
        };
        let purpose = self.value("purpose").map_or(Ok(Purpose::default()), Purpose::parse)?;
        let names = bare.get(1).map(|path| path.split(',').collect::<Vec<_>>()).unwrap_or_default();
        if names.len() > PATH_MAX {
            return Err(bad_arguments(self.name, &format!("a circuit has at most {PATH_MAX} hops")));
        }
        let parse = |name: &&str| Router::parse(name).ok_or_else(|| no_such_router(name));
        let path: Vec<Router> = names.iter().map(parse).collect::<Result<_, _>>()?;
        if circuit.is_some() && path.is_empty() {
            return Err(Reply::new(512, "syntax error: path required."));
        }
        Ok(Command::Extend(Extend { circuit, path, purpose }))
    }

    /// ```text
    /// SETCIRCUITPURPOSE 25 purpose=controller
    /// 552 No purpose given
    /// ```
    fn repurpose(mut self) -> Result<Command, Reply> {
        let circuit = circuit(&self.least(1)?[0])?;
        let purpose = self.value("purpose").ok_or_else(|| Reply::new(552, "No purpose given"))?;
        Ok(Command::Repurpose { circuit, purpose: Purpose::parse(purpose)? })
    }

    /// ```text
    /// CLOSECIRCUIT 25 IfUnused
    /// ```
    fn close_circuit(mut self) -> Result<Command, Reply> {
        let bare = self.least(1)?;
        let if_unused = bare[1..].iter().any(|flag| flag.eq_ignore_ascii_case("IfUnused"));
        Ok(Command::CloseCircuit { circuit: circuit(&bare[0])?, if_unused })
    }

    /// ```text
    /// ATTACHSTREAM 128 25 HOP=3
    /// ```
    fn attach_stream(mut self) -> Result<Command, Reply> {
        let bare = self.least(2)?;
        self.only(&["HOP"])?;
        let (stream, circuit) = (stream(&bare[0])?, circuit(&bare[1])?);
        let hop = self.value("HOP").map(|hop| hop.parse().map_err(|_| Reply::new(552, format!("Bad value hop={hop}")))).transpose()?;
        Ok(Command::AttachStream { stream, circuit, hop })
    }

    /// ```text
    /// CLOSESTREAM 128 1
    /// 552 Unrecognized reason "foo"
    /// ```
    fn close_stream(mut self) -> Result<Command, Reply> {
        let bare = self.least(2)?;
        let stream = stream(&bare[0])?;
        let reason = &bare[1];
        reason.parse::<u8>().map_err(|_| Reply::new(552, format!("Unrecognized reason \"{reason}\"")))?;
        Ok(Command::CloseStream { stream })
    }

    /// ```text
    /// SIGNAL NEWNYM
    /// 552 Unrecognized signal code "FOO"
    /// ```
    fn signal(mut self) -> Result<Command, Reply> {
        let bare = self.least(1)?;
        self.most(&bare, 1)?;
        match bare[0].to_ascii_uppercase().as_str() {
            "NEWNYM" => Ok(Command::NewIdentity),
            "CLEARDNSCACHE" => Ok(Command::ClearDnsCache),
            _ => Err(Reply::new(552, format!("Unrecognized signal code \"{}\"", bare[0]))),
        }
    }

    /// ```text
    /// DEL_ONION bkbb6dh5jemwfj6yuhqnwyj6cerqi5dt47fp5em6lu4hm3tp363gduad
    /// 512 Malformed Onion Service id
    /// ```
    fn del_onion(mut self) -> Result<Command, Reply> {
        let mut bare = self.least(1)?;
        self.most(&bare, 1)?;
        if !is_service(&bare[0]) {
            return Err(Reply::new(512, "Malformed Onion Service id"));
        }
        Ok(Command::DelOnion(bare.remove(0).to_ascii_lowercase()))
    }

    /// ```text
    /// HSFETCH pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd SERVER=$AE6880C83F2D2EAF7EE437A2240E9036E5066225
    /// 513 Invalid argument "abc"
    /// 552 Server "foo" not found
    /// ```
    fn hs_fetch(mut self) -> Result<Command, Reply> {
        let mut bare = self.least(1)?;
        if bare.len() > 1 {
            return Err(bad_arguments(self.name, "Cannot parse keyword argument(s)"));
        }
        if !is_service(&bare[0]) {
            return Err(Reply::new(513, format!("Invalid argument \"{}\"", bare[0])));
        }
        self.only(&["SERVER"])?;
        Ok(Command::HsFetch { servers: self.servers()?, address: bare.remove(0).to_ascii_lowercase() })
    }

    /// ```text
    /// +HSPOST SERVER=$AE6880C83F2D2EAF7EE437A2240E9036E5066225 HSADDRESS=pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd
    /// hs-descriptor 3
    /// …
    /// .
    /// ```
    fn hs_post(self, descriptor: &str) -> Result<Command, Reply> {
        self.only(&["SERVER", "HSADDRESS"])?;
        let address = self.value("HSADDRESS").map(str::to_ascii_lowercase);
        if let Some(wrong) = address.as_deref().filter(|address| !is_service(address)) {
            return Err(Reply::new(512, format!("Malformed onion address \"{wrong}\"")));
        }
        Ok(Command::HsPost { address, servers: self.servers()?, descriptor: descriptor.to_owned() })
    }
}

/// ```text
/// 552 Unknown circuit "999"
/// ```
pub fn unknown_circuit(id: impl std::fmt::Display) -> Reply {
    Reply::new(552, format!("Unknown circuit \"{id}\""))
}

/// ```text
/// 552 Unknown stream "5"
/// ```
pub fn unknown_stream(id: impl std::fmt::Display) -> Reply {
    Reply::new(552, format!("Unknown stream \"{id}\""))
}

/// ```text
/// 552 No such router "nobody"
/// ```
pub fn no_such_router(name: impl std::fmt::Display) -> Reply {
    Reply::new(552, format!("No such router \"{name}\""))
}

fn circuit(text: &str) -> Result<u64, Reply> {
    number(text).ok_or_else(|| unknown_circuit(text))
}

fn stream(text: &str) -> Result<u64, Reply> {
    number(text).ok_or_else(|| unknown_stream(text))
}

/// `parse` alone would take a plus sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// An address of version 3 without `.onion`, as far as its letters show.
pub(super) fn is_service(text: &str) -> bool {
    text.len() == 56 && text.bytes().all(|byte| matches!(byte.to_ascii_lowercase(), b'a'..=b'z' | b'2'..=b'7'))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
