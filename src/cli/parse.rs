//! Values on the command line that are more than a number or a word.

use std::net::{SocketAddr, SocketAddrV4, ToSocketAddrs};

use toml::value::{Datetime, Offset};

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The oldest message the stream still has.
    Start,
    /// What is published from now on.
    End,
    /// The message with this sequence.
    Sequence(u64),
    /// The first message stored at or after this time, in nanoseconds since 1970-01-01 UTC.
    Time(u64),
}

/// `start`, `end`, a sequence, or `@` and a time.
pub(super) fn from(text: &str) -> Result<From, String> {
    match text {
        "start" => return Ok(From::Start),
        "end" => return Ok(From::End),
        _ => {}
    }
    if let Some(time) = text.strip_prefix('@') {
        return unix_ns(time).map(From::Time).ok_or_else(|| {
            format!(
                "`{time}` is not a time: write one like 2026-01-30T14:30:00Z, \
                 2026-01-30T09:30:00.5-05:00 or 1769783400"
            )
        });
    }
    match text.replace('_', "").parse() {
        Ok(sequence) if sequence > 0 => Ok(From::Sequence(sequence)),
        _ => Err("write start, end, a sequence from 1, or @TIME".to_owned()),
    }
}

/// Nanoseconds since 1970-01-01 UTC, from RFC 3339 with an offset, or from seconds as a decimal.
fn unix_ns(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return crate::profile::units::parse_duration_ns(&format!("{text}s")).ok();
    }
    let parsed: Datetime = text.parse().ok()?;
    let (date, time) = (parsed.date?, parsed.time?);
    let offset_minutes = match parsed.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_since_1970(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let minutes = (days * 24 + i64::from(time.hour)) * 60 + i64::from(time.minute) - offset_minutes;
    let seconds = minutes * 60 + i64::from(time.second.unwrap_or(0));
    let nanos = u64::from(time.nanosecond.unwrap_or(0));
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant, `days_from_civil`): years
/// begin in March, so that the leap day is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// An IPv4 address and UDP port, by number or by name.
pub(super) fn server(text: &str) -> Result<SocketAddrV4, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let addresses = text.to_socket_addrs().map_err(|error| {
        let what = "write HOST:PORT, as in 127.0.0.1:9310 or bus1.example:9310";
        format!("{what} ({error})")
    })?;
    addresses
        .into_iter()
        .find_map(|address| match address {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        })
        .ok_or_else(|| format!("{text} has no IPv4 address"))
}

/// The payload of a message in a benchmark: it carries 16 bytes of our own, and fits a datagram.
pub(super) fn message_bytes(text: &str) -> Result<usize, String> {
    let bytes = crate::profile::units::parse_bytes(text)?;
    let most = crate::limits::DATAGRAM_BYTES_MAX;
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| (16..=most).contains(bytes))
        .ok_or_else(|| format!("a message of a benchmark has 16 to {most} bytes"))
}

/// Seeds, as in `0..1000`.
///
/// # Errors
/// What is wrong with them.
#[cfg(feature = "sim")]
pub fn seeds(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("`{text}` is not a range of seeds like 0..1000");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let from: u64 = from.parse().map_err(|_| wrong())?;
    let to: u64 = to.parse().map_err(|_| wrong())?;
    if from < to { Ok((from, to)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        assert_eq!(from("start"), Ok(From::Start));
        assert_eq!(from("end"), Ok(From::End));
        assert_eq!(from("12_012"), Ok(From::Sequence(12_012)));
        for bad in ["", "0", "-1", "begin", "@", "@soon", "@2026-01-30", "@2026-01-30T09:30:00"] {
            assert!(from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        let second = 1_000_000_000;
        for (text, ns) in [
            ("@0", 0),
            ("@1769783400", 1_769_783_400 * second),
            ("@1769783400.25", 1_769_783_400 * second + second / 4),
            ("@1970-01-01T00:00:00Z", 0),
            ("@2000-02-29T12:00:00Z", 951_825_600 * second),
            ("@2026-01-30T14:30:00Z", 1_769_783_400 * second),
            ("@2026-01-30T09:30:00.5-05:00", 1_769_783_400 * second + second / 2),
        ] {
            assert_eq!(from(text), Ok(From::Time(ns)), "{text}");
        }
        assert!(from("@1969-12-31T23:59:59Z").is_err());
    }

    #[test]
    fn servers() {
        assert_eq!(server("127.0.0.1:9310").unwrap().to_string(), "127.0.0.1:9310");
        assert_eq!(server("localhost:9310").unwrap().to_string(), "127.0.0.1:9310");
        for bad in ["127.0.0.1", "127.0.0.1:99999", ":", "[::1]:9310"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_of_messages() {
        assert_eq!(message_bytes("128B"), Ok(128));
        assert!(message_bytes("15").is_err());
        assert!(message_bytes("1MiB").is_err());
    }
}
