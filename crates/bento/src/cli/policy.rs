//! `bento policy`.

use bento_proto::Policy;
use serde_json::json;

use super::{
    args,
    context::{Context, function},
    failure::{Failure, NODE, REFUSED},
    table::table,
};

/// Shows a node's policy, or lays it beside a function's needs.
pub(crate) async fn run(context: &Context, args: args::Policy) -> Result<(), Failure> {
    let bundle = match &args.fit {
        Some(directory) => Some((function(directory)?, directory)),
        None => None,
    };
    let (name, node) = context.node(&args.node)?;
    let text = context.client(&node).await?.policy(&node).await?;
    let policy = Policy::parse(&text).map_err(|error| Failure::new(NODE, format!("the policy of {name} cannot be read: {error}")))?;
    let Some((bundle, directory)) = bundle else {
        let ended = if text.ends_with('\n') { text } else { text + "\n" };
        return context.say(&ended, &json!({"node": node.to_string(), "policy": policy}));
    };
    let lines = policy.compare(&bundle.manifest);
    let mut rows = vec![["", "needs", "offers", ""].map(str::to_owned).to_vec()];
    for line in &lines {
        let fits = if line.fits { "fits" } else { "does not fit" };
        rows.push(vec![line.key.to_owned(), bento::line(&line.needs), bento::line(&line.offers), fits.to_owned()]);
    }
    let refused = lines.iter().find(|line| !line.fits);
    let function = &bundle.manifest.name;
    context.say(&table(&rows), &json!({"node": node.to_string(), "function": function, "fits": refused.is_none(), "lines": lines}))?;
    match refused {
        None => Ok(()),
        Some(line) => Err(Failure::new(
            REFUSED,
            bento::line(&format!(
                "{name} would refuse {function}: it needs {} of {}, and this node offers {}",
                line.needs, line.key, line.offers
            )),
        )
        .with_hint(format!("`bento nodes --fit {}` lists the nodes that can take it", directory.display()))),
    }
}
