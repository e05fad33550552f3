//! With a real `tor` that stays off the network: the control port, cookies, onion service keys, starting and ending.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use bento_tor::{
    Auth, Backend, BackendError, Backends, ControlAddr, ControlError, Controller, Event, Isolation, Managed, ManagedError, OnionService,
    Setup, SocksError, Target, find_tor,
};

fn setup(data: &Path, lines: &[&str]) -> Setup {
    let tor = find_tor().expect("this test needs `tor`: apt install tor");
    let lines = ["DisableNetwork 1"].iter().chain(lines).map(|line| (*line).to_owned()).collect();
    Setup { tor, data: data.to_owned(), lines, deadline: Duration::from_secs(30) }
}

#[tokio::test]
async fn the_same_key_gives_the_same_address_and_stop_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let port_file = directory.path().join("port");
    let lines = ["ControlPort 127.0.0.1:auto", "CookieAuthentication 1", &format!("ControlPortWriteToFile {}", port_file.display())];
    let tor = Managed::launch(&setup(&directory.path().join("data"), &lines)).await.unwrap();

    let target = Target::Tcp(([127, 0, 0, 1], 8080).into());
    let first = tor.control().add_onion(&OnionService::new(80, target.clone())).await.unwrap();
    assert!(first.address.ends_with(".onion") && first.key.is_some());

    // A second controller, as one of a Tor that is not ours: by its address and cookie.
    let listeners = tor.control().get_info("net/listeners/control").await.unwrap();
    let address = ControlAddr::Tcp(listeners.trim_matches('"').parse().unwrap());
    let second = Controller::connect(&address, &Auth::Automatic).await.unwrap();
    assert_eq!(second.get_info("version").await.unwrap(), tor.control().get_info("version").await.unwrap());
    let service = OnionService { key: first.key.clone(), ..OnionService::new(80, target) };
    assert!(matches!(second.add_onion(&service).await, Err(ControlError::Refused { code: 550, .. })));
    tor.control().del_onion(&first.address).await.unwrap();
    let again = second.add_onion(&service).await.unwrap();
    assert_eq!(again, first);

    // Its neighbours: the right way with a wrong cookie, and no cookie at all.
    let wrong = directory.path().join("wrong");
    std::fs::write(&wrong, [7; 32]).unwrap();
    assert!(matches!(Controller::connect(&address, &Auth::CookieFile(wrong.clone())).await, Err(ControlError::Impostor)));
    std::fs::write(&wrong, b"/etc/shadow has more").unwrap();
    assert!(matches!(Controller::connect(&address, &Auth::CookieFile(wrong)).await, Err(ControlError::Cookie { .. })));
    assert!(matches!(Controller::connect(&address, &Auth::None).await, Err(ControlError::Refused { .. })));

    second.set_conf(&[("ContactInfo", Some("a \"b\" \\ c"))]).await.unwrap();
    assert_eq!(second.get_conf("ContactInfo").await.unwrap(), ["a \"b\" \\ c"]);
    assert!(!second.get_info("config-text").await.unwrap().is_empty());

    let process = format!("/proc/{}", tor.pid());
    assert!(Path::new(&process).exists());
    tor.stop().await;
    assert!(!Path::new(&process).exists());
    second.closed().await;
}

#[tokio::test]
async fn tor_ends_when_its_owner_goes_and_when_it_is_killed_that_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let tor = Managed::launch(&setup(directory.path(), &[])).await.unwrap();
    let (exited, process) = (tor.exited(), format!("/proc/{}", tor.pid()));
    drop(tor);
    exited.await;
    assert!(!Path::new(&process).exists());

    let tor = Managed::launch(&setup(directory.path(), &[])).await.unwrap();
    let mut events = tor.control().events(&["CIRC"]).await.unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(tor.pid() as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(tor.exited().await.signal(), Some(9));
    assert!(matches!(events.next().await, Err(ControlError::Closed)));
    assert!(matches!(tor.control().get_info("version").await, Err(ControlError::Closed)));
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let missing = Setup { tor: "/nowhere/tor".into(), ..setup(directory.path(), &[]) };
    assert!(matches!(Managed::launch(&missing).await, Err(ManagedError::NoTor)));

    let error = Managed::launch(&setup(directory.path(), &["NoSuchOption 1"])).await.unwrap_err();
    assert!(matches!(&error, ManagedError::Exited { .. }), "{error:?}");
    assert!(error.to_string().contains("NoSuchOption"), "{error}");

    let hasty = Setup { deadline: Duration::from_secs(2), ..setup(directory.path(), &[]) };
    let mut heard = Vec::new();
    let error = Managed::start(&hasty, |percent, phase| heard.push((percent, phase.to_owned()))).await.unwrap_err();
    assert!(matches!(&error, ManagedError::NoBootstrap { reached, .. } if reached.percent == 0), "{error:?}");
    assert_eq!(heard.first(), Some(&(0, "Starting".to_owned())));

    // Its SOCKS port is closed while it is off the network.
    let tor = Managed::launch(&setup(directory.path(), &[])).await.unwrap();
    let isolation = Isolation::new("test");
    let error = tor.socks().connect("site.example", 80, &isolation, Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(error, SocksError::NoTor { .. }), "{error:?}");
}

#[tokio::test]
async fn a_relay_tells_its_exit_policy_and_a_client_has_none() {
    let directory = tempfile::tempdir().unwrap();
    // A relay off the network makes no descriptor, and without one it does not know its policy. Its only authority is a closed port here.
    let lines = [
        "TestingTorNetwork 1",
        "DirAuthority nobody orport=1 v3ident=14C131DFC5C6F93646BE72FA1401C02A8DF2E8B4 127.0.0.1:1 F2044413DAC2E02E3D6BCF4735A19BCA1DE97281",
        "ORPort 127.0.0.1:auto",
        "Address 127.0.0.1",
        "AssumeReachable 1",
        "PublishServerDescriptor 0",
        "ExitRelay 1",
        "IPv6Exit 1",
        "ExitPolicy accept *:80,accept6 [2001:db8::]/32:99,reject *:*",
    ];
    let lines = lines.iter().map(|line| (*line).to_owned()).collect();
    let relay = Managed::launch(&Setup { lines, ..setup(&directory.path().join("relay"), &[]) }).await.unwrap();
    let rules = loop {
        match relay.control().exit_policy().await {
            Ok(rules) => break rules,
            Err(ControlError::Refused { code: 551, .. }) => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(rules, ["accept *:80", "accept6 *:80", "accept6 [2001:db8::]/32:99", "reject *:*", "reject6 *:*"]);

    let client = Managed::launch(&setup(&directory.path().join("client"), &[])).await.unwrap();
    assert!(matches!(client.control().exit_policy().await, Err(ControlError::Refused { code: 552, .. })));
}

#[tokio::test]
async fn events_of_a_busy_tor_are_heard_all_in_their_order() {
    const CHANGES: usize = 5_000;
    let directory = tempfile::tempdir().unwrap();
    let port_file = directory.path().join("port");
    let lines = ["ControlPort 127.0.0.1:auto", "CookieAuthentication 1", &format!("ControlPortWriteToFile {}", port_file.display())];
    let tor = Managed::launch(&setup(&directory.path().join("data"), &lines)).await.unwrap();
    let listeners = tor.control().get_info("net/listeners/control").await.unwrap();
    let address = ControlAddr::Tcp(listeners.trim_matches('"').parse().unwrap());
    let busy = Controller::connect(&address, &Auth::Automatic).await.unwrap();

    let (heard, mut changes) = tokio::sync::mpsc::unbounded_channel();
    let observer = move |event: &Event| {
        let _ = heard.send(event.lines.iter().map(|line| line.text.clone()).collect::<String>());
        Vec::new()
    };
    tor.control().observe(&["CONF_CHANGED"], observer).await.unwrap();
    let busily = async {
        for number in 0..CHANGES {
            busy.set_conf(&[("ContactInfo", Some(&number.to_string()))]).await.unwrap();
        }
    };
    // Commands of the observer's own connection run between its events.
    let asking = async {
        for _ in 0..CHANGES / 50 {
            assert!(!tor.control().get_info("config-text").await.unwrap().is_empty());
        }
    };
    tokio::join!(busily, asking);
    for number in 0..CHANGES {
        let change = tokio::time::timeout(Duration::from_secs(30), changes.recv()).await.unwrap().unwrap();
        assert_eq!(change, format!("ContactInfo={number}"));
    }
    assert!(changes.try_recv().is_err(), "nothing is heard twice");
    tor.stop().await;
}

#[tokio::test]
async fn backends_come_and_go_beside_other_services_and_keep_their_keys() {
    let directory = tempfile::tempdir().unwrap();
    let theirs = directory.path().join("theirs");
    let lines = [&*format!("HiddenServiceDir {}", theirs.display()), "HiddenServicePort 80 127.0.0.1:8080"];
    let tor = Managed::launch(&setup(&directory.path().join("data"), &lines)).await.unwrap();
    let target = Target::Tcp(([127, 0, 0, 1], 8080).into());
    let ephemeral = tor.control().add_onion(&OnionService::new(80, target.clone())).await.unwrap();
    let front = ephemeral.address.clone();

    let base = directory.path().join("a \"strange\" place");
    let backends = Backends::new(tor.control(), base.clone()).await.unwrap();
    let backend = |key: Option<&String>| Backend {
        front: front.clone(),
        key: key.cloned(),
        ports: vec![(80, target.clone()), (443, Target::Unix(base.join("socket")))],
        max_streams: Some(20),
    };
    let first = backends.add(&backend(None)).await;
    let first = first.unwrap_or_else(|error| panic!("{error:?}: {:?}", tor.log()));
    let second = backends.add(&backend(None)).await.unwrap();
    assert_ne!(first.address, second.address);
    let told = tor.control().command("GETCONF HiddenServiceOptions").await.unwrap();
    let count = |what: &str| told.lines.iter().filter(|line| line.text.contains(what)).count();
    assert_eq!((count("HiddenServiceDir="), count("HiddenServiceOnionBalanceInstance=1")), (3, 2), "{told:?}");
    assert!(tor.control().get_info("onions/current").await.unwrap().contains(front.trim_end_matches(".onion")));

    // The same key is the same address; but not twice at a time.
    assert!(matches!(backends.add(&backend(first.key.as_ref())).await, Err(BackendError::Exists | BackendError::Control(_))));
    assert!(backends.remove(&first.address).await.unwrap());
    assert!(!backends.remove(&first.address).await.unwrap());
    assert_eq!(backends.add(&backend(first.key.as_ref())).await.unwrap(), first);

    assert!(matches!(backends.add(&backend(Some(&"ED25519-V3:abc".to_owned()))).await, Err(BackendError::Key)));
    let wrong = Backend { front: "example.com".into(), ..backend(None) };
    assert!(matches!(backends.add(&wrong).await, Err(BackendError::Control(ControlError::Argument(_)))));
    for onion in [&first, &second] {
        assert!(backends.remove(&onion.address).await.unwrap());
    }
    assert_eq!(std::fs::read_dir(&base).unwrap().count(), 0, "no key is left");
    assert_eq!(tor.control().get_conf("HiddenServiceDir").await.unwrap().len(), 1, "theirs is still there");
    tor.stop().await;
}
