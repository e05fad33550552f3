//! `bento balance up`.

use std::{fs, io::Read as _, path::Path};

use bento::{Balancing, Call, Client, Input, NodeAddress, OutputId, Standard, Tokens, balancing};
use bento_proto::{Size, Span, bundle::Bundle};
use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{FUNCTION_NAME, ask, find, site};
use crate::cli::{
    args,
    browse::pick,
    context::Context,
    failure::Failure,
    function::{forget, free},
    nodes::is_name,
    place,
    store::Record,
};

/// How long it lives when nothing else is said: as long as nodes let functions live.
const LIFETIME: u64 = 24 * 3600;

/// Storage beside the site: the plan, the list of replicas, outputs.
const SPARE: u64 = 1 << 20;

/// What Tor writes before a key in a file: 32 bytes.
const KEY_HEAD: &[u8; 32] = b"== ed25519v1-secret: type0 ==\0\0\0";

/// Longest file of a key that is read.
const KEY_FILE_MAX: u64 = 256;

pub(super) async fn run(context: &Context, args: args::BalanceUp) -> Result<(), Failure> {
    if let Some(name) = args.name.as_deref().filter(|name| !is_name(name)) {
        return Err(Failure::input(format!("`{}` is no name: 1 to 40 lower-case letters, digits and hyphens", bento::line(name))));
    }
    // One that was installed already, and ended with its node: it goes on.
    let installed =
        args.name.as_ref().is_some_and(|name| context.store().and_then(|store| store.read()).is_ok_and(|all| all.contains_key(name)));
    if installed {
        let (name, record) = find(context, args.name.as_deref())?;
        let told = ask(context, &name, &record, Call::new("status")).await?;
        if told["running"] != false {
            return Err(Failure::input(format!("{name} runs already")).with_hint(format!("`bento balance status {name} --watch` shows it")));
        }
        let client = context.client(&record.node()?).await?;
        start(context, &client, &name, &record).await?;
        return shown(context, &args, &name, &record, &told["address"]).await;
    }

    let site = args.site.as_deref().map(site::pack).transpose()?.unwrap_or_default();
    let key = args.key.as_deref().map(key).transpose()?;
    let bundle = bundle(&args, site.len() as u64)?;
    let (node_name, node) = match &args.node {
        Some(node) => context.node(node)?,
        None => pick(context, &bundle, None).await?,
    };
    let standby = args.standby.as_deref().map(|standby| context.node(standby)).transpose()?;
    if standby.as_ref().is_some_and(|(_, standby)| *standby == node) {
        return Err(Failure::input("the standby is on the same node").with_hint("give another node: it is for when the first is gone"));
    }
    let mut all = Vec::new();
    let made = make(context, &args, &bundle, (node_name, node), standby, (key, site), &mut all).await;
    let Ok(address) = made else {
        // They do nothing, and nobody knows of them.
        for (name, record) in &all {
            let node = record.node()?;
            if context.client(&node).await?.shutdown(&node, &record.tokens()?.shutdown).await.is_ok() {
                forget(&context.store()?, name, &record.tokens()?)?;
            }
        }
        return made.map(drop);
    };
    for (name, record) in &all {
        start(context, &context.client(&record.node()?).await?, name, record).await?;
    }
    let (name, record) = &all[0];
    shown(context, &args, name, record, &address).await
}

/// Installs it, and its standby if there is to be one, and says to both what to serve. `all` is what has been installed, whatever comes of it.
async fn make(
    context: &Context,
    args: &args::BalanceUp,
    bundle: &Bundle,
    (node_name, node): (String, NodeAddress),
    standby: Option<(String, NodeAddress)>,
    (key, site): (Option<Zeroizing<String>>, Vec<u8>),
    all: &mut Vec<(String, Record)>,
) -> Result<Value, Failure> {
    all.push(install(context, args.name.clone(), bundle, &node_name, &node).await?);
    if let Some((node_name, node)) = standby {
        let name = super::standby_of(&all[0].0);
        all.push(install(context, Some(name), bundle, &node_name, &node).await?);
    }
    let given = key.is_some();
    let (mut key, mut address) = (key, Value::Null);
    for (index, (name, record)) in all.iter().enumerate() {
        let other = all.get(1 - index).map(|(_, other)| other);
        let told = setup(context, args, (name, record), other, index == 0, key.as_ref(), site.clone()).await?;
        address = told["address"].clone();
        key = told["key"].as_str().map(|made| Zeroizing::new(made.to_owned()));
    }
    if let (false, Some(made)) = (given, &key) {
        let directory = place::data()?.join("fronts");
        place::make_private(&directory)?;
        let file = directory.join(format!("{}.key", all[0].0));
        place::write_whole(&file, format!("{}\n", made.as_str()).as_bytes(), 0o600)
            .map_err(|error| Failure::file("writing", &file, &error))?;
        context.show.step(&format!("the key of the address is kept in {}", file.display()));
    }
    Ok(address)
}

async fn install(
    context: &Context,
    name: Option<String>,
    bundle: &Bundle,
    node_name: &str,
    node: &NodeAddress,
) -> Result<(String, Record), Failure> {
    let store = context.store()?;
    let tokens = Tokens::mint()?;
    let archive = bundle.pack().map_err(|error| Failure::input(format!("the load balancer cannot be sent: {error}")))?;
    let mut record = Record::new(node, &tokens, bundle, HEXLOWER.encode(&Sha256::digest(&archive)));
    let name = store.update(|functions| {
        let name = name.unwrap_or_else(|| free(functions, FUNCTION_NAME));
        if functions.contains_key(&name) {
            return Err(Failure::input(format!("a function is installed under the name `{name}` already"))
                .with_hint(format!("`bento shutdown {name}`, or choose another name")));
        }
        functions.insert(name.clone(), record.clone());
        Ok(name)
    })?;
    context.show.now(&format!("installing {name} on {node_name}"));
    let client = context.client(node).await?;
    if let Err(error) = client.install(node, bundle, &tokens).await {
        if error.is_undecided() {
            return Err(Failure::from(error).with_hint(format!("it may be installed: `bento shutdown {name}` ends it")));
        }
        forget(&store, &name, &tokens)?;
        return Err(Failure::about(error, FUNCTION_NAME, None));
    }
    record.pending = false;
    store.update(|functions| Ok(functions.insert(name.clone(), record.clone())))?;
    Ok((name, record))
}

/// Says what to serve, and which other load balancer there is; `first` says that it is the one that publishes.
async fn setup(
    context: &Context,
    args: &args::BalanceUp,
    (name, record): (&str, &Record),
    other: Option<&Record>,
    first: bool,
    key: Option<&Zeroizing<String>>,
    site: Vec<u8>,
) -> Result<Value, Failure> {
    let on: Vec<String> = match args.on.as_slice() {
        // Its own node is one like others, but a second address of it would be no second machine.
        [] => context
            .nodes()?
            .read()?
            .into_iter()
            .map(|(_, address)| address)
            .filter(|address| record.node().is_ok_and(|own| own != *address))
            .filter(|address| other.is_none_or(|other| other.node().is_ok_and(|node| node != *address)))
            .map(|address| address.to_string())
            .collect(),
        some => some.iter().map(|node| Ok(context.node(node)?.1.to_string())).collect::<Result<_, Failure>>()?,
    };
    let mut plan = Map::new();
    let wanted = [
        ("least", args.least.map(Value::from)),
        ("most", args.most.map(Value::from)),
        ("connections", args.connections.map(Value::from)),
        ("rate", args.rate.map(Value::from)),
        ("high", args.high.map(Value::from)),
        ("low", args.low.map(Value::from)),
        ("up_seconds", args.up.map(|span| span.as_secs_f64().into())),
        ("down_seconds", args.down.map(|span| span.as_secs_f64().into())),
    ];
    plan.extend(wanted.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    let mut call = Call::new("setup");
    call.arguments.insert("plan".into(), plan.into());
    if !on.is_empty() {
        call.arguments.insert("nodes".into(), on.into());
    }
    if let Some(origin) = &args.origin {
        call.arguments.insert("origin".into(), origin.as_str().into());
    }
    if !args.client.is_empty() {
        call.arguments.insert("clients".into(), args.client.clone().into());
    }
    if let Some(other) = other {
        call.arguments.insert("peer".into(), json!({"node": other.node()?.to_string(), "invocation": other.tokens()?.invocation.reveal()}));
        call.arguments.insert("first".into(), first.into());
    }
    let mut input = json!({"key": key.map(|key| key.as_str())}).to_string().into_bytes();
    input.push(b'\n');
    input.extend_from_slice(&site);
    call.input = Input::Bytes(input.into());
    context.show.now("sending what is to be served");
    let node = record.node()?;
    let output = context.client(&node).await?.invoke(&node, &record.tokens()?.invocation, call).await;
    let output = output.map_err(|error| Failure::about(error, name, None))?;
    let (bytes, outcome) = output.collect(super::ANSWER_BYTES_MAX).await?;
    super::ended(&outcome)?;
    super::read(name, &bytes)
}

/// Has it run on by itself.
async fn start(context: &Context, client: &Client, name: &str, record: &Record) -> Result<(), Failure> {
    let id = OutputId::mint()?;
    context.store()?.update(|functions| {
        if let Some(record) = functions.get_mut(name) {
            record.outputs.push(id.to_string());
        }
        Ok(())
    })?;
    let node = record.node()?;
    let begun = client.detach(&node, &record.tokens()?.invocation, id, Call::new("run")).await;
    begun.map_err(|error| Failure::about(error, name, None))
}

async fn shown(context: &Context, args: &args::BalanceUp, name: &str, record: &Record, address: &Value) -> Result<(), Failure> {
    if args.watch {
        return super::watch(context, name, record).await;
    }
    let address = bento::line(address.as_str().unwrap_or_default());
    context.say(
        &format!("{name} serves http://{address}/; `bento balance status {name} --watch` shows its replicas.\n"),
        &json!({"name": name, "address": address}),
    )
}

fn bundle(args: &args::BalanceUp, site: u64) -> Result<Bundle, Failure> {
    let wanted = Balancing {
        storage: Size::bytes(site + SPARE),
        traffic: args.traffic.map(Size::bytes),
        lifetime: args.lifetime.map_or(Span::seconds(LIFETIME), |span| Span::seconds(span.as_secs())),
        cpu: args.cpu.map(|span| Span::seconds(span.as_secs())),
        installs: args.most.unwrap_or(4),
        rate: args.limit.map(Size::bytes),
    };
    let bundle = Standard::LoadBalancer.bundle().and_then(|bundle| balancing(bundle, wanted));
    bundle.map_err(|error| Failure::input(format!("the load balancer that came with this program: {error}")))
}

/// Reads a key: as ADD_ONION gives it, or Tor's file `hs_ed25519_secret_key`.
fn key(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = fs::File::open(path).and_then(|file| file.take(KEY_FILE_MAX).read_to_end(&mut bytes));
    read.map_err(|error| Failure::file("reading", path, &error))?;
    if let Some(key) = bytes.strip_prefix(KEY_HEAD.as_slice()).filter(|key| key.len() == 64) {
        return Ok(Zeroizing::new(format!("ED25519-V3:{}", BASE64.encode(key))));
    }
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    match text.starts_with("ED25519-V3:") {
        true => Ok(Zeroizing::new(text.to_owned())),
        false => Err(Failure::input(format!("{} is no key of an onion service", path.display()))
            .with_hint("give Tor's file hs_ed25519_secret_key, or a file with the `ED25519-V3:…` that ADD_ONION gives")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_both_kinds_of_file_and_nothing_else_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let text = format!("ED25519-V3:{}", BASE64.encode(&[7; 64]));
        for good in [[KEY_HEAD.as_slice(), &[7; 64]].concat(), format!("{text}\n").into_bytes()] {
            fs::write(&file, good).unwrap();
            assert_eq!(*key(&file).unwrap(), text);
        }
        for bad in [&b""[..], b"ED25519:x", &KEY_HEAD[..], &[0xff; 96]] {
            fs::write(&file, bad).unwrap();
            assert_eq!(key(&file).unwrap_err().status, 2);
        }
        assert!(key(&directory.path().join("none")).is_err());
    }
}
