use super::*;
use crate::controller::{
    info::{Which, Working},
    onion::Port,
    options::{Options, Switch},
};

const SERVICE: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd";
const KEY: &str = "wLSVWvjsn0pQPZa9xncY4Q5jZRD6JQLB5u2++vH3cmYqJtdcdz8ICMp9PhfC306DatOVSgUjgRLs2OlCgZWs0A==";
const FINGERPRINT: &str = "B3180620C1F672D857AEB4446A19DF9161DC2CA3";

fn parse(line: &str) -> Result<Command, Reply> {
    Command::parse(&Request::Line(line.to_owned()))
}

fn refusal(line: &str) -> String {
    parse(line).expect_err(line).write().trim_end().to_owned()
}

#[test]
fn what_stem_sends_is_understood() {
    let exit = Router::Fingerprint(FINGERPRINT.to_owned());
    let middle = Router::Nickname("middle1".into());
    let extend = |circuit, path: &[Router], purpose| Command::Extend(Extend { circuit, path: path.to_vec(), purpose });
    let on = Setting { switch: Switch::LeaveStreamsUnattached, on: Some(true) };
    let default = Setting { on: None, ..on };
    let service = AddOnion { key: None, discard: false, detach: false, max_streams: 0, ports: vec![Port { outside: 80, inside: 80 }] };
    for (line, command) in [
        ("PROTOCOLINFO 1", Command::ProtocolInfo),
        ("AUTHENTICATE", Command::Authenticate),
        ("AUTHENTICATE \"password\"", Command::Authenticate),
        ("authenticate 00ff", Command::Authenticate),
        ("QUIT", Command::Quit),
        ("GETINFO version", Command::GetInfo(vec![("version".into(), Key::Version)])),
        ("GETCONF __owningcontrollerprocess", Command::GetConf(vec!["__owningcontrollerprocess".into()])),
        ("SETCONF __LeaveStreamsUnattached=1", Command::SetConf(vec![on])),
        ("SETCONF __LeaveStreamsUnattached=\"1\"", Command::SetConf(vec![on])),
        ("RESETCONF __LeaveStreamsUnattached", Command::ResetConf(vec![default])),
        ("SETEVENTS ", Command::SetEvents(vec![])),
        ("SETEVENTS SIGNAL CONF_CHANGED CIRC", Command::SetEvents(vec![Kind::Signal, Kind::ConfChanged, Kind::Circ])),
        ("SETEVENTS EXTENDED STATUS_SERVER stream", Command::SetEvents(vec![Kind::Silent("STATUS_SERVER"), Kind::Stream])),
        ("EXTENDCIRCUIT 0 purpose=general", extend(None, &[], Purpose::General)),
        ("EXTENDCIRCUIT 0", extend(None, &[], Purpose::General)),
        (
            "EXTENDCIRCUIT 0 middle1,$B3180620C1F672D857AEB4446A19DF9161DC2CA3~exit1 purpose=Controller",
            extend(None, &[middle.clone(), exit.clone()], Purpose::Controller),
        ),
        ("EXTENDCIRCUIT 25 b3180620c1f672d857aeb4446a19df9161dc2ca3", extend(Some(25), std::slice::from_ref(&exit), Purpose::General)),
        ("SETCIRCUITPURPOSE 25 purpose=controller", Command::Repurpose { circuit: 25, purpose: Purpose::Controller }),
        ("CLOSECIRCUIT 25 ", Command::CloseCircuit { circuit: 25, if_unused: false }),
        ("CLOSECIRCUIT 25 IfUnused", Command::CloseCircuit { circuit: 25, if_unused: true }),
        ("ATTACHSTREAM 128 25", Command::AttachStream { stream: 128, circuit: 25, hop: None }),
        ("ATTACHSTREAM 128 0 HOP=2", Command::AttachStream { stream: 128, circuit: 0, hop: Some(2) }),
        ("CLOSESTREAM 128 1 ", Command::CloseStream { stream: 128 }),
        ("SIGNAL NEWNYM", Command::NewIdentity),
        ("ADD_ONION NEW:BEST Port=80", Command::AddOnion(service.clone())),
        (
            "ADD_ONION NEW:ED25519-V3 Flags=DiscardPK,Detach,MaxStreamsCloseCircuit MaxStreams=9 Port=80,5000 Port=81,127.0.0.1:5001",
            Command::AddOnion(AddOnion {
                discard: true,
                detach: true,
                max_streams: 9,
                ports: vec![Port { outside: 80, inside: 5000 }, Port { outside: 81, inside: 5001 }],
                ..service.clone()
            }),
        ),
        (&format!("ADD_ONION ED25519-V3:{KEY} Port=80"), Command::AddOnion(AddOnion { key: Some(KEY.into()), ..service })),
        (&format!("DEL_ONION {SERVICE}"), Command::DelOnion(SERVICE.into())),
        (&format!("HSFETCH {SERVICE}"), Command::HsFetch { address: SERVICE.into(), servers: vec![] }),
        (&format!("HSFETCH {SERVICE} SERVER=${FINGERPRINT}"), Command::HsFetch { address: SERVICE.into(), servers: vec![exit] }),
        ("USEFEATURE VERBOSE_NAMES", Command::UseFeature),
    ] {
        assert_eq!(parse(line), Ok(command), "{line}");
    }
    let post = Request::Data(format!("HSPOST SERVER=middle1 HSADDRESS={SERVICE}"), "hs-descriptor 3\n".into());
    let posted = Command::HsPost { address: Some(SERVICE.into()), servers: vec![middle], descriptor: "hs-descriptor 3\n".into() };
    assert_eq!(Command::parse(&post), Ok(posted));
}

#[test]
fn keys_are_public_or_the_functions_own_and_all_others_unknown() {
    for (text, key) in [
        ("ns/all", Key::Status(Which::All)),
        ("ns/name/exit1", Key::Status(Which::One(Router::Nickname("exit1".into())))),
        ("ns/id/xx", Key::Status(Which::Malformed)),
        ("md/id/$B3180620C1F672D857AEB4446A19DF9161DC2CA3", Key::Microdescriptor(Which::One(Router::Fingerprint(FINGERPRINT.into())))),
        ("circuit-status", Key::Circuits),
        ("network-liveness", Key::Working(Working::Liveness)),
        ("net/listeners/socks", Key::Fixed("\"127.0.0.1:9050\"")),
    ] {
        assert_eq!(Key::parse(text), key);
    }
    for hidden in [
        "config-text",
        "config-file",
        "config/names",
        "config-can-saveconf",
        "address-mappings/all",
        "entry-guards",
        "orconn-status",
        "traffic/read",
        "traffic/written",
        "uptime",
        "process/pid",
        "process/user",
        "process/uid",
        "accounting/bytes",
        "hs/service/desc/id/x",
        "dir/status-vote/current/consensus",
        "exit-policy/full",
        "limits/max-mem-in-queues",
        "downloads/networkstatus/ns",
        "stats/ntor/requested",
        "bw-event-cache",
        "status/version/recommended",
        "circuit-status\"",
        "",
    ] {
        assert_eq!(Key::parse(hidden), Key::Unknown, "{hidden}");
    }
    // The names that it tells are names that it knows.
    for line in Key::names("info/names").lines() {
        let name = line.split(" -- ").next().unwrap_or_default().replace('*', FINGERPRINT);
        assert!(!matches!(Key::parse(&name), Key::Unknown), "{name}");
    }
}

#[test]
fn what_would_touch_the_node_or_others_is_unknown() {
    for command in [
        "LOADCONF",
        "SAVECONF",
        "SAVECONF FORCE",
        "TAKEOWNERSHIP",
        "DROPOWNERSHIP",
        "DROPGUARDS",
        "DROPTIMEOUTS",
        "MAPADDRESS 1.2.3.4=example.org",
        "RESOLVE example.org",
        "REDIRECTSTREAM 1 127.0.0.1",
        "POSTDESCRIPTOR",
        "ONION_CLIENT_AUTH_ADD x",
        "ONION_CLIENT_AUTH_VIEW",
        "SETROUTERPURPOSE",
        "HSPOST",
        "FOO",
        "",
    ] {
        let word = command.split(' ').next().unwrap_or_default();
        assert_eq!(refusal(command), format!("510 Unrecognized command \"{word}\""));
    }
    for command in ["LOADCONF", "POSTDESCRIPTOR", "GETINFO"] {
        let reply = Command::parse(&Request::Data(command.into(), "ControlPort 9051\n".into())).unwrap_err();
        assert_eq!(reply.write(), format!("510 Unrecognized command \"+{command}\"\r\n"));
    }
    for signal in
        ["SHUTDOWN", "HALT", "TERM", "INT", "RELOAD", "HUP", "DUMP", "USR1", "DEBUG", "HEARTBEAT", "DORMANT", "ACTIVE", "nonsense"]
    {
        assert_eq!(refusal(&format!("SIGNAL {signal}")), format!("552 Unrecognized signal code \"{signal}\""));
    }
    for option in
        ["DataDirectory=/", "ORPort=1", "ExitNodes={de}", "HiddenServiceDir=/x", "ControlPort", "__LeaveStreamsUnattached=1 SocksPort=1"]
    {
        assert!(refusal(&format!("SETCONF {option}")).starts_with("552 Unrecognized option: Unknown option '"), "{option}");
    }
    for event in ["NOTICE", "WARN", "ERR", "INFO", "DEBUG", "ORCONN", "ADDRMAP", "GUARD", "NEWDESC", "CLIENTS_SEEN", "CIRC NOTICE"] {
        let event = event.split(' ').next_back().unwrap_or_default();
        assert_eq!(refusal(&format!("SETEVENTS {event}")), format!("552 Unrecognized event \"{event}\""));
    }
    assert_eq!(Command::parse(&Request::Garbled).unwrap_err().code(), 500);
}

#[test]
fn wrong_arguments_are_refused_in_tors_words() {
    for (line, reply) in [
        ("PROTOCOLINFO foo", "513 No such version \"foo\""),
        ("EXTENDCIRCUIT", "512 Bad arguments to EXTENDCIRCUIT: Need at least 1 argument(s)"),
        ("EXTENDCIRCUIT abc middle1", "552 Unknown circuit \"abc\""),
        ("EXTENDCIRCUIT -1 middle1", "552 Unknown circuit \"-1\""),
        ("EXTENDCIRCUIT +1 middle1", "552 Unknown circuit \"+1\""),
        ("EXTENDCIRCUIT 99999999999999999999 middle1", "552 Unknown circuit \"99999999999999999999\""),
        ("EXTENDCIRCUIT 0 middle1 purpose=foo", "552 Unknown purpose \"foo\""),
        ("EXTENDCIRCUIT 0 middle1,no.such", "552 No such router \"no.such\""),
        ("EXTENDCIRCUIT 0 middle1,", "552 No such router \"\""),
        ("EXTENDCIRCUIT 0 a,b,c,d,e,f,g,h,i", "512 Bad arguments to EXTENDCIRCUIT: a circuit has at most 8 hops"),
        ("EXTENDCIRCUIT 5", "512 syntax error: path required."),
        (
            "EXTENDCIRCUIT 0 $B3180620C1F672D857AEB4446A19DF9161DC2CA3=exit1",
            "552 No such router \"$B3180620C1F672D857AEB4446A19DF9161DC2CA3=exit1\"",
        ),
        ("SETCIRCUITPURPOSE", "512 Bad arguments to SETCIRCUITPURPOSE: Need at least 1 argument(s)"),
        ("SETCIRCUITPURPOSE 1", "552 No purpose given"),
        ("SETCIRCUITPURPOSE 1 purpose=foo", "552 Unknown purpose \"foo\""),
        ("CLOSECIRCUIT", "512 Bad arguments to CLOSECIRCUIT: Need at least 1 argument(s)"),
        ("CLOSESTREAM 5", "512 Bad arguments to CLOSESTREAM: Need at least 2 argument(s)"),
        ("CLOSESTREAM 5 foo", "552 Unrecognized reason \"foo\""),
        ("ATTACHSTREAM 5", "512 Bad arguments to ATTACHSTREAM: Need at least 2 argument(s)"),
        ("ATTACHSTREAM 5 1 FOO=1", "512 Bad arguments to ATTACHSTREAM: Unrecognized keyword argument \"FOO\""),
        ("ATTACHSTREAM 5 1 HOP=x", "552 Bad value hop=x"),
        ("SIGNAL", "512 Bad arguments to SIGNAL: Need at least 1 argument(s)"),
        ("SIGNAL NEWNYM NEWNYM", "512 Bad arguments to SIGNAL: Cannot accept more than 1 argument(s)"),
        ("DEL_ONION abc", "512 Malformed Onion Service id"),
        ("DEL_ONION a b", "512 Bad arguments to DEL_ONION: Cannot accept more than 1 argument(s)"),
        ("ADD_ONION", "512 Bad arguments to ADD_ONION: Need at least 1 argument(s)"),
        ("ADD_ONION NEW:BEST", "512 Missing 'Port' argument"),
        ("ADD_ONION NEW:RSA1024 Port=80", "513 Invalid key type"),
        ("ADD_ONION ED25519-V3:xxx Port=80", "512 Failed to decode ED25519-V3 key"),
        ("ADD_ONION NEW:BEST Port=0", "512 Invalid VIRTPORT/TARGET"),
        ("ADD_ONION NEW:BEST Port=80,99999", "512 Invalid VIRTPORT/TARGET"),
        ("ADD_ONION NEW:BEST Port=80,192.168.0.1:80", "512 Invalid VIRTPORT/TARGET"),
        ("ADD_ONION NEW:BEST Port=80,example.org:80", "512 Invalid VIRTPORT/TARGET"),
        ("ADD_ONION NEW:BEST Port=80,unix:/run/tor/control", "512 Invalid VIRTPORT/TARGET"),
        ("ADD_ONION NEW:BEST Flags=Foo Port=80", "512 Invalid 'Flags' argument: \"Foo\""),
        ("ADD_ONION NEW:BEST Flags= Port=80", "512 Invalid 'Flags' argument"),
        ("ADD_ONION NEW:BEST Flags=NonAnonymous Port=80", "512 Tor is in anonymous hidden service mode"),
        ("ADD_ONION NEW:BEST MaxStreams=70000 Port=80", "512 Invalid MaxStreams"),
        ("ADD_ONION NEW:BEST Foo=1 Port=80", "512 Bad arguments to ADD_ONION: Unrecognized keyword argument \"Foo\""),
        ("HSFETCH abc", "513 Invalid argument \"abc\""),
        (&format!("HSFETCH {SERVICE}.onion"), &format!("513 Invalid argument \"{SERVICE}.onion\"")),
        (&format!("HSFETCH {SERVICE} FOO"), "512 Bad arguments to HSFETCH: Cannot parse keyword argument(s)"),
        (&format!("HSFETCH {SERVICE} SERVER=a-b"), "552 Server \"a-b\" not found"),
        ("SETCONF __LeaveStreamsUnattached=\"1", "512 Bad arguments to SETCONF: Cannot parse keyword argument(s)"),
        (
            "SETCONF __LeaveStreamsUnattached=5",
            "513 Unacceptable option value: Could not parse __LeaveStreamsUnattached: Unrecognized value 5. Allowed values are 0 and 1.",
        ),
        ("RESETCONF foo", "552 Unrecognized option: Unknown option 'foo'.  Failing."),
        ("USEFEATURE FOO", "552 Unrecognized feature \"FOO\""),
    ] {
        assert_eq!(refusal(line), reply, "{line}");
    }
    assert_eq!(refusal(&format!("GETINFO{}", " x".repeat(65))), "512 Bad arguments to GETINFO: Cannot accept more than 64 argument(s)");
}

#[test]
fn options_are_the_functions_own() {
    let mut options = Options::default();
    let get = |options: &Options, names: &[&str]| options.get(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).write();
    assert_eq!(
        get(&options, &["__leavestreamsunattached", "ORPort", "UseMicrodescriptors"]),
        "250-__LeaveStreamsUnattached=0\r\n250-ORPort\r\n250 UseMicrodescriptors=auto\r\n"
    );
    assert_eq!(get(&options, &[]), "250 OK\r\n");
    for secret in ["HashedControlPassword", "DataDirectory", "Bridge", "HiddenServiceDir", "DirAuthority", "ControlSocket", "Log"] {
        assert_eq!(get(&options, &["ORPort", secret]), format!("552 Unrecognized configuration key \"{secret}\"\r\n"));
    }
    let on = Setting { switch: Switch::LeaveStreamsUnattached, on: Some(true) };
    assert_eq!(options.set(&[on]), [on]);
    assert_eq!(options.set(&[on]), []);
    assert!(options.is_on(Switch::LeaveStreamsUnattached) && !options.is_on(Switch::DisablePredictedCircuits));
    assert_eq!(options.set(&[Setting { on: None, ..on }]), [Setting { on: Some(false), ..on }]);
}

#[test]
fn a_key_is_never_printed() {
    let Ok(command) = parse(&format!("ADD_ONION ED25519-V3:{KEY} Port=80")) else { panic!("it is one") };
    assert!(!format!("{command:?}").contains(&KEY[..10]));
}
