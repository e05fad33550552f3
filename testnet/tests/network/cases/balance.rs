//! One onion service whose load is spread over others: the front's descriptor, published by hand, and where its clients get to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::time::{Duration, SystemTime};

use bento_front::{Address, Backend, Directory, Front, FrontKey, Revision, seats};
use bento_tor::{ControlError, Controller, Descriptor, Event, Isolation, Managed, OnionService, Step, Target};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::world::{Case, Error, Outcome, STREAM_DEADLINE, Web, World, case, get};

pub(crate) const CASES: &[Case] = &[case!("clients_of_a_front_are_spread_over_its_backends_by_weight", spread)];

/// How long a new onion service may take to be published, and a descriptor to be fetched.
const PUBLISHED_DEADLINE: Duration = Duration::from_secs(60);

/// How many clients come, one after the other, each on circuits of its own.
const CLIENTS: usize = 24;

/// A backend: an onion service with a directory of its own, in a tor of its own.
struct Origin {
    tor: Managed,
    address: String,
    _web: Web,
}

impl Origin {
    /// Told the front's address at run time, as a node does it, beside an onion service made by ADD_ONION.
    async fn start(world: &World, name: &str, front: &Address, text: &'static str) -> Result<Self, Error> {
        let web = Web::start("127.0.0.1:0", text).await?;
        let tor = world.client(name).await?;
        let mut events = tor.control().events(&[Descriptor::EVENT]).await?;
        let other = tor.control().add_onion(&OnionService::new(80, Target::Tcp(web.address))).await?;
        let directory = world.scratch.path().join(format!("{name}-service"));
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        fs::write(directory.join("ob_config"), format!("MasterOnionAddress {front}\n"))?;
        let path = directory.to_str().ok_or("a path")?;
        let port = format!("80 {}", web.address);
        let options = [
            ("HiddenServiceDir", Some(path)),
            ("HiddenServiceVersion", Some("3")),
            ("HiddenServicePort", Some(&*port)),
            ("HiddenServiceOnionBalanceInstance", Some("1")),
        ];
        tor.control().set_conf(&options).await?;
        let address = fs::read_to_string(directory.join("hostname"))?.trim().to_owned();
        let mine = |event: &Event| {
            Descriptor::parse(event).is_some_and(|descriptor| descriptor.address == address && descriptor.step == Step::Uploaded)
        };
        timeout(PUBLISHED_DEADLINE, until(&mut events, mine)).await??;
        // That SETCONF replaces all services with a directory does not touch those without.
        let there = tor.control().get_info("onions/current").await?;
        assert!(there.contains(other.address.trim_end_matches(".onion")), "{there}");
        Ok(Self { tor, address, _web: web })
    }
}

async fn until(events: &mut bento_tor::Events, wanted: impl Fn(&Event) -> bool) -> Result<Event, ControlError> {
    loop {
        let event = events.next().await?;
        if wanted(&event) {
            return Ok(event);
        }
    }
}

async fn fetched(control: &Controller, address: &str) -> Result<String, Error> {
    let id = address.trim_end_matches(".onion");
    let mut events = control.events(&["HS_DESC_CONTENT"]).await?;
    let end = Instant::now() + PUBLISHED_DEADLINE;
    loop {
        control.command(&format!("HSFETCH {id}")).await?;
        let event = timeout_at(end, until(&mut events, |event| event.lines.iter().any(|line| line.text.contains(id)))).await??;
        // Empty where a directory does not have it.
        if let Some(text) = event.lines.into_iter().filter_map(|line| line.data).find(|text| !text.is_empty()) {
            return Ok(text);
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn directory(control: &Controller) -> Result<Directory, Error> {
    let consensus = control.get_info("dir/status-vote/current/consensus-microdesc").await?;
    let microdescriptors = control.get_info("md/all").await?;
    Ok(Directory::read(&consensus, &microdescriptors, true)?)
}

/// Publishes the front, a descriptor of its own to each directory of each period. Gives how many have stored theirs.
async fn publish(
    control: &Controller,
    key: &FrontKey,
    origins: &[&str],
    weights: &[u32],
    revision: &mut Option<Revision>,
) -> Result<usize, Error> {
    let directory = directory(control).await?;
    let periods = directory.periods();
    let mut backends = Vec::new();
    for address in origins {
        let text = fetched(control, address).await?;
        backends.push(Backend::read(&text, &address.parse()?, &periods, SystemTime::now())?);
    }
    let front = Front { key, backends: &backends, clients: &[] };
    let id = key.address().to_string();
    let id = id.trim_end_matches(".onion");
    let mut events = control.events(&[Descriptor::EVENT]).await?;
    let mut stored = 0;
    for period in periods {
        let relays = directory.directories(&key.address(), period)?;
        for (relay, seats) in relays.iter().zip(seats(&backends, weights, relays.len())) {
            let next = Revision::next(*revision, SystemTime::now());
            *revision = Some(next);
            let text = front.build(period, &seats, next, SystemTime::now(), &mut rand::rng())?;
            assert!(text.len() <= bento_front::DESCRIPTOR_BYTES_MAX);
            control.command_with_data(&format!("+HSPOST SERVER={relay} HSADDRESS={id}"), &text).await?;
            let answer = until(&mut events, |event| {
                event.text.contains(&**relay)
                    && matches!(Descriptor::parse(event), Some(descriptor) if descriptor.address.starts_with(id) && matches!(descriptor.step, Step::Uploaded | Step::Failed(_)))
            });
            let answer = timeout(PUBLISHED_DEADLINE, answer).await??;
            eprintln!("balance: {:?} {} seats, {} bytes: {}", period, seats.len(), text.len(), answer.text);
            stored += usize::from(answer.text.starts_with("UPLOADED"));
        }
    }
    Ok(stored)
}

/// Where so many clients get to, each with circuits of its own.
async fn visits(clients: &[Managed], address: &str, count: usize) -> Result<BTreeMap<String, usize>, Error> {
    let mut tasks = JoinSet::new();
    for (index, client) in clients.iter().enumerate() {
        let (socks, control, address) = (client.socks(), client.control(), address.to_owned());
        let rounds = count / clients.len();
        tasks.spawn(async move {
            let mut reached = Vec::new();
            for round in 0..rounds {
                // It forgets descriptors, introduction points and circuits: the next visit is a new client's.
                if round % 3 == 0 {
                    control.command("SIGNAL NEWNYM").await?;
                }
                let begun = Instant::now();
                let isolation = Isolation::new(&format!("{address} {index} {round}"));
                let body = match client_visit(&socks, &address, &isolation).await {
                    Ok(body) => body,
                    Err(error) => format!("error: {error}"),
                };
                eprintln!("balance: client {index} round {round}: {body} after {:?}", begun.elapsed());
                reached.push(body);
            }
            Ok::<_, ControlError>(reached)
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

async fn client_visit(socks: &bento_tor::Socks, address: &str, isolation: &Isolation) -> Result<String, Error> {
    let mut stream = socks.connect(address, 80, isolation, STREAM_DEADLINE).await?;
    Ok(get(&mut stream, address).await?)
}

async fn spread(world: &World) -> Outcome {
    let key = FrontKey::generate(&mut rand::rng());
    let front = key.address();
    let (first, second, third, one, two, three) = tokio::join!(
        Origin::start(world, "backend-1", &front, "first"),
        Origin::start(world, "backend-2", &front, "second"),
        Origin::start(world, "backend-3", &front, "third"),
        world.client("visitor-1"),
        world.client("visitor-2"),
        world.client("visitor-3"),
    );
    let origins = [first?, second?, third?];
    let clients = [one?, two?, three?];
    let addresses: Vec<&str> = origins.iter().map(|origin| &*origin.address).collect();
    let publisher = world.client("publisher").await?;
    let mut revision = None;
    let stored = publish(&publisher.control(), &key, &addresses, &[1, 1, 1], &mut revision).await?;
    eprintln!("balance: stored by {stored}");
    let counts = visits(&clients, &front.to_string(), CLIENTS).await?;
    eprintln!("balance: equal weights: {counts:?}");
    let stored = publish(&publisher.control(), &key, &addresses, &[1, 1, 0], &mut revision).await?;
    eprintln!("balance: stored by {stored}");
    let counts = visits(&clients, &front.to_string(), CLIENTS).await?;
    eprintln!("balance: without the third: {counts:?}");
    for origin in origins {
        origin.tor.stop().await;
    }
    Ok(())
}
