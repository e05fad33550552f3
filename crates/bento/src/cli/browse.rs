//! `bento browse`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bento::{Browse, Kind, NodeAddress, Page, Sizes, Standard};
use bento_proto::{bundle::Bundle, exit_policy::Rule, node::Description};
use serde_json::json;

use super::{
    args, ask,
    context::{Context, function},
    failure::{FUNCTION, Failure, NODE, REFUSED},
    fits,
    sink::Sink,
};

/// Most numbers that are tried for a page's file.
const NUMBERS_MAX: u32 = 10_000;

/// What a page's size is padded to where its size is not seen.
const IN_FLOW: u64 = 1024;

/// Missing resources that are named one by one.
const MISSING_SHOWN: usize = 5;

/// Fetches a page through a node and writes it to a file.
pub(crate) async fn run(context: &Context, args: args::Browse) -> Result<(), Failure> {
    let url = address(&args.url)?;
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    if context.options.json && to_stdout {
        return Err(Failure::input("with `--json` stdout is for the JSON object").with_hint("give a file for the page: `-o FILE`"));
    }
    if args.warc.as_deref() == Some(Path::new("-")) {
        return Err(Failure::input("the archive goes to a file").with_hint("for example `--warc page.warc`"));
    }
    let bundle = match &args.function {
        Some(directory) => function(directory)?,
        None => Standard::Browser.bundle().map_err(|error| Failure::input(format!("the browser that came with this program: {error}")))?,
    };
    // A page at another port is what was asked for, so the function may go there as well; unless it was said where it may go.
    let port = port(&url)
        .filter(|port| ![80, 443].contains(port) && args.connect.is_empty())
        .and_then(|port| format!("accept *:{port}").parse().ok());
    let rules: Vec<Rule> = args.connect.iter().cloned().chain(port).collect();
    let bundle = bento::connecting_to(bundle, &rules)
        .map_err(|error| Failure::input(format!("adding to what the browser may connect to: {error}")))?;
    let wrong = |error: bento::SizesError| Failure::input(error.to_string()).with_hint("for example `--bucket 1000000`");
    let sizes = match args.bucket {
        Some(bucket) => Sizes::bucket(bucket).map_err(wrong)?,
        None if args.sizes.is_empty() => Sizes::default(),
        None => Sizes::one_of(args.sizes.clone()).map_err(wrong)?,
    };
    if args.offline {
        let browse = Browse { url, sizes, scripts: args.scripts, warc: false };
        return super::errand::send(context, browse, bundle, &args).await;
    }
    // Before anything is asked of anybody: a file that is in the way is told at once.
    let chosen = args.output.clone().map_or_else(|| free(&host(&url)), Ok)?;
    let sink = Sink::open(Some(&chosen), args.force).await?;
    let archive = match &args.warc {
        Some(path) => Some(Sink::open(Some(path), args.force).await?),
        None => None,
    };

    if let Some(flow) = &args.cover {
        // Padding within the flow would only take time.
        let sizes = Sizes::bucket(IN_FLOW).map_err(wrong)?;
        let browse = Browse { url, sizes, scripts: args.scripts, warc: archive.is_some() };
        let (name, page) = super::cover::fetch(context, flow, &browse, &bundle).await?;
        return deliver(context, &browse, &page, &name, None, (sink, archive), args.output.is_some()).await;
    }
    let (name, node) = match &args.node {
        Some(node) => context.node(node)?,
        None => pick(context, &bundle, None).await?,
    };
    let browse = Browse { url, sizes, scripts: args.scripts, warc: archive.is_some() };
    let client = context.client(&node).await?;
    let mut begun = false;
    let fetched = browse.fetch(&client, &node, &bundle, |bytes, total| {
        if !std::mem::replace(&mut begun, true) {
            context.show.step(&format!("{name} ran {}; {total} bytes come", bundle.manifest.name));
        }
        context.show.received(bytes, Some(total));
    });
    let page = fetched.await.map_err(|error| {
        let mut failure = Failure::about(error, &bundle.manifest.name, args.function.as_deref());
        // The browser that came with this program lies in no directory that `--fit` could be given.
        if let (REFUSED, None, Some(hint)) = (failure.status, &args.function, &mut failure.hint) {
            *hint = hint.replace(
                "`bento nodes --fit DIR` lists the nodes that can take it",
                "without `--node`, a node of the list that can take it is used",
            );
        }
        failure
    })?;
    deliver(context, &browse, &page, &name, Some(&node), (sink, archive), args.output.is_some()).await
}

/// Brings a page to its place, and says so.
pub(crate) async fn deliver(
    context: &Context,
    browse: &Browse,
    page: &Page,
    name: &str,
    node: Option<&NodeAddress>,
    (mut sink, mut archive): (Sink, Option<Sink>),
    given: bool,
) -> Result<(), Failure> {
    context.show.step(&format!("received {} bytes, of which {} are padding", page.received, page.padding));

    if let Kind::Error(reason) = &page.kind {
        report(context, page, name, node, None, None)?;
        return Err(Failure::new(FUNCTION, format!("the page could not be fetched: {reason}"))
            .with_hint("look at the address, or try another node"));
    }
    context.show.clear();
    sink.write(&page.html).await?;
    let file = finish(sink, given, &browse.url, &page.html).await?;
    let warc = match archive.take() {
        Some(mut sink) => {
            sink.write(&page.warc).await?;
            sink.finish().await?
        }
        None => None,
    };
    report(context, page, name, node, file, warc)
}

/// Gives the page its name. When somebody has taken the one that was free, it takes the next.
async fn finish(sink: Sink, given: bool, url: &str, html: &[u8]) -> Result<Option<PathBuf>, Failure> {
    let Sink::File { ref path, .. } = sink else { return sink.finish().await };
    let taken = !given && path.exists();
    if !taken {
        return sink.finish().await;
    }
    let mut next = Sink::open(Some(&free(&host(url))?), false).await?;
    next.write(html).await?;
    next.finish().await
}

fn report(
    context: &Context,
    page: &Page,
    name: &str,
    node: Option<&NodeAddress>,
    file: Option<PathBuf>,
    warc: Option<PathBuf>,
) -> Result<(), Failure> {
    let error = match &page.kind {
        Kind::Page => None,
        Kind::Error(reason) => Some(reason),
    };
    let json = json!({
        "outcome": if error.is_none() { "page" } else { "error" },
        "error": error,
        "file": file.as_deref().map(Path::display).map(|path| path.to_string()),
        "warc": warc.as_deref().map(Path::display).map(|path| path.to_string()),
        "url": page.url,
        "status": page.status,
        "title": page.title,
        "node": {"name": name, "address": node.map(ToString::to_string)},
        "received": page.received,
        "padding": page.padding,
        "html": page.html.len(),
        "fetched": page.fetched,
        "bytes": page.bytes,
        "missing": page.missing,
    });
    // A page on stdout leaves no room for words, and a page that did not come is told as an error.
    let Some(file) = file.filter(|_| !context.options.json) else {
        return if context.options.json { context.say("", &json) } else { Ok(()) };
    };
    let mut text = format!("{}\n", if page.title.is_empty() { "(without a title)" } else { &page.title });
    if page.status >= 400 {
        text.push_str(&format!("The site answered with HTTP status {}.\n", page.status));
    }
    text.push_str(&format!("Through {name}: {} resources with {} bytes, packed into {}\n", page.fetched, page.bytes, file.display()));
    if let Some(warc) = warc {
        text.push_str(&format!("The archive is in {}\n", warc.display()));
    }
    if !page.missing.is_empty() {
        text.push_str(&format!("Missing: {}\n", page.missing.len()));
        for one in page.missing.iter().take(MISSING_SHOWN) {
            text.push_str(&format!("  {}: {}\n", clip(&one.url), one.reason));
        }
    }
    context.say(&text, &json)
}

fn clip(text: &str) -> String {
    if text.chars().count() > 80 { text.chars().take(79).chain(['…']).collect() } else { text.to_owned() }
}

/// The first node of the list, but for one, that answers and can take the function.
pub(crate) async fn pick(context: &Context, bundle: &Bundle, other: Option<&NodeAddress>) -> Result<(String, NodeAddress), Failure> {
    let mut nodes = context.nodes()?.filled()?;
    nodes.retain(|(_, address)| Some(address) != other);
    if nodes.is_empty() {
        return Err(Failure::input("the list has only one node, and this needs two").with_hint("add another with `bento nodes add`"));
    }
    let count = nodes.len();
    let nobody = match search(context, nodes, bundle).await {
        Ok(found) => return Ok(found),
        Err(nobody) => nobody,
    };
    // One node's own words say more than a count.
    if let Some((name, told)) = nobody.refusing.first() {
        let why = fits::short(told, bundle).unwrap_or_default();
        let text = if count == 1 {
            format!("{name} would refuse: {why}")
        } else {
            let of = nobody.of_the_list();
            format!("no node {of} can take {}; {name}: {why}{}", bundle.manifest.name, ask::unheard(nobody.silent.len()))
        };
        return Err(Failure::new(REFUSED, text).with_hint("add nodes with `bento nodes add`; `bento policy NODE` shows what one allows"));
    }
    Err(nobody.silence())
}

/// Nodes none of which takes a function.
#[derive(Debug)]
pub(crate) struct Nobody {
    /// Those whose policy does not cover it.
    pub(crate) refusing: Vec<(String, Description)>,
    /// Those that did not answer.
    pub(crate) silent: Vec<(String, Failure)>,
}

impl Nobody {
    /// Which nodes refuse.
    pub(crate) fn of_the_list(&self) -> &'static str {
        if self.silent.is_empty() { "of the list" } else { "that answered" }
    }

    /// What is said where no node answered at all.
    pub(crate) fn silence(self) -> Failure {
        match self.silent.into_iter().next() {
            Some((name, failure)) => Failure { text: format!("no node of the list answers; {name}: {}", failure.text), ..failure },
            None => Failure::new(NODE, "no node of the list answers").with_hint("try again, or look at their addresses"),
        }
    }
}

/// The first of these nodes that answers and whose policy covers the function.
pub(crate) async fn search(context: &Context, nodes: Vec<(String, NodeAddress)>, bundle: &Bundle) -> Result<(String, NodeAddress), Nobody> {
    let function = &bundle.manifest.name;
    context.show.now(&format!("asking {} for the policy", ask::counted(nodes.len())));
    let mut questions = ask::start(context, nodes).await;
    let mut nobody = Nobody { refusing: Vec::new(), silent: Vec::new() };
    while let Some(answer) = questions.join_next().await {
        let Ok((_, asked)) = answer else { continue };
        let told = match asked.told {
            Ok(told) => told,
            Err(failure) => {
                context.show.step(&format!("{}: {}", asked.name, failure.text));
                nobody.silent.push((asked.name, failure));
                continue;
            }
        };
        match fits::short(&told, bundle) {
            None => {
                context.show.step(&format!("{} answered, and its policy covers what {function} needs", asked.name));
                return Ok((asked.name, asked.address));
            }
            Some(why) => {
                context.show.step(&format!("{} would refuse: {why}", asked.name));
                nobody.refusing.push((asked.name, told));
            }
        }
    }
    Err(nobody)
}

/// The page's address with a scheme.
fn address(given: &str) -> Result<String, Failure> {
    let wrong = |text: &str| Err(Failure::input(text).with_hint("for example `bento browse https://www.torproject.org`"));
    if given.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        return wrong("the page's address has a space or a control character in it");
    }
    let lower = given.to_ascii_lowercase();
    let url = match given.split_once("://") {
        Some(_) if lower.starts_with("http://") || lower.starts_with("https://") => given.to_owned(),
        Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) => {
            return wrong("only pages at http:// and https:// can be fetched");
        }
        _ => format!("https://{given}"),
    };
    if host(&url).is_empty() {
        return wrong("the page's address names no host");
    }
    Ok(url)
}

/// The port that the address names, if it names one.
fn port(url: &str) -> Option<u16> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    // The last colon may be one of an IPv6 address; what follows it then is no number.
    authority.rsplit_once(':')?.1.parse().ok()
}

/// The host's name in the address that was given, as far as it can be part of a file's name.
pub(crate) fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let bare = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let safe = |letter: char| if letter.is_alphanumeric() || letter == '-' || letter == '.' { letter } else { '-' };
    let name: String = bare.chars().map(safe).take(60).collect();
    name.trim_matches(['.', '-']).to_lowercase()
}

/// `HOST.html`, or with the first number that is free.
pub(crate) fn free(host: &str) -> Result<PathBuf, Failure> {
    let numbered = (2..NUMBERS_MAX).map(|number| format!("{host}-{number}.html"));
    let mut names = std::iter::once(format!("{host}.html")).chain(numbered).map(PathBuf::from);
    let found = names.find(|path| fs::symlink_metadata(path).is_err());
    found.ok_or_else(|| Failure::input("there are very many pages of this host here").with_hint("give a name with `-o FILE`"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_gets_a_scheme_and_other_schemes_are_refused() {
        for (given, url) in [
            ("example.org", "https://example.org"),
            ("http://example.org/a?b#c", "http://example.org/a?b#c"),
            ("HTTPS://example.org", "HTTPS://example.org"),
            ("example.org:8443/x", "https://example.org:8443/x"),
            ("example.org/?next=http://other.example", "https://example.org/?next=http://other.example"),
        ] {
            assert_eq!(address(given).unwrap(), url);
        }
        for wrong in ["", "ftp://example.org", "file:///etc/passwd", "https://", "https:///x", "a b", "https://example.org/\n", "about://x"]
        {
            assert_eq!(address(wrong).unwrap_err().status, 2, "{wrong:?}");
        }
    }

    #[test]
    fn the_port_is_that_of_the_host() {
        for (url, expected) in [
            ("https://example.org:8443/x:1", Some(8443)),
            ("https://example.org/", None),
            ("https://user:1@example.org/", None),
            ("https://[2001:db8::1]/", None),
            ("https://[2001:db8::1]:81/", Some(81)),
            ("https://example.org:99999/", None),
        ] {
            assert_eq!(port(url), expected, "{url}");
        }
    }

    #[test]
    fn a_file_is_named_after_the_host_alone() {
        for (url, name) in [
            ("https://www.Example.org:443/a/../b", "www.example.org"),
            ("https://user:word@example.org", "example.org"),
            ("https://[2001:db8::1]:80/", "2001-db8--1"),
            ("https://../../etc/passwd", ""),
            ("https://.hidden.example", "hidden.example"),
            ("https://example.org\\@other.example/", "example.org"),
        ] {
            assert_eq!(host(url), name, "{url}");
        }
    }

    proptest! {
        #[test]
        fn no_address_leads_to_a_file_elsewhere(text in ".{0,80}") {
            let name = host(&text);
            prop_assert!(!name.contains(['/', '\\', '\0']) && !name.starts_with('.') && !name.starts_with('-'));
            let _ = address(&text);
        }
    }
}
