//! `access.toml`: who may do what. `docs/security.md` describes it.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use zeroize::Zeroizing;

use super::error::AccessError;
use super::key::{PublicKey, SecretKey};
use super::private::{self, Way};
use super::rights::{Named, Patterns, Rights};
use super::{Access, Identity};

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessFile {
    #[serde(default)]
    identity: Vec<IdentityTable>,
    plain: Option<PlainTable>,
}

type Texts = Option<Vec<Spanned<String>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityTable {
    name: Spanned<String>,
    #[serde(default)]
    keys: Vec<Spanned<String>>,
    psk: Option<Spanned<String>>,
    publish: Texts,
    subscribe: Texts,
    create: Texts,
    trim: Texts,
    producers: Texts,
    #[serde(default)]
    admin: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainTable {
    publish: Texts,
    subscribe: Texts,
    create: Texts,
    trim: Texts,
    producers: Texts,
    #[serde(default)]
    admin: bool,
}

/// A text and where it is kept, to say what is wrong with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn wrong(&self, offset: usize, what: &str) -> AccessError {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        AccessError::wrong(self.path, Some(line), what)
    }

    /// What the text says. What a parser found is said without the values it found: they may be secrets.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, AccessError> {
        toml::from_str(self.text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            self.wrong(offset, &without_values(error.message()))
        })
    }

    pub(super) fn public(&self, text: &Spanned<String>) -> Result<PublicKey, AccessError> {
        // It is not shown: it may be a secret whose beginning is mistyped.
        let wrong = |error| self.wrong(text.span().start, &format!("the key {error}"));
        text.get_ref().parse().map_err(wrong)
    }

    pub(super) fn secret(
        &self,
        what: &str,
        text: Spanned<String>,
    ) -> Result<SecretKey, AccessError> {
        let start = text.span().start;
        let text = Zeroizing::new(text.into_inner());
        SecretKey::from_text(&text).map_err(|error| self.wrong(start, &format!("{what} {error}")))
    }

    fn patterns(&self, named: Named, key: &str, texts: &Texts) -> Result<Patterns, AccessError> {
        let mut patterns = Patterns::none();
        let Some(texts) = texts else { return Ok(patterns) };
        // Each alone first, because then it is known which.
        for text in texts {
            Patterns::new(named, [text.get_ref().as_str()])
                .map_err(|what| self.wrong(text.span().start, &format!("{key}: {what}")))?;
        }
        if let Some(first) = texts.first() {
            patterns = Patterns::new(named, texts.iter().map(|text| text.get_ref().as_str()))
                .map_err(|what| self.wrong(first.span().start, &format!("{key}: {what}")))?;
        }
        Ok(patterns)
    }
}

/// A message without what stands in it between `"`, of which the parser quotes values, over however many lines.
fn without_values(message: &str) -> String {
    let parts = message.split('"').enumerate();
    let kept: Vec<&str> = parts.map(|(at, part)| if at % 2 == 0 { part } else { ".." }).collect();
    kept.join("\"").lines().collect::<Vec<_>>().join(", ")
}

impl IdentityTable {
    fn identity(self, source: Source<'_>) -> Result<Identity, AccessError> {
        let of = |named, key, texts: &Texts| source.patterns(named, key, texts);
        let mut rights = Rights {
            publish: of(Named::Streams, "publish", &self.publish)?,
            subscribe: of(Named::Streams, "subscribe", &self.subscribe)?,
            create: of(Named::Streams, "create", &self.create)?,
            trim: of(Named::Streams, "trim", &self.trim)?,
            producers: of(Named::Producers, "producers", &self.producers)?,
            admin: self.admin,
        };
        if self.producers.is_none() {
            let own = [self.name.get_ref().as_str()];
            // A name that can be none is refused with the identity.
            rights.producers = Patterns::new(Named::Producers, own).unwrap_or(Patterns::none());
        }
        let keys = self.keys.iter().map(|key| source.public(key)).collect::<Result<_, _>>()?;
        let psk = self.psk.map(|psk| source.secret("the psk", psk)).transpose()?;
        Ok(Identity::new(self.name.get_ref(), keys, psk, rights))
    }
}

impl PlainTable {
    fn rights(&self, source: Source<'_>) -> Result<Rights, AccessError> {
        let of = |named, key, texts: &Texts| source.patterns(named, key, texts);
        Ok(Rights {
            publish: of(Named::Streams, "publish", &self.publish)?,
            subscribe: of(Named::Streams, "subscribe", &self.subscribe)?,
            create: of(Named::Streams, "create", &self.create)?,
            trim: of(Named::Streams, "trim", &self.trim)?,
            producers: of(Named::Producers, "producers", &self.producers)?,
            admin: self.admin,
        })
    }
}

/// What `text`, of the file `path`, says.
pub(super) fn parse(path: &Path, text: &str) -> Result<Access, AccessError> {
    let source = Source { path, text };
    let file: AccessFile = source.parse()?;
    let plain = file.plain.map_or(Ok(Rights::none()), |plain| plain.rights(source))?;
    let starts: Vec<usize> = file.identity.iter().map(|table| table.name.span().start).collect();
    let tables = file.identity.into_iter();
    let identities = tables.map(|table| table.identity(source)).collect::<Result<Vec<_>, _>>()?;
    Access::checked(identities, plain)
        .map_err(|fault| source.wrong(starts[fault.index], &fault.what))
}

impl Access {
    /// What the file `path` says: all of it, or nothing.
    ///
    /// # Errors
    /// `AccessError` when it is not there, when others than its owner may read or write it, when it belongs to somebody
    /// else, or when it says what cannot be.
    pub fn load(path: &Path) -> Result<Self, AccessError> {
        let text = private::read(path, Way::Named)?;
        parse(path, &text)
    }

    /// What `text`, of the file `path`, says.
    ///
    /// # Errors
    /// What cannot be.
    #[cfg(feature = "sim")]
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, AccessError> {
        parse(path, text)
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
