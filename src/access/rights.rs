//! What an identity may do. What is not said is denied.

use crate::ids::{PRODUCER_NAME_BYTES_MAX, is_name};
use crate::limits::{PATTERNS_A_LIST_MAX, STREAM_NAME_BYTES_MAX};

/// What a list of patterns is about, which says what names there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Streams.
    Streams,
    /// Producers.
    Producers,
}

impl Named {
    fn bytes_max(self) -> usize {
        match self {
            Self::Streams => STREAM_NAME_BYTES_MAX,
            Self::Producers => PRODUCER_NAME_BYTES_MAX,
        }
    }

    fn one(self) -> &'static str {
        match self {
            Self::Streams => "stream",
            Self::Producers => "producer",
        }
    }
}

/// A list of names, or of beginnings of names with a `*` behind them; `*` alone is every name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns {
    is_all: bool,
    list: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// The name, or what it begins with.
    text: String,
    is_beginning: bool,
}

impl Patterns {
    /// Every name.
    #[must_use]
    pub const fn all() -> Self {
        Self { is_all: true, list: Vec::new() }
    }

    /// No name.
    #[must_use]
    pub const fn none() -> Self {
        Self { is_all: false, list: Vec::new() }
    }

    /// The patterns `texts`.
    ///
    /// # Errors
    /// Which one is none, and why.
    pub fn new<'a>(named: Named, texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut patterns = Self::none();
        for (index, text) in texts.into_iter().enumerate() {
            if index >= PATTERNS_A_LIST_MAX {
                return Err(format!(
                    "there are more than {PATTERNS_A_LIST_MAX} patterns; name what belongs together alike, and \
                     give its beginning with a `*`"
                ));
            }
            match Pattern::new(named, text)? {
                Pattern { text, is_beginning: true } if text.is_empty() => patterns.is_all = true,
                pattern => patterns.list.push(pattern),
            }
        }
        Ok(patterns)
    }

    /// Whether `name` is one of them. Allocates nothing.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.is_all || self.list.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether no name is one of them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_all && self.list.is_empty()
    }
}

impl Pattern {
    fn new(named: Named, text: &str) -> Result<Self, String> {
        let (name, is_beginning) =
            text.strip_suffix('*').map_or((text, false), |name| (name, true));
        let (shown, one) = (text.escape_debug(), named.one());
        if name.contains('*') {
            return Err(format!(
                "`{shown}`: a `*` stands at the end of a pattern and nowhere else"
            ));
        }
        let least = usize::from(!is_beginning);
        if !(least..=named.bytes_max()).contains(&name.len()) || !is_name(name) {
            return Err(format!(
                "`{shown}`: no {one} can be named so: 1 to {} letters, digits, `.`, `_`, `-`, `/` or `:`, not starting \
                 with `.`",
                named.bytes_max()
            ));
        }
        Ok(Self { text: name.to_owned(), is_beginning })
    }

    fn matches(&self, name: &str) -> bool {
        if self.is_beginning { name.starts_with(&self.text) } else { name == self.text }
    }
}

/// What somebody may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Streams to publish to.
    pub publish: Patterns,
    /// Streams to consume.
    pub subscribe: Patterns,
    /// Streams to create.
    pub create: Patterns,
    /// Streams whose oldest messages may be removed.
    pub trim: Patterns,
    /// Producers to publish as.
    pub producers: Patterns,
    /// What is about the whole appliance.
    pub admin: bool,
}

impl Rights {
    /// Everything.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            publish: Patterns::all(),
            subscribe: Patterns::all(),
            create: Patterns::all(),
            trim: Patterns::all(),
            producers: Patterns::all(),
            admin: true,
        }
    }

    /// Nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            publish: Patterns::none(),
            subscribe: Patterns::none(),
            create: Patterns::none(),
            trim: Patterns::none(),
            producers: Patterns::none(),
            admin: false,
        }
    }

    /// Whether they allow nothing at all.
    #[must_use]
    pub fn are_none(&self) -> bool {
        let Self { publish, subscribe, create, trim, .. } = self;
        !self.admin && [publish, subscribe, create, trim].iter().all(|list| list.is_empty())
    }

    /// Whether a stream of this name is anything to them, and so may be shown.
    #[must_use]
    pub fn may_see(&self, stream: &str) -> bool {
        let Self { publish, subscribe, create, trim, .. } = self;
        self.admin || [publish, subscribe, create, trim].iter().any(|list| list.matches(stream))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn streams(texts: &[&str]) -> Result<Patterns, String> {
        Patterns::new(Named::Streams, texts.iter().copied())
    }

    #[test]
    fn a_pattern_is_a_name_or_its_beginning() {
        let patterns = streams(&["orders.*", "trades"]).unwrap();
        for name in ["orders.eu", "orders.", "trades"] {
            assert!(patterns.matches(name), "{name}");
        }
        for name in ["", "orders", "order", "trades.eu", "trade", "xorders.eu", "Trades", "*"] {
            assert!(!patterns.matches(name), "{name}");
        }
        let all = streams(&["trades", "*"]).unwrap();
        assert!(all.matches("anything") && all.matches("trades"));
        let none = streams(&[]).unwrap();
        assert!(none.is_empty() && !none.matches("") && !none.matches("x"));
        assert!(!patterns.is_empty() && !all.is_empty());
    }

    #[test]
    fn what_no_name_can_match_is_refused() {
        for bad in ["a*b", "**", "*a", "a**"] {
            let said = streams(&[bad]).unwrap_err();
            assert!(said.contains("stands at the end"), "{bad}: {said}");
        }
        let longest = "x".repeat(STREAM_NAME_BYTES_MAX);
        assert!(streams(&[&longest, &format!("{longest}*")]).is_ok());
        let longer = format!("{longest}x");
        for bad in ["", ".a", ".*", "a b", "ä", "a\n", "a?", &longer, &format!("{longer}*")] {
            let said = streams(&[bad]).unwrap_err();
            assert!(said.contains("no stream can be named so"), "{bad}: {said}");
            assert!(!said.contains('\n'), "{said}");
        }
        let producer = "x".repeat(PRODUCER_NAME_BYTES_MAX + 1);
        let said = Patterns::new(Named::Producers, [producer.as_str()]).unwrap_err();
        assert!(said.contains("no producer can be named so"), "{said}");
    }

    #[test]
    fn a_list_has_an_end() {
        let names: Vec<String> = (0..=PATTERNS_A_LIST_MAX).map(|n| format!("s{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(streams(&names[1..]).is_ok());
        assert!(streams(&names).unwrap_err().contains("more than 64"));
    }

    #[test]
    fn none_is_nothing_and_all_is_everything() {
        let (none, all) = (Rights::none(), Rights::all());
        let lists = |rights: &Rights| {
            let Rights { publish, subscribe, create, trim, producers, .. } = rights.clone();
            [publish, subscribe, create, trim, producers]
        };
        assert!(lists(&none).iter().all(Patterns::is_empty) && !none.admin);
        assert!(lists(&all).iter().all(|list| list.matches("x")) && all.admin);
        assert!(all.may_see("x") && !none.may_see("x"));
        let reads = Rights { subscribe: streams(&["a*"]).unwrap(), ..Rights::none() };
        assert!(reads.may_see("ab") && !reads.may_see("b"));
    }

    proptest! {
        /// Against what the words mean.
        #[test]
        fn patterns_match_as_they_are_described(pattern in "[ab]{0,3}\\*?", name in "[ab]{0,4}") {
            prop_assume!(!pattern.is_empty());
            let is_match = match pattern.strip_suffix('*') {
                Some(start) => name.len() >= start.len() && name[..start.len()] == *start,
                None => name == pattern,
            };
            prop_assert_eq!(streams(&[&pattern]).unwrap().matches(&name), is_match);
        }
    }
}
