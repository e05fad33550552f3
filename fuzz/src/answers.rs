//! A node's answers as a client reads them, from SOCKS up. A node is trusted with nothing: every answer ends, no text of it can move a
//! terminal, and nothing is taken for whole that is not.

use std::{sync::OnceLock, time::Duration};

use bento::{Bounds, Browse, Call, Client, ClientError, Input, NodeAddress, Sizes, Tokens};
use bento_proto::{InvocationToken, Outcome, ShutdownToken, bundle::Bundle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::port::Port;
use crate::text::{is_line, is_paragraph, is_short};

/// The Tor Project's own, so that it is a good address; nothing is ever sent there.
const NODE: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
const OUTPUT_MAX: u64 = 64 * 1024;
const WAIT: Duration = Duration::from_secs(10);

struct Place {
    port: Port,
    client: Client,
    node: NodeAddress,
    bundle: Bundle,
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let port = Port::open();
        let client = Client::over(port.socks.clone()).with_bounds(Bounds { connect: WAIT, answer: WAIT, idle: WAIT });
        let manifest = "name = \"n\"\nmethods = [\"page\"]\n[needs]\nlifetime = \"1 s\"\n";
        let files = [("manifest.toml", manifest), ("function.py", "def page(api): pass\n")];
        let bundle = Bundle::new(files.map(|(name, text)| (name.to_owned(), text.into())).into()).expect("a bundle");
        Place { port, client, node: NODE.parse().expect("an address"), bundle }
    })
}

pub fn run(data: &[u8]) {
    let Some(([asked, cuts], answer)) = data.split_first_chunk::<2>() else { return };
    let place = place();
    let step = (usize::from(*cuts) + 1) * 7;
    let node = async {
        let (mut stream, _) = place.port.listener.accept().await.expect("a stream");
        let mut bytes = [0; 512];
        for (length, reply) in [(3, [5u8, 2].as_slice()), (72, &[1, 0]), (5 + NODE.len() + 2, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])] {
            stream.read_exact(&mut bytes[..length]).await.expect("SOCKS");
            stream.write_all(reply).await.expect("SOCKS");
        }
        // The request's head, so that the answer is not taken for one that came too soon.
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read_buf(&mut head).await {
                Ok(1..) => {}
                _ => return,
            }
        }
        for piece in answer.chunks(step) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    place.port.runtime.block_on(async {
        tokio::time::timeout(WAIT * 3, async { tokio::join!(ask(place, *asked, answer), node) }).await.expect("an answer that never ends")
    });
}

async fn ask(place: &Place, asked: u8, answer: &[u8]) {
    let Place { client, node, bundle, .. } = place;
    let tokens = Tokens { invocation: InvocationToken::from_random([1; 32]), shutdown: ShutdownToken::from_random([2; 32]) };
    let failed = match asked % 8 {
        0 => client.describe(node).await.map(|told| {
            assert!(told.policy.check().is_ok());
            [&told.name, &told.version, &told.tee].into_iter().chain(&told.contact).for_each(|text| is_line(text));
            told.images.iter().flat_map(|(name, list)| [name].into_iter().chain(list)).for_each(|text| is_line(text));
        }),
        1 => client.policy(node).await.map(|text| is_paragraph(&text)),
        2 | 3 => {
            let told =
                if asked % 8 == 2 { client.status(node, &tokens.invocation).await } else { client.install(node, bundle, &tokens).await };
            told.map(|told| [&told.name].into_iter().chain(&told.methods).chain(&told.log).for_each(|text| is_line(text)))
        }
        4 => client.shutdown(node, &tokens.shutdown).await,
        5 => output(client, node, &tokens, answer).await,
        6 => {
            let mut call = Call::new("page");
            call.input = Input::Bytes(vec![b'x'; 1000].into());
            call.output_max = Some(OUTPUT_MAX);
            match client.run(node, bundle, call).await {
                Ok(output) => output.collect(OUTPUT_MAX).await.map(|(bytes, outcome)| whole(&bytes, &outcome, answer)),
                Err(error) => Err(error),
            }
        }
        _ => {
            let browse = Browse { sizes: Sizes::bucket(1000).expect("a size"), ..Browse::new("https://example.org/") };
            let page = browse.fetch(client, node, bundle, |come, total| assert!(come <= total)).await;
            page.map(|page| {
                is_line(&page.title);
                assert!(page.received.is_multiple_of(1000));
            })
        }
    };
    if let Err(error) = failed {
        told(&error);
    }
}

async fn output(client: &Client, node: &NodeAddress, tokens: &Tokens, answer: &[u8]) -> Result<(), ClientError> {
    let output = client.invoke(node, &tokens.invocation, Call::new("page")).await?;
    let length = output.length();
    let (bytes, outcome) = output.collect(OUTPUT_MAX).await?;
    assert!(length.is_none_or(|length| length == bytes.len() as u64), "not as long as declared");
    whole(&bytes, &outcome, answer);
    Ok(())
}

/// Only a length that was kept, or a trailer, may say that all went well; and no more comes out than went in.
fn whole(bytes: &[u8], outcome: &Outcome, answer: &[u8]) {
    assert!(bytes.len() as u64 <= OUTPUT_MAX && bytes.len() <= answer.len());
    let heads = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let (length, trailer) = (heads.contains("content-length"), heads.contains("bento-outcome"));
    match outcome {
        Outcome::Returned => assert!(length || trailer || heads.contains("204"), "taken for whole without a sign: {heads:?}"),
        Outcome::Failed { error, traceback } => {
            assert!(trailer);
            is_line(error);
            is_paragraph(traceback);
        }
        Outcome::Killed { .. } => assert!(trailer),
    }
}

fn told(error: &ClientError) {
    match error {
        ClientError::Ended(Outcome::Failed { error, traceback }) => {
            is_line(error);
            is_paragraph(traceback);
        }
        ClientError::Refused(problem) => {
            is_line(&problem.kind);
            is_line(&problem.detail);
            problem.traceback.iter().for_each(|text| is_paragraph(text));
            problem.line.iter().flat_map(|line| [&line.key, &line.needs, &line.offers]).for_each(|text| is_line(text));
        }
        ClientError::Late { .. } | ClientError::NoTor | ClientError::Tor(_) | ClientError::NotThere(_) | ClientError::Request(_) => {
            panic!("an answer that came as a whole gives another error: {error}")
        }
        _ => {}
    }
    let text = error.to_string();
    is_line(&text);
    is_short(&text);
    assert!(!error.hint().is_empty());
}
