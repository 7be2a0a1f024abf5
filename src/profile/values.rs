//! Values that TOML has no type for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which core a thread is pinned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "CoreText", into = "CoreText")]
pub enum Core {
    /// The core with this number.
    Number(usize),
    /// The first core the process may use.
    First,
    /// The last core the process may use.
    Last,
    /// None: the scheduler decides.
    None,
}

impl Core {
    /// The number of the core among those the process may use, ascending; `None` leaves the thread to
    /// the scheduler.
    ///
    /// # Errors
    /// The number that is not among them.
    pub fn resolve(self, cores: &[usize]) -> Result<Option<usize>, usize> {
        match self {
            Self::Number(number) if cores.contains(&number) => Ok(Some(number)),
            Self::Number(number) => Err(number),
            Self::First => Ok(cores.first().copied()),
            Self::Last => Ok(cores.last().copied()),
            Self::None => Ok(None),
        }
    }
}

impl fmt::Display for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::First => f.write_str("first"),
            Self::Last => f.write_str("last"),
            Self::None => f.write_str("none"),
        }
    }
}

/// How a core is written.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum CoreText {
    Number(i64),
    Word(String),
}

impl TryFrom<CoreText> for Core {
    type Error = String;

    fn try_from(text: CoreText) -> Result<Self, String> {
        let found = match text {
            CoreText::Number(number) => match usize::try_from(number) {
                Ok(number) => return Ok(Self::Number(number)),
                Err(_) => number.to_string(),
            },
            CoreText::Word(word) => match word.as_str() {
                "first" => return Ok(Self::First),
                "last" => return Ok(Self::Last),
                "none" => return Ok(Self::None),
                _ => word,
            },
        };
        Err(format!("`{found}` is no core: write its number, \"first\", \"last\" or \"none\""))
    }
}

impl From<Core> for CoreText {
    fn from(core: Core) -> Self {
        match core {
            Core::Number(number) => Self::Number(i64::try_from(number).expect("few cores")),
            Core::First | Core::Last | Core::None => Self::Word(core.to_string()),
        }
    }
}

/// An Ethernet address of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for MacAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is not the address of one device: write it like 02:00:00:00:00:01")
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(hex).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        let group = bytes[0] & 1 == 1;
        if parts.next().is_some() || group || bytes == [0; 6] {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_resolve_among_those_there_are() {
        let cores = [2, 3, 7];
        assert_eq!(Core::First.resolve(&cores), Ok(Some(2)));
        assert_eq!(Core::Last.resolve(&cores), Ok(Some(7)));
        assert_eq!(Core::Number(3).resolve(&cores), Ok(Some(3)));
        assert_eq!(Core::Number(4).resolve(&cores), Err(4));
        assert_eq!(Core::None.resolve(&cores), Ok(None));
    }

    #[test]
    fn a_mac_address_is_of_one_device() {
        let mac = MacAddress::try_from("02:00:00:00:AB:01".to_owned()).unwrap();
        assert_eq!(mac.to_string(), "02:00:00:00:ab:01");
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "02:00:00:00:00:+1",
            "02-00-00-00-00-01",
        ] {
            assert!(MacAddress::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
