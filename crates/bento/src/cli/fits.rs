//! Whether nodes take a file, asked before any of it is read; and what to say where they do not.

use std::{fs, io, path::Path};

use bento_proto::{Size, Span, bundle::Bundle, grant::Line, node::Description};

use super::failure::Failure;

/// Bytes of a file that is not read yet.
pub(crate) fn size(path: &Path) -> Result<u64, Failure> {
    let found = fs::metadata(path).and_then(|found| match found.is_file() {
        true => Ok(found.len()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    });
    found.map_err(|error| Failure::file("reading", path, &error))
}

/// In what a policy falls short of what a function needs: `dropbox needs 192 MiB of storage, and it offers 64 MiB (128 MiB too little); …`
pub(crate) fn short(told: &Description, bundle: &Bundle) -> Option<String> {
    let lines = told.policy.compare(&bundle.manifest);
    let mut short = lines.iter().filter(|line| !line.fits).map(by_how_much);
    let first = format!("{} needs {}", bundle.manifest.name, short.next()?);
    Some(bento::line(&short.fold(first, |text, next| format!("{text}; {next}"))))
}

fn by_how_much(line: &Line) -> String {
    let sizes = || Some(Size::bytes(beyond(&line.needs, &line.offers, |text| text.parse().ok().map(Size::as_bytes))?).to_string());
    let spans = || Some(Span::millis(beyond(&line.needs, &line.offers, |text| text.parse().ok().map(Span::as_millis))?).to_string());
    let missing = sizes().or_else(spans).map(|missing| format!(" ({missing} too little)")).unwrap_or_default();
    format!("{} of {}, and it offers {}{missing}", line.needs, line.key, line.offers)
}

fn beyond(needs: &str, offers: &str, read: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    read(needs)?.checked_sub(read(offers)?)
}

/// The largest size below this one, which does not fit, that does. None if not even nothing fits.
pub(crate) fn largest(too_large: u64, fits: impl Fn(u64) -> bool) -> Option<u64> {
    if too_large == 0 || !fits(0) {
        return None;
    }
    let (mut low, mut high) = (0, too_large);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(low)
}

/// An amount for a person, never more than it is: `63 MB`.
pub(crate) fn megabytes(bytes: u64) -> String {
    match bytes / 1_000_000 {
        0 => format!("{bytes} bytes"),
        whole => format!("{whole} MB"),
    }
}

#[cfg(test)]
mod tests {
    use bento_proto::Policy;
    use proptest::prelude::*;

    use super::*;

    fn told(offers: &str) -> Description {
        Description {
            name: "anna".into(),
            contact: None,
            version: String::new(),
            tee: "none".into(),
            images: [].into(),
            policy: Policy::parse(&format!("[offers]\n{offers}")).unwrap(),
        }
    }

    #[test]
    fn each_line_that_is_short_is_told_with_what_is_missing_and_the_others_are_not() {
        let manifest =
            "name = \"a\"\ncode = \"a.py\"\nmethods = [\"a\"]\n[needs]\nstorage = \"192 MiB\"\ncpu = \"90 s\"\nimage = \"web\"\n";
        let files = vec![("manifest.toml".into(), manifest.into()), ("a.py".into(), b"def a(api): pass\n".to_vec())];
        let bundle = Bundle::new(files).unwrap();
        assert_eq!(
            short(&told("storage = \"64 MiB\""), &bundle).unwrap(),
            "a needs web of image, and it offers python3; 192 MiB of storage, and it offers 64 MiB (128 MiB too little); \
             90 s of cpu, and it offers 1 min (30 s too little)"
        );
        assert_eq!(short(&told("storage = \"1 GiB\"\ncpu = \"90 s\"\nimage = [\"web\"]"), &bundle), None);
    }

    #[test]
    fn amounts_are_never_told_larger_than_they_are() {
        assert_eq!([megabytes(0), megabytes(999_999), megabytes(63_999_999)], ["0 bytes", "999999 bytes", "63 MB"]);
    }

    proptest! {
        #[test]
        fn the_largest_that_fits_is_found(bound in 0u64..u64::MAX / 2, above in 1u64..u64::MAX / 2) {
            prop_assert_eq!(largest(bound + above, |size| size <= bound), Some(bound));
            prop_assert_eq!(largest(bound + above, |_| false), None);
        }
    }
}
