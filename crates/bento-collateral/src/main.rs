//! The program `bento-collateral`.
#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bento_attest::{Hardware, Roots, evidence::REPORT_BYTES_MAX, measurements::Product};
use bento_collateral::{AMD, Base, Getter, INTEL, INTEL_ROOT_CRL, Sources, Trouble, check_better, fetch, keep, kept};
use clap::Parser;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

/// In place of a node's name in front of a session: a quote is asked for. The conclave knows the same number.
const QUOTE: u8 = 255;

/// How long a conclave may take for that.
const ANSWER: Duration = Duration::from_secs(10);

/// Fetch what Intel or AMD published about the machine of a conclave
///
/// It goes with the conclave's evidence, and clients take it for 7 days: run this once a day. What is fetched is judged as clients will judge it, and only
/// then written; else the file stays as it was.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  bento-collateral /var/lib/bento/collateral\n  bento-collateral --intel https://pccs.example.org:8081 /var/lib/bento/collateral\n  bento-collateral --quote report.bin --product milan /var/lib/bento/collateral"
)]
struct Program {
    /// The file to write, which `collateral` in bentod.toml names
    file: PathBuf,
    /// The directory that the conclave and its host have in common: a quote is asked for there
    #[arg(long, default_value = "/run/bento-conclave", value_name = "DIR")]
    conclave: PathBuf,
    /// A quote or report of this machine, in place of asking for one
    #[arg(long, value_name = "FILE", conflicts_with = "conclave")]
    quote: Option<PathBuf>,
    /// Intel's service (PCS, version 4), or a cache of it (PCCS)
    #[arg(long, default_value = INTEL, value_name = "URL")]
    intel: String,
    /// AMD's service (KDS)
    #[arg(long, default_value = AMD, value_name = "URL")]
    amd: String,
    /// The processor, for reports of AMD that do not say: milan, genoa or turin
    #[arg(long, value_parser = product)]
    product: Option<Product>,
    /// Go on without AMD's list of revoked certificates: clients then accept the machine by their own word only. A file with a list that is in force stays
    #[arg(long)]
    without_crl: bool,
    /// Certificates that are trusted in TLS (PEM)
    #[arg(long, default_value = "/etc/ssl/certs/ca-certificates.crt", value_name = "FILE")]
    certificates: PathBuf,
    /// Longest time for each answer, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600), value_name = "SECONDS")]
    wait: u64,
}

fn product(text: &str) -> Result<Product, String> {
    let all = [Product::Milan, Product::Genoa, Product::Turin];
    all.into_iter().find(|product| product.name().eq_ignore_ascii_case(text)).ok_or_else(|| "it is milan, genoa or turin".into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Program::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("Error: {trouble}\nHint: {}", trouble.hint());
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what it says is for the operator")]
async fn run(program: Program) -> Result<(), Trouble> {
    let sources = Sources {
        intel_root_crl: (program.intel == INTEL).then(|| INTEL_ROOT_CRL.parse()).transpose()?,
        intel: program.intel.parse::<Base>()?,
        amd: program.amd.parse::<Base>()?,
        product: program.product,
        without_crl: program.without_crl,
    };
    let getter = Getter::new(&program.certificates, Duration::from_secs(program.wait))?;
    let report = match &program.quote {
        Some(path) => read(path).map_err(|source| Trouble::File { doing: "reading", path: path.clone(), source })?,
        None => asked(&program.conclave).await?,
    };
    let (roots, now) = (Roots::<Hardware>::production(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    let fetched = fetch(&getter, &sources, &roots, &report, now).await?;
    if let Some(before) = kept(&program.file, &roots, &report, program.without_crl, now) {
        check_better(&before, &fetched)?;
    }
    let (collateral, published) = fetched;
    keep(&program.file, &collateral)?;
    println!("written    {}", program.file.display());
    println!("state      {}", published.state);
    for advisory in &published.advisories {
        println!("advisory   {advisory}");
    }
    for (what, is) in &published.facts {
        println!("{what}: {is}");
    }
    let left = published.until.saturating_sub(now);
    println!("holds for  {} d {} h: run this again before", left / 86_400, left % 86_400 / 3600);
    if let Some(refused) = &published.refused {
        eprintln!("Warning: clients will refuse this machine all the same: {refused}");
    }
    Ok(())
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(REPORT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Asks the conclave for a quote. No channel can be bound to that.
async fn asked(directory: &Path) -> Result<Vec<u8>, Trouble> {
    let path = directory.join("sessions.sock");
    let asking = async {
        let mut stream = UnixStream::connect(&path).await?;
        stream.write_all(&[QUOTE]).await?;
        let mut bytes = Vec::new();
        stream.take(REPORT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).await?;
        if bytes.is_empty() { Err(std::io::Error::other("it gave none: is it the conclave of this version?")) } else { Ok(bytes) }
    };
    let asked = timeout(ANSWER, asking).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    asked.map_err(|source| Trouble::File { doing: "asking the conclave for a quote at", path, source })
}
