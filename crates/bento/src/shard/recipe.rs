//! Recipes: what is needed to get a file back from its shards, and nothing else is.

use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::{ClientError, DropId, FileKey, NodeAddress, Tokens};

/// Of this form recipes are.
const VERSION: u32 = 1;

/// Longest recipe that is read.
const BYTES_MAX: usize = 512 << 10;

/// Most shards of one file, as the function takes them.
const SHARDS_MAX: u32 = 128;

/// How a file is split: into `of` shards, of which any `need` rebuild it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// How many are enough.
    pub need: u32,
    /// How many there are.
    pub of: u32,
    /// By which code.
    pub mode: Mode,
}

/// An erasure code.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Reed-Solomon: up to 256 shards can ever be made of one file.
    #[default]
    Rs,
    /// RaptorQ: up to 4,096, with more work.
    Fountain,
}

impl Split {
    /// Checks that it can be.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(self) -> Result<Self, RecipeError> {
        if (1..=SHARDS_MAX).contains(&self.of) && (1..=self.of).contains(&self.need) { Ok(self) } else { Err(RecipeError::Split) }
    }
}

/// A file as it was sealed before it was spread.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SealedFile {
    /// What it is called.
    pub name: String,
    /// Its size,
    pub size: u64,
    /// and its SHA-256 in hexadecimal.
    pub sha256: String,
    /// Bytes of it as it was spread: sealed, and padded before that.
    pub sealed: u64,
    /// The key that it is sealed with, in hexadecimal,
    key: String,
    /// and what is before its chunks.
    prefix: String,
}

impl SealedFile {
    /// A file that is sealed under this key.
    pub fn new(name: String, size: u64, sha256: &[u8; 32], sealed: u64, key: &FileKey) -> Self {
        let (key, prefix) = (HEXLOWER.encode(key.key()), HEXLOWER.encode(&key.prefix()));
        Self { name, size, sha256: HEXLOWER.encode(sha256), sealed, key, prefix }
    }

    /// Its key.
    ///
    /// # Errors
    /// When what is kept of it is none.
    pub fn key(&self) -> Result<FileKey, RecipeError> {
        let bytes = |text: &str| HEXLOWER.decode(text.as_bytes()).map_err(|_| RecipeError::Form);
        let key = bytes(&self.key)?.try_into().map_err(|_| RecipeError::Form)?;
        Ok(FileKey::from_parts(key, bytes(&self.prefix)?.try_into().map_err(|_| RecipeError::Form)?))
    }
}

/// The shards of a file: the function's own recipe.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Shards {
    bento_shard: u32,
    /// The code.
    pub mode: Mode,
    /// How many there are,
    pub n: u32,
    /// and how many are enough.
    pub k: u32,
    /// Bytes of what was spread.
    pub size: u64,
    stripe: u64,
    sha256: String,
    key: String,
    next: u32,
    /// Each of them.
    pub shards: Vec<Shelf>,
}

/// Where one shard lies.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Shelf {
    /// Its number.
    pub number: u32,
    node: String,
    invocation: String,
    shutdown: String,
    drop: String,
    sha256: String,
}

impl Shelf {
    /// Its node.
    ///
    /// # Errors
    /// When the recipe has a wrong address.
    pub fn node(&self) -> Result<NodeAddress, RecipeError> {
        self.node.parse().map_err(|_| RecipeError::Form)
    }

    /// The rights to its function.
    ///
    /// # Errors
    /// When the recipe has wrong tokens.
    pub fn tokens(&self) -> Result<Tokens, RecipeError> {
        let wrong = |_| RecipeError::Form;
        Ok(Tokens { invocation: self.invocation.parse().map_err(wrong)?, shutdown: self.shutdown.parse().map_err(wrong)? })
    }
}

impl Shards {
    /// Reads what the function says.
    pub(super) fn parse(text: &[u8]) -> Result<Self, RecipeError> {
        let shards: Self = serde_json::from_slice(text).map_err(|_| RecipeError::Form)?;
        shards.check()?;
        // Not of one that is read from a file: who has that can still end what it names.
        if shards.has_conclaves() && shards.outside().is_some() { Err(RecipeError::Mixed) } else { Ok(shards) }
    }

    fn check(&self) -> Result<(), RecipeError> {
        if self.bento_shard != VERSION {
            return Err(RecipeError::Version(self.bento_shard));
        }
        let is_good = |shelf: &Shelf| shelf.node().is_ok() && shelf.tokens().is_ok() && shelf.drop.parse::<DropId>().is_ok();
        let numbers: std::collections::BTreeSet<u32> = self.shards.iter().map(|shelf| shelf.number).collect();
        let is_whole = self.k > 0 && self.shards.len() >= self.k as usize && numbers.len() == self.shards.len();
        if is_whole && self.shards.iter().all(is_good) { Ok(()) } else { Err(RecipeError::Form) }
    }

    /// As the function reads it.
    pub(super) fn text(&self) -> Result<Vec<u8>, ClientError> {
        serde_json::to_vec(self).map_err(|error| ClientError::Request(error.to_string()))
    }

    /// Bytes of all shards together, about.
    pub(super) fn stored(&self) -> u64 {
        let one = self.size.div_ceil(u64::from(self.k.max(1)));
        (one + one / 8 + (64 << 10)).saturating_mul(self.shards.len() as u64)
    }

    /// Does any of them lie in a conclave?
    pub fn has_conclaves(&self) -> bool {
        self.shards.iter().any(|shelf| shelf.node().is_ok_and(|node| node.is_conclave()))
    }

    /// The number of the first that lies outside conclaves, if one does.
    pub fn outside(&self) -> Option<u32> {
        let is_outside = |shelf: &&Shelf| shelf.node().is_ok_and(|node| !node.is_conclave());
        self.shards.iter().find(is_outside).map(|shelf| shelf.number)
    }

    /// How it is split now.
    pub fn split(&self) -> Split {
        Split { need: self.k, of: u32::try_from(self.shards.len()).unwrap_or(u32::MAX), mode: self.mode }
    }
}

/// All that is needed to get a file back: whoever has it can read, repair and remove the file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    bento_recipe: u32,
    /// The file.
    #[serde(flatten)]
    pub file: SealedFile,
    /// Its shards.
    pub shards: Shards,
}

/// Why a text is no recipe.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecipeError {
    /// Something else, or damaged.
    #[error("it is no recipe, or damaged")]
    Form,
    /// Of a later program.
    #[error("it is a recipe of version {0}, and this program knows version {VERSION}")]
    Version(u32),
    /// Some of its shards lie in conclaves, and some do not.
    #[error("some of its shards lie in conclaves and some outside, and no recipe has both")]
    Mixed,
    /// Numbers that cannot be.
    #[error("a file is split into 1 to {SHARDS_MAX} shards, of which at least 1 and at most all are needed")]
    Split,
}

impl Recipe {
    /// Of a file that is spread.
    pub fn new(file: SealedFile, shards: Shards) -> Self {
        Self { bento_recipe: VERSION, file, shards }
    }

    /// The text of it, which is as secret as the file.
    ///
    /// # Errors
    /// When it cannot be written, which is a fault of ours.
    pub fn reveal(&self) -> Result<String, ClientError> {
        let text = serde_json::to_string_pretty(self).map_err(|error| ClientError::Request(error.to_string()))?;
        Ok(format!("{text}\n"))
    }
}

impl FromStr for Recipe {
    type Err = RecipeError;

    fn from_str(text: &str) -> Result<Self, RecipeError> {
        if text.len() > BYTES_MAX {
            return Err(RecipeError::Form);
        }
        let recipe: Self = serde_json::from_str(text).map_err(|_| RecipeError::Form)?;
        if recipe.bento_recipe != VERSION {
            return Err(RecipeError::Version(recipe.bento_recipe));
        }
        recipe.file.key()?;
        recipe.shards.check()?;
        if recipe.file.sealed == recipe.shards.size { Ok(recipe) } else { Err(RecipeError::Form) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(number: u32) -> Shelf {
        let tokens = Tokens::mint().unwrap();
        Shelf {
            number,
            node: format!("127.0.0.1:80{number:02}"),
            invocation: tokens.invocation.reveal(),
            shutdown: tokens.shutdown.reveal(),
            drop: DropId::mint().unwrap().to_string(),
            sha256: "00".repeat(32),
        }
    }

    fn recipe() -> Recipe {
        let key = FileKey::from_parts([7; 32], [1; 7]);
        let file = SealedFile::new("a".into(), 1, &[0; 32], 100, &key);
        let (sha256, shards) = ("00".repeat(32), vec![shelf(0), shelf(1), shelf(2)]);
        Recipe::new(
            file,
            Shards { bento_shard: 1, mode: Mode::Rs, n: 3, k: 2, size: 100, stripe: 100, sha256, key: "k".into(), next: 3, shards },
        )
    }

    #[test]
    fn a_recipe_is_read_as_it_was_written_and_a_damaged_one_is_refused() {
        let recipe = recipe();
        let text = recipe.reveal().unwrap();
        assert_eq!(text.parse::<Recipe>().unwrap(), recipe);
        assert_eq!(recipe.file.key().unwrap(), FileKey::from_parts([7; 32], [1; 7]));
        assert_eq!(text.replace("\"bento_recipe\": 1", "\"bento_recipe\": 2").parse::<Recipe>(), Err(RecipeError::Version(2)));
        for (from, to) in [
            ("\"0707", "\"07"),
            ("\"sealed\": 100", "\"sealed\": 101"),
            ("\"k\": 2", "\"k\": 4"),
            ("127.0.0.1", "192.0.2.1"),
            ("bento-invoke-", "bento-invoke"),
            ("\"number\": 2", "\"number\": 1"),
        ] {
            assert!(text.contains(from));
            assert_eq!(text.replacen(from, to, 1).parse::<Recipe>(), Err(RecipeError::Form), "{from}");
        }
        for cut in [0, 1, text.len() / 2, text.len() - 3] {
            assert!(text[..cut].parse::<Recipe>().is_err());
        }
    }

    #[test]
    fn a_function_puts_shards_into_conclaves_or_outside_and_never_into_both() {
        let (plain, all) = (recipe().shards, |shards: &Shards| Shards::parse(&shards.text().unwrap()).map(|read| read.outside()));
        let mut mixed = plain.clone();
        mixed.shards[0].node += "/conclave";
        let mut inside = mixed.clone();
        inside.shards[1..].iter_mut().for_each(|shelf| shelf.node += "/conclave");
        assert_eq!((all(&plain), all(&inside), all(&mixed)), (Ok(Some(0)), Ok(None), Err(RecipeError::Mixed)));
        // Who has such a recipe all the same can read it, to end what it names.
        let text = Recipe { shards: mixed.clone(), ..recipe() }.reveal().unwrap();
        assert_eq!(text.parse::<Recipe>().unwrap().shards, mixed);
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        let split = |need, of| Split { need, of, mode: Mode::Rs }.check();
        assert!(split(1, 1).is_ok() && split(128, 128).is_ok() && split(3, 5).is_ok());
        assert!(split(0, 1).is_err() && split(2, 1).is_err() && split(1, 129).is_err());
    }
}
