//! `bento shard`.

mod drip;
mod get;
mod kept;
mod list;
mod nodes;
mod put;
mod repair;
mod spooled;
mod work;

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use bento::{ClientError, NodeAddress, Recipe, Shards};
use bento_proto::Outcome;
use sha2::{Digest as _, Sha256};

use self::kept::{Kept, Shelves};
use super::{
    args,
    context::Context,
    failure::{EVIDENCE, FUNCTION, Failure, NODE},
    place::check_private,
};

/// Longest recipe that is read.
const RECIPE_BYTES_MAX: u64 = 512 << 10;

pub(crate) async fn run(context: &Context, args: args::Shard) -> Result<(), Failure> {
    match args {
        args::Shard::Put(args) => put::run(context, args).await,
        args::Shard::Get(args) => get::run(context, args).await,
        args::Shard::Repair(args) => repair::run(context, args).await,
        args::Shard::Check(args) => list::check(context, args).await,
        args::Shard::Renew(args) => list::renew(context, args).await,
        args::Shard::List => list::list(context),
        args::Shard::Rm(args) => list::remove(context, args).await,
    }
}

/// What a person named.
enum Named {
    /// A file that this program keeps, by its name here.
    Ours(String, Box<Kept>),
    /// A recipe in a file.
    Recipe(PathBuf, Box<Recipe>),
}

/// Finds what is kept under this name, or else the recipe in this file. What has a slash in it is a file.
fn named(text: &str) -> Result<Named, Failure> {
    let shelves = Shelves::new()?;
    if !text.contains('/') {
        if let Some(kept) = shelves.read(text)? {
            return Ok(Named::Ours(text.to_owned(), Box::new(kept)));
        }
        if !Path::new(text).exists() {
            return Err(kept::unknown(text));
        }
    }
    let path = std::path::absolute(text).map_err(|error| Failure::file("looking for", Path::new(text), &error))?;
    Ok(Named::Recipe(path.clone(), Box::new(recipe(&path)?)))
}

fn recipe(path: &Path) -> Result<Recipe, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(RECIPE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::file("reading", path, &error))?;
    let text = String::from_utf8(bytes).map_err(|_| bento::RecipeError::Form);
    let found = text.and_then(|text| text.parse::<Recipe>()).map_err(|error| {
        Failure::input(format!("{}: {error}", path.display())).with_hint("give the file that `bento shard put --recipe` wrote")
    })?;
    // Only now: it may be any file by mistake.
    check_private(path, 0o600)?;
    Ok(found)
}

/// Holds that what is in conclaves stays in them, and that where one is required no shard is elsewhere.
fn in_conclaves(context: &Context, shards: &Shards) -> Result<(), Failure> {
    match (shards.outside(), shards.has_conclaves()) {
        // Nobody's file was put so. Whoever changed it may have wanted shards of what was for conclaves alone to be fetched from a plain node.
        (Some(number), true) => Err(Failure::new(
            EVIDENCE,
            format!("shard {number} lies outside a conclave and others in one, as in no recipe that is written here"),
        )
        .with_hint("give the recipe as it was written, or put the file again; `bento shard rm` ends what the recipe names, of both kinds")),
        (Some(number), false) if context.requires_conclave() => {
            Err(Failure::new(EVIDENCE, format!("shard {number} lies outside a conclave, and one is required"))
                .with_hint("put the file again with `--require-conclave`, or leave it out"))
        }
        (None, true) => {
            context.keep_to_conclaves();
            Ok(())
        }
        (_, false) => Ok(()),
    }
}

/// What a failure of Shard means, as far as it is known.
fn failure_of(error: ClientError, name: &str) -> Failure {
    let ClientError::Ended(Outcome::Failed { error: said, .. }) = &error else { return Failure::about(error, "shard", None) };
    let (kind, text) = said.split_once(':').unwrap_or((said, ""));
    let text = text.trim();
    let without_number = text.split_once("] ").map_or(text, |(_, text)| text);
    match kind.rsplit('.').next().unwrap_or_default() {
        "TooFewShards" => Failure::new(FUNCTION, text)
            .with_hint(format!("try again when their nodes can be reached; `bento shard check {name}` looks at each")),
        "NotEnoughNodes" => Failure::new(NODE, format!("too few nodes took a shard: {text}"))
            .with_hint("try again; or add nodes with `bento nodes add`, and the same command goes on with them"),
        "Full" => Failure::new(FUNCTION, format!("the node has no room for the file: {without_number}"))
            .with_hint(format!("`bento shard put --resume {name} --node NODE` takes another one")),
        "BadRecipe" => Failure::input(format!("the recipe is refused: {text}")).with_hint("give the recipe as it was written"),
        _ => Failure::from(error),
    }
}

/// What this person calls nodes.
struct Names(Vec<(String, String)>);

impl Names {
    fn new(context: &Context) -> Result<Self, Failure> {
        Ok(Self(context.nodes()?.read()?.into_iter().map(|(name, address)| (address.authority(), name)).collect()))
    }

    /// The name of the node at an address, or of the one whose conclave that is; or else the address.
    fn of(&self, address: &str) -> String {
        let node = address.parse::<NodeAddress>().map(|node| node.authority());
        self.0.iter().find(|(own, _)| node.as_ref() == Ok(own)).map_or_else(|| bento::line(address), |(_, name)| name.clone())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Random numbers without end, from a random beginning.
struct Chance {
    seed: [u8; 32],
    count: u64,
}

impl Chance {
    fn new() -> Result<Self, Failure> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| Failure::from(ClientError::Random(error.to_string())))?;
        Ok(Self { seed, count: 0 })
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        let digest = Sha256::new().chain_update(self.seed).chain_update(self.count.to_be_bytes()).finalize();
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// Something that blocks, beside everything else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shard_says_is_told_in_our_words_and_anything_else_in_its_own() {
        let failed = |error: &str| ClientError::Ended(Outcome::Failed { error: error.into(), traceback: "here\n".into() });
        let few = failure_of(failed("filling.TooFewShards: 1 shards are good, and 2 are needed; shard 0 at x: missing: gone"), "a");
        assert_eq!((few.status, few.text.as_str()), (1, "1 shards are good, and 2 are needed; shard 0 at x: missing: gone"));
        assert!(few.hint.unwrap().contains("bento shard check a") && few.quoted.is_empty());
        let full = failure_of(failed("Full: [Errno 122] the drop has 9 bytes, and there is room for 3"), "a");
        assert_eq!(full.text, "the node has no room for the file: the drop has 9 bytes, and there is room for 3");
        let other = failure_of(failed("KeyError: 1"), "a");
        assert_eq!((other.status, other.quoted.as_str()), (1, "here\n"));
        assert_eq!(failure_of(failed("shelves.NotEnoughNodes: 1 of 2"), "a").status, 6);
    }

    #[test]
    fn chance_is_never_the_same_and_covers_everything() {
        let (mut one, mut two) = (Chance::new().unwrap(), Chance::new().unwrap());
        let numbers: Vec<u64> = (0..1000).map(|_| one.next()).collect();
        assert_ne!(numbers[0], two.next());
        let mean = numbers.iter().map(|number| number >> 32).sum::<u64>() / 1000;
        assert!((mean as f64 / f64::from(u32::MAX) - 0.5).abs() < 0.1, "{mean}");
    }
}
