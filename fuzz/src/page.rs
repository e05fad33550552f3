//! The page file that a browser function sends: padding, first line, contents. Both as bytes of anybody, and well padded around any payload.

use bento::{Browse, ClientError, Kind, Sizes};
use bento_proto::pad::{self, unpad};
use sha2::{Digest, Sha256};

use crate::text;

const BUCKET: usize = 1000;

pub fn run(data: &[u8]) {
    read(data);
    let Some((size, payload)) = data.split_first_chunk::<2>() else { return };
    let payload = if size[0] & 1 == 0 { payload.to_vec() } else { framed(payload) };
    // Well padded, too large by a bucket, or too small by some bytes.
    let needed = (pad::HEAD + payload.len()).next_multiple_of(BUCKET);
    let total = match size[0] >> 1 & 3 {
        0 => needed + BUCKET,
        1 => needed - usize::from(size[1]).min(needed),
        _ => needed,
    };
    let mut padded = [b"bentopad".as_slice(), &(payload.len() as u64).to_be_bytes(), &Sha256::digest(&payload), &payload].concat();
    padded.resize(total, 0);
    let whole = unpad(&padded, |_| true);
    assert_eq!(whole.is_ok(), total >= pad::HEAD + payload.len());
    assert!(whole.is_err() || whole == Ok(payload.as_slice()));
    read(&padded);
    // One bit that differs must be seen, wherever it is.
    let bits = padded.len() * 8;
    if bits > 0 {
        let at = (usize::from(size[1]) * 4093 + usize::from(size[0])) % bits;
        padded[at / 8] ^= 1 << (at % 8);
        assert!(unpad(&padded, |_| true).is_err(), "a changed bit passed");
    }
}

/// A first line that tells the truth of what follows, so that more than its errors is reached.
fn framed(content: &[u8]) -> Vec<u8> {
    let (html, warc) = content.split_at(content.len() / 2);
    let title = String::from_utf8_lossy(&content[..content.len().min(40)]);
    let header =
        serde_json::json!({"outcome": "page", "url": title, "title": title, "html": html.len(), "warc": warc.len(), "status": 200});
    [header.to_string().as_bytes(), b"\n", content].concat()
}

fn read(padded: &[u8]) {
    let sizes = Sizes::bucket(BUCKET as u64).expect("a size");
    let browse = Browse { sizes, ..Browse::new("https://example.org/") };
    match browse.read(padded) {
        Ok(page) => {
            assert!(padded.len().is_multiple_of(BUCKET));
            let told = u64::from_be_bytes(padded[8..16].try_into().expect("eight bytes")) as usize;
            let payload = &padded[pad::HEAD..pad::HEAD + told];
            let line = payload.iter().position(|byte| *byte == b'\n').expect("a first line") + 1;
            assert_eq!([page.html.as_slice(), &page.warc].concat(), &payload[line..]);
            assert_eq!((page.received, page.padding), (padded.len() as u64, (padded.len() - pad::HEAD - told) as u64));
            assert!(page.padding < BUCKET as u64);
            assert!(padded[pad::HEAD + told..].iter().all(|byte| *byte == 0));
            text::is_line(&page.url);
            text::is_line(&page.title);
            page.missing.iter().for_each(|one| [&one.url, &one.reason].into_iter().for_each(|word| text::is_line(word)));
            if let Kind::Error(reason) = &page.kind {
                text::is_line(reason);
            }
        }
        Err(ClientError::Violation(reason)) => {
            text::is_line(&reason);
            text::is_short(&reason);
        }
        Err(other) => panic!("another error than a violation: {other}"),
    }
}
