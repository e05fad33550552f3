//! The words of a command: bare ones, and `KEY=VALUE` where the value may be quoted (control-spec, "Parameters").

/// One word.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Word {
    /// What is before `=`, if the word has a key.
    pub(super) key: Option<String>,
    /// The rest, without its quotes.
    pub(super) value: String,
}

impl Word {
    /// Has it this key? Keys are the same in upper and lower case.
    pub(super) fn is(&self, key: &str) -> bool {
        self.key.as_deref().is_some_and(|found| found.eq_ignore_ascii_case(key))
    }
}

/// The words of a text, or nothing where quotes have no end or are followed by more than a space.
///
/// ```text
/// __LeaveStreamsUnattached=1 Nickname="a \"quoted\" word" bare
/// ```
pub(super) fn words(mut text: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t']);
        if text.is_empty() {
            return Some(words);
        }
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"_-/".contains(c)).unwrap_or(text.len());
        let key = (end > 0 && text[end..].starts_with('=')).then(|| text[..end].to_owned());
        text = if key.is_some() { &text[end + 1..] } else { text };
        let (value, rest) = value(text)?;
        words.push(Word { key, value });
        text = rest;
    }
}

fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let rest = &quoted[at + 1..];
                return (rest.is_empty() || rest.starts_with([' ', '\t'])).then_some((value, rest));
            }
            // Escapes that name a control character are none here: no value of ours has one.
            '\\' => value.push(characters.next().map(|(_, escaped)| escaped)?),
            plain => value.push(plain),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_keys_and_quotes_and_what_has_no_end_is_none() {
        let read = |text| -> Option<Vec<(Option<String>, String)>> {
            words(text).map(|words| words.into_iter().map(|word| (word.key, word.value)).collect())
        };
        let key = |key: &str, value: &str| (Some(key.to_owned()), value.to_owned());
        let bare = |value: &str| (None, value.to_owned());
        assert_eq!(read("0  purpose=general\t$AB=c,d "), Some(vec![bare("0"), key("purpose", "general"), bare("$AB=c,d")]));
        assert_eq!(read(r#"A="x y" B="\"\\" C= D"#), Some(vec![key("A", "x y"), key("B", "\"\\"), key("C", ""), bare("D")]));
        assert_eq!(read("  "), Some(vec![]));
        assert_eq!(read(r#"A="\r\n""#), Some(vec![key("A", "rn")]));
        for endless in [r#"A="x"#, r#"A="x\"#, r#"A="x"y"#, r#"""""#] {
            assert_eq!(read(endless), None, "{endless}");
        }
    }
}
