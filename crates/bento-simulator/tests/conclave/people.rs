//! What a person sees: a node's conclave is demanded or not, judged, used; and the host sees ciphertext where without it it sees everything.

use crate::{
    site, wire,
    world::{Node, Person, functions},
};

const SECRET: &str = "nobody's business but hers";

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_shown_line_by_line_and_a_simulator_never_passes_for_hardware() {
    let (node, person) = (Node::start(&[]), Person::new());
    let given = node.given().display().to_string();
    let simulated = ["--simulator-protects-nobody", &given];

    let shown = person.bento(&[&["verify", &node.address][..], &simulated].concat()).await;
    assert_eq!(shown.status, 0, "{shown:?}");
    for line in [
        "kind",
        "simulated-tdx",
        "runs",
        "simulated",
        "measured",
        "mrtd",
        "configuration",
        "state",
        "UpToDate",
        "verdict",
        "PROTECTS FROM NOBODY",
    ] {
        assert!(shown.out.contains(line), "{line}: {}", shown.out);
    }
    assert!(shown.err.contains("They protect from nobody"), "{}", shown.err);
    // Without the flag there is nothing that accepts it, and with a publisher's list it is none of the kinds that are asked for.
    person.bento(&["verify", &node.address]).await.refused(2, "nothing says which conclaves are accepted");

    // What the node says of itself, and what is believed of it.
    person.done(&["nodes", "add", "anna", &node.address]).await;
    let listed = person.done(&[&["nodes", "--conclaves"][..], &simulated].concat()).await;
    let row = listed.lines().find(|line| line.starts_with("anna")).unwrap();
    assert!(row.contains("simulated-tdx") && row.contains("UpToDate") && row.contains("NOBODY"), "{row}");

    // Another simulator's root accepts nothing here.
    let other = Node::start(&[]);
    let others = other.given().display().to_string();
    person.bento(&["verify", &node.address, "--simulator-protects-nobody", &others]).await.refused(4, "not accepted");
    // And a node without a conclave has none.
    let words = ["verify", "anna", "--simulator-protects-nobody", &given];
    drop(node);
    assert_ne!(person.bento(&words).await.status, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_in_a_conclave_is_the_hosts_to_carry_and_not_to_see() {
    let (node, person) = (Node::start(&[]), Person::new());
    let given = node.given().display().to_string();
    let inside = ["--require-conclave", "--simulator-protects-nobody", &given];
    let echo = functions().join("echo").display().to_string();
    std::fs::write(person.home.path().join("letter"), SECRET.repeat(5000)).unwrap();

    let run = [&["run", &node.address, &echo, "echo", "--input", "letter"][..], &inside].concat();
    assert_eq!(person.done(&run).await, SECRET.repeat(5000));
    assert!(node.host.seen_bytes() > 2 * 5000 * SECRET.len(), "the host carried it");
    for secret in [SECRET, "api.output", "bento-arguments"] {
        assert!(!node.host.saw(secret.as_bytes()), "the host saw {secret}");
    }

    // An installed one is known as one of a conclave from then on: nothing of it is said to the node itself.
    person.done(&[&["install", &node.address, &echo][..], &inside].concat()).await;
    person.bento(&["invoke", "echo", "echo", "--input", "letter"]).await.refused(2, "nothing says which conclaves are accepted");
    let invoke = ["invoke", "echo", "echo", "--input", "letter", "--simulator-protects-nobody", &given];
    assert_eq!(person.done(&invoke).await, SECRET.repeat(5000));
    assert!(person.done(&["status", "echo", "--simulator-protects-nobody", &given]).await.contains("/conclave"));
    assert!(!node.host.saw(SECRET.as_bytes()));

    // One that was installed outside is not used where a conclave is required.
    person.done(&["install", &node.address, &echo, "--name", "plain"]).await;
    let plain = [&["invoke", "plain", "echo", "--input", "letter"][..], &inside].concat();
    person.bento(&plain).await.refused(4, "without a conclave");
    // The conclave does not know it, nor the node the other one: they have nothing in common.
    person.done(&["invoke", "plain", "echo", "--input", "letter"]).await;
    person.done(&["shutdown", "echo", "--simulator-protects-nobody", &given]).await;
    assert!(!node.logs().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_fetched_by_tls_that_ends_in_the_conclave() {
    let (node, person) = (Node::start(&[]), Person::new());
    let given = node.given().display().to_string();
    let site = site::shared();
    let url = format!("https://127.0.0.1:{}/{}", site.port, site::PATH);
    let wanted = ["browse", &url, "--connect", "accept 127.0.0.1:*", "--bucket", "100000"];

    let inside =
        [&wanted[..], &["--node", &node.address, "-o", "inside.html", "--require-conclave", "--simulator-protects-nobody", &given]]
            .concat();
    let told = person.bento(&inside).await;
    assert_eq!(told.status, 0, "{told:?}\n{}", node.logs());
    let page = std::fs::read_to_string(person.home.path().join("inside.html")).unwrap();
    assert!(page.contains(site::TEXT), "{page}");
    assert!(node.host.seen_bytes() > 100_000);
    for secret in [site::PATH, site::TEXT] {
        assert!(!node.host.saw(secret.as_bytes()), "the host saw {secret}");
    }

    // Without the conclave, the same host has it all: what comes to its node and goes from there is clear.
    let wire = wire::before(&node.address).await;
    let outside = [&wanted[..], &["--node", &wire.address, "-o", "outside.html"]].concat();
    let told = person.bento(&outside).await;
    assert_eq!(told.status, 0, "{told:?}");
    for secret in [site::PATH, site::TEXT] {
        assert!(wire.saw(secret.as_bytes()), "the host did not see {secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_is_left_in_a_conclave_and_its_link_leads_there_and_nowhere_else() {
    let (node, person, friend) = (Node::start(&[]), Person::new(), Person::new());
    let given = node.given().display().to_string();
    std::fs::write(person.home.path().join("letter"), SECRET.repeat(1000)).unwrap();
    // Not encrypted by the client, so that it is the conclave that keeps it from the host.
    let put = [
        "dropbox",
        "put",
        "letter",
        "--plain",
        "--json",
        "--node",
        &node.address,
        "--require-conclave",
        "--simulator-protects-nobody",
        &given,
    ];
    let told: serde_json::Value = serde_json::from_str(&person.done(&put).await).unwrap();
    let link = told["link"].as_str().unwrap().to_owned();
    assert!(link.contains("c=1") && !link.contains("conclave"), "{link}");
    friend.bento(&["dropbox", "get", &link]).await.refused(2, "nothing says which conclaves are accepted");
    friend.done(&["dropbox", "get", &link, "-o", "letter", "--simulator-protects-nobody", &given]).await;
    assert_eq!(std::fs::read_to_string(friend.home.path().join("letter")).unwrap(), SECRET.repeat(1000));
    assert!(!node.host.saw(SECRET.as_bytes()));
    // The node itself knows nothing of it.
    let plain = link.replace("c=1", "");
    assert_eq!(friend.bento(&["dropbox", "get", plain.trim_end_matches(['#', '&']), "-o", "other"]).await.status, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conclave_leaves_a_page_in_another_nodes_conclave_and_in_no_other_place() {
    let keeper = Node::start(&[]);
    let fetcher = Node::knowing(&[&keeper.address], &[]);
    let person = Person::new();
    let (given, others) = (fetcher.given().display().to_string(), keeper.given().display().to_string());
    let site = site::shared();
    let url = format!("https://127.0.0.1:{}/{}", site.port, site::PATH);
    let inside = ["--require-conclave", "--simulator-protects-nobody", &given, "--simulator-protects-nobody", &others];
    let wanted = ["browse", &url, "--offline", "--node", &fetcher.address, "--dropbox", &keeper.address, "--connect", "accept 127.0.0.1:*"];
    person.done(&[&wanted[..], &inside].concat()).await;
    let collect = [&["collect", "-o", "page.html"][..], &inside].concat();
    let end = std::time::Instant::now() + crate::world::PATIENCE;
    loop {
        let said = person.bento(&collect).await;
        if said.status == 0 {
            break;
        }
        assert!(
            said.err.contains("still on its way") && std::time::Instant::now() < end,
            "{said:?}\n{}\n{}",
            fetcher.logs(),
            keeper.logs()
        );
    }
    assert!(std::fs::read_to_string(person.home.path().join("page.html")).unwrap().contains(site::TEXT));
    for (who, node) in [("the fetcher's", &fetcher), ("the keeper's", &keeper)] {
        assert!(node.host.seen_bytes() > 1_000_000, "{who} host carried it");
        for secret in [site::PATH, site::TEXT, "bento-arguments"] {
            assert!(!node.host.saw(secret.as_bytes()), "{who} host saw {secret}");
        }
    }

    // Where the other conclave is not one that the client accepts, nothing is left there, and nothing was fetched.
    let only = ["--require-conclave", "--simulator-protects-nobody", &given];
    let before = site.asked();
    let said = person.bento(&[&wanted[..], &only].concat()).await;
    assert_eq!(said.status, 0, "{said:?}");
    let collect = [&["collect", "-o", "never.html"][..], &inside].concat();
    let said = loop {
        let said = person.bento(&collect).await;
        assert_ne!(said.status, 0, "{said:?}");
        if !said.err.contains("still on its way") {
            break said;
        }
        assert!(std::time::Instant::now() < end + crate::world::PATIENCE, "{said:?}");
    };
    assert!(said.err.contains("not accepted"), "{said:?}");
    assert_eq!(site.asked(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_tool_has_a_quote_of_the_conclave_to_which_no_channel_is_bound() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let node = Node::start(&[]);
    let asked = async |first: u8| {
        let mut stream = tokio::net::UnixStream::connect(node.path("inside/sessions.sock")).await.unwrap();
        stream.write_all(&[first]).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(crate::world::PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        answer
    };
    let quote = asked(255).await;
    assert_eq!(bento_attest::report_data(bento_attest::Format::Tdx, &quote), Some([0; 64]));
    // What is neither that nor the length of a name is no question.
    assert!(asked(254).await.is_empty());

    // With it the tool knows whom to ask, and for what; a service that is not there is said to be that.
    let out = node.path("collateral");
    let mut command = std::process::Command::new(crate::world::program("bento-collateral"));
    command.arg("--conclave").arg(node.path("inside")).args(["--intel", "http://127.0.0.1:1", "--certificates"]);
    command.arg(&site::shared().certificate).arg(&out);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("127.0.0.1:1 cannot be reached"), "{said}");
    assert!(!out.exists());
}
