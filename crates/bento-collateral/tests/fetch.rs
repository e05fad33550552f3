//! A service on this machine gives out genuine collateral, published by others (`crates/bento-attest/tests/vectors`), or something near it. The live services of
//! Intel and AMD were never asked.
#![cfg(test)]

#[path = "../../bento-simulator/tests/shared/report.rs"]
mod simulated;

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::Duration,
};

use bento_attest::{Hardware, Refused, Roots, Simulated, evidence::Collateral, measurements::Product, platform::Platform};
use bento_collateral::{Getter, Sources, Trouble, fetch, keep, kept};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};

/// 2025-06-21. Intel's collateral here is of 2025-06-19.
const NOW: u64 = 1_750_500_000;
const DAY: u64 = 86_400;
/// 2024-01-01, when the report of AMD's was.
const SNP_NOW: u64 = 1_704_067_200;

/// A certificate of who is called localhost, in a file, as text, and its key.
fn certificates(directory: &Path) -> (PathBuf, String, String) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&pair).unwrap();
    let path = directory.join("trusted.pem");
    fs::write(&path, certificate.pem()).unwrap();
    (path, certificate.pem(), pair.serialize_pem())
}

fn vector(name: &str) -> Vec<u8> {
    fs::read(format!("{}/../bento-attest/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn milan() -> Vec<u8> {
    data_encoding::HEXLOWER_PERMISSIVE.decode(vector("sev/report_milan.hex").trim_ascii()).unwrap()
}

#[derive(Clone, Debug)]
struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes that it says it has more than it gives.
    cut: usize,
    /// It gives a byte now and then.
    slow: bool,
}

fn ok(headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Answer {
    Answer { status: "200 OK", headers, body, cut: 0, slow: false }
}

/// Answers by paths, and which were asked for.
#[derive(Clone)]
struct Service {
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
    port: u16,
}

impl Service {
    async fn start(answers: HashMap<String, Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = Self { answers: Arc::new(Mutex::new(answers)), asked: Arc::default(), port };
        let own = service.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(own.clone().answer(stream));
            }
        });
        service
    }

    async fn answer(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let path = String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned();
        self.asked.lock().unwrap().push(path.clone());
        let none = || Answer { status: "404 Not Found", ..ok(vec![], vec![]) };
        let answer = self.answers.lock().unwrap().get(&path).cloned().unwrap_or_else(none);
        let headers: String = answer.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = answer.body.len() + answer.cut;
        let _ = stream.write_all(format!("HTTP/1.1 {}\r\n{headers}Content-Length: {length}\r\n\r\n", answer.status).as_bytes()).await;
        if answer.slow {
            std::future::pending::<()>().await;
        }
        let _ = stream.write_all(&answer.body).await;
        let _ = stream.shutdown().await;
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Answer)) {
        let mut answers = self.answers.lock().unwrap();
        let (_, answer) = answers
            .iter_mut()
            .find(|(known, _)| known.starts_with(path) && (path == CHAIN || *known != CHAIN))
            .expect("a path that is asked for");
        change(answer);
    }

    fn sources(&self) -> Sources {
        let base = format!("http://127.0.0.1:{}", self.port).parse::<bento_collateral::Base>().unwrap();
        Sources { intel: base.clone(), intel_root_crl: None, amd: base, product: None, without_crl: false }
    }
}

/// Changes the first bit behind these words, so that it is read as before.
fn flip(body: &mut [u8], words: &str) {
    let at = body.windows(words.len()).position(|window| window == words.as_bytes()).expect("the words") + words.len();
    body[at] ^= 1;
}

fn escaped(chain: &str) -> String {
    chain
        .bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
            },
        )
        .collect()
}

const CRL: &str = "/sgx/certification/v4/pckcrl?ca=";
const LEVELS: &str = "/tdx/certification/v4/tcb?fmspc=";
const IDENTITY: &str = "/tdx/certification/v4/qe/identity";
const ROOT_CRL: &str = "/sgx/certification/v4/rootcacrl";

/// What Intel's service, or a cache of it, has of the machine of this quote.
fn intel(quote: &str) -> HashMap<String, Answer> {
    let told: Value = serde_json::from_slice(&vector(&format!("dcap-qvl/{quote}_collateral.json"))).unwrap();
    let text = |key: &str| told[key].as_str().unwrap().to_owned();
    let der = |key: &str| data_encoding::HEXLOWER_PERMISSIVE.decode(text(key).as_bytes()).unwrap();
    let Ok(Platform::Dcap { fmspc, ca }) = Platform::of(&vector(&format!("dcap-qvl/{quote}"))) else { panic!("a quote of Intel's") };
    let signed = |name: &str, key: &str| {
        format!("{{\"{name}\":{},\"signature\":\"{}\"}}", text(key), text(&format!("{key}_signature"))).into_bytes()
    };
    let chain = |key: &str| escaped(&text(&format!("{key}_issuer_chain")));
    let tee = if quote.starts_with("sgx") { "sgx" } else { "tdx" };
    let fmspc = data_encoding::HEXUPPER.encode(&fmspc);
    [
        (format!("{CRL}{ca}&encoding=der"), ok(vec![("SGX-PCK-CRL-Issuer-Chain", chain("pck_crl"))], der("pck_crl"))),
        (ROOT_CRL.to_owned(), ok(vec![], text("root_ca_crl").into_bytes())),
        (
            format!("/{tee}/certification/v4/tcb?fmspc={fmspc}"),
            ok(vec![("TCB-Info-Issuer-Chain", chain("tcb_info"))], signed("tcbInfo", "tcb_info")),
        ),
        (
            format!("/{tee}/certification/v4/qe/identity"),
            ok(vec![("SGX-Enclave-Identity-Issuer-Chain", chain("qe_identity"))], signed("enclaveIdentity", "qe_identity")),
        ),
    ]
    .into()
}

fn pem(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

const CHAIN: &str = "/vcek/v1/Milan/cert_chain";
const VCEK: &str = "/vcek/v1/Milan/";

/// What AMD's service has of the machine of that report, but for its list of revoked certificates: none that is published with the others is known to us.
fn amd() -> HashMap<String, Answer> {
    let report = milan();
    let chip = data_encoding::HEXLOWER.encode(&report[0x1a0..0x1e0]);
    let [bootloader, tee, .., snp, microcode] = report[0x180..0x188] else { panic!("eight bytes") };
    let versions = format!("blSPL={bootloader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}");
    let root = fs::read(format!("{}/../bento-attest/roots/ark-milan.der", env!("CARGO_MANIFEST_DIR"))).unwrap();
    [
        (CHAIN.to_owned(), ok(vec![], (pem(&vector("sev/ask_milan.der")) + &pem(&root)).into_bytes())),
        (format!("{VCEK}{chip}?{versions}"), ok(vec![], vector("sev/vcek_milan.der"))),
    ]
    .into()
}

fn getter(certificates: &Path, wait: u64) -> Getter {
    Getter::new(certificates, Duration::from_millis(wait)).unwrap()
}

async fn fetched(getter: &Getter, sources: &Sources, report: &[u8], now: u64) -> Result<(Collateral, bento_attest::Published), Trouble> {
    fetch::<Hardware>(getter, sources, &Roots::production(), report, now).await
}

#[tokio::test]
async fn genuine_collateral_of_intels_is_fetched_for_the_machine_that_a_quote_names_and_is_what_clients_take() {
    let directory = tempfile::tempdir().unwrap();
    let getter = getter(&certificates(directory.path()).0, 30_000);
    for (name, now, state) in [
        ("tdx_quote", NOW, "UpToDate"),
        ("sgx_quote", NOW, "ConfigurationAndSWHardeningNeeded"),
        ("tdx_quote_td15ex", 1_791_590_400, "UpToDate"),
    ] {
        let (service, quote) = (Service::start(intel(name)).await, vector(&format!("dcap-qvl/{name}")));
        let (collateral, published) =
            fetched(&getter, &service.sources(), &quote, now).await.unwrap_or_else(|trouble| panic!("{name}: {trouble}"));
        assert_eq!((published.state.as_str(), published.refused), (state, None), "{name}");
        assert!(published.until > now && published.until <= now + 7 * DAY, "{name}: {}", published.until);
        assert_eq!(service.asked.lock().unwrap().len(), 4);
        // Byte for byte what its publisher signed: it is taken up to the moment that was told, and not after it.
        let roots = Roots::<Hardware>::production();
        let path = directory.path().join(name);
        keep(&path, &collateral).unwrap();
        assert!(
            kept(&path, &roots, &quote, false, published.until).is_some()
                && kept(&path, &roots, &quote, false, published.until + 1).is_none()
        );
        // For another machine it is nothing.
        let other = vector(if name == "sgx_quote" { "dcap-qvl/tdx_quote" } else { "dcap-qvl/sgx_quote" });
        assert!(kept(&path, &roots, &other, false, now).is_none());
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_an_answer_is_said_early_and_nothing_comes_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let (trusted, quote) = (certificates(directory.path()).0, vector("dcap-qvl/tdx_quote"));
    let patient = getter(&trusted, 30_000);
    type Change = fn(&mut Answer);
    let cases: [(&str, &str, Change, &str); 15] = [
        ("levels that are cut", LEVELS, |a| a.body.truncate(a.body.len() / 2), "the list of levels is none"),
        ("an answer that breaks off", LEVELS, |a| a.cut = 7, "it broke off"),
        ("a bit of what is signed", LEVELS, |a| flip(&mut a.body, "\"pceId\":\""), "is not accepted"),
        ("a bit of the identity", IDENTITY, |a| flip(&mut a.body, "\"mrsigner\":\""), "not accepted"),
        ("a bit of the list of revoked ones", CRL, |a| a.body[60] ^= 1, "is not accepted"),
        ("a bit of the root's list", ROOT_CRL, |a| a.body[121] = if a.body[121] == b'0' { b'1' } else { b'0' }, "is not accepted"),
        ("no signature", LEVELS, |a| a.body = br#"{"tcbInfo":{},"signature":""}"#.to_vec(), "it has no signature"),
        (
            "another machine's levels",
            LEVELS,
            |a| *a = intel("tdx_quote_td15ex").into_iter().find(|(path, _)| path.starts_with(LEVELS)).unwrap().1,
            "is not accepted",
        ),
        (
            "levels of the other kind",
            LEVELS,
            |a| *a = intel("sgx_quote").into_iter().find(|(path, _)| path.contains("tcb?")).unwrap().1,
            "is not accepted",
        ),
        ("none", LEVELS, |a| a.status = "404 Not Found", "does not have the list of levels: status 404"),
        ("a failure", CRL, |a| a.status = "503 Service Unavailable", "status 503"),
        (
            "somewhere else",
            IDENTITY,
            |a| (a.status, a.headers) = ("302 Found", vec![("Location", "https://elsewhere.example/".into())]),
            "is elsewhere, at https://elsewhere.example/",
        ),
        ("without who signed it", LEVELS, |a| a.headers.clear(), "it came without who signed it"),
        ("more than any", ROOT_CRL, |a| a.body = vec![b'3'; 1 << 20], "it has more than 49152 bytes"),
        ("neither DER nor digits", ROOT_CRL, |a| a.body = b"<html>".to_vec(), "neither DER nor hexadecimal digits"),
    ];
    for (what, path, change, says) in cases {
        let service = Service::start(intel("tdx_quote")).await;
        service.change(path, change);
        let trouble = fetched(&patient, &service.sources(), &quote, NOW).await.expect_err(what);
        assert!(trouble.to_string().contains(says), "{what}: {trouble}");
        assert!(!trouble.hint().is_empty());
    }
    let service = Service::start(intel("tdx_quote")).await;
    // The neighbours of the moment at which it is good.
    for (now, says) in [(NOW + 8 * DAY, "days old"), (NOW + 60 * DAY, "expired"), (NOW - 30 * DAY, "not accepted")] {
        let trouble = fetched(&patient, &service.sources(), &quote, now).await.unwrap_err();
        assert!(matches!(trouble, Trouble::Refused(_)) && trouble.to_string().to_lowercase().contains(says), "{now}: {trouble}");
    }
    assert!(fetched(&patient, &service.sources(), &quote, NOW).await.is_ok());
    // One that holds its answer back costs so long, and no longer.
    service.change(IDENTITY, |answer| answer.slow = true);
    let trouble = fetched(&getter(&trusted, 300), &service.sources(), &quote, NOW).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Late { what: "the quoting enclave's identity", .. }), "{trouble}");
    // What is no quote, or one that was cut, leads to nobody.
    let asked = service.asked.lock().unwrap().len();
    for wrong in [&b"garbage"[..], &quote[..700], &[]] {
        assert!(matches!(fetched(&patient, &service.sources(), wrong, NOW).await, Err(Trouble::Quote(_))));
    }
    assert_eq!(service.asked.lock().unwrap().len(), asked);
}

#[tokio::test]
async fn amds_certificates_are_fetched_by_chip_and_firmware_and_their_list_is_missed_where_it_is_not_waived() {
    let directory = tempfile::tempdir().unwrap();
    let (getter, report) = (getter(&certificates(directory.path()).0, 30_000), milan());
    let service = Service::start(amd()).await;
    // A report of version 2 does not say which processor it is of.
    let unsaid = service.sources();
    assert!(matches!(fetched(&getter, &unsaid, &report, SNP_NOW).await, Err(Trouble::Product)));
    let said = Sources { product: Some(Product::Milan), ..unsaid };
    let trouble = fetched(&getter, &said, &report, SNP_NOW).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Status { what: "the list of revoked certificates", status: 404, .. }), "{trouble}");
    let waived = Sources { without_crl: true, ..said.clone() };
    let (collateral, published) = fetched(&getter, &waived, &report, SNP_NOW).await.unwrap();
    assert!(published.facts.contains(&("revoked certificates", "no list".into())) && published.until > SNP_NOW);
    let Collateral::Snp(found) = &collateral else { panic!("AMD's") };
    assert_eq!((&found.vcek, &found.ask), (&vector("sev/vcek_milan.der"), &vector("sev/ask_milan.der")));

    // Another chip's, another product's, none, and a list that is nobody's.
    type Change = fn(&Service);
    let cases: [(&str, Change, &str); 4] = [
        ("another chip's", |service| service.change(VCEK, |a| a.body = vector("az-snp-vtpm/vcek.der")), "not accepted"),
        ("another product's", |service| service.change(CHAIN, |a| a.body = pem(&vector("sev/ask_genoa.der")).into_bytes()), "not accepted"),
        ("no certificate", |service| service.change(CHAIN, |a| a.body = b"none".to_vec()), "it has no certificate"),
        (
            "a list of nobody's",
            |service| drop(service.answers.lock().unwrap().insert("/vcek/v1/Milan/crl".into(), ok(vec![], vec![0x30, 0]))),
            "not accepted",
        ),
    ];
    for (what, change, says) in cases {
        let service = Service::start(amd()).await;
        change(&service);
        let sources = Sources { product: Some(Product::Milan), without_crl: true, ..service.sources() };
        let trouble = fetched(&getter, &sources, &report, SNP_NOW).await.expect_err(what);
        assert!(trouble.to_string().contains(says), "{what}: {trouble}");
    }
    // A chip that hides who it is has none.
    let mut masked = report.clone();
    masked[0x1a0..0x1e0].fill(0);
    assert!(matches!(fetched(&getter, &waived, &masked, SNP_NOW).await, Err(Trouble::Quote(Refused::Chip))));
}

/// No such list is among what others published with genuine reports, so this is under a root that is none of AMD's.
#[tokio::test]
async fn amds_list_of_revoked_certificates_is_fetched_and_heeded() {
    /// When that root's certificates and lists are good.
    const NOW: u64 = 1_795_824_000;
    let directory = tempfile::tempdir().unwrap();
    let getter = getter(&certificates(directory.path()).0, 30_000);
    let roots = Roots::<Simulated>::development(&[&simulated::read("ark.der")]).unwrap();
    // A report of version 3 says which processor it is of.
    let report = simulated::report(|report| (report[0], report[0x188], report[0x189]) = (3, 0x19, 1));
    let chip = data_encoding::HEXLOWER.encode(&report[0x1a0..0x1e0]);
    let vcek = format!("{VCEK}{chip}?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=206");
    let chain = pem(&simulated::read("ask.der")) + &pem(&simulated::read("ark.der"));
    let answers = [(CHAIN.to_owned(), ok(vec![], chain.into_bytes())), (vcek, ok(vec![], simulated::read("vcek.der")))];
    let service = Service::start(answers.into()).await;
    for (list, wanted) in [
        ("crl", None),
        ("crl_other", None),
        ("crl_vcek", Some(Refused::Revoked("the chip's certificate"))),
        ("crl_ask", Some(Refused::Revoked("AMD's signing key"))),
        ("crl_expired", Some(Refused::Expired("the list of revoked certificates"))),
        ("crl_of_another", Some(Refused::Chain("the list of revoked certificates is not the root's".into()))),
    ] {
        let body = simulated::read(&format!("{list}.der"));
        service.answers.lock().unwrap().insert("/vcek/v1/Milan/crl".into(), ok(vec![], body));
        match (fetch(&getter, &service.sources(), &roots, &report, NOW).await, wanted) {
            (Ok((_, published)), None) => assert!(published.facts.contains(&("revoked certificates", "none of these".into()))),
            (Err(Trouble::Refused(refused)), Some(wanted)) => assert_eq!(refused, wanted, "{list}"),
            (fetched, wanted) => panic!("{list}: {fetched:?}, and not {wanted:?}"),
        }
    }
    // A simulator's is nothing to who asks for hardware.
    assert!(fetched(&getter, &Sources { without_crl: true, ..service.sources() }, &report, NOW).await.is_err());
}

#[tokio::test]
async fn only_who_has_a_certificate_that_is_trusted_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let (trusted, certificate, key) = certificates(directory.path());
    let elsewhere = tempfile::tempdir().unwrap();
    let (other, ..) = certificates(elsewhere.path());
    let service = Service::start(intel("tdx_quote")).await;
    // The same service behind TLS.
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let config = config.with_single_cert(vec![certificate], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap();
    let (listener, acceptor, own) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), tokio_rustls::TlsAcceptor::from(Arc::new(config)), service.clone());
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, own) = (acceptor.clone(), own.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    own.answer(stream).await;
                }
            });
        }
    });
    let quote = vector("dcap-qvl/tdx_quote");
    let by = |host: &str| Sources { intel: format!("https://{host}:{port}").parse().unwrap(), ..service.sources() };
    assert!(fetched(&getter(&trusted, 30_000), &by("localhost"), &quote, NOW).await.is_ok());
    // Somebody else's certificate, and the right one under another name: nothing is asked.
    let asked = service.asked.lock().unwrap().len();
    for (trusted, host) in [(&other, "localhost"), (&trusted, "127.0.0.1")] {
        let trouble = fetched(&getter(trusted, 30_000), &by(host), &quote, NOW).await.unwrap_err();
        assert!(matches!(trouble, Trouble::Unreachable { .. }), "{trouble}");
    }
    assert_eq!(service.asked.lock().unwrap().len(), asked);
    assert!(matches!(Getter::new(&directory.path().join("none"), Duration::from_secs(1)), Err(Trouble::Certificates { .. })));
}

async fn program(words: &[&str]) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bento-collateral"));
    command.args(words).env_clear();
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_writes_what_is_good_and_leaves_the_file_as_it_was_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let trusted = certificates(directory.path()).0.display().to_string();
    fs::write(at("report"), milan()).unwrap();
    fs::write(at("quote"), vector("dcap-qvl/tdx_quote")).unwrap();
    let (intel, amd) = (Service::start(intel("tdx_quote")).await, Service::start(amd()).await);
    let url = |service: &Service| format!("http://127.0.0.1:{}", service.port);
    let (intel_url, amd_url) = (url(&intel), url(&amd));
    let common = ["--certificates", &trusted, "--intel", &intel_url, "--amd", &amd_url, "--wait", "20"];

    // AMD's holds for years, Intel's is a year old by this machine's clock.
    let (out, file) = (at("collateral"), at("report"));
    let good = [&common[..], &["--quote", &file, "--product", "milan", "--without-crl", &out]].concat();
    let (output, said) = program(&good).await;
    assert!(output.status.success(), "{said}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("AMD Milan") && told.contains("holds for"), "{told}");
    let written = fs::read(&out).unwrap();
    assert!(Collateral::from_bytes(&written).is_ok());
    let quote = at("quote");
    for (words, says) in [
        (vec!["--quote", &quote, &out], "not accepted"),
        (vec!["--quote", &file, "--product", "genoa", &out], "does not have AMD's signing keys: status 404"),
        (vec!["--quote", &file, &out], "does not say which processor"),
        (vec!["--quote", &file, "--product", "milan", &out], "the list of revoked certificates: status 404"),
        (vec!["--conclave", &trusted, &out], "asking the conclave for a quote"),
    ] {
        let (output, said) = program(&[&common[..], &words].concat()).await;
        assert!(output.status.code() == Some(1) && said.contains(says) && said.contains("Hint: "), "{words:?}: {said}");
        assert_eq!(fs::read(&out).unwrap(), written, "{words:?}");
    }
    // The same again is as good, also by two at once; and where it cannot be written it is said.
    let (one, other) = tokio::join!(program(&good), program(&good));
    assert!(one.0.status.success() && other.0.status.success(), "{}{}", one.1, other.1);
    assert_eq!(fs::read(&out).unwrap(), written);
    let left = fs::read_dir(directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("collateral")));
    assert_eq!(left.count(), 1);
    // Whoever reads other files of this user reads this one.
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&out), mode(&file));
    let nowhere = at("nowhere/collateral");
    let (output, said) = program(&[&common[..], &["--quote", &file, "--product", "milan", "--without-crl", &nowhere]].concat()).await;
    assert!(!output.status.success() && said.contains("writing"), "{said}");
}
