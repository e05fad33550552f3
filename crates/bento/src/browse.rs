//! The standard function `browser` from the client's side: what it is asked, and what its padded result must be.
//!
//! The payload inside the padding:
//!
//! ```text
//! {"outcome": "page", "error": null, "url": "…", "status": 200, "title": "…", "html": N, "warc": M, "fetched": K, "bytes": B, "missing": […]}
//! N bytes of HTML, then M bytes of WARC
//! ```

use std::time::Duration;

use bento_proto::{
    Outcome,
    bundle::Bundle,
    pad::{HEAD, unpad},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Call, Client, ClientError, NodeAddress, Part, text::line};

/// Smallest padded size: one that a head fits into, with room to spare.
const SIZE_MIN: u64 = 64;

/// Largest padded size: as much as the function sends at most.
const SIZE_MAX: u64 = 128 << 20;

/// What the largest size must hold, so that a page which could not be fetched leaves with the same size as one that could.
const LARGEST_MIN: u64 = 8 * 1024 + HEAD as u64;

/// Most sizes that are given at once.
const SIZES_MAX: usize = 64;

/// Longest first line of a payload, in bytes: it may name some hundred missing resources.
const HEADER_BYTES_MAX: usize = 1 << 20;

/// Time beyond the function's lifetime: for the way to the node and back.
const WAY: Duration = Duration::from_secs(120);

/// The sizes that a result may have, so that its size says nothing of the page.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sizes(Form);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Form {
    Bucket(u64),
    /// Sorted.
    OneOf(Vec<u64>),
}

/// Why numbers are no sizes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SizesError {
    /// Too small or too large.
    #[error("a padded size is {SIZE_MIN} to {SIZE_MAX} bytes, and {0} is not")]
    Range(u64),
    /// All too small for a result that says what went wrong.
    #[error("the largest of the sizes must be at least {LARGEST_MIN} bytes, so that every result fits into it")]
    Small,
    /// None, or very many.
    #[error("1 to {SIZES_MAX} sizes can be given")]
    Number,
}

impl Sizes {
    /// Multiples of this many bytes.
    ///
    /// # Errors
    /// When it is too small or too large.
    pub fn bucket(bytes: u64) -> Result<Self, SizesError> {
        if (SIZE_MIN..=SIZE_MAX).contains(&bytes) { Ok(Self(Form::Bucket(bytes))) } else { Err(SizesError::Range(bytes)) }
    }

    /// Exactly these, the smallest that holds the result.
    ///
    /// # Errors
    /// When one of them is too small or too large, or none holds every result.
    pub fn one_of(mut sizes: Vec<u64>) -> Result<Self, SizesError> {
        if !(1..=SIZES_MAX).contains(&sizes.len()) {
            return Err(SizesError::Number);
        }
        if let Some(wrong) = sizes.iter().find(|size| !(SIZE_MIN..=SIZE_MAX).contains(size)) {
            return Err(SizesError::Range(*wrong));
        }
        sizes.sort_unstable();
        sizes.dedup();
        if sizes.last().is_some_and(|largest| *largest < LARGEST_MIN) {
            return Err(SizesError::Small);
        }
        Ok(Self(Form::OneOf(sizes)))
    }

    /// May a result have this size?
    pub fn fits(&self, total: u64) -> bool {
        match &self.0 {
            Form::Bucket(bucket) => total > 0 && total <= SIZE_MAX && total.is_multiple_of(*bucket),
            Form::OneOf(sizes) => sizes.contains(&total),
        }
    }

    /// The size of a result with this payload.
    pub fn of_payload(&self, payload: u64) -> Option<u64> {
        let held = payload.checked_add(HEAD as u64)?;
        match &self.0 {
            Form::Bucket(bucket) => held.checked_next_multiple_of(*bucket),
            Form::OneOf(sizes) => sizes.iter().copied().find(|size| *size >= held),
        }
    }
}

impl Default for Sizes {
    /// Multiples of a million bytes.
    fn default() -> Self {
        Self(Form::Bucket(1_000_000))
    }
}

/// What the browser is asked.
#[derive(Clone, Debug)]
pub struct Browse {
    /// The page's address.
    pub url: String,
    /// The sizes that the result may have.
    pub sizes: Sizes,
    /// Keep the page's scripts?
    pub scripts: bool,
    /// Add an archive of all that was fetched?
    pub warc: bool,
}

/// What came back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page {
    /// A page, or why there is none.
    pub kind: Kind,
    /// The address it was found at in the end.
    pub url: String,
    /// HTTP status of that.
    pub status: u16,
    /// Its title.
    pub title: String,
    /// The page with all it needs, as one HTML file.
    pub html: Vec<u8>,
    /// The archive, if one was asked for.
    pub warc: Vec<u8>,
    /// Resources fetched.
    pub fetched: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Resources that it lacks.
    pub missing: Vec<Missing>,
    /// Bytes of the padded result.
    pub received: u64,
    /// How many of them are padding.
    pub padding: u64,
}

/// Did the page come?
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It did.
    Page,
    /// It could not be fetched, and why.
    Error(String),
}

/// A resource that a page lacks.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Missing {
    /// Its address.
    pub url: String,
    /// Why.
    pub reason: String,
}

#[derive(Deserialize)]
struct Header {
    outcome: String,
    #[serde(default)]
    error: Option<String>,
    url: String,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    title: String,
    html: u64,
    warc: u64,
    #[serde(default)]
    fetched: u64,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    missing: Vec<Missing>,
}

impl Browse {
    /// Asks for this page, without scripts and archive, padded to a multiple of a million bytes.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), sizes: Sizes::default(), scripts: false, warc: false }
    }

    /// The call of the function's method `page`.
    pub fn call(&self, bundle: &Bundle) -> Call {
        let mut call = Call::new("page");
        let padding = match &self.sizes.0 {
            Form::Bucket(bucket) => ("bucket", json!(bucket)),
            Form::OneOf(sizes) => ("sizes", json!(sizes)),
        };
        let arguments = [("url", Value::from(self.url.as_str())), padding, ("scripts", self.scripts.into()), ("warc", self.warc.into())];
        call.arguments = arguments.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        call.output_max = Some(SIZE_MAX);
        call.within = Some(bundle.manifest.needs.lifetime.duration() + WAY);
        call
    }

    /// Runs the function on a node and takes the page. `progress` hears how many bytes have come, and of how many.
    ///
    /// # Errors
    /// When the node refuses, the function fails, or what comes is not exactly a padded result of a size that was asked for. A page
    /// that could not be fetched is no error here but a [`Page`] of its kind.
    pub async fn fetch(
        &self,
        client: &Client,
        node: &NodeAddress,
        bundle: &Bundle,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Page, ClientError> {
        let mut output = client.run(node, bundle, self.call(bundle)).await?;
        // A length that was not asked for is seen before a byte of it is taken.
        let total = match output.length() {
            Some(length) if self.sizes.fits(length) => length,
            Some(length) => return Err(violation(format!("its result has {length} bytes, which is not a size that was asked for"))),
            None => {
                // Without a length only a failure is right: its outcome is what matters then.
                let (_, outcome) = output.collect(SIZE_MAX).await?;
                return Err(match outcome {
                    Outcome::Returned => violation("its result came without a length".into()),
                    other => ClientError::Ended(other),
                });
            }
        };
        let mut padded = Vec::new();
        progress(0, total);
        loop {
            match output.next().await? {
                Part::Bytes(bytes) => padded.extend_from_slice(&bytes),
                Part::End(Outcome::Returned) => break,
                Part::End(outcome) => return Err(ClientError::Ended(outcome)),
            }
            progress(padded.len() as u64, total);
        }
        self.read(&padded)
    }

    /// Reads a padded result.
    ///
    /// # Errors
    /// When it is not exactly what the function writes for this request.
    pub fn read(&self, padded: &[u8]) -> Result<Page, ClientError> {
        let payload = unpad(padded, |total| self.sizes.fits(total as u64)).map_err(|error| violation(error.to_string()))?;
        let (received, held) = (padded.len() as u64, payload.len() as u64);
        // A larger size than needed would be a mark that the node put on this result.
        if self.sizes.of_payload(held) != Some(received) {
            return Err(violation("the result is padded to a larger size than it needs".into()));
        }
        let first = &payload[..payload.len().min(HEADER_BYTES_MAX)];
        let end = first.iter().position(|byte| *byte == b'\n').ok_or_else(|| violation("the result has no first line".into()))?;
        let header: Header = crate::json::parse(&payload[..end], "the result's first line")?;
        let content = &payload[end + 1..];
        let html = usize::try_from(header.html).ok().filter(|html| *html <= content.len());
        let (html, warc) = content.split_at(html.ok_or_else(|| violation("the result tells of more than there is".into()))?);
        if warc.len() as u64 != header.warc {
            return Err(violation("the result is not as long as it tells".into()));
        }
        let kind = match header.outcome.as_str() {
            "page" => Kind::Page,
            "error" => Kind::Error(line(header.error.as_deref().unwrap_or("no reason is given"))),
            _ => return Err(violation("the result has an unknown outcome".into())),
        };
        let missing = header.missing.iter().map(|one| Missing { url: line(&one.url), reason: line(&one.reason) });
        Ok(Page {
            kind,
            url: line(&header.url),
            status: header.status,
            title: line(&header.title),
            html: html.to_vec(),
            warc: warc.to_vec(),
            fetched: header.fetched,
            bytes: header.bytes,
            missing: missing.collect(),
            received,
            padding: received - held - HEAD as u64,
        })
    }
}

fn violation(text: String) -> ClientError {
    ClientError::Violation(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn pad(payload: &[u8], total: usize) -> Vec<u8> {
        let mut out = [b"bentopad".as_slice(), &(payload.len() as u64).to_be_bytes(), &Sha256::digest(payload), payload].concat();
        out.resize(total, 0);
        out
    }

    fn payload(html: &str, told: usize) -> Vec<u8> {
        let header = json!({"outcome": "page", "error": null, "url": "https://example.org/", "status": 200, "title": "A\u{1b}[2Jb",
            "html": told, "warc": 0, "fetched": 3, "bytes": 99, "missing": [{"url": "https://example.org/x", "reason": "no\u{7}ne"}]});
        format!("{header}\n{html}").into_bytes()
    }

    fn browse(sizes: Sizes) -> Browse {
        Browse { sizes, ..Browse::new("https://example.org/") }
    }

    #[test]
    fn a_result_of_the_right_size_is_a_page_and_its_neighbours_are_none() {
        let browse = browse(Sizes::bucket(1000).unwrap());
        let page = browse.read(&pad(&payload("<p>Hi", 5), 1000)).unwrap();
        assert_eq!((page.html.as_slice(), page.kind, page.title.as_str()), (b"<p>Hi".as_slice(), Kind::Page, "A[2Jb"));
        assert_eq!((page.received, page.missing[0].reason.as_str()), (1000, "none"));
        assert_eq!(page.padding, 1000 - 48 - payload("<p>Hi", 5).len() as u64);
        for wrong in [
            pad(&payload("<p>Hi", 5), 1001),
            pad(&payload("<p>Hi", 5), 2000),
            pad(&payload("<p>Hi", 6), 1000),
            pad(&payload("<p>Hi", 4), 1000),
            pad(&payload("<p>Hi", usize::MAX), 1000),
            pad(b"", 1000),
            pad(b"{}\n", 1000),
            pad(&payload("", 0).iter().copied().filter(|byte| *byte != b'\n').collect::<Vec<_>>(), 1000),
            Vec::new(),
        ] {
            assert!(matches!(browse.read(&wrong), Err(ClientError::Violation(_))));
        }
    }

    #[test]
    fn sizes_are_exact() {
        let sizes = Sizes::one_of(vec![100_000, 10_000]).unwrap();
        assert!(sizes.fits(10_000) && !sizes.fits(20_000) && !sizes.fits(0));
        assert_eq!((sizes.of_payload(9_952), sizes.of_payload(9_953), sizes.of_payload(99_953)), (Some(10_000), Some(100_000), None));
        assert_eq!(Sizes::one_of(vec![]), Err(SizesError::Number));
        assert_eq!(Sizes::one_of(vec![8_000]), Err(SizesError::Small));
        assert_eq!(Sizes::one_of(vec![10, 10_000]), Err(SizesError::Range(10)));
        assert_eq!(Sizes::bucket(0), Err(SizesError::Range(0)));
        assert!(Sizes::bucket(64).is_ok() && Sizes::bucket(u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn the_size_of_a_payload_is_one_that_fits_and_the_smallest(payload in 0u64..1_000_000, bucket in 64u64..100_000) {
            let sizes = Sizes::bucket(bucket).unwrap();
            let total = sizes.of_payload(payload).unwrap();
            prop_assert!(sizes.fits(total) && total >= payload + 48 && total - bucket < payload + 48);
        }

        #[test]
        fn no_payload_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), good in any::<bool>(), at in any::<prop::sample::Index>()) {
            let mut inside = bytes;
            if good {
                let mut changed = payload("<p>Hi", 5);
                let place = at.index(changed.len());
                changed[place] = changed[place].wrapping_add(1);
                inside = changed;
            }
            let _ = browse(Sizes::bucket(1000).unwrap()).read(&pad(&inside, 1000));
        }
    }
}
