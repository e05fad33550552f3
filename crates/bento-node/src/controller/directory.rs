//! Entries of the consensus as GETINFO ns/… gives them (dir-spec, "Router status entries").

use data_encoding::BASE64_NOPAD;

use super::command::Router;

/// The entries, one by one.
pub(super) fn entries(text: &str) -> impl Iterator<Item = &str> {
    let starts: Vec<usize> = std::iter::once(0).chain(text.match_indices("\nr ").map(|(at, _)| at + 1)).collect();
    let ends = starts.clone().into_iter().skip(1).chain([text.len()]);
    starts.into_iter().zip(ends).map(|(start, end)| &text[start..end]).filter(|entry| entry.starts_with("r "))
}

/// ```text
/// r middle1 FoF39h+2/tVloeZTg1Gkjs098j0 ds9jIjqRy0lS4tKy0dfzD4BaXbg 2038-01-01 00:00:00 127.21.0.1 5001 0
/// s Fast Guard HSDir Running Stable V2Dir Valid
/// w Bandwidth=1
/// ```
fn name(entry: &str) -> Option<(&str, &str)> {
    let mut words = entry.split(' ').skip(1);
    Some((words.next()?, words.next()?))
}

/// The fingerprint of an entry's relay.
pub(super) fn fingerprint(entry: &str) -> Option<String> {
    let identity = BASE64_NOPAD.decode(name(entry)?.1.as_bytes()).ok().filter(|identity| identity.len() == 20)?;
    Some(data_encoding::HEXUPPER.encode(&identity))
}

/// Fingerprints and nicknames of all.
pub(super) fn names(text: &str) -> impl Iterator<Item = (String, String)> {
    entries(text).filter_map(|entry| Some((fingerprint(entry)?, name(entry)?.0.to_owned())))
}

/// The entry of one relay. Of several with one nickname it is none, as with Tor.
pub(super) fn find<'a>(text: &'a str, router: &Router) -> Option<&'a str> {
    match router {
        Router::Fingerprint(wanted) => {
            let identity = data_encoding::HEXUPPER.decode(wanted.as_bytes()).ok()?;
            let identity = BASE64_NOPAD.encode(&identity);
            entries(text).find(|entry| name(entry).is_some_and(|(_, found)| found == identity))
        }
        Router::Nickname(wanted) => {
            let mut found = entries(text).filter(|entry| name(entry).is_some_and(|(name, _)| name.eq_ignore_ascii_case(wanted)));
            let first = found.next();
            if found.next().is_some() { None } else { first }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "r middle1 FoF39h+2/tVloeZTg1Gkjs098j0 ds9jIjqRy0lS4tKy0dfzD4BaXbg 2038-01-01 00:00:00 127.21.0.1 5001 0\n\
        s Fast Guard HSDir Running Stable V2Dir Valid\nw Bandwidth=1\n\
        r exit2 GIXhkbvvrMrk6B43nU8bfFhJzxc pClZy+XtpdsEbL3sEaNN1/Qk018 2038-01-01 00:00:00 127.32.0.1 5001 0\ns Exit\nw Bandwidth=3\n\
        r twin AAAAAAAAAAAAAAAAAAAAAAAAAAA x 2038-01-01 00:00:00 127.1.0.1 1 0\nr Twin AAAAAAAAAAAAAAAAAAAAAAAAAAE x 2038-01-01 00:00:00 127.2.0.1 1 0\n";

    #[test]
    fn a_relay_is_found_by_its_fingerprint_and_by_a_name_of_its_own() {
        let exit = entries(TEXT).nth(1).unwrap();
        assert!(exit.starts_with("r exit2 ") && exit.ends_with("Bandwidth=3\n"));
        assert_eq!(fingerprint(exit).unwrap(), "1885E191BBEFACCAE4E81E379D4F1B7C5849CF17");
        assert_eq!(find(TEXT, &Router::parse("$1885e191bbefaccae4e81e379d4f1b7c5849cf17").unwrap()), Some(exit));
        assert_eq!(find(TEXT, &Router::parse("EXIT2").unwrap()), Some(exit));
        for none in ["twin", "nobody", "0000000000000000000000000000000000000002"] {
            assert_eq!(find(TEXT, &Router::parse(none).unwrap()), None, "{none}");
        }
        assert!(find(TEXT, &Router::parse("0000000000000000000000000000000000000001").unwrap()).unwrap().starts_with("r Twin "));
        assert_eq!(names(TEXT).count(), 4);
        assert_eq!(names("garbage\nr\nr x\nr x y\n").count(), 0);
    }
}
