//! Commands that a function sends to its control connection: the same wherever they are cut; what is understood holds nothing but checked values;
//! and whatever is answered, it is one reply to whoever reads it.

use bento_node::controller::{
    Command, Event, Lines, Reply, Request, TooLong,
    command::Router,
    event::{Circuit, Stream},
    lines::{DATA_BYTES_MAX, LINE_BYTES_MAX},
};
use bento_tor::fuzzing;

pub fn run(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let whole = requests(bytes, bytes.len().max(1));
    assert_eq!(whole, requests(bytes, usize::from(*cut) + 1), "cut by {cut}");
    for request in whole.0 {
        match &request {
            Request::Line(line) => assert!(line.len() <= LINE_BYTES_MAX && is_plain(line)),
            Request::Data(line, data) => assert!(line.len() <= LINE_BYTES_MAX && data.len() <= DATA_BYTES_MAX && is_plain(line)),
            Request::Garbled => {}
        }
        match Command::parse(&request) {
            Ok(command) => is_checked(&command),
            Err(reply) => {
                assert!(matches!(reply.code(), 500..=555) && reply.is_error(), "{reply:?}");
                is_one(&reply, reply.code());
            }
        }
    }
    let text = String::from_utf8_lossy(bytes);
    let created = std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(*cut) << 32);
    let circuit = Circuit { id: 1, status: "BUILT", path: text.to_string(), purpose: Default::default(), created };
    let stream = Stream { id: 1, status: "NEW", circuit: 0, target: text.to_string() };
    for event in [
        Event::Circuit { circuit, reason: Some(text.to_string()) },
        Event::Stream { stream, more: text.to_string() },
        Event::Descriptor(text.to_string()),
        Event::Content(text.to_string(), text.to_string()),
    ] {
        is_one(&event.reply(), 650);
    }
    is_one(&Reply::ok().after_value(&text, text.to_string()), 250);
}

fn requests(bytes: &[u8], piece: usize) -> (Vec<Request>, Option<TooLong>) {
    let mut lines = Lines::default();
    let mut found = Vec::new();
    for part in bytes.chunks(piece) {
        lines.push(part);
        loop {
            match lines.next_request() {
                Ok(Some(request)) => found.push(request),
                Ok(None) => break,
                Err(too_long) => return (found, Some(too_long)),
            }
        }
    }
    (found, None)
}

fn is_plain(line: &str) -> bool {
    line.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}

/// What goes on from here goes on to the broker.
fn is_checked(command: &Command) {
    let router = |router: &Router| match router {
        Router::Fingerprint(name) => {
            assert!(name.len() == 40 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F')), "{name}");
        }
        Router::Nickname(name) => {
            assert!((1..=19).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{name}")
        }
    };
    let address =
        |address: &str| assert!(address.len() == 56 && address.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')), "{address}");
    match command {
        Command::Extend(extend) => {
            assert!(extend.path.len() <= 8 && extend.circuit != Some(0));
            extend.path.iter().for_each(router);
        }
        Command::AddOnion(service) => {
            assert!((1..=16).contains(&service.ports.len()) && service.ports.iter().all(|port| port.outside > 0 && port.inside > 0));
            assert!(service.key.as_ref().is_none_or(|key| key.len() == 88 && key.bytes().all(|byte| byte.is_ascii_graphic())));
        }
        Command::DelOnion(service) => address(service),
        Command::HsFetch { address: service, servers } => {
            address(service);
            servers.iter().for_each(router);
        }
        Command::HsPost { address: service, servers, .. } => {
            service.as_deref().into_iter().for_each(address);
            servers.iter().for_each(router);
        }
        _ => {}
    }
}

/// Bento's own reader of Tor's replies takes it for one reply, or one event, with this code.
fn is_one(reply: &Reply, code: u16) {
    let written = reply.write();
    let read = fuzzing::replies(written.as_bytes(), &[]).expect("it is a reply");
    assert!(read.len() == 1 && read[0].lines.iter().all(|line| line.code == code), "{written:?}");
    assert_eq!(fuzzing::is_event(&read[0]), code == 650);
}
