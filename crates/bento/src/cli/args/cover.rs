//! The command line of `bento cover`.

use std::time::Duration;

use bento_proto::{Rate, exit_policy::Rule};
use clap::Subcommand;

use super::{bytes, span};

#[derive(Debug, Subcommand)]
pub(crate) enum Cover {
    /// Keep a flow of one rate with a node, both ways, until a time that is fixed when it starts
    #[command(
        after_help = "Examples:\n  bento cover run anna --for 30min\n  bento cover run anna --rate 100KiB/s --for 2h --ramp 1min\n  bento cover run anna --low-data --for 12h\n\nWhile it runs, in another terminal:\n  bento browse example.org --cover\n\nThe rate is the same whether a page comes or not. The run is up to a quarter longer than asked for,\nby chance. Ctrl-C does not end it, a second Ctrl-C does, and that is seen on the line."
    )]
    Run(CoverRun),
    /// Have a node send cover traffic through circuits of its own
    #[command(
        after_help = "Examples:\n  bento cover send anna --circuits 5 --for 1h\n  bento cover send anna --circuits 4 --sink berta --sink carl --shape poisson --frames 2\n  bento cover send anna --to 192.0.2.7:9000 --machine 02eNp…\n\nA frame is 498 bytes, what one cell of Tor carries of a stream. A frame that its circuit cannot take when\nit is due is left out."
    )]
    Send(CoverSend),
    /// Show the flows that run here
    #[command(after_help = "Examples:\n  bento cover status\n  bento cover status --json")]
    Status,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CoverRun {
    /// The node: one of the list, or an address
    pub(crate) node: String,
    /// What comes from the node each second, always [default: 50 KiB/s]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) rate: Option<Rate>,
    /// What goes to the node each second, always [default: an eighth of --rate]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) up: Option<Rate>,
    /// 2 KiB/s and 256 B/s: 8 MB an hour, for a page now and then
    #[arg(long, conflicts_with_all = ["rate", "up"])]
    pub(crate) low_data: bool,
    /// How long it runs at least; by chance it runs up to a quarter longer
    #[arg(long = "for", value_name = "TIME", value_parser = span, default_value = "30 min")]
    pub(crate) run: Duration,
    /// How long the rate rises at the start and falls at the end
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10 s")]
    pub(crate) ramp: Duration,
    /// The node that fetches pages: one of the list, or an address [default: the same]
    #[arg(long, value_name = "NODE")]
    pub(crate) browser: Option<String>,
    /// Carry no pages: it then needs far less of its node
    #[arg(long, conflicts_with_all = ["browser", "fetch", "connect"])]
    pub(crate) no_pages: bool,
    /// What pages may take of the node's traffic, all together, besides the flow itself [default: 64 MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) fetch: Option<u64>,
    /// Let pages come from more than ports 80 and 443 of public addresses: `accept 10.0.0.0/8:*`. The node's policy has the last word
    #[arg(long, value_name = "RULE")]
    pub(crate) connect: Vec<Rule>,
    /// What to call it, for `bento browse --cover NAME`
    #[arg(long, default_value = "cover")]
    pub(crate) name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CoverSend {
    /// The node: one of the list, or an address
    pub(crate) node: String,
    /// How many circuits
    #[arg(long, value_name = "NUMBER", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) circuits: u32,
    /// When frames are sent: evenly, or at random, independent of each other
    #[arg(long, value_enum, default_value = "constant", conflicts_with = "machine")]
    pub(crate) shape: CoverShape,
    /// Frames a second on each circuit, in the mean
    #[arg(long, value_name = "NUMBER", default_value = "5", value_parser = frames, conflicts_with = "machine")]
    pub(crate) frames: f64,
    /// Let this Maybenot machine say when, as Maybenot writes it; up to four times
    #[arg(long, value_name = "TEXT", num_args = 1)]
    pub(crate) machine: Vec<String>,
    /// With --machine: never more bytes than this [default: 16 MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes, requires = "machine")]
    pub(crate) budget: Option<u64>,
    /// How long
    #[arg(long = "for", value_name = "TIME", value_parser = span, default_value = "10 min")]
    pub(crate) run: Duration,
    /// A node on which what is sent is swallowed, by a Cover that is installed there; up to four times [default: the node itself]
    #[arg(long, value_name = "NODE")]
    pub(crate) sink: Vec<String>,
    /// Send to this host and port instead, through circuits that leave Tor at an exit
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "sink")]
    pub(crate) to: Option<String>,
    /// Have sinks send back what they get
    #[arg(long)]
    pub(crate) back: bool,
}

/// When frames are sent.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum CoverShape {
    /// Evenly
    Constant,
    /// At random
    Poisson,
}

fn frames(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate| (0.01..=100.0).contains(rate)).ok_or_else(|| "it is a number from 0.01 to 100".into())
}

/// `50KiB/s`, `50 KiB/s`.
fn rate(text: &str) -> Result<Rate, String> {
    text.parse::<Rate>().map_err(|error| error.to_string())
}
