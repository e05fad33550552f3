//! Backends: onion services that also take the clients of another one, their front.
//!
//! Tor knows them only as services with a directory (`HiddenServiceOnionBalanceInstance 1`, and the front's address in the file `ob_config`),
//! not as those of ADD_ONION, which a client of the front could not speak to: what it sends is encrypted for the front. Since each
//! SETCONF of `HiddenServiceDir` replaces all such services at once, all of a Tor are kept here, and this is only for a Tor that is our own. Those of
//! ADD_ONION are not touched by it, and a service that stays keeps its introduction points.

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use tokio::fs;
use tokio::sync::Mutex;

use crate::control::{ControlError, Controller, Onion, Target};

/// What Tor writes before a secret key in a file: 32 bytes.
const KEY_HEAD: &[u8; 32] = b"== ed25519v1-secret: type0 ==\0\0\0";

/// What stands before a key in ADD_ONION's reply.
const KEY_KIND: &str = "ED25519-V3:";

/// Why there is no backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// Tor does not take it.
    #[error("making the backend")]
    Control(#[from] ControlError),
    /// Its directory cannot be used.
    #[error("using the directory of the backend")]
    Directory(#[from] io::Error),
    /// The key is not one as Tor writes it.
    #[error("the key is not of the form ED25519-V3:…")]
    Key,
    /// There is one of this address.
    #[error("there is an onion service of this address already")]
    Exists,
}

/// A backend to be made.
#[derive(Clone)]
pub struct Backend {
    /// The address of the front, with or without `.onion`.
    pub front: String,
    /// The key as Tor gave it before; without it Tor makes a new one.
    pub key: Option<String>,
    /// The ports that clients connect to, and where their streams go.
    pub ports: Vec<(u16, Target)>,
    /// Most streams of one circuit; no bound without.
    pub max_streams: Option<u16>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("ports", &self.ports).finish_non_exhaustive()
    }
}

/// All onion services with a directory that a Tor of our own has.
#[derive(Debug)]
pub struct Backends {
    controller: Controller,
    base: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// What Tor had before any of ours: of its configuration file.
    others: Option<Vec<(String, String)>>,
    own: Vec<Own>,
}

#[derive(Debug)]
struct Own {
    address: String,
    directory: PathBuf,
    options: Vec<(String, String)>,
}

impl Backends {
    /// None yet. Their directories, with their keys, will be below `base`, which is emptied: best in memory.
    pub async fn new(controller: Controller, base: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(&base).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        directory(&base, true).await?;
        Ok(Self { controller, base, state: Mutex::default() })
    }

    /// Makes one, and gives its address and key. It is published soon after.
    pub async fn add(&self, backend: &Backend) -> Result<Onion, BackendError> {
        let id = backend.front.strip_suffix(".onion").unwrap_or(&backend.front);
        if id.len() != 56 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(ControlError::Argument("the front is no address of an onion service of version 3").into());
        }
        let mut state = self.state.lock().await;
        if state.others.is_none() {
            state.others = Some(self.configured().await?);
        }
        state.last += 1;
        let path = self.base.join(state.last.to_string());
        directory(&path, false).await?;
        let made = self.make(&mut state, backend, id, &path).await;
        if made.is_err() {
            let _ = fs::remove_dir_all(&path).await;
        }
        made
    }

    async fn make(&self, state: &mut State, backend: &Backend, front: &str, path: &Path) -> Result<Onion, BackendError> {
        fs::write(path.join("ob_config"), format!("MasterOnionAddress {front}.onion\n")).await?;
        if let Some(key) = &backend.key {
            let bytes = key.strip_prefix(KEY_KIND).and_then(|text| BASE64.decode(text.as_bytes()).ok());
            let bytes = bytes.filter(|bytes| bytes.len() == 64).ok_or(BackendError::Key)?;
            fs::write(path.join("hs_ed25519_secret_key"), [KEY_HEAD.as_slice(), &bytes].concat()).await?;
        }
        let options = options(path, backend)?;
        self.set(state, &options).await?;
        match read(path).await {
            Ok(onion) if state.own.iter().all(|own| own.address != onion.address) => {
                state.own.push(Own { address: onion.address.clone(), directory: path.to_owned(), options });
                Ok(onion)
            }
            other => {
                self.set(state, &[]).await?;
                other.and(Err(BackendError::Exists))
            }
        }
    }

    /// Ends one, given by its address. Tells whether there was one.
    pub async fn remove(&self, address: &str) -> Result<bool, BackendError> {
        let mut state = self.state.lock().await;
        let Some(place) = state.own.iter().position(|own| own.address == address) else { return Ok(false) };
        let own = state.own.remove(place);
        let done = self.set(&state, &[]).await;
        // Its key goes, whatever Tor says.
        let _ = fs::remove_dir_all(&own.directory).await;
        done?;
        Ok(true)
    }

    /// Has Tor have exactly those that there are, and one more.
    async fn set(&self, state: &State, more: &[(String, String)]) -> Result<(), ControlError> {
        let others = state.others.iter().flatten();
        let all: Vec<(&str, Option<&str>)> = others
            .chain(state.own.iter().flat_map(|own| &own.options))
            .chain(more)
            .map(|(option, value)| (option.as_str(), Some(value.as_str())))
            .collect();
        match all.is_empty() {
            true => self.controller.set_conf(&[("HiddenServiceDir", None)]).await,
            false => self.controller.set_conf(&all).await,
        }
    }

    /// ```text
    /// 250-HiddenServiceDir=/var/lib/tor/www
    /// 250-HiddenServiceVersion=3
    /// 250 HiddenServicePort=80 127.0.0.1:8080
    /// ```
    /// or, where there is none:
    /// ```text
    /// 250 HiddenServiceOptions
    /// ```
    async fn configured(&self) -> Result<Vec<(String, String)>, ControlError> {
        let reply = self.controller.command("GETCONF HiddenServiceOptions").await?;
        let pair = |text: &str| text.split_once('=').map(|(option, value)| (option.to_owned(), value.to_owned()));
        Ok(reply.lines.iter().filter_map(|line| pair(&line.text)).collect())
    }
}

fn options(path: &Path, backend: &Backend) -> Result<Vec<(String, String)>, BackendError> {
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or(ControlError::Argument("a path is not UTF-8"));
    let mut options = vec![("HiddenServiceDir".to_owned(), text(path)?), ("HiddenServiceVersion".to_owned(), "3".to_owned())];
    for (port, target) in &backend.ports {
        let target = match target {
            Target::Tcp(address) => address.to_string(),
            Target::Unix(path) => format!("unix:\"{}\"", text(path)?.replace('\\', "\\\\").replace('"', "\\\"")),
        };
        options.push(("HiddenServicePort".to_owned(), format!("{port} {target}")));
    }
    if let Some(streams) = backend.max_streams {
        options.push(("HiddenServiceMaxStreams".to_owned(), streams.to_string()));
        options.push(("HiddenServiceMaxStreamsCloseCircuit".to_owned(), "1".to_owned()));
    }
    options.push(("HiddenServiceOnionBalanceInstance".to_owned(), "1".to_owned()));
    Ok(options)
}

/// What Tor has written into a service's directory.
async fn read(path: &Path) -> Result<Onion, BackendError> {
    let address = fs::read_to_string(path.join("hostname")).await?.trim().to_owned();
    let key = fs::read(path.join("hs_ed25519_secret_key")).await?;
    let key = key.strip_prefix(KEY_HEAD.as_slice()).filter(|key| key.len() == 64).ok_or(BackendError::Key)?;
    Ok(Onion { address, key: Some(format!("{KEY_KIND}{}", BASE64.encode(key))) })
}

/// A directory that nobody else enters, which Tor insists on.
async fn directory(path: &Path, with_parents: bool) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).recursive(with_parents).create(path).await
}
