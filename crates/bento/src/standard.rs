//! The standard functions, which come with the client.

use bento_proto::bundle::{Bundle, BundleError};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_functions_are_bundles_and_travel() {
        let bundle = Standard::Browser.bundle().unwrap();
        assert_eq!((bundle.manifest.name.as_str(), bundle.manifest.methods.as_slice()), ("browser", &["page".to_owned()][..]));
        assert!(bundle.pack().is_ok());
        assert!(bundle.files.iter().all(|(name, _)| !name.contains('/')));
    }
}
