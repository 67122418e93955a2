//! Text that is no markup where it is written.

/// Text for a table in Markdown: it cannot end a cell, be markup or start a new line.
pub(super) fn for_markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => escaped.push(' '),
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '|' | '\\' | '*' | '_' | '`' | '[' | ']' => escaped.extend(['\\', letter]),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Text that LaTeX sets as it is. Letters that an old LaTeX does not know become
/// a question mark rather than an error.
pub(super) fn for_latex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', letter]),
            '\\' => escaped += "\\textbackslash{}",
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            '<' => escaped += "$<$",
            '>' => escaped += "$>$",
            '|' => escaped += "$|$",
            '"' => escaped += "''",
            // An opening bracket after the end of a row would be its argument.
            '[' => escaped += "{[}",
            ']' => escaped += "{]}",
            '±' => escaped += "$\\pm$",
            '→' => escaped += "$\\to$",
            '←' => escaped += "$\\leftarrow$",
            '×' => escaped += "$\\times$",
            '−' => escaped += "$-$",
            '–' => escaped += "--",
            letter if letter.is_ascii_graphic() => escaped.push(letter),
            letter if letter.is_whitespace() => escaped.push(' '),
            _ => escaped.push('?'),
        }
    }
    escaped
}
