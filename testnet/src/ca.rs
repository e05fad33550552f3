//! A certificate authority for tests, and server certificates signed by it.
//!
//! Kept in the prepared directory, so that a browser function's image can point at one file over many runs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use sha2::{Digest, Sha256};

use crate::Trouble;
use crate::prepare::{private_directory, private_file};

/// The authority. Its certificates never expire, as nobody but a test trusts them.
pub struct Ca {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of a server's certificate, in PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Ca {
    /// The authority kept in this directory; it is made if it is not there.
    pub fn open(directory: &Path) -> Result<Self, Trouble> {
        private_directory(directory)?;
        let key_file = directory.join("ca-key.pem");
        let key = match std::fs::read_to_string(&key_file) {
            Ok(pem) => KeyPair::from_pem(&pem)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => KeyPair::generate()?,
            Err(error) => return Err(Trouble::at("reading", &key_file)(error)),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, "Bento test network CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = Self { directory: directory.to_owned(), issuer: Issuer::new(params.clone(), key) };
        if !key_file.exists() || !ca.file().exists() {
            let certificate = params.self_signed(ca.issuer.key())?;
            private_file(&key_file, ca.issuer.key().serialize_pem().as_bytes())?;
            // Public by nature, and read by functions, which are nobody's.
            std::fs::write(ca.file(), certificate.pem()).map_err(Trouble::at("writing", &ca.file()))?;
        }
        Ok(ca)
    }

    /// The authority's certificate, in PEM: what a client must trust.
    pub fn file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A certificate for a server with these names and addresses. The same ones give the same files.
    pub fn server(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Server, Trouble> {
        let id = Sha256::digest(format!("{names:?} {addresses:?}"));
        let stem = data_encoding::HEXLOWER.encode(&id[..8]);
        let server = Server {
            certificate: self.directory.join(format!("server-{stem}.pem")),
            key: self.directory.join(format!("server-{stem}-key.pem")),
        };
        if server.certificate.exists() {
            return Ok(server);
        }
        let mut params = CertificateParams::default();
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(*name)?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.distinguished_name.push(DnType::CommonName, "Bento test network server");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        // The key first: whoever finds the certificate may rely on the key.
        private_file(&server.key, key.serialize_pem().as_bytes())?;
        private_file(&server.certificate, certificate.pem().as_bytes())?;
        Ok(server)
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("directory", &self.directory).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_made_once_and_so_is_each_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::open(directory.path()).unwrap();
        let first = std::fs::read(ca.file()).unwrap();
        let server = ca.server(&["site.example"], &[[127, 0, 0, 1].into()]).unwrap();
        let other = ca.server(&["other.example"], &[]).unwrap();
        assert_ne!(server, other);
        let made = std::fs::read(&server.certificate).unwrap();

        let again = Ca::open(directory.path()).unwrap();
        assert_eq!(std::fs::read(again.file()).unwrap(), first);
        assert_eq!(again.server(&["site.example"], &[[127, 0, 0, 1].into()]).unwrap(), server);
        assert_eq!(std::fs::read(&server.certificate).unwrap(), made);
    }
}
