//! A page that is fetched while its client is away: Browser on one node leaves it in a Dropbox on another, padded and encrypted to the client.
//!
//! The client makes all tokens, names and keys before anything is sent, so that it can leave right after sending, and come back with
//! nothing but what it kept. What it fetches later has the size of every other page of that bucket.

use std::time::Duration;

use bento_proto::{Outcome, Size, Span, bundle::Bundle};
use serde_json::json;

use crate::{
    AgeIdentity, Bounds, Browse, Client, ClientError, DropError, DropId, DropRefusal, Fetched, Input, NodeAddress, Output, OutputId, Page,
    Standard, Tokens,
    dropbox::{Download, Dropbox, Locked, Opening, Origin, Piece, Taker},
    standard::needing,
};

/// Largest result that is taken, in bytes: the largest padded one, and what encrypting adds.
const RESULT_BYTES_MAX: usize = 129 << 20;

/// What Dropbox is given to keep one page: the largest that Browser packs.
const STORAGE: Size = Size::mib(40);

/// Bytes in and out of that Dropbox: the page once in and a few times out.
const TRAFFIC: Size = Size::mib(128);

/// How long a node may take to be told that its function is no longer needed.
const END: Duration = Duration::from_secs(20);

/// Where one of the two functions is, and the rights to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Its node.
    pub node: NodeAddress,
    /// Its tokens.
    pub tokens: Tokens,
}

/// All that is needed to send, and later to collect.
#[derive(Clone, Debug)]
pub struct Errand {
    /// The page that is wanted.
    pub browse: Browse,
    /// Who fetches it.
    pub browser: Place,
    /// Where it is left.
    pub dropbox: Place,
    /// Under which name,
    pub drop: DropId,
    /// and encrypted to whom.
    pub identity: AgeIdentity,
    /// What Browser says of it.
    pub output: OutputId,
    /// How long it is kept.
    pub keep: Span,
}

/// What there is of an errand.
#[derive(Debug)]
pub enum Collected {
    /// The page, or why there is none.
    Page(Box<Page>),
    /// It is still on its way.
    Underway,
}

/// Why there is nothing to collect, and never will be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrandError {
    /// The Dropbox cannot be reached, or does not behave.
    #[error(transparent)]
    Drop(#[from] DropError),
    /// The Dropbox has nothing, and Browser has failed.
    #[error("the page was not left: {0}")]
    Failed(ClientError),
    /// The Dropbox has nothing, and Browser's node knows nothing of the errand any more.
    #[error("the page was not left, and the node that was to fetch it does not know why any more: {0}")]
    Forgotten(ClientError),
}

impl Errand {
    /// An errand with new tokens, names and keys.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new(browse: Browse, browser: NodeAddress, dropbox: NodeAddress, keep: Span) -> Result<Self, ClientError> {
        let place = |node| Ok::<_, ClientError>(Place { node, tokens: Tokens::mint()? });
        let (drop, output) = (DropId::mint()?, OutputId::mint()?);
        Ok(Self { browse, browser: place(browser)?, dropbox: place(dropbox)?, drop, identity: AgeIdentity::mint(), output, keep })
    }

    /// Browser as it runs errands: it needs the right to install Dropbox elsewhere, and all that Dropbox needs, since a function passes on only
    /// what it has.
    ///
    /// # Errors
    /// When that makes no bundle.
    pub fn browser(bundle: Bundle, keep: Span) -> Result<Bundle, ClientError> {
        let made = needing(bundle, |needs| {
            let calls = ["net.connect", "nodes.install", "nodes.invoke", "seal", "store.*", "link.*"];
            needs.insert("calls".into(), calls.map(toml::Value::from).to_vec().into());
            needs.insert("storage".into(), STORAGE.to_string().into());
            needs.insert("lifetime".into(), keep.to_string().into());
            needs.insert("invocations".into(), 2.into());
            needs.insert("installs".into(), 1.into());
        });
        made.map_err(|error| ClientError::Request(format!("the browser cannot be sent: {error}")))
    }

    /// Dropbox as it keeps one page.
    ///
    /// # Errors
    /// When that makes no bundle.
    pub fn dropbox(keep: Span) -> Result<Bundle, ClientError> {
        let made = Standard::Dropbox.bundle().and_then(|bundle| {
            needing(bundle, |needs| {
                needs.insert("storage".into(), STORAGE.to_string().into());
                needs.insert("traffic".into(), TRAFFIC.to_string().into());
                needs.insert("rate".into(), "4 MiB/s".into());
                needs.insert("lifetime".into(), keep.to_string().into());
                needs.insert("invocations".into(), 2.into());
            })
        });
        made.map_err(|error| ClientError::Request(format!("Dropbox cannot be sent: {error}")))
    }

    /// Installs Browser and tells it what to do. The client may leave when this returns; the same again does nothing twice.
    ///
    /// # Errors
    /// When the node refuses; [`ClientError::is_undecided`] when it may have begun nevertheless.
    pub async fn send(&self, client: &Client, bundle: &Bundle) -> Result<(), ClientError> {
        client.install(&self.browser.node, bundle, &self.browser.tokens).await?;
        let mut call = self.browse.call(bundle);
        call.method = "leave".into();
        let archive = Self::dropbox(self.keep)?.pack().map_err(|error| ClientError::Request(format!("Dropbox cannot be sent: {error}")))?;
        call.input = Input::Bytes(archive.into());
        for (name, value) in [
            ("node", json!(self.dropbox.node.to_string())),
            ("invocation", json!(self.dropbox.tokens.invocation.reveal())),
            ("shutdown", json!(self.dropbox.tokens.shutdown.reveal())),
            ("drop", json!(self.drop.to_string())),
            ("to", json!(self.identity.recipient().to_string())),
            // It goes with its function anyway.
            ("expires", json!(self.keep.duration().as_secs())),
        ] {
            call.arguments.insert(name.into(), value);
        }
        if self.dropbox.node.is_conclave() {
            call.arguments.insert("conclave".into(), json!(client.demand_from(&self.browser.node)?));
        }
        client.detach(&self.browser.node, &self.browser.tokens.invocation, self.output, call).await
    }

    /// Fetches the page from where it was left. When it is not there, Browser is asked why.
    ///
    /// # Errors
    /// When it is not there and will not be, or what is there is not what was asked for.
    pub async fn collect(&self, client: &Client, mut progress: impl FnMut(u64, u64)) -> Result<Collected, ErrandError> {
        match self.fetch(client, &mut progress).await {
            Ok(padded) => Ok(Collected::Page(Box::new(self.browse.read(&padded).map_err(DropError::from)?))),
            // It is not there, or not whole, or its node cannot be reached: Browser knows more.
            Err(error @ (DropError::Refused(DropRefusal::Gone | DropRefusal::NotFinished) | DropError::Client(_))) => {
                self.ask(client, error).await
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn fetch(&self, client: &Client, progress: &mut impl FnMut(u64, u64)) -> Result<Vec<u8>, DropError> {
        let (node, token) = (self.dropbox.node.clone(), self.dropbox.tokens.invocation.clone());
        let dropbox = Dropbox { client: client.clone(), node, token, taker: Taker::Dropbox };
        let opening = Opening { locked: Locked::Age, padded: false, name: None };
        let mut download = Download::new(Origin::Dropbox(dropbox, self.drop), &opening, vec![self.identity.clone()])?;
        let mut padded = Vec::new();
        loop {
            match download.next().await? {
                Piece::Bytes(bytes) if padded.len() + bytes.len() > RESULT_BYTES_MAX => {
                    return Err(ClientError::Violation("what was left is larger than any page".into()).into());
                }
                Piece::Bytes(bytes) => padded.extend_from_slice(&bytes),
                Piece::Broke(..) => {}
                Piece::End => return Ok(padded),
            }
            progress(download.received(), download.total().unwrap_or_default());
        }
    }

    /// What Browser says when there is nothing to fetch.
    async fn ask(&self, client: &Client, found: DropError) -> Result<Collected, ErrandError> {
        match client.output(&self.browser.node, &self.browser.tokens.invocation, self.output, 0, Duration::ZERO).await {
            Ok(Fetched::Running(_)) => Ok(Collected::Underway),
            // As long as the Dropbox has not said itself that there is nothing, or not all of it, it may be there.
            Ok(Fetched::Ended { .. }) if !is_gone(&found) => Err(found.into()),
            Ok(Fetched::Ended { output, .. }) => match end_of(*output).await {
                // It says that it left the page, so the Dropbox is what is wrong.
                Ok(Outcome::Returned) => Err(found.into()),
                Ok(outcome) => Err(ErrandError::Failed(ClientError::Ended(outcome))),
                Err(error) => Err(ErrandError::Forgotten(error)),
            },
            Err(error @ ClientError::Refused(_)) => Err(ErrandError::Forgotten(error)),
            // Neither of the two can be reached.
            Err(_) => Err(found.into()),
        }
    }

    /// Ends both functions, as far as they can be reached soon. What cannot be ends with its lifetime.
    pub async fn end(&self, client: &Client) {
        let client = client.clone().with_bounds(Bounds { connect: END, answer: END, idle: END });
        let (one, other) = (&self.dropbox, &self.browser);
        let _ = tokio::join!(client.shutdown(&one.node, &one.tokens.shutdown), client.shutdown(&other.node, &other.tokens.shutdown));
    }
}

/// Has the Dropbox, or its node, said that there is nothing, or not all of it? Nobody brings the rest once Browser has ended.
fn is_gone(error: &DropError) -> bool {
    match error {
        DropError::Refused(DropRefusal::Gone | DropRefusal::NotFinished) => true,
        DropError::Client(ClientError::Refused(problem)) => problem.code() == "unknown-token",
        _ => false,
    }
}

/// How an invocation ended that wrote little.
async fn end_of(output: Output) -> Result<Outcome, ClientError> {
    output.collect(64 * 1024).await.map(|(_, outcome)| outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browser_passes_on_is_within_what_it_asks_for() {
        let keep: Span = "12 h".parse().unwrap();
        let browser = Errand::browser(Standard::Browser.bundle().unwrap(), keep).unwrap();
        let policy = bento_proto::Policy::parse("[offers]\nimage = [\"web\"]\nmemory = \"1 GiB\"\nconnect = [\"accept *:*\"]\n").unwrap();
        let grant = policy.admit(&browser.manifest).unwrap();
        let dropbox = Errand::dropbox(keep).unwrap();
        assert_eq!(grant.covers(&dropbox.manifest), Ok(()));
        // Browser as it usually is could not.
        let usual = policy.admit(&Standard::Browser.bundle().unwrap().manifest).unwrap();
        assert!(usual.covers(&dropbox.manifest).is_err());
    }

    #[test]
    fn an_identity_is_written_down_and_read_again() {
        let identity = AgeIdentity::mint();
        let again = &AgeIdentity::all(&identity.reveal()).unwrap()[0];
        assert_eq!(again.recipient().to_string(), identity.recipient().to_string());
        assert!(!format!("{identity:?}").contains(&*identity.reveal()));
    }
}
