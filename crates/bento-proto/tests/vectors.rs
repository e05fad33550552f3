//! The golden files in `spec/vectors`, which the Python tests read as well.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::{collections::BTreeMap, net::IpAddr};

use bento_proto::{
    Digest, ExitPolicy, InvocationToken, Manifest, Policy, Rate, Refusal, Share, ShutdownToken, Size, Span, Syscalls, address,
    exit_policy::{Rule, RuleError},
    pad::{self, PadError},
    relay::{self, RelayError},
    syscalls::{self, SyscallsError},
    token::TokenError,
    unit::UnitError,
};
use data_encoding::HEXLOWER;
use serde::{Deserialize, de::DeserializeOwned};

/// What is wrong, and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrong {
    text: String,
    because: String,
}

fn read<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

fn policy(rules: &[String]) -> ExitPolicy {
    rules.iter().map(|rule| rule.parse::<Rule>().unwrap()).collect()
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    HEXLOWER.decode(hexadecimal.as_bytes()).unwrap()
}

mod units {
    use super::*;

    // All structures here refuse what they do not know, so that nothing in a file goes unread.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(rename = "what")]
        _what: String,
        sizes: Vec<Case>,
        spans: Vec<Case>,
        no_sizes: Vec<Wrong>,
        no_spans: Vec<Wrong>,
        shares: Vec<Case>,
        rates: Vec<Case>,
        no_shares: Vec<Wrong>,
        no_rates: Vec<Wrong>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        text: String,
        #[serde(alias = "bytes", alias = "milliseconds", alias = "percent", alias = "bytes_per_second")]
        amount: u64,
        written: String,
    }

    #[test]
    fn amounts_mean_what_they_mean() {
        let file: File = read(include_str!("../../../spec/vectors/units.json"));
        for case in file.sizes {
            let size: Size = case.text.parse().unwrap();
            assert_eq!((size.as_bytes(), size.to_string()), (case.amount, case.written), "{}", case.text);
        }
        for case in file.spans {
            let span: Span = case.text.parse().unwrap();
            assert_eq!((span.as_millis(), span.to_string()), (case.amount, case.written), "{}", case.text);
        }
        let because = |error: UnitError| match error {
            UnitError::Form { .. } => "form",
            UnitError::Overflow(_) => "overflow",
            UnitError::Share(_) => "share",
        };
        for case in file.shares {
            let share: Share = case.text.parse().unwrap();
            assert_eq!((u64::from(share.percent()), share.to_string()), (case.amount, case.written), "{}", case.text);
        }
        for case in file.rates {
            let rate: Rate = case.text.parse().unwrap();
            assert_eq!((rate.bytes_per_second(), rate.to_string()), (case.amount, case.written), "{}", case.text);
        }
        for case in file.no_shares {
            assert_eq!(because(case.text.parse::<Share>().unwrap_err()), case.because, "{:?}", case.text);
        }
        for case in file.no_rates {
            assert_eq!(because(case.text.parse::<Rate>().unwrap_err()), case.because, "{:?}", case.text);
        }
        for case in file.no_sizes {
            assert_eq!(because(case.text.parse::<Size>().unwrap_err()), case.because, "{:?}", case.text);
        }
        for case in file.no_spans {
            assert_eq!(because(case.text.parse::<Span>().unwrap_err()), case.because, "{:?}", case.text);
        }
    }
}

mod exit_policies {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(rename = "what")]
        _what: String,
        rules: Vec<Written>,
        no_rules: Vec<Wrong>,
        private: Vec<IpAddr>,
        public: Vec<IpAddr>,
        decisions: Vec<Decision>,
        relays: Vec<Told>,
        no_relays: Vec<Wrong>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Told {
        told: String,
        rules: Vec<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written {
        text: String,
        written: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Decision {
        policy: Vec<String>,
        accepted: Vec<(IpAddr, u16)>,
        rejected: Vec<(IpAddr, u16)>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Coverage {
        #[serde(rename = "what")]
        _what: String,
        cases: Vec<Covered>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Covered {
        offers: Vec<String>,
        needs: Vec<String>,
        uncovered: Option<(IpAddr, u16)>,
    }

    #[test]
    fn rules_are_read_and_decide() {
        let file: File = read(include_str!("../../../spec/vectors/exit-policy.json"));
        for case in file.rules {
            assert_eq!(case.text.parse::<Rule>().unwrap().to_string(), case.written, "{:?}", case.text);
        }
        for case in file.no_rules {
            let because = match case.text.parse::<Rule>().expect_err(&case.text) {
                RuleError::Verb(_) => "verb",
                RuleError::Address(_) => "address",
                RuleError::Prefix(_) => "prefix",
                RuleError::Port(_) => "port",
            };
            assert_eq!(because, case.because, "{:?}", case.text);
        }
        for (addresses, is_private) in [(file.private, true), (file.public, false)] {
            for one in addresses {
                assert_eq!(address::is_private(one), is_private, "{one}");
            }
        }
        for case in file.decisions {
            let policy = policy(&case.policy);
            for (destinations, accepted) in [(case.accepted, true), (case.rejected, false)] {
                for (address, port) in destinations {
                    assert_eq!(policy.accepts(address, port), accepted, "{policy}: {address} {port}");
                }
            }
        }
    }

    #[test]
    fn what_a_relay_tells_of_itself_is_taken_over_or_refused() {
        let file: File = read(include_str!("../../../spec/vectors/exit-policy.json"));
        for case in file.relays {
            assert_eq!(relay::parse(&case.told).unwrap(), policy(&case.rules), "{:?}", case.told);
        }
        for case in file.no_relays {
            let because = match relay::parse(&case.text).expect_err(&case.text) {
                RelayError::Empty => "empty",
                RelayError::TooMany(_) => "too many",
                RelayError::Rule { .. } => "rule",
                RelayError::Unsayable(_) => "unsayable",
            };
            assert_eq!(because, case.because, "{:?}", case.text);
        }
    }

    #[test]
    fn one_policy_covers_another_or_not() {
        let file: Coverage = read(include_str!("../../../spec/vectors/coverage.json"));
        for case in file.cases {
            let (offers, needs) = (policy(&case.offers), policy(&case.needs));
            assert_eq!(offers.first_uncovered(&needs), case.uncovered, "offers {offers}, needs {needs}");
        }
    }
}

mod admit {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(rename = "what")]
        _what: String,
        cases: Vec<Case>,
        no_manifests: Vec<Wrong>,
        no_policies: Vec<Wrong>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        name: String,
        policy: String,
        manifest: String,
        granted: Option<serde_json::Value>,
        refused: Option<BTreeMap<String, String>>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wrong {
        name: String,
        #[serde(alias = "manifest", alias = "policy")]
        text: String,
        says: String,
    }

    #[test]
    fn what_is_offered_is_granted_and_what_is_not_is_refused_with_its_key() {
        let file: File = read(include_str!("../../../spec/vectors/admit.json"));
        for case in file.cases {
            let admitted = Policy::parse(&case.policy).unwrap().admit(&Manifest::parse(&case.manifest).unwrap());
            match (admitted, case.granted, case.refused) {
                (Ok(grant), Some(granted), None) => assert_eq!(serde_json::to_value(grant.granted()).unwrap(), granted, "{}", case.name),
                (Err(Refusal::NotOffered(line)), None, Some(refused)) => {
                    let told = [("key", line.key.to_owned()), ("needs", line.needs), ("offers", line.offers)];
                    let told: BTreeMap<_, _> = told.map(|(key, value)| (key.to_owned(), value)).into();
                    assert_eq!(told, refused, "{}", case.name);
                }
                (admitted, ..) => panic!("{}: {admitted:?}", case.name),
            }
        }
        for case in file.no_manifests {
            let error = Manifest::parse(&case.text).expect_err(&case.name).to_string();
            assert!(error.contains(&case.says), "{}: {error}", case.name);
        }
        for case in file.no_policies {
            let error = Policy::parse(&case.text).expect_err(&case.name).to_string();
            assert!(error.contains(&case.says), "{}: {error}", case.name);
        }
    }
}

mod system_calls {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(rename = "what")]
        _what: String,
        default: Vec<String>,
        never: Vec<String>,
        lists: Vec<List>,
        sets: Vec<Sets>,
        no_lists: Vec<NoList>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct List {
        list: Vec<String>,
        written: Vec<String>,
        adds: Vec<String>,
        takes: Vec<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sets {
        one: Syscalls,
        other: Syscalls,
        beyond: Vec<String>,
        both: Syscalls,
        either: Syscalls,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoList {
        list: Vec<String>,
        because: String,
    }

    #[test]
    fn lists_of_system_calls_mean_their_sets() {
        let file: File = read(include_str!("../../../spec/vectors/syscalls.json"));
        assert_eq!((syscalls::default(), syscalls::never()), (as_strs(&file.default).as_slice(), as_strs(&file.never).as_slice()));
        for case in file.lists {
            let set = Syscalls::parse(as_strs(&case.list)).unwrap();
            assert_eq!(set.words(), case.written);
            assert_eq!(set.beyond(&Syscalls::default()), as_strs(&case.adds));
            assert_eq!(Syscalls::default().beyond(&set), as_strs(&case.takes));
        }
        for case in file.sets {
            assert_eq!(case.one.beyond(&case.other), as_strs(&case.beyond));
            assert_eq!((case.one.both(&case.other), case.one.either(&case.other)), (case.both, case.either));
        }
        for case in file.no_lists {
            let because = match Syscalls::parse(as_strs(&case.list)).unwrap_err() {
                SyscallsError::Beginning => "beginning",
                SyscallsError::Sign(_) => "sign",
                SyscallsError::Unknown(_) => "unknown",
                SyscallsError::Never(_) => "never",
                SyscallsError::Present(_) => "present",
                SyscallsError::Absent(_) => "absent",
                SyscallsError::Twice(_) => "twice",
            };
            assert_eq!(because, case.because, "{:?}", case.list);
        }
    }

    fn as_strs(names: &[String]) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }
}

mod tokens {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(rename = "what")]
        _what: String,
        tokens: Vec<Case>,
        no_invocation_tokens: Vec<Wrong>,
        no_digests: Vec<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        random: String,
        invocation: String,
        invocation_digest: String,
        shutdown: String,
        shutdown_digest: String,
    }

    #[test]
    fn tokens_have_one_text_and_one_digest() {
        let file: File = read(include_str!("../../../spec/vectors/tokens.json"));
        for case in file.tokens {
            let random: [u8; 32] = bytes(&case.random).try_into().unwrap();
            let (invocation, shutdown) = (InvocationToken::from_random(random), ShutdownToken::from_random(random));
            assert_eq!(case.invocation.parse(), Ok(invocation.clone()));
            assert_eq!(case.shutdown.parse(), Ok(shutdown.clone()));
            assert_eq!((invocation.reveal(), invocation.digest().to_string()), (case.invocation, case.invocation_digest));
            assert_eq!((shutdown.reveal(), shutdown.digest().to_string()), (case.shutdown, case.shutdown_digest));
        }
        for case in file.no_invocation_tokens {
            let because = match case.text.parse::<InvocationToken>().expect_err(&case.text) {
                TokenError::Swapped { .. } => "swapped",
                TokenError::Form { .. } => "form",
                TokenError::Digest => "digest",
            };
            assert_eq!(because, case.because, "{:?}", case.text);
        }
        for text in file.no_digests {
            assert!(text.parse::<Digest>().is_err(), "{text:?}");
        }
    }
}

mod padded {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(rename = "what")]
        _what: String,
        // Only who pads needs these two: `python/bento/pad.py`.
        #[serde(rename = "sizes")]
        _sizes: Vec<serde_json::Value>,
        #[serde(rename = "too_small_buckets")]
        _too_small_buckets: Vec<i64>,
        results: Vec<Case>,
        wrong: Vec<Wrong>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        payload: String,
        buckets: Buckets,
        padded: String,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Buckets {
        Multiple(usize),
        OneOf(Vec<usize>),
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wrong {
        name: String,
        padded: String,
        because: String,
    }

    #[test]
    fn padded_results_are_whole_and_exact() {
        let file: File = read(include_str!("../../../spec/vectors/padded.json"));
        for case in file.results {
            let fits = |size: usize| match &case.buckets {
                Buckets::Multiple(bucket) => size.is_multiple_of(*bucket),
                Buckets::OneOf(sizes) => sizes.contains(&size),
            };
            let padded = bytes(&case.padded);
            assert_eq!(pad::unpad(&padded, fits), Ok(&bytes(&case.payload)[..]));
            assert_eq!(pad::unpad(&padded, |size| !fits(size)), Err(PadError::Size(padded.len())));
        }
        for case in file.wrong {
            let because = match pad::unpad(&bytes(&case.padded), |_| true).expect_err(&case.name) {
                PadError::Head => "head",
                PadError::Size(_) => "size",
                PadError::Length { .. } => "length",
                PadError::Digest => "digest",
                PadError::Padding => "padding",
            };
            assert_eq!(because, case.because, "{}", case.name);
        }
    }
}
