//! Why a stream could not be opened.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// A stream through Tor could not be opened. The texts name no destination: the caller knows it, and a log must not.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocksError {
    /// Nothing listens where Tor's SOCKS port should be.
    #[error("no Tor answers at {place}")]
    NoTor {
        /// Where it was looked for.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// Tor closed the connection or it broke, before it answered.
    #[error("the connection to Tor's SOCKS port broke")]
    Broken(#[source] io::Error),
    /// What listens there does not behave as Tor's SOCKS port does.
    #[error("what listens is not Tor's SOCKS port: {0}")]
    Protocol(&'static str),
    /// The host is not something SOCKS can carry.
    #[error("the host is not a name of 1 to 253 visible ASCII characters, nor an address")]
    BadName,
    /// No answer within the caller's deadline.
    #[error("no answer through Tor within {} s", .0.as_secs_f32())]
    Deadline(Duration),

    /// F0: the onion service's descriptor cannot be found.
    #[error("the onion service's descriptor cannot be found")]
    OnionNotFound,
    /// F1: the onion service's descriptor is invalid.
    #[error("the onion service's descriptor is invalid")]
    OnionInvalid,
    /// F2: introduction to the onion service failed.
    #[error("introduction to the onion service failed")]
    IntroductionFailed,
    /// F3: the rendezvous with the onion service failed.
    #[error("the rendezvous with the onion service failed")]
    RendezvousFailed,
    /// F4: the onion service asks for client authorization and we have none.
    #[error("the onion service asks for client authorization")]
    AuthorizationMissing,
    /// F5: the onion service does not accept our client authorization.
    #[error("the onion service does not accept our client authorization")]
    AuthorizationWrong,
    /// F6: the onion service address is not valid.
    #[error("the onion service address is not valid")]
    BadOnionAddress,
    /// F7: introduction to the onion service timed out.
    #[error("introduction to the onion service timed out")]
    IntroductionTimedOut,

    /// 01: Tor gives no reason.
    #[error("Tor could not open the stream and gives no reason")]
    General,
    /// 02: no exit policy (or no rule of this Tor) allows it.
    #[error("no exit relay's policy allows this destination")]
    Policy,
    /// 03: the exit cannot reach the network.
    #[error("the exit relay cannot reach that network")]
    NetworkUnreachable,
    /// 04: the name does not exist, or the exit cannot reach the host.
    #[error("the name does not exist, or the host cannot be reached")]
    HostUnreachable,
    /// 05: the host refused the connection.
    #[error("the host refused the connection")]
    Refused,
    /// 06: the connection timed out beyond Tor.
    #[error("the connection timed out beyond Tor")]
    TimedOut,
    /// 07 or 08: this Tor does not know the command or the kind of address.
    #[error("this Tor does not support the request")]
    Unsupported,
    /// A code that neither RFC 1928 nor Tor defines.
    #[error("Tor answered with the unknown code {0:#04x}")]
    Unknown(u8),
}

impl SocksError {
    /// Reads the reply code of a request that failed: RFC 1928, section 6, and Tor's socks-extensions.
    pub(super) fn from_reply(code: u8) -> Self {
        match code {
            0x01 => Self::General,
            0x02 => Self::Policy,
            0x03 => Self::NetworkUnreachable,
            0x04 => Self::HostUnreachable,
            0x05 => Self::Refused,
            0x06 => Self::TimedOut,
            0x07 | 0x08 => Self::Unsupported,
            0xF0 => Self::OnionNotFound,
            0xF1 => Self::OnionInvalid,
            0xF2 => Self::IntroductionFailed,
            0xF3 => Self::RendezvousFailed,
            0xF4 => Self::AuthorizationMissing,
            0xF5 => Self::AuthorizationWrong,
            0xF6 => Self::BadOnionAddress,
            0xF7 => Self::IntroductionTimedOut,
            other => Self::Unknown(other),
        }
    }

    /// What the person may try, in one line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoTor { .. } => "start Tor, or say where its SOCKS port is",
            Self::Broken(_) => "look whether Tor is still running, then try again",
            Self::Protocol(_) => "give the address of Tor's SOCKS port; a plain proxy cannot isolate circuits",
            Self::BadName => "give a DNS name in its ASCII form, an IP address or an onion service address",
            Self::Deadline(_) | Self::TimedOut => "try again; if it stays so, look whether Tor is connected",
            Self::OnionNotFound => "look at the address; if it is right, its node is down or came up a moment ago",
            Self::OnionInvalid => "its node publishes something this Tor cannot read; a newer Tor may help",
            Self::IntroductionFailed | Self::IntroductionTimedOut | Self::RendezvousFailed => {
                "try again; its node may be restarting or busy"
            }
            Self::AuthorizationMissing | Self::AuthorizationWrong => "its operator must give you a client authorization key",
            Self::BadOnionAddress => "copy the address again: 56 characters and `.onion`",
            Self::General => "look whether anything listens at that port, then try again",
            Self::Policy => "try another port; few exit relays allow this one",
            Self::NetworkUnreachable | Self::HostUnreachable => "look at the name or the address, then try again",
            Self::Refused => "look at the port; nothing listens there",
            Self::Unsupported | Self::Unknown(_) => "use a newer Tor",
        }
    }

    /// Whether the same request may well succeed a little later.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Broken(_)
                | Self::Deadline(_)
                | Self::General
                | Self::IntroductionFailed
                | Self::IntroductionTimedOut
                | Self::OnionNotFound
                | Self::RendezvousFailed
                | Self::TimedOut
        )
    }
}
