//! The channel between a client and a conclave, with the host of the conclave between them.
//!
//! ```text
//! client → conclave   Hello: nonce, kinds
//! conclave → client   Evidence: report, collateral, key, configuration, node
//! client              judges it; says nothing more where it is not accepted
//! client → conclave   Noise_NK_25519_AESGCM_SHA256: e, es
//! conclave → client   e, ee
//! both                records, until each side's end
//! ```
//!
//! The host sees sizes and times, and can end it. Nothing here waits for a bounded time: whoever calls sets the bounds.

mod stream;

use std::io;

use ring::rand::{SecureRandom, SystemRandom};
use snow::{Builder, HandshakeState};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

pub use self::stream::{Channel, RECORD_BYTES_MAX, REKEY_RECORDS};
use crate::evidence::{Binding, Collateral, EVIDENCE_BYTES_MAX, Evidence, HELLO_BYTES_MAX, Hello, sha256};
use crate::kind::Kind;
use crate::source::NoEvidence;
use crate::wire::{self, Malformed};

#[cfg(feature = "verify")]
mod client;
#[cfg(feature = "verify")]
pub use self::client::{Connected, Expected, connect};

const NOISE: &str = "Noise_NK_25519_AESGCM_SHA256";

/// Longest message of the handshake. Each has a key of 32 bytes and a tag of 16.
const HANDSHAKE_BYTES_MAX: usize = 128;

/// Why there is no channel.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Failed {
    /// The stream below failed, or ended.
    #[error("{doing}")]
    Stream {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The other side sent something that is no message of this protocol.
    #[error("the other side does not keep to the protocol: {0}")]
    Malformed(#[from] Malformed),
    /// The conclave has no evidence of a kind that was asked for.
    #[error("the conclave has no evidence of a kind that is accepted")]
    NoKind,
    /// The client accepts none of this conclave's kind. It was told so.
    #[error("the client accepts no {0}")]
    Unwanted(Kind),
    /// The evidence is not accepted. Nothing was sent after it.
    #[cfg(feature = "verify")]
    #[error("the evidence is not accepted: {0}")]
    Refused(#[from] crate::refused::Refused),
    /// Another node's conclave.
    #[error("the evidence is of another node's conclave")]
    Node,
    /// Another configuration.
    #[error("the conclave has another configuration than was asked for")]
    Configuration,
    /// The other side has not the key that the evidence vouches for, or something between changed a message.
    #[error("the handshake failed: somebody else answered, or a message was changed on its way")]
    Handshake,
    /// The hardware gave no evidence.
    #[error(transparent)]
    NoEvidence(#[from] NoEvidence),
    /// The system gave no randomness.
    #[error("the system gave no randomness")]
    Randomness,
}

/// The key of a conclave's end: made inside, never stored, gone with the process.
pub struct ConclaveKey {
    private: Zeroizing<Vec<u8>>,
    public: [u8; 32],
}

impl ConclaveKey {
    /// A new one.
    ///
    /// # Errors
    /// The system gave no randomness.
    pub fn generate() -> Result<Self, Failed> {
        let pair = builder()?.generate_keypair().map_err(|_| Failed::Randomness)?;
        let public = pair.public.as_slice().try_into().map_err(|_| Failed::Randomness)?;
        Ok(Self { private: Zeroizing::new(pair.private), public })
    }

    /// What the evidence vouches for.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }
}

/// A conclave, as it presents itself.
pub struct Conclave<'a> {
    /// What its hardware is.
    pub kind: Kind,
    /// Its key.
    pub key: &'a ConclaveKey,
    /// SHA-256 of its configuration.
    pub config_hash: [u8; 32],
    /// The key of its node's onion service.
    pub node: &'a [u8],
}

/// The conclave's end of a new channel. `attest` gets the 64 bytes that its hardware shall sign, and gives the report and what the node
/// has of collateral.
///
/// # Errors
/// The client spoke no Hello, wants another kind, went away, or has not seen the evidence that was sent.
pub async fn accept<S, F, W>(mut stream: S, conclave: &Conclave<'_>, attest: F) -> Result<Channel<S>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnOnce([u8; 64]) -> W,
    W: Future<Output = Result<(Vec<u8>, Collateral), NoEvidence>>,
{
    let hello_bytes = read_message(&mut stream, "the Hello", HELLO_BYTES_MAX).await?;
    let hello = Hello::from_bytes(&hello_bytes)?;
    if !hello.kinds.contains(&conclave.kind) {
        write_message(&mut stream, "telling the client that there is no such evidence", &[]).await?;
        return Err(Failed::Unwanted(conclave.kind));
    }
    let bound = Binding {
        kind: conclave.kind,
        static_pk: &conclave.key.public,
        nonce: &hello.nonce,
        config_hash: &conclave.config_hash,
        node: conclave.node,
    };
    let (report, collateral) = attest(bound.report_data()).await?;
    let evidence = Evidence {
        kind: conclave.kind,
        report,
        collateral,
        static_pk: conclave.key.public,
        config_hash: conclave.config_hash,
        node: conclave.node.to_vec(),
    }
    .to_bytes();
    if evidence.len() > EVIDENCE_BYTES_MAX {
        return Err(Malformed::Long { what: "our Evidence", length: evidence.len(), max: EVIDENCE_BYTES_MAX }.into());
    }
    write_message(&mut stream, "sending the Evidence", &evidence).await?;

    let prologue = prologue(conclave.kind, &hello.nonce, &evidence, &hello_bytes);
    let mut noise = builder()?
        .prologue(&prologue)
        .and_then(|builder| builder.local_private_key(&conclave.key.private))
        .and_then(|builder| builder.build_responder())
        .map_err(|_| Failed::Handshake)?;
    let theirs = read_message(&mut stream, "the handshake", HANDSHAKE_BYTES_MAX).await?;
    take(&mut noise, &theirs)?;
    let ours = give(&mut noise)?;
    write_message(&mut stream, "answering the handshake", &ours).await?;
    Channel::new(stream, noise)
}

fn builder() -> Result<Builder<'static>, Failed> {
    Ok(Builder::new(NOISE.parse().map_err(|_| Failed::Handshake)?))
}

/// What both must have seen alike: the assurance, the nonce, and every byte of Evidence and Hello.
fn prologue(kind: Kind, nonce: &[u8; 32], evidence: &[u8], hello: &[u8]) -> Vec<u8> {
    wire::fields(&[kind.label(), nonce, &sha256(evidence), &sha256(hello)])
}

/// A message of the handshake that came. It carries nothing.
fn take(noise: &mut HandshakeState, message: &[u8]) -> Result<(), Failed> {
    let mut payload = [0; HANDSHAKE_BYTES_MAX];
    match noise.read_message(message, &mut payload) {
        Ok(0) => Ok(()),
        _ => Err(Failed::Handshake),
    }
}

/// Our message of the handshake.
fn give(noise: &mut HandshakeState) -> Result<Vec<u8>, Failed> {
    let mut message = vec![0; HANDSHAKE_BYTES_MAX];
    let length = noise.write_message(&[], &mut message).map_err(|_| Failed::Handshake)?;
    message.truncate(length);
    Ok(message)
}

/// Random bytes.
#[cfg_attr(not(feature = "verify"), allow(dead_code))]
fn random() -> Result<[u8; 32], Failed> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Failed::Randomness)?;
    Ok(bytes)
}

/// A message before the channel: four bytes of length, big-endian, and it.
async fn read_message(stream: &mut (impl AsyncRead + Unpin), what: &'static str, max: usize) -> Result<Vec<u8>, Failed> {
    let failed = |source| Failed::Stream { doing: "waiting for the other side's message", source };
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(failed)?;
    let length = u32::from_be_bytes(length) as usize;
    // Before memory is taken for it.
    if length > max {
        return Err(Malformed::Long { what, length, max }.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.map_err(failed)?;
    Ok(message)
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), doing: &'static str, message: &[u8]) -> Result<(), Failed> {
    let mut bytes = Vec::with_capacity(message.len() + 4);
    wire::put(&mut bytes, message);
    stream.write_all(&bytes).await.map_err(|source| Failed::Stream { doing, source })?;
    stream.flush().await.map_err(|source| Failed::Stream { doing, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Format;

    /// Whether a handshake between two ends with these prologues goes through.
    fn agrees(client: &[u8], conclave: &[u8]) -> bool {
        let key = ConclaveKey::generate().expect("a key");
        let ours =
            builder().expect("known").prologue(client).and_then(|b| b.remote_public_key(&key.public)).and_then(|b| b.build_initiator());
        let theirs =
            builder().expect("known").prologue(conclave).and_then(|b| b.local_private_key(&key.private)).and_then(|b| b.build_responder());
        let (mut ours, mut theirs) = (ours.expect("an end"), theirs.expect("an end"));
        let first = give(&mut ours).expect("a message");
        take(&mut theirs, &first).is_ok() && take(&mut ours, &give(&mut theirs).expect("a message")).is_ok()
    }

    #[test]
    fn a_handshake_fails_between_hardware_and_a_simulator_and_wherever_the_two_saw_something_else() {
        let of = |kind, nonce, evidence: &[u8], hello: &[u8]| prologue(kind, &[nonce; 32], evidence, hello);
        let (hardware, simulated) = (Kind::Hardware(Format::Tdx), Kind::Simulated(Format::Tdx));
        let good = of(hardware, 1, b"evidence", b"hello");
        assert!(agrees(&good, &of(hardware, 1, b"evidence", b"hello")));
        for other in [
            of(simulated, 1, b"evidence", b"hello"),
            of(hardware, 2, b"evidence", b"hello"),
            of(hardware, 1, b"Evidence", b"hello"),
            of(hardware, 1, b"evidence", b"Hello"),
        ] {
            assert!(!agrees(&good, &other));
        }
    }

    #[test]
    fn a_handshakes_message_carries_nothing() {
        let key = ConclaveKey::generate().expect("a key");
        let end = |payload: &[u8]| {
            let mut client = builder().expect("known").remote_public_key(&key.public).and_then(|b| b.build_initiator()).expect("an end");
            let mut conclave = builder().expect("known").local_private_key(&key.private).and_then(|b| b.build_responder()).expect("an end");
            let mut message = vec![0; HANDSHAKE_BYTES_MAX];
            let length = client.write_message(payload, &mut message).expect("a message");
            take(&mut conclave, &message[..length]).is_ok()
        };
        assert!(end(b""));
        assert!(!end(b"before the conclave has shown its key"));
    }
}
