//! What may follow the fixed part of a frame: a type, a length and a value each, padded to 4 bytes.
//!
//! A type with its highest bit set is passed over by whoever does not know it; any other that is not known makes the
//! frame one that is not understood.

use super::Malformed;

/// A stream's name, or a producer's.
pub const NAME: u16 = 1;

/// A text for people, at most 255 bytes.
pub const TEXT: u16 = 2;

/// Bytes of a text at most.
const TEXT_BYTES_MAX: usize = 255;

/// Bytes before a value.
pub(super) const TLV_HEAD_BYTES: usize = 4;

/// Set in a type that may be passed over.
const SKIP: u16 = 1 << 15;

/// Bytes a value of so many takes, with its head.
#[must_use]
pub const fn tlv_bytes(len: usize) -> usize {
    len.next_multiple_of(4).saturating_add(TLV_HEAD_BYTES)
}

/// What followed a frame's fixed part; each at most once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tlvs<'a> {
    /// [`NAME`].
    pub(super) name: Option<&'a str>,
    /// [`TEXT`].
    pub(super) text: Option<&'a str>,
}

impl<'a> Tlvs<'a> {
    /// Parses all of `bytes`.
    ///
    /// # Errors
    /// When they are not values one behind the other, one is there twice, or is neither known nor may be passed over.
    pub(super) fn parse(mut bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut found = Self::default();
        while !bytes.is_empty() {
            let (head, rest) =
                bytes.split_first_chunk::<TLV_HEAD_BYTES>().ok_or(Malformed::FrameBody)?;
            let kind = u16::from_le_bytes([head[0], head[1]]);
            let len = usize::from(u16::from_le_bytes([head[2], head[3]]));
            let padded =
                rest.split_at_checked(len.next_multiple_of(4)).ok_or(Malformed::FrameBody)?;
            let (value, padding) = padded.0.split_at(len);
            if padding.iter().any(|&byte| byte != 0) {
                return Err(Malformed::Reserved);
            }
            let text = || std::str::from_utf8(value).map_err(|_| Malformed::FrameBody);
            let known = match kind {
                NAME => found.name.replace(text()?).is_none(),
                TEXT if len <= TEXT_BYTES_MAX => found.text.replace(text()?).is_none(),
                kind => kind & SKIP != 0,
            };
            if !known {
                return Err(Malformed::FrameBody);
            }
            bytes = padded.1;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
        bytes.extend(value);
        bytes.resize(tlv_bytes(value.len()), 0);
        bytes
    }

    #[test]
    fn values_are_found_and_what_is_not_known_is_passed_over_only_where_it_may() {
        let both = [tlv(NAME, b"orders"), tlv(SKIP | 77, b"later"), tlv(TEXT, b"why")].concat();
        let found = Tlvs::parse(&both).unwrap();
        assert_eq!((found.name, found.text), (Some("orders"), Some("why")));
        assert!(Tlvs::parse(&[]).unwrap().name.is_none());
        assert_eq!(Tlvs::parse(&tlv(NAME, b"")).unwrap().name, Some(""), "who uses it checks it");
        for (bytes, what) in [
            ([tlv(NAME, b"a"), tlv(NAME, b"b")].concat(), "twice"),
            (tlv(3, b"a"), "not known"),
            (tlv(TEXT, &[b'x'; 256]), "too long"),
            (tlv(NAME, &[0xff]), "no text"),
            (tlv(NAME, b"orders")[..8].to_vec(), "cut"),
            (tlv(NAME, b"orders")[..3].to_vec(), "cut in its head"),
            (vec![1, 0, 1, 0, b'x', 0, 0, 1], "padding"),
            (vec![1, 0, 0xff, 0xff], "longer than there is"),
        ] {
            assert!(Tlvs::parse(&bytes).is_err(), "{what}");
        }
    }
}
