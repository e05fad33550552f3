//! A node that is killed at any moment loses nothing it acknowledged, and leaves nothing torn.
//!
//! A process of its own stores, appends, deletes, adds and removes functions in several threads, as fast as it can, and reports each
//! acknowledgement on a pipe. It is killed at random moments. Then what is on the disk is compared with what each thread had done when it
//! was killed: exactly that, or that and the one operation that was not acknowledged yet, whole.
//!
//! `BENTO_STORE_KILLS=500 cargo test -p bento-node --test crash` kills it more often.
// So that clippy knows the helpers for tests as well, where `unwrap` is as it should be.
#![cfg(test)]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use bento_node::store::{Mode, New, Registry, Space, Store, StoreError};
use bento_proto::{InvocationToken, SealKey, ShutdownToken};

const PLACE: &str = "BENTO_STORE_CRASH";
const ROUND: &str = "BENTO_STORE_ROUND";
const THREADS: u64 = 3;
const LIMIT: u64 = 64 << 20;

type Objects = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Debug)]
enum Operation {
    Put(String, Vec<u8>),
    Write(String, Mode, Vec<Vec<u8>>),
    Delete(String),
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn value(&mut self) -> Vec<u8> {
        let length = match self.below(8) {
            0..5 => self.below(2000),
            5 => 64 * 1024 - 1 + self.below(3),
            6 => self.below(80_000),
            _ => self.below(300_000),
        };
        let seed = self.next().to_le_bytes();
        seed.iter().cycle().zip(0u32..).map(|(byte, at)| byte ^ (at >> 8) as u8).take(length as usize).collect()
    }
}

/// What a thread does, which follows from its number and that of the round alone.
fn operations(round: u64, thread: u64) -> impl Iterator<Item = Operation> {
    let mut random = Random(round * 1000 + thread);
    std::iter::repeat_with(move || {
        let name = format!("{thread}/{}", random.below(6));
        match random.below(10) {
            0..4 => Operation::Put(name, random.value()),
            4..8 => {
                let mode = if random.below(4) == 0 { Mode::Put } else { Mode::Append };
                Operation::Write(name, mode, (0..=random.below(3)).map(|_| random.value()).collect())
            }
            _ => Operation::Delete(name),
        }
    })
}

fn apply(objects: &mut Objects, operation: &Operation) {
    match operation {
        Operation::Put(name, value) => drop(objects.insert(name.clone(), value.clone())),
        Operation::Write(name, Mode::Put, pieces) => drop(objects.insert(name.clone(), pieces.concat())),
        Operation::Write(name, Mode::Append, pieces) => objects.entry(name.clone()).or_default().extend(pieces.concat()),
        Operation::Delete(name) => drop(objects.remove(name)),
    }
}

fn perform(store: &Store, operation: &Operation) {
    match operation {
        Operation::Put(name, value) => assert_eq!(store.put(name, value).unwrap(), value.len() as u64),
        Operation::Write(name, mode, pieces) => {
            let mut writer = store.writer(name, *mode).unwrap();
            pieces.iter().for_each(|piece| writer.write(piece).unwrap());
            writer.commit().unwrap();
        }
        Operation::Delete(name) => assert!(store.delete(name).is_ok()),
    }
}

fn key(n: u8) -> SealKey {
    SealKey::of(&InvocationToken::from_random([n; 32]))
}

/// A function whose tokens say which it is.
fn new(number: u64, key: &SealKey) -> New<'_> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    New {
        invocation: InvocationToken::from_random(bytes).digest(),
        shutdown: ShutdownToken::from_random(bytes).digest(),
        ends: SystemTime::now() + Duration::from_secs(36_000),
        lifetime: Duration::from_secs(3600),
        storage: LIMIT,
        keep_awake: false,
        key,
        head: b"some head",
    }
}

/// Who adds and removes functions. Every fourth stays.
const FUNCTIONS: &str = "f";

/// The functions that are there beside the one that stores, and what that has used, after so many operations of a round.
fn functions(round: u64, done: u64) -> (Vec<u64>, u64) {
    let mut there = Vec::new();
    for step in 0..done {
        match step % 4 {
            0 | 2 => there.push(round * 1_000_000 + step),
            1 if step % 8 == 1 => {}
            1 => assert!(there.pop().is_some()),
            _ => {}
        }
    }
    // Step 3 of each four writes the account.
    let used = (0..done).rev().find(|step| step % 4 == 3).map_or(0, |step| round * 1_000_000 + step);
    (there, used)
}

fn perform_functions(registry: &Registry, id: bento_node::store::Id, round: u64, acknowledge: impl Fn()) {
    let mut last = None;
    for step in 0u64.. {
        match step % 4 {
            0 | 2 => last = Some(registry.add(new(round * 1_000_000 + step, &key(2))).unwrap().id),
            1 if step % 8 == 1 => registry.renew(last.unwrap(), SystemTime::now() + Duration::from_secs(36_000)).unwrap(),
            1 => registry.remove(last.unwrap()).unwrap(),
            _ => {
                registry.set_used(id, &key(1), bento_node::store::Used { cpu_ms: round * 1_000_000 + step, ..Default::default() }).unwrap()
            }
        }
        acknowledge();
    }
}

#[test]
#[ignore = "runs until it is killed; the test below starts it"]
fn writes_until_it_is_killed() {
    let state = env::var(PLACE).unwrap();
    let round: u64 = env::var(ROUND).unwrap().parse().unwrap();
    // One write for each line, so that no line is half there.
    let say =
        |line: &str| std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes()).and_then(|()| std::io::stdout().flush()).unwrap();
    let registry = Registry::open(Path::new(&state)).unwrap();
    let id = main_function(&registry).unwrap();
    let vault = registry.vault(id, &key(1), LIMIT).unwrap();
    say("ready");
    thread::scope(|scope| {
        for number in 0..THREADS {
            let store = vault.space(Space::Function);
            scope.spawn(move || {
                for operation in operations(round, number) {
                    perform(&store, &operation);
                    say(&number.to_string());
                }
            });
        }
        scope.spawn(|| perform_functions(&registry, id, round, || say(FUNCTIONS)));
    });
}

/// The function that stores, which is number 0.
fn main_function(registry: &Registry) -> Option<bento_node::store::Id> {
    let wanted = new(0, &key(1)).invocation;
    registry.all().unwrap().iter().find(|record| record.invocation == wanted).map(|record| record.id)
}

fn get(store: &Store, name: &str) -> Result<Vec<u8>, StoreError> {
    let mut reader = store.reader(name, 0, None)?;
    let mut all = Vec::new();
    while let Some(piece) = reader.piece()? {
        all.extend(piece);
    }
    Ok(all)
}

/// Runs the writer and kills it; how often each thread was acknowledged.
fn run_and_kill(state: &Path, round: u64, random: &mut Random) -> BTreeMap<String, u64> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "writes_until_it_is_killed", "--ignored", "--nocapture", "--test-threads", "1"])
        .env(PLACE, state)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    // Now and then it is killed while it opens.
    if random.below(6) > 0 {
        assert!(lines.any(|line| line == "ready"), "it ended by itself");
    }
    let counting = thread::spawn(move || {
        let mut counts = BTreeMap::new();
        for line in lines.filter(|line| line.len() == 1) {
            *counts.entry(line).or_default() += 1;
        }
        counts
    });
    thread::sleep(Duration::from_micros(random.below(150_000)));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "it ended by itself: {status}");
    counting.join().unwrap()
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_torn_by_being_killed() {
    let kills: u64 = env::var("BENTO_STORE_KILLS").map_or(25, |number| number.parse().unwrap());
    let mut random = Random(env::var("BENTO_STORE_SEED").map_or(1, |seed| seed.parse().unwrap()));
    let state = tempfile::tempdir().unwrap();
    let id = Registry::open(state.path()).unwrap().add(new(0, &key(1))).unwrap().id;
    let objects_directory = state.path().join("functions").join(id.to_string()).join("objects");
    let mut known = Objects::new();
    let mut used = 0;
    let (mut acknowledged, mut found_more, mut orphans) = (0, 0, 0);
    for round in 1..=kills {
        let counts = run_and_kill(state.path(), round, &mut random);
        acknowledged += counts.values().sum::<u64>();
        orphans += fs::read_dir(&objects_directory)
            .map_or(0, Iterator::count)
            .saturating_sub(known.values().filter(|value| value.len() >= 65536).count());

        let registry = Registry::open(state.path()).unwrap();
        assert_eq!(main_function(&registry), Some(id));
        let store = registry.vault(id, &key(1), LIMIT).unwrap().space(Space::Function);
        let (names, _) = store.list("", None, 1000).unwrap();
        let there: Objects = names.iter().map(|(name, _)| (name.clone(), get(&store, name).unwrap())).collect();
        assert!(names.iter().all(|(name, bytes)| there[name].len() as u64 == *bytes));

        // Each thread: what was acknowledged, or that and the one operation that was going on, whole.
        for number in 0..THREADS {
            let own = |objects: &Objects| -> Objects {
                objects
                    .iter()
                    .filter(|(name, _)| name.starts_with(&format!("{number}/")))
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect()
            };
            let (mut model, there) = (own(&known), own(&there));
            let done = counts.get(&number.to_string()).copied().unwrap_or(0) as usize;
            let mut operations = operations(round, number);
            operations.by_ref().take(done).for_each(|operation| apply(&mut model, &operation));
            if there != model {
                let going_on = operations.next().unwrap();
                apply(&mut model, &going_on);
                found_more += 1;
                let differs: Vec<_> = model.keys().chain(there.keys()).filter(|name| model.get(*name) != there.get(*name)).collect();
                assert!(there == model, "round {round}, thread {number}, after {done}: {differs:?}");
            }
        }
        let usage = store.usage().unwrap().used;
        assert_eq!(usage, there.values().map(|value| value.len() as u64 + 1024).sum::<u64>());

        // Nothing half there: each file belongs to an object, and is as long as that.
        let mut lengths: Vec<_> = fs::read_dir(&objects_directory)
            .map_or(vec![], |entries| entries.map(|entry| entry.unwrap().metadata().unwrap().len()).collect());
        let mut wanted: Vec<_> =
            there.values().map(|value| value.len() as u64 / 65536 * (65536 + 40)).filter(|length| *length > 0).collect();
        lengths.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(lengths, wanted, "round {round}");

        // The functions that came and went.
        let done = counts.get(FUNCTIONS).copied().unwrap_or(0);
        let digests = |numbers: &[u64]| numbers.iter().map(|number| new(*number, &key(2)).invocation).collect::<Vec<_>>();
        let mut functions_there: Vec<_> = registry.all().unwrap().into_iter().filter(|record| record.id != id).collect();
        functions_there.sort_by_key(|record| record.invocation);
        let candidates = [functions(round, done), functions(round, done + 1)];
        let fits = |(numbers, _): &&(Vec<u64>, u64)| {
            let mut wanted = digests(numbers);
            wanted.sort_unstable();
            wanted == functions_there.iter().map(|record| record.invocation).collect::<Vec<_>>()
        };
        assert!(candidates.iter().any(|candidate| fits(&candidate)), "round {round}: functions after {done}");
        let now = registry.used(id, &key(1)).unwrap().cpu_ms;
        let accounts = candidates.map(|(_, account)| if account == 0 { used } else { account });
        assert!(accounts.contains(&now), "round {round}: {now} and not {accounts:?}");
        used = now;
        assert_eq!(fs::read_dir(state.path().join("functions")).unwrap().count(), functions_there.len() + 1);
        for record in functions_there {
            assert_eq!(registry.head(record.id, &key(2)).unwrap(), b"some head");
            registry.remove(record.id).unwrap();
        }
        known = there;
    }
    println!(
        "{kills} kills, {acknowledged} operations acknowledged, {found_more} found done that were not acknowledged yet, {orphans} files cleared away"
    );
    assert!(acknowledged > kills * 5, "only {acknowledged} operations: the writer was killed too early to tell anything");
}
