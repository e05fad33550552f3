//! The channel to a conclave beside the same without one, and how long it takes to open. For `bench/run conclave`.
//!
//! Takes a number of rounds, and writes a line for each measure: what, who, seconds. The evidence is a simulator's: the work of judging
//! is that for hardware, but a processor's own time for a quote is not in it.

use std::error::Error;
use std::io::Write;
use std::time::{Duration, Instant};

use bento_attest::channel::{Conclave, ConclaveKey, Expected, accept, connect};
use bento_attest::evidence::Evidence;
use bento_attest::{Format, Kind, Measurements, Policy, Roots};
use bento_simulator::{Pretence, Simulator};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The same numbers are in `bench/measures/conclave.py`.
const BYTES: usize = 256 << 20;
const PACED_BYTES: usize = 64 << 20;
/// Bytes a second where the writer is held back: several times what one circuit through Tor carries.
const PACE: f64 = 100e6;
const PIECE: usize = 64 << 10;
const NOW: u64 = 1_795_824_000;
const NODE: &[u8] = &[7; 32];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Done {
    let rounds: usize = std::env::args().nth(1).ok_or("how many rounds?")?.parse()?;
    let simulator = Simulator::new(Format::Tdx, Pretence::good(NOW))?;
    let key = ConclaveKey::generate()?;
    let roots = Roots::development(&[simulator.root()])?;
    let policy = Policy::new(Measurements::for_simulator(&simulator.measurements())?);
    let conclave = Conclave { kind: Kind::Simulated(Format::Tdx), key: &key, config_hash: [0; 32], node: NODE };
    let expected = Expected { roots: &roots, policy: &policy, node: NODE, config_hash: None, now: NOW };

    // One round first whose numbers are thrown away, then by turns.
    for round in 0..=rounds {
        let say = |what: &str, who: &str, took: Duration| -> Done {
            if round > 0 {
                writeln!(std::io::stdout(), "{what} {who} {}", took.as_secs_f64())?;
            }
            Ok(())
        };
        let (near, far) = UnixStream::pair()?;
        say("copy", "plain", copied(near, far, BYTES, None).await?)?;
        let (near, far) = UnixStream::pair()?;
        say("paced", "plain", copied(near, far, PACED_BYTES, Some(PACE)).await?)?;

        for (what, bytes, pace) in [("copy", BYTES, None), ("paced", PACED_BYTES, Some(PACE))] {
            let (near, far) = UnixStream::pair()?;
            let began = Instant::now();
            let attest = async |asked| Ok((simulator.sign(&asked).unwrap_or_default(), simulator.collateral()));
            let (client, inside) = tokio::join!(connect(near, &expected), accept(far, &conclave, attest));
            let (client, inside) = (client?.channel, inside?);
            say("open", "channel", began.elapsed())?;
            say(what, "channel", copied(inside, client, bytes, pace).await?)?;
        }

        let nonce = [round as u8; 32];
        let mut evidence = Evidence {
            kind: Kind::Simulated(Format::Tdx),
            report: Vec::new(),
            collateral: simulator.collateral(),
            static_pk: *key.public(),
            config_hash: [0; 32],
            node: NODE.to_vec(),
        };
        let asked = evidence.binding(&nonce).report_data();
        let began = Instant::now();
        evidence.report = simulator.sign(&asked)?;
        say("quote", "simulator", began.elapsed())?;
        let began = Instant::now();
        roots.verify(&evidence, &policy, &nonce, NOW)?;
        say("judge", "client", began.elapsed())?;
    }
    Ok(())
}

/// How long it takes until all bytes that one end writes were read at the other, and its end.
async fn copied(
    writer: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    reader: impl AsyncRead + AsyncWrite + Unpin,
    bytes: usize,
    pace: Option<f64>,
) -> Done<Duration> {
    let began = Instant::now();
    let write = tokio::spawn(write(writer, bytes, pace));
    let count = read(reader).await?;
    write.await??;
    if count == bytes { Ok(began.elapsed()) } else { Err(format!("{count} of {bytes} bytes arrived").into()) }
}

async fn write(mut writer: impl AsyncWrite + Unpin, bytes: usize, pace: Option<f64>) -> Done {
    let piece: Vec<u8> = (0..PIECE).map(|at| (at * 7 % 251) as u8).collect();
    let began = tokio::time::Instant::now();
    for sent in 0..bytes / PIECE {
        if let Some(pace) = pace {
            tokio::time::sleep_until(began + Duration::from_secs_f64((sent * PIECE) as f64 / pace)).await;
        }
        writer.write_all(&piece).await?;
    }
    writer.shutdown().await?;
    Ok(())
}

async fn read(mut reader: impl AsyncRead + Unpin) -> Done<usize> {
    let mut buffer = vec![0; PIECE + 64];
    let mut count = 0;
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(count),
            read => count += read,
        }
    }
}
