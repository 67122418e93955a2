//! Sizes and times as people write them.

use std::time::Duration;

/// A time such as `90s`, `15m`, `24h` or `7d`; a bare number counts seconds.
///
/// # Errors
/// Says what is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = parts(text);
    let unit = match unit {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(24 * 3600),
        _ => None,
    };
    let seconds = unit.and_then(|unit: u64| number.parse::<u64>().ok()?.checked_mul(unit));
    seconds.map(Duration::from_secs).ok_or_else(|| "expected a time such as 90s, 15m, 24h or 7d".to_owned())
}

/// A size such as `500M`, `16G` or `2T`, in powers of 1024; a bare number counts
/// bytes.
///
/// # Errors
/// Says what is expected.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = parts(text);
    let unit = match unit {
        "" => Some(1),
        "K" => Some(1 << 10),
        "M" => Some(1 << 20),
        "G" => Some(1 << 30),
        "T" => Some(1 << 40),
        _ => None,
    };
    let bytes = unit.and_then(|unit: u64| number.parse::<u64>().ok()?.checked_mul(unit));
    bytes.ok_or_else(|| "expected a size such as 500M, 16G or 2T".to_owned())
}

/// A size in words.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

fn parts(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read() {
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(bytes("16G"), Ok(16 << 30));
        for bad in ["", "h", "1w", "-1h", "1.5h", "99999999999999999999d", "99999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "G", "1g", "99999999999999999T"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
