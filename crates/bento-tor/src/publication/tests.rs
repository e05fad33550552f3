//! With a control port and a SOCKS port that follow a script.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixListener;

use super::*;
use crate::control::Target;

const ID: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid";

/// What happens after each ADD_ONION: events, and the code with which SOCKS requests for it are answered from then on.
#[derive(Clone, Copy)]
struct Made {
    events: &'static [&'static str],
    socks: u8,
}

const GOOD: Made = Made { events: &["UPLOAD", "UPLOAD", "FAILED", "UPLOADED"], socks: 0 };
const REFUSED: Made = Made { events: &["UPLOAD", "UPLOAD", "FAILED", "FAILED"], socks: 0 };
const SILENT: Made = Made { events: &["UPLOAD"], socks: 0 };
const DEAD: Made = Made { events: &["UPLOAD", "UPLOADED"], socks: 0xF2 };

/// A Tor that does as the list says, the last of it again and again, and writes down what it was told.
struct Fake {
    controller: Controller,
    socks: Socks,
    commands: Arc<Mutex<Vec<String>>>,
    _directory: tempfile::TempDir,
}

impl Fake {
    fn new(script: &'static [Made], circuits: &'static [&'static str]) -> Self {
        let (ours, its) = tokio::io::duplex(64 * 1024);
        let (code, commands) = (Arc::new(Mutex::new(0)), Arc::<Mutex<Vec<String>>>::default());
        tokio::spawn(control(its, script, circuits, Arc::clone(&code), Arc::clone(&commands)));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socks");
        tokio::spawn(socks(UnixListener::bind(&path).unwrap(), code));
        Self { controller: Controller::over(ours), socks: Socks::unix(path), commands, _directory: directory }
    }

    fn count(&self, command: &str) -> usize {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|line| line.starts_with(command)).count()
    }
}

async fn control(
    mut its: DuplexStream,
    script: &'static [Made],
    circuits: &'static [&'static str],
    code: Arc<Mutex<u8>>,
    commands: Arc<Mutex<Vec<String>>>,
) {
    let (mut made, mut asked, mut text) = (0, 0, String::new());
    while let Ok(byte) = its.read_u8().await {
        text.push(char::from(byte));
        let Some(line) = text.strip_suffix("\r\n").map(str::to_owned) else { continue };
        text.clear();
        let reply = if line.starts_with("ADD_ONION") {
            let now = script[made.min(script.len() - 1)];
            made += 1;
            *code.lock().unwrap_or_else(PoisonError::into_inner) = now.socks;
            let key = if line.contains("NEW:") { "250-PrivateKey=ED25519-V3:secret\r\n" } else { "" };
            let mut reply = format!("250-ServiceID={ID}\r\n{key}250 OK\r\n");
            // Of another service, and of a client's look: neither counts.
            reply += "650 HS_DESC UPLOADED another UNKNOWN $00~x\r\n";
            reply += &format!("650 HS_DESC FAILED {ID} NO_AUTH $00~x REASON=NOT_FOUND\r\n");
            for event in now.events {
                let reason = if *event == "FAILED" { " REASON=UPLOAD_REJECTED" } else { "" };
                reply += &format!("650 HS_DESC {event} {ID} UNKNOWN $00~x{reason}\r\n");
            }
            reply
        } else if line.starts_with("GETINFO status/circuit-established") {
            asked += 1;
            format!("250-status/circuit-established={}\r\n250 OK\r\n", circuits[(asked - 1).min(circuits.len() - 1)])
        } else {
            "250 OK\r\n".to_owned()
        };
        commands.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        if its.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Answers as the code says, after the login that carries the isolation.
async fn socks(listener: UnixListener, code: Arc<Mutex<u8>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let code = *code.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::spawn(async move {
            let mut bytes = [0; 300];
            let _ = stream.read(&mut bytes).await;
            let _ = stream.write_all(&[5, 2]).await;
            let _ = stream.read(&mut bytes).await;
            let _ = stream.write_all(&[1, 0]).await;
            let _ = stream.read(&mut bytes).await;
            let _ = stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await;
        });
    }
}

fn patience() -> Patience {
    let millis = Duration::from_millis;
    Patience {
        upload: millis(60),
        reach: Duration::from_secs(5),
        between: millis(1),
        tries: 2,
        every: Duration::from_secs(3600),
        pause: (millis(1), millis(4)),
        again: 3,
    }
}

/// Runs it until it was reached, or gives up; what was told, in words.
async fn run(fake: &Fake) -> (Vec<String>, Option<PublicationError>) {
    let service = OnionService::new(80, Target::Tcp(([127, 0, 0, 1], 1).into()));
    let mut publication = Publication::new(&fake.controller, service, patience()).await.unwrap();
    assert_eq!((publication.address(), publication.key()), (format!("{ID}.onion").as_str(), Some("ED25519-V3:secret")));
    let (mut words, reached) = (Vec::new(), tokio::sync::Notify::new());
    let told = |told| match told {
        Told::Reached => reached.notify_one(),
        Told::Again(why, _) => words.push(why.to_string()),
    };
    let ended = tokio::select! {
        error = publication.keep(&fake.socks, told) => Some(error),
        () = reached.notified() => None,
    };
    (words, ended)
}

#[tokio::test]
async fn one_that_is_stored_and_reached_is_left_alone() {
    let fake = Fake::new(&[GOOD], &["1"]);
    let (words, ended) = run(&fake).await;
    assert!(words.is_empty() && ended.is_none(), "{words:?} {ended:?}");
    assert_eq!((fake.count("ADD_ONION"), fake.count("DEL_ONION")), (1, 0));
}

#[tokio::test]
async fn one_that_is_refused_not_uploaded_or_not_reached_is_published_again_with_the_same_key() {
    let fake = Fake::new(&[REFUSED, SILENT, DEAD, GOOD], &["1"]);
    let (words, ended) = run(&fake).await;
    assert!(ended.is_none(), "{ended:?}");
    assert_eq!(
        words,
        [
            "the directories refused its descriptor",
            "no directory has stored its descriptor",
            "it is not reached: introduction to the onion service failed"
        ]
    );
    assert_eq!((fake.count("ADD_ONION"), fake.count("DEL_ONION")), (4, 3));
    assert_eq!(fake.count("ADD_ONION ED25519-V3:secret "), 3);
}

#[tokio::test]
async fn publishing_again_is_bounded_and_the_owner_hears_that_it_did_not_help() {
    let fake = Fake::new(&[DEAD], &["1"]);
    let (words, ended) = run(&fake).await;
    assert!(matches!(ended, Some(PublicationError::Unreached { times: 3, why: Unreached::NotReached(_) })), "{ended:?}");
    assert_eq!((words.len(), fake.count("ADD_ONION")), (3, 4));
}

#[tokio::test]
async fn nothing_is_published_again_while_tor_has_no_circuits() {
    let fake = Fake::new(&[SILENT, GOOD], &["0", "0", "1"]);
    let (words, ended) = run(&fake).await;
    // Without a descriptor stored it counts as reached here, since the fake's SOCKS port says so; no second one was made for it.
    assert!(words.is_empty() && ended.is_none(), "{words:?} {ended:?}");
    assert_eq!((fake.count("ADD_ONION"), fake.count("GETINFO status")), (1, 1));
    let fake = Fake::new(&[DEAD, GOOD], &["0", "0", "1"]);
    let (words, ended) = run(&fake).await;
    assert!(words.len() == 1 && ended.is_none(), "{words:?} {ended:?}");
    assert_eq!((fake.count("ADD_ONION"), fake.count("GETINFO status")), (2, 3));
}

#[tokio::test]
async fn tor_that_goes_is_told_and_a_socks_port_that_is_not_there_says_nothing() {
    let mut fake = Fake::new(&[GOOD], &["1"]);
    fake.socks = Socks::unix("/nonexistent/socks");
    let (words, ended) = run(&fake).await;
    assert!(words.is_empty() && ended.is_none(), "{words:?} {ended:?}");

    let (ours, mut its) = tokio::io::duplex(1024);
    let gone = tokio::spawn(async move {
        let mut bytes = [0; 256];
        for reply in ["250 OK\r\n".to_owned(), format!("250-ServiceID={ID}\r\n250 OK\r\n")] {
            assert!(its.read(&mut bytes).await.unwrap() > 0);
            its.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    let service = OnionService::new(80, Target::Tcp(([127, 0, 0, 1], 1).into()));
    let mut publication = Publication::new(&Controller::over(ours), service, patience()).await.unwrap();
    gone.await.unwrap();
    let ended = publication.keep(&fake.socks, |_| {}).await;
    assert!(matches!(ended, PublicationError::Control(ControlError::Closed)), "{ended:?}");
}
