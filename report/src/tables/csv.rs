//! Comma-separated values.

/// A column of a CSV file: its name, and its text in a line.
type Column<Line> = (&'static str, fn(&Line) -> String);

/// The text of a CSV file with a line for each of `lines`.
pub(super) fn csv<Line>(columns: &[Column<Line>], lines: impl IntoIterator<Item = Line>) -> String {
    let names = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let fields = |line: Line| columns.iter().map(|(_, text)| text(&line)).collect();
    rfc_4180(std::iter::once(names).chain(lines.into_iter().map(fields)))
}

/// The text of a CSV file from the names of its columns and the fields of its lines.
pub fn csv_of<const N: usize>(columns: &[&str; N], lines: impl IntoIterator<Item = [String; N]>) -> String {
    let names = columns.map(str::to_owned).to_vec();
    rfc_4180(std::iter::once(names).chain(lines.into_iter().map(Vec::from)))
}

fn rfc_4180(records: impl Iterator<Item = Vec<String>>) -> String {
    let mut writer = ::csv::Writer::from_writer(vec![]);
    for record in records {
        // Neither writing to memory nor records of one length can fail.
        let _ = writer.write_record(record);
    }
    String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
}

/// A number with all its digits, or nothing.
pub(super) fn number(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The lower end of an interval, or nothing.
pub(super) fn low(interval: Option<[f64; 2]>) -> String {
    number(interval.map(|[low, _]| low))
}

/// The upper end of an interval, or nothing.
pub(super) fn high(interval: Option<[f64; 2]>) -> String {
    number(interval.map(|[_, high]| high))
}
