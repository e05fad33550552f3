//! A file that leaves in uploads of one size, at random times over a span and over nodes; and what that looks like from outside.
//!
//! What is to be sent when is decided in the library ([`Drip`]). Here it is done, and written down after each step.

use std::time::Duration;

use bento::{Announcement, ClientError, Drip, DropError, DropRefusal, Dropbox, Next, NodeAddress, Parcel, Standard, Taker, with_room};
use bento_proto::{Span, bundle::Bundle};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::{
    Chance,
    kept::{Dripping, Open, Place},
    now_ms,
    work::is_passing,
};
use crate::cli::{context::Context, dropbox, failure::Failure, function::is_unknown, function::time};

/// Bytes of each upload: as many as a photo has that somebody sends.
pub(super) const EACH: u64 = 2_000_000;

/// Fewest and most bytes of an upload. Less would be many; more is no longer like others, and is in memory.
const EACH_MIN: u64 = 10_000;
const EACH_MAX: u64 = 16 << 20;

/// How long a portion is kept: as long as its Dropbox is there.
const EXPIRES: Duration = Duration::from_secs(300_000_000);

/// Longest sleep at once. The clock that a sleep goes by stands while a computer is suspended.
const SLEEP: Duration = Duration::from_secs(30);

/// Uploads to one place that fail one after the other before others are taken in its stead.
const BAD: u32 = 3;

/// Uploads that fail one after the other before it is given up for now. Each waits for its time.
const TIRED: u32 = 100;

/// More often than this is not what a person sends.
const BUSY: Duration = Duration::from_secs(60);

/// Checks the size of uploads that was asked for.
pub(super) fn each(given: Option<u64>) -> Result<u64, Failure> {
    match given.unwrap_or(EACH) {
        each if (EACH_MIN..=EACH_MAX).contains(&each) => Ok(each),
        _ => Err(Failure::input(format!("an upload has {EACH_MIN} to {EACH_MAX} bytes")).with_hint("for example `--each 2000000`")),
    }
}

/// The Dropbox that came with this program, with room for what one place takes of this, and as much as may come from another one.
pub(super) fn intake(portions: usize, places: usize, each: u64, keep: Span) -> Result<Bundle, Failure> {
    let own = portions.div_ceil(places.max(1)) as u64;
    let room = Dropbox::room_for((own + own.div_ceil(2) + 1) * (each + (16 << 10)), Some(1), keep.duration());
    let bundle = Standard::Dropbox.bundle().and_then(|bundle| with_room(bundle, room));
    bundle.map_err(|error| Failure::input(format!("the Dropbox that came with this program: {error}")))
}

/// A file that is to leave to these nodes.
pub(super) fn dripping(plain: u64, each: u64, span: Span, nodes: &[NodeAddress]) -> Result<Dripping, Failure> {
    let mut chance = Chance::new()?;
    let drip = Drip::new(plain, each, span, nodes.len(), now_ms(), &mut || chance.next())?;
    let places = nodes.iter().map(|node| Place::new(node, 0)).collect::<Result<_, _>>()?;
    Ok(Dripping { drip, places, uploads: 0, first: None })
}

/// What somebody sees who watches the line, before it begins.
pub(super) fn before(name: &str, dripping: &Dripping, keep: Span) -> Result<String, Failure> {
    let Drip { each, span, ref portions, .. } = dripping.drip;
    let (count, places) = (portions.len(), dripping.places.len());
    let bundle = intake(count, places, each, keep)?.pack().map_err(|error| Failure::input(error.to_string()))?.len();
    let mut text = format!(
        "{name} leaves in {}, at random times over {}{}, to {places} nodes.\n\
         Who watches this computer's line sees these uploads go into Tor, all of one size, and besides them small exchanges: one with each node of \
         the list now, one of some {} kB before the first upload to each node, and at the end one with the node that makes the shards. Where they go, what they are, and that \
         they belong together is not to be seen; that {} bytes leave in that time is.\n",
        uploads(count, each),
        time(span),
        if count > 1 { format!(", one in {} on average", time(Span::millis(millis(dripping.drip.pace())))) } else { String::new() },
        bundle.div_ceil(1000),
        each * count as u64,
    );
    if count > 1 && dripping.drip.pace() < BUSY {
        let enough = Span::millis(millis(BUSY) * count as u64);
        text.push_str(&format!("That is more often than somebody sends photos: {} or more would look more like it.\n", time(enough)));
    }
    Ok(text)
}

/// And after its end.
pub(super) fn after(dripping: &Dripping) -> String {
    let Dripping { drip, uploads: begun, first, .. } = dripping;
    let took = Span::millis(now_ms().saturating_sub(first.unwrap_or(drip.began)));
    let again = begun.saturating_sub(drip.portions.len() as u64);
    let again = if again > 0 { format!(", {again} of them again because they did not get there or were lost") } else { String::new() };
    format!(
        "On this computer's line there were {} over {}{again}.\n",
        uploads(usize::try_from(*begun).unwrap_or_default(), drip.each),
        time(took)
    )
}

/// The same for programs.
pub(super) fn seen(dripping: &Dripping) -> Value {
    let drip = &dripping.drip;
    let took = Span::millis(now_ms().saturating_sub(dripping.first.unwrap_or(drip.began)));
    json!({"uploads": dripping.uploads, "each": drip.each, "portions": drip.portions.len(), "over": drip.span, "took": took})
}

fn uploads(count: usize, each: u64) -> String {
    format!("{count} upload{} of {each} bytes", if count == 1 { "" } else { "s" })
}

/// Sends what is left.
pub(super) async fn run(context: &Context, open: &mut Open, parcel: &Parcel) -> Result<(), Failure> {
    let mut random = Chance::new()?;
    let mut chance = || random.next();
    let (mut bad, mut failed, mut tired) = (Vec::new(), std::collections::BTreeMap::<usize, u32>::new(), 0);
    loop {
        let dripping = dripping_of(open)?;
        let (done, count) = (dripping.drip.done(), dripping.drip.portions.len());
        let index = match dripping.drip.next(now_ms(), &mut chance) {
            Next::Done => return open.save(),
            Next::Wait(rest) => {
                let left = time(Span::millis(millis(rest)));
                context.show.now(&format!("{done} of {count} uploads are there; the next one leaves in {left}"));
                renew(context, open).await?;
                sleep(rest.min(SLEEP)).await;
                continue;
            }
            Next::Send(index) => index,
        };
        dripping.uploads += 1;
        dripping.first.get_or_insert(now_ms());
        let place = dripping.drip.portions.get(index).map_or(0, |portion| portion.place);
        // Its time may be a new one, and that it was begun is told at the end.
        open.save()?;
        context.show.now(&format!("upload {} of {count}", done + 1));
        let sent = send(context, open, parcel, index).await;
        let dripping = dripping_of(open)?;
        match sent {
            Ok(sha256) => {
                dripping.drip.sent(index, sha256);
                failed.remove(&place);
                tired = 0;
                context.show.step(&format!("upload {} of {count} is there", done + 1));
            }
            Err(Sent::Ours(failure)) => return Err(failure),
            Err(Sent::Passing(why)) => {
                context.show.step(&format!("an upload did not get there: {}; it leaves again at another time", why.text));
                dripping.drip.failed(index, now_ms(), &mut chance);
                let times = failed.entry(place).or_default();
                *times += 1;
                tired += 1;
                if *times >= BAD && !bad.contains(&place) {
                    bad.push(place);
                }
                if tired >= TIRED {
                    open.save()?;
                    let name = &open.name;
                    return Err(
                        why.with_hint(format!("`bento shard put --resume {name}` goes on when the line or the nodes are there again"))
                    );
                }
            }
            Err(Sent::Bad(why, is_gone)) => {
                context.show.step(&format!("a node takes no more uploads: {}; others take them", why.text));
                if is_gone {
                    let lost: Vec<usize> = of_place(dripping, place);
                    dripping.drip.lost(&lost, now_ms(), &mut chance);
                } else {
                    dripping.drip.failed(index, now_ms(), &mut chance);
                }
                bad.push(place);
            }
        }
        let count = dripping.places.len();
        if bad.len() >= count {
            // All have failed: a bad line looks like that, and each gets another chance.
            if failed.len() < count {
                open.save()?;
                return Err(Failure::new(crate::cli::failure::REFUSED, "no node takes uploads any more")
                    .with_hint(format!("`bento shard rm {}` gives it up; then put it again, to other nodes", open.name)));
            }
            (bad, failed) = (Vec::new(), std::collections::BTreeMap::new());
        }
        dripping.drip.leave_out(&bad, count);
        open.save()?;
    }
}

/// The portions that are at a place.
fn of_place(dripping: &Dripping, place: usize) -> Vec<usize> {
    let all = dripping.drip.portions.iter().enumerate();
    all.filter(|(_, portion)| portion.place == place && portion.sha256.is_some()).map(|(index, _)| index).collect()
}

fn dripping_of(open: &mut Open) -> Result<&mut Dripping, Failure> {
    open.work()?.dripping.as_mut().ok_or_else(|| Failure::input("this file does not leave in portions"))
}

/// Why a portion did not get to its place.
enum Sent {
    /// It may get there another time.
    Passing(Failure),
    /// The place takes no more; is all gone that it had?
    Bad(Failure, bool),
    /// The file cannot be read, or what is kept not written.
    Ours(Failure),
}

/// Sends one portion, to a Dropbox that is installed first if it is not there. Its SHA-256.
async fn send(context: &Context, open: &mut Open, parcel: &Parcel, index: usize) -> Result<String, Sent> {
    let ours = Sent::Ours;
    let keep = open.kept.keep;
    let dripping = dripping_of(open).map_err(ours)?;
    let (each, count, places) = (dripping.drip.each, dripping.drip.portions.len(), dripping.places.len());
    let portion = dripping.drip.portions.get(index).cloned().ok_or_else(|| ours(Failure::input("there is no such portion")))?;
    let place = dripping.places.get(portion.place).cloned().ok_or_else(|| ours(Failure::input("there is no such place")))?;
    let parcel = parcel.clone();
    let length = usize::try_from(each).unwrap_or(usize::MAX);
    let read = tokio::task::spawn_blocking(move || parcel.part(index as u64 * each, length)).await;
    let read = read.unwrap_or_else(|error| Err(std::io::Error::other(error.to_string())));
    let content = read.map_err(|error| ours(dropbox::failure(DropError::File(error), "the file")))?;

    let (node, tokens) = (place.node().map_err(ours)?, place.tokens().map_err(ours)?);
    let client = context.quiet_client(&node).await.map_err(ours)?;
    if !place.installed {
        let bundle = intake(count, places, each, keep).map_err(ours)?;
        client.install(&node, &bundle, &tokens).await.map_err(judged)?;
        let dripping = dripping_of(open).map_err(ours)?;
        if let Some(own) = dripping.places.get_mut(portion.place) {
            (own.installed, own.renewed) = (true, now_ms());
        }
        open.save().map_err(ours)?;
    }
    let id = portion.drop.parse().map_err(|error| ours(Failure::from(error)))?;
    let sha256 = HEXLOWER.encode(&Sha256::digest(&content));
    let announcement = Announcement { id, size: content.len() as u64, expires: EXPIRES, gets: None, name: None };
    let intake = Dropbox { client, node, token: tokens.invocation, taker: Taker::Dropbox };
    match intake.leave(&announcement, content.into()).await {
        Ok(()) => Ok(sha256),
        Err(DropError::Client(error)) => Err(judged(error)),
        Err(error @ DropError::Refused(DropRefusal::Full(_))) => Err(Sent::Bad(dropbox::failure(error, "the Dropbox"), false)),
        Err(error) => Err(Sent::Passing(dropbox::failure(error, "the Dropbox"))),
    }
}

fn judged(error: ClientError) -> Sent {
    let is_gone = is_unknown(&error);
    // Without Tor no place can be reached.
    if !is_gone && (is_passing(&error) || error.is_undecided() || error.is_tor_unreachable()) {
        return Sent::Passing(Failure::from(error));
    }
    Sent::Bad(Failure::about(error, "dropbox", None), is_gone)
}

/// Makes lifetimes begin anew that are half over.
async fn renew(context: &Context, open: &mut Open) -> Result<(), Failure> {
    let keep = open.kept.keep.as_millis();
    let places = dripping_of(open)?.places.clone();
    for (number, place) in places.iter().enumerate().filter(|(_, place)| place.installed && place.renewed + keep / 2 < now_ms()) {
        let (node, tokens) = (place.node()?, place.tokens()?);
        if let Ok(client) = context.quiet_client(&node).await {
            // One that cannot be reached is asked again soon; what it has may be lost in the end, and is noticed then.
            let renewed = client.renew(&node, &tokens.shutdown).await;
            let dripping = dripping_of(open)?;
            if let (Ok(_), Some(own)) = (renewed, dripping.places.get_mut(number)) {
                own.renewed = now_ms();
            }
        }
        open.save()?;
    }
    Ok(())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(count: u64, span: &str) -> Dripping {
        let plain = bento::FileKey::plain_size(count * EACH).unwrap();
        let nodes: Vec<NodeAddress> = (1..=4).map(|port| format!("127.0.0.1:{port}").parse().unwrap()).collect();
        dripping(plain, EACH, span.parse().unwrap(), &nodes).unwrap()
    }

    #[test]
    fn what_an_observer_sees_is_told_in_numbers_and_a_hurry_is_warned_of() {
        let keep = Span::seconds(86_400);
        let text = before("a.tar", &sample(30, "6 h"), keep).unwrap();
        assert!(
            text.starts_with(
                "a.tar leaves in 30 uploads of 2000000 bytes, at random times over 6 h, one in 12 min on average, to 4 nodes.\n"
            )
        );
        assert!(text.contains("60000000 bytes leave") && !text.contains("more often than"), "{text}");
        let hurry = before("a.tar", &sample(30, "10 min"), keep).unwrap();
        assert!(hurry.contains("more often than somebody sends photos: 30 min or more"), "{hurry}");
        let one = before("a.tar", &sample(1, "1 h"), keep).unwrap();
        assert!(one.starts_with("a.tar leaves in 1 upload of 2000000 bytes, at random times over 60 min, to 4"), "{one}");
        let mut dripping = sample(30, "6 h");
        (dripping.uploads, dripping.first) = (32, Some(now_ms() - 1000));
        assert!(after(&dripping).starts_with("On this computer's line there were 32 uploads of 2000000 bytes over "));
        assert!(after(&dripping).contains(", 2 of them again"));
    }

    #[test]
    fn a_place_has_room_for_its_own_portions_and_some_of_another_s() {
        let needs = |portions, places| intake(portions, places, EACH, Span::seconds(3600)).unwrap().manifest.needs;
        assert!(needs(100, 4).storage.as_bytes() > 38 * EACH && needs(100, 4).traffic.as_bytes() > 76 * EACH);
        assert!(needs(1, 4).storage.as_bytes() >= 3 * EACH);
        // What nodes usually offer is enough for that.
        let policy = bento_proto::Policy::parse("[offers]\n").unwrap();
        assert!(policy.admit(&intake(80, 4, EACH, "24 h".parse().unwrap()).unwrap().manifest).is_ok());
    }

    #[test]
    fn sizes_of_uploads_have_bounds() {
        assert_eq!(each(None).unwrap(), EACH);
        assert!(each(Some(9_999)).is_err() && each(Some(10_000)).is_ok() && each(Some(17 << 20)).is_err());
    }
}
