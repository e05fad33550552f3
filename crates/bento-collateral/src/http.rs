//! One question to a service at a time, over TLS, each within its time and no longer than it can be.

use std::{fmt, net::IpAddr, path::Path, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{HeaderMap, Request, StatusCode, Uri, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::Trouble;

/// Longest text of the other side that is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// The address of a service: what is before all of its paths.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Base {
    secure: bool,
    host: String,
    port: u16,
    path: String,
}

impl FromStr for Base {
    type Err = Trouble;

    fn from_str(text: &str) -> Result<Self, Trouble> {
        let wrong = || Trouble::Address(line(text));
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (scheme, authority) = (uri.scheme_str().ok_or_else(wrong)?, uri.authority().ok_or_else(wrong)?);
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let secure = match scheme {
            "https" => true,
            // To another machine everybody on the way would see which machine asks.
            "http" if near => false,
            _ => return Err(wrong()),
        };
        if host.is_empty() || authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong());
        }
        let path = uri.path().trim_end_matches('/').trim_end_matches("/sgx/certification/v4").to_owned();
        Ok(Self { secure, host, port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }), path })
    }
}

impl fmt::Display for Base {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.host, self.port)
    }
}

/// What came.
pub(crate) struct Got {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Asks services.
#[derive(Clone)]
pub struct Getter {
    tls: Arc<ClientConfig>,
    wait: Duration,
}

impl fmt::Debug for Getter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Getter")
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Getter {
    /// One that trusts the certificates in this file (PEM), and waits so long for each answer.
    ///
    /// # Errors
    /// When there is none in it.
    pub fn new(certificates: &Path, wait: Duration) -> Result<Self, Trouble> {
        let wrong = |text: String| Trouble::Certificates { path: certificates.to_owned(), text: line(&text) };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(certificates).map_err(|error| wrong(error.to_string()))? {
            // One of an algorithm that is not known here is nobody's loss.
            let _ = roots.add(certificate.map_err(|error| wrong(error.to_string()))?);
        }
        if roots.is_empty() {
            return Err(wrong("there is none in it".into()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions.map_err(|error| wrong(error.to_string()))?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { tls: Arc::new(config), wait })
    }

    /// What is at this path of a service, if it is there and has at most so many bytes.
    pub(crate) async fn get(&self, base: &Base, path: &str, what: &'static str, most: usize) -> Result<Got, Trouble> {
        let late = |_| Trouble::Late { host: base.to_string(), what, wait: self.wait };
        timeout(self.wait, self.ask(base, path, what, most)).await.map_err(late)?
    }

    async fn ask(&self, base: &Base, path: &str, what: &'static str, most: usize) -> Result<Got, Trouble> {
        let host = base.to_string();
        let unreachable = |text: String| Trouble::Unreachable { host: host.clone(), text: line(&text) };
        let stream = self.connect(base).await.map_err(|error| unreachable(error.to_string()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(error.to_string()))?;
        let driving = tokio::spawn(connection);
        let asking = async {
            let request =
                Request::get(format!("{}{path}", base.path)).header(header::HOST, authority(base)).header(header::CONNECTION, "close");
            let request = request.body(Empty::<Bytes>::new()).map_err(|error| unreachable(error.to_string()))?;
            let answer = sender.send_request(request).await.map_err(|error| unreachable(error.to_string()))?;
            let (head, body) = answer.into_parts();
            if head.status.is_redirection() {
                let to = head.headers.get(header::LOCATION).map_or(&b"?"[..], |to| to.as_bytes());
                return Err(Trouble::Elsewhere { host: host.clone(), what, to: line(&String::from_utf8_lossy(to)) });
            }
            if head.status != StatusCode::OK {
                return Err(Trouble::Status { host: host.clone(), what, status: head.status.as_u16() });
            }
            let wrong = |error: Box<dyn std::error::Error + Send + Sync>| {
                let text = if error.is::<LengthLimitError>() {
                    format!("it has more than {most} bytes")
                } else {
                    line(&format!("it broke off: {error}"))
                };
                Trouble::Answer { host: host.clone(), what, text }
            };
            let body = Limited::new(body, most).collect().await.map_err(wrong)?.to_bytes();
            Ok(Got { headers: head.headers, body })
        };
        let got = asking.await;
        driving.abort();
        got
    }

    async fn connect(&self, base: &Base) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((base.host.as_str(), base.port)).await?;
        if !base.secure {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(base.host.clone()).map_err(std::io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?))
    }
}

fn authority(base: &Base) -> String {
    let host = if base.host.contains(':') { format!("[{}]", base.host) } else { base.host.clone() };
    format!("{host}:{}", base.port)
}

/// What others say, in one line.
pub(crate) fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_secure_or_this_machines() {
        let base = |text: &str| text.parse::<Base>().ok().map(|base| (base.secure, base.to_string(), base.path));
        assert_eq!(base("https://kdsintf.amd.com"), Some((true, "kdsintf.amd.com:443".into(), String::new())));
        assert_eq!(base("https://pccs.example:8081/sgx/certification/v4/"), Some((true, "pccs.example:8081".into(), String::new())));
        assert_eq!(base("https://a.example/pccs/"), Some((true, "a.example:443".into(), "/pccs".into())));
        assert_eq!(base("http://127.0.0.1:8081"), Some((false, "127.0.0.1:8081".into(), String::new())));
        assert_eq!(base("http://[::1]:80"), Some((false, "::1:80".into(), String::new())));
        for wrong in [
            "",
            "pccs.example",
            "http://192.0.2.1",
            "http://pccs.example",
            "ftp://127.0.0.1",
            "https://a@b.example",
            "https://a.example/?x=1",
        ] {
            assert_eq!(base(wrong), None, "{wrong}");
        }
    }
}
