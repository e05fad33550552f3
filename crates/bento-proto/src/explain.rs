//! A manifest beside a policy, line by line: what fits, what does not, and what would.
//!
//! For each line that does not fit there are up to two remedies: a line that the author could write instead, and one that the operator could.
//! Each does for its own line; all of one side together make the manifest admitted.

use serde::Serialize;

use crate::{
    call::CallPattern,
    exit_policy::{ExitPolicy, Rule},
    grant::Line,
    limits::{MANIFEST_RULES_MAX, POLICY_RULES_MAX},
    manifest::{Egress, Manifest, Needs},
    policy::{Offers, Policy},
};

/// A line of the comparison, with what would make it fit.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Explained {
    /// The line.
    #[serde(flatten)]
    pub line: Line,
    /// A line that its author could write into the manifest's `[needs]`, if any would do. Only where the line does not fit.
    pub manifest: Option<String>,
    /// A line that the operator could write into the policy's `[offers]`, if any would do. Only where the line does not fit.
    pub policy: Option<String>,
}

/// Compares a manifest with a policy, and says what would make each line fit.
pub fn explain(policy: &Policy, manifest: &Manifest) -> Vec<Explained> {
    let remedied = |line: Line| match line.fits {
        true => Explained { line, manifest: None, policy: None },
        false => Explained { manifest: less(line.key, &policy.offers, manifest), policy: more(line.key, policy, &manifest.needs), line },
    };
    policy.compare(manifest).into_iter().map(remedied).collect()
}

/// The comparison as people read it: a table, and below it the lines to write where something does not fit, ready to be copied.
pub fn text(explained: &[Explained]) -> String {
    let head = ["", "needs", "offers", ""];
    let rows =
        explained.iter().map(|one| [one.line.key, &one.line.needs, &one.line.offers, if one.line.fits { "fits" } else { "does not fit" }]);
    let rows: Vec<[&str; 4]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let mut out = String::new();
    for [key, needs, offers, fits] in &rows {
        let row = format!("{key:<0$}  {needs:<1$}  {offers:<2$}  {fits}", widths[0], widths[1], widths[2]);
        out += row.trim_end();
        out.push('\n');
    }
    let wrong: Vec<&Explained> = explained.iter().filter(|one| !one.line.fits).collect();
    if wrong.is_empty() {
        return out;
    }
    let mut remedies = |title: &str, none: &str, remedy: fn(&Explained) -> &Option<String>| {
        out += &format!("\n{title}\n");
        for one in &wrong {
            match remedy(one) {
                Some(line) => out += &format!("  {line}\n"),
                None => out += &format!("  # {}: {none}\n", one.line.key),
            }
        }
    };
    remedies("It would fit with this in the manifest's [needs]:", "no function can ask for as little as is offered", |one| &one.manifest);
    remedies("or with this in the policy's [offers]:", "no policy can offer as much", |one| &one.policy);
    out
}

/// The line of a manifest that asks for no more than is offered.
fn less(key: &'static str, offers: &Offers, manifest: &Manifest) -> Option<String> {
    let mut needs = manifest.needs.clone();
    let mut written = key;
    match key {
        "image" => needs.image = offers.image.first()?.clone(),
        "memory" => needs.memory = offers.memory,
        "scratch" => needs.scratch = offers.scratch,
        "storage" => needs.storage = offers.storage,
        "cpu" => needs.cpu = offers.cpu,
        "share" => needs.share = offers.share,
        "traffic" => needs.traffic = offers.traffic,
        "rate" => needs.rate = offers.rate,
        "lifetime" => needs.lifetime = offers.lifetime,
        "keep_awake" => needs.keep_awake = offers.keep_awake,
        "processes" => needs.processes = offers.processes,
        "descriptors" => needs.descriptors = offers.descriptors,
        "invocations" => needs.invocations = offers.invocations,
        "installs" => needs.installs = offers.installs,
        "circuits" => needs.circuits = offers.circuits,
        "onion_services" => needs.onion_services = offers.onion_services,
        "calls" => needs.calls = calls_of_both(&needs.calls, &offers.calls),
        "egress" if offers.egress.is_empty() => (written, needs.connect) = ("connect", ExitPolicy::default()),
        "egress" => needs.egress = Egress::Any,
        "connect" if offers.egress.is_empty() => needs.connect = ExitPolicy::default(),
        "connect" => needs.connect = narrowed(&needs.connect, &offers.connect),
        "syscalls" => needs.syscalls = needs.syscalls.both(&offers.syscalls),
        _ => return None,
    }
    // What is offered may be less than anybody can ask for.
    needs.check().ok()?;
    line(written, &needs)
}

/// The line of a policy that offers what is asked for as well.
fn more(key: &'static str, policy: &Policy, needs: &Needs) -> Option<String> {
    let mut policy = policy.clone();
    let offers = &mut policy.offers;
    match key {
        "image" => offers.image.push(needs.image.clone()),
        "memory" => offers.memory = needs.memory,
        "scratch" => offers.scratch = needs.scratch,
        "storage" => offers.storage = needs.storage,
        "cpu" => offers.cpu = needs.cpu,
        "share" => offers.share = needs.share,
        "traffic" => offers.traffic = needs.traffic,
        "rate" => offers.rate = needs.rate,
        "lifetime" => offers.lifetime = needs.lifetime,
        "keep_awake" => offers.keep_awake = needs.keep_awake,
        "processes" => offers.processes = needs.processes,
        "descriptors" => offers.descriptors = needs.descriptors,
        "invocations" => offers.invocations = needs.invocations,
        "installs" => offers.installs = needs.installs,
        "circuits" => offers.circuits = needs.circuits,
        "onion_services" => offers.onion_services = needs.onion_services,
        "calls" => {
            let missing: Vec<CallPattern> = needs.calls.iter().filter(|need| !need.within(&offers.calls)).cloned().collect();
            offers.calls.extend(missing);
        }
        // A function that does not mind is content with what every node has.
        "egress" => offers.egress.push(if needs.egress == Egress::Any { Egress::Tor } else { needs.egress }),
        "connect" => offers.connect = widened(&offers.connect, &needs.connect)?,
        "syscalls" => offers.syscalls = offers.syscalls.either(&needs.syscalls),
        _ => return None,
    }
    policy.check().ok()?;
    line(key, &policy.offers)
}

/// One key of a table, as it stands in a file.
fn line(key: &str, table: &impl Serialize) -> Option<String> {
    let value = toml::Value::try_from(table).ok()?;
    Some(format!("{key} = {}", value.get(key)?))
}

fn calls_of_both(needs: &[CallPattern], offers: &[CallPattern]) -> Vec<CallPattern> {
    let kept = needs.iter().filter(|need| need.within(offers));
    // Of a family that is offered in part, the part.
    let parts = needs.iter().filter(|need| !need.within(offers)).flat_map(|need| offers.iter().filter(|offer| need.covers(offer)));
    kept.chain(parts).cloned().collect()
}

/// Rules for what both accept, or, where that takes more rules than a manifest may have, for those of the manifest's rules that fit as they are.
fn narrowed(needs: &ExitPolicy, offers: &ExitPolicy) -> ExitPolicy {
    let both = needs.both(offers);
    if both.rules().len() <= MANIFEST_RULES_MAX {
        return both;
    }
    let whole: ExitPolicy = needs.rules().iter().filter(|rule| !rule.accepting() || alone(rule, offers)).cloned().collect();
    if offers.first_uncovered(&whole).is_none() { whole } else { ExitPolicy::default() }
}

/// The policy's rules behind those of the manifest that do not fit.
fn widened(offers: &ExitPolicy, needs: &ExitPolicy) -> Option<ExitPolicy> {
    let missing = needs.rules().iter().filter(|rule| rule.accepting() && !alone(rule, offers));
    let rules: Vec<Rule> = missing.chain(offers.rules()).cloned().collect();
    (rules.len() <= POLICY_RULES_MAX).then(|| ExitPolicy::new(rules))
}

/// Is all that this rule accepts accepted by the policy?
fn alone(rule: &Rule, offers: &ExitPolicy) -> bool {
    offers.first_uncovered(&ExitPolicy::new(vec![rule.clone()])).is_none()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        call::CALLS,
        exit_policy::tests::rule,
        syscalls::tests::any_set,
        unit::{Size, Span},
    };

    pub(crate) fn manifest(needs: &str) -> Manifest {
        Manifest::parse(&format!("name = \"test\"\nmethods = [\"hello\"]\n[needs]\n{needs}")).unwrap()
    }

    pub(crate) fn policy(offers: &str) -> Policy {
        Policy::parse(&format!("[offers]\n{offers}")).unwrap()
    }

    #[test]
    fn each_line_that_does_not_fit_is_told_what_would() {
        for (offers, needs, less, more) in [
            ("memory = '1 GiB'", "memory = '4 GiB'", Some("memory = \"1 GiB\""), Some("memory = \"4 GiB\"")),
            ("memory = '1 MiB'", "memory = '4 GiB'", None, Some("memory = \"4 GiB\"")),
            ("share = '50 %'", "", Some("share = \"50 %\""), Some("share = \"100 %\"")),
            ("rate = '1 KiB/s'", "", Some("rate = \"1 KiB/s\""), Some("rate = \"4 MiB/s\"")),
            ("processes = 4", "", Some("processes = 4"), Some("processes = 8")),
            ("storage = '1 MiB'", "storage = '4 MiB'", Some("storage = \"1 MiB\""), Some("storage = \"4 MiB\"")),
            ("", "keep_awake = true", Some("keep_awake = false"), Some("keep_awake = true")),
            ("installs = 0", "installs = 1", Some("installs = 0"), Some("installs = 1")),
            ("circuits = 2", "circuits = 3", Some("circuits = 2"), Some("circuits = 3")),
            ("", "onion_services = 2", Some("onion_services = 1"), Some("onion_services = 2")),
            ("invocations = 0", "", None, Some("invocations = 1")),
            ("image = ['python3']", "image = 'web'", Some("image = \"python3\""), Some("image = [\"python3\", \"web\"]")),
            ("calls = []", "calls = ['net.connect']", Some("calls = []"), Some("calls = [\"net.connect\"]")),
            (
                "egress = ['tor']",
                "egress = 'direct'\nconnect = ['accept *:80']",
                Some("egress = \"any\""),
                Some("egress = [\"tor\", \"direct\"]"),
            ),
            ("egress = []", "connect = ['accept *:80']", Some("connect = []"), Some("egress = [\"tor\"]")),
            (
                "",
                "connect = ['accept *:80', 'accept 8.8.8.8:53']",
                Some("connect = [\"accept *:80\"]"),
                Some("connect = [\"accept 8.8.8.8/32:53\", \"accept *:80\", \"accept *:443\"]"),
            ),
            (
                "syscalls = ['default', '-socketpair']",
                "syscalls = ['default', '+getcpu']",
                Some("syscalls = [\"default\", \"-socketpair\"]"),
                Some("syscalls = [\"default\", \"+getcpu\"]"),
            ),
        ] {
            let (policy, manifest) = (policy(offers), manifest(needs));
            let wrong: Vec<Explained> = explain(&policy, &manifest).into_iter().filter(|one| !one.line.fits).collect();
            let [one] = wrong.as_slice() else { panic!("{offers} / {needs}: {wrong:?}") };
            assert_eq!((one.manifest.as_deref(), one.policy.as_deref()), (less, more), "{offers} / {needs}");
        }
        assert!(explain(&policy(""), &manifest("")).iter().all(|one| one.line.fits && one.manifest.is_none() && one.policy.is_none()));
    }

    #[test]
    fn the_text_has_a_row_for_each_line_and_the_lines_to_write() {
        let told = text(&explain(&policy("memory = '1 MiB'\nshare = '50 %'"), &manifest("")));
        assert!(told.contains("\nmemory          64 MiB   1 MiB                                        does not fit\n"), "{told}");
        assert!(told.contains("\nscratch         8 MiB    64 MiB                                       fits\n"), "{told}");
        assert!(told.ends_with(
            "\nIt would fit with this in the manifest's [needs]:\n  # memory: no function can ask for as little as is offered\n  share = \"50 %\"\n\
             \nor with this in the policy's [offers]:\n  memory = \"64 MiB\"\n  share = \"100 %\"\n"
        ), "{told}");
        assert!(!text(&explain(&policy(""), &manifest(""))).contains("would"));
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        let connect = prop::collection::vec(rule(), 0..6).prop_map(ExitPolicy::new);
        let egress = prop::sample::subsequence(vec![Egress::Tor, Egress::Direct], 0..=2);
        let calls = prop::sample::subsequence(vec!["net.connect", "net.*", "store.*", "store.put", "seal", "tor.*", "*"], 0..=3);
        (any::<[u16; 14]>(), connect, egress, calls, any_set(), any::<[bool; 2]>()).prop_map(
            |(numbers, connect, egress, calls, syscalls, [web, keep_awake])| {
                let [memory, scratch, storage, installs, cpu, share, traffic, rate, lifetime, processes, descriptors, invocations, ..] =
                    numbers;
                let [.., circuits, onion_services] = numbers;
                let image = if web { vec!["web".into(), "python3".into()] } else { vec!["python3".into()] };
                Policy {
                    offers: Offers {
                        image,
                        memory: Size::mib(memory.into()),
                        scratch: Size::bytes(scratch.into()),
                        storage: Size::bytes(storage.into()),
                        cpu: Span::millis(cpu.into()),
                        share: format!("{} %", share % 6400 + 1).parse().unwrap(),
                        traffic: Size::bytes(traffic.into()),
                        rate: format!("{rate} B/s").parse().unwrap(),
                        lifetime: Span::millis(lifetime.into()),
                        keep_awake,
                        processes: (processes % 64).into(),
                        descriptors: (descriptors % 64).into(),
                        invocations: (invocations % 8).into(),
                        installs: (installs % 8).into(),
                        circuits: (circuits % 8).into(),
                        onion_services: (onion_services % 8).into(),
                        calls: calls.iter().map(|call| call.parse().unwrap()).collect(),
                        egress,
                        connect,
                        syscalls,
                        functions: 1,
                        functions_per_day: 1,
                        depth: 1,
                    },
                }
            },
        )
    }

    /// What a manifest may ask for: what some policy offers, as far as it is enough.
    pub(crate) fn any_manifest() -> impl Strategy<Value = Manifest> {
        (any_policy(), prop_oneof![Just(Egress::Tor), Just(Egress::Direct), Just(Egress::Any)]).prop_map(|(Policy { offers }, egress)| {
            let needs = Needs {
                image: offers.image[0].clone(),
                memory: offers.memory.max(Size::mib(16)),
                scratch: offers.scratch.max(Size::bytes(4096)),
                storage: offers.storage,
                cpu: offers.cpu.max(Span::millis(1)),
                share: offers.share,
                traffic: offers.traffic.max(Size::bytes(1)),
                rate: offers.rate.max("1 B/s".parse().unwrap()),
                lifetime: offers.lifetime.max(Span::millis(1)),
                keep_awake: offers.keep_awake,
                processes: offers.processes.max(1),
                descriptors: offers.descriptors.max(8),
                invocations: offers.invocations.max(1),
                installs: offers.installs,
                circuits: offers.circuits,
                onion_services: offers.onion_services,
                calls: offers.calls,
                egress,
                connect: offers.connect,
                syscalls: offers.syscalls,
            };
            assert_eq!(needs.check(), Ok(()));
            Manifest { needs, ..manifest("") }
        })
    }

    /// A file's table with other lines in place of its own.
    fn rewritten<'l>(table: &impl Serialize, lines: impl Iterator<Item = &'l str>) -> String {
        let mut table = toml::Table::try_from(table).unwrap();
        for line in lines {
            table.extend(line.parse::<toml::Table>().unwrap());
        }
        table.to_string()
    }

    /// The manifest with every remedy for its author, if there is one for each line that does not fit.
    fn reduced(policy: &Policy, wanted: &Manifest) -> Option<Manifest> {
        let explained = explain(policy, wanted);
        let wrong: Vec<&Explained> = explained.iter().filter(|one| !one.line.fits).collect();
        let lines: Option<Vec<&str>> = wrong.iter().map(|one| one.manifest.as_deref()).collect();
        lines.map(|lines| manifest(&rewritten(&wanted.needs, lines.into_iter())))
    }

    proptest! {
        #[test]
        fn what_the_remedies_say_is_admitted(policy in any_policy(), wanted in any_manifest()) {
            let explained = explain(&policy, &wanted);
            prop_assert_eq!(policy.admit(&wanted).is_ok(), explained.iter().all(|one| one.line.fits));
            let wrong = || explained.iter().filter(|one| !one.line.fits);
            if let Some(less) = reduced(&policy, &wanted) {
                prop_assert!(policy.admit(&less).is_ok(), "{:?}", explain(&policy, &less));
            }
            prop_assert!(wrong().all(|one| one.policy.is_some()));
            let more = Policy::parse(&format!("[offers]\n{}", rewritten(&policy.offers, wrong().filter_map(|one| one.policy.as_deref())))).unwrap();
            prop_assert!(more.admit(&wanted).is_ok(), "{:?}", explain(&more, &wanted));
        }

        #[test]
        fn a_grant_never_exceeds_the_offer(policy in any_policy(), wanted in any_manifest()) {
            // Two at random hardly ever fit; what the remedies leave of the manifest does.
            if let Some(grant) = reduced(&policy, &wanted).and_then(|less| policy.admit(&less).ok()) {
                let offers = &policy.offers;
                prop_assert!(offers.image.iter().any(|image| image == grant.image()));
                prop_assert!(grant.memory() <= offers.memory && grant.scratch() <= offers.scratch && grant.traffic() <= offers.traffic);
                prop_assert!(grant.cpu() <= offers.cpu && grant.lifetime() <= offers.lifetime);
                prop_assert!(grant.share() <= offers.share && grant.rate() <= offers.rate);
                prop_assert!(grant.processes() <= offers.processes && grant.descriptors() <= offers.descriptors);
                prop_assert!(grant.invocations() <= offers.invocations && grant.installs() <= offers.installs);
                prop_assert!(grant.circuits() <= offers.circuits && grant.onion_services() <= offers.onion_services);
                prop_assert!(grant.storage() <= offers.storage && (offers.keep_awake || !grant.keep_awake()));
                prop_assert!(grant.egress().is_none_or(|egress| offers.egress.contains(&egress)));
                prop_assert!(grant.syscalls().iter().all(|name| offers.syscalls.has(name)));
                for call in CALLS {
                    prop_assert!(grant.permits_call(call).is_err() || offers.calls.iter().any(|offer| offer.matches(call)));
                }
            }
        }

        #[test]
        fn a_policy_is_read_back_as_it_was_written(policy in any_policy()) {
            prop_assert_eq!(Policy::parse(&policy.to_toml()).unwrap(), policy);
        }
    }
}
