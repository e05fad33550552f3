//! The host tries to read, change, replay, reorder, cut, redirect and lie. Each attack stands beside what the same host may do.

use std::sync::{Arc, Mutex};

use bento_attest::channel::{ConclaveKey, Expected};
use bento_attest::evidence::{Evidence, Hello, sha256};
use bento_attest::{Format, Hardware, Kind, Measurements, Policy, Roots};

use crate::host::{
    Do, FIRST_RECORD, Node, Outcome, SECRET, Tamper, To, answer, asked, change, evidence, expected, framed, honest, meet, meet_own,
};
use crate::support::{DAY, NOW};

const TAMPERED: &str = "a record was changed, repeated, or is missing";
const CUT: &str = "the stream was cut before its end";
const OTHER: &str = "the evidence is not accepted: the evidence is for another key, nonce, configuration or node";
const HANDSHAKE: &str = "the handshake failed: somebody else answered, or a message was changed on its way";

/// The client got nothing but this error; what it would have said stayed with it.
fn caught(what: &str, outcome: &Outcome, why: &str) {
    let error = outcome.client.as_ref().expect_err(what);
    assert!(error.contains(why), "{what}: {error}");
    hidden(what, outcome);
}

/// The conclave saw it, and answered nothing.
fn caught_inside(what: &str, outcome: &Outcome, why: &str) {
    let error = outcome.conclave.as_ref().expect_err(what);
    assert!(error.contains(why), "{what}: {error}");
    assert!(outcome.client.is_err(), "{what}");
    hidden(what, outcome);
}

fn hidden(what: &str, outcome: &Outcome) {
    let (there, back) = (SECRET.as_bytes(), answer(SECRET.as_bytes()));
    for secret in [&there[..12], &back[..12]] {
        assert!(!outcome.seen.windows(secret.len()).any(|seen| seen == secret), "{what}: the host saw it");
    }
}

/// All went well.
fn well(what: &str, outcome: &Outcome) {
    assert_eq!(outcome.conclave.as_deref(), Ok(&asked()[..]), "{what}");
    assert_eq!(outcome.client.as_deref(), Ok(&answer(&asked())[..]), "{what}");
    hidden(what, outcome);
}

#[tokio::test]
async fn a_host_that_carries_sees_sizes_and_nothing_else() {
    let node = Node::new(1);
    let outcome = meet_own(&node, honest()).await;
    well("carried", &outcome);
    // 105,000 bytes and a little more each way, and some kilobytes of evidence.
    assert!(outcome.seen.len() > 2 * asked().len() && outcome.seen.len() < 2 * asked().len() + 40_000);
}

#[tokio::test]
async fn a_hello_that_was_changed_is_seen() {
    let node = Node::new(1);
    let nonce = change(To::Conclave, 0, |message| {
        let mut hello = Hello::from_bytes(&message[4..]).expect("a Hello");
        hello.nonce[0] ^= 1;
        Do::Pass(framed(&hello.to_bytes()))
    });
    caught("another nonce", &meet_own(&node, nonce).await, OTHER);
    // The conclave's kind is still among them, and the evidence right: the handshake tells it.
    let kinds = change(To::Conclave, 0, |message| {
        let mut hello = Hello::from_bytes(&message[4..]).expect("a Hello");
        hello.kinds.truncate(1);
        Do::Pass(framed(&hello.to_bytes()))
    });
    caught_inside("fewer kinds", &meet_own(&node, kinds).await, HANDSHAKE);
    let version = change(To::Conclave, 0, |mut message| {
        message[4] = 2;
        Do::Pass(message)
    });
    caught_inside("another version", &meet_own(&node, version).await, "the version of the Hello is not known");
    let long = change(To::Conclave, 0, |mut message| {
        message[..4].copy_from_slice(&0x4000_0000_u32.to_be_bytes());
        Do::Pass(message)
    });
    caught_inside("a Hello of a gigabyte", &meet_own(&node, long).await, "and 128 are the most");
    let short = change(To::Conclave, 0, |message| Do::Cut(message[..20].to_vec()));
    caught_inside("a Hello cut off", &meet_own(&node, short).await, "waiting for the other side's message");
    let trailing = change(To::Conclave, 0, |message| Do::Pass(framed(&[&message[4..], b"?"].concat())));
    caught_inside("a Hello with more behind", &meet_own(&node, trailing).await, "there are bytes behind the Hello");
    well("the Hello that was sent", &meet_own(&node, honest()).await);
}

#[tokio::test]
async fn evidence_from_another_time_or_place_is_refused() {
    let (node, other) = (Node::new(1), Node::new(2));
    // What the same conclave said to another client.
    let old = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&old);
    let recorded = change(To::Client, 0, move |message| {
        keep.lock().expect("kept").clone_from(&message);
        Do::Pass(message)
    });
    well("recorded", &meet_own(&node, recorded).await);
    let old = old.lock().expect("kept").clone();
    let replay = change(To::Client, 0, move |_| Do::Pass(old.clone()));
    caught("replayed evidence", &meet_own(&node, replay).await, OTHER);

    // Another node's conclave, which runs the same on a machine as good, and whose root the client trusts as well.
    let (roots, policy) = (other.roots(), other.policy());
    let redirected = Expected { node: &node.name, ..expected(&other, &roots, &policy) };
    caught("another node's conclave", &meet(&other, &redirected, honest()).await, "another node's conclave");
    let renamed = |name: [u8; 32]| evidence(move |evidence| evidence.node = name.to_vec());
    caught("another node's conclave, renamed", &meet(&other, &redirected, renamed(node.name)).await, OTHER);
    well("that node's own", &meet_own(&other, renamed(other.name)).await);
}

#[tokio::test]
async fn evidence_that_was_changed_is_refused() {
    let node = Node::new(1);
    let theirs = *ConclaveKey::generate().expect("a key").public();
    caught("a key swapped", &meet_own(&node, evidence(move |evidence| evidence.static_pk = theirs)).await, OTHER);
    let config = sha256(b"another");
    let roots = node.roots();
    let policy = node.policy();
    let any = Expected { config_hash: None, ..expected(&node, &roots, &policy) };
    caught("another configuration claimed", &meet(&node, &any, evidence(move |evidence| evidence.config_hash = config)).await, OTHER);
    caught("one bit of the quote", &meet_own(&node, evidence(|evidence| evidence.report[700] ^= 1)).await, "does not hold together");
    caught("a register of the quote", &meet_own(&node, evidence(|evidence| evidence.report[190] ^= 1)).await, "does not hold together");
    caught("the quote cut", &meet_own(&node, evidence(|evidence| evidence.report.truncate(900))).await, "does not hold together");
    // A host gets quotes of this very conclave for the asking, over zeros, to fetch collateral with.
    let nothing = node.simulator.sign(&[0; 64]).expect("a quote");
    caught("a quote over nothing", &meet_own(&node, evidence(move |evidence| evidence.report.clone_from(&nothing))).await, OTHER);
    caught("no quote", &meet_own(&node, evidence(|evidence| evidence.report.clear())).await, "the format of the report is not known");
    caught(
        "a kind that is none",
        &meet_own(
            &node,
            change(To::Client, 0, |mut m| {
                m[5] = 0x7f;
                Do::Pass(m)
            }),
        )
        .await,
        "the kind of the Evidence is not known",
    );
    caught(
        "no evidence",
        &meet_own(&node, change(To::Client, 0, |_| Do::Pass(framed(b"")))).await,
        "no evidence of a kind that is accepted",
    );
    let long = change(To::Client, 0, |_| Do::Pass(u32::MAX.to_be_bytes().to_vec()));
    caught("evidence of four gigabytes", &meet_own(&node, long).await, "are the most");
    caught("evidence cut off", &meet_own(&node, change(To::Client, 0, |m| Do::Cut(m[..m.len() / 2].to_vec()))).await, "waiting for");
    // Behind the signed part anything may stand, and is still the same evidence for both: or the handshake fails.
    let behind = meet_own(&node, evidence(|evidence| evidence.report.push(0))).await;
    caught_inside("a byte where none is signed", &behind, HANDSHAKE);
    well("evidence read and written again", &meet_own(&node, evidence(|_| ())).await);
}

#[tokio::test]
async fn a_conclave_that_is_not_what_it_should_be_is_refused() {
    let mut node = Node::new(1);
    let (roots, policy) = (node.roots(), node.policy());
    well("what should run", &meet(&node, &expected(&node, &roots, &policy), honest()).await);
    node.simulator.run([0xbd; 32], false);
    caught("other code", &meet(&node, &expected(&node, &roots, &policy), honest()).await, "not in the list of measurements");
    node.simulator.run([0xc0; 32], true);
    caught("debug", &meet(&node, &expected(&node, &roots, &policy), honest()).await, "debug mode");
    // Switched off in the quote by who carries it.
    let off = evidence(|evidence| evidence.report[168] &= !1);
    caught("debug, hidden", &meet(&node, &expected(&node, &roots, &policy), off).await, "does not hold together");
    node.simulator.run([0xc0; 32], false);
    well("what should run, again", &meet(&node, &expected(&node, &roots, &policy), honest()).await);

    let other = Expected { config_hash: Some(sha256(b"another")), ..expected(&node, &roots, &policy) };
    caught("another configuration", &meet(&node, &other, honest()).await, "another configuration than was asked for");

    // What was good once, and is not in the list any more.
    let mut body = node.simulator.measurements();
    let at = body.find("mrtd = \"").expect("a register") + 8;
    let other = if body.as_bytes()[at] == b'0' { "1" } else { "0" };
    body.replace_range(at..at + 1, other);
    let later = Policy::new(Measurements::for_simulator(&body).expect("a list"));
    caught(
        "a version that was taken back",
        &meet(&node, &expected(&node, &roots, &later), honest()).await,
        "not in the list of measurements",
    );
}

#[tokio::test]
async fn a_host_that_answers_itself_is_refused() {
    let (node, own) = (Node::new(1), Node::new(1));
    // The host has a simulator of its own, which says the same of itself as the node's, under a root that the client does not know.
    let (roots, policy) = (node.roots(), node.policy());
    caught("the host's own machine", &meet(&own, &expected(&node, &roots, &policy), honest()).await, "does not hold together");
    well("the node's machine", &meet(&node, &expected(&node, &roots, &policy), honest()).await);

    // The node's evidence, and the host's key in the handshake: it lets the evidence through and answers what follows.
    let mut stranger = Node::new(1);
    stranger.key = ConclaveKey::generate().expect("a key");
    let evidence_of = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&evidence_of);
    let recorded = change(To::Client, 0, move |message| {
        *keep.lock().expect("kept") = Evidence::from_bytes(&message[4..]).ok();
        Do::Pass(message)
    });
    well("recorded", &meet_own(&node, recorded).await);
    let theirs = evidence_of.lock().expect("kept").clone().expect("evidence");
    let swapped = evidence(move |mine| {
        // The quote and what belongs to it are the node's; the key stays the host's.
        (mine.report, mine.collateral) = (theirs.report.clone(), theirs.collateral.clone());
    });
    caught("the node's quote over the host's key", &meet(&stranger, &expected(&node, &roots, &policy), swapped).await, OTHER);
}

#[tokio::test]
async fn a_simulator_is_no_hardware_and_hardware_no_simulator() {
    let node = Node::new(1);
    let (production, policy) = (Roots::<Hardware>::production(), node.policy());
    let hardware = Expected { node: &node.name, config_hash: None, roots: &production, policy: &policy, now: NOW };
    caught("hardware asked of a simulator", &meet(&node, &hardware, honest()).await, "no evidence of a kind that is accepted");

    let ask_simulated = |answer: Option<Kind>| -> Tamper {
        Box::new(move |to, count, message| {
            Do::Pass(match (to, count, answer) {
                (To::Conclave, 0, _) => {
                    let mut hello = Hello::from_bytes(&message[4..]).expect("a Hello");
                    hello.kinds = vec![Kind::Simulated(Format::Tdx)];
                    framed(&hello.to_bytes())
                }
                (To::Client, 0, Some(kind)) => {
                    let mut evidence = Evidence::from_bytes(&message[4..]).expect("evidence");
                    evidence.kind = kind;
                    framed(&evidence.to_bytes())
                }
                _ => message,
            })
        })
    };
    caught("the Hello rewritten", &meet(&node, &hardware, ask_simulated(None)).await, "only hardware is accepted here");
    let dressed = meet(&node, &hardware, ask_simulated(Some(Kind::Hardware(Format::Tdx)))).await;
    caught("dressed as hardware", &dressed, OTHER);

    // A simulator that signs what hardware would have to: then its root is not the maker's.
    let liar = Node { kind: Kind::Hardware(Format::Tdx), ..Node::new(1) };
    let lied = Expected { node: &liar.name, ..hardware };
    caught("signed as hardware", &meet(&liar, &lied, honest()).await, "does not hold together");
    // And the reverse: a client for simulators takes nothing that calls itself hardware.
    let (roots, theirs) = (liar.roots(), liar.policy());
    let tamper: Tamper = Box::new(|to, count, message| {
        Do::Pass(if (to, count) == (To::Conclave, 0) {
            let mut hello = Hello::from_bytes(&message[4..]).expect("a Hello");
            hello.kinds = Kind::ALL.to_vec();
            framed(&hello.to_bytes())
        } else {
            message
        })
    });
    caught(
        "hardware to a client of simulators",
        &meet(&liar, &expected(&liar, &roots, &theirs), tamper).await,
        "only a simulator is accepted here",
    );
    well("a simulator to a client of simulators", &meet_own(&node, honest()).await);
}

#[tokio::test]
async fn genuine_hardwares_evidence_of_somebody_else_is_no_use() {
    let node = Node::new(1);
    let vector = concat!(env!("CARGO_MANIFEST_DIR"), "/../bento-attest/tests/vectors/dcap-qvl/tdx_quote");
    let quote = std::fs::read(vector).expect("a vector");
    let (production, policy) = (Roots::<Hardware>::production(), node.policy());
    let hardware = Expected { node: &node.name, config_hash: None, roots: &production, policy: &policy, now: NOW };
    let genuine: Tamper = Box::new(move |to, count, message| {
        Do::Pass(match (to, count) {
            (To::Conclave, 0) => {
                let mut hello = Hello::from_bytes(&message[4..]).expect("a Hello");
                hello.kinds = vec![Kind::Simulated(Format::Tdx)];
                framed(&hello.to_bytes())
            }
            (To::Client, 0) => {
                let mut evidence = Evidence::from_bytes(&message[4..]).expect("evidence");
                (evidence.kind, evidence.report) = (Kind::Hardware(Format::Tdx), quote.clone());
                framed(&evidence.to_bytes())
            }
            _ => message,
        })
    });
    caught("a genuine quote of somebody else", &meet(&node, &hardware, genuine).await, OTHER);
}

#[tokio::test]
async fn collateral_that_hides_something_is_refused() {
    let (node, other) = (Node::new(1), Node::new(1));
    let (roots, policy) = (node.roots(), node.policy());
    let at = |now| Expected { now, ..expected(&node, &roots, &policy) };
    well("seven days old", &meet(&node, &at(NOW + 7 * DAY), honest()).await);
    caught("eight days old", &meet(&node, &at(NOW + 8 * DAY), honest()).await, "8 days old, and 7 are the most");
    caught("expired", &meet(&node, &at(NOW + 40 * DAY), honest()).await, "not accepted");
    // A host that sets its own clock ahead to have collateral for longer.
    caught("signed tomorrow", &meet(&node, &at(NOW - DAY), honest()).await, "not accepted");
    let theirs = other.simulator.collateral();
    let foreign = evidence(move |evidence| evidence.collateral = theirs.clone());
    caught("another machine's collateral", &meet_own(&node, foreign).await, "does not hold together");
    let better = evidence(|evidence| {
        let bento_attest::evidence::Collateral::Dcap(collateral) = &mut evidence.collateral else { panic!("Intel's") };
        collateral.tcb_info = collateral.tcb_info.replace("\"svn\":5", "\"svn\":4");
    });
    caught("better levels", &meet_own(&node, better).await, "does not hold together");
    let none = evidence(|evidence| {
        let bento_attest::evidence::Collateral::Dcap(collateral) = &mut evidence.collateral else { panic!("Intel's") };
        collateral.pck_crl.clear();
    });
    caught("no list of revoked certificates", &meet_own(&node, none).await, "does not hold together");
    let exchanged = evidence(|evidence| {
        let bento_attest::evidence::Collateral::Dcap(collateral) = &mut evidence.collateral else { panic!("Intel's") };
        std::mem::swap(&mut collateral.pck_crl, &mut collateral.root_ca_crl);
    });
    caught("one list of revoked certificates for the other", &meet_own(&node, exchanged).await, "does not hold together");
    let signatures = evidence(|evidence| {
        let bento_attest::evidence::Collateral::Dcap(collateral) = &mut evidence.collateral else { panic!("Intel's") };
        collateral.qe_identity_signature.clone_from(&collateral.tcb_info_signature);
    });
    caught("the levels' signature under the enclave's identity", &meet_own(&node, signatures).await, "does not hold together");
}

#[tokio::test]
async fn a_handshake_that_was_changed_fails() {
    let node = Node::new(1);
    let old = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&old);
    let recorded = change(To::Client, 1, move |message| {
        keep.lock().expect("kept").clone_from(&message);
        Do::Pass(message)
    });
    well("carried", &meet_own(&node, recorded).await);
    for at in [4, 20, 36, 51] {
        let flip = move |mut message: Vec<u8>| {
            message[at] ^= 1;
            Do::Pass(message)
        };
        caught_inside("the client's message", &meet_own(&node, change(To::Conclave, 1, flip)).await, HANDSHAKE);
        caught("the conclave's message", &meet_own(&node, change(To::Client, 1, flip)).await, HANDSHAKE);
    }
    let old = old.lock().expect("kept").clone();
    caught("the answer to another client", &meet_own(&node, change(To::Client, 1, move |_| Do::Pass(old.clone()))).await, HANDSHAKE);
    caught("no answer", &meet_own(&node, change(To::Client, 1, |_| Do::Cut(Vec::new()))).await, "waiting for");
    caught("an empty answer", &meet_own(&node, change(To::Client, 1, |_| Do::Pass(framed(b"")))).await, HANDSHAKE);
    caught("a long answer", &meet_own(&node, change(To::Client, 1, |_| Do::Pass(framed(&[0; 129])))).await, "and 128 are the most");
    // The point at infinity and its like, with which both sides would agree on a key that everybody knows.
    let null = change(To::Conclave, 1, |mut message| {
        message[4..36].fill(0);
        Do::Pass(message)
    });
    caught_inside("a key that is none", &meet_own(&node, null).await, HANDSHAKE);
}

#[tokio::test]
async fn records_that_were_changed_repeated_lost_or_moved_are_seen() {
    let node = Node::new(1);
    for way in [To::Conclave, To::Client] {
        let seen = |what: &str, outcome: &Outcome, why: &str| match way {
            To::Conclave => caught_inside(what, outcome, why),
            To::Client => caught(what, outcome, why),
        };
        for at in [2, 1000, 32_000] {
            let flip = change(way, FIRST_RECORD + 1, move |mut record| {
                record[at] ^= 0x10;
                Do::Pass(record)
            });
            seen("a bit", &meet_own(&node, flip).await, TAMPERED);
        }
        seen("a record lost", &meet_own(&node, change(way, FIRST_RECORD + 1, |_| Do::Pass(Vec::new()))).await, TAMPERED);
        seen(
            "a record twice",
            &meet_own(&node, change(way, FIRST_RECORD, |record| Do::Pass([&record[..], &record].concat()))).await,
            TAMPERED,
        );
        let mut kept = Vec::new();
        let swapped: Tamper = Box::new(move |to, count, record| {
            if to != way || !(FIRST_RECORD..FIRST_RECORD + 2).contains(&count) {
                return Do::Pass(record);
            }
            if count == FIRST_RECORD {
                kept = record;
                return Do::Pass(Vec::new());
            }
            Do::Pass([record, kept.clone()].concat())
        });
        seen("two records the other way round", &meet_own(&node, swapped).await, TAMPERED);
        seen("cut between records", &meet_own(&node, change(way, FIRST_RECORD + 1, |_| Do::Cut(Vec::new()))).await, CUT);
        seen("cut within a record", &meet_own(&node, change(way, FIRST_RECORD + 1, |r| Do::Cut(r[..r.len() / 2].to_vec()))).await, CUT);
        seen("cut within a length", &meet_own(&node, change(way, FIRST_RECORD + 1, |r| Do::Cut(r[..1].to_vec()))).await, CUT);
        // 105,000 bytes are four records; the fifth is the end.
        seen("the end lost", &meet_own(&node, change(way, FIRST_RECORD + 4, |_| Do::Cut(Vec::new()))).await, CUT);
        // Only the end is as short as this.
        let early: Tamper = Box::new(move |to, count, record| {
            let skip = to == way && count > FIRST_RECORD && record.len() > 18;
            Do::Pass(if skip { Vec::new() } else { record })
        });
        seen("the end earlier", &meet_own(&node, early).await, TAMPERED);
        let forged = change(way, FIRST_RECORD + 1, |_| Do::Cut([&[0, 16][..], &[0; 16]].concat()));
        seen("an end that the host made", &meet_own(&node, forged).await, TAMPERED);
        for length in [0, 15, 0xffff_u16] {
            let lied = change(way, FIRST_RECORD, move |mut record| {
                record[..2].copy_from_slice(&length.to_be_bytes());
                Do::Pass(record)
            });
            seen("a length that is none", &meet_own(&node, lied).await, "the other side sent no record");
        }
        // Behind the end nothing is read, whatever it is.
        let behind = change(way, FIRST_RECORD + 4, |record| Do::Pass([&record[..], b"anything"].concat()));
        well("more behind the end", &meet_own(&node, behind).await);
    }
    // Its own record given back to the client: each direction has a key of its own.
    let mut kept = Vec::new();
    let mirror: Tamper = Box::new(move |to, count, record| match (to, count) {
        (To::Conclave, FIRST_RECORD) => {
            kept = record.clone();
            Do::Pass(record)
        }
        (To::Client, FIRST_RECORD) => Do::Pass(kept.clone()),
        _ => Do::Pass(record),
    });
    caught("the client's own record", &meet_own(&node, mirror).await, TAMPERED);
}

#[tokio::test]
async fn a_record_of_another_channel_is_seen() {
    let node = Node::new(1);
    let record = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&record);
    let recorded = change(To::Client, FIRST_RECORD, move |message| {
        keep.lock().expect("kept").clone_from(&message);
        Do::Pass(message)
    });
    well("recorded", &meet_own(&node, recorded).await);
    let record = record.lock().expect("kept").clone();
    let inserted = change(To::Client, FIRST_RECORD, move |_| Do::Pass(record.clone()));
    caught("a record of another client's channel", &meet_own(&node, inserted).await, TAMPERED);
}

#[tokio::test]
async fn a_conclave_that_was_started_again_has_another_key() {
    let mut node = Node::new(1);
    let before = *node.key.public();
    let kept = evidence(move |evidence| evidence.static_pk = before);
    well("its own key", &meet_own(&node, kept).await);
    node.key = ConclaveKey::generate().expect("a key");
    assert_ne!(node.key.public(), &before);
    let old = evidence(move |evidence| evidence.static_pk = before);
    caught("the key of before", &meet_own(&node, old).await, OTHER);
}
