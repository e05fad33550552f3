//! Texts of others, made fit for a terminal.
//!
//! A terminal obeys control characters: a node that sends them could rewrite what is on the screen, its title or its clipboard.
//! Characters that turn the direction of writing could make a text read as another one.

/// Longest line that is kept of a node's text, in characters.
const LINE_CHARS_MAX: usize = 1024;

/// Longest text of several lines that is kept, in characters.
const PARAGRAPH_CHARS_MAX: usize = 64 * 1024;

/// Is it shown as nothing, or does it change how others are shown?
fn is_unsafe(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A text as one line: line breaks and tabs become spaces, control characters go, and what is too long is cut.
pub fn line(text: &str) -> String {
    let spaced = text.chars().map(|letter| if matches!(letter, '\n' | '\r' | '\t') { ' ' } else { letter });
    let mut line: String = spaced.filter(|letter| !is_unsafe(*letter)).take(LINE_CHARS_MAX).collect();
    line.truncate(line.trim_end().len());
    line
}

/// A text of several lines: line breaks and tabs stay, other control characters go, and what is too long is cut.
pub fn paragraph(text: &str) -> String {
    let kept = text.chars().filter(|letter| matches!(letter, '\n' | '\t') || !is_unsafe(*letter));
    kept.take(PARAGRAPH_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escape_sequences_lose_their_escape_and_plain_text_stays() {
        assert_eq!(line("a\x1b[2Jb\x07\u{9b}31mc\r\nd"), "a[2Jb31mc  d");
        assert_eq!(line("Grüße, 日本 👋"), "Grüße, 日本 👋");
        assert_eq!(line("gpj.\u{202e}exe"), "gpj.exe");
        assert_eq!(paragraph("a\r\n\tb\x1b]0;x\x07\n"), "a\n\tb]0;x\n");
        assert_eq!(line(&"x".repeat(5000)).len(), LINE_CHARS_MAX);
    }

    proptest! {
        #[test]
        fn no_control_character_is_left(text in any::<String>()) {
            prop_assert!(!line(&text).contains(char::is_control));
            prop_assert!(!paragraph(&text).contains(|letter: char| letter.is_control() && letter != '\n' && letter != '\t'));
        }
    }
}
