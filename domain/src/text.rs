//! Foreign text in messages: its size, and shortening it.

/// Bytes of framing around a text in a message.
pub(crate) const FIELD_BYTES: usize = 4;

/// The text, if it has at most `max` bytes; otherwise its beginning and a mark that says that
/// the text was cut and how long it was, together at most `max` bytes. The mark takes up to 50
/// of these bytes.
pub fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mark = format!("… [cut: {} bytes in all]", text.len());
    let end = text.floor_char_boundary(max.saturating_sub(mark.len()));
    format!("{}{mark}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_says_that_it_was_cut() {
        assert_eq!(cut(&"x".repeat(60), 60), "x".repeat(60));
        assert_eq!(cut(&"x".repeat(61), 60), format!("{}… [cut: 61 bytes in all]", "x".repeat(34)));
        let whole = cut(&"ü".repeat(100), 61);
        assert_eq!(whole, format!("{}… [cut: 200 bytes in all]", "ü".repeat(17)));
        assert_eq!(cut(&whole, 61), whole);
    }
}
