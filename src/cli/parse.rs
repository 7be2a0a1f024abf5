//! Values on the command line that are more than a number or a word.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs};

use jiff::Timestamp;

use crate::client::StartFrom;
use crate::ids::ProducerName;

/// The name of a producer.
pub(super) fn producer(text: &str) -> Result<ProducerName, String> {
    ProducerName::new(text).ok_or_else(|| {
        format!(
            "`{}` cannot name a producer: 1 to 40 letters, digits, `.`, `_`, `-`, `/` or `:`, not starting with `.`",
            text.escape_debug()
        )
    })
}

/// `start`, `end`, a sequence, or `@` and a time.
pub(super) fn from(text: &str) -> Result<StartFrom, String> {
    match text {
        "start" => return Ok(StartFrom::Start),
        "end" => return Ok(StartFrom::End),
        _ => {}
    }
    if let Some(time) = text.strip_prefix('@') {
        // What is later than any number on the wire has not come either.
        let time_ns = unix_ns(time).map(|ns| ns.min(crate::limits::NUMBER_MAX));
        return time_ns.map(StartFrom::Time).ok_or_else(|| {
            format!(
                "`{time}` is not a time: write one like 2026-01-30T14:30:00Z, \
                 2026-01-30T09:30:00.5-05:00 or 1769783400"
            )
        });
    }
    match text.replace(['_', ','], "").parse() {
        Ok(sequence) if sequence > 0 => Ok(StartFrom::Sequence(sequence)),
        _ => Err("write start, end, a sequence from 1, or @TIME".to_owned()),
    }
}

/// Nanoseconds since 1970-01-01 UTC, from RFC 3339 with an offset, or from seconds as a decimal.
fn unix_ns(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return crate::profile::units::parse_duration_ns(&format!("{text}s")).ok();
    }
    u64::try_from(text.parse::<Timestamp>().ok()?.as_nanosecond()).ok()
}

/// An appliance, by number or by name. Names are looked up where they are needed, and again when it is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    host: String,
    port: Option<u16>,
}

impl Server {
    /// Its addresses now, in the order to try them; without a port it is `port`. Asking for a name may take
    /// seconds.
    ///
    /// # Errors
    /// Why there is none.
    pub fn resolve(&self, port: u16) -> Result<Vec<SocketAddrV4>, String> {
        let port = self.port.unwrap_or(port);
        let host = self.host.as_str();
        let found = (host, port).to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
        let mut addresses = Vec::new();
        for address in found {
            if let SocketAddr::V4(address) = address
                && !addresses.contains(&address)
            {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(format!("{host} has no IPv4 address, and Buslane does not speak IPv6"));
        }
        Ok(addresses)
    }

    /// It as text, with `port` where it has none.
    #[must_use]
    pub fn with_port(&self, port: u16) -> String {
        format!("{}:{}", self.host, self.port.unwrap_or(port))
    }

    /// Whether it is a name, whose addresses may change.
    #[must_use]
    pub fn is_name(&self) -> bool {
        self.host.parse::<Ipv4Addr>().is_err()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// A host, by IPv4 address or by name, and a UDP port or none.
pub(crate) fn server(text: &str) -> Result<Server, String> {
    let wrong =
        || "write HOST or HOST:PORT, as in 10.0.0.1, 10.0.0.1:9310 or bus1.example:9310".to_owned();
    if text.starts_with('[') || text.matches(':').count() > 1 {
        return Err(format!("Buslane does not speak IPv6: {}", wrong()));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => {
            let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
            (host, Some(port))
        }
        None => (text, None),
    };
    let is_number = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_address = host.parse::<Ipv4Addr>().is_ok();
    if host.is_empty() || !host.chars().all(is_plain) || (is_number && !is_address) {
        return Err(wrong());
    }
    Ok(Server { host: host.to_owned(), port })
}

/// How long to look for an appliance, in nanoseconds.
pub(super) fn connect_timeout(text: &str) -> Result<u64, String> {
    const RANGE: std::ops::RangeInclusive<u64> = 100_000_000..=24 * 3_600_000_000_000;
    let ns = crate::profile::units::parse_duration_ns(text)?;
    let out_of_range = || "looking for an appliance takes 100ms to 24h".to_owned();
    RANGE.contains(&ns).then_some(ns).ok_or_else(out_of_range)
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
pub(crate) fn seeds(text: &str) -> Result<(u64, u64), String> {
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
    fn connect_timeouts() {
        assert_eq!(connect_timeout("5s"), Ok(5_000_000_000));
        for bad in ["", "5", "0s", "99ms", "25h", "-1s", "soon"] {
            assert!(connect_timeout(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn positions() {
        assert_eq!(from("start"), Ok(StartFrom::Start));
        assert_eq!(from("end"), Ok(StartFrom::End));
        assert_eq!(from("12_012"), Ok(StartFrom::Sequence(12_012)));
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
            assert_eq!(from(text), Ok(StartFrom::Time(ns)), "{text}");
        }
        assert!(from("@1969-12-31T23:59:59Z").is_err());
    }

    #[test]
    fn servers() {
        let first = |text| server(text).unwrap().resolve(9310).unwrap()[0].to_string();
        assert_eq!(first("127.0.0.1:9311"), "127.0.0.1:9311");
        assert_eq!(first("127.0.0.1"), "127.0.0.1:9310");
        assert_eq!(first("localhost:9311"), "127.0.0.1:9311");
        assert_eq!(first("localhost"), "127.0.0.1:9310");
        assert!(server("localhost").unwrap().is_name());
        assert!(!server("127.0.0.1:1").unwrap().is_name());
        for bad in
            ["", "127.0.0.1:99999", "127.0.0.1:0", "127.0.0.1:", ":", ":9310", "9310", "1.2", "a b"]
        {
            assert!(server(bad).is_err(), "{bad}");
        }
        for ipv6 in ["[::1]:9310", "::1", "fe80::1%eth0", "[2001:db8::1]"] {
            assert!(server(ipv6).unwrap_err().contains("IPv6"), "{ipv6}");
        }
        let nowhere = server("nowhere.invalid:9310").unwrap().resolve(9310).unwrap_err();
        assert!(nowhere.starts_with("nowhere.invalid: "), "{nowhere}");
    }

    #[test]
    fn sizes_of_messages() {
        assert_eq!(message_bytes("128B"), Ok(128));
        assert!(message_bytes("15").is_err());
        assert!(message_bytes("1MiB").is_err());
    }
}
