//! Proving to Tor that we may control it.
//!
//! SAFECOOKIE first: both sides prove that they know the cookie, and neither sends it, so what listens in Tor's place learns nothing.

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::io::AsyncReadExt;

use super::wire::{self, Reply};
use super::{ControlError, Controller};

/// A cookie is exactly this long. Anything else is not a cookie, and must not be sent to anybody.
const COOKIE_BYTES: usize = 32;

const SERVER_KEY: &[u8] = b"Tor safe cookie authentication server-to-controller hash";
const CLIENT_KEY: &[u8] = b"Tor safe cookie authentication controller-to-server hash";

/// How to authenticate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Auth {
    /// As Tor says itself: an open port, or the cookie where it says it is.
    Automatic,
    /// With the cookie in this file.
    CookieFile(PathBuf),
    /// The control port is open to whoever can reach it.
    None,
}

pub(super) async fn authenticate(controller: &Controller, auth: &Auth) -> Result<(), ControlError> {
    if *auth == Auth::None {
        return controller.command("AUTHENTICATE").await.map(drop);
    }
    let offer = Offer::parse(&controller.command("PROTOCOLINFO 1").await?);
    let path = match auth {
        Auth::CookieFile(path) => path.clone(),
        _ if offer.has("NULL") => return controller.command("AUTHENTICATE").await.map(drop),
        _ => offer.cookie.clone().unwrap_or_default(),
    };
    if offer.has("SAFECOOKIE") {
        return safe_cookie(controller, &cookie(&path).await?).await;
    }
    if offer.has("COOKIE") {
        let cookie = cookie(&path).await?;
        return controller.command(&format!("AUTHENTICATE {}", HEXLOWER.encode(&cookie))).await.map(drop);
    }
    Err(ControlError::NoMethod(offer.methods.join(", ")))
}

async fn cookie(path: &Path) -> Result<[u8; COOKIE_BYTES], ControlError> {
    let read = async {
        let mut bytes = Vec::with_capacity(COOKIE_BYTES + 1);
        let file = tokio::fs::File::open(path).await?;
        file.take(COOKIE_BYTES as u64 + 1).read_to_end(&mut bytes).await?;
        bytes.try_into().map_err(|_| io::Error::other("it is not 32 bytes long"))
    };
    read.await.map_err(|source| ControlError::Cookie { path: path.to_owned(), source })
}

async fn safe_cookie(controller: &Controller, cookie: &[u8]) -> Result<(), ControlError> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|_| ControlError::Argument("the system gives no random bytes"))?;
    let command = format!("AUTHCHALLENGE SAFECOOKIE {}", HEXLOWER.encode(&nonce));
    let challenge = Challenge::parse(&controller.command(&command).await?)?;
    let proof = |key| -> Result<Hmac<Sha256>, ControlError> {
        let mac = Hmac::<Sha256>::new_from_slice(key);
        let mac = mac.map_err(|_| ControlError::Protocol("the proof cannot be computed"))?;
        Ok(mac.chain_update(cookie).chain_update(nonce).chain_update(&challenge.nonce))
    };
    proof(SERVER_KEY)?.verify_slice(&challenge.hash).map_err(|_| ControlError::Impostor)?;
    let answer = proof(CLIENT_KEY)?.finalize().into_bytes();
    controller.command(&format!("AUTHENTICATE {}", HEXLOWER.encode(&answer))).await.map(drop)
}

/// How Tor lets itself be controlled.
#[derive(Debug, Default, Eq, PartialEq)]
struct Offer {
    methods: Vec<String>,
    cookie: Option<PathBuf>,
}

impl Offer {
    /// ```text
    /// 250-PROTOCOLINFO 1
    /// 250-AUTH METHODS=COOKIE,SAFECOOKIE COOKIEFILE="/run/tor/control.authcookie"
    /// 250-VERSION Tor="0.4.9.11"
    /// 250 OK
    /// ```
    fn parse(reply: &Reply) -> Self {
        let line = reply.after("AUTH ").unwrap_or_default();
        let methods = wire::field(line, "METHODS").unwrap_or_default();
        Self {
            methods: methods.split(',').filter(|method| !method.is_empty()).map(str::to_owned).collect(),
            cookie: wire::field(line, "COOKIEFILE").map(PathBuf::from),
        }
    }

    fn has(&self, method: &str) -> bool {
        self.methods.iter().any(|offered| offered == method)
    }
}

/// Tor's half of the SAFECOOKIE exchange.
struct Challenge {
    hash: Vec<u8>,
    nonce: Vec<u8>,
}

impl Challenge {
    /// ```text
    /// 250 AUTHCHALLENGE SERVERHASH=680A…F0 SERVERNONCE=2F51…9C
    /// ```
    fn parse(reply: &Reply) -> Result<Self, ControlError> {
        let line = reply.after("AUTHCHALLENGE ").unwrap_or_default();
        let bytes = |key| {
            let text = wire::field(line, key)?.to_ascii_lowercase();
            HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().filter(|bytes| bytes.len() == 32)
        };
        match (bytes("SERVERHASH"), bytes("SERVERNONCE")) {
            (Some(hash), Some(nonce)) => Ok(Self { hash, nonce }),
            _ => Err(ControlError::Protocol("the authentication challenge cannot be read")),
        }
    }
}

#[cfg(fuzzing)]
pub(super) fn readings(reply: &Reply) -> Vec<String> {
    let _ = Challenge::parse(reply).map(|challenge| assert!(challenge.hash.len() == 32 && challenge.nonce.len() == 32));
    Offer::parse(reply).methods
}

#[cfg(test)]
mod tests {
    use super::super::wire::ReplyLine;
    use super::*;

    fn reply(lines: &[&str]) -> Reply {
        let line = |text: &&str| ReplyLine { code: 250, text: (*text).to_owned(), data: None };
        Reply { lines: lines.iter().map(line).collect() }
    }

    #[test]
    fn the_cookie_file_is_read_with_its_escapes() {
        let offer = Offer::parse(&reply(&["PROTOCOLINFO 1", r#"AUTH METHODS=COOKIE,SAFECOOKIE COOKIEFILE="/a b/\"c""#]));
        assert_eq!(offer.methods, ["COOKIE", "SAFECOOKIE"]);
        assert_eq!(offer.cookie, Some(PathBuf::from("/a b/\"c")));
        assert_eq!(Offer::parse(&reply(&["OK"])), Offer::default());
    }

    #[test]
    fn a_challenge_of_the_wrong_length_is_refused() {
        let hex = "ab".repeat(32);
        assert!(Challenge::parse(&reply(&[&format!("AUTHCHALLENGE SERVERHASH={hex} SERVERNONCE={hex}")])).is_ok());
        assert!(Challenge::parse(&reply(&[&format!("AUTHCHALLENGE SERVERHASH={hex} SERVERNONCE=ab")])).is_err());
        assert!(Challenge::parse(&reply(&["OK"])).is_err());
    }
}
