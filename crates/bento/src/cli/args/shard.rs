//! The command line of `bento shard`.

use std::{path::PathBuf, time::Duration};

use bento::Mode;
use clap::{Subcommand, builder::PossibleValue};

use super::{bytes, span};

#[derive(Debug, Subcommand)]
pub(crate) enum Shard {
    /// Encrypt a file and spread it over nodes; goes on where it was cut off
    #[command(
        after_help = "Examples:\n  bento shard put report.pdf\n  bento shard put report.pdf --need 3 --of 5 --recipe report.recipe\n  bento shard put archive.tar --over 6h\n  bento shard put --resume\n  tar c papers | bento shard put - --name papers.tar --offline\n\nWhoever has the recipe can read, repair and remove the file."
    )]
    Put(ShardPut),
    /// Bring a file back from any of its shards that are enough
    #[command(
        after_help = "Examples:\n  bento shard get report.pdf\n  bento shard get report.recipe -o copy.pdf\n  bento shard get papers.tar -o - | tar x"
    )]
    Get(ShardGet),
    /// Make up shards that are lost, on other nodes
    #[command(
        after_help = "Examples:\n  bento shard repair report.pdf\n  bento shard repair report.pdf --more 2\n  bento shard repair report.recipe --thorough"
    )]
    Repair(ShardRepair),
    /// Look which shards of a file are there
    #[command(after_help = "Examples:\n  bento shard check report.pdf\n  bento shard check report.pdf --thorough --json")]
    Check(ShardCheck),
    /// Make the lifetimes of all shards of a file begin anew
    #[command(after_help = "Examples:\n  bento shard renew report.pdf")]
    Renew(ShardRenew),
    /// List your files that are in shards, or on their way
    #[command(after_help = "Examples:\n  bento shard list\n  bento shard list --json")]
    List,
    /// End all shards of a file and forget it
    #[command(after_help = "Examples:\n  bento shard rm report.pdf\n  bento shard rm report.pdf --forget")]
    Rm(ShardRm),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShardPut {
    /// The file, - for stdin
    #[arg(required_unless_present = "resume")]
    pub(crate) file: Option<PathBuf>,
    /// How many shards are enough to bring the file back [default: 2]
    #[arg(long, value_name = "NUMBER", conflicts_with = "resume")]
    pub(crate) need: Option<u32>,
    /// How many shards there are, each on another node [default: 4]
    #[arg(long, value_name = "NUMBER", conflicts_with = "resume")]
    pub(crate) of: Option<u32>,
    /// How shards are made: rs (Reed-Solomon), or fountain (RaptorQ), of which more can be made in time [default: rs]
    #[arg(long, value_name = "MODE", value_parser = mode(), conflicts_with = "resume")]
    pub(crate) mode: Option<Mode>,
    /// How long the shards are kept; `bento shard renew` makes that begin anew [default: 24 h]
    #[arg(long, value_name = "TIME", value_parser = span, conflicts_with = "resume")]
    pub(crate) keep: Option<Duration>,
    /// Send the file in uploads of one size, at random times over this span, and over nodes
    #[arg(long, value_name = "TIME", value_parser = span, conflicts_with_all = ["resume", "pad"])]
    pub(crate) over: Option<Duration>,
    /// With --over: bytes of each upload [default: 2000000]
    #[arg(long, value_name = "BYTES", value_parser = bytes, requires = "over")]
    pub(crate) each: Option<u64>,
    /// Pad to a multiple of this many bytes, so that the size says less [default: 1000000]
    #[arg(long, value_name = "BYTES", value_parser = bytes, conflicts_with = "resume")]
    pub(crate) pad: Option<u64>,
    /// The node that makes the shards: one of the list, or an address [default: one of the list that can]
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Also write the recipe to this file; whoever has it can read the file
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// What to call the file [default: its name]
    #[arg(long, value_name = "TEXT", conflicts_with = "resume")]
    pub(crate) name: Option<String>,
    /// Leave when the node has the file; it makes the shards alone
    #[arg(long)]
    pub(crate) offline: bool,
    /// Go on with what was cut off: with this file or name, or with the latest
    #[arg(long)]
    pub(crate) resume: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShardGet {
    /// What `bento shard list` calls it, or the file with its recipe
    pub(crate) recipe: String,
    /// Where the file goes, - for stdout [default: the name that it was put under]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) force: bool,
    /// The node that puts it together: one of the list, or an address [default: the first of the list that answers and can]
    #[arg(long)]
    pub(crate) node: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShardRepair {
    /// What `bento shard list` calls it, or the file with its recipe, which is replaced by the new one
    pub(crate) recipe: String,
    /// Make so many shards besides
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    pub(crate) more: u32,
    /// Read all shards; else their nodes are believed
    #[arg(long)]
    pub(crate) thorough: bool,
    /// The node that does it: one of the list, or an address [default: one of the list that can]
    #[arg(long)]
    pub(crate) node: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShardCheck {
    /// What `bento shard list` calls it, or the file with its recipe
    pub(crate) recipe: String,
    /// Read all shards; else their nodes are believed
    #[arg(long)]
    pub(crate) thorough: bool,
    /// The node that looks: one of the list, or an address [default: the first of the list that answers and can]
    #[arg(long)]
    pub(crate) node: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShardRenew {
    /// What `bento shard list` calls it, or the file with its recipe
    pub(crate) recipe: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShardRm {
    /// What `bento shard list` calls it, or the file with its recipe
    pub(crate) recipe: String,
    /// Forget it also where a node cannot be asked; its shard then lasts to the end of its lifetime
    #[arg(long)]
    pub(crate) forget: bool,
}

/// `rs` or `fountain`.
fn mode() -> impl clap::builder::TypedValueParser<Value = Mode> {
    use clap::builder::{PossibleValuesParser, TypedValueParser as _};
    let values = ["rs", "fountain"].map(|name| PossibleValue::new(name).hide(true));
    PossibleValuesParser::new(values).map(|name| if name == "rs" { Mode::Rs } else { Mode::Fountain })
}
