//! One onion service whose load is spread over others: the front's descriptor, published by hand, and where its clients get to.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bento_front::{Address, Backend, ClientKey, Directory, Front, FrontKey, Revision, seats};
use bento_tor::{Backends, ControlError, Controller, Descriptor, Isolation, Managed, Socks, Step, Stored, Target};
use data_encoding::{BASE32_NOPAD, BASE64};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tor_llcrypto::pk::curve25519::{PublicKey, StaticSecret};

use crate::world::{Case, Error, Outcome, STREAM_DEADLINE, Web, World, case, get};

pub(crate) const CASES: &[Case] = &[
    case!("new_clients_of_a_front_are_spread_over_its_backends_by_weight", spread),
    case!("a_front_for_some_clients_is_found_by_those_and_by_nobody_else", for_some),
];

/// How long a new onion service may take to be published.
const PUBLISHED_DEADLINE: Duration = Duration::from_secs(60);

/// How long one directory may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tor forgets what it knows of onion services on SIGNAL NEWNYM, but at most every ten seconds.
const NEWNYM_DEADLINE: Duration = Duration::from_secs(20);

/// How many clients come, each on circuits of its own.
const CLIENTS: usize = 24;

/// How often they come again where a backend was not reached by any.
const ROUNDS_MAX: usize = 3;

/// A backend, in a tor of its own.
struct Origin {
    tor: Managed,
    address: String,
    _backends: Backends,
    _web: Web,
}

impl Origin {
    async fn start(world: &World, name: &str, front: &Address, text: &'static str) -> Result<Self, Error> {
        let web = Web::start("127.0.0.1:0", text).await?;
        let tor = world.client(name).await?;
        let mut events = tor.control().events(&[Descriptor::EVENT]).await?;
        let backends = Backends::new(tor.control(), world.scratch.path().join(format!("{name}-backends"))).await?;
        let ports = vec![(80, Target::Tcp(web.address))];
        let wanted = bento_tor::Backend { front: front.to_string(), key: None, ports, max_streams: None };
        let address = backends.add(&wanted).await?.address;
        let uploaded = async {
            loop {
                let event = events.next().await?;
                let step = Descriptor::parse(&event).filter(|descriptor| descriptor.address == address).map(|descriptor| descriptor.step);
                if step == Some(Step::Uploaded) {
                    return Ok::<_, ControlError>(());
                }
            }
        };
        timeout(PUBLISHED_DEADLINE, uploaded).await??;
        Ok(Self { tor, address, _backends: backends, _web: web })
    }
}

/// Who publishes the front.
struct Publisher<'a> {
    control: Controller,
    key: &'a FrontKey,
    origins: Vec<String>,
    clients: Vec<ClientKey>,
    last: Option<Revision>,
}

impl Publisher<'_> {
    /// Publishes, a descriptor of its own to each directory of each period.
    async fn publish(&mut self, weights: &[u32]) -> Outcome {
        let consensus = self.control.get_info("dir/status-vote/current/consensus-microdesc").await?;
        let directory = Directory::read(&consensus, &self.control.get_info("md/all").await?, true)?;
        let periods = directory.periods();
        let mut backends = Vec::new();
        for origin in &self.origins {
            let address: Address = origin.parse()?;
            backends.push(self.backend(&directory, &address).await?);
        }
        let front = Front { key: self.key, backends: &backends, clients: &self.clients };
        for period in periods {
            let relays = directory.directories(&self.key.address(), period)?;
            let mut descriptors = Vec::new();
            for (relay, seats) in relays.iter().zip(seats(&backends, weights, relays.len())) {
                let revision = Revision::next(self.last, SystemTime::now());
                self.last = Some(revision);
                let text = front.build(period, &seats, revision, SystemTime::now(), &mut rand::rng())?;
                assert!(text.len() <= bento_front::DESCRIPTOR_BYTES_MAX && Revision::of(&text) == Some(revision));
                descriptors.push((relay.parse()?, text));
            }
            let address = self.key.address().to_string();
            let said = self.control.post_descriptors(&address, &descriptors, PATIENCE).await?;
            // One may be gone with a consensus that is newer than the one that was read.
            let taken: Vec<_> =
                said.iter().zip(&descriptors).filter(|(said, _)| **said == Stored::Took).map(|(_, sent)| sent.clone()).collect();
            assert!(taken.len() * 2 > descriptors.len(), "{said:?}");
            // The same again is not greater, so it is refused.
            let again = self.control.post_descriptors(&address, &taken[..1], PATIENCE).await?;
            assert_eq!(again, [Stored::Refused("UPLOAD_REJECTED".into())]);
            if period == directory.periods()[0] {
                let there = self.control.fetch_descriptor(&address, &[taken[0].0], PATIENCE).await?;
                assert_eq!(there.map(|content| content.text), Some(taken[0].1.clone()));
            }
        }
        Ok(())
    }

    async fn backend(&self, directory: &Directory, address: &Address) -> Result<Backend, Error> {
        let periods = directory.periods();
        let relays = directory.directories(address, periods[0])?;
        let relays = relays.iter().map(|relay| relay.parse()).collect::<Result<Vec<_>, _>>()?;
        let end = Instant::now() + PUBLISHED_DEADLINE;
        loop {
            if let Some(content) = self.control.fetch_descriptor(&address.to_string(), &relays, PATIENCE).await? {
                return Ok(Backend::read(&content.text, address, &periods, SystemTime::now())?);
            }
            if Instant::now() > end {
                return Err("no directory has the backend's descriptor".into());
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Has this Tor forget descriptors and circuits, and waits until it has.
pub(super) async fn forget(control: &Controller) -> Outcome {
    let mut events = control.events(&["SIGNAL"]).await?;
    control.command("SIGNAL NEWNYM").await?;
    timeout(NEWNYM_DEADLINE, events.next()).await??;
    Ok(())
}

/// Where so many new clients get to, by what they were answered.
async fn visits(clients: &[Managed], address: &str) -> Result<BTreeMap<String, usize>, Error> {
    let mut tasks = JoinSet::new();
    for client in clients {
        let (socks, control, address) = (client.socks(), client.control(), address.to_owned());
        let rounds = CLIENTS / clients.len();
        tasks.spawn(async move {
            forget(&control).await?;
            let mut reached = Vec::new();
            for round in 0..rounds {
                reached.push(visit(&socks, &address, round).await?);
            }
            Ok::<_, Error>(reached)
        });
    }
    let mut counts = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        for body in done?? {
            *counts.entry(body).or_insert(0) += 1;
        }
    }
    Ok(counts)
}

async fn visit(socks: &Socks, address: &str, round: usize) -> Result<String, Error> {
    // Circuits of its own are an introduction of its own: the introduction point is chosen anew.
    let isolation = Isolation::new(&format!("{address} {round} {:?}", Instant::now()));
    let mut stream = socks.connect(address, 80, &isolation, STREAM_DEADLINE).await?;
    Ok(get(&mut stream, address).await?)
}

async fn spread(world: &World) -> Outcome {
    let key = FrontKey::generate(&mut rand::rng());
    let front = key.address();
    let (first, second, third, one, two, three, publisher) = tokio::join!(
        Origin::start(world, "backend-1", &front, "first"),
        Origin::start(world, "backend-2", &front, "second"),
        Origin::start(world, "backend-3", &front, "third"),
        world.client("visitor-1"),
        world.client("visitor-2"),
        world.client("visitor-3"),
        world.client("publisher"),
    );
    let origins = [first?, second?, third?];
    let clients = [one?, two?, three?];
    let publisher = publisher?;
    let addresses = origins.iter().map(|origin| origin.address.clone()).collect();
    let mut publisher = Publisher { control: publisher.control(), key: &key, origins: addresses, clients: Vec::new(), last: None };

    // A backend may have lost introduction points since its descriptor was fetched; the next one has others.
    let mut all = BTreeMap::new();
    for _ in 0..ROUNDS_MAX {
        publisher.publish(&[1, 1, 1]).await?;
        for (answer, count) in visits(&clients, &front.to_string()).await? {
            *all.entry(answer).or_insert(0) += count;
        }
        if all.len() == origins.len() {
            break;
        }
    }
    eprintln!("testnet: new clients by backend: {all:?}");
    assert_eq!(all.len(), origins.len(), "{all:?}");
    publisher.publish(&[1, 2, 0]).await?;
    let counts = visits(&clients, &front.to_string()).await?;
    eprintln!("testnet: of {CLIENTS} new clients, weights 1, 2 and 0: {counts:?}");
    assert!(counts.len() == 2 && !counts.contains_key("third"), "{counts:?}");
    for origin in origins {
        origin.tor.stop().await;
    }
    Ok(())
}

async fn for_some(world: &World) -> Outcome {
    let key = FrontKey::generate(&mut rand::rng());
    let front = key.address();
    let (origin, friend, stranger, publisher) = tokio::join!(
        Origin::start(world, "backend-friends", &front, "for friends"),
        world.client("friend"),
        world.client("stranger"),
        world.client("publisher-friends"),
    );
    let (origin, friend, stranger, publisher) = (origin?, friend?, stranger?, publisher?);
    // Every second one is somebody else's: the friend's is found among others.
    let pair = || {
        let secret = StaticSecret::from(rand::random::<[u8; 32]>());
        let public = format!("descriptor:x25519:{}", BASE32_NOPAD.encode(PublicKey::from(&secret).as_bytes()));
        (BASE64.encode(&secret.to_bytes()), public)
    };
    let (secret, public) = pair();
    let clients = [pair().1, public, pair().1].iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let origins = vec![origin.address.clone()];
    let mut publisher = Publisher { control: publisher.control(), key: &key, origins, clients, last: None };
    publisher.publish(&[1]).await?;

    let address = front.to_string();
    let id = address.trim_end_matches(".onion");
    for (tor, secret) in [(&friend, &secret), (&stranger, &pair().0)] {
        tor.control().command(&format!("ONION_CLIENT_AUTH_ADD {id} x25519:{secret}")).await?;
    }
    assert_eq!(visit(&friend.socks(), &address, 0).await?, "for friends");
    // One with another key, and one with none.
    let refused = visit(&stranger.socks(), &address, 1).await;
    assert!(refused.is_err(), "{refused:?}");
    let refused = visit(&world.socks(), &address, 2).await;
    assert!(refused.is_err(), "{refused:?}");
    // It is not that nobody gets in by then.
    assert_eq!(visit(&friend.socks(), &address, 3).await?, "for friends");
    origin.tor.stop().await;
    Ok(())
}
