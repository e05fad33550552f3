//! The table of replicas, and what is being decided.

use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

use crate::cli::{failure::Failure, table::table};

/// Lines of the past that are shown below the table.
const EVENTS: usize = 6;

/// Where the table is drawn, again and again.
pub(super) struct Screen {
    json: bool,
    is_terminal: bool,
    last: String,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        Self { json, is_terminal: io::stdout().is_terminal(), last: String::new() }
    }

    /// On a terminal in the place of the one before; elsewhere below it, and only if it has changed.
    pub(super) fn draw(&mut self, name: &str, told: &Value) -> Result<(), Failure> {
        let text = if self.json { format!("{told}\n") } else { table_of(name, told) };
        if !self.json && text == self.last {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        let start = if self.is_terminal && !self.json { "\x1b[H\x1b[2J" } else { "" };
        write!(out, "{start}{text}").and_then(|()| out.flush()).map_err(|error| Failure::output(&error))?;
        self.last = text;
        Ok(())
    }
}

/// All of it as text. What the function and other nodes wrote is shown without what could move the cursor.
pub(super) fn table_of(name: &str, told: &Value) -> String {
    let word = |value: &Value| bento::line(value.as_str().unwrap_or_default());
    if told["running"] == false {
        return format!("{name} at {} does not run; `bento balance up` with the same options starts it again.\n", word(&told["address"]));
    }
    let (other, silent) = (shortened(&word(&told["other"]["node"])), told["other"]["silent"].as_f64().unwrap_or_default());
    if told["leads"] == false {
        let term = told["term"].as_u64().unwrap_or_default();
        return format!(
            "{name} at {} stands by in term {term}; the other, at {other}, was heard {silent:.0} s ago.\n",
            word(&told["address"])
        );
    }
    let front = &told["front"];
    let published = match front["stored"].as_u64() {
        Some(stored) => format!("its descriptor is stored by {stored} directories"),
        None => "its descriptor is not published yet".to_owned(),
    };
    let mut text = format!("{name} at {}; {published}\n", word(&told["address"]));
    if told["other"].is_object() {
        text += &format!("the other load balancer, at {other}, was heard {silent:.0} s ago\n");
    }
    text.push('\n');
    let mut rows =
        vec![["REPLICA", "STATE", "LOAD", "CONNECTIONS", "SERVED", "BYTES", "RATE", "WEIGHT", "NODE"].map(str::to_owned).to_vec()];
    for replica in told["replicas"].as_array().into_iter().flatten() {
        let number = |key: &str| replica[key].as_u64().unwrap_or_default();
        rows.push(vec![
            word(&replica["name"]),
            word(&replica["state"]),
            format!("{:.0} %", replica["load"].as_f64().unwrap_or_default() * 100.0),
            number("connections").to_string(),
            number("accepted").to_string(),
            amount(number("bytes")),
            format!("{}/s", amount(number("rate"))),
            number("weight").to_string(),
            shortened(&word(&replica["node"])),
        ]);
    }
    text += &table(&rows);
    text += &format!("\n{}: {}\n", word(&told["decision"]["act"]), word(&told["decision"]["why"]));
    let events: Vec<&Value> = told["events"].as_array().into_iter().flatten().collect();
    let now = told["time"].as_f64().unwrap_or_default();
    for event in events.iter().rev().take(EVENTS).rev() {
        let ago = (now - event["time"].as_f64().unwrap_or(now)).max(0.0);
        text += &format!("  {ago:>5.0} s ago  {}\n", word(&event["text"]));
    }
    text
}

/// `1.5 MB`: as rates of lines are told.
fn amount(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

fn shortened(node: &str) -> String {
    match node.strip_suffix(".onion") {
        Some(id) if id.len() > 12 => format!("{}….onion", id.get(..12).unwrap_or(id)),
        _ => node.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_has_each_replica_what_is_decided_and_why() {
        let told = json!({
            "running": true, "address": "abc.onion", "time": 1000.0, "front": {"stored": 8},
            "replicas": [{"name": "replica-1", "node": format!("{}.onion", "n".repeat(56)), "state": "serving", "load": 0.5, "connections": 4,
                "accepted": 17, "bytes": 1_500_000, "rate": 250, "weight": 5}],
            "decision": {"act": "hold", "why": "mean load 50% over 1"}, "events": [{"time": 990.0, "text": "grow by 1: one\u{1b}[2J"}],
        });
        assert_eq!(
            table_of("www", &told),
            "www at abc.onion; its descriptor is stored by 8 directories\n\n\
             REPLICA    STATE    LOAD  CONNECTIONS  SERVED  BYTES   RATE     WEIGHT  NODE\n\
             replica-1  serving  50 %  4            17      1.5 MB  250 B/s  5       nnnnnnnnnnnn….onion\n\
             \nhold: mean load 50% over 1\n     10 s ago  grow by 1: one[2J\n"
        );
        let (mut led, other) = (told.clone(), json!({"node": format!("{}.onion", "m".repeat(56)), "silent": 1.4}));
        (led["other"], led["leads"]) = (other, true.into());
        assert!(
            table_of("www", &led)
                .contains("by 8 directories\nthe other load balancer, at mmmmmmmmmmmm….onion, was heard 1 s ago\n\nREPLICA")
        );
        (led["leads"], led["term"]) = (false.into(), 2.into());
        let stands_by = table_of("www", &led);
        assert!(stands_by.contains("stands by in term 2") && !stands_by.contains("REPLICA"), "{stands_by}");
        assert!(table_of("www", &json!({"running": false, "address": "abc.onion", "replicas": []})).contains("does not run"));
        // Nothing that is missing or of another kind matters.
        for odd in [json!({}), json!({"replicas": 3, "events": {}}), json!({"replicas": [7], "events": [7]})] {
            assert!(table_of("www", &odd).contains("not published yet"));
        }
    }
}
