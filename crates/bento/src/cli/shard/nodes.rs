//! Which nodes take the shards, and which one makes them.

use std::{collections::BTreeMap, time::Duration};

use bento::{Candidate, Candidates, FileKey, Load, Mode, NodeAddress};
use bento_proto::{bundle::Bundle, limits::ARGUMENTS_BYTES_MAX, node::Description, pad::HEAD};
use tokio::time::{Instant, timeout_at};

use super::{Chance, drip, kept::Task, spooled::Padding, work};
use crate::cli::{
    ask::{self, Asked},
    context::Context,
    failure::{Failure, REFUSED},
    fits,
};

/// Functions that Shard may have elsewhere beyond what it needs, so that a node that fails can be replaced.
const SPARE: u32 = 2;

/// How long nodes are waited for when enough have answered.
const ENOUGH: Duration = Duration::from_secs(5);

/// Most nodes that Shard is told of. It is told in the arguments, which have a greatest length.
const NODES_MAX: usize = 100;

/// Bytes of the arguments that one node takes at most: an onion address with its port and `/conclave`, and a number for its operator.
const NODE_BYTES: usize = 128;

/// Bytes of all others, with the address to avoid.
const OTHER_BYTES: usize = 512;

/// Why a conclave takes no shard here.
const CONCLAVE: &str = "its conclave takes shards with `--require-conclave` alone";

/// The package that the mode fountain needs.
const RAPTORQ: &str = "raptorq";

/// What was chosen.
#[derive(Debug)]
pub(super) struct Chosen {
    /// Who makes the shards, by name,
    pub(super) host: String,
    /// and address.
    pub(super) node: NodeAddress,
    /// How many functions it may have elsewhere.
    pub(super) installs: u32,
    /// Who may take shards.
    pub(super) to: Candidates,
}

/// What is asked for.
pub(super) struct Wanted<'a> {
    pub(super) load: Load,
    pub(super) task: Task,
    /// How many nodes have to take a shard.
    pub(super) count: usize,
    /// Who is to make the shards, if that was said.
    pub(super) host: Option<&'a str>,
    /// The file that is to be sent, where another one could be sent in its place.
    pub(super) file: Option<File>,
}

/// A file before it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    /// Its bytes.
    pub(super) size: u64,
    pub(super) padding: Padding,
}

impl File {
    /// Its bytes when it is sealed.
    pub(super) fn sealed(self) -> Result<u64, Failure> {
        let wrong = |error: std::io::Error| Failure::input(error.to_string()).with_hint("send less of it at once");
        let plain = self.padding.total(self.size.saturating_add(HEAD as u64)).map_err(wrong)?;
        FileKey::sealed_size(plain).ok_or_else(|| Failure::input("the file is too long to be encrypted"))
    }
}

/// What shards and the one who makes them need of their nodes.
struct Needs {
    /// What a node with a shard takes: the Dropbox for it, and one for what leaves in portions before.
    shelf: Vec<Bundle>,
    /// Shard, by how many functions it may have elsewhere, the most first.
    shard: Vec<(u32, Bundle)>,
    mode: Mode,
}

impl Needs {
    fn of(wanted: &Wanted<'_>) -> Result<Self, Failure> {
        let Load { installs: least, size, keep, split, .. } = wanted.load;
        let shard = |installs| Ok::<_, Failure>((installs, work::bundle(wanted.task, &Load { installs, ..wanted.load })?));
        let (most, least) = (shard(least + SPARE)?, shard(least)?);
        let mut shelf = vec![wanted.load.shelf_bundle(&least.1)?];
        if let Some(File { padding: Padding::Portions(each), .. }) = wanted.file {
            let portions = usize::try_from(size.div_ceil(each)).unwrap_or(usize::MAX);
            shelf.push(drip::intake(portions, split.of as usize, each, keep)?);
        }
        Ok(Self { shelf, shard: vec![most, least], mode: split.mode })
    }
}

/// What one node says to that.
struct Fit {
    name: String,
    address: NodeAddress,
    told: Description,
    takes: Result<(), String>,
    makes: Result<u32, String>,
}

/// Asks the nodes of the list, and chooses.
pub(super) async fn choose(context: &Context, wanted: &Wanted<'_>) -> Result<Chosen, Failure> {
    let (needs, most) = (Needs::of(wanted)?, most(context)?);
    let mut list = context.nodes()?.filled()?;
    let host = wanted.host.map(|host| context.node(host)).transpose()?;
    if let Some((name, address)) = host.as_ref().filter(|(_, address)| !list.iter().any(|(_, known)| known == address)) {
        list.push((name.clone(), address.clone()));
    }
    let is_host = |fit: &Fit| host.as_ref().is_none_or(|(_, address)| *address == fit.address);
    // What was given by its address alone is nobody's of the list, and gets no shard.
    let listed = context.nodes()?.read()?;
    let may_be_listed = |fit: &Fit| listed.iter().any(|(_, known)| *known == fit.address);
    let may_take = |fit: &Fit| fit.takes.is_ok() && may_be_listed(fit);

    let (count, mut fits, mut silent) = (list.len(), Vec::new(), Vec::new());
    let mut questions = ask::start(context, list).await;
    let mut end = None;
    context.show.now(&format!("asking {} for the policy", ask::counted(count)));
    loop {
        let next = match end {
            Some(end) => timeout_at(end, questions.join_next()).await.ok().flatten(),
            None => questions.join_next().await,
        };
        let Some(answer) = next else { break };
        let Ok((_, Asked { name, address, told })) = answer else { continue };
        match told {
            Ok(told) => {
                let mut fit = fit(&needs, name, address, told);
                if fit.address.is_conclave() && !context.requires_conclave() {
                    fit.takes = Err(CONCLAVE.to_owned());
                }
                fits.push(fit);
            }
            Err(failure) => {
                context.show.step(&format!("{name}: {}", failure.text));
                silent.push(format!("{name}: {}", failure.text));
            }
        }
        let is_enough =
            fits.iter().filter(|fit| may_take(fit)).count() >= wanted.count && fits.iter().any(|fit| is_host(fit) && fit.makes.is_ok());
        if is_enough && end.is_none() {
            end = Some(Instant::now() + ENOUGH);
        }
    }
    let takers: Vec<&Fit> = fits.iter().filter(|fit| may_take(fit)).collect();
    if takers.len() < wanted.count {
        let refused = fits.iter().filter_map(|fit| Some(format!("{}: {}", fit.name, fit.takes.as_ref().err()?)));
        let unheard = silent.len();
        let failure = too_few(wanted.count, takers.len(), (count, unheard), refused.chain(silent).collect());
        return Err(or_smaller(failure, wanted, &fits, (is_host, may_be_listed), ", or give a larger `--need` for smaller shards"));
    }
    let makers: Vec<&Fit> = fits.iter().filter(|fit| is_host(fit) && fit.makes.is_ok()).collect();
    // One that takes no shard is better than one that has both.
    let spare: Vec<&Fit> = makers.iter().copied().filter(|fit| !may_take(fit)).collect();
    let Some(maker) = any(if spare.is_empty() { &makers } else { &spare })? else {
        let why = fits.iter().filter(|fit| is_host(fit)).find_map(|fit| Some(format!("{}: {}", fit.name, fit.makes.as_ref().err()?)));
        let hint = match wanted.task {
            Task::Spread => {
                "it takes a node with the image `shard`, and `installs` for all shards: add one, or ask for less: `--of`, `--keep`"
            }
            Task::Repair { thorough: true, .. } => "without `--thorough` it needs less; or add a node with `bento nodes add`",
            Task::Repair { .. } => "add a node that offers that with `bento nodes add`; `bento shard get` needs less",
        };
        let failure = no_maker(why.or(silent.into_iter().next()), hint);
        return Err(or_smaller(failure, wanted, &fits, (is_host, may_be_listed), ""));
    };
    let takers = shuffled(takers, most)?;
    if takers.len() < wanted.count {
        return Err(Failure::input(format!("Shard can be told of {} nodes beside what is accepted of conclaves", takers.len()))
            .with_hint("ask for fewer shards, `--of`, or give a shorter list of measurements"));
    }
    context.show.step(&format!("{} makes the shards; {} can take them", maker.name, ask::counted(takers.len())));
    let nodes = takers.iter().map(|fit| Candidate { address: fit.address.clone(), operator: operator(&fit.told) }).collect();
    let to = Candidates { nodes: labelled(nodes), avoid: vec![maker.address.clone()] };
    let installs = maker.makes.clone().unwrap_or(wanted.load.installs);
    Ok(Chosen { host: maker.name.clone(), node: maker.address.clone(), installs, to })
}

/// A node that can do this with the shards of a mode: the one that is named, or the first of the list that answers.
pub(super) async fn visited(context: &Context, bundle: &Bundle, mode: Mode, host: Option<&str>) -> Result<(String, NodeAddress), Failure> {
    if let Some(host) = host {
        return context.node(host);
    }
    if context.requires_conclave() {
        // Before anybody is asked: without it nobody is accepted.
        context.demand()?;
    }
    let nodes = context.nodes()?.filled()?;
    let count = nodes.len();
    context.show.now(&format!("asking {} for the policy", ask::counted(count)));
    let mut questions = ask::start(context, nodes).await;
    let (mut refused, mut silent) = (None, None);
    while let Some(answer) = questions.join_next().await {
        let Ok((_, Asked { name, address, told })) = answer else { continue };
        match told.map(|told| makes(&told, bundle, mode)) {
            Ok(Ok(())) => {
                context.show.step(&format!("{name} answered, and can do it"));
                return Ok((name, address));
            }
            Ok(Err(why)) => refused = Some(format!("{name}: {why}")),
            Err(failure) => silent = Some(format!("{name}: {}", failure.text)),
        }
    }
    Err(no_maker(refused.or(silent), "add a node that offers that with `bento nodes add`, or name one with `--node`"))
}

/// `2 of 3 nodes can take a shard, and 4 are needed; …`
fn too_few(needed: usize, found: usize, (asked, silent): (usize, usize), reasons: Vec<String>) -> Failure {
    let first = reasons.into_iter().next().map(|reason| format!("; {reason}")).unwrap_or_default();
    let text = format!("{found} of {} can take a shard, and {needed} are needed{first}{}", ask::counted(asked), ask::unheard(silent));
    Failure::new(REFUSED, text).with_hint("add nodes with `bento nodes add`, or ask for less: `--of`, `--keep`, or a larger `--need`")
}

fn no_maker(why: Option<String>, hint: &str) -> Failure {
    let text = format!("no node can make the shards or put them together{}", why.map(|why| format!("; {why}")).unwrap_or_default());
    Failure::new(REFUSED, text).with_hint(hint)
}

fn fit(needs: &Needs, name: String, address: NodeAddress, told: Description) -> Fit {
    let takes = takes(&told, needs);
    let makes = makes_any(&told, needs);
    Fit { name, address, told, takes, makes }
}

fn takes(told: &Description, needs: &Needs) -> Result<(), String> {
    needs.shelf.iter().try_for_each(|bundle| uncovered(told, bundle))
}

fn makes_any(told: &Description, needs: &Needs) -> Result<u32, String> {
    let mut made = Err(String::new());
    for (installs, bundle) in &needs.shard {
        made = makes(told, bundle, needs.mode).map(|()| *installs);
        if made.is_ok() {
            break;
        }
    }
    made
}

/// Whose a node is, where that is told.
fn operator(told: &Description) -> Option<String> {
    told.contact.clone().filter(|contact| !contact.is_empty())
}

/// The failure with how large a file these nodes take together, if they take any.
fn or_smaller(
    mut failure: Failure,
    wanted: &Wanted<'_>,
    fits: &[Fit],
    (is_host, may_be_listed): (impl Fn(&Fit) -> bool, impl Fn(&Fit) -> bool),
    or: &str,
) -> Failure {
    let Some(file) = wanted.file else { return failure };
    let fitting = |size: u64| {
        let file = File { size, ..file };
        let needs =
            file.sealed().and_then(|sealed| Needs::of(&Wanted { load: Load { size: sealed, ..wanted.load }, file: Some(file), ..*wanted }));
        needs.is_ok_and(|needs| {
            fits.iter().filter(|fit| may_be_listed(fit) && takes(&fit.told, &needs).is_ok()).count() >= wanted.count
                && fits.iter().any(|fit| is_host(fit) && makes_any(&fit.told, &needs).is_ok())
        })
    };
    if let Some(most) = fits::largest(file.size, fitting) {
        let most = fits::megabytes(most);
        failure.hint = Some(format!("these nodes take files of up to {most} like that; for more add others with `bento nodes add`{or}"));
    }
    failure
}

/// Can a node make shards of this mode with this bundle?
fn makes(told: &Description, bundle: &Bundle, mode: Mode) -> Result<(), String> {
    uncovered(told, bundle)?;
    let has = |package: &str| told.images.get(&bundle.manifest.needs.image).is_some_and(|all| all.iter().any(|own| own == package));
    if mode == Mode::Fountain && !has(RAPTORQ) {
        return Err(format!("its image `{}` does not have {RAPTORQ}, which the mode fountain needs", bundle.manifest.needs.image));
    }
    Ok(())
}

fn uncovered(told: &Description, bundle: &Bundle) -> Result<(), String> {
    fits::short(told, bundle).map_or(Ok(()), Err)
}

/// How many nodes Shard is told of: what is accepted of conclaves goes with them, and takes of their room.
fn most(context: &Context) -> Result<usize, Failure> {
    if !context.requires_conclave() {
        return Ok(NODES_MAX);
    }
    let demand = context.demand()?.text().map_err(|error| Failure::input(error.to_string()))?;
    // As it is in the arguments: a text in JSON.
    let taken = serde_json::to_string(&demand).map_or(ARGUMENTS_BYTES_MAX, |text| text.len()) + OTHER_BYTES;
    Ok((ARGUMENTS_BYTES_MAX.saturating_sub(taken) / NODE_BYTES).min(NODES_MAX))
}

/// Operators by numbers: who they are is of no interest to Shard, and how long what they say of themselves is neither.
fn labelled(mut nodes: Vec<Candidate>) -> Vec<Candidate> {
    let mut labels = BTreeMap::new();
    for node in &mut nodes {
        if let Some(operator) = &mut node.operator {
            let next = labels.len();
            *operator = labels.entry(operator.clone()).or_insert(next).to_string();
        }
    }
    nodes
}

/// Any of these.
fn any<'a>(all: &[&'a Fit]) -> Result<Option<&'a Fit>, Failure> {
    if all.is_empty() { Ok(None) } else { Ok(all.get(below(all.len())?).copied()) }
}

/// So many of these at most, in any order.
fn shuffled(mut all: Vec<&Fit>, most: usize) -> Result<Vec<&Fit>, Failure> {
    let mut order = Vec::new();
    while !all.is_empty() && order.len() < most {
        order.push(all.swap_remove(below(all.len())?));
    }
    Ok(order)
}

fn below(bound: usize) -> Result<usize, Failure> {
    let chance = usize::try_from(Chance::new()?.next() >> 1).unwrap_or_default();
    Ok(chance % bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_told_apart_and_not_told() {
        let node = |port: u16, operator: Option<&str>| Candidate {
            address: format!("127.0.0.1:{port}").parse().unwrap(),
            operator: operator.map(str::to_owned),
        };
        let nodes = labelled(vec![node(1, Some("ada@a")), node(2, Some("bob@b")), node(3, None), node(4, Some("ada@a"))]);
        let labels: Vec<Option<&str>> = nodes.iter().map(|node| node.operator.as_deref()).collect();
        assert_eq!(labels, [Some("0"), Some("1"), None, Some("0")]);
    }
}
