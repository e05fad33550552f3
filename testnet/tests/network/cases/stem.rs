//! Scripts for Stem, as they are, against the control port of a `tor` and inside a function: both have to say the same.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use bento_tor::Managed;
use tokio::process::Command;

use crate::{
    bento::{KNOWN_DEADLINE, Person, knows_all},
    world::{Case, Error, Outcome, Web, World, case},
};

pub(crate) const CASES: &[Case] = &[
    case!("a_stem_script_lists_relays_in_a_function_as_anywhere", relays),
    case!("a_stem_script_builds_and_extends_circuits_in_a_function_as_anywhere", circuits),
    case!("a_stem_script_attaches_streams_in_a_function_as_anywhere", streams),
    case!("a_stem_script_serves_an_onion_service_in_a_function_as_anywhere", onion),
    case!("a_stem_script_waits_for_events_in_a_function_as_anywhere", events),
    case!("a_stem_script_fetches_descriptors_in_a_function_as_anywhere", descriptors),
    case!("a_stem_script_asks_for_versions_and_options_in_a_function_as_anywhere", manners),
    case!("two_functions_with_controllers_see_nothing_of_each_other", hostile),
];

const CONTROL: &str = "127.46.0.1:9051";
const SOCKS: &str = "127.46.0.1:9050";

/// Longest that one script may take.
const SCRIPT_DEADLINE: Duration = Duration::from_secs(100);

const NEEDS: &str = "image = 'tor'\nmemory = '256 MiB'\ncalls = ['net.connect', 'tor.*']\ncircuits = 8\nonion_services = 3\nprocesses = 32\negress = 'tor'\n\
    connect = ['accept 127.80.0.0/16:*', 'accept *:80']";

/// Runs a script of the bundle; what it prints is the output. Nothing of the script is changed.
const RUN: &str = r#"
import contextlib, io, runpy, sys

def run(api, script, arguments=()):
    sys.argv = [script, *arguments]
    output = io.TextIOWrapper(api.output, "utf-8", write_through=True)
    with contextlib.redirect_stdout(output):
        runpy.run_path(f"/tmp/function/{script}", run_name="__main__")
    output.detach()
"#;

fn scripts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/stem")
}

/// A `tor` with a control port, as scripts expect it.
pub(crate) struct Plain(Managed);

impl Plain {
    pub(crate) async fn start(world: &World) -> Result<Self, Error> {
        let (control, socks) = (format!("ControlPort {CONTROL}"), format!("SocksPort {SOCKS}"));
        // A busy machine builds circuits much slower than Tor learns when it is not.
        let lines = [&control, &socks, "CookieAuthentication 0", "LearnCircuitBuildTimeout 0", "CircuitBuildTimeout 60"];
        let tor = Managed::start(&world.tor("plain", &lines)?, |_, _| {}).await?;
        tokio::time::timeout(KNOWN_DEADLINE, knows_all(&tor.control(), world)).await.map_err(|_| "the consensus lacks relays")??;
        Ok(Self(tor))
    }

    pub(crate) async fn end(self) {
        self.0.stop().await;
    }
}

/// What a script says at the control port of a `tor`.
async fn outside(script: &str, arguments: &[&str]) -> Result<String, Error> {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(scripts().join(script)).args(["--control", CONTROL]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(SCRIPT_DEADLINE, command.output()).await.map_err(|_| format!("{script} hangs"))??;
    let (said, cried) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
    if !output.status.success() {
        return Err(format!("{script} fails at a control port: {said}{cried}").into());
    }
    Ok(said)
}

/// What it says inside a function.
async fn inside(world: &World, person: &Person, script: &str, arguments: &[&str]) -> Result<String, Error> {
    let lender = world.lender().await?;
    let function = person.function("scripts", NEEDS, RUN);
    fs::copy(scripts().join(script), PathBuf::from(&function).join(script))?;
    let (script, arguments) = (format!("script={script}"), format!("arguments={}", serde_json::to_string(arguments)?));
    let said = person.bento(&["run", &lender.node.address, &function, "run", &script, &arguments]).await;
    if said.status != Some(0) {
        return Err(format!("{script} fails in a function: {}{}", said.text(), said.stderr).into());
    }
    Ok(said.text())
}

/// Both say the same.
async fn same(world: &World, script: &str, arguments: &[&str], only_outside: &[&str]) -> Outcome {
    world.plain().await?;
    let person = Person::new(world, script);
    let expected = outside(script, &[arguments, only_outside].concat()).await?;
    let found = inside(world, &person, script, arguments).await?;
    assert!(!expected.is_empty());
    assert_eq!(found, expected, "\n{found}\n{expected}");
    Ok(())
}

async fn relays(world: &World) -> Outcome {
    same(world, "relays.py", &[], &[]).await
}

async fn circuits(world: &World) -> Outcome {
    same(world, "circuits.py", &[], &[]).await
}

async fn streams(world: &World) -> Outcome {
    let web = Web::start("127.80.46.1:0", "a page of its own").await?;
    same(world, "streams.py", &["--site", &web.address.to_string()], &["--socks", SOCKS]).await
}

async fn onion(world: &World) -> Outcome {
    same(world, "onion.py", &[], &["--socks", SOCKS]).await
}

async fn events(world: &World) -> Outcome {
    same(world, "events.py", &[], &[]).await
}

async fn descriptors(world: &World) -> Outcome {
    same(world, "descriptors.py", &[], &[]).await
}

async fn manners(world: &World) -> Outcome {
    same(world, "manners.py", &[], &[]).await
}

/// One function holds a circuit and an onion service and says what it sees at the end; the other tries meanwhile whatever it can think of.
const VICTIM: &str = r#"
import json

def hold(api):
    with api.tor.controller() as controller:
        events = []
        controller.add_event_listener(events.append, "CIRC", "STREAM", "HS_DESC")
        circuit = controller.new_circuit(["middle1", "middle2", "exit1"], await_build=True)
        service = controller.create_ephemeral_hidden_service(80, await_publication=True)
        api.output.write((service.service_id + "\n").encode())
        api.input.read(1)
        ours = [event for event in events if circuit != getattr(event, "id", circuit) or getattr(event, "address", service.service_id) != service.service_id]
        found = [circuit.id for circuit in controller.get_circuits()] == [circuit]
        api.output.write(json.dumps([found, len(ours), controller.list_ephemeral_hidden_services() == [service.service_id]]).encode())
"#;

const HOSTILE: &str = r#"
import json, socket

def attack(api, service):
    stream = socket.create_connection(("127.0.0.1", 9051), timeout=60)
    file = stream.makefile("rb")
    seen = []
    def ask(*commands):
        # All at once: a busy machine gives a busy function its turn seldom.
        stream.sendall(b"".join(command.encode() + b"\r\n" for command in commands))
        codes = []
        while len(codes) < len(commands):
            line = file.readline().decode().rstrip()
            if line[:3] == "650": seen.append(line)
            elif line[3:4] == " ": codes.append(line[:3])
        return codes
    assert ask("AUTHENTICATE", "SETEVENTS CIRC STREAM HS_DESC HS_DESC_CONTENT BW") == ["250", "250"]
    commands = [
        *(f"{command} {number}" for number in range(1, 12) for command in ("CLOSECIRCUIT", "SETCIRCUITPURPOSE purpose=general", "EXTENDCIRCUIT")),
        *(f"ATTACHSTREAM {number} 1" for number in range(1, 6)), *(f"CLOSESTREAM {number} 1" for number in range(1, 6)),
        f"DEL_ONION {service}", f"GETINFO hs/service/desc/id/{service}",
        "SETCONF SocksPort=9", "SETCONF DataDirectory=/", "RESETCONF ControlPort", "GETCONF HashedControlPassword", "GETCONF DataDirectory",
        "GETINFO config-text", "GETINFO config-file", "GETINFO entry-guards", "GETINFO orconn-status", "GETINFO process/pid", "GETINFO traffic/read",
        "GETINFO address", "SAVECONF", "TAKEOWNERSHIP", "DROPGUARDS", "DROPTIMEOUTS", "RESOLVE example.org", "MAPADDRESS 127.0.0.1=example.org",
        "SIGNAL SHUTDOWN", "SIGNAL HALT", "SIGNAL RELOAD", "SIGNAL DUMP", "SIGNAL DORMANT", "SETCIRCUITPURPOSE",
        "SETEVENTS INFO", "SETEVENTS ORCONN", "SETEVENTS GUARD", "+LOADCONF\r\nSocksPort 9\r\n.", "+POSTDESCRIPTOR\r\nx\r\n.",
        "ADD_ONION NEW:BEST Port=80,127.46.0.1.example:80", "ADD_ONION NEW:BEST Port=80,unix:/run/tor/control", "ADD_ONION NEW:BEST Flags=NonAnonymous Port=80",
        "EXTENDCIRCUIT 0 middle1\rSIGNAL HALT", "GETINFO version\0", "GETINFO circuit-status\n\nSIGNAL HALT",
    ]
    codes = dict(zip(commands, ask(*commands)))
    # What the last three lines of one command are answered, and a second in which it may hear of others.
    while not seen or not seen[-1].startswith("650 BW"): seen.append(file.readline().decode().rstrip())
    others = [line for line in seen if line.startswith("650") and not line.startswith("650 BW")]
    again = socket.create_connection(("127.0.0.1", 9051), timeout=60)
    said = b""
    try:
        again.sendall(b"AUTHENTICATE\r\n" + b"x" * 100_000)
        while piece := again.recv(1000): said += piece
    except ConnectionError: pass
    api.output.write(json.dumps([codes, others, said.decode()]).encode())
"#;

async fn hostile(world: &World) -> Outcome {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    let lender = world.lender().await?;
    let (victim, attacker) = (Person::new(world, "victim"), Person::new(world, "attacker"));
    let function = victim.function("victim", NEEDS, VICTIM);
    let mut command = victim.command(&["run", &lender.node.address, &function, "hold", "--input", "-"]);
    let mut holding = command.stdin(Stdio::piped()).spawn()?;
    let mut input = holding.stdin.take().ok_or("no input")?;
    let mut output = BufReader::new(holding.stdout.take().ok_or("no output")?);
    let mut service = String::new();
    output.read_line(&mut service).await?;
    let service = service.trim();
    assert_eq!(service.len(), 56, "{service}");
    let function = attacker.function("attacker", NEEDS, HOSTILE);
    let said = attacker.bento(&["run", &lender.node.address, &function, "attack", &format!("service={service}")]).await.good().json();
    let codes = said[0].as_object().ok_or("no codes")?;
    for (command, code) in codes {
        let expected: &[&str] = match command.split([' ', '\r']).next().unwrap_or_default() {
            "GETINFO" if command == "GETINFO address" => &["551"],
            // The first of three lines is a good one, and the others are commands of their own.
            "GETINFO" if command.contains('\n') => &["250"],
            "GETINFO" | "EXTENDCIRCUIT" if command.contains(['\0', '\r']) => &["500"],
            "SETCIRCUITPURPOSE" | "ADD_ONION" | "EXTENDCIRCUIT" => &["512", "552"],
            "CLOSECIRCUIT" | "ATTACHSTREAM" | "CLOSESTREAM" | "DEL_ONION" | "GETINFO" | "GETCONF" | "SETCONF" | "RESETCONF" | "SIGNAL"
            | "SETEVENTS" => &["552"],
            _ => &["510"],
        };
        assert!(expected.contains(&code.as_str().unwrap_or_default()), "{command:?} is answered {code}");
    }
    assert_eq!(said[1], serde_json::json!([]), "it is told of others' objects");
    assert_eq!(said[2], "250 OK\r\n500 Syntax error: the command is too long\r\n");
    // The node's own tor is alive, and what the other function has is still there.
    input.write_all(b"x").await?;
    drop(input);
    let mut rest = String::new();
    output.read_to_string(&mut rest).await?;
    assert_eq!(rest, "[true, 0, true]");
    assert!(holding.wait().await?.success());
    Ok(())
}
