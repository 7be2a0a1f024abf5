//! Numbers as people write them: `16MiB`, `100us`, `10k`, `1000/s`.
//!
//! Profiles and the command line read the same notation, and what is printed can be read back.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};

const BYTE_UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

const DURATION_UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

const COUNT_UNITS: [(&str, u64); 4] =
    [("", 1), ("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];

/// Bytes from `4096`, `128B`, `64KiB`, `1GB` or `1.5GiB`.
///
/// # Errors
/// What a size looks like, when it does not look like one.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    scaled(text, &BYTE_UNITS)
        .ok_or_else(|| format!("`{text}` is not a size: write one like 4096, 128B, 64KiB or 1GB"))
}

/// Nanoseconds from `100us`, `5s` or `2m`.
///
/// # Errors
/// What a duration looks like, when it does not look like one.
pub(crate) fn parse_duration_ns(text: &str) -> Result<u64, String> {
    scaled(text, &DURATION_UNITS)
        .ok_or_else(|| format!("`{text}` is not a duration: write one like 100us, 5s or 2m"))
}

/// A count from `12012`, `12_012`, `10k` or `1.5M`.
///
/// # Errors
/// What a count looks like, when it does not look like one.
pub(crate) fn parse_count(text: &str) -> Result<u64, String> {
    scaled(text, &COUNT_UNITS)
        .ok_or_else(|| format!("`{text}` is not a count: write one like 1000, 10k or 1.5M"))
}

/// Messages a second from `1000`, `10k`, `1.5M`, `0.5` or any of them with `/s`.
///
/// # Errors
/// What a rate looks like, when it does not look like one.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).trim_end();
    let (digits, unit) = split(number);
    let factor = COUNT_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let rate = digits.parse::<f64>().ok().zip(factor).map(|(rate, factor)| {
        #[allow(clippy::cast_precision_loss, reason = "the factors are small powers of ten")]
        let factor = factor as f64;
        rate * factor
    });
    match rate {
        Some(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => Err(format!(
            "`{text}` is not a rate: write messages a second like 1000, 10k, 1.5M or 1000/s"
        )),
    }
}

/// The shortest exact notation of a size: `16MiB`, `1500B`.
#[must_use]
pub(crate) fn format_bytes(bytes: u64) -> String {
    for (unit, factor) in BYTE_UNITS[2..6].iter().rev() {
        if bytes >= *factor && bytes.is_multiple_of(*factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

fn split(text: &str) -> (String, &str) {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_')
        .map_or(text, |at| &text[..at]);
    (digits.replace('_', ""), text[digits.len()..].trim_start())
}

/// An exact product, also for decimals such as `1.5`; `None` for anything that is not a whole number of
/// the smallest unit.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, unit) = split(text.trim());
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let mut value = u128::from(whole.parse::<u64>().ok()?) * u128::from(factor);
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor);
        if !part.is_multiple_of(scale) {
            return None;
        }
        value += part / scale;
    }
    u64::try_from(value).ok()
}

/// Reads a size in a profile: a number of bytes, or text with a unit.
pub(super) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(BytesVisitor)
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size like 4096 or \"16MiB\"")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<u64, E> {
        parse_bytes(value).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("128B", 128),
            ("16MiB", 16 << 20),
            ("16 MiB", 16 << 20),
            ("1GB", 1_000_000_000),
            ("1.5GiB", 3 << 29),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "x", "1XB", "1.2.3", "1.0001KB", "-1", "99999999999TiB", ".5KB", "1mib"] {
            assert!(parse_bytes(bad).unwrap_err().contains("64KiB"), "{bad}");
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for bytes in [0, 1, 1500, 4096, 16 << 20, 3 << 29, 1 << 40, 1_000_000_000] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }
        assert_eq!(format_bytes(16 << 20), "16MiB");
    }

    #[test]
    fn durations_counts_and_rates() {
        assert_eq!(parse_duration_ns("100us"), Ok(100_000));
        assert_eq!(parse_duration_ns("1.5s"), Ok(1_500_000_000));
        assert!(parse_duration_ns("5").is_err(), "a duration says its unit");
        assert_eq!(parse_count("12_012"), Ok(12_012));
        assert_eq!(parse_count("1.5M"), Ok(1_500_000));
        assert_eq!(parse_rate("10k"), Ok(10_000.0));
        assert_eq!(parse_rate("1.5M/s"), Ok(1_500_000.0));
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        for bad in ["0", "-1", "nan", "inf", "fast", "1e3", "2G0", "10G"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
