//! Files left on a node and fetched by others.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    bento::Person,
    world::{Case, Error, Outcome, World, case},
};

pub(crate) const CASES: &[Case] =
    &[case!("a_file_whose_upload_was_killed_is_whole_in_the_next_run_and_goes_to_as_many_as_it_may", killed_and_again)];

/// Takes more than a second at the greatest rate that a node allows.
const SIZE: u32 = 24_000_000;

async fn killed_and_again(world: &World) -> Outcome {
    let (bento, sender, reader) = (world.bento().await?, Person::new(world, "sender"), Person::new(world, "reader"));
    let content: Vec<u8> = (0..SIZE).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(sender.home.join("letter"), &content)?;
    let put = ["dropbox", "put", "letter", "--node", &bento.tor.address, "--gets", "1", "--progress"];

    // Killed in the middle: it is let run for a moment again and again, until some of it is durable, which happens 4 MiB at once.
    let mut first = sender.command(&put).spawn()?;
    let pid = first.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).ok_or("no pid")?;
    let mut lines = BufReader::new(first.stderr.take().ok_or("no stderr")?).lines();
    let begun = async {
        while let Some(line) = lines.next_line().await? {
            if line == "sending" {
                return Ok(());
            }
        }
        Err(Error::from("it ended before it sent anything"))
    };
    tokio::time::timeout(Duration::from_secs(60), begun).await??;
    for turn in 0.. {
        tokio::time::sleep(Duration::from_millis(200)).await;
        kill_process(pid, Signal::STOP)?;
        let list = sender.bento(&["dropbox", "list", "--json"]).await.good().json();
        let drop = &list["drops"][0];
        assert!(drop["whole"] == false && turn < 30, "{list}");
        if drop["there"].as_u64() > Some(0) {
            break;
        }
        kill_process(pid, Signal::CONT)?;
    }
    first.kill().await?;

    let again = sender.bento(&put).await.good();
    assert!(again.stderr.contains("going on from ") && !again.stderr.contains("going on from 0 "), "{}", again.stderr);
    let text = again.text();
    let link = text.lines().last().unwrap_or_default();
    assert!(link.starts_with(&format!("http://{}/l/", bento.tor.address)) && link.ends_with("&n=letter&p=1"), "{text}");

    reader.bento(&["dropbox", "get", link]).await.good();
    assert!(std::fs::read(reader.home.join("letter"))? == content);
    let beyond = reader.bento(&["dropbox", "get", link, "-o", "more"]).await;
    assert_eq!(beyond.status, Some(3), "{}", beyond.stderr);
    assert!(beyond.stderr.contains("as often as its sender allowed") && !reader.home.join("more").exists());
    let removed = sender.bento(&["dropbox", "rm", &only_drop(&sender).await, "--json"]).await.good().json();
    assert_eq!((&removed["existed"], &removed["ended"]), (&true.into(), &true.into()), "{removed}");
    Ok(())
}

/// The id of the one drop that there is.
async fn only_drop(sender: &Person) -> String {
    let list = sender.bento(&["dropbox", "list", "--json"]).await.good().json();
    list["drops"][0]["drop"].as_str().unwrap_or_default().to_owned()
}
