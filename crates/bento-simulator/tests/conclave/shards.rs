//! Files in shards that lie in conclaves: who makes them is in one as well, and no host learns what its neighbours have.

use crate::world::{Node, Person};

const TEXT: &str = "a letter that is nobody's business";

/// Some nodes that keep shards, one that makes them, and a person who knows all of them.
struct Stage {
    keepers: Vec<Node>,
    maker: Node,
    person: Person,
    accepted: Vec<String>,
}

impl Stage {
    async fn new(keepers: usize) -> Self {
        let keepers: Vec<Node> = (0..keepers).map(|_| Node::start(&[])).collect();
        let addresses: Vec<&str> = keepers.iter().map(|keeper| keeper.address.as_str()).collect();
        let (maker, person) = (Node::knowing(&addresses, &[]), Person::new());
        let all = || keepers.iter().chain([&maker]);
        let accepted = all().flat_map(|node| ["--simulator-protects-nobody".into(), node.given().display().to_string()]).collect();
        for (number, node) in keepers.iter().enumerate() {
            person.done(&["nodes", "add", &format!("k{number}"), &node.address]).await;
        }
        person.done(&["nodes", "add", "maker", &maker.address]).await;
        std::fs::write(person.home.path().join("letter"), TEXT.repeat(3000)).unwrap();
        Self { keepers, maker, person, accepted }
    }

    /// The words, with what is accepted.
    async fn bento(&self, words: &[&str]) -> crate::world::Said {
        let accepted: Vec<&str> = self.accepted.iter().map(String::as_str).collect();
        self.person.bento(&[words, &accepted].concat()).await
    }

    async fn done(&self, words: &[&str]) -> serde_json::Value {
        let said = self.bento(&[words, &["--json"]].concat()).await;
        let logs: String = self.keepers.iter().chain([&self.maker]).map(Node::logs).collect();
        assert_eq!(said.status, 0, "{words:?}: {said:?}\n{logs}");
        serde_json::from_str(&said.out).unwrap()
    }

    /// The file comes back.
    async fn comes_back(&self) {
        self.done(&["shard", "get", "letter", "--node", "maker", "-o", "back", "--force"]).await;
        assert_eq!(std::fs::read_to_string(self.person.home.path().join("back")).unwrap(), TEXT.repeat(3000));
    }

    /// What makes shards, what keeps them, the rights to them and what is accepted: nothing of it is any host's to read.
    fn hosts_learn_nothing(&self) {
        for (number, node) in self.keepers.iter().chain([&self.maker]).enumerate() {
            assert!(node.host.seen_bytes() > 10_000, "host {number} carried nothing");
            for secret in [TEXT, "erasure", "bento-invoke-", "bento-shutdown-", "bento-arguments", "simulators"] {
                assert!(!node.host.saw(secret.as_bytes()), "host {number} saw {secret}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_put_fetched_repaired_renewed_and_ended_in_conclaves_alone() {
    let mut stage = Stage::new(4).await;
    let put = ["shard", "put", "letter", "--need", "2", "--of", "3", "--node", "maker"];
    let told = stage.done(&[&put[..], &["--require-conclave"]].concat()).await;
    let nodes: Vec<&str> = told["nodes"].as_array().unwrap().iter().filter_map(|node| node.as_str()).collect();
    assert!(nodes.len() == 3 && nodes.iter().all(|node| node.starts_with('k')), "{told}");
    let kept = std::fs::read_to_string(stage.person.home.path().join(".local/share/bento/shards/letter.json")).unwrap();
    assert_eq!(kept.matches("/conclave\"").count(), 3, "each is kept as one of a conclave");
    stage.hosts_learn_nothing();

    // From here on it need not be said: what is in conclaves stays in them, and who accepts none gets nothing.
    stage.comes_back().await;
    stage
        .person
        .bento(&["shard", "get", "letter", "--node", "maker", "-o", "no"])
        .await
        .refused(2, "nothing says which conclaves are accepted");
    let checked = stage.done(&["shard", "check", "letter", "--thorough", "--node", "maker"]).await;
    assert_eq!((&checked["good"], &checked["of"]), (&3.into(), &3.into()), "{checked}");
    assert_eq!(stage.done(&["shard", "renew", "letter"]).await["renewed"], 3);

    // A conclave that is gone: its shard is made up in the conclave that is left.
    let gone: usize = nodes[0][1..].parse().unwrap();
    let spare = (0..4).find(|number| !nodes.contains(&format!("k{number}").as_str())).unwrap();
    stage.keepers[gone].stop_conclave();
    let repaired = stage.done(&["shard", "repair", "letter", "--node", "maker"]).await;
    assert_eq!(repaired["made"][0]["node"], format!("k{spare}"), "{repaired}");
    stage.comes_back().await;
    stage.hosts_learn_nothing();
    assert_eq!(stage.done(&["shard", "rm", "letter"]).await["ended"], 3);
    let told: String = stage.keepers.iter().map(Node::logs).collect();
    assert!(!told.contains(TEXT) && !told.contains("bento-invoke-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_go_to_no_conclave_that_is_not_accepted_and_none_outside_passes_for_one_inside() {
    let mut stage = Stage::new(2).await;
    let put = ["shard", "put", "letter", "--need", "1", "--of", "2", "--node", "maker"];
    let inside = [&put[..], &["--require-conclave"]].concat();
    // One keeper runs something else by now: the client notices before anything of the file leaves.
    let code = stage.person.home.path().join("letter").display().to_string();
    let list = std::fs::read(stage.keepers[0].given().join("measurements")).unwrap();
    stage.keepers[0].start_conclave(&["--measured", &code]);
    std::fs::write(stage.keepers[0].given().join("measurements"), list).unwrap();
    let three = ["shard", "put", "letter", "--need", "1", "--of", "3", "--node", "maker", "--require-conclave"];
    let told = stage.bento(&three).await;
    told.refused(3, "2 of 3 nodes can take a shard, and 3 are needed");
    assert!(!stage.person.home.path().join(".local/share/bento/shards/letter.json").exists());
    stage.keepers[0].start_conclave(&[]);

    // The maker notices as the client does where a host brings it to another node's conclave, which knows none of its tokens.
    stage.done(&inside).await;
    stage.comes_back().await;
    let (elsewhere, other) = (stage.keepers[1].path("inside"), stage.keepers[1].address.clone());
    stage.keepers[0].host.diverts(&elsewhere, Some(other.as_bytes()));
    let checked = stage.done(&["shard", "check", "letter", "--node", "maker"]).await;
    assert_eq!(checked["good"], 1, "{checked}");
    let why: Vec<&str> = checked["shards"].as_array().unwrap().iter().filter_map(|shard| shard["why"].as_str()).collect();
    assert!(why.len() == 1 && why[0].contains("another node's conclave"), "{checked}");
    // Another conclave is no answer: nothing is taken for ended that was not.
    let left = stage.bento(&["shard", "rm", "letter"]).await;
    assert!(left.status != 0 && left.err.contains("1 of them could not be ended"), "{left:?}");
    let own = stage.keepers[0].path("inside");
    stage.keepers[0].host.diverts(&own, None);
    stage.done(&["shard", "rm", "letter"]).await;

    // Outside conclaves the same nodes take shards as well; those are none where one is required.
    stage.person.done(&put).await;
    for command in [&["get", "letter", "-o", "no"][..], &["check", "letter"], &["repair", "letter"]] {
        let said = stage.bento(&[&["shard"], command, &["--node", "maker", "--require-conclave"]].concat()).await;
        said.refused(4, "lies outside a conclave, and one is required");
    }
    stage.person.done(&["shard", "get", "letter", "-o", "plain", "--node", "maker"]).await;
    assert_eq!(std::fs::read_to_string(stage.person.home.path().join("plain")).unwrap(), TEXT.repeat(3000));
    stage.person.done(&["shard", "rm", "letter"]).await;
    stage.hosts_learn_nothing();
}
