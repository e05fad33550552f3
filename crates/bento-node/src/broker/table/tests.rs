use super::{super::event::subscription, *};
use crate::broker::event::{Events, ServiceStatus};

const RELAY: &str = "62B250DE403BA8DB38A79133C36111C0D217C74C";
const OTHER: &str = "39924945CB8DC0D82E78A78F97800A456ED72070";

fn event(line: &str) -> bento_tor::Event {
    let (kind, text) = line.split_once(' ').unwrap();
    bento_tor::Event { kind: kind.into(), text: text.into(), lines: Vec::new() }
}

/// A table with two functions that hear their events.
fn two() -> (Table, [(Owner, Events); 2]) {
    let mut table = Table::default();
    let mut function = || {
        let owner = table.enter();
        let (subscriber, events) = subscription();
        table.of(owner).unwrap().subscribers.push(subscriber);
        (owner, events)
    };
    let both = [function(), function()];
    (table, both)
}

fn lines(orders: &[Order]) -> Vec<&str> {
    orders.iter().map(Order::line).collect()
}

/// What has been told so far.
async fn told(events: &mut Events) -> Vec<Event> {
    let mut all = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(std::time::Duration::ZERO, events.next()).await {
        all.push(event);
    }
    all
}

fn circuit(table: &mut Table, owner: Owner, id: &str) -> (u64, watch::Receiver<Progress>) {
    let (number, progress) = table.reserve_circuit(owner).unwrap();
    assert!(table.circuit_begun(owner, number, &id.parse().unwrap()).is_empty());
    (number, progress)
}

#[tokio::test]
async fn a_circuit_is_told_to_its_function_alone_in_numbers_of_its_own() {
    let (mut table, [(one, mut its), (other, mut others)]) = two();
    let (first, progress) = circuit(&mut table, one, "77");
    let (second, _) = circuit(&mut table, other, "78");
    assert_eq!((first, second), (1, 1));
    for line in [
        "CIRC 77 LAUNCHED PURPOSE=CONTROLLER".to_owned(),
        format!("CIRC 77 EXTENDED ${RELAY}~a PURPOSE=CONTROLLER"),
        // The node's own, and those of other controllers.
        format!("CIRC 5 BUILT ${RELAY}~a PURPOSE=GENERAL"),
        format!("CIRC 79 BUILT ${RELAY}~a PURPOSE=CONTROLLER"),
    ] {
        assert!(table.heard(&event(&line)).is_empty());
    }
    assert_eq!(*progress.borrow(), Progress::Building);
    table.heard(&event(&format!("CIRC 77 BUILT ${RELAY}~a,${OTHER}~b PURPOSE=CONTROLLER")));
    assert_eq!(*progress.borrow(), Progress::Built);
    table.heard(&event(&format!("CIRC 77 CLOSED ${RELAY}~a,${OTHER}~b PURPOSE=CONTROLLER REASON=DESTROYED REMOTE_REASON=FINISHED")));
    assert_eq!(*progress.borrow(), Progress::Gone("FINISHED".into()));
    let statuses: Vec<_> = told(&mut its)
        .await
        .into_iter()
        .map(|event| match event {
            Event::Circuit { circuit: 1, status, path, reason, .. } => (status, path.len(), reason),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        statuses,
        [
            (CircuitStatus::Launched, 0, None),
            (CircuitStatus::Extended, 1, None),
            (CircuitStatus::Built, 2, None),
            (CircuitStatus::Closed, 2, Some("DESTROYED".into())),
        ]
    );
    assert!(told(&mut others).await.is_empty());
    // It is over: neither its number nor Tor's means anything any more.
    assert!(table.drop_circuit(one, first, "NONE").is_none());
    table.heard(&event("CIRC 77 BUILT PURPOSE=CONTROLLER"));
    assert!(told(&mut its).await.is_empty());
}

#[tokio::test]
async fn what_a_function_leaves_is_ended_and_what_comes_late_as_well() {
    let (mut table, [(one, _its), (other, _others)]) = two();
    circuit(&mut table, one, "77");
    circuit(&mut table, other, "78");
    let (late, _) = table.reserve_circuit(one).unwrap();
    assert_eq!(lines(&table.leave(one)), ["CLOSECIRCUIT 77"]);
    // Tor takes up what was on its way when the function left.
    assert_eq!(lines(&table.circuit_begun(one, late, &"79".parse().unwrap())), ["CLOSECIRCUIT 79"]);
    assert_eq!(lines(&table.service_made(one, 1, "abc7.onion", None)), ["DEL_ONION abc7"]);
    assert!(table.reserve_circuit(one).is_none() && table.of(one).is_none() && table.leave(one).is_empty());
    assert_eq!((table.circuit_count(), lines(&table.leave(other))), (1, vec!["CLOSECIRCUIT 78"]));
}

fn new_stream(isolation: &Isolation, id: &str, what: &str) -> bento_tor::Event {
    event(&format!("STREAM {id} {what} PURPOSE=USER {} CLIENT_PROTOCOL=SOCKS5", isolation.told()))
}

struct Asked {
    number: u64,
    seen: oneshot::Receiver<()>,
    why: Arc<OnceLock<String>>,
}

fn ask(table: &mut Table, owner: Owner, circuit: Option<(u64, &str)>, isolation: &Isolation, later: bool) -> Asked {
    let why: Arc<OnceLock<String>> = Arc::default();
    let number = table.add_stream(owner, circuit.map(|(number, _)| number), "a:80", later, Arc::clone(&why)).unwrap();
    let (sender, seen) = oneshot::channel();
    let circuit = circuit.map(|(_, id)| id.parse().unwrap());
    table.expect(isolation, Expected { owner, number: Some(number), circuit, later, seen: sender, why: Arc::clone(&why) });
    Asked { number, seen, why }
}

#[tokio::test]
async fn streams_of_a_function_go_to_its_circuit_and_everybody_elses_where_tor_wants() {
    let (mut table, [(one, mut its), (_other, mut others)]) = two();
    circuit(&mut table, one, "77");
    let (isolation, foreign) = (Isolation::new("own"), Isolation::new("foreign"));
    // While Tor attaches streams by itself, nothing is said.
    assert!(table.heard(&new_stream(&foreign, "3", "NEW 0 b:80")).is_empty());
    table.held = true;
    assert_eq!(lines(&table.heard(&new_stream(&foreign, "4", "NEW 0 b:80"))), ["ATTACHSTREAM 4 0"]);
    assert_eq!(lines(&table.heard(&event("STREAM 5 NEWRESOLVE 0 b:0 PURPOSE=DNS_REQUEST"))), ["ATTACHSTREAM 5 0"]);
    assert_eq!(lines(&table.heard(&event("STREAM 4 DETACHED 9 b:80 REASON=TIMEOUT"))), ["ATTACHSTREAM 4 0"]);
    assert!(table.heard(&event("STREAM 6 NEW 0 1.2.3.4:5001 PURPOSE=DIR_FETCH")).is_empty());

    let mut asked = ask(&mut table, one, Some((1, "77")), &isolation, false);
    assert_eq!(lines(&table.heard(&new_stream(&isolation, "7", "NEW 0 a:80"))), ["ATTACHSTREAM 7 77"]);
    assert!(asked.seen.try_recv().is_ok());
    // A second one with its credentials is nobody's any more.
    assert_eq!(lines(&table.heard(&new_stream(&isolation, "8", "NEW 0 a:80"))), ["ATTACHSTREAM 8 0"]);
    assert!(table.heard(&event("STREAM 7 SUCCEEDED 77 a:80")).is_empty());
    assert!(table.heard(&event("STREAM 7 CLOSED 77 a:80 REASON=DONE")).is_empty());
    let statuses = told(&mut its).await.into_iter().map(|event| match event {
        Event::Stream { stream, circuit, status, reason, .. } => (stream, circuit, status, reason),
        other => panic!("{other:?}"),
    });
    let statuses: Vec<_> = statuses.collect();
    assert_eq!(
        statuses,
        [
            (1, Some(1), StreamStatus::New, None),
            (1, Some(1), StreamStatus::Connected, None),
            (1, Some(1), StreamStatus::Closed, Some("DONE".into())),
        ]
    );
    assert!(told(&mut others).await.is_empty());
    assert_eq!(asked.number, 1);
}

#[tokio::test]
async fn a_stream_that_its_circuit_does_not_take_is_ended_and_goes_to_no_other() {
    let (mut table, [(one, mut its), _]) = two();
    circuit(&mut table, one, "77");
    table.held = true;
    let isolation = Isolation::new("own");
    let asked = ask(&mut table, one, Some((1, "77")), &isolation, false);
    table.heard(&new_stream(&isolation, "7", "NEW 0 a:80"));
    let orders = table.heard(&event("STREAM 7 DETACHED 77 a:80 REASON=END REMOTE_REASON=EXITPOLICY"));
    assert_eq!(lines(&orders), ["CLOSESTREAM 7 4"]);
    assert_eq!(asked.why.get().map(String::as_str), Some("EXITPOLICY"));
    table.heard(&event("STREAM 7 FAILED 0 a:80 REASON=EXITPOLICY"));
    table.heard(&event("STREAM 7 CLOSED 0 a:80 REASON=EXITPOLICY"));
    let last = told(&mut its).await.pop();
    assert!(
        matches!(last, Some(Event::Stream { status: StreamStatus::Failed, reason: Some(ref reason), .. }) if reason == "EXITPOLICY"),
        "{last:?}"
    );

    // One that only looks a name up is held to its circuit as well, also when nobody waits for it any more.
    let (sender, _seen) = oneshot::channel();
    let circuit = Some("77".parse().unwrap());
    table.expect(&isolation, Expected { owner: one, number: None, circuit, later: false, seen: sender, why: Arc::default() });
    let resolve = new_stream(&isolation, "9", "NEWRESOLVE 0 a.example:0");
    assert_eq!(
        lines(&table.heard(&resolve)),
        ["SETCIRCUITPURPOSE 77 purpose=general", "ATTACHSTREAM 9 77", "SETCIRCUITPURPOSE 77 purpose=controller"]
    );
    table.leave(one);
    assert_eq!(lines(&table.heard(&event("STREAM 9 DETACHED 77 a.example:0 REASON=TIMEOUT"))), ["CLOSESTREAM 9 7"]);
    table.heard(&event("STREAM 9 CLOSED 0 a.example:0 REASON=TIMEOUT"));
    assert!(table.streams.is_empty());
}

#[tokio::test]
async fn a_stream_that_waits_is_attached_once_when_its_function_says_where() {
    let (mut table, [(one, _its), (other, _others)]) = two();
    let (number, _) = circuit(&mut table, one, "77");
    table.held = true;
    let isolation = Isolation::new("own");
    let asked = ask(&mut table, one, None, &isolation, true);
    assert!(table.attach(one, asked.number, None).is_none(), "Tor does not know it yet");
    assert!(table.heard(&new_stream(&isolation, "7", "NEW 0 a:80")).is_empty());
    let place = || Some((number, "77".parse().unwrap()));
    assert!(table.attach(other, asked.number, place()).is_none());
    assert_eq!(lines(&table.attach(one, asked.number, place()).unwrap()), ["ATTACHSTREAM 7 77"]);
    assert!(table.attach(one, asked.number, place()).is_none());
    // From now on it is for that circuit alone.
    assert_eq!(lines(&table.heard(&event("STREAM 7 DETACHED 77 a:80 REASON=END REMOTE_REASON=CONNECTREFUSED"))), ["CLOSESTREAM 7 3"]);
}

#[tokio::test]
async fn uploads_of_an_onion_service_are_told_to_its_function_and_to_nobody_who_names_its_address() {
    let (mut table, [(one, mut its), (_, mut others)]) = two();
    let service = crate::broker::services::Service::for_tests();
    let number = table.add_service(one, service).unwrap();
    assert!(table.service_made(one, number, "abc7.onion", None).is_empty());
    // The other brings a descriptor of the same address, in the hope to hear of the first one's.
    let (said, heard) = watch::channel(Vec::new());
    table.post("abc7.onion", Post { number: 9, hsdirs: Vec::new(), said });
    for line in [
        format!("HS_DESC UPLOAD abc7 UNKNOWN ${RELAY}~a desc1 HSDIR_INDEX=0E"),
        format!("HS_DESC UPLOAD abc7 UNKNOWN ${OTHER}~b desc1 HSDIR_INDEX=0F"),
        format!("HS_DESC UPLOADED abc7 UNKNOWN ${RELAY}~a"),
        format!("HS_DESC FAILED abc7 UNKNOWN ${OTHER}~b desc1 REASON=UPLOAD_REJECTED"),
    ] {
        table.heard(&event(&line));
    }
    assert!(heard.borrow().is_empty());
    // This one was not uploaded by Tor: it is the answer.
    table.heard(&event(&format!("HS_DESC FAILED abc7 NO_AUTH ${RELAY}~a desc1 REASON=UPLOAD_REJECTED")));
    assert_eq!(*heard.borrow(), [(RELAY.parse().unwrap(), Some("UPLOAD_REJECTED".into()))]);
    let statuses = told(&mut its).await.into_iter().map(|event| match event {
        Event::Service { service: 1, status, reason, .. } => (status, reason),
        other => panic!("{other:?}"),
    });
    let statuses: Vec<_> = statuses.collect();
    assert_eq!(statuses, [(ServiceStatus::Uploaded, None), (ServiceStatus::Failed, Some("UPLOAD_REJECTED".into()))]);
    assert!(told(&mut others).await.is_empty());
    // Another's address, and one that is closed, are nobody's.
    table.heard(&event(&format!("HS_DESC UPLOADED xyz7 UNKNOWN ${RELAY}~a")));
    assert_eq!(lines(&table.drop_service(one, number).unwrap()), ["DEL_ONION abc7"]);
    table.heard(&event(&format!("HS_DESC UPLOAD abc7 UNKNOWN ${OTHER}~b desc2 HSDIR_INDEX=0F")));
    table.heard(&event(&format!("HS_DESC UPLOADED abc7 UNKNOWN ${OTHER}~b")));
    assert!(told(&mut its).await.is_empty() && heard.borrow().len() == 1);
}

#[tokio::test]
async fn when_tor_is_lost_circuits_and_streams_are_and_onion_services_wait() {
    let (mut table, [(one, mut its), (_, mut others)]) = two();
    let (_, progress) = circuit(&mut table, one, "77");
    let number = table.add_service(one, crate::broker::services::Service::for_tests()).unwrap();
    table.service_made(one, number, "abc7.onion", Some(&"ED25519-V3:key".to_owned()));
    table.held = true;
    ask(&mut table, one, Some((1, "77")), &Isolation::new("own"), false);
    table.heard(&new_stream(&Isolation::new("own"), "7", "NEW 0 a:80"));
    told(&mut its).await;
    table.lost();
    assert_eq!(*progress.borrow(), Progress::Gone(TOR_LOST.into()));
    let events: Vec<String> = told(&mut its).await.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
    assert_eq!(
        events,
        [
            r#"{"event":"stream","stream":1,"circuit":1,"status":"closed","target":"a:80","reason":"TOR_LOST"}"#,
            r#"{"event":"circuit","circuit":1,"status":"closed","path":[],"reason":"TOR_LOST"}"#,
            r#"{"event":"tor","status":"lost"}"#,
        ]
    );
    assert_eq!(told(&mut others).await, [Event::Tor { status: TorStatus::Lost }]);
    assert!(!table.held && table.circuit_count() == 0);
    let again = table.services();
    assert_eq!((again.len(), again[0].2.key.as_deref()), (1, Some("ED25519-V3:key")));
    // The next Tor counts anew, and what it calls 77 is not the function's.
    assert!(table.heard(&new_stream(&Isolation::new("own"), "7", "NEW 0 a:80")).is_empty());
    table.heard(&event("CIRC 77 BUILT PURPOSE=CONTROLLER"));
    assert!(told(&mut its).await.is_empty());
}
