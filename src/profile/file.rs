//! Reading a profile: find it, refuse keys nobody knows, lay it over the defaults, lay `--set` over it.
//!
//! A mistyped key that is silently ignored is an appliance that runs on the wrong core, so every unknown
//! key is refused, with its line and the nearest one there is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use toml::Table;
use toml::de::{DeTable, DeValue};

use super::check::NAME_CHARS_MAX;
use super::{Profile, ProfileError, runtime};

/// The profiles that are part of the binary, by name.
pub const SHIPPED: [(&str, &str); 8] = [
    ("loopback", include_str!("../../hw-profiles/loopback.toml")),
    ("memif", include_str!("../../hw-profiles/memif.toml")),
    ("memif-ram", include_str!("../../hw-profiles/memif-ram.toml")),
    ("veth", include_str!("../../hw-profiles/veth.toml")),
    ("vfio-user", include_str!("../../hw-profiles/vfio-user.toml")),
    ("nvme-tcp", include_str!("../../hw-profiles/nvme-tcp.toml")),
    ("mlx5-p5800x", include_str!("../../hw-profiles/mlx5-p5800x.toml")),
    ("e810-pm9a3", include_str!("../../hw-profiles/e810-pm9a3.toml")),
];

/// Keys outside a port.
const KEYS: [&str; 34] = [
    "name",
    "description",
    "instance",
    "shard.core",
    "shard.count",
    "shard.cores",
    "shard.steering",
    "disk.driver",
    "disk.path",
    "disk.size",
    "disk.segment",
    "disk.queue_depth",
    "disk.ring",
    "disk.accept_volatile",
    "disk.spdk.memory",
    "disk.spdk.timeout_ms",
    "disk.spdk.identity",
    "disk.spdk.write_cache_off",
    "disk.spdk.power_loss_protected",
    "client.core",
    "security.mode",
    "security.accept_plain",
    "security.keys",
    "limits.window_messages",
    "limits.turn_us",
    "limits.watchdog_ms",
    "metrics.stages",
    "metrics.http",
    "metrics.socket",
    "metrics.dir",
    "host.require",
    "host.cmdline",
    "host.jitter_us_max",
    "host.clock_us_max",
];

/// Keys of a port, which are those of `port` and of `client.port`.
const PORT_KEYS: [&str; 12] = [
    "driver",
    "address",
    "datagram_bytes",
    "dpdk.eal",
    "dpdk.device",
    "dpdk.mac",
    "dpdk.prefix_len",
    "dpdk.gateway",
    "dpdk.rx_descriptors",
    "dpdk.tx_descriptors",
    "dpdk.mbufs",
    "dpdk.udp_checksum",
];

/// Keys whose value is text, so that `--set` takes it as it stands, be it `7` or `true`.
const TEXT_KEYS: [&str; 12] = [
    "name",
    "description",
    "instance",
    "path",
    "device",
    "mac",
    "identity",
    "mode",
    "keys",
    "http",
    "socket",
    "dir",
];

/// Where the values of a profile come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The file, or the name of a shipped profile, as messages call it.
    pub name: String,
    /// What was asked for, by name or path.
    asked: String,
    /// The line of each key in it, from 1.
    lines: BTreeMap<String, usize>,
    /// What `--set` gave, by key.
    settings: BTreeMap<String, String>,
}

impl Source {
    /// Where the value of `key` was written, for a message.
    #[must_use]
    pub fn place(&self, key: &str) -> String {
        // An element of a list stands where the list does.
        let key = key.split('[').next().unwrap_or(key);
        if let Some(value) = self.settings.get(key) {
            return format!("--set {key}={value}");
        }
        match self.lines.get(key) {
            Some(line) => format!("{}:{line}", self.name),
            None => self.name.clone(),
        }
    }

    /// Whether a file or `--set` gave `key` a value.
    #[must_use]
    pub fn is_given(&self, key: &str) -> bool {
        self.settings.contains_key(key) || self.lines.contains_key(key)
    }
}

/// Reads the profile `name`, shipped or a path, and lays `settings` (`key=value`) over it.
///
/// # Errors
/// `ProfileError` when there is no such profile, or its text or values are wrong.
pub fn load(name: &str, settings: &[String]) -> Result<Profile, ProfileError> {
    let (shown, text) = find(name)?;
    let mut profile = read(&shown, &text, settings)?;
    name.clone_into(&mut profile.source.asked);
    if !profile.source.is_given("name") {
        profile.name = name_of(Path::new(name));
    }
    runtime::expand(&mut profile)?;
    // Again, because placeholders make paths longer.
    profile.check_ranges()?;
    Ok(profile)
}

/// What a profile is called that does not say it: as its file, as far as a name can be.
fn name_of(path: &Path) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = stem.chars().take(NAME_CHARS_MAX).map(|c| if is_plain(c) { c } else { '-' });
    name.collect()
}

/// Reads a loaded profile again: the same file, under the same settings. What came through a pipe was read and is
/// gone, and an empty file is one that is being written: neither is a profile.
///
/// # Errors
/// As [`load`].
pub fn load_again(profile: &Profile) -> Result<Profile, ProfileError> {
    let asked = &profile.source.asked;
    let is_shipped = SHIPPED.iter().any(|(shipped, _)| shipped == asked);
    // What is not there is told by whoever reads it.
    let facts = std::fs::metadata(asked).ok().filter(|_| !is_shipped);
    if let Some(facts) = facts.filter(|facts| !facts.is_file() || facts.len() == 0) {
        let what = if facts.is_file() { "is empty" } else { "is no file" };
        return Err(ProfileError::Host(format!(
            "profile {asked}: it {what}, so it cannot be read again; keep the profile in a file, and restart with it"
        )));
    }
    let settings = profile.source.settings.iter();
    let settings: Vec<String> = settings.map(|(key, value)| format!("{key}={value}")).collect();
    load(&profile.source.asked, &settings)
}

impl Profile {
    /// Keys whose values differ, dotted, in order.
    ///
    /// # Panics
    /// Never: a profile is a table.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let table = |profile: &Self| Table::try_from(profile).expect("a profile is a table");
        let mut keys = Vec::new();
        differing(&table(self), &table(other), "", &mut keys);
        keys
    }
}

fn differing(one: &Table, other: &Table, above: &str, keys: &mut Vec<String>) {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    for name in names {
        match (one.get(name), other.get(name)) {
            (Some(toml::Value::Table(one)), Some(toml::Value::Table(other))) => {
                differing(one, other, &join(above, name), keys);
            }
            (one, other) if one != other => keys.push(join(above, name)),
            _ => {}
        }
    }
}

/// Whether `text`, just made, is a profile.
///
/// # Errors
/// `ProfileError` when it is not.
pub(crate) fn check_new(text: &str) -> Result<(), ProfileError> {
    read("the new profile", text, &[]).map(|_| ())
}

/// Reads a profile from `text`; placeholders stay as they are.
pub(crate) fn read(name: &str, text: &str, settings: &[String]) -> Result<Profile, ProfileError> {
    let mut source = Source { name: name.to_owned(), ..Source::default() };
    check_text(text, &mut source)?;
    let mut table = Table::try_from(Profile::default()).expect("the default profile is a table");
    // Numbers are looked at only now: one may be too large for any type.
    lay_over(&mut table, text.parse().map_err(|error| not_toml(text, &error, &source))?);
    for setting in settings {
        lay_over(&mut table, parse_setting(setting, &mut source)?);
    }
    let mut profile: Profile =
        Table::try_into(table).map_err(|error| wrong_value(&error, &source))?;
    profile.source = source;
    profile.check_ranges()?;
    Ok(profile)
}

/// Name and text; a path wins only where it cannot be a name, so that a stray file changes nothing.
fn find(name: &str) -> Result<(String, String), ProfileError> {
    if let Some((_, text)) = SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
        return Ok((format!("profile {name}"), (*text).to_owned()));
    }
    match std::fs::read_to_string(name) {
        Ok(text) => Ok((name.to_owned(), text)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let names = SHIPPED.map(|(shipped, _)| shipped).join(", ");
            Err(ProfileError::Wrong(format!(
                "there is no profile {name}: give the path of a file, or one of {names}"
            )))
        }
        Err(error) => Err(ProfileError::Host(format!("profile {name}: {error}"))),
    }
}

fn check_text(text: &str, source: &mut Source) -> Result<(), ProfileError> {
    let table = DeTable::parse(text).map_err(|error| not_toml(text, &error, source))?;
    let known = known_keys();
    check_table(text, table.get_ref(), "", &known, source)
}

fn not_toml(text: &str, error: &toml::de::Error, source: &Source) -> ProfileError {
    let line = line_at(text, error.span().map_or(0, |span| span.start));
    let what = error.message().lines().collect::<Vec<_>>().join(", ");
    ProfileError::Wrong(format!("{}:{line}: not TOML: {what}", source.name))
}

fn check_table(
    text: &str,
    table: &DeTable<'_>,
    above: &str,
    known: &[String],
    source: &mut Source,
) -> Result<(), ProfileError> {
    for (name, value) in table {
        let key = join(above, name.get_ref());
        let line = line_at(text, name.span().start);
        check_key(&key, known, &format!("{}:{line}", source.name))?;
        source.lines.insert(key.clone(), line);
        if let DeValue::Table(inner) = value.get_ref() {
            check_table(text, inner, &key, known, source)?;
        }
    }
    Ok(())
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

fn join(above: &str, name: &str) -> String {
    if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") }
}

/// Every key of a profile, dotted, and every table they stand in.
pub(super) fn known_keys() -> Vec<String> {
    let ports = ["port", "client.port"];
    let port_keys = ports.iter().flat_map(|port| PORT_KEYS.iter().map(move |key| join(port, key)));
    let mut keys: Vec<String> = KEYS.iter().map(ToString::to_string).chain(port_keys).collect();
    let mut tables = Vec::new();
    for key in &keys {
        let dots = key.match_indices('.').map(|(at, _)| key[..at].to_owned());
        tables.extend(dots);
    }
    keys.extend(tables);
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn check_key(key: &str, known: &[String], place: &str) -> Result<(), ProfileError> {
    if known.iter().any(|candidate| candidate == key) {
        return Ok(());
    }
    let mend = nearest(key, known).map_or_else(
        || "hw-profiles/README.md describes every key".to_owned(),
        |near| format!("did you mean {near}?"),
    );
    Err(ProfileError::Wrong(format!("{place}: unknown key {key}; {mend}")))
}

/// The known key that is most like `key`: a few letters away, or of the same name elsewhere.
fn nearest<'k>(key: &str, known: &'k [String]) -> Option<&'k String> {
    let name = key.rsplit('.').next().expect("at least one part");
    let distance = |candidate: &&String| {
        let elsewhere = candidate.rsplit('.').next() == Some(name);
        let letters = strsim::damerau_levenshtein(candidate, key);
        if elsewhere { letters.min(3) } else { letters }
    };
    let near = known.iter().min_by_key(distance)?;
    (distance(&near) <= 3.min(key.len() / 2)).then_some(near)
}

/// Lays `above` over `below`, table by table.
fn lay_over(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// `a.b=value` as a table; the value is TOML where it can be, and text where it cannot.
fn parse_setting(setting: &str, source: &mut Source) -> Result<Table, ProfileError> {
    let wrong = |what: &str| ProfileError::Wrong(format!("--set {setting}: {what}"));
    let (key, text) =
        setting.split_once('=').ok_or_else(|| wrong("write key=value, as in shard.core=3"))?;
    let (key, text) = (key.trim(), text.trim());
    let known = known_keys();
    check_key(key, &known, &format!("--set {setting}"))?;
    if known.iter().any(|other| other.starts_with(&format!("{key}."))) {
        return Err(wrong("this is a section; name one of its keys"));
    }
    source.settings.insert(key.to_owned(), text.to_owned());
    let (above, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut table = Table::from_iter([(name.to_owned(), setting_value(name, text))]);
    for part in above.rsplit('.').filter(|part| !part.is_empty()) {
        table = Table::from_iter([(part.to_owned(), toml::Value::Table(table))]);
    }
    Ok(table)
}

fn setting_value(name: &str, text: &str) -> toml::Value {
    let value = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| {
        let alone = table.len() == 1;
        table.remove("value").filter(|_| alone)
    });
    match value {
        Some(value) if value.is_str() || !TEXT_KEYS.contains(&name) => value,
        _ => toml::Value::String(text.to_owned()),
    }
}

/// A value of the wrong type: the place where it was written, not where it was found.
fn wrong_value(error: &toml::de::Error, source: &Source) -> ProfileError {
    let shown = error.to_string();
    let key = shown.rsplit_once("in `").and_then(|(_, rest)| rest.split_once('`'));
    let what = match error.message() {
        what if what.contains("socket address") => {
            "write an IPv4 address and a port, as 127.0.0.1:9310"
        }
        what => what,
    };
    ProfileError::Wrong(match key {
        Some((key, _)) => format!("{}: {key}: {what}", source.place(key)),
        None => format!("{}: {what}", source.name),
    })
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
