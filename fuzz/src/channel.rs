//! Both ends of a channel with a host between them, whose deeds are the bytes: who reads has a beginning of what was sent, and its end
//! only where it has all. Also each end alone with somebody who sends these bytes.

use std::sync::OnceLock;
use std::time::Duration;

use bento_attest::channel::{Conclave, ConclaveKey, Expected, accept, connect};
use bento_attest::{Format, Kind, Measurements, Policy, Roots, Simulated};
use bento_simulator::{Pretence, Simulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Runtime;
use tokio::time::timeout;

const NOW: u64 = 1_795_824_000;
const SOON: Duration = Duration::from_secs(20);

struct World {
    simulator: Simulator,
    key: ConclaveKey,
    roots: Roots<Simulated>,
    policy: Policy,
    runtime: Runtime,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let simulator = Simulator::new(Format::Tdx, Pretence::good(NOW)).expect("a simulator");
        let roots = Roots::development(&[simulator.root()]).expect("a root");
        let policy = Policy::new(Measurements::for_simulator(&simulator.measurements()).expect("a list"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        World { simulator, key: ConclaveKey::generate().expect("a key"), roots, policy, runtime }
    })
}

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    let world = world();
    world.runtime.block_on(async {
        let done = timeout(SOON, async {
            match mode % 3 {
                0 => client_alone(world, rest).await,
                1 => conclave_alone(world, rest).await,
                _ => between(world, usize::from(mode / 3), rest).await,
            }
        });
        done.await.expect("it ends");
    });
}

fn expected(world: &World) -> Expected<'_, Simulated> {
    Expected { roots: &world.roots, policy: &world.policy, node: b"node", config_hash: None, now: NOW }
}

fn conclave(world: &World) -> Conclave<'_> {
    Conclave { kind: Kind::Simulated(Format::Tdx), key: &world.key, config_hash: [0; 32], node: b"node" }
}

/// Nobody can make evidence from bytes.
async fn client_alone(world: &World, bytes: &[u8]) {
    let (client, mut other) = duplex(1 << 20);
    other.write_all(bytes).await.expect("room");
    other.shutdown().await.expect("ended");
    assert!(connect(client, &expected(world)).await.is_err());
}

/// Whoever comes may say Hello; without the handshake nothing follows.
async fn conclave_alone(world: &World, bytes: &[u8]) {
    let (inside, mut other) = duplex(1 << 20);
    other.write_all(bytes).await.expect("room");
    other.shutdown().await.expect("ended");
    let attest = async |asked| Ok((world.simulator.sign(&asked).expect("a quote"), world.simulator.collateral()));
    let Ok(mut channel) = accept(inside, &conclave(world), attest).await else { return };
    // A handshake needs no secret of the client's, but its messages are over a key of the conclave that is not in the bytes.
    let mut got = Vec::new();
    let _ = channel.read_to_end(&mut got).await;
    panic!("a handshake was guessed");
}

async fn between(world: &World, size: usize, deeds: &[u8]) {
    let (client, inside) = duplex(1 << 20);
    let attest = async |asked| Ok((world.simulator.sign(&asked).expect("a quote"), world.simulator.collateral()));
    let (near, mut host_near) = duplex(1 << 20);
    let (mut host_far, far) = duplex(1 << 20);
    let (expected, conclave) = (expected(world), conclave(world));
    // The handshake goes through unchanged, on streams that are exchanged for the host's behind it: so each input costs one.
    drop((client, inside));
    let opened = async { tokio::join!(connect(near, &expected), accept(far, &conclave, attest)) };
    let handshake = async {
        for (from_client, long) in [(true, 4), (false, 4), (true, 4), (false, 4)] {
            if from_client {
                carry(&mut host_near, &mut host_far, long).await;
            } else {
                carry(&mut host_far, &mut host_near, long).await;
            }
        }
    };
    let ((client, inside), ()) = tokio::join!(opened, handshake);
    let (mut client, mut inside) = (client.expect("accepted").channel, inside.expect("a client"));

    // Records of one to a few bytes each, so that deeds meet many of them.
    let sent: Vec<u8> = (0..=255).cycle().take(64 + size * 8).collect();
    for piece in sent.chunks(size % 17 + 3) {
        client.write_all(piece).await.expect("room");
        client.flush().await.expect("room");
    }
    client.shutdown().await.expect("room");
    let mut raw = Vec::new();
    host_near.read_to_end(&mut raw).await.expect("records");
    let records = records(&raw);
    let done = act(&records, deeds);
    host_far.write_all(&done).await.expect("room");
    host_far.shutdown().await.expect("ended");

    let mut got = Vec::new();
    let end = inside.read_to_end(&mut got).await;
    assert!(sent.starts_with(&got), "what was read was not sent");
    assert_eq!(end.is_ok(), done.starts_with(&raw), "an end was told that was none, or none where it was");
    assert!(end.is_err() || got == sent, "the end came before all was read");
}

/// One message with its length in front.
async fn carry(from: &mut DuplexStream, to: &mut DuplexStream, header: usize) {
    let mut message = vec![0; header];
    from.read_exact(&mut message).await.expect("a length");
    let length = message.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    message.resize(header + length, 0);
    from.read_exact(&mut message[header..]).await.expect("a message");
    to.write_all(&message).await.expect("room");
}

fn records(mut raw: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some((length, _)) = raw.split_first_chunk::<2>() {
        let (record, rest) = raw.split_at(2 + usize::from(u16::from_be_bytes(*length)));
        records.push(record);
        raw = rest;
    }
    records
}

/// What the host does: three bytes for each deed. What no deed is for goes on as it came.
fn act(records: &[&[u8]], deeds: &[u8]) -> Vec<u8> {
    let mut now: Vec<Vec<u8>> = records.iter().map(|record| record.to_vec()).collect();
    for deed in deeds.chunks_exact(3) {
        if now.is_empty() {
            break;
        }
        let (at, count) = (usize::from(deed[1]) % now.len(), now.len());
        let other = usize::from(deed[2]);
        match deed[0] % 7 {
            0 => now.swap(at, other % count),
            1 => {
                now.remove(at);
            }
            2 => now.insert(at, records[other % records.len()].to_vec()),
            3 => {
                let length = now[at].len();
                now[at][other % length] ^= (deed[0] / 7).max(1);
            }
            4 => now[at].truncate(other),
            5 => now[at].push(deed[2]),
            _ => now.truncate(at),
        }
        now.retain(|record| !record.is_empty());
    }
    now.concat()
}
