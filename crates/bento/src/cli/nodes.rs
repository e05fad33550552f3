//! The list of nodes: `nodes.toml`, which people edit by hand as well.
//!
//! ```toml
//! [anna]
//! address = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion"
//! ```

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use bento::NodeAddress;
use serde::Deserialize;
use serde_json::json;

use super::{
    args, ask,
    context::{Context, function},
    failure::{Failure, NODE, REFUSED},
    place::{lock, make_private, write_whole},
    table::table,
};

/// Longest list that is read, in bytes: thousands of nodes.
const BYTES_MAX: u64 = 1 << 20;

/// The list in its file.
#[derive(Debug)]
pub(crate) struct NodeList {
    path: PathBuf,
    /// Are only the conclaves of nodes wanted?
    conclaves: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    address: String,
}

/// `bento nodes`.
pub(crate) async fn run(context: &Context, args: args::Nodes) -> Result<(), Failure> {
    match args.change {
        Some(args::NodesChange::Add { name, address }) => add(context, &name, &address),
        Some(args::NodesChange::Remove { name }) => remove(context, &name),
        None => match args.fit {
            Some(directory) => fit(context, &directory).await,
            None if args.conclaves => super::conclave::all(context).await,
            None => list(context),
        },
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let list = context.nodes()?;
    let nodes = list.read()?;
    let json: Vec<_> = nodes.iter().map(|(name, address)| json!({"name": name, "address": address.to_string()})).collect();
    let mut rows: Vec<Vec<String>> = nodes.iter().map(|(name, address)| vec![name.clone(), address.to_string()]).collect();
    if rows.is_empty() {
        rows.push(vec!["There is no node in the list yet; `bento nodes add NAME ADDRESS` adds one.".into()]);
    }
    context.say(&table(&rows), &json!({ "nodes": json }))
}

fn add(context: &Context, name: &str, address: &str) -> Result<(), Failure> {
    if !is_name(name) {
        return Err(Failure::input(NAME).with_hint("for example `anna`"));
    }
    let address: NodeAddress =
        address.parse().map_err(|error: bento::AddressError| Failure::input(error.to_string()).with_hint("copy the address again"))?;
    let list = context.nodes()?;
    let _lock = list.lock()?;
    let mut text = list.text()?;
    if list.parse(&text)?.iter().any(|(other, _)| other == name) {
        return Err(Failure::input(format!("there is a node `{name}` in the list already"))
            .with_hint(format!("`bento nodes remove {name}`, or choose another name")));
    }
    // What a person wrote stays as it is: a node is added at the end.
    if !text.is_empty() {
        text.truncate(text.trim_end().len());
        text.push_str("\n\n");
    }
    text.push_str(&format!("[{name}]\naddress = \"{address}\"\n"));
    list.write(&text)?;
    context.say(&format!("Added {name}.\n"), &json!({"added": name, "address": address.to_string()}))
}

fn remove(context: &Context, name: &str) -> Result<(), Failure> {
    let list = context.nodes()?;
    let _lock = list.lock()?;
    let text = list.without(&list.text()?, name)?;
    list.write(&text)?;
    context.say(&format!("Removed {name}.\n"), &json!({"removed": name}))
}

async fn fit(context: &Context, directory: &std::path::Path) -> Result<(), Failure> {
    let bundle = function(directory)?;
    let asked = ask::all(context, context.nodes()?.filled()?).await;
    let mut rows = Vec::new();
    let mut json = Vec::new();
    let mut status = NODE;
    for node in &asked {
        let (fits, why, line) = match &node.told {
            Err(failure) => (None, failure.text.clone(), None),
            Ok(told) => match told.policy.compare(&bundle.manifest).into_iter().find(|line| !line.fits) {
                None => (Some(true), String::new(), None),
                Some(line) => {
                    let text = format!("it needs {} of {}, and this node offers {}", line.needs, line.key, line.offers);
                    (Some(false), bento::line(&text), Some(line))
                }
            },
        };
        status = match fits {
            Some(true) => 0,
            Some(false) if status != 0 => REFUSED,
            _ => status,
        };
        let word = match fits {
            Some(true) => "fits",
            Some(false) => "refuses",
            None => "no answer",
        };
        rows.push(vec![node.name.clone(), word.to_owned(), why.clone()]);
        let why = (!why.is_empty()).then_some(why);
        json.push(json!({"name": node.name, "address": node.address.to_string(), "fits": fits, "line": line, "reason": why}));
    }
    let name = &bundle.manifest.name;
    context.say(&table(&rows), &json!({"function": name, "nodes": json}))?;
    match status {
        0 => Ok(()),
        REFUSED => {
            Err(Failure::new(REFUSED, format!("no node of the list can take {name}"))
                .with_hint("ask for less in its manifest, or add nodes"))
        }
        _ => Err(Failure::new(NODE, "no node of the list answers").with_hint("try again, or look at their addresses")),
    }
}

/// What a name may be. It has no dot and no colon, so that it is never taken for an address.
const NAME: &str = "a node's name is 1 to 40 lower-case letters, digits and hyphens";

pub(super) fn is_name(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

impl NodeList {
    pub(crate) fn at(path: PathBuf, conclaves: bool) -> Self {
        Self { path, conclaves }
    }

    /// All nodes, by name; their conclaves where only those are wanted.
    pub(crate) fn read(&self) -> Result<Vec<(String, NodeAddress)>, Failure> {
        let mut nodes = self.parse(&self.text()?)?;
        if self.conclaves {
            nodes.iter_mut().for_each(|(_, address)| *address = address.in_conclave());
        }
        Ok(nodes)
    }

    /// All nodes, of which there is at least one.
    pub(crate) fn filled(&self) -> Result<Vec<(String, NodeAddress)>, Failure> {
        let nodes = self.read()?;
        if nodes.is_empty() {
            return Err(Failure::input("there is no node in the list").with_hint("`bento nodes add NAME ADDRESS` adds one"));
        }
        Ok(nodes)
    }

    fn text(&self) -> Result<String, Failure> {
        let failed = |error: io::Error| Failure::file("reading", &self.path, &error);
        match fs::metadata(&self.path) {
            Ok(found) if found.len() > BYTES_MAX => Err(self.wrong("it is too long")),
            Ok(_) => fs::read_to_string(&self.path).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(failed(error)),
        }
    }

    fn parse(&self, text: &str) -> Result<Vec<(String, NodeAddress)>, Failure> {
        let entries: BTreeMap<String, Entry> =
            toml::from_str(text).map_err(|error| self.wrong(&bento::line(&format!("{} {}", place(text, &error), error.message()))))?;
        let read = |(name, entry): (String, Entry)| match entry.address.parse() {
            _ if !is_name(&name) => Err(self.wrong(NAME)),
            Ok(address) => Ok((name, address)),
            Err(error) => Err(self.wrong(&format!("the address of `{}`: {error}", bento::line(&name)))),
        };
        entries.into_iter().map(read).collect()
    }

    /// The text without a node: the lines from its heading to the next one go, all others stay as the person wrote them.
    fn without(&self, text: &str, name: &str) -> Result<String, Failure> {
        let before = self.parse(text)?;
        if !before.iter().any(|(other, _)| other == name) {
            return Err(
                Failure::input(format!("there is no node `{}` in the list", bento::line(name))).with_hint("`bento nodes` shows the list")
            );
        }
        let mut kept = String::new();
        let mut inside = false;
        for line in text.lines() {
            if let Some(heading) = line.trim().strip_prefix('[') {
                let heading = heading.split(']').next().unwrap_or_default();
                inside = heading.trim().trim_matches(['"', '\'']) == name;
            }
            if !inside {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        // TOML can say the same in other ways; those are left to the person.
        let wanted: Vec<_> = before.into_iter().filter(|(other, _)| other != name).collect();
        if self.parse(&kept).ok() != Some(wanted) {
            return Err(Failure::input(format!("the list is written in a way that `{name}` cannot be taken out of"))
                .with_hint(format!("take it out of {} by hand", self.path.display())));
        }
        Ok(kept)
    }

    /// So that of two programs at once neither loses what the other writes.
    fn lock(&self) -> Result<std::fs::File, Failure> {
        if let Some(parent) = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            make_private(parent)?;
        }
        lock(&self.path)
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        write_whole(&self.path, text.as_bytes(), 0o644).map_err(|error| Failure::file("writing", &self.path, &error))
    }

    fn wrong(&self, why: &str) -> Failure {
        Failure::input(format!("{} is no list of nodes: {why}", self.path.display()))
            .with_hint("each node is `[NAME]` and below it `address = \"….onion\"`")
    }
}

fn place(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("line {line}:")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# mine\n[anna]\naddress = \"127.0.0.1:1\" # first\n\n[ \"bob\" ]\naddress = \"127.0.0.1:2\"\n";

    #[test]
    fn a_node_is_taken_out_and_what_the_person_wrote_stays() {
        let list = NodeList::at("nodes.toml".into(), false);
        assert_eq!(list.parse(LIST).unwrap().len(), 2);
        assert_eq!(list.without(LIST, "bob").unwrap(), "# mine\n[anna]\naddress = \"127.0.0.1:1\" # first\n\n");
        assert_eq!(list.without(LIST, "anna").unwrap(), "# mine\n[ \"bob\" ]\naddress = \"127.0.0.1:2\"\n");
        assert!(list.without(LIST, "carl").is_err());
        let inline = "anna = { address = \"127.0.0.1:1\" }\n";
        assert!(list.without(inline, "anna").unwrap_err().hint.unwrap().contains("by hand"));
    }

    #[test]
    fn a_list_that_is_none_is_told_with_its_line() {
        let list = NodeList::at("nodes.toml".into(), false);
        for (text, says) in [
            ("[anna]\naddres = \"127.0.0.1:1\"\n", "line 2"),
            ("[anna]\naddress = 1\n", "line 2"),
            ("[anna]\naddress = \"example.org\"\n", "address of `anna`"),
            ("[Anna]\naddress = \"127.0.0.1:1\"\n", "lower-case"),
            ("[anna\n", "line 1"),
        ] {
            let failure = list.parse(text).unwrap_err();
            assert!(failure.text.contains(says) && failure.status == 2, "{failure}");
        }
    }
}
