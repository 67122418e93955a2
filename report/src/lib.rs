//! The report of a study: the tables, figures and page that are made of its
//! [`Results`]. The same results give the same bytes, so nothing here knows the time,
//! the machine or how long anything took.
//!
//! | module | what it holds |
//! |---|---|
//! | [`format`] | numbers as people read them |
//! | [`tables`] | Table I, claims and scores as CSV, Markdown, LaTeX and rows of text |
//! | [`figures`] | charts as inline SVG |
//! | [`page`] | the page that shows all of it |

use domain::study::results::Results;

pub mod figures;
pub mod format;
pub mod page;
pub mod tables;

use page::Pictures;

/// The files of a report by their names, without the pictures and the results themselves.
///
/// # Errors
/// If the page cannot be rendered.
pub fn files(results: &Results, pictures: &Pictures) -> Result<[(&'static str, String); 6], askama::Error> {
    Ok([
        ("table.csv", tables::table_csv(results)),
        ("scores.csv", tables::scores_csv(results)),
        ("claims.csv", tables::claims_csv(results)),
        ("table.md", tables::markdown(results)),
        ("table.tex", tables::latex(results)),
        ("index.html", page::render(results, pictures)?),
    ])
}

#[cfg(test)]
mod tests;
