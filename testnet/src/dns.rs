//! The resolver that the exits ask: names from a table, NXDOMAIN for all others.
//!
//! It answers A queries. A name that exists has no other records; that is an empty answer, not NXDOMAIN.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::Trouble;
use crate::layout::DNS;

/// A name that always has an address: the exits ask for it to see whether their resolver works.
pub(crate) const SELF_TEST: &str = "self-test.example";

/// How long an answer may be kept, in seconds. An exit keeps it for minutes whatever this says.
const TTL: u32 = 1;

/// The names of this network. Clones share one table.
#[derive(Clone, Debug)]
pub struct Names {
    table: Arc<Mutex<HashMap<String, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    addresses: Vec<Ipv4Addr>,
    in_turn: bool,
    asked: usize,
}

impl Names {
    pub(crate) fn new() -> Self {
        let names = Self { table: Arc::default() };
        names.set(SELF_TEST, &[Ipv4Addr::LOCALHOST]);
        names
    }

    /// Gives a name its addresses: every answer has them all. No addresses takes the name away.
    pub fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.enter(name, addresses, false);
    }

    /// Gives a name addresses of which each answer has one, in turn: what a DNS rebinding attack does.
    pub fn set_in_turn(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.enter(name, addresses, true);
    }

    /// How often addresses of this name were asked for.
    pub fn asked(&self, name: &str) -> usize {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(&key(name)).map_or(0, |entry| entry.asked)
    }

    /// Where a resolver's client asks.
    pub fn address(&self) -> SocketAddr {
        DNS
    }

    fn enter(&self, name: &str, addresses: &[Ipv4Addr], in_turn: bool) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.is_empty() {
            table.remove(&key(name));
            return;
        }
        table.insert(key(name), Entry { addresses: addresses.to_vec(), in_turn, asked: 0 });
    }

    /// The addresses for one answer; `None` for a name that does not exist.
    fn answer(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = table.get_mut(&key(name))?;
        let turn = entry.asked % entry.addresses.len();
        entry.asked += 1;
        Some(if entry.in_turn { vec![entry.addresses[turn]] } else { entry.addresses.clone() })
    }

    fn knows(&self, name: &str) -> bool {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&key(name))
    }

    /// Answers one query; `None` for what is not a query.
    fn reply(&self, query: &[u8]) -> Option<Vec<u8>> {
        let query = Packet::parse(query).ok()?;
        let question = query.questions.first()?.clone();
        let name = question.qname.to_string();
        let mut reply = Packet::new_reply(query.id());
        if matches!(question.qtype, QTYPE::TYPE(TYPE::A)) && matches!(question.qclass, QCLASS::CLASS(CLASS::IN)) {
            match self.answer(&name) {
                Some(addresses) => reply.answers.extend(addresses.into_iter().map(|address| {
                    let data = RData::A(A { address: address.into() });
                    ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data)
                })),
                None => *reply.rcode_mut() = RCODE::NameError,
            }
        } else if !self.knows(&name) {
            *reply.rcode_mut() = RCODE::NameError;
        }
        // The question goes back letter for letter: tor mixes capitals into it and takes no other answer.
        reply.questions.push(question);
        reply.build_bytes_vec().ok()
    }
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The running resolver; it stops when dropped.
#[derive(Debug)]
pub(crate) struct Resolver {
    task: JoinHandle<()>,
}

impl Resolver {
    pub(crate) async fn start(names: Names) -> Result<Self, Trouble> {
        let socket = UdpSocket::bind(DNS).await.map_err(Trouble::doing(format!("listening on {DNS}")))?;
        let task = tokio::spawn(async move {
            let mut query = [0; 1500];
            loop {
                // Errors here are those of earlier answers whose asker has gone.
                let Ok((length, asker)) = socket.recv_from(&mut query).await else { continue };
                if let Some(reply) = names.reply(&query[..length]) {
                    let _ = socket.send_to(&reply, asker).await;
                }
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use simple_dns::{Name, Question};

    use super::*;

    fn ask(names: &Names, name: &str, kind: TYPE) -> (RCODE, Vec<Ipv4Addr>, String) {
        let mut query = Packet::new_query(7);
        let name = Name::new(name).unwrap();
        query.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
        let reply = names.reply(&query.build_bytes_vec().unwrap()).unwrap();
        let reply = Packet::parse(&reply).unwrap();
        assert_eq!(reply.id(), 7);
        let addresses = reply.answers.iter().map(|answer| match &answer.rdata {
            RData::A(A { address }) => Ipv4Addr::from(*address),
            other => panic!("{other:?}"),
        });
        (reply.rcode(), addresses.collect(), reply.questions[0].qname.to_string())
    }

    #[test]
    fn known_names_have_addresses_and_others_do_not_exist() {
        let names = Names::new();
        let (one, two) = (Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2));
        names.set("Site.example.", &[one]);
        let (code, addresses, question) = ask(&names, "sItE.eXample", TYPE::A);
        assert_eq!((code, addresses, question.as_str()), (RCODE::NoError, vec![one], "sItE.eXample"));
        assert_eq!(ask(&names, "site.example", TYPE::AAAA).0, RCODE::NoError);
        assert_eq!(ask(&names, "nobody.example", TYPE::A).0, RCODE::NameError);
        assert_eq!(ask(&names, "nobody.example", TYPE::AAAA).0, RCODE::NameError);

        names.set_in_turn("turning.example", &[one, two]);
        let turns: Vec<_> = (0..3).flat_map(|_| ask(&names, "turning.example", TYPE::A).1).collect();
        assert_eq!((turns, names.asked("turning.example")), (vec![one, two, one], 3));
        names.set("turning.example", &[]);
        assert_eq!(ask(&names, "turning.example", TYPE::A).0, RCODE::NameError);
        assert_eq!(names.reply(b"garbage"), None);
    }
}
