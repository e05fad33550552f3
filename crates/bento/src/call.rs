//! What is asked of a function.

use std::time::Duration;

use bento_proto::limits::ARGUMENTS_BYTES_MAX;
use hyper::header::HeaderValue;
use serde_json::{Map, Value};

use crate::{ClientError, Input};

/// One invocation: method, arguments, input, and how much is taken from the node.
#[derive(Debug)]
pub struct Call {
    /// The method's name.
    pub method: String,
    /// Its arguments by name.
    pub arguments: Map<String, Value>,
    /// Its input.
    pub input: Input,
    /// Most bytes of output that are taken. A function cannot send more than its manifest's `traffic`.
    pub output_max: Option<u64>,
    /// When it must be over. A function cannot live longer than its manifest's `lifetime`.
    pub within: Option<Duration>,
    /// How often what the function keeps was changed when it was last seen: an earlier state is refused.
    pub seen: Option<u64>,
}

impl Call {
    /// A call without arguments, input and bounds of its own.
    pub fn new(method: impl Into<String>) -> Self {
        Self { method: method.into(), arguments: Map::new(), input: Input::Empty, output_max: None, within: None, seen: None }
    }

    /// The path's last part.
    pub(crate) fn method(&self) -> Result<&str, ClientError> {
        let letters = self.method.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if letters && (1..=64).contains(&self.method.len()) {
            Ok(&self.method)
        } else {
            Err(ClientError::Request("a method's name is 1 to 64 letters, digits and underscores".into()))
        }
    }

    /// The arguments as a header has them.
    pub(crate) fn arguments(&self) -> Result<HeaderValue, ClientError> {
        let text = ascii(&Value::Object(self.arguments.clone()).to_string());
        if text.len() > ARGUMENTS_BYTES_MAX {
            let text = format!(
                "the arguments have {} bytes as JSON, and at most {ARGUMENTS_BYTES_MAX} are taken; more belongs into the input",
                text.len()
            );
            return Err(ClientError::Request(text));
        }
        let mut value = HeaderValue::from_str(&text).map_err(|_| ClientError::Request("the arguments cannot be sent".into()))?;
        // So that no `{:?}` of a request shows it.
        value.set_sensitive(true);
        Ok(value)
    }
}

/// JSON text in which what is not ASCII is written `\uXXXX`. Outside strings there is nothing of the kind.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for letter in json.chars() {
        if matches!(letter, ' '..='~') {
            out.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_travels_as_ascii_and_comes_back(key in any::<String>(), text in any::<String>()) {
            let mut call = Call::new("page");
            call.arguments.insert(key, Value::String(text));
            let header = call.arguments().unwrap();
            let back: Map<String, Value> = serde_json::from_str(header.to_str().unwrap()).unwrap();
            prop_assert_eq!(back, call.arguments);
        }
    }

    #[test]
    fn a_method_that_could_lead_elsewhere_and_arguments_that_are_too_long_are_not_sent() {
        assert_eq!(Call::new("page_2").method().unwrap(), "page_2");
        for wrong in ["", "a/b", "..", "a b", "a?b", "é", "a\r\nb"] {
            assert!(Call::new(wrong).method().is_err(), "{wrong:?}");
        }
        let mut call = Call::new("page");
        call.arguments.insert("text".into(), "x".repeat(ARGUMENTS_BYTES_MAX).into());
        assert!(call.arguments().is_err());
    }
}
