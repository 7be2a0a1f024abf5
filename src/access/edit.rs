//! Changes of `access.toml` that leave its comments and everything else in it as they are.

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, RawString, Table, Value, value};

use super::key::PublicKey;

/// What somebody is let in with.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// The name of the identity.
    pub name: String,
    /// Streams to publish to, as patterns; as the following.
    pub publish: Vec<String>,
    /// Streams to consume.
    pub subscribe: Vec<String>,
    /// Streams to create.
    pub create: Vec<String>,
    /// Streams whose oldest messages may be removed.
    pub trim: Vec<String>,
    /// Producers to publish as; empty for the one of its own name.
    pub producers: Vec<String>,
    /// What is about the whole appliance.
    pub admin: bool,
}

impl Grant {
    /// Whether it gives any right.
    #[must_use]
    pub fn has_rights(&self) -> bool {
        self.admin || self.lists().iter().any(|(_, list)| !list.is_empty())
    }

    fn lists(&self) -> [(&'static str, &[String]); 5] {
        [
            ("publish", &self.publish),
            ("subscribe", &self.subscribe),
            ("create", &self.create),
            ("trim", &self.trim),
            ("producers", &self.producers),
        ]
    }

    fn table(&self, key: &PublicKey) -> Table {
        let mut table = Table::new();
        table.decor_mut().set_prefix("\n");
        table.insert("name", value(self.name.as_str()));
        table.insert("keys", value(Array::from_iter([key.to_string()])));
        for (name, list) in self.lists() {
            if !list.is_empty() {
                table.insert(name, value(list.iter().collect::<Array>()));
            }
        }
        if self.admin {
            table.insert("admin", value(true));
        }
        table
    }
}

/// `text` with the identity of `grant`, which comes with `key`; one that is there keeps its rights, and gets a key more.
///
/// # Errors
/// Why it cannot be changed so.
pub fn authorize(text: &str, grant: &Grant, key: &PublicKey) -> Result<String, String> {
    let mut file = parse(text)?;
    let identities = identities(&mut file)?;
    let Some(place) = place_of(identities, &grant.name) else {
        if !grant.has_rights() {
            return Err(format!(
                "{} is not known yet, and what is not said is denied: say what it may do, as in --publish 'orders.*'",
                grant.name
            ));
        }
        identities.push(grant.table(key));
        return Ok(file.to_string());
    };
    if grant.has_rights() {
        return Err(format!(
            "there is an identity {} already: without rights on the command line it gets a key more; its rights are changed \
             here",
            grant.name
        ));
    }
    let table = identities.get_mut(place).expect("it was found there");
    match table.entry("keys").or_insert(value(Array::new())).as_array_mut() {
        Some(keys) => keys.push(key.to_string()),
        None => return Err(format!("the keys of {} are no list", grant.name)),
    }
    Ok(file.to_string())
}

/// `text` without the identity `name`.
///
/// # Errors
/// Why it cannot be changed so, as where there is none.
pub fn revoke_name(text: &str, name: &str) -> Result<String, String> {
    let mut file = parse(text)?;
    let identities = identities(&mut file)?;
    let place = place_of(identities, name).ok_or_else(|| {
        let names: Vec<&str> = identities.iter().filter_map(name_of).collect();
        format!("there is no identity {name}; there are {}", names.join(", "))
    })?;
    let kept = what_is_not_about_it(identities, place);
    identities.remove(place);
    give_on(&mut file, place, &kept);
    Ok(file.to_string())
}

/// `text` without `key`, and the name of the identity that had it, which stays.
///
/// # Errors
/// Why it cannot be changed so, as where nobody has it.
pub fn revoke_key(text: &str, key: &PublicKey) -> Result<(String, String), String> {
    let mut file = parse(text)?;
    let (keys, at, name) = identities(&mut file)?
        .iter_mut()
        .find_map(|table| {
            let name = name_of(table).unwrap_or_default().to_owned();
            let keys = table.get_mut("keys").and_then(Item::as_array_mut)?;
            let is_it = |item: &Value| item.as_str().is_some_and(|text| text.parse() == Ok(*key));
            let at = keys.iter().position(is_it)?;
            Some((keys, at, name))
        })
        .ok_or_else(|| format!("{key} is a key of nobody"))?;
    keys.remove(at);
    Ok((file.to_string(), name))
}

/// The caller has found that it is TOML, and a file of rights; what a parser says of it may show secrets.
fn parse(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|_| "cannot be changed by this command; change it by hand".to_owned())
}

fn identities(file: &mut DocumentMut) -> Result<&mut ArrayOfTables, String> {
    let item = file.entry("identity").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    item.as_array_of_tables_mut()
        .ok_or_else(|| "write each identity as a table of its own, [[identity]]".to_owned())
}

fn name_of(table: &Table) -> Option<&str> {
    table.get("name").and_then(Item::as_str)
}

fn place_of(identities: &ArrayOfTables, name: &str) -> Option<usize> {
    identities.iter().position(|table| name_of(table) == Some(name))
}

/// What stands before an identity and is no comment of its own, because an empty line is between them.
fn what_is_not_about_it(identities: &ArrayOfTables, place: usize) -> String {
    let prefix = identities.get(place).and_then(|table| table.decor().prefix());
    let prefix = prefix.and_then(RawString::as_str).unwrap_or_default();
    prefix.rfind("\n\n").map(|end| prefix[..=end].to_owned()).unwrap_or_default()
}

/// Puts `kept` before the identity that stands at `place` now, or at the end.
fn give_on(file: &mut DocumentMut, place: usize, kept: &str) {
    let next = file.get_mut("identity").and_then(Item::as_array_of_tables_mut);
    if let Some(next) = next.and_then(|all| all.get_mut(place)) {
        let own = next.decor().prefix().and_then(RawString::as_str).unwrap_or_default();
        let both = format!("{kept}{own}");
        next.decor_mut().set_prefix(both);
        return;
    }
    let own = file.trailing().as_str().unwrap_or_default();
    let both = format!("{kept}{own}");
    file.set_trailing(both);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::access::{Access, IdentityId, SecretKey, file};

    const TEXT: &str = "\
# Who may do what.

# The one that was there first.
[[identity]]
name = \"local\" # all
keys = []
publish = [\"*\"]

# A desk.
[[identity]]
name = \"desk\"
keys = [
    # of 2026
    \"KEY1\",
    \"KEY2\",
]
subscribe = [\"*\"]

[plain]
# nothing
";

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_bytes([seed; 32]).public()
    }

    fn text() -> String {
        TEXT.replace("KEY1", &key(1).to_string()).replace("KEY2", &key(2).to_string())
    }

    fn read(text: &str) -> Access {
        file::parse(Path::new("x"), text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
    }

    fn grant(name: &str, publish: &[&str]) -> Grant {
        let publish = publish.iter().map(ToString::to_string).collect();
        Grant { name: name.to_owned(), publish, ..Grant::default() }
    }

    #[track_caller]
    fn assert_keeps(new: &str, lines: &[&str]) {
        for line in lines {
            assert!(new.lines().any(|kept| kept == *line), "`{line}` is not in:\n{new}");
        }
    }

    const COMMENTS: [&str; 5] = [
        "# Who may do what.",
        "# The one that was there first.",
        "name = \"local\" # all",
        "    # of 2026",
        "# nothing",
    ];

    #[test]
    fn somebody_new_is_let_in_and_all_else_stays() {
        let mut new = grant("gateway-7", &["orders.*", "x"]);
        new.producers = vec!["gateway-7".to_owned(), "spare".to_owned()];
        let text = authorize(&text(), &new, &key(7)).unwrap();
        assert_keeps(&text, &COMMENTS);
        let access = read(&text);
        let known = access.by_key(&key(7)).unwrap();
        assert_eq!(known.name, "gateway-7");
        assert!(known.rights.publish.matches("orders.1") && known.rights.subscribe.is_empty());
        assert!(known.rights.producers.matches("spare") && !known.rights.admin);
        assert_eq!(access.identities().len(), 3);
        let first = authorize("", &Grant { admin: true, ..grant("a", &[]) }, &key(1)).unwrap();
        assert!(read(&first).by_key(&key(1)).unwrap().rights.admin);
    }

    #[test]
    fn somebody_known_gets_a_key_more_and_keeps_the_rights() {
        let text = authorize(&text(), &grant("desk", &[]), &key(3)).unwrap();
        assert_keeps(&text, &COMMENTS);
        let access = read(&text);
        assert_eq!(access.by_key(&key(3)).unwrap().keys, [key(1), key(2), key(3)]);
        let bare = authorize("[[identity]]\nname = \"a\"\n", &grant("a", &[]), &key(3)).unwrap();
        assert!(read(&bare).by_key(&key(3)).is_some());
        let said = authorize(&text, &grant("desk", &["x"]), &key(4)).unwrap_err();
        assert!(said.contains("there is an identity desk already"), "{said}");
        let said = authorize(&text, &grant("new", &[]), &key(4)).unwrap_err();
        assert!(said.contains("say what it may do"), "{said}");
        let said = authorize("identity = []\n", &grant("a", &["x"]), &key(4)).unwrap_err();
        assert!(said.contains("[[identity]]"), "{said}");
    }

    #[test]
    fn an_identity_is_revoked_with_what_is_said_of_it_and_nothing_else() {
        let without = revoke_name(&text(), "desk").unwrap();
        assert_keeps(
            &without,
            &["# Who may do what.", "# The one that was there first.", "# nothing"],
        );
        assert!(!without.contains("A desk") && !without.contains("2026"), "{without}");
        assert!(read(&without).by_id(IdentityId::of("desk")).is_none());
        let without = revoke_name(&text(), "local").unwrap();
        assert_keeps(&without, &["# Who may do what.", "# A desk.", "    # of 2026"]);
        assert!(!without.contains("there first"), "{without}");
        let none = revoke_name(&without, "desk").unwrap();
        assert_keeps(&none, &["# Who may do what."]);
        assert_eq!(read(&none).identities().len(), 0);
        let said = revoke_name(&text(), "nobody").unwrap_err();
        assert_eq!(said, "there is no identity nobody; there are local, desk");
    }

    #[test]
    fn a_key_is_revoked_and_its_identity_stays() {
        let (one, name) = revoke_key(&text(), &key(1)).unwrap();
        assert_eq!(name, "desk");
        assert_eq!(read(&one).by_key(&key(2)).unwrap().keys, [key(2)]);
        let (none, _) = revoke_key(&one, &key(2)).unwrap();
        assert!(read(&none).by_id(IdentityId::of("desk")).unwrap().keys.is_empty());
        assert_keeps(&none, &COMMENTS[..3]);
        let said = revoke_key(&none, &key(2)).unwrap_err();
        assert!(said.contains("is a key of nobody"), "{said}");
    }
}
