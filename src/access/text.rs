//! Keys as text: `blp1` and a public one, `bls1` and a secret one.
//!
//! Behind the prefix stand in base32 the 32 bytes of the key and a CRC-16/XMODEM, little-endian, of prefix and key, as
//! nkeys have it: whoever mistypes a letter is told so, and one kind is never taken for the other.

use std::fmt;
use std::str::FromStr;

use crc_fast::{CrcAlgorithm, Digest};
use data_encoding::BASE32_NOPAD_NOCASE;
use zeroize::Zeroizing;

use super::key::{PublicKey, SecretKey};

/// What the text of a public key begins with.
pub(crate) const PUBLIC_PREFIX: &str = "blp1";

/// What the text of a secret key begins with.
pub(crate) const SECRET_PREFIX: &str = "bls1";

/// Characters of a key: the prefix, and 34 bytes in base32.
const TEXT_CHARS: usize = 4 + 55;

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum KeyTextError {
    /// is a secret key where a public one (blp1..) is wanted; a secret is never handed out
    WantedPublic,
    /// is a public key where a secret one (bls1..) is wanted
    WantedSecret,
    /// does not begin with {0}, as such a key does
    Prefix(&'static str),
    /// has {0} characters where a key has 59: a part of it is missing, or something else was taken along
    Length(usize),
    /// has a letter that is in no key: behind the prefix there are a to z and 2 to 7 only
    Letter,
    /// has a checksum that is wrong: it is mistyped
    Checksum,
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&encoded(PUBLIC_PREFIX, &self.0))
    }
}

impl FromStr for PublicKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        if text.starts_with(SECRET_PREFIX) {
            return Err(KeyTextError::WantedPublic);
        }
        decoded(PUBLIC_PREFIX, text).map(|bytes| Self(*bytes))
    }
}

impl SecretKey {
    /// Its text, which is as secret as it is.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        encoded(SECRET_PREFIX, self.bytes())
    }

    /// The secret of this text.
    ///
    /// # Errors
    /// Why it is none, without a word of it.
    pub fn from_text(text: &str) -> Result<Self, KeyTextError> {
        if text.starts_with(PUBLIC_PREFIX) {
            return Err(KeyTextError::WantedSecret);
        }
        decoded(SECRET_PREFIX, text).map(|bytes| Self::from_bytes(*bytes))
    }
}

fn encoded(prefix: &str, key: &[u8; 32]) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; 34]);
    bytes[..32].copy_from_slice(key);
    bytes[32..].copy_from_slice(&checksum(prefix, key));
    // As large as it gets, so that no copy of it is left behind.
    let mut text = Zeroizing::new(String::with_capacity(TEXT_CHARS));
    text.push_str(prefix);
    BASE32_NOPAD_NOCASE.encode_append(bytes.as_slice(), &mut text);
    text.make_ascii_lowercase();
    text
}

fn decoded(prefix: &'static str, text: &str) -> Result<Zeroizing<[u8; 32]>, KeyTextError> {
    let rest = text.strip_prefix(prefix).ok_or(KeyTextError::Prefix(prefix))?;
    let chars = text.chars().count();
    if chars != TEXT_CHARS {
        return Err(KeyTextError::Length(chars));
    }
    let mut bytes = Zeroizing::new([0; 34]);
    // What is not ASCII is longer, and is no letter either.
    let length = BASE32_NOPAD_NOCASE.decode_len(rest.len()).ok();
    if length != Some(bytes.len()) {
        return Err(KeyTextError::Letter);
    }
    let decoded = BASE32_NOPAD_NOCASE.decode_mut(rest.as_bytes(), bytes.as_mut_slice());
    decoded.map_err(|_| KeyTextError::Letter)?;
    let (key, sum) = bytes.split_first_chunk::<32>().expect("34 bytes");
    if *sum != checksum(prefix, key) {
        return Err(KeyTextError::Checksum);
    }
    Ok(Zeroizing::new(*key))
}

fn checksum(prefix: &str, key: &[u8; 32]) -> [u8; 2] {
    let mut digest = Digest::new(CrcAlgorithm::Crc16Xmodem);
    digest.update(prefix.as_bytes());
    digest.update(key);
    u16::try_from(digest.finalize()).expect("16 bits").to_le_bytes()
}

/// `text` without any secret key in it, for messages: what begins as one is cut to its prefix.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find_ignoring_case(rest, SECRET_PREFIX) {
        let end = at + SECRET_PREFIX.len();
        shown.push_str(&rest[..end]);
        rest = &rest[end..];
        let behind = rest.trim_start_matches(|c: char| c.is_alphanumeric());
        if behind.len() < rest.len() {
            shown.push_str("..");
        }
        rest = behind;
    }
    shown.push_str(rest);
    shown
}

fn find_ignoring_case(text: &str, word: &str) -> Option<usize> {
    text.as_bytes().windows(word.len()).position(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are in files that people keep: they stay what they are.
    #[test]
    fn keys_have_the_texts_they_always_had() {
        let secret = SecretKey::from_bytes([9; 32]);
        assert_eq!(
            secret.to_text().as_str(),
            "bls1beeqscijbeeqscijbeeqscijbeeqscijbeeqscijbeeqscijbeeyiva"
        );
        assert_eq!(
            secret.public().to_string(),
            "blp1k7nuwnm7eoxf4fdojysreblharzckbrurqkqyfdvhugjgpie2qquzia"
        );
        assert_eq!(crc_fast::checksum(CrcAlgorithm::Crc16Xmodem, b"123456789"), 0x31c3);
    }

    #[test]
    fn a_key_comes_back_from_its_text() {
        for _ in 0..100 {
            let secret = SecretKey::generate();
            let text = secret.to_text();
            assert_eq!(text.len(), TEXT_CHARS);
            assert_eq!(SecretKey::from_text(&text), Ok(secret.clone()));
            let public = secret.public().to_string();
            assert_eq!(public.parse(), Ok(secret.public()));
            let (prefix, letters) = public.split_at(4);
            let loud = format!("{prefix}{}", letters.to_uppercase());
            assert_eq!(loud.parse(), Ok(secret.public()));
        }
    }

    #[test]
    fn each_letter_that_is_mistyped_is_found() {
        let text = SecretKey::from_bytes([9; 32]).to_text();
        for at in 4..TEXT_CHARS {
            for letter in ["a", "b", "7", "z"] {
                let mut wrong = text.to_string();
                wrong.replace_range(at..=at, letter);
                if wrong != *text {
                    assert!(SecretKey::from_text(&wrong).is_err(), "{at} {letter}");
                }
            }
            let mut swapped = text.to_string().into_bytes();
            if let Some(next) = (at + 1 < TEXT_CHARS).then_some(at + 1) {
                swapped.swap(at, next);
                let swapped = String::from_utf8(swapped).unwrap();
                assert!(swapped == *text || SecretKey::from_text(&swapped).is_err(), "{at}");
            }
        }
    }

    #[test]
    fn what_is_no_key_is_said_without_a_word_of_it() {
        let secret = SecretKey::from_bytes([9; 32]);
        let (public, text) = (secret.public().to_string(), secret.to_text());
        assert_eq!(text.parse::<PublicKey>(), Err(KeyTextError::WantedPublic));
        assert_eq!(SecretKey::from_text(&public), Err(KeyTextError::WantedSecret));
        assert_eq!("".parse::<PublicKey>(), Err(KeyTextError::Prefix("blp1")));
        assert_eq!("AAAA".parse::<PublicKey>(), Err(KeyTextError::Prefix("blp1")));
        assert_eq!(SecretKey::from_text("bls1"), Err(KeyTextError::Length(4)));
        assert_eq!(SecretKey::from_text(&format!("{}x", *text)), Err(KeyTextError::Length(60)));
        assert_eq!(SecretKey::from_text(&text[..58]), Err(KeyTextError::Length(58)));
        let with = |letter: &str| SecretKey::from_text(&format!("{}{letter}", &text[..58]));
        assert_eq!(with("1"), Err(KeyTextError::Letter));
        assert_eq!(with("ä"), Err(KeyTextError::Letter));
        let relabelled = format!("blp1{}", &text[4..]);
        assert_eq!(relabelled.parse::<PublicKey>(), Err(KeyTextError::Checksum));
        let other = if text.as_bytes()[10] == b'a' { "b" } else { "a" };
        let mistyped = format!("{}{other}{}", &text[..10], &text[11..]);
        let error = SecretKey::from_text(&mistyped).unwrap_err();
        assert_eq!(error, KeyTextError::Checksum);
        assert!(!error.to_string().contains(&mistyped[4..10]), "{error}");
    }

    #[test]
    fn secrets_are_cut_out_of_messages() {
        let text = SecretKey::from_bytes([9; 32]).to_text();
        let shown = without_secrets(&format!("x `{}` y {}", *text, text.to_uppercase()));
        assert_eq!(shown, "x `bls1..` y BLS1..");
        assert_eq!(without_secrets("ö (bls1..)"), "ö (bls1..)");
        assert_eq!(without_secrets("blp1abc"), "blp1abc");
    }
}
