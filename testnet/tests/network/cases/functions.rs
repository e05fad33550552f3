//! Functions installed, invoked, refused, killed, and what they reach.

use std::net::Ipv4Addr;

use testnet::bento::{SITE_NAME, SITE_RULE};

use crate::{
    bento::{Person, shipped},
    world::{Case, Outcome, World, case},
};

pub(crate) const CASES: &[Case] = &[
    case!("a_function_is_installed_invoked_and_ended_over_tor", installed),
    case!("what_is_not_offered_is_refused_with_its_line_and_its_neighbour_runs", refused),
    case!("input_and_output_stream_and_errors_are_the_functions_own", streamed),
    case!("a_bound_that_is_reached_is_seen_by_the_client", killed),
    case!("names_are_resolved_where_the_connection_leaves_and_answers_are_checked", rebinding),
    case!("the_page_of_a_node_is_there_for_a_browser", page),
];

async fn installed(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "installed"));
    person.bento(&["nodes", "add", "direct", &bento.direct.address]).await.good();
    person.bento(&["install", "direct", &shipped("hello"), "--name", "greeter"]).await.good();
    assert_eq!(person.bento(&["invoke", "greeter", "hello", "name=Ada"]).await.good().text(), "Hello, Ada!\n");
    assert_eq!(person.bento(&["invoke", "greeter", "goodbye"]).await.status, Some(2));
    let status = person.bento(&["status", "greeter", "--json"]).await.good().json();
    assert!(status.to_string().contains("hello"), "{status}");
    // Another person has no token for it.
    let other = Person::new(world, "other");
    assert_ne!(other.bento(&["invoke", "greeter", "hello"]).await.status, Some(0));
    person.bento(&["shutdown", "greeter"]).await.good();
    assert_ne!(person.bento(&["invoke", "greeter", "hello"]).await.status, Some(0));
    Ok(())
}

async fn refused(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "refused"));
    let code = "def hello(api):\n    api.output.write(b'here')\n";
    for (key, needs, within) in [
        ("memory", "memory = '2 GiB'", "memory = '1 GiB'"),
        ("egress", "egress = 'tor'\nconnect = ['accept *:80']", "egress = 'direct'\nconnect = ['accept *:80']"),
        ("connect", "connect = ['accept 127.0.0.1:80']", "connect = ['accept 127.80.0.1:80']"),
    ] {
        let beyond = person.bento(&["run", &bento.direct.address, &person.function("beyond", needs, code), "hello"]).await;
        assert_eq!(beyond.status, Some(3), "{}", beyond.stderr);
        assert!(beyond.stderr.contains(key) && beyond.stderr.contains("Hint: "), "{}", beyond.stderr);
        let within = person.bento(&["run", &bento.direct.address, &person.function("within", within, code), "hello"]).await.good();
        assert_eq!(within.text(), "here");
    }
    Ok(())
}

async fn streamed(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "streamed"));
    let input: Vec<u8> = (0..1_500_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(person.home.join("input"), &input)?;
    let echo = person.bento(&["run", &bento.tor.address, &shipped("echo"), "echo", "--input", "input", "--output", "output"]).await;
    echo.good();
    assert!(std::fs::read(person.home.join("output"))? == input);
    let failing = person.function("failing", "", "def fail(api):\n    api.output.write(b'some')\n    raise ValueError('of its own')\n");
    let failed = person.bento(&["run", &bento.tor.address, &failing, "fail"]).await;
    assert_eq!(failed.status, Some(1));
    assert!(failed.stderr.contains("ValueError: of its own") && failed.stderr.contains("function.py"), "{}", failed.stderr);
    Ok(())
}

async fn killed(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "killed"));
    let code = "def spin(api):\n    while True: pass\n\ndef take(api):\n    bytearray(1 << 28)\n\ndef rest(api):\n    api.output.write(b'rested')\n";
    let function = person.function("bounded", "cpu = '1 s'\nmemory = '64 MiB'", code);
    for (method, bound) in [("spin", "killed: cpu"), ("take", "killed: memory")] {
        let killed = person.bento(&["run", &bento.direct.address, &function, method]).await;
        assert_eq!(killed.status, Some(1), "{}", killed.stderr);
        assert!(killed.stderr.contains(bound), "{}", killed.stderr);
    }
    assert_eq!(person.bento(&["run", &bento.direct.address, &function, "rest"]).await.good().text(), "rested");
    Ok(())
}

async fn rebinding(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "rebinding"));
    let names = world.network.names();
    // One that leads to the machine itself, and one that does so at every other answer.
    names.set("inside.example", &[Ipv4Addr::LOCALHOST]);
    names.set_in_turn("turns.example", &[Ipv4Addr::new(127, 80, 0, 1), Ipv4Addr::LOCALHOST]);
    let inside = crate::world::Web::start("127.0.0.1:0", "a secret of the machine").await?;
    let code = r"
def get(api, host, port, times=1):
    for _ in range(times):
        try:
            with api.connect(host, port) as connection:
                connection.sendall(b'GET / HTTP/1.0\r\nHost: x\r\n\r\n')
                answer = b''
                while chunk := connection.recv(65536):
                    answer += chunk
            api.output.write(b'reached ' + answer[:15] + b' ' + answer[-30:] + b'\n')
        except OSError as error:
            api.output.write(f'{type(error).__name__} {error}\n'.encode())
";
    let site_port = bento.site.http.rsplit(':').next().and_then(|port| port.trim_end_matches('/').parse().ok()).unwrap_or(80);
    let needs = format!("calls = ['net.connect']\nconnect = ['{SITE_RULE}', 'accept *:80']");
    let function = person.function("getter", &needs, code);
    for node in [&bento.direct.address, &bento.tor.address] {
        let get = async |host: &str, port: u16, times: u32| {
            let (host, port, times) = (format!("host={host}"), format!("port={port}"), format!("times={times}"));
            person.bento(&["run", node, &function, "get", &host, &port, &times]).await.good().text()
        };
        let before = names.asked(SITE_NAME);
        assert!(get(SITE_NAME, site_port, 1).await.starts_with("reached"), "{node}");
        assert!(names.asked(SITE_NAME) > before, "the name was not resolved where the connection leaves");
        assert!(get("inside.example", inside.address.port(), 1).await.starts_with("Refused"));
        assert!(get("127.0.0.1", inside.address.port(), 1).await.starts_with("Refused"));
        let turns = get("turns.example", inside.address.port(), 6).await;
        assert!(!turns.contains("secret"), "{turns}");
        assert!(get("nowhere.example", 80, 1).await.starts_with("NameNotFound"));
    }
    Ok(())
}

async fn page(world: &World) -> Outcome {
    let bento = world.bento().await?;
    for (node, name) in [(&bento.direct, "Direct"), (&bento.tor, "Through Tor")] {
        let page = crate::world::fetch(&world.socks(), &node.address, 80, "page").await?;
        assert!(page.contains(name) && page.contains("Bento node") && !page.contains("<script"), "{page}");
    }
    Ok(())
}
