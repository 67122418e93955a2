//! The elements that charts are drawn with.

use std::fmt::Write as _;

use askama::filters::{Escaper as _, Html};

/// The beginning of a chart that is read out as `label`.
pub(super) fn open(width: f64, height: f64, label: &str) -> String {
    format!(r#"<svg viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="{}">"#, escape(label))
}

pub(super) fn line(svg: &mut String, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
    let _ = write!(svg, r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#);
}

pub(super) fn text(svg: &mut String, class: &str, anchor: &str, x: f64, y: f64, content: &str) {
    let content = escape(content);
    let _ = write!(svg, r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{content}</text>"#);
}

/// Text that is no markup, in content and in attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    // Writing to a string cannot fail.
    let _ = Html.write_escaped_str(&mut escaped, text);
    escaped
}
