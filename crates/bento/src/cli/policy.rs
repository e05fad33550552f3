//! `bento policy`.

use bento_proto::{Policy, explain};
use serde_json::json;

use super::{
    args,
    context::{Context, manifest},
    failure::{Failure, NODE, REFUSED},
};

/// Shows a node's policy, or lays it beside a manifest.
pub(crate) async fn run(context: &Context, args: args::Policy) -> Result<(), Failure> {
    let asked = match &args.explain {
        Some(path) => Some((manifest(path)?, path)),
        None => None,
    };
    let (name, node) = context.node(&args.node)?;
    let text = context.client(&node).await?.policy(&node).await?;
    let policy = Policy::parse(&text).map_err(|error| Failure::new(NODE, format!("the policy of {name} cannot be read: {error}")))?;
    let Some((manifest, path)) = asked else {
        let ended = if text.ends_with('\n') { text } else { text + "\n" };
        return context.say(&ended, &json!({"node": node.to_string(), "policy": policy}));
    };
    let lines = explain::explain(&policy, &manifest);
    let refusal = policy.admit(&manifest).err();
    let function = &manifest.name;
    // All of it is what both files were read as, so there is nothing in it that a terminal could take for a command.
    let told = json!({"node": node.to_string(), "function": function, "fits": refusal.is_none(), "lines": lines});
    context.say(&explain::text(&lines), &told)?;
    let Some(refusal) = refusal else { return Ok(()) };
    let directory =
        if path.is_dir() { path } else { path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(".".as_ref()) };
    Err(Failure::new(REFUSED, bento::line(&format!("{name} would refuse {function}: {refusal}")))
        .with_hint(format!("`bento nodes --fit {}` lists the nodes that can take it", directory.display())))
}
