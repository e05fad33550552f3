//! The standard functions, which come with the client.

use bento_proto::{
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
}

impl Standard {
    /// Its files.
    ///
    /// # Errors
    /// When they make no bundle, which the tests rule out.
    pub fn bundle(self) -> Result<Bundle, BundleError> {
        let files = match self {
            Self::Browser => BROWSER,
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
    let mut files = bundle.files;
    let manifest = files.iter_mut().find(|(name, _)| name == "manifest.toml").ok_or(BundleError::NoManifest)?;
    let text = std::str::from_utf8(&manifest.1).map_err(|_| BundleError::NotText)?;
    let wrong = |error: toml::de::Error| BundleError::Manifest(ManifestError::Toml(error.to_string()));
    let mut table: toml::Table = text.parse().map_err(wrong)?;
    let needs = table.entry("needs").or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let toml::Value::Table(needs) = needs {
        let connect = needs.entry("connect").or_insert_with(|| toml::Value::Array(Vec::new()));
        if let toml::Value::Array(connect) = connect {
            // First, since the first rule that matches decides.
            connect.splice(0..0, rules.iter().map(|rule| toml::Value::String(rule.to_string())));
        }
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
    fn the_standard_functions_are_bundles_and_travel() {
        let bundle = Standard::Browser.bundle().unwrap();
        assert_eq!((bundle.manifest.name.as_str(), bundle.manifest.methods.as_slice()), ("browser", &["page".to_owned()][..]));
        assert!(bundle.pack().is_ok());
        assert!(bundle.files.iter().all(|(name, _)| !name.contains('/')));
    }
}
