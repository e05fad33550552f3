//! The page at `/`: what this node offers, in words, for a browser without scripts.

use std::sync::Arc;

use axum::{extract::State, http::header, response::IntoResponse};

use bento_proto::Egress;

use crate::node::Node;

const STYLE: &str = "body{font:1.05rem/1.55 Georgia,serif;max-width:42rem;margin:2.5rem auto;padding:0 1rem;color:#1c1c1c;background:#fdfcf9}\
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.35rem .8rem .35rem 0;border-bottom:1px solid #ddd8cc;vertical-align:top}th{font-weight:normal;color:#5b5548;width:45%}\
code{font:.92em ui-monospace,monospace}p.small{color:#5b5548;font-size:.92rem}";

pub(super) async fn page(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, render(&node))
}

fn render(node: &Node) -> String {
    let offers = &node.policy().offers;
    let config = node.config();
    let egress: Vec<&str> = offers
        .egress
        .iter()
        .map(|egress| match egress {
            Egress::Tor => "through Tor, by somebody's exit relay",
            Egress::Direct => "from this node's own address",
            Egress::Any => "any way",
        })
        .collect();
    let images: Vec<String> = node
        .description()
        .images
        .into_iter()
        .map(|(name, packages)| match packages.as_slice() {
            [] => format!("{name}: Python's standard library"),
            packages => format!("{name}: {}", packages.join(", ")),
        })
        .collect();
    let calls: Vec<String> = offers.calls.iter().map(ToString::to_string).collect();
    let rows = [
        ("Packages", images.join("; ")),
        ("Memory", offers.memory.to_string()),
        ("File system, in memory", offers.scratch.to_string()),
        ("CPU time in all", offers.cpu.to_string()),
        ("Part of a processor", offers.share.to_string()),
        ("Traffic in all, both ways", offers.traffic.to_string()),
        ("Traffic at a time", offers.rate.to_string()),
        ("Lifetime", offers.lifetime.to_string()),
        ("Threads", offers.processes.to_string()),
        ("Invocations at the same time", offers.invocations.to_string()),
        ("System calls", offers.syscalls.to_string()),
        ("Calls of the function API", if calls.is_empty() { "none".into() } else { calls.join(", ") }),
        ("Connections leave", if egress.is_empty() { "not at all".into() } else { egress.join(", or ") }),
        ("Connections go to", offers.connect.to_string()),
        ("Functions at the same time", offers.functions.to_string()),
        ("New functions in 24 hours", offers.functions_per_day.to_string()),
    ];
    let rows: String = rows.iter().map(|(key, value)| format!("<tr><th scope=\"row\">{key}<td>{}", escape(value))).collect();
    let contact =
        config.contact.as_deref().map(|contact| format!("<p>The operator can be reached at {}.", escape(contact))).unwrap_or_default();
    let name = escape(&config.name);
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
<title>{name}: a Bento node</title><style>{STYLE}</style>\
<h1>{name}</h1><p>This is a <b>Bento node</b>: it runs small programs, called functions, for people who reach it over Tor. \
A function is written in Python and runs behind walls: it sees none of this machine's files, no other function, \
and nothing of the network but what the table allows.{contact}\
<h2>What one function may have</h2><table>{rows}</table>\
<h2>What protects a function from this node</h2><p>Nothing but its operator’s good will: there is no attested hardware here. \
What it keeps on this machine’s disk is sealed under a key that only its client’s token gives, and is erased when it ends.\
<h2>How to use it</h2><p>With the program <code>bento</code>: <code>bento nodes add NAME ADDRESS</code>, where the address is the one of this page, \
then <code>bento browse URL --node NAME</code>. Any program that speaks HTTP over Tor will do as well: \
<a href=\"/v1/node\">the description</a> and <a href=\"/v1/policy\">the policy</a> for programs.\
<p class=\"small\">bentod {}. This page needs no scripts and loads nothing else.</html>\n",
        env!("CARGO_PKG_VERSION"),
    )
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
