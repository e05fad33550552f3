//! Files that behave as the kernel's and Gramine's do, and misbehave where a test says so.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use super::Files;
use crate::kind::Format;
use crate::report::SNP_BYTES;

/// Bytes with these report data where the format has them. Nothing is signed.
pub(super) fn quote(format: Format, data: &[u8; 64]) -> Vec<u8> {
    let (mut quote, begin) = match format {
        Format::Sgx => (vec![0; 1000], 368),
        Format::Tdx => (vec![0; 1200], 568),
        Format::Snp => (vec![0; SNP_BYTES], 0x50),
    };
    quote[0] = match format {
        Format::Sgx => 3,
        Format::Tdx => 4,
        Format::Snp => 2,
    };
    if format == Format::Tdx {
        quote[4] = 0x81;
    }
    quote[begin..begin + 64].copy_from_slice(data);
    quote
}

#[derive(Default)]
pub(super) struct State {
    pub(super) provider: String,
    pub(super) absent: bool,
    pub(super) unprovided: bool,
    pub(super) broken: bool,
    /// Entries with the names that are tried next.
    pub(super) left: usize,
    /// Written by another process right behind ours.
    pub(super) others_write: Option<[u8; 64]>,
    /// What the hardware answers, where it is not what was asked for.
    pub(super) answer: Option<Vec<u8>>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Default)]
struct Entry {
    generation: u64,
    asked: Option<Vec<u8>>,
}

/// configfs-tsm: entries are directories, whose files come and go with them.
#[derive(Clone)]
pub(super) struct FakeTsm {
    state: Arc<Mutex<State>>,
    format: Format,
}

impl FakeTsm {
    pub(super) fn new(provider: &str, format: Format) -> Self {
        let state = State { provider: provider.into(), ..Default::default() };
        Self { state: Arc::new(Mutex::new(state)), format }
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
    }

    pub(super) fn entries(&self) -> usize {
        self.lock().entries.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with it")
    }
}

fn name(path: &str) -> (&str, &str) {
    path.strip_prefix("/sys/kernel/config/tsm/report/").and_then(|rest| rest.split_once('/')).expect("a file of an entry")
}

impl Files for FakeTsm {
    fn make(&mut self, directory: &str) -> io::Result<()> {
        let entry = directory.strip_prefix("/sys/kernel/config/tsm/report/").ok_or(ErrorKind::NotFound)?;
        let mut state = self.lock();
        // Without a provider, `mkdir` says ENXIO; without configfs-tsm there is no such directory.
        if state.absent {
            return Err(ErrorKind::NotFound.into());
        }
        if state.unprovided {
            return Err(io::Error::from_raw_os_error(6));
        }
        if state.left > 0 || state.entries.contains_key(entry) {
            state.left = state.left.saturating_sub(1);
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.entries.insert(entry.into(), Entry::default());
        Ok(())
    }

    fn write(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let (entry, attribute) = name(file);
        let mut state = self.lock();
        let others = state.others_write;
        let found = state.entries.get_mut(entry).ok_or(ErrorKind::NotFound)?;
        if attribute != "inblob" {
            return Err(ErrorKind::PermissionDenied.into());
        }
        // The kernel takes up to 64 bytes (TSM_REPORT_INBLOB_MAX).
        if bytes.is_empty() || bytes.len() > 64 {
            return Err(ErrorKind::InvalidInput.into());
        }
        found.generation += 1;
        found.asked = Some(bytes.to_vec());
        if let Some(theirs) = others {
            found.generation += 1;
            found.asked = Some(theirs.to_vec());
        }
        Ok(())
    }

    fn read(&mut self, file: &str) -> io::Result<Vec<u8>> {
        let (entry, attribute) = name(file);
        let state = self.lock();
        let found = state.entries.get(entry).ok_or(ErrorKind::NotFound)?;
        match attribute {
            "provider" => Ok(state.provider.clone().into_bytes()),
            "generation" => Ok(format!("{}\n", found.generation).into_bytes()),
            "outblob" if state.broken => Err(ErrorKind::TimedOut.into()),
            // EINVAL before anything was written to inblob.
            "outblob" => match (&found.asked, &state.answer) {
                (None, _) => Err(ErrorKind::InvalidInput.into()),
                (_, Some(answer)) => Ok(answer.clone()),
                (Some(asked), None) => {
                    let mut data = [0; 64];
                    data[..asked.len()].copy_from_slice(asked);
                    Ok(quote(self.format, &data))
                }
            },
            // inblob cannot be read.
            _ => Err(ErrorKind::PermissionDenied.into()),
        }
    }

    fn remove(&mut self, directory: &str) -> io::Result<()> {
        let entry = directory.strip_prefix("/sys/kernel/config/tsm/report/").ok_or(ErrorKind::NotFound)?;
        self.lock().entries.remove(entry).map(|_| ()).ok_or_else(|| ErrorKind::NotFound.into())
    }
}

#[derive(Default)]
pub(super) struct Enclave {
    kind: String,
    asked: Vec<u8>,
    pub(super) broken: bool,
    pub(super) others_write: Option<[u8; 64]>,
}

/// Gramine's files: there once in an enclave, and never made or removed.
#[derive(Clone)]
pub(super) struct FakeGramine(Arc<Mutex<Enclave>>);

impl FakeGramine {
    pub(super) fn new(kind: &str) -> Self {
        Self(Arc::new(Mutex::new(Enclave { kind: kind.into(), ..Default::default() })))
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Enclave)) {
        change(&mut self.0.lock().expect("no test panics with it"));
    }
}

impl Files for FakeGramine {
    fn make(&mut self, _: &str) -> io::Result<()> {
        Err(ErrorKind::PermissionDenied.into())
    }

    fn write(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let mut enclave = self.0.lock().expect("no test panics with it");
        if file != "/dev/attestation/user_report_data" {
            return Err(ErrorKind::PermissionDenied.into());
        }
        enclave.asked = enclave.others_write.map_or_else(|| bytes.to_vec(), Into::into);
        Ok(())
    }

    fn read(&mut self, file: &str) -> io::Result<Vec<u8>> {
        let enclave = self.0.lock().expect("no test panics with it");
        match file {
            "/dev/attestation/attestation_type" => Ok(enclave.kind.clone().into_bytes()),
            "/dev/attestation/quote" if enclave.broken => Err(ErrorKind::PermissionDenied.into()),
            "/dev/attestation/quote" => {
                let mut data = [0; 64];
                data[..enclave.asked.len()].copy_from_slice(&enclave.asked);
                Ok(quote(Format::Sgx, &data))
            }
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn remove(&mut self, _: &str) -> io::Result<()> {
        Err(ErrorKind::PermissionDenied.into())
    }
}
