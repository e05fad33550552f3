//! Drops that are encrypted to recipients, in the age format (age-encryption.org/v1), version 1.
//!
//! The crate makes the file's key and nonce by itself, so the same ciphertext cannot be made twice: it is written to a file once, and that
//! is what is sent. Files in this form open with any program that reads age.

use std::io::{self, Read, Write};

use age::{Decryptor, Encryptor, Identity, Recipient, secrecy::ExposeSecret as _, x25519};
use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::{OpenError, Source};

/// Pieces on their way to and from the thread that decrypts.
const PIECES: usize = 4;

/// Plaintext that is given at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Whom a drop is encrypted to.
#[derive(Clone, Debug)]
pub struct AgeRecipient(x25519::Recipient);

/// Who can open a drop that was encrypted to a recipient.
#[derive(Clone)]
pub struct AgeIdentity(x25519::Identity);

impl std::str::FromStr for AgeRecipient {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        text.trim().parse().map(Self).map_err(|_| "a recipient is `age1` and 58 letters and digits, as `age-keygen` shows it")
    }
}

impl std::fmt::Display for AgeRecipient {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}

impl std::fmt::Debug for AgeIdentity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("AgeIdentity(…)")
    }
}

impl AgeIdentity {
    /// A new one.
    pub fn mint() -> Self {
        Self(x25519::Identity::generate())
    }

    /// Whom to encrypt to, for it to open.
    pub fn recipient(&self) -> AgeRecipient {
        AgeRecipient(self.0.to_public())
    }

    /// The text form, which is the secret itself.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.to_string().expose_secret().to_owned())
    }

    /// The identities in a file as `age-keygen` writes it.
    ///
    /// # Errors
    /// When a line is neither empty, a comment nor an identity, or there is none.
    pub fn all(text: &str) -> Result<Vec<Self>, &'static str> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let all: Vec<_> = lines.map(|line| line.parse().map(Self)).collect::<Result<_, _>>()?;
        if all.is_empty() { Err("it holds no identity") } else { Ok(all) }
    }
}

/// At most so many bytes has a file of `plain` bytes that is encrypted to so many recipients.
pub fn age_size_max(plain: u64, recipients: usize) -> u64 {
    // A tag for each piece and one for an empty last one, a stanza for each recipient, and what the crate puts before and beside those.
    let tags = (plain / PIECE_BYTES as u64).saturating_add(2).saturating_mul(16);
    plain.saturating_add(tags).saturating_add(128 * recipients as u64).saturating_add(8192)
}

/// Writes a file, padded as it is to be, encrypted to these recipients. It blocks.
///
/// # Errors
/// When the file cannot be read or has changed, or the output cannot be written.
pub fn age_seal(source: &Source, to: &[AgeRecipient], output: impl Write, mut progress: impl FnMut(u64, u64)) -> io::Result<()> {
    let recipients = to.iter().map(|recipient| &recipient.0 as &dyn Recipient);
    let encryptor = Encryptor::with_recipients(recipients).map_err(|error| io::Error::other(error.to_string()))?;
    let mut writer = encryptor.wrap_output(output)?;
    let (mut number, mut done) = (0, 0);
    while done < source.total() {
        let chunk = source.chunk(number)?;
        writer.write_all(&chunk)?;
        number += 1;
        done += chunk.len() as u64;
        progress(done, source.total());
    }
    writer.finish()?.flush()
}

/// Takes an age file piece by piece and gives what it holds. The crate reads from a stream that waits, so it has a thread of its own.
#[derive(Debug)]
pub(super) struct AgeOpener {
    input: mpsc::Sender<Bytes>,
    output: mpsc::Receiver<Result<Vec<u8>, OpenError>>,
}

impl AgeOpener {
    pub(super) fn new(identities: Vec<AgeIdentity>) -> Self {
        let (input, pieces) = mpsc::channel(PIECES);
        let (sender, output) = mpsc::channel(PIECES);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = open(Pieces { pieces, current: Bytes::new() }, &identities, &sender) {
                // When nobody listens any more, nobody wants to know.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Self { input, output }
    }

    /// Takes the next bytes; what is open by then is put behind `plain`.
    pub(super) async fn take(&mut self, bytes: Bytes, plain: &mut Vec<u8>) -> Result<(), OpenError> {
        loop {
            tokio::select! {
                biased;
                opened = self.output.recv() => plain.extend(opened.unwrap_or(Err(OpenError::Changed))?),
                permit = self.input.reserve() => {
                    // Refused once the thread has ended, and the next that is received says why.
                    if let Ok(permit) = permit {
                        permit.send(bytes);
                        return Ok(());
                    }
                    plain.extend(self.output.recv().await.unwrap_or(Err(OpenError::Changed))?);
                }
            }
        }
    }

    /// There is no more.
    pub(super) async fn end(self, plain: &mut Vec<u8>) -> Result<(), OpenError> {
        let Self { input, mut output } = self;
        drop(input);
        while let Some(opened) = output.recv().await {
            plain.extend(opened?);
        }
        Ok(())
    }
}

fn open(input: Pieces, identities: &[AgeIdentity], sender: &mpsc::Sender<Result<Vec<u8>, OpenError>>) -> Result<(), OpenError> {
    let told = |error: &dyn std::fmt::Display| OpenError::Age(crate::line(&error.to_string()));
    let decryptor = Decryptor::new(input).map_err(|error| told(&error))?;
    let mut reader = decryptor.decrypt(identities.iter().map(|identity| &identity.0 as &dyn Identity)).map_err(|error| told(&error))?;
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        (&mut reader).take(PIECE_BYTES as u64).read_to_end(&mut piece).map_err(|_| OpenError::Changed)?;
        if piece.is_empty() || sender.blocking_send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
}

/// Pieces as they come, as something that is read.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sealed(length: usize, to: &x25519::Identity) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, vec![7; length]).unwrap();
        let source = Source::open(&path, None, |_, _| ()).unwrap();
        let recipient: AgeRecipient = to.to_public().to_string().parse().unwrap();
        let mut sealed = Vec::new();
        age_seal(&source, &[recipient], &mut sealed, |_, _| ()).unwrap();
        sealed
    }

    async fn opened(sealed: &[u8], with: &x25519::Identity) -> Result<Vec<u8>, OpenError> {
        let (mut opener, mut plain) = (AgeOpener::new(vec![AgeIdentity(with.clone())]), Vec::new());
        for piece in sealed.chunks(10_000) {
            opener.take(Bytes::copy_from_slice(piece), &mut plain).await?;
        }
        opener.end(&mut plain).await.map(|()| plain)
    }

    #[tokio::test]
    async fn its_recipient_opens_it_and_another_does_not_and_what_was_cut_or_changed_does_not_open() {
        let (own, other) = (x25519::Identity::generate(), x25519::Identity::generate());
        for length in [0, 1, 65_536, 300_000] {
            let mut sealed = sealed(length, &own);
            assert!((length..=usize::try_from(age_size_max(length as u64, 1)).unwrap()).contains(&sealed.len()));
            assert_eq!(opened(&sealed, &own).await.unwrap(), vec![7; length]);
            assert!(matches!(opened(&sealed, &other).await, Err(OpenError::Age(_))));
            assert!(opened(&sealed[..sealed.len() - 1], &own).await.is_err());
            assert!(opened(&sealed[..20], &own).await.is_err());
            *sealed.last_mut().unwrap() ^= 1;
            assert!(opened(&sealed, &own).await.is_err());
        }
        // Between two chunks.
        let whole = sealed(200_000, &own);
        let chunks = whole.len() - (200_000 + 4 * 16);
        assert!(opened(&whole[..chunks + 2 * 65_552], &own).await.is_err());
    }

    #[test]
    fn identities_are_read_as_age_keygen_writes_them() {
        use age::secrecy::ExposeSecret as _;
        let secret = x25519::Identity::generate().to_string();
        let text = format!("# created: today\n# public key: age1…\n{}\n\n", secret.expose_secret());
        assert_eq!(AgeIdentity::all(&text).unwrap().len(), 1);
        assert!(AgeIdentity::all("# nothing\n").is_err() && AgeIdentity::all("age1abc").is_err());
        assert!("age1abc".parse::<AgeRecipient>().is_err());
    }
}
