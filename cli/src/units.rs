//! Sizes and times as people write them.

use std::time::Duration;

use domain::resources::Resources;

/// Bytes of a mebibyte.
pub const MIB: u64 = 1 << 20;

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

/// Two numbers such as `1-10`.
///
/// # Errors
/// Says what is expected.
pub fn range(text: &str) -> Result<[u64; 2], String> {
    let parsed = text.split_once('-').and_then(|(first, last)| Some([first.parse().ok()?, last.parse().ok()?]));
    parsed.filter(|[first, last]| first <= last).ok_or_else(|| "expected a range such as 1-10".to_owned())
}

/// What a task occupies, such as `slots=2,gpus=0.5,gpu-memory=8G,label.site=lab`.
///
/// # Errors
/// Says what is expected.
pub fn resources(text: &str) -> Result<Resources, String> {
    let mut resources = Resources::default();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once('=').ok_or_else(|| format!("{item:?}: expected KEY=VALUE"))?;
        let wrong = |expected: &str| format!("{item:?}: expected {expected}");
        match key {
            "slots" => resources.slots = value.parse().map_err(|_| wrong("a number of slots"))?,
            "gpus" => {
                let gpus: f64 = value.parse().map_err(|_| wrong("a number of GPUs such as 1 or 0.5"))?;
                let milli = (gpus * 1000.0).round();
                if !(0.0..=1e6).contains(&milli) {
                    return Err(wrong("a number of GPUs such as 1 or 0.5"));
                }
                resources.gpu_milli = Some(milli as u32);
            }
            "gpu-memory" => resources.gpu_memory_mib = bytes(value)?.div_ceil(MIB),
            "memory" => resources.memory_mib = bytes(value)?.div_ceil(MIB),
            _ => match key.strip_prefix("label.") {
                Some(label) => {
                    resources.labels.insert(label.to_owned(), value.to_owned());
                }
                None => return Err(wrong("slots, gpus, gpu-memory, memory or label.NAME")),
            },
        }
    }
    resources.check().map_err(|problem| problem.to_string())?;
    Ok(resources)
}

fn parts(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_a_list_of_what_is_wanted() {
        let parsed = resources("slots=2,gpus=0.5,gpu-memory=8G,memory=1M,label.site=lab").unwrap();
        assert_eq!((parsed.slots, parsed.gpu_milli, parsed.gpu_memory_mib, parsed.memory_mib), (2, Some(500), 8192, 1));
        assert_eq!(parsed.labels["site"], "lab");
        assert_eq!(resources(""), Ok(Resources::default()));
        for wrong in ["slots", "slots=x", "gpus=-1", "gpus=1.5", "gpus=nan", "colour=red", "slots=0"] {
            assert!(resources(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_range_has_two_ends() {
        assert_eq!(range("1-10"), Ok([1, 10]));
        assert_eq!(range("7-7"), Ok([7, 7]));
        for wrong in ["", "1", "2-1", "a-b", "1-2-3", "-1-2"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

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
