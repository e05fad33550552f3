//! The client's end: judges first, then speaks.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Channel, Failed, HANDSHAKE_BYTES_MAX, builder, give, prologue, random, read_message, take, write_message};
use crate::appraise::{Roots, Verified};
use crate::evidence::{EVIDENCE_BYTES_MAX, Evidence, Hello};
use crate::kind::{Assurance, Format};
use crate::policy::Policy;

/// What a client expects of a conclave.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a, A> {
    /// Hardware's or a simulator's: nothing else is accepted, and nothing falls back.
    pub roots: &'a Roots<A>,
    /// What may run, on which machines.
    pub policy: &'a Policy,
    /// The key of the node's onion service, as it was connected to.
    pub node: &'a [u8],
    /// The conclave's configuration, where the client knows it beforehand.
    pub config_hash: Option<[u8; 32]>,
    /// The client's clock: seconds since 1970.
    pub now: u64,
}

/// A channel to a conclave whose evidence was accepted.
pub struct Connected<S, A> {
    /// Reader and writer.
    pub channel: Channel<S>,
    /// What the evidence says.
    pub verified: Verified<A>,
    /// The configuration that the conclave has.
    pub config_hash: [u8; 32],
}

/// The client's end of a new channel. Sends nothing but a nonce before the evidence was accepted.
///
/// # Errors
/// There is no such conclave, its evidence is not accepted, or somebody else answered.
pub async fn connect<S, A>(mut stream: S, expected: &Expected<'_, A>) -> Result<Connected<S, A>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Assurance,
{
    let nonce = random()?;
    let kinds = [Format::Tdx, Format::Snp, Format::Sgx].map(A::kind).to_vec();
    let hello = Hello { nonce, kinds }.to_bytes();
    write_message(&mut stream, "sending the Hello", &hello).await?;

    let evidence_bytes = read_message(&mut stream, "the Evidence", EVIDENCE_BYTES_MAX).await?;
    if evidence_bytes.is_empty() {
        return Err(Failed::NoKind);
    }
    let evidence = Evidence::from_bytes(&evidence_bytes)?;
    if evidence.node != expected.node {
        return Err(Failed::Node);
    }
    if expected.config_hash.is_some_and(|known| known != evidence.config_hash) {
        return Err(Failed::Configuration);
    }
    let verified = expected.roots.verify(&evidence, expected.policy, &nonce, expected.now)?;

    let prologue = prologue(verified.kind(), &nonce, &evidence_bytes, &hello);
    let mut noise = builder()?
        .prologue(&prologue)
        .and_then(|builder| builder.remote_public_key(&evidence.static_pk))
        .and_then(|builder| builder.build_initiator())
        .map_err(|_| Failed::Handshake)?;
    let ours = give(&mut noise)?;
    write_message(&mut stream, "beginning the handshake", &ours).await?;
    let theirs = read_message(&mut stream, "the handshake", HANDSHAKE_BYTES_MAX).await?;
    take(&mut noise, &theirs)?;
    let channel = Channel::new(stream, noise)?;
    Ok(Connected { channel, verified, config_hash: evidence.config_hash })
}
