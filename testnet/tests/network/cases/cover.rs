//! A flow of one rate, as who watches the client's line sees it.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bento_tor::Managed;
use testnet::{
    bento::{Node, SITE_NAME, SITE_RULE},
    observer::{Observer, critical_distance, distance, intervals},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpListener,
    time::{sleep, timeout},
};

use crate::{
    bento::Person,
    world::{Case, Error, Outcome, World, case, fetch_path},
};

pub(crate) const CASES: &[Case] = &[
    case!("who_watches_the_line_cannot_tell_when_a_flow_carries_a_page", flow),
    case!("who_watches_the_line_can_tell_when_a_page_comes_without_a_flow", no_flow),
    case!("what_a_flow_cannot_do_is_told_and_the_flow_goes_on", wrong),
    case!("cover_traffic_goes_through_circuits_to_itself_to_sinks_and_out", send),
];

/// What is counted at once: several frames, and some of them in any page's time.
const INTERVAL: Duration = Duration::from_millis(500);

/// How often a right flow may be taken for a wrong one, if its intervals are independent. Since a busy machine makes neighbouring ones alike, a flow
/// is judged once more when it fails.
const LEVEL: f64 = 1e-4;

const RAMP: Duration = Duration::from_secs(3);

/// How long nothing is asked for between two pages.
const PAUSE: Duration = Duration::from_secs(5);

/// Bytes of a page: some six seconds of the flow.
const PAGE: &str = "size/500000";

struct Watched {
    observer: Observer,
    tor: Managed,
    person: Person,
}

/// What was seen in one direction: with pages on their way, and without.
struct Samples {
    busy: Vec<u64>,
    quiet: Vec<u64>,
}

impl Samples {
    fn differ(&self, what: &str) -> bool {
        let (found, critical) = (distance(&self.busy, &self.quiet), critical_distance(self.busy.len(), self.quiet.len(), LEVEL));
        let mean = |sample: &[u64]| sample.iter().sum::<u64>() / sample.len().max(1) as u64;
        eprintln!(
            "testnet: {what}: {} intervals with {} bytes, {} without with {}; distance {found:.2}, critical {critical:.2}",
            self.busy.len(),
            mean(&self.busy),
            self.quiet.len(),
            mean(&self.quiet)
        );
        assert!(self.busy.len() >= 20 && self.quiet.len() >= 20, "too little was seen to judge");
        found > critical
    }
}

impl Watched {
    async fn new(world: &World, name: &str) -> Result<Self, Error> {
        let observer = Observer::start().await?;
        let tor = Managed::start(&world.tor(&format!("tor-{name}"), &[&observer.torrc_line()])?, |_, _| {}).await?;
        let person = Person::over(world, name, &tor.socks());
        Ok(Self { observer, tor, person })
    }

    /// Both directions, from one moment to another, told apart by whether a page was on its way.
    fn samples(&self, from: Instant, to: Instant, pages: &[(Instant, Instant)]) -> [Samples; 2] {
        let seen = self.observer.take();
        [true, false].map(|down| {
            let mut samples = Samples { busy: Vec::new(), quiet: Vec::new() };
            for (index, bytes) in intervals(&seen, down, from, to, INTERVAL).into_iter().enumerate() {
                let begin = from + INTERVAL * u32::try_from(index).unwrap_or_default();
                let (begins, ends) = (begin, begin + INTERVAL);
                if pages.iter().any(|(from, to)| *from <= begins && ends <= *to) {
                    samples.busy.push(bytes);
                } else if pages.iter().all(|(from, to)| *to <= begins || ends <= *from) {
                    samples.quiet.push(bytes);
                }
            }
            samples
        })
    }
}

/// One flow of a minute with pages and pauses in turn: what was seen.
async fn watched_flow(world: &World, watched: &Watched) -> Result<[Samples; 2], Error> {
    let bento = world.bento().await?;
    let person = &watched.person;
    let ramp = format!("{} s", RAMP.as_secs());
    let arguments = [
        "cover",
        "run",
        &bento.direct.address,
        "--rate",
        "100KiB/s",
        "--for",
        "60s",
        "--ramp",
        &ramp,
        "--connect",
        SITE_RULE,
        "--progress",
        "--json",
    ];
    let mut running = person.command(&arguments).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(running.stderr.take().ok_or("no stderr")?).lines();
    let runs = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(" runs: ") {
                return Ok::<_, Error>(());
            }
            eprintln!("testnet: {line}");
        }
        Err("the flow did not start".into())
    };
    timeout(Duration::from_secs(60), runs).await??;
    let url = format!("{}{PAGE}", bento.site.http);
    let from = Instant::now() + RAMP + Duration::from_secs(1);
    let mut pages = Vec::new();
    let ended = async { (running.wait_with_output().await, Instant::now()) };
    let asking = async {
        sleep(RAMP + PAUSE).await;
        loop {
            let begin = Instant::now();
            let said = person.bento(&["browse", &url, "--cover", "-o", "page.html", "--force", "--json"]).await;
            pages.push((begin, Instant::now()));
            if said.stderr.contains("the flow ended") || said.stderr.contains("no flow named") {
                return;
            }
            // On a busy machine a page may not come in time; what was seen meanwhile counts all the same.
            if said.status == Some(0) {
                let told = said.json();
                assert_eq!((&told["outcome"], told["html"].as_u64() > Some(500_000)), (&"page".into(), true), "{told}");
            } else {
                eprintln!("testnet: a page did not come: {}", said.stderr);
            }
            sleep(PAUSE).await;
        }
    };
    let ((output, to), ()) = tokio::join!(ended, asking);
    let output = output?;
    // The last page was cut off by the end of the flow, or asked for after it.
    let end = pages.last().map_or(to, |(begin, _)| *begin).min(to - RAMP - Duration::from_secs(1));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert!(told["carried"].as_u64() > Some(500_000), "{told}");
    Ok(watched.samples(from, end, &pages))
}

async fn flow(world: &World) -> Outcome {
    let watched = Watched::new(world, "watched").await?;
    let mut wrong = Vec::new();
    for _ in 0..2 {
        let [down, up] = watched_flow(world, &watched).await?;
        let found = [down.differ("a flow, down"), up.differ("a flow, up")];
        if found == [false, false] {
            watched.tor.stop().await;
            return Ok(());
        }
        wrong.push(found);
    }
    Err(format!("twice it was seen on the line when a page came: {wrong:?}").into())
}

/// The forbidden neighbour: the same check finds pages that come over Tor by themselves.
async fn no_flow(world: &World) -> Outcome {
    world.bento().await?;
    let watched = Watched::new(world, "bare").await?;
    let socks = watched.tor.socks();
    let (from, mut pages) = (Instant::now(), Vec::new());
    // Enough of them to see a difference also where a busy machine lets pages come in fits and starts.
    sleep(INTERVAL * 60).await;
    let begin = Instant::now();
    while begin.elapsed() < INTERVAL * 62 {
        let page = fetch_path(&socks, SITE_NAME, 80, &format!("/{PAGE}"), "pages").await?;
        assert_eq!(page.len(), 500_000);
    }
    pages.push((begin, Instant::now()));
    let [down, up] = watched.samples(from, Instant::now(), &pages);
    assert!(down.differ("pages without a flow, down") && up.differ("pages without a flow, up"), "pages without a flow were not seen");
    watched.tor.stop().await;
    Ok(())
}

async fn wrong(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "wrong"));
    let nobody = person.bento(&["browse", &bento.site.http, "--cover"]).await;
    assert!(nobody.status == Some(2) && nobody.stderr.contains("no flow named `cover`"), "{}", nobody.stderr);
    let arguments = ["cover", "run", &bento.tor.address, "--low-data", "--for", "60s", "--name", "plain", "--no-pages", "--progress"];
    let mut running = person.command(&arguments).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(running.stderr.take().ok_or("no stderr")?).lines();
    while !timeout(Duration::from_secs(60), lines.next_line()).await??.ok_or("the flow did not start")?.contains(" runs: ") {}
    let page = person.bento(&["browse", &bento.site.http, "--cover", "plain"]).await;
    assert!(page.status == Some(1) && page.stderr.contains("carries no pages"), "{}", page.stderr);
    let twice = person.bento(&arguments).await;
    assert!(twice.status == Some(2) && twice.stderr.contains("runs already"), "{}", twice.stderr);
    let status = person.bento(&["cover", "status", "--json"]).await.good().json();
    let flow = &status["flows"][0];
    let tenth = |key: &str| flow[key].as_u64().map(|rate| rate / 10);
    assert_eq!((&flow["name"], tenth("rate"), tenth("up")), (&"plain".into(), Some(204), Some(25)), "{status}");
    assert!(flow["late"].as_f64() < Some(5.0), "{status}");
    // One signal is answered in words, the second ends it.
    let pid = rustix::process::Pid::from_raw(i32::try_from(running.id().ok_or("it has ended")?)?).ok_or("no process")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    while !timeout(Duration::from_secs(20), lines.next_line()).await??.ok_or("it ended at the first signal")?.contains("goes on to its end")
    {
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    assert_eq!(timeout(Duration::from_secs(20), running.wait()).await??.code(), Some(130));
    let none = person.bento(&["cover", "status"]).await.good();
    assert!(none.text().contains("No flow runs here"), "{}", none.text());
    Ok(())
}

/// A Maybenot machine of one state: pads 100 ms after each frame (`Machine::serialize`, version 2).
const MACHINE: &str = "02eNptirENAEAIAp/J3nmcwrFtjFpoofEKjhDMi7cB0JWVho9vhvxSrwHNBw2/";

async fn send(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "send"));
    let offers = "calls = [\"tor.*\", \"maybenot.*\", \"nodes.*\"]";
    let place = |name: &str| world.scratch.path().join(name);
    let (sends, sink) = (place("node-sends"), place("node-sink"));
    let (sends, sink) = tokio::try_join!(
        Node::start(&world.network, &sends, "Sends", "tor", offers),
        Node::start(&world.network, &sink, "Sink", "tor", offers)
    )?;
    let swallower = TcpListener::bind("127.80.0.3:0").await?;
    let to = swallower.local_addr()?.to_string();
    let swallowed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&swallowed);
    let swallowing = tokio::spawn(async move {
        while let Ok((mut stream, _)) = swallower.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut chunk = [0; 4096];
                while let Ok(bytes @ 1..) = stream.read(&mut chunk).await {
                    count.fetch_add(bytes as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let to_itself = ["--shape", "poisson", "--frames", "10", "--back"];
    let to_sinks = ["--sink", &sink.address, "--frames", "10"];
    let out = ["--to", &to, "--machine", MACHINE];
    for more in [&to_itself[..], &to_sinks[..], &out[..]] {
        let arguments = [&["cover", "send", &sends.address, "--circuits", "3", "--for", "15 s", "--json"][..], more].concat();
        let told = person.bento(&arguments).await.good().json();
        eprintln!("testnet: {more:?}: {told}");
        // 450 on a quiet machine; on a busy one frames that are more than a second late move their machine.
        assert!(told["sent"].as_u64() > Some(300), "{told}");
        assert_eq!(told["received"].as_u64() > Some(0), more.contains(&"--back"), "{told}");
    }
    // One frame of 498 bytes is one cell.
    assert!(swallowed.load(Ordering::Relaxed) > 300 * 498);
    swallowing.abort();
    // A node that does not offer Tor to functions refuses before anything is built.
    let refused = person.bento(&["cover", "send", &bento.tor.address]).await;
    assert!(refused.status == Some(3) && refused.stderr.contains("tor."), "{}", refused.stderr);
    sends.program.stop().await;
    sink.program.stop().await;
    Ok(())
}
