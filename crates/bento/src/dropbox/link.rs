//! The link to a drop: where it is, and behind the `#`, which is sent to nobody, how to open it.
//!
//! ```text
//! http://ADDRESS.onion/l/TOKEN#k=KEY&n=NAME&p=1
//! ```

use std::{fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use crate::{AddressError, NodeAddress, text};

/// Longest name that is taken, in characters.
const NAME_CHARS_MAX: usize = 200;

/// Longest link that is read, in bytes.
const LINK_BYTES_MAX: usize = 4096;

/// A link to a drop. Whoever has it can fetch the drop and read it.
#[derive(Clone, Eq, PartialEq)]
pub struct DropLink {
    /// Where the drop is.
    pub node: NodeAddress,
    /// `/l/TOKEN`.
    pub path: String,
    /// How to open it, and what it is called.
    pub opening: Opening,
}

/// How to open a drop, and what it is called.
#[derive(Clone, Eq, PartialEq)]
pub struct Opening {
    /// How it is encrypted.
    pub locked: Locked,
    /// Is it padded inside?
    pub padded: bool,
    /// The file's name, as its sender gave it.
    pub name: Option<String>,
}

/// How a drop is encrypted.
#[derive(Clone, Eq, PartialEq)]
pub enum Locked {
    /// It is not.
    No,
    /// With this key, as `functions/dropbox/FORMAT.md` has it.
    Key(Zeroizing<[u8; 32]>),
    /// To recipients of the age format.
    Age,
}

/// Why a text is no link to a drop.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LinkError {
    /// Something else.
    #[error("a link to a drop is http://ADDRESS/l/ and more behind it")]
    Form,
    /// The node's address is none.
    #[error("{0}")]
    Address(AddressError),
    /// It was not copied whole.
    #[error("the key behind `#k=` is not whole")]
    Key,
}

impl FromStr for DropLink {
    type Err = LinkError;

    fn from_str(given: &str) -> Result<Self, LinkError> {
        let (place, fragment) = given.trim().split_once('#').unwrap_or((given.trim(), ""));
        let rest = place.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")).and_then(|_| place.get(7..));
        let (address, path) =
            rest.filter(|_| given.len() <= LINK_BYTES_MAX).and_then(|rest| rest.split_once('/')).ok_or(LinkError::Form)?;
        let token = path.strip_prefix("l/").ok_or(LinkError::Form)?;
        let token = token.strip_suffix('/').unwrap_or(token);
        if token.is_empty() || token.len() > 128 || !token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(LinkError::Form);
        }
        let mut node: NodeAddress = address.parse().map_err(LinkError::Address)?;
        let mut opening = Opening { locked: Locked::No, padded: false, name: None };
        for (key, value) in fragment.split('&').filter_map(|pair| pair.split_once('=')) {
            match (key, value) {
                ("k", value) => {
                    let key = Zeroizing::new(BASE64URL_NOPAD.decode(value.as_bytes()).map_err(|_| LinkError::Key)?);
                    opening.locked = Locked::Key(Zeroizing::new(key.as_slice().try_into().map_err(|_| LinkError::Key)?));
                }
                ("e", "age") => opening.locked = Locked::Age,
                ("p", "1") => opening.padded = true,
                ("c", "1") => node = node.in_conclave(),
                ("n", value) => opening.name = Some(decoded(value)).filter(|name| !name.is_empty()),
                // Of a later version, or a browser's.
                _ => {}
            }
        }
        Ok(Self { node, path: format!("/l/{token}"), opening })
    }
}

impl DropLink {
    /// The link itself: whoever has it can fetch and read the drop.
    pub fn reveal(&self) -> String {
        let mut pairs = Vec::new();
        match &self.opening.locked {
            Locked::No => {}
            Locked::Key(key) => pairs.push(format!("k={}", BASE64URL_NOPAD.encode(&**key))),
            Locked::Age => pairs.push("e=age".to_owned()),
        }
        if let Some(name) = &self.opening.name {
            pairs.push(format!("n={}", encoded(name)));
        }
        if self.opening.padded {
            pairs.push("p=1".to_owned());
        }
        if self.node.is_conclave() {
            pairs.push("c=1".to_owned());
        }
        let fragment = if pairs.is_empty() { String::new() } else { format!("#{}", pairs.join("&")) };
        format!("http://{}{}{fragment}", self.node.authority(), self.path)
    }
}

impl Opening {
    /// The name as a file of this directory: nothing in it leads elsewhere, hides it or is a control character.
    pub fn file_name(&self) -> String {
        let name = text::line(self.name.as_deref().unwrap_or_default());
        let plain: String = name.chars().map(|letter| if "/\\:*?\"<>|".contains(letter) { '_' } else { letter }).collect();
        let mut plain = plain.trim_start_matches(['.', '-', ' ']).trim_end().to_owned();
        // What file systems take at most, in bytes.
        while plain.len() > 200 {
            plain.pop();
        }
        if plain.is_empty() { "drop".to_owned() } else { plain }
    }
}

impl fmt::Debug for DropLink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("DropLink(…)")
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Opening(…)")
    }
}

impl fmt::Debug for Locked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::No => "No",
            Self::Key(_) => "Key(…)",
            Self::Age => "Age",
        })
    }
}

fn encoded(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// As a browser reads it: `+` is a space, and what is no right encoding stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = more.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        let hex = hex.filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit())).and_then(|two| u8::from_str_radix(two, 16).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).chars().take(NAME_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESS: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

    fn link(locked: Locked, name: Option<&str>) -> DropLink {
        let opening = Opening { locked, padded: true, name: name.map(str::to_owned) };
        DropLink { node: ADDRESS.parse().unwrap(), path: "/l/abc234".into(), opening }
    }

    #[test]
    fn a_link_is_read_as_it_was_written() {
        let text = format!("http://{ADDRESS}/l/abc234#k=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc&n=r%C3%A9sum%C3%A9%201.pdf&p=1");
        let whole = link(Locked::Key(Zeroizing::new([7; 32])), Some("résumé 1.pdf"));
        assert_eq!(whole.reveal(), text);
        assert_eq!(text.parse::<DropLink>().unwrap(), whole);
        assert_eq!(format!("  {text}&later=1\n").parse::<DropLink>().unwrap(), whole);
        assert_eq!(text.replace("#", "/#").replace("%20", "+").parse::<DropLink>().unwrap(), whole);
        let other = link(Locked::Age, None);
        assert_eq!(other.reveal().parse::<DropLink>().unwrap(), other);
        assert_eq!(format!("http://{ADDRESS}/l/abc234").parse::<DropLink>().unwrap().opening.locked, Locked::No);
        assert_eq!("http://127.0.0.1:8030/l/abc".parse::<DropLink>().unwrap().node.to_string(), "127.0.0.1:8030");
        assert!(!format!("{whole:?}").contains("abc"));
    }

    #[test]
    fn a_text_that_is_no_link_is_refused_and_a_key_that_was_cut_is_told() {
        for text in [
            "",
            "abc234",
            "https://example.org/l/a",
            "http://",
            "ftp://x/l/a",
            "http://127.0.0.1:1/l/",
            "http://127.0.0.1:1/l/a/b",
            "http://127.0.0.1:1/x/a",
            "http://127.0.0.1:1/l/a%0d",
            "http://127.0.0.1:1/l/../v1/node",
        ] {
            assert_eq!(text.parse::<DropLink>(), Err(LinkError::Form), "{text}");
        }
        for text in ["http://example.org/l/a", "http:///l/a", "http://192.0.2.1/l/a"] {
            assert!(matches!(text.parse::<DropLink>(), Err(LinkError::Address(_))), "{text}");
        }
        let whole = link(Locked::Key(Zeroizing::new([7; 32])), None).reveal().replace("&p=1", "");
        assert!(whole.parse::<DropLink>().is_ok());
        assert_eq!(whole[..whole.len() - 1].parse::<DropLink>(), Err(LinkError::Key));
    }

    proptest! {
        #[test]
        fn any_name_comes_back_and_none_leads_to_another_directory(name in "\\PC{1,80}") {
            let written = link(Locked::No, Some(&name));
            prop_assert_eq!(written.reveal().parse::<DropLink>().unwrap(), written);
        }

        #[test]
        fn no_name_is_a_path(name in ".{0,80}") {
            let file = Opening { locked: Locked::No, padded: false, name: Some(name) }.file_name();
            prop_assert!(!file.is_empty() && !file.contains(['/', '\\', '\0', '\n']) && !file.starts_with(['.', '-']));
        }

        #[test]
        fn no_text_panics(text in "(http://127.0.0.1:1/l/a#)?.{0,60}") {
            let _ = text.parse::<DropLink>();
        }
    }
}
