//! The command line.

mod cover;
mod shard;

use std::{path::PathBuf, time::Duration};

use bento::AgeRecipient;
use bento_proto::{Size, Span, exit_policy::Rule};
use clap::{Parser, Subcommand, builder::styling};

pub(crate) use cover::{Cover, CoverRun, CoverSend, CoverShape};
pub(crate) use shard::{Shard, ShardCheck, ShardGet, ShardPut, ShardRenew, ShardRepair, ShardRm};

const EXAMPLES: &str = "\
Examples:
  bento nodes add anna pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion
  bento browse https://www.torproject.org
  bento run anna functions/hello hello name=Ada

Exit status: 0 done, 1 the function failed, 2 bad command line or input, 3 refused,
4 evidence not accepted, 5 Tor unreachable, 6 node unreachable or broken off";

const fn styles() -> styling::Styles {
    styling::Styles::plain()
}

/// Use programmable middleboxes on the Tor network
#[derive(Debug, Parser)]
#[command(name = "bento", version, after_help = EXAMPLES, styles = styles(), max_term_width = 100)]
#[command(propagate_version = true, subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Options {
    /// Tor's SOCKS port: an address and port, or unix:PATH [default: BENTO_SOCKS, else a Tor that runs here, else one of its own]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(crate) socks: Option<String>,
    /// Start a `tor` of its own with these further lines in its configuration
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "socks")]
    pub(crate) torrc_lines: Option<PathBuf>,
    /// The list of nodes [default: ~/.config/bento/nodes.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) nodes: Option<PathBuf>,
    /// How long a node may be silent [default: 5 min]
    #[arg(long, global = true, value_name = "TIME", value_parser = span)]
    pub(crate) wait: Option<Duration>,
    /// Speak to nodes' conclaves only, each judged before anything is said to it
    #[arg(long, global = true)]
    pub(crate) require_conclave: bool,
    /// What conclaves may run: a list that its publisher signed [default: ~/.config/bento/measurements]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) measurements: Option<PathBuf>,
    /// The publisher's key, 64 hexadecimal digits [default: what ~/.config/bento/publisher says]
    #[arg(long, global = true, value_name = "KEY")]
    pub(crate) publisher: Option<String>,
    /// Accept machines in this state as well: SWHardeningNeeded, ConfigurationNeeded, no-revocation-list
    #[arg(long, global = true, value_name = "STATE")]
    pub(crate) accept_state: Vec<String>,
    /// Accept the conclaves of a simulator, and no others: THEY PROTECT FROM NOBODY. The directory has its root.der and measurements; of several, the first one's count
    #[arg(long, global = true, value_name = "DIR", conflicts_with_all = ["measurements", "publisher", "accept_state"])]
    pub(crate) simulator_protects_nobody: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show each step as a plain line on stderr
    #[arg(long, global = true)]
    pub(crate) progress: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the nodes, add one, remove one, or ask which can take a function
    #[command(
        after_help = "Examples:\n  bento nodes\n  bento nodes --fit functions/browser\n  bento nodes --conclaves\n  bento nodes add here 127.0.0.1:8030"
    )]
    Nodes(Nodes),
    /// Judge the evidence of a node's conclave, and say line by line what was found
    #[command(
        after_help = "Examples:\n  bento verify anna\n  bento verify anna --measurements list --publisher 3f1c…\n  bento browse example.org --node anna --require-conclave"
    )]
    Verify(Verify),
    /// Show what a node allows
    #[command(after_help = "Examples:\n  bento policy anna\n  bento policy anna --explain functions/browser")]
    Policy(Policy),
    /// Install a function on a node
    #[command(after_help = "Examples:\n  bento install anna functions/hello\n  bento install anna functions/hello --name greeter")]
    Install(Install),
    /// Invoke a method of an installed function
    #[command(after_help = "Examples:\n  bento invoke hello hello name=Ada\n  bento invoke echo echo --input letter.txt --output copy.txt")]
    Invoke(Invoke),
    /// Fetch what a detached invocation wrote, once it has ended
    #[command(
        after_help = "Examples:\n  bento invoke crawler crawl depth=3 --detach\n  bento output crawler -o pages.tar\n  bento output crawler --keep"
    )]
    Output(Fetch),
    /// Make a function's lifetime begin anew
    #[command(after_help = "Examples:\n  bento renew dropbox")]
    Renew(Renew),
    /// Install a function, invoke it once and end it, in one round trip
    #[command(
        after_help = "Examples:\n  bento run anna functions/hello hello name=Ada\n  bento run 127.0.0.1:8030 functions/echo echo --input -"
    )]
    Run(Run),
    /// Show the functions that are installed, or one of them with its log
    #[command(after_help = "Examples:\n  bento status\n  bento status hello")]
    Status(Status),
    /// End a function
    #[command(after_help = "Examples:\n  bento shutdown hello\n  bento shutdown hello --forget")]
    Shutdown(Shutdown),
    /// Fetch a web page through a node, padded, as one HTML file
    #[command(
        after_help = "Examples:\n  bento browse https://www.torproject.org\n  bento browse example.org --node anna --bucket 500000 -o page.html\n  bento browse example.org --sizes 1000000,4000000 --warc page.warc\n  bento browse example.org --offline"
    )]
    Browse(Browse),
    /// Fetch a page that `bento browse --offline` sent for, or list those that are awaited
    #[command(after_help = "Examples:\n  bento collect\n  bento collect www.torproject.org -o page.html\n  bento collect --list")]
    Collect(Collect),
    /// Keep a flow that looks the same whether anything is done or not, and browse in it
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  bento cover run anna --for 30min\n  bento browse example.org --cover\n  bento cover status"
    )]
    Cover(Cover),
    /// Leave files on a node for others to fetch, and fetch them
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  bento dropbox put report.pdf --gets 3\n  bento dropbox get 'http://….onion/l/…#k=…&n=report.pdf&p=1'\n  bento dropbox list"
    )]
    Dropbox(Dropbox),
    /// Keep a file in shards on several nodes, of which any few bring it back
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  bento shard put report.pdf\n  bento shard put archive.tar --need 3 --of 5 --over 6h\n  bento shard get report.pdf\n  bento shard repair report.pdf"
    )]
    Shard(Shard),
    /// Serve a site, or an onion service of your own, from as many nodes as its load needs
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  bento balance up --site public --most 4\n  bento balance status --watch\n  bento balance down"
    )]
    Balance(Balance),
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Nodes {
    #[command(subcommand)]
    pub(crate) change: Option<NodesChange>,
    /// Ask each node whether it can take the function in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) fit: Option<PathBuf>,
    /// Ask each node which conclave it has, and judge that
    #[arg(long, conflicts_with = "fit")]
    pub(crate) conclaves: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodesChange {
    /// Add a node to the list
    Add {
        /// A name for it: lower-case letters, digits and hyphens
        name: String,
        /// Its address: an onion service, or a port of this machine
        address: String,
    },
    /// Remove a node from the list
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// A node of the list, or an address
    pub(crate) node: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Policy {
    /// A node of the list, or an address
    pub(crate) node: String,
    /// Say line by line what of this manifest fits, what does not, and what would: a manifest.toml, or a function's directory
    #[arg(long, value_name = "MANIFEST")]
    pub(crate) explain: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    /// A node of the list, or an address
    pub(crate) node: String,
    /// The function's directory
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// What to call it from now on [default: the name in its manifest]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Show the tokens: whoever sees them can use the function
    #[arg(long)]
    pub(crate) show_tokens: bool,
}

/// Arguments, input and output of an invocation.
#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// The method
    pub(crate) method: String,
    /// Arguments of the method; a value is JSON if it can be read as such, else text
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) pairs: Vec<String>,
    /// Arguments of the method as one JSON object
    #[arg(long, value_name = "JSON")]
    pub(crate) arguments: Option<String>,
    /// The file that is the method's input, - for stdin [default: no input]
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Where the method's output goes, - for stdout [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the output file if it is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Invoke {
    /// The name of an installed function
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) call: Call,
    /// Leave when the node has the input; it keeps the output, sealed, for `bento output`
    #[arg(long, conflicts_with_all = ["output", "force"])]
    pub(crate) detach: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Fetch {
    /// The name of an installed function
    pub(crate) name: String,
    /// Which of its detached invocations [default: the latest]
    #[arg(value_name = "OUTPUT")]
    pub(crate) id: Option<String>,
    /// Where the output goes, - for stdout [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the output file if it is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Leave it at the node, to be fetched again
    #[arg(long)]
    pub(crate) keep: bool,
    /// Say at once how far it is if it has not ended
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Renew {
    /// The name of an installed function
    pub(crate) name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// A node of the list, or an address
    pub(crate) node: String,
    /// The function's directory
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    #[command(flatten)]
    pub(crate) call: Call,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// The name of an installed function
    pub(crate) name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Shutdown {
    /// The name of an installed function
    pub(crate) name: String,
    /// Forget its tokens without asking its node; it then runs to the end of its lifetime
    #[arg(long)]
    pub(crate) forget: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Browse {
    /// The page's address; https:// is put before it if it has no scheme
    pub(crate) url: String,
    /// The node to use: one of the list, or an address [default: the first of the list that answers and can take it]
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Pad the result to a multiple of this many bytes [default: 1000000]
    #[arg(long, value_name = "BYTES", value_parser = bytes, conflicts_with = "sizes")]
    pub(crate) bucket: Option<u64>,
    /// Pad the result to one of these sizes
    #[arg(long, value_name = "BYTES,…", value_parser = bytes, value_delimiter = ',')]
    pub(crate) sizes: Vec<u64>,
    /// Keep the page's scripts
    #[arg(long)]
    pub(crate) scripts: bool,
    /// Also write an archive of all that was fetched
    #[arg(long, value_name = "FILE")]
    pub(crate) warc: Option<PathBuf>,
    /// Where the page goes, - for stdout [default: the host's name and .html]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    pub(crate) force: bool,
    /// Let the function connect to more than ports 80 and 443 of public addresses: `accept 10.0.0.0/8:*`. The node's policy has the last word
    #[arg(long, value_name = "RULE")]
    pub(crate) connect: Vec<Rule>,
    /// Use the function in this directory in place of the one that came with this program
    #[arg(long, value_name = "DIR")]
    pub(crate) function: Option<PathBuf>,
    /// Fetch it in a flow that `bento cover run` keeps: nothing is sent but what the flow sends anyway
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "cover", conflicts_with_all = ["node", "bucket", "sizes", "connect", "function", "offline"])]
    pub(crate) cover: Option<String>,
    /// Leave right after asking: the page is left, padded and encrypted, in a Dropbox on another node, for `bento collect`
    #[arg(long, conflicts_with_all = ["output", "force", "warc"])]
    pub(crate) offline: bool,
    /// With --offline: the node for the Dropbox [default: another one of the list that can take it]
    #[arg(long, value_name = "NODE", requires = "offline")]
    pub(crate) dropbox: Option<String>,
    /// With --offline: how long the page is kept [default: 12 h]
    #[arg(long, value_name = "TIME", value_parser = span, requires = "offline")]
    pub(crate) keep: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Collect {
    /// What was sent for, by the name that `bento browse --offline` gave it [default: the latest]
    pub(crate) name: Option<String>,
    /// Where the page goes, - for stdout [default: the host's name and .html]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub(crate) force: bool,
    /// List what is awaited
    #[arg(long, conflicts_with_all = ["name", "output", "force"])]
    pub(crate) list: bool,
    /// Give it up: end both functions, as far as they can be reached, and forget them
    #[arg(long, conflicts_with_all = ["output", "force", "list"])]
    pub(crate) forget: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dropbox {
    /// Encrypt a file, leave it on a node and print a link to it; goes on where an upload of it was cut off
    #[command(
        after_help = "Examples:\n  bento dropbox put report.pdf\n  bento dropbox put report.pdf --gets 1 --expires 12h --node anna\n  bento dropbox put backup.tar --to age1… --no-pad --at dropbox\n\nWhoever has the link can fetch and read the file: with Tor Browser, or with `bento dropbox get`."
    )]
    Put(DropboxPut),
    /// Fetch a file by its link, or one of your own by its Dropbox and drop
    #[command(
        after_help = "Examples:\n  bento dropbox get 'http://….onion/l/…#k=…&n=report.pdf&p=1'\n  bento dropbox get dropbox/6f1c9a -o copy.pdf\n  bento dropbox get LINK --identity key.txt"
    )]
    Get(DropboxGet),
    /// List the drops of your Dropboxes
    #[command(after_help = "Examples:\n  bento dropbox list\n  bento dropbox list dropbox --json")]
    List(DropboxList),
    /// Erase a drop, and end its Dropbox if that was made for it and is empty then
    #[command(after_help = "Examples:\n  bento dropbox rm 6f1c9a\n  bento dropbox rm dropbox/6f1c9ab4d3e2f1a06f1c9ab4d3e2f1a0")]
    Rm(DropboxRm),
}

#[derive(Debug, clap::Args)]
pub(crate) struct DropboxPut {
    /// The file
    pub(crate) file: PathBuf,
    /// An installed Dropbox, by its name [default: one is installed for this file]
    #[arg(long, value_name = "NAME", conflicts_with = "node")]
    pub(crate) at: Option<String>,
    /// The node that it is installed on: one of the list, or an address [default: the first of the list that answers and can take it]
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Encrypt to this recipient, in the age format; for each recipient once [default: with a key that is in the link]
    #[arg(long, value_name = "AGE1…")]
    pub(crate) to: Vec<AgeRecipient>,
    /// Do not encrypt: a browser saves the file directly, and the node can read it
    #[arg(long, conflicts_with_all = ["to", "pad", "no_pad"])]
    pub(crate) plain: bool,
    /// How long it is kept [default: 24 h]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) expires: Option<Duration>,
    /// How often it can be fetched [default: any number]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) gets: Option<u64>,
    /// Pad to a multiple of this many bytes, so that the size says less [default: 1000000]
    #[arg(long, value_name = "BYTES", value_parser = bytes, conflicts_with = "no_pad")]
    pub(crate) pad: Option<u64>,
    /// Do not pad
    #[arg(long)]
    pub(crate) no_pad: bool,
    /// The name under which it is saved [default: the file's]
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DropboxGet {
    /// A link, or NAME/DROP for a drop of your own: an installed Dropbox, and the drop's id or how it begins
    #[arg(value_name = "LINK|NAME/DROP")]
    pub(crate) from: String,
    /// Where the file goes, - for stdout [default: the name that its sender gave it]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) force: bool,
    /// The file with your age identity, for what was encrypted to it
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DropboxList {
    /// An installed Dropbox, by its name [default: all]
    pub(crate) name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DropboxRm {
    /// The drop's id or how it begins; NAME/DROP for one that this program did not send
    #[arg(value_name = "DROP")]
    pub(crate) drop: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Balance {
    /// Install a load balancer and have it serve; goes on with one that ended with its node
    #[command(
        after_help = "Examples:\n  bento balance up --site public\n  bento balance up --site public --least 2 --most 8 --connections 20 --watch\n  bento balance up --site public --node anna --standby bert\n  bento balance up --origin ….onion:80 --key hs_ed25519_secret_key --on bert --on carl"
    )]
    Up(Box<BalanceUp>),
    /// Show the replicas, their load, and what is being decided and why
    #[command(after_help = "Examples:\n  bento balance status\n  bento balance status www --watch")]
    Status(BalanceStatus),
    /// End the replicas and the load balancer
    #[command(after_help = "Examples:\n  bento balance down\n  bento balance down www")]
    Down(BalanceDown),
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").args(["site", "origin"])))]
pub(crate) struct BalanceUp {
    /// Serve the files of this directory
    #[arg(long, value_name = "DIR", required_unless_present_any = ["origin", "name"])]
    pub(crate) site: Option<PathBuf>,
    /// Forward each connection to this onion service in place of a site
    #[arg(long, value_name = "ADDRESS.onion:PORT")]
    pub(crate) origin: Option<String>,
    /// What to call it; one of this name that runs no more is started again [default: load-balancer]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The node that it runs on, which gets to know the key: one of the list, or an address [default: the first of the list that can take it]
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Another node that gets to know the key too, and takes over publishing when the first is gone
    #[arg(long, value_name = "NODE")]
    pub(crate) standby: Option<String>,
    /// A node for replicas; for each once [default: all others of the list]
    #[arg(long, value_name = "NODE")]
    pub(crate) on: Vec<String>,
    /// The key of the address: Tor's hs_ed25519_secret_key, or a file with `ED25519-V3:…` [default: a new one]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Who alone may find it, as a line of Tor's authorized_clients; for each once [default: everybody]
    #[arg(long, value_name = "descriptor:x25519:KEY")]
    pub(crate) client: Vec<String>,
    /// Replicas at least [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) least: Option<u32>,
    /// Replicas at most [default: 4]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) most: Option<u32>,
    /// Open connections that a replica is meant for [default: 8]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: Option<u32>,
    /// Bytes a second that a replica is meant for [default: 1000000]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) rate: Option<u64>,
    /// Mean load above which there is one more [default: 0.8]
    #[arg(long, value_name = "PART")]
    pub(crate) high: Option<f64>,
    /// Mean load below which the others must be for there to be one less [default: 0.3]
    #[arg(long, value_name = "PART")]
    pub(crate) low: Option<f64>,
    /// How long it must be above [default: 3 s]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) up: Option<Duration>,
    /// How long it must be below [default: 60 s]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) down: Option<Duration>,
    /// Bytes a second that a node lets a replica move, both ways [default: what the function's manifest says]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) limit: Option<u64>,
    /// Bytes that each may move over its whole life [default: what the function's manifest says]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) traffic: Option<u64>,
    /// CPU time that each may use over its whole life [default: what the function's manifest says]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) cpu: Option<Duration>,
    /// How long it runs, and its replicas [default: 24 h]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) lifetime: Option<Duration>,
    /// Show its replicas until interrupted; it runs on
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BalanceStatus {
    /// Its name [default: the only one]
    pub(crate) name: Option<String>,
    /// Show it again each second, until interrupted
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BalanceDown {
    /// Its name [default: the only one]
    pub(crate) name: Option<String>,
    /// Also where replicas cannot be reached: they then end with their lifetime
    #[arg(long)]
    pub(crate) force: bool,
}

/// `"1000000"` or `"1 MiB"`.
fn bytes(text: &str) -> Result<u64, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return text.parse().map_err(|_| "this is too large to count".to_owned());
    }
    text.parse::<Size>().map(Size::as_bytes).map_err(|_| "give a number of bytes, or an amount such as `1 MiB`".to_owned())
}

fn span(text: &str) -> Result<Duration, String> {
    match text.parse::<Span>() {
        Ok(span) if span.as_millis() > 0 => Ok(span.duration()),
        Ok(_) => Err("it must be more than nothing".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_examples() {
        Args::command().debug_assert();
        let all = Args::command();
        let below = ["balance", "cover", "dropbox", "shard"].map(|name| all.find_subcommand(name).unwrap().get_subcommands());
        for command in all.get_subcommands().chain(below.into_iter().flatten()) {
            assert!(command.get_after_help().is_some(), "{}", command.get_name());
            assert!(!command.get_about().unwrap().to_string().ends_with('.'));
        }
    }

    #[test]
    fn amounts_are_bytes_with_or_without_a_unit() {
        assert_eq!((bytes("1000000"), bytes("1 MiB")), (Ok(1_000_000), Ok(1 << 20)));
        assert!(bytes("").is_err() && bytes("1 MB").is_err() && bytes("-1").is_err());
        assert!(span("0 s").is_err() && span("5 min").is_ok());
    }
}
