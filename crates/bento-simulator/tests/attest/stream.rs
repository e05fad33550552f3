//! The channel as a stream: whole, bounded, with an end.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bento_attest::channel::{Channel, Conclave, ConclaveKey, Expected, RECORD_BYTES_MAX, REKEY_RECORDS, accept, connect};
use bento_attest::{Format, Kind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use crate::support::{NOW, policy, roots, simulator};

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// Both ends of a channel over these.
async fn over<S: AsyncRead + AsyncWrite + Unpin>(client: S, conclave: S) -> (Channel<S>, Channel<S>) {
    let simulator = simulator(Format::Tdx, |_| ());
    let key = ConclaveKey::generate().expect("a key");
    let (roots, policy) = (roots(&simulator), policy(&simulator));
    let us = Conclave { kind: Kind::Simulated(Format::Tdx), key: &key, config_hash: [0; 32], node: b"node" };
    let expected = Expected { roots: &roots, policy: &policy, node: b"node", config_hash: None, now: NOW };
    let attest = async |asked| Ok((simulator.sign(&asked).expect("a quote"), simulator.collateral()));
    let (client, conclave) = tokio::join!(connect(client, &expected), accept(conclave, &us, attest));
    (client.expect("accepted").channel, conclave.expect("a client"))
}

async fn pair(size: usize) -> (Channel<DuplexStream>, Channel<DuplexStream>) {
    let (client, conclave) = duplex(size);
    over(client, conclave).await
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[tokio::test]
async fn any_length_arrives_whole_in_both_directions_at_once_through_any_pipe() {
    for pipe in [1, 100, 70_000] {
        for length in [0, 1, RECORD_BYTES_MAX - 1, RECORD_BYTES_MAX, RECORD_BYTES_MAX + 1, 3 * RECORD_BYTES_MAX + 5] {
            let (client, conclave) = pair(pipe).await;
            let both = [client, conclave].map(|channel| async move {
                let (mut reader, mut writer) = tokio::io::split(channel);
                let mut got = Vec::new();
                let write = async {
                    writer.write_all(&bytes(length)).await?;
                    writer.shutdown().await
                };
                let (read, written) = tokio::join!(reader.read_to_end(&mut got), write);
                read.and(written.map(|()| got))
            });
            let [one, two] = both;
            let (one, two) = timeout(LONG, async { tokio::join!(one, two) }).await.expect("in time");
            assert!(one.expect("whole") == bytes(length) && two.expect("whole") == bytes(length), "{length} through {pipe}");
        }
    }
}

#[tokio::test]
async fn small_and_large_reads_see_the_same() {
    let (mut client, mut conclave) = pair(200_000).await;
    let sent = bytes(100_000);
    client.write_all(&sent).await.expect("written");
    client.shutdown().await.expect("ended");
    let mut got = Vec::new();
    for size in [1, 7, 40_000, 3, 33_000, 20_000].into_iter().cycle() {
        let mut part = vec![0; size];
        match conclave.read(&mut part).await.expect("read") {
            0 => break,
            count => got.extend_from_slice(&part[..count]),
        }
    }
    assert!(got == sent);
    // The end stays the end.
    assert_eq!(conclave.read(&mut [0; 10]).await.expect("read"), 0);
}

#[tokio::test]
async fn who_does_not_read_stops_who_writes() {
    let (mut client, mut conclave) = pair(10_000).await;
    let mut taken = 0;
    while let Poll::Ready(written) = poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_write(cx, &[0; 1000]))).await {
        taken += written.expect("written");
        assert!(taken <= 10_000 + 2 * RECORD_BYTES_MAX, "{taken} bytes were taken");
    }
    assert!(taken >= 5_000);
    let mut got = vec![0; taken];
    let both = async { tokio::join!(client.write_all(&[1; 1000]), conclave.read_exact(&mut got)) };
    let (written, read) = timeout(LONG, both).await.expect("goes on");
    written.and(read.map(|_| ())).expect("whole");
}

#[tokio::test]
async fn keys_change_and_nothing_is_lost() {
    let (mut client, mut conclave) = pair(64 * 1024).await;
    // One byte a record, past two changes of the key.
    let count = 2 * REKEY_RECORDS + 10;
    let write = async {
        for at in 0..count {
            client.write_all(&[at as u8]).await.expect("written");
        }
        client.shutdown().await.expect("ended");
        assert_eq!(client.records().0, count + 1);
        client
    };
    let read = async {
        let mut got = Vec::new();
        conclave.read_to_end(&mut got).await.expect("read");
        assert!(got.len() as u64 == count && got.iter().zip(0..).all(|(byte, at): (&u8, u64)| *byte == at as u8));
        assert_eq!(conclave.records().1, count + 1);
        // The other direction has its own count, and goes on after this one's end.
        conclave.write_all(b"still here").await.expect("written");
        conclave.shutdown().await.expect("ended");
    };
    let (mut client, ()) = timeout(LONG, async { tokio::join!(write, read) }).await.expect("in time");
    let mut got = String::new();
    client.read_to_string(&mut got).await.expect("read");
    assert_eq!(got, "still here");
}

#[tokio::test]
async fn an_end_is_told_from_a_cut() {
    let (mut client, mut conclave) = pair(1000).await;
    client.write_all(b"whole").await.expect("written");
    client.shutdown().await.expect("ended");
    client.shutdown().await.expect("twice is once");
    assert_eq!(client.write(b"more").await.expect_err("after the end").kind(), ErrorKind::BrokenPipe);
    let mut got = Vec::new();
    conclave.read_to_end(&mut got).await.expect("an end");
    assert_eq!(got, b"whole");

    let (mut client, mut conclave) = pair(1000).await;
    client.write_all(b"not all").await.expect("written");
    client.flush().await.expect("sent");
    drop(client);
    let mut got = Vec::new();
    let cut = conclave.read_to_end(&mut got).await.expect_err("a cut");
    assert_eq!((cut.kind(), &got[..]), (ErrorKind::UnexpectedEof, &b"not all"[..]));
    // It stays broken, and nothing is said to who may have done it.
    assert_eq!(conclave.read(&mut [0; 1]).await.expect_err("still").kind(), ErrorKind::ConnectionAborted);
    assert_eq!(conclave.write(b"x").await.expect_err("neither").kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn nothing_and_nowhere_are_no_end() {
    let (mut client, mut conclave) = pair(1000).await;
    // Writing nothing sends nothing, least of all an empty record, which would be the end.
    assert_eq!(client.write(b"").await.expect("nothing"), 0);
    client.write_all(b"x").await.expect("written");
    client.shutdown().await.expect("ended");
    assert_eq!(conclave.read(&mut []).await.expect("nowhere"), 0);
    let mut got = Vec::new();
    conclave.read_to_end(&mut got).await.expect("read");
    assert_eq!(got, b"x");
}
