//! The SOCKS port of a function's Tor: SOCKS 5 with CONNECT (RFC 1928), and user and password to keep streams apart (RFC 1929).
//!
//! It is what scripts open their streams with. Each becomes a stream of the function's view, which waits for ATTACHSTREAM if the function said so.
//! A conclave asks its host for streams in the same words, and for addresses as well (Tor's RESOLVE).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::link::CallErrorKind;

/// Where a stream is to go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// A name or an address.
    pub host: String,
    /// A port; none where only the address is asked for.
    pub port: u16,
    /// User and password: streams of others share no circuit with it.
    pub isolation: Option<(Vec<u8>, Vec<u8>)>,
}

/// Replies that end a request (RFC 1928, section 6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Answer {
    /// It is connected.
    Succeeded = 0,
    /// Something else.
    Failed = 1,
    /// The grant or the exit does not allow it.
    NotAllowed = 2,
    /// There is no such host, or no way to it.
    HostUnreachable = 4,
    /// It took too long.
    TimedOut = 6,
    /// Not CONNECT.
    Unsupported = 7,
}

impl From<CallErrorKind> for Answer {
    fn from(kind: CallErrorKind) -> Self {
        match kind {
            CallErrorKind::Refused => Self::NotAllowed,
            CallErrorKind::Unreachable | CallErrorKind::Resolve => Self::HostUnreachable,
            CallErrorKind::Timeout => Self::TimedOut,
            _ => Self::Failed,
        }
    }
}

/// Tor's own command: which address does this name have?
const RESOLVE: u8 = 0xf0;

/// Reads what a client asks for, and answers what can be answered before. Nothing, when it is none of what there is.
pub async fn wanted(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<Option<Wanted>> {
    read_wanted(stream, false).await
}

/// The same where addresses can be asked for too: those come with port 0.
pub async fn wanted_or_asked(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<Option<Wanted>> {
    read_wanted(stream, true).await
}

async fn read_wanted(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), resolves: bool) -> std::io::Result<Option<Wanted>> {
    let [version, methods] = read(stream).await?;
    let mut offered = vec![0; usize::from(methods)];
    stream.read_exact(&mut offered).await?;
    // As tor: who can give a user and a password is asked for them.
    let method = [2, 0].into_iter().find(|method| offered.contains(method));
    let Some(method) = method.filter(|_| version == 5) else {
        stream.write_all(&[5, 0xff]).await?;
        return Ok(None);
    };
    stream.write_all(&[5, method]).await?;
    let mut isolation = None;
    if method == 2 {
        let [_version] = read(stream).await?;
        let (user, password) = (counted(stream).await?, counted(stream).await?);
        isolation = Some((user, password));
        stream.write_all(&[1, 0]).await?;
    }
    let [version, command, _, kind] = read(stream).await?;
    let host = match kind {
        1 => Some(Ipv4Addr::from(read::<4>(stream).await?).to_string()),
        4 => Some(Ipv6Addr::from(read::<16>(stream).await?).to_string()),
        3 => String::from_utf8(counted(stream).await?).ok(),
        _ => None,
    };
    let asks = resolves && command == RESOLVE;
    let (Some(host), 5, true) = (host, version, command == 1 || asks) else {
        answer(stream, Answer::Unsupported).await?;
        return Ok(None);
    };
    let port = u16::from_be_bytes(read(stream).await?);
    // Its words stand in events.
    if asks != (port == 0) || host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
        answer(stream, Answer::Failed).await?;
        return Ok(None);
    }
    Ok(Some(Wanted { host, port, isolation }))
}

/// Answers a request.
pub async fn answer(stream: &mut (impl AsyncWrite + Unpin), answer: Answer) -> std::io::Result<()> {
    stream.write_all(&[5, answer as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

/// Answers a question for an address.
pub async fn tell(stream: &mut (impl AsyncWrite + Unpin), address: IpAddr) -> std::io::Result<()> {
    let mut bytes = vec![5, Answer::Succeeded as u8, 0];
    match address {
        IpAddr::V4(address) => bytes.extend_from_slice(&[&[1][..], &address.octets()].concat()),
        IpAddr::V6(address) => bytes.extend_from_slice(&[&[4][..], &address.octets()].concat()),
    }
    bytes.extend_from_slice(&[0, 0]);
    stream.write_all(&bytes).await
}

async fn read<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn counted(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let [length] = read(stream).await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(bytes: &[u8]) -> (std::io::Result<Option<Wanted>>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        let wanted = wanted(&mut ours).await;
        drop(ours);
        let mut answers = Vec::new();
        theirs.read_to_end(&mut answers).await.unwrap();
        (wanted, answers)
    }

    #[tokio::test]
    async fn a_request_is_read_and_all_else_refused() {
        let (found, answers) = said(b"\x05\x01\x00\x05\x01\x00\x03\x0bexample.org\x01\xbb").await;
        assert_eq!(found.unwrap(), Some(Wanted { host: "example.org".into(), port: 443, isolation: None }));
        assert_eq!(answers, b"\x05\x00");
        let (found, answers) = said(b"\x05\x02\x00\x02\x01\x01a\x02bc\x05\x01\x00\x01\x7f\x51\x00\x01\x1f\x91").await;
        assert_eq!(
            found.unwrap(),
            Some(Wanted { host: "127.81.0.1".into(), port: 8081, isolation: Some((b"a".to_vec(), b"bc".to_vec())) })
        );
        assert_eq!(answers, b"\x05\x02\x01\x00");
        let (found, _) = said(b"\x05\x01\x00\x05\x01\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50").await;
        assert_eq!(found.unwrap().unwrap().host, "::1");
        for (wrong, answered) in [
            (b"\x04\x01\x00\x50".as_slice(), b"\x05\xff".as_slice()),
            (b"\x05\x01\x01", b"\x05\xff"),
            (b"\x05\x01\x00\x05\x02\x00\x01\x7f\0\0\x01\0\x50", b"\x05\0\x05\x07\0\x01\0\0\0\0\0\0"),
            (b"\x05\x01\x00\x05\xf0\x00\x03\x01a\0\0", b"\x05\0\x05\x07\0\x01\0\0\0\0\0\0"),
            (b"\x05\x01\x00\x05\x01\x00\x03\x03a\r\n\0\x50", b"\x05\0\x05\x01\0\x01\0\0\0\0\0\0"),
            (b"\x05\x01\x00\x05\x01\x00\x03\x00\0\x50", b"\x05\0\x05\x01\0\x01\0\0\0\0\0\0"),
            (b"\x05\x01\x00\x05\x01\x00\x03\x01a\0\0", b"\x05\0\x05\x01\0\x01\0\0\0\0\0\0"),
        ] {
            let (found, answers) = said(wrong).await;
            assert_eq!((found.unwrap(), answers.as_slice()), (None, answered), "{wrong:?}");
        }
        assert!(said(b"\x05\x01\x00\x05").await.0.is_err());
    }
}
