//! configfs-tsm, which Linux 6.7 and later has in TDX and SEV-SNP guests.
//!
//! ```text
//! mkdir /sys/kernel/config/tsm/report/NAME
//!   provider     tdx_guest, sev_guest
//!   generation   a number that rises with every write
//!   inblob       write: the 64 bytes to sign
//!   outblob      read: the quote or report
//! rmdir /sys/kernel/config/tsm/report/NAME
//! ```

use std::io::ErrorKind;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Files, NoEvidence, Source, checked, file, text};
use crate::kind::{Format, Kind};

pub(super) const DIRECTORY: &str = "/sys/kernel/config/tsm/report";

/// Entries that a process of the same number may have left when it was killed.
const LEFT_MAX: usize = 64;

/// What `mkdir` says where no provider is.
const ENXIO: i32 = 6;

/// Makes entries of one process different.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A confidential VM's evidence.
#[derive(Debug)]
pub struct Tsm<F> {
    files: F,
    provider: String,
    format: Format,
}

impl<F: Files> Tsm<F> {
    /// Looks who provides evidence here.
    ///
    /// # Errors
    /// Nobody does, or one that is not known here.
    pub fn open(files: F) -> Result<Self, NoEvidence> {
        let mut new = Self { files, provider: String::new(), format: Format::Tdx };
        new.provider =
            new.with_entry(|files, entry| Ok(text(&files.read(&format!("{entry}/provider")).map_err(file("reading provider"))?)))?;
        new.format = match new.provider.as_str() {
            "tdx_guest" => Format::Tdx,
            "sev_guest" => Format::Snp,
            _ => return Err(NoEvidence::Unknown(new.provider)),
        };
        Ok(new)
    }

    /// Makes an entry, uses it, and removes it in any case.
    fn with_entry<T>(&mut self, act: impl FnOnce(&mut F, &str) -> Result<T, NoEvidence>) -> Result<T, NoEvidence> {
        let mut tries = 0;
        let entry = loop {
            let entry = format!("{DIRECTORY}/bento-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            match self.files.make(&entry) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < LEFT_MAX => tries += 1,
                // The kernel has configfs-tsm, and nothing that attests.
                Err(error) if error.raw_os_error() == Some(ENXIO) => return Err(NoEvidence::NoTee),
                made => break made.map(|()| entry).map_err(file("making an entry in configfs-tsm"))?,
            }
        };
        let done = act(&mut self.files, &entry);
        let removed = self.files.remove(&entry).map_err(file("removing an entry of configfs-tsm"));
        done.and_then(|value| removed.map(|()| value))
    }
}

impl<F: Files> Source for Tsm<F> {
    fn kind(&self) -> Kind {
        Kind::Hardware(self.format)
    }

    fn quote(&mut self, asked: &[u8; 64]) -> Result<Vec<u8>, NoEvidence> {
        let kind = self.kind();
        let was = self.provider.clone();
        let (now, writes, quote) = self.with_entry(|files, entry| {
            let before = generation(files, entry)?;
            files.write(&format!("{entry}/inblob"), asked).map_err(file("writing inblob"))?;
            let quote = files.read(&format!("{entry}/outblob")).map_err(file("reading outblob"))?;
            let writes = generation(files, entry)?.wrapping_sub(before);
            let provider = text(&files.read(&format!("{entry}/provider")).map_err(file("reading provider"))?);
            Ok((provider, writes, quote))
        })?;
        if now != was {
            return Err(NoEvidence::Changed { was, now });
        }
        if writes != 1 {
            return Err(NoEvidence::Raced(writes));
        }
        checked(kind, quote, asked)
    }
}

fn generation(files: &mut impl Files, entry: &str) -> Result<u64, NoEvidence> {
    let said = files.read(&format!("{entry}/generation")).map_err(file("reading generation"))?;
    text(&said).parse().map_err(|_| NoEvidence::Unknown("generation is no number".into()))
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeTsm, quote};
    use super::*;

    #[test]
    fn a_guest_gets_a_quote_over_what_it_asked_and_leaves_no_entry() {
        for (provider, format) in [("tdx_guest\n", Format::Tdx), ("sev_guest\n", Format::Snp)] {
            let fake = FakeTsm::new(provider, format);
            let mut source = Tsm::open(fake.clone()).expect("a provider");
            assert_eq!(source.kind(), Kind::Hardware(format));
            assert_eq!(source.quote(&[7; 64]).expect("a quote"), quote(format, &[7; 64]));
            assert_eq!(source.quote(&[8; 64]).expect("another"), quote(format, &[8; 64]));
            assert_eq!(fake.entries(), 0);
        }
    }

    #[test]
    fn a_provider_that_is_not_known_is_no_tee_and_its_entry_is_removed() {
        let fake = FakeTsm::new("arm_cca_guest\n", Format::Tdx);
        assert!(matches!(Tsm::open(fake.clone()), Err(NoEvidence::Unknown(name)) if name == "arm_cca_guest"));
        assert_eq!(fake.entries(), 0);
    }

    #[test]
    fn a_machine_without_it_is_an_error() {
        let fake = FakeTsm::new("tdx_guest\n", Format::Tdx);
        fake.set(|state| state.absent = true);
        assert!(matches!(Tsm::open(fake), Err(NoEvidence::File { doing: "making an entry in configfs-tsm", .. })));
        let fake = FakeTsm::new("tdx_guest\n", Format::Tdx);
        fake.set(|state| state.unprovided = true);
        assert!(matches!(Tsm::open(fake), Err(NoEvidence::NoTee)));
    }

    #[test]
    fn entries_that_a_killed_process_left_are_passed_over_and_too_many_are_an_error() {
        let fake = FakeTsm::new("tdx_guest\n", Format::Tdx);
        fake.set(|state| state.left = LEFT_MAX);
        let mut source = Tsm::open(fake.clone()).expect("a provider");
        assert!(source.quote(&[7; 64]).is_ok());
        fake.set(|state| state.left = LEFT_MAX + 1);
        assert!(matches!(source.quote(&[7; 64]), Err(NoEvidence::File { .. })));
    }

    #[test]
    fn an_entry_that_somebody_else_wrote_gives_no_quote() {
        let fake = FakeTsm::new("tdx_guest\n", Format::Tdx);
        let mut source = Tsm::open(fake.clone()).expect("a provider");
        fake.set(|state| state.others_write = Some([9; 64]));
        assert!(matches!(source.quote(&[7; 64]), Err(NoEvidence::Raced(2))));
        fake.set(|state| state.others_write = None);
        assert!(source.quote(&[7; 64]).is_ok());
        assert_eq!(fake.entries(), 0);
    }

    #[test]
    fn a_quote_over_something_else_is_not_handed_on() {
        let fake = FakeTsm::new("sev_guest\n", Format::Snp);
        let mut source = Tsm::open(fake.clone()).expect("a provider");
        fake.set(|state| state.answer = Some(quote(Format::Snp, &[9; 64])));
        assert!(matches!(source.quote(&[7; 64]), Err(NoEvidence::NotAsked)));
        // Of another format, and with nothing in it.
        fake.set(|state| state.answer = Some(quote(Format::Tdx, &[7; 64])));
        assert!(matches!(source.quote(&[7; 64]), Err(NoEvidence::NotAsked)));
        fake.set(|state| state.answer = Some(Vec::new()));
        assert!(matches!(source.quote(&[7; 64]), Err(NoEvidence::NotAsked)));
        fake.set(|state| state.answer = Some(vec![0; crate::evidence::REPORT_BYTES_MAX + 1]));
        assert!(matches!(source.quote(&[7; 64]), Err(NoEvidence::Long)));
        assert_eq!(fake.entries(), 0);
    }

    #[test]
    fn a_provider_that_changes_is_seen() {
        let fake = FakeTsm::new("tdx_guest\n", Format::Tdx);
        let mut source = Tsm::open(fake.clone()).expect("a provider");
        fake.set(|state| state.provider = "sev_guest\n".into());
        assert!(matches!(source.quote(&[7; 64]), Err(NoEvidence::Changed { .. })));
    }

    #[test]
    fn hardware_that_fails_leaves_no_entry() {
        let fake = FakeTsm::new("tdx_guest\n", Format::Tdx);
        let mut source = Tsm::open(fake.clone()).expect("a provider");
        fake.set(|state| state.broken = true);
        assert!(matches!(source.quote(&[7; 64]), Err(NoEvidence::File { doing: "reading outblob", .. })));
        assert_eq!(fake.entries(), 0);
    }
}
