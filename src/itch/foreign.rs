//! What a file is that was given for an exchange's file, told from its first bytes.

use super::message_bytes;

/// Bytes looked at, at most.
pub(super) const FIRST_BYTES: usize = 64;

/// Formats that begin with bytes of their own, and what to do with each.
const MAGICS: [(&[u8], &str); 14] = [
    (
        b"\x1f\x8b",
        "compressed with gzip; unpack it: gzip -dc FILE | buslane publish STREAM --itch -",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "compressed with zstd; unpack it: zstd -dc FILE | buslane publish STREAM --itch -",
    ),
    (b"\xfd7zXZ\0", "compressed with xz; unpack it: xz -dc FILE | buslane publish STREAM --itch -"),
    (b"BZh", "compressed with bzip2; unpack it: bzip2 -dc FILE | buslane publish STREAM --itch -"),
    (
        b"\x04\x22\x4d\x18",
        "compressed with lz4; unpack it: lz4 -dc FILE | buslane publish STREAM --itch -",
    ),
    (b"PK\x03\x04", "a zip archive; unpack it: unzip -p FILE | buslane publish STREAM --itch -"),
    (b"\xd4\xc3\xb2\xa1", PCAP),
    (b"\xa1\xb2\xc3\xd4", PCAP),
    (b"\x4d\x3c\xb2\xa1", PCAP),
    (b"\xa1\xb2\x3c\x4d", PCAP),
    (
        b"\x0a\x0d\x0d\x0a",
        "a capture of packets (pcapng); write the messages in it as an ITCH file first",
    ),
    (b"BUSLANE", "framed messages; publish them with --framed"),
    (b"\x7fELF", "a program"),
    (b"{\"", "JSON; to publish it line by line, take --lines"),
];

const PCAP: &str = "a capture of packets (pcap); write the messages in it as an ITCH file first";

const SOUP: &str = "a recorded SoupBinTCP session, whose lengths count a byte of its own; write the payloads of \
                    its sequenced data as an ITCH file first";

const MOLD: &str = "packets of MoldUDP64; write the messages in them as an ITCH file first";

/// What it is, with what to do; `None` where nothing is recognised.
pub(super) fn recognise(first: &[u8]) -> Option<&'static str> {
    let magic = MAGICS.iter().find(|(magic, _)| first.starts_with(magic));
    if let Some((_, what)) = magic {
        return Some(what);
    }
    if is_soup(first) {
        return Some(SOUP);
    }
    if is_mold(first) {
        return Some(MOLD);
    }
    is_text(first).then_some("text; to publish it line by line, take --lines")
}

/// A frame of sequenced data with an ITCH message, or one of those a session begins with.
fn is_soup(first: &[u8]) -> bool {
    let [high, low, kind, rest @ ..] = first else { return false };
    let length = usize::from(*high) << 8 | usize::from(*low);
    match kind {
        b'S' => rest.first().and_then(|kind| message_bytes(*kind)) == Some(length.wrapping_sub(1)),
        b'A' => length == 31,
        b'L' => length == 47 || length == 52,
        b'H' | b'R' | b'Z' | b'O' => length == 1,
        b'J' => length == 2,
        b'+' => true,
        _ => false,
    }
}

/// A session of ten characters, a sequence, a count, and the first message or none.
fn is_mold(first: &[u8]) -> bool {
    let Some((head, rest)) = first.split_at_checked(20) else { return false };
    let is_named = head[..10].iter().all(|byte| (b' '..=b'~').contains(byte));
    let is_counted = head[10..12] == [0, 0] && (head[18..] == [0, 0] || rest.len() > 2);
    let holds_itch = match rest {
        [high, low, kind, ..] => {
            message_bytes(*kind) == Some(usize::from(*high) << 8 | usize::from(*low))
        }
        _ => true,
    };
    is_named && is_counted && (holds_itch || head[18..] == [0, 0])
}

fn is_text(first: &[u8]) -> bool {
    let text = match std::str::from_utf8(first) {
        Ok(text) => text,
        // The last character was cut by us.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&first[..error.valid_up_to()]).expect("valid up to there")
        }
        Err(_) => return false,
    };
    let is_control = |c: char| c.is_control() && !c.is_whitespace();
    text.len() > 2 && !text.contains(is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_have_is_recognised() {
        let soup = [&[0, 13, b'S', b'S'][..], &[0; 11]].concat();
        let mold =
            [&b"ORD0000001"[..], &[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 12, b'S'], &[0; 11]].concat();
        let quiet = [&b"ORD0000001"[..], &[0, 0, 0, 0, 0, 0, 0, 3, 0, 0]].concat();
        for (first, word) in [
            (&b"\x28\xb5\x2f\xfd\0\0"[..], "zstd"),
            (b"\x1f\x8b\x08\0", "gzip -dc"),
            (b"\xd4\xc3\xb2\xa1\x02\0", "pcap"),
            (b"\x0a\x0d\x0d\x0a\x1c\0", "pcapng"),
            (b"PK\x03\x04", "zip"),
            (b"BUSLANE\x01", "--framed"),
            (b"{\"a\": 1}", "--lines"),
            (b"time,type,price\n1,2,3\n", "--lines"),
            ("Zeit,Stück\n".as_bytes(), "--lines"),
            (&"Zeit,Stück\n".as_bytes()[..9], "--lines"),
            (b"8=FIX.4.4|9=63|35=A|", "--lines"),
            (&soup, "SoupBinTCP"),
            (b"\0\x1fAORD0000001", "SoupBinTCP"),
            (b"\0\x01H\0\x01H", "SoupBinTCP"),
            (&mold, "MoldUDP64"),
            (&quiet, "MoldUDP64"),
        ] {
            let what = recognise(first);
            assert!(what.is_some_and(|what| what.contains(word)), "{first:?}: {what:?}");
        }
        for first in [&b""[..], b"\0", b"\0\x0cS\0\0\0\0", b"\xff\xfe\0\0", b"\0\x10time,type"] {
            assert_eq!(recognise(first), None, "{first:?}");
        }
    }
}
