//! The standard functions, which come with the client.

use bento_proto::{
    Size, Span,
    bundle::{Bundle, BundleError},
    exit_policy::Rule,
    manifest::ManifestError,
};

// One list of names and contents for each, written by `build.rs`.
include!(concat!(env!("OUT_DIR"), "/standard.rs"));

/// A function that comes with the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standard {
    /// Fetches a web page and sends it back padded.
    Browser,
    /// Keeps a flow of one rate, in which pages arrive.
    Cover,
    /// Keeps files for whoever has its token or a link.
    Dropbox,
    /// Spreads the load of an onion service over replicas.
    LoadBalancer,
    /// Splits a file into shards on other nodes, of which any few rebuild it.
    Shard,
}

impl Standard {
    /// Its files.
    ///
    /// # Errors
    /// When they make no bundle, which the tests rule out.
    pub fn bundle(self) -> Result<Bundle, BundleError> {
        let files = match self {
            Self::Browser => BROWSER,
            Self::Cover => COVER,
            Self::Dropbox => DROPBOX,
            Self::LoadBalancer => LOAD_BALANCER,
            Self::Shard => SHARD,
        };
        Bundle::new(files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect())
    }
}

/// The same function, its manifest asking for these destinations besides those that it names.
///
/// # Errors
/// When there are too many.
pub fn connecting_to(bundle: Bundle, rules: &[Rule]) -> Result<Bundle, BundleError> {
    if rules.is_empty() {
        return Ok(bundle);
    }
    needing(bundle, |needs| {
        let connect = needs.entry("connect").or_insert_with(|| toml::Value::Array(Vec::new()));
        if let toml::Value::Array(connect) = connect {
            // First, since the first rule that matches decides.
            connect.splice(0..0, rules.iter().map(|rule| toml::Value::String(rule.to_string())));
        }
    })
}

/// Amounts that a function needs at least.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    /// What it keeps in its node's store.
    pub storage: Size,
    /// Bytes of all its streams.
    pub traffic: Size,
    /// From install to the end.
    pub lifetime: Span,
    /// CPU time.
    pub cpu: Span,
}

/// The same function, its manifest asking for no less than this.
///
/// # Errors
/// When that makes no manifest.
pub fn with_room(bundle: Bundle, room: Room) -> Result<Bundle, BundleError> {
    let needs = &bundle.manifest.needs;
    let sizes = [("storage", needs.storage, room.storage), ("traffic", needs.traffic, room.traffic)];
    let spans = [("lifetime", needs.lifetime, room.lifetime), ("cpu", needs.cpu, room.cpu)];
    let sizes = sizes.into_iter().filter(|(_, is, least)| is < least).map(|(key, _, least)| (key, least.to_string()));
    let spans = spans.into_iter().filter(|(_, is, least)| is < least).map(|(key, _, least)| (key, least.to_string()));
    let raised: Vec<(&str, String)> = sizes.chain(spans).collect();
    needing(bundle, |needs| needs.extend(raised.into_iter().map(|(key, amount)| (key.to_owned(), toml::Value::String(amount)))))
}

/// What a load balancer needs, and with it each of its replicas.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Balancing {
    /// What it keeps: the site above all.
    pub storage: Size,
    /// Bytes of all its streams; of a replica's as well.
    pub traffic: Option<Size>,
    /// From install to the end.
    pub lifetime: Span,
    /// CPU time.
    pub cpu: Option<Span>,
    /// Most replicas.
    pub installs: u32,
    /// Bytes each second.
    pub rate: Option<Size>,
}

/// The load balancer with these needs.
///
/// # Errors
/// When that makes no manifest.
pub fn balancing(bundle: Bundle, wanted: Balancing) -> Result<Bundle, BundleError> {
    needing(bundle, |needs| {
        let mut put = |key: &str, amount: Option<String>| {
            if let Some(amount) = amount {
                needs.insert(key.to_owned(), toml::Value::String(amount));
            }
        };
        put("storage", Some(wanted.storage.to_string()));
        put("traffic", wanted.traffic.map(|size| size.to_string()));
        put("lifetime", Some(wanted.lifetime.to_string()));
        put("cpu", wanted.cpu.map(|span| span.to_string()));
        put("rate", wanted.rate.map(|size| format!("{size}/s")));
        needs.insert("installs".to_owned(), i64::from(wanted.installs).into());
    })
}

/// The same function with other needs in its manifest.
pub(crate) fn needing(bundle: Bundle, change: impl FnOnce(&mut toml::Table)) -> Result<Bundle, BundleError> {
    let mut files = bundle.files;
    let manifest = files.iter_mut().find(|(name, _)| name == "manifest.toml").ok_or(BundleError::NoManifest)?;
    let text = std::str::from_utf8(&manifest.1).map_err(|_| BundleError::NotText)?;
    let wrong = |error: toml::de::Error| BundleError::Manifest(ManifestError::Toml(error.to_string()));
    let mut table: toml::Table = text.parse().map_err(wrong)?;
    let needs = table.entry("needs").or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let toml::Value::Table(needs) = needs {
        change(needs);
    }
    manifest.1 = table.to_string().into_bytes();
    Bundle::new(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_added_before_those_that_are_there() {
        let before = Standard::Browser.bundle().unwrap();
        let rule: Rule = "accept 127.80.0.0/16:*".parse().unwrap();
        let after = connecting_to(before.clone(), std::slice::from_ref(&rule)).unwrap();
        assert_eq!(after.manifest.needs.connect.rules()[0], rule);
        assert_eq!(&after.manifest.needs.connect.rules()[1..], before.manifest.needs.connect.rules());
        assert_eq!(after.manifest.needs.memory, before.manifest.needs.memory);
        assert!(connecting_to(before, &vec![rule; 100]).is_err());
    }

    #[test]
    fn needs_are_raised_and_never_lowered() {
        let before = Standard::Dropbox.bundle().unwrap();
        let room = Room { storage: Size::mib(5000), traffic: Size::mib(1), lifetime: Span::seconds(7 * 86_400), cpu: Span::seconds(1) };
        let after = with_room(before.clone(), room).unwrap().manifest.needs;
        assert_eq!((after.storage, after.lifetime), (room.storage, room.lifetime));
        assert_eq!((after.traffic, after.cpu), (before.manifest.needs.traffic, before.manifest.needs.cpu));
        assert_eq!(after.memory, before.manifest.needs.memory);
    }

    #[test]
    fn a_load_balancer_asks_for_as_many_replicas_as_it_may_have() {
        let wanted = Balancing {
            storage: Size::mib(3),
            traffic: None,
            lifetime: Span::seconds(3600),
            cpu: None,
            installs: 7,
            rate: Some(Size::bytes(300_000)),
        };
        let before = Standard::LoadBalancer.bundle().unwrap();
        assert!(before.files.iter().any(|(name, _)| name == "replica/replica.py"));
        let after = balancing(before.clone(), wanted).unwrap().manifest.needs;
        assert_eq!((after.storage, after.lifetime, after.installs), (wanted.storage, wanted.lifetime, 7));
        assert_eq!((after.traffic, after.rate.bytes_per_second()), (before.manifest.needs.traffic, 300_000));
    }

    #[test]
    fn the_standard_functions_are_bundles_and_travel() {
        for (standard, name, method) in [
            (Standard::Browser, "browser", "page"),
            (Standard::Cover, "cover", "stream"),
            (Standard::Dropbox, "dropbox", "visit"),
            (Standard::LoadBalancer, "load-balancer", "setup"),
            (Standard::Shard, "shard", "spread"),
        ] {
            let bundle = standard.bundle().unwrap();
            assert_eq!(bundle.manifest.name, name);
            assert!(bundle.manifest.methods.iter().any(|one| one == method));
            assert!(bundle.pack().is_ok());
            // With no more than its own: neither tests nor what only its author reads.
            let within = |name: &str| !name.contains('/') || name.starts_with("dropbox/") || name.starts_with("replica/");
            assert!(bundle.files.iter().all(|(name, _)| within(name) && !name.contains("test") && !name.ends_with(".md")));
        }
        let bundle = Standard::Shard.bundle().unwrap();
        let own: Vec<&str> = bundle.files.iter().map(|(name, _)| name.as_str()).filter(|name| name.contains('/')).collect();
        assert_eq!(own, ["dropbox/dropbox.py", "dropbox/manifest.toml"]);
        // What its page is made of is no code, and travels as well.
        let bundle = Standard::Dropbox.bundle().unwrap();
        assert_eq!(bundle.files.iter().filter(|(name, _)| name.starts_with("page.")).count(), 4);
    }
}
