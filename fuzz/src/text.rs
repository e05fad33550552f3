//! What texts that reach a person must be, whoever wrote them.

/// Longest text of an error, in characters. One that grows with what was sent lets a stranger fill logs and terminals.
const ERROR_CHARS_MAX: usize = 2048;

/// No control characters: a terminal obeys them.
pub fn is_line(text: &str) {
    assert!(!text.contains(char::is_control), "a control character is left: {text:?}");
}

/// As [`is_line`], but line breaks and tabs may stand.
pub fn is_paragraph(text: &str) {
    assert!(
        !text.contains(|letter: char| letter.is_control() && letter != '\n' && letter != '\t'),
        "a control character is left: {text:?}"
    );
}

/// Of a length that does not follow what was sent.
pub fn is_short(text: &str) {
    assert!(text.chars().count() <= ERROR_CHARS_MAX, "an error of {} characters", text.chars().count());
}

/// Done within a second, at least once in three times: the machine may be busy with others.
pub fn is_quick<T>(what: &str, mut done: impl FnMut() -> T) -> T {
    for _ in 0..2 {
        let begun = std::time::Instant::now();
        let result = done();
        if begun.elapsed().as_secs() < 1 {
            return result;
        }
    }
    let begun = std::time::Instant::now();
    let result = done();
    assert!(begun.elapsed().as_secs() < 1, "{what} took {:?}, three times", begun.elapsed());
    result
}
