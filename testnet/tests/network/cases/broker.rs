//! Functions that use Tor itself: their circuits, streams and onion services, and nobody else's.

use std::time::Duration;

use bento_tor::{Isolation, SocksError};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdout},
    time::{Instant, sleep, timeout},
};

use crate::{
    bento::{Lender, Person},
    cases::kills::{below, kill},
    mirror::Mirror,
    world::{Case, Error, Outcome, STREAM_DEADLINE, World, case},
};

pub(crate) const CASES: &[Case] = &[
    case!("a_function_connects_through_the_circuit_that_it_has_chosen_and_no_other", chosen),
    case!("many_streams_on_functions_circuits_leave_those_of_others_alone", many),
    case!("an_onion_service_of_a_function_is_reached_and_gone_when_it_is_closed", served),
    case!("a_hostile_function_sees_and_touches_nothing_of_another", hostile),
    case!("what_a_function_had_is_closed_when_it_ends", ended),
    case!("when_tor_dies_circuits_are_told_as_lost_and_onion_services_come_back", outlived),
];

/// How long what ends at one place may take to be seen at another.
const SEEN_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const NEEDS: &str = "calls = ['tor.*', 'net.connect']\nconnect = ['accept 127.80.0.0/16:*', 'accept *:80']\ncircuits = 24\nonion_services = 2\n\
                     storage = '1 MiB'\nprocesses = 32\ndescriptors = 128\ntraffic = '64 MiB'\nlifetime = '30 min'\ninvocations = 2\ncpu = '60 s'";

/// Tells what each of them does, one JSON text a line.
pub(crate) const CODE: &str = r#"
import json, threading, time


def say(api, value):
    api.output.write((json.dumps(value) + "\n").encode())


def tried(call, *arguments, **named):
    begun = time.monotonic()
    try:
        call(*arguments, **named)
        return "done", 0
    except OSError as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - begun


def read(stream):
    with stream:
        stream.settimeout(30)
        stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
        text = b""
        while part := stream.recv(65536):
            text += part
    return text.decode().rpartition("\n")[2]


def relays(api):
    say(api, [[relay.nickname, relay.fingerprint, relay.address, sorted(relay.flags), relay.exit] for relay in api.tor.relays()])


def through(api, path, host, port, longer=()):
    with api.tor.events() as events, api.tor.circuit(path) as circuit:
        if longer:
            circuit.extend(*longer)
        say(api, {"path": circuit.path, "body": read(circuit.connect(host, port))})
        circuit.close()
        told = []
        while not told or told[-1].get("status") != "closed" or told[-1]["event"] != "circuit":
            told.append(events.next(20))
        say(api, told)


def asked(api, refused, unknown, path):
    circuit = api.tor.circuit(path)
    say(api, {
        "closed port": tried(circuit.connect, *refused),
        "no name": tried(circuit.connect, "nowhere.example", 80),
        "not granted": tried(circuit.connect, "127.81.0.1", 80),
        "onion": tried(circuit.connect, unknown, 80),
        "unknown onion": tried(api.tor.connect, unknown, 80),
        "onion port": tried(api.tor.connect, unknown, 25),
        "no relay": tried(api.tor.circuit, ["0" * 40]),
        "no relays fit": tried(api.tor.circuit, country="fr"),
        "no number": tried(api._ask("tor.close_circuit", {"circuit": 99}).result),
        "no descriptor": tried(api.tor.descriptor, unknown),
        "no key": tried(api.tor.onion_service, 80, "ED25519-V3:abc="),
        # Another one: a circuit on which streams failed Tor closes within seconds.
        "neighbour": tried(api.tor.circuit(path).connect, *refused[:1], 80)[0],
        "too many": [tried(api.tor.circuit)[0] for _ in range(25)][-1],
    })


def many(api, paths, host, port, streams):
    circuits = [api.tor.circuit(path) for path in paths]
    bodies, wrong = [], []

    def one(circuit, number):
        try:
            bodies.append([circuit.number, read(circuit.connect(host, port))])
        except OSError as error:
            wrong.append(str(error))

    threads = [threading.Thread(target=one, args=(circuits[number % len(circuits)], number)) for number in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(api, {"bodies": bodies, "wrong": wrong, "circuits": {circuit.number: circuit.path for circuit in circuits}})


def plain(api, host, port, times):
    say(api, [read(api.connect(host, port)) for _ in range(times)])


def serve(api, ports, clients, key=None, **options):
    with api.tor.events() as events, api.tor.onion_service(ports, key, **options) as service:
        say(api, {"address": service.address, "key": service.key, "number": service.number, "published": service.published})
        for _ in range(clients):
            stream, port = service.accept(90)
            with stream:
                stream.sendall(f"{port} ".encode() + stream.recv(100).upper())
        service.close()
        say(api, {"first event": events.next(20)})
        api.input.read()


def hold(api, path, host, port):
    events, circuit, service = api.tor.events(), api.tor.circuit(path), api.tor.onion_service([80])
    stream = circuit.connect(host, port)
    say(api, {"address": service.address, "circuit": circuit.number, "service": service.number})
    threading.Thread(target=answer, args=(service,), daemon=True).start()
    while True:
        say(api, events.next())


def answer(service):
    while True:
        stream, _ = service.accept()
        with stream:
            stream.sendall(b"here")


def outlive(api, path, key, host, port):
    import queue
    events, circuit, service = api.tor.events(), api.tor.circuit(path), api.tor.onion_service([80], key)
    stream, visits, told = circuit.connect(host, port), queue.Queue(), []

    def serve():
        while True:
            visitor, _ = service.accept()
            with visitor:
                visits.put(visitor.recv(100))
                visitor.sendall(b"here")

    threading.Thread(target=serve, daemon=True).start()
    while visits.get(timeout=110) != b"after":
        pass
    while "service uploaded" not in told[-1:] or "tor back" not in told:
        event = events.next(60)
        if told or event.get("reason") == "TOR_LOST":
            told.append(" ".join(str(event[key]) for key in ("event", "status", "reason") if key in event))
    lost = tried(circuit.connect, host, port)[0]
    say(api, {"told": told, "lost": lost.partition(":")[0], "new": tried(api.tor.circuit, path)[0]})


def pry(api, path, address):
    said = {}
    with api.tor.events() as events:
        for number in range(1, 20):
            for name, arguments in (
                ("tor.close_circuit", {"circuit": number}),
                ("tor.extend", {"circuit": number, "relays": path[:1]}),
                ("tor.circuit_connect", {"circuit": number, "host": "127.80.0.1", "port": 80}),
                ("tor.accept", {"service": number}),
                ("tor.close_service", {"service": number}),
            ):
                try:
                    api._ask(name, arguments).result()
                    said[name] = "done"
                except OSError as error:
                    said[name] = type(error).__name__
        # Of others nobody hears, whatever happens meanwhile.
        circuit = api.tor.circuit(path)
        try:
            api.tor.descriptor(address)
        except OSError as error:
            said["descriptor"] = str(error)
        time.sleep(5)
        circuit.close()
        heard = []
        while not heard or heard[-1].get("status") != "closed":
            heard.append(events.next(20))
    say(api, {"said": said, "heard": heard, "circuit": circuit.number})
"#;

/// The fingerprint of a relay of the network, by its name.
fn relay(world: &World, name: &str) -> String {
    let relay = world.network.relays().into_iter().find(|relay| relay.name == name).expect("a relay of this name");
    relay.fingerprint.expect("a fingerprint")
}

pub(crate) fn path(world: &World, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| relay(world, name)).collect()
}

/// Runs a method to its end, and gives what it said, line by line.
pub(crate) async fn run(person: &Person, node: &str, function: &str, method: &str, arguments: &Value) -> Vec<Value> {
    let arguments: Vec<String> = arguments.as_object().expect("arguments").iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut words = vec!["run", node, function, method];
    words.extend(arguments.iter().map(String::as_str));
    let said = person.bento(&words).await.good();
    said.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A method that goes on: what it says, and its end.
pub(crate) struct Going {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Going {
    pub(crate) fn start(person: &Person, node: &str, function: &str, method: &str, arguments: &Value) -> Result<Self, Error> {
        let arguments: Vec<String> =
            arguments.as_object().ok_or("arguments")?.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut words = vec!["run", node, function, method];
        words.extend(arguments.iter().map(String::as_str));
        // Its input does not end before it is told to.
        words.extend(["--input", "-"]);
        let mut child = person.command(&words).stdin(std::process::Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        Ok(Self { child, lines })
    }

    pub(crate) async fn said(&mut self) -> Result<Value, Error> {
        Ok(serde_json::from_str(&self.line().await?)?)
    }

    pub(crate) async fn line(&mut self) -> Result<String, Error> {
        let line = timeout(Duration::from_secs(90), self.lines.next_line()).await??;
        if let Some(line) = line {
            return Ok(line);
        }
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut text).await?;
        }
        Err(format!("it ended: {text}").into())
    }

    /// Ends its input, and waits until it has returned.
    pub(crate) async fn end(mut self) -> Outcome {
        drop(self.child.stdin.take());
        let ended = timeout(Duration::from_secs(60), self.child.wait()).await??;
        assert!(ended.success(), "{ended}");
        Ok(())
    }
}

/// Comes to an onion service as a client: says a word, and gives what is answered.
async fn visit(world: &World, address: &str, port: u16, word: &str) -> Result<String, SocksError> {
    let isolation = Isolation::new(&format!("{address} {port} {word} {:?}", Instant::now()));
    let mut stream = world.socks().connect(address, port, &isolation, STREAM_DEADLINE).await?;
    stream.write_all(word.as_bytes()).await.map_err(SocksError::Broken)?;
    let mut text = String::new();
    match timeout(STREAM_DEADLINE, stream.read_to_string(&mut text)).await {
        Ok(read) => read.map(|_| text).map_err(SocksError::Broken),
        Err(_) => Err(SocksError::Deadline(STREAM_DEADLINE)),
    }
}

/// The same, again until it is there or the time is over.
async fn visited(world: &World, address: &str, port: u16, word: &str) -> Result<String, SocksError> {
    let end = Instant::now() + SEEN_DEADLINE * 2;
    loop {
        match visit(world, address, port, word).await {
            Err(_) if Instant::now() < end => sleep(Duration::from_millis(300)).await,
            visited => return visited,
        }
    }
}

/// Waits until the node's tor has no circuit of a function any more.
async fn no_circuits(lender: &Lender) -> Outcome {
    let end = Instant::now() + SEEN_DEADLINE;
    // Closing is an event of that tor's, which tells it to its own controllers; to ask again is simpler than to be one for this.
    loop {
        let circuits = lender.circuits().await?;
        if circuits.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("circuits of functions are still there: {circuits:?}").into());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn chosen(world: &World) -> Outcome {
    let (lender, person, mirror) = (world.lender().await?, Person::new(world, "chosen"), Mirror::start(world).await?);
    world.network.names().set("mirror.example", &[[127, 80, 0, 9].into()]);
    let function = person.function("circuits", NEEDS, CODE);
    let node = lender.node.address.as_str();

    let relays = run(&person, node, &function, "relays", &json!({})).await.remove(0);
    let relays = relays.as_array().ok_or("no list")?;
    assert_eq!(relays.len(), world.network.relays().iter().filter(|relay| relay.fingerprint.is_some()).count());
    let exit = relays.iter().find(|relay| relay[0] == "exit1").ok_or("no exit")?;
    assert_eq!((&exit[1], &exit[2], &exit[4]), (&json!(relay(world, "exit1")), &json!("127.31.0.1"), &json!("accept 1-65535")));
    assert!(exit[3].as_array().is_some_and(|flags| flags.contains(&json!("Exit"))));

    // By name, through one exit and then the other: the mirror says which it was.
    for names in [["middle1", "middle2", "exit1"], ["middle3", "middle1", "exit2"]] {
        let path = path(world, &names);
        let asked = world.network.names().asked("mirror.example");
        let arguments = json!({"path": path, "host": "mirror.example", "port": mirror.address.port()});
        let said = run(&person, node, &function, "through", &arguments).await;
        assert_eq!(said[0], json!({"path": path, "body": names[2]}));
        assert!(world.network.names().asked("mirror.example") > asked, "the name was not looked up through the circuit");
        let told: Vec<String> =
            said[1].as_array().ok_or("no events")?.iter().map(|event| format!("{} {}", event["event"], event["status"])).collect();
        let told: Vec<String> = told.iter().map(|text| text.replace('"', "")).collect();
        assert_eq!(
            told,
            [
                "circuit launched",
                "circuit extended",
                "circuit extended",
                "circuit extended",
                "circuit built",
                "stream new",
                "stream connected",
                "stream closed",
                "circuit closed"
            ]
        );
    }
    // Longer by one relay, which then is the exit.
    let (first, longer) = (path(world, &["middle1", "middle2", "exit1"]), path(world, &["exit2"]));
    let arguments = json!({"path": first, "host": "127.80.0.9", "port": mirror.address.port(), "longer": longer});
    let said = run(&person, node, &function, "through", &arguments).await;
    assert_eq!((&said[0]["path"], &said[0]["body"]), (&json!([first.clone(), longer].concat()), &json!("exit2")));

    let nobody = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
    let closed = TcpListener::bind("127.80.0.9:0").await?.local_addr()?;
    let web = crate::world::Web::start("127.80.0.9:80", "the neighbour").await?;
    let arguments = json!({"refused": ["127.80.0.9", closed.port()], "unknown": nobody, "path": first});
    let said = run(&person, node, &function, "asked", &arguments).await.remove(0);
    drop(web);
    for (what, words) in [
        ("closed port", "Unreachable"),
        ("no name", "NameNotFound"),
        ("not granted", "Refused"),
        ("onion", "Refused"),
        ("unknown onion", "NameNotFound"),
        ("onion port", "Refused"),
        ("no relay", "Missing"),
        ("no relays fit", "Missing"),
        ("no number", "Missing"),
        ("no descriptor", "Missing"),
        ("no key", "BadCall"),
    ] {
        let (text, seconds) = (said[what][0].as_str().unwrap_or_default(), said[what][1].as_f64().unwrap_or(0.0));
        assert!(text.starts_with(words), "{what}: {said}");
        // Nothing waits for Tor to give up by itself.
        assert!(seconds < 30.0, "{what}: {said}");
    }
    assert!(said["too many"].as_str().is_some_and(|text| text.contains("24 circuits")), "{said}");
    assert_eq!(said["neighbour"], "done");
    no_circuits(lender).await
}

async fn many(world: &World) -> Outcome {
    let (lender, person, mirror) = (world.lender().await?, Person::new(world, "many"), Mirror::start(world).await?);
    let function = person.function("many", NEEDS, CODE);
    let (node, port) = (lender.node.address.as_str(), mirror.address.port());
    let paths = [path(world, &["middle1", "middle2", "exit1"]), path(world, &["middle2", "middle3", "exit2"])];
    let paths: Vec<_> = paths.iter().cycle().take(6).collect();
    let arguments = json!({"paths": paths, "host": "127.80.0.9", "port": port, "streams": 24});
    let plain = json!({"host": "127.80.0.9", "port": port, "times": 12});
    // Others use the same tor at the same time, by the node's egress and by names.
    let (said, plain) = tokio::join!(run(&person, node, &function, "many", &arguments), run(&person, node, &function, "plain", &plain),);
    let said = &said[0];
    assert_eq!((said["bodies"].as_array().map(Vec::len), &said["wrong"]), (Some(24), &json!([])), "{said}");
    for body in said["bodies"].as_array().ok_or("no bodies")? {
        let path = &said["circuits"][body[0].to_string()];
        let exit = if path[2] == relay(world, "exit1") { "exit1" } else { "exit2" };
        assert_eq!(body[1], exit, "a stream left by another circuit: {said}");
    }
    assert_eq!(plain[0].as_array().map(Vec::len), Some(12));
    no_circuits(lender).await
}

async fn served(world: &World) -> Outcome {
    let (lender, person) = (world.lender().await?, Person::new(world, "served"));
    let function = person.function("service", NEEDS, CODE);
    let node = lender.node.address.as_str();
    let mut service = Going::start(&person, node, &function, "serve", &json!({"ports": [80, 443], "clients": 3}))?;
    let made = service.said().await?;
    assert_eq!(made["published"], true);
    let (address, key) = (made["address"].as_str().ok_or("no address")?.to_owned(), made["key"].clone());
    assert_eq!(visited(world, &address, 443, "hello").await?, "443 HELLO");
    assert_eq!(visit(world, &address, 80, "again").await?, "80 AGAIN");
    assert!(visit(world, &address, 81, "shut").await.is_err());
    assert_eq!(visit(world, &address, 80, "once more").await?, "80 ONCE MORE");
    // It is closed now, while its function goes on.
    let event = service.said().await?;
    assert_eq!((&event["first event"]["event"], &event["first event"]["status"]), (&json!("service"), &json!("uploaded")));
    assert!(visit(world, &address, 80, "closed").await.is_err());
    service.end().await?;

    // The same key gives the same address, and then nobody else may have it at this node; what guards it is taken by Tor.
    let options =
        json!({"ports": [80], "clients": 1, "key": key, "discard_key": true, "max_streams": 20, "pow": {"rate": 250, "burst": 2500}});
    let mut service = Going::start(&person, node, &function, "serve", &options)?;
    let made = service.said().await?;
    assert_eq!((made["address"].as_str(), &made["key"]), (Some(address.as_str()), &Value::Null));
    let second = person.bento(&["run", node, &function, "serve", "ports=[80]", "clients=0", &format!("key={key}")]).await;
    assert!(second.status == Some(1) && second.stderr.contains("Busy"), "{}", second.stderr);
    assert_eq!(visited(world, &address, 80, "hello").await?, "80 HELLO");
    service.said().await?;
    service.end().await
}

async fn hostile(world: &World) -> Outcome {
    let (lender, mirror) = (world.lender().await?, Mirror::start(world).await?);
    let (good, bad) = (Person::new(world, "good"), Person::new(world, "bad"));
    let (node, path) = (lender.node.address.as_str(), path(world, &["middle1", "middle2", "exit1"]));
    let victim = json!({"path": path, "host": "127.80.0.9", "port": mirror.address.port()});
    let mut victim = Going::start(&good, node, &good.function("victim", NEEDS, CODE), "hold", &victim)?;
    let has = victim.said().await?;
    let address = has["address"].as_str().ok_or("no address")?;
    assert_eq!((&has["circuit"], &has["service"]), (&json!(1), &json!(1)));

    let pry = async {
        let arguments = json!({"path": path[..2], "address": address});
        run(&bad, node, &bad.function("pryer", NEEDS, CODE), "pry", &arguments).await.remove(0)
    };
    // Meanwhile the other's onion service is visited, which are events of its own.
    let visits = async {
        for _ in 0..3 {
            assert_eq!(visited(world, address, 80, "hello").await.map_err(|error| error.to_string()), Ok("here".to_owned()));
        }
    };
    let (pried, ()) = tokio::join!(pry, visits);
    for (call, said) in pried["said"].as_object().ok_or("nothing")? {
        // The descriptor is anybody's to have, and nothing in it says where the service is.
        assert!(call == "descriptor" || said == "Missing", "{call}: {pried}");
    }
    // One that Tor found slow was begun again, under another number.
    for event in pried["heard"].as_array().ok_or("nothing")? {
        assert!(event["event"] == "circuit" && event["circuit"].as_u64() <= pried["circuit"].as_u64(), "{event}");
        let its = event["path"].as_array().ok_or("no path")?;
        assert!(its.len() <= 2 && its.iter().zip(&path).all(|(one, other)| one == other), "{event}");
    }
    // The other has all it had, and has heard of nothing that was not its own.
    assert_eq!(lender.circuits().await?, [path]);
    assert_eq!(visited(world, address, 80, "hello").await?, "here");
    victim.child.kill().await?;
    no_circuits(lender).await
}

async fn ended(world: &World) -> Outcome {
    let (person, mirror) = (Person::new(world, "ended"), Mirror::start(world).await?);
    let lender = Lender::start(world, "mortal-lender").await?;
    let path = path(world, &["middle1", "middle2", "exit1"]);
    let arguments = json!({"path": path, "host": "127.80.0.9", "port": mirror.address.port()});
    let function = person.function("mortal", NEEDS, CODE);
    let node = lender.node.address.clone();

    // Its process is killed.
    let mut holder = Going::start(&person, &node, &function, "hold", &arguments)?;
    let has = holder.said().await?;
    let address = has["address"].as_str().ok_or("no address")?;
    assert_eq!(visited(world, address, 80, "hello").await?, "here");
    assert_eq!(lender.circuits().await?, std::slice::from_ref(&path));
    for process in below(lender.node.program.pid(), "python3.11") {
        kill(process)?;
    }
    no_circuits(&lender).await?;
    assert!(visit(world, address, 80, "gone").await.is_err());
    drop(holder);

    // It is shut down.
    person.bento(&["nodes", "add", "lender", &node]).await.good();
    person.bento(&["install", "lender", &function, "--name", "holder"]).await.good();
    let arguments: Vec<String> = arguments.as_object().ok_or("none")?.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let words: Vec<&str> = ["invoke", "holder", "hold"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let mut holding = person.command(&words).spawn()?;
    let mut lines = BufReader::new(holding.stdout.take().ok_or("no stdout")?).lines();
    timeout(SEEN_DEADLINE * 2, lines.next_line()).await??.ok_or("it ended")?;
    assert_eq!(lender.circuits().await?.len(), 1);
    person.bento(&["shutdown", "holder"]).await.good();
    no_circuits(&lender).await?;
    drop(holding);
    lender.node.program.stop().await;
    Ok(())
}

async fn outlived(world: &World) -> Outcome {
    let (person, mirror) = (Person::new(world, "outlived"), Mirror::start(world).await?);
    let mut lender = Lender::start(world, "lender-of-a-mortal").await?;
    let (function, node) = (person.function("outliving", NEEDS, CODE), lender.node.address.clone());
    person.bento(&["nodes", "add", "lender", &node]).await.good();
    person.bento(&["install", "lender", &function, "--name", "outliving"]).await.good();
    // Its output is read at the end alone, so its address has to be known before.
    let made = person.bento(&["invoke", "outliving", "serve", "ports=[80]", "clients=0"]).await.good().text();
    let made: Value = serde_json::from_str(made.lines().next().ok_or("nothing")?)?;
    let address = made["address"].as_str().ok_or("no address")?;
    let path = path(world, &["middle1", "middle2", "exit1"]);
    let arguments = json!({"path": path, "key": made["key"], "host": "127.80.0.9", "port": mirror.address.port()});
    let arguments: Vec<String> = arguments.as_object().ok_or("none")?.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let words: Vec<&str> =
        ["invoke", "outliving", "outlive"].into_iter().chain(arguments.iter().map(String::as_str)).chain(["--detach"]).collect();
    person.bento(&words).await.good();
    assert_eq!(visited(world, address, 80, "before").await?, "here");
    assert_eq!(lender.circuits().await?, [path]);

    let tor = below(lender.node.program.pid(), "tor");
    kill(*tor.first().ok_or("no tor")?)?;
    lender.node.program.wait_for_line(|line| line.contains("published address="), Duration::from_secs(60)).await?;
    assert_eq!(visited(world, address, 80, "after").await?, "here");
    // Its method returns once it was visited again.
    let mut said = person.bento(&["output", "outliving"]).await;
    for _ in 0..5 {
        if said.status == Some(0) {
            break;
        }
        said = person.bento(&["output", "outliving"]).await;
    }
    let said: Value = serde_json::from_str(&said.good().text())?;
    let told: Vec<String> =
        said["told"].as_array().ok_or("no events")?.iter().map(|event| event.as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(told[..4], ["stream closed TOR_LOST", "circuit closed TOR_LOST", "tor lost", "tor back"], "{said}");
    assert!(told[4..].iter().any(|told| told == "service uploaded"), "{said}");
    assert_eq!((&said["lost"], &said["new"]), (&json!("Missing"), &json!("done")), "{said}");
    lender.node.program.stop().await;
    Ok(())
}
