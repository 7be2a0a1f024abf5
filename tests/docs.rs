//! What help, documentation and code list alike is the same list: profiles, keys and their defaults, frames,
//! metrics, commands, exit codes, error codes, and the files and keys that are named.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
#![allow(clippy::disallowed_methods, reason = "these tests drive real processes in real time")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use buslane::cli::Cli;
use buslane::command::CommandError;
use buslane::profile::{SHIPPED, load};
use buslane::wire::control::ErrorCode;
use buslane::wire::{Kind, Side};
use clap::{CommandFactory, Parser};

use common::{Appliance, free_ports};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every page for people, by its path.
fn pages() -> Vec<(String, String)> {
    let mut pages = vec!["README.md".to_owned(), "hw-profiles/README.md".to_owned()];
    for entry in fs::read_dir(Path::new(ROOT).join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            pages.push(format!("docs/{name}"));
        }
    }
    assert!(pages.len() > 6, "{pages:?}");
    pages.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// Every file of the tree that ends so, by its path.
fn sources(directory: &str, ending: &str, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(Path::new(ROOT).join(directory)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{directory}/{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            sources(&path, ending, found);
        } else if path.ends_with(ending) {
            found.push((path.clone(), read(&path)));
        }
    }
}

/// Cells of the rows of tables, without the ticks around them.
fn rows(text: &str) -> impl Iterator<Item = Vec<String>> {
    text.lines().filter(|line| line.starts_with("| ")).map(|line| {
        let cells = line.trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
}

/// What stands between ticks at the start of a cell.
fn ticked(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.split('`').next()
}

/// Lines of fenced blocks of a shell, with those that go on joined, and without comments. (`tests/operate.rs` runs those
/// of docs/operate.md that are marked `sh`.)
fn shell_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for block in text.replace("```console\n", "```sh\n").split("```sh\n").skip(1) {
        let block = block.split("```").next().unwrap().replace("\\\n", " ");
        lines.extend(block.lines().map(|line| line.split(" #").next().unwrap().trim().to_owned()));
    }
    lines.retain(|line| !line.is_empty() && !line.starts_with('#'));
    lines
}

/// Words of a line as a simple shell sees them.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut begun = false;
    for c in line.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => word.push(c),
            None if c == '"' || c == '\'' => (quote, begun) = (Some(c), true),
            None if c.is_whitespace() => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            None => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

#[test]
fn every_command_of_the_documentation_is_one() {
    let mut count = 0;
    for (path, text) in pages() {
        for line in shell_lines(&text) {
            for part in
                line.split(['|', ';', '>', '<', '(', ')']).flat_map(|part| part.split("&& "))
            {
                let part = part.trim().trim_end_matches('&').trim();
                let Some(at) = part.find("buslane ") else { continue };
                // `sudo -u buslane buslane ...`, `VAR=x buslane ...`; not a path or another word that ends so.
                let command = part[at..]
                    .strip_prefix("buslane buslane ")
                    .map_or(&part[at..], |_| &part[at + 8..]);
                let is_first = at == 0 || part[..at].ends_with(' ') || part[..at].ends_with("bin/");
                let is_ours = is_first && !part.starts_with("apt") && !part.starts_with("dpkg");
                let is_ours = is_ours
                    && ![
                        "systemctl",
                        "journalctl",
                        "coredumpctl",
                        "tuned-adm",
                        "install",
                        "mkdir",
                        "useradd",
                        "chown",
                        "cp",
                        "man",
                    ]
                    .contains(&part.split(' ').next().unwrap());
                if !is_ours {
                    continue;
                }
                // What a later release may print is not known here: only what is asked.
                if let Err(error) = Cli::try_parse_from(words(command))
                    && !matches!(
                        error.kind(),
                        clap::error::ErrorKind::DisplayHelp
                            | clap::error::ErrorKind::DisplayVersion
                    )
                {
                    // The simulator is in binaries that have it.
                    let has_it = cfg!(feature = "sim");
                    let is_sim = ["sim", "fuzz"].contains(&words(command)[1].as_str());
                    assert!(is_sim && !has_it, "{path}: {line}\n{command}: {error}");
                }
                count += 1;
            }
        }
    }
    assert!(count > 40, "only {count} commands were found");
}

/// `buslane x y` in a sentence names a command that is there.
#[test]
fn every_command_named_in_a_sentence_is_there() {
    let root = Cli::command();
    let mut count = 0;
    for (path, text) in pages() {
        for part in text.split('`').skip(1).step_by(2) {
            let Some(rest) = part.strip_prefix("buslane ") else { continue };
            let mut command = &root;
            for word in rest.split_whitespace() {
                let names: Vec<&str> = word.split('|').collect();
                if !names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase())) {
                    break;
                }
                let is_there = |name: &&str| command.find_subcommand(name).is_some();
                if !command.has_subcommands() {
                    break;
                }
                let of_another_build = ["sim", "fuzz"].contains(&word) && !cfg!(feature = "sim");
                // Which clap adds when it parses.
                if of_another_build || word == "help" {
                    break;
                }
                assert!(
                    names.iter().all(is_there),
                    "{path}: there is no `buslane {rest}` ({word})"
                );
                command = command.find_subcommand(names[0]).unwrap();
                count += 1;
                if names.len() > 1 {
                    break;
                }
            }
        }
    }
    assert!(count > 40, "only {count} were found");
}

#[test]
fn profiles_are_the_same_in_the_binary_the_directory_the_readme_and_the_help() {
    let shipped: BTreeSet<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
    let readme = read("hw-profiles/README.md");
    let table = readme.split("## Keys").next().unwrap();
    let described: Vec<String> =
        rows(table).filter_map(|cells| ticked(&cells[0]).map(str::to_owned)).collect();
    assert_eq!(described.iter().map(String::as_str).collect::<BTreeSet<_>>(), shipped);
    let mut files = Vec::new();
    sources("hw-profiles", ".toml", &mut files);
    let names =
        files.iter().map(|(path, _)| Path::new(path).file_stem().unwrap().to_str().unwrap());
    assert_eq!(names.collect::<BTreeSet<_>>(), shipped);
    let help = Cli::command().render_long_help().to_string();
    let (_, profile) = help.split_once("--profile").expect("an option for all commands");
    let (profile, _) = profile.split_once("--set").unwrap();
    for name in shipped {
        assert!(profile.contains(name) || profile.contains("buslane version"), "help: {profile}");
    }
}

/// The default that the README gives a key, given to the key, changes nothing.
#[test]
fn every_default_in_the_readme_is_that_of_the_code() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.toml");
    fs::write(&path, "").unwrap();
    let path = path.to_str().unwrap();
    let ports = ["port", "client.port"].map(|port| format!("{port}.dpdk.device=\"x\""));
    let (mut count, mut defaults) = (0, BTreeMap::new());
    for cells in rows(&read("hw-profiles/README.md")) {
        let (Some(key), Some(value)) = (ticked(&cells[0]), cells.get(1).and_then(|c| ticked(c)))
        else {
            continue;
        };
        if key.contains('.') || ["name", "description", "instance"].contains(&key) {
            defaults.insert(key.to_owned(), value.to_owned());
        }
    }
    // Empty until something is expanded in its place, so it is no value to give.
    assert!(defaults.remove("metrics.socket").is_some());
    for (key, value) in defaults {
        let base: Vec<String> = if key.contains(".dpdk.") { ports.to_vec() } else { Vec::new() };
        let bare = value.trim_matches('"').to_owned();
        let given = [base.clone(), vec![format!("{key}={bare}")]].concat();
        let unset = load(path, &base).unwrap();
        let set = load(path, &given).unwrap_or_else(|error| panic!("{key} = {value}: {error}"));
        let facts = |profile: &buslane::profile::Profile| serde_json::to_value(profile).unwrap();
        assert_eq!(
            facts(&set),
            facts(&unset),
            "hw-profiles/README.md: {key} is not {value} by default"
        );
        count += 1;
    }
    assert!(count > 40, "only {count} defaults were found");
}

/// Frames by name, number and side: the table of the code against that of the page, and every place that gives a number.
#[test]
fn frames_have_the_numbers_that_are_said() {
    let name = |kind: &Kind| {
        let mut upper = String::new();
        for c in format!("{kind:?}").chars() {
            if c.is_ascii_uppercase() && !upper.is_empty() {
                upper.push('_');
            }
            upper.push(c.to_ascii_uppercase());
        }
        upper
    };
    let numbers: BTreeMap<_, _> =
        Kind::ALL.iter().map(|kind| (name(kind), (*kind as u8).to_string())).collect();
    let rows = Kind::ALL.iter().map(|kind| {
        let from = match [Side::Client, Side::Server].map(|side| kind.is_said_by(side)) {
            [true, true] => "both",
            [true, false] => "C",
            _ => "S",
        };
        format!("| {} | {} | {from} |", *kind as u8, name(kind))
    });
    let page = read("docs/protocol.md");
    let said = page.lines().filter(|line| {
        line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    let said = said.map(|line| line.split_inclusive('|').take(4).collect::<String>());
    assert_eq!(said.collect::<Vec<_>>(), rows.collect::<Vec<_>>());
    for (path, text) in pages() {
        for (at, _) in text.match_indices(" (kind ") {
            let name =
                text[..at].rsplit(|c: char| !(c.is_ascii_uppercase() || c == '_')).next().unwrap();
            let number = text[at + 7..].split(|c: char| !c.is_ascii_digit()).next().unwrap();
            assert_eq!(numbers.get(name).map(String::as_str), Some(number), "{path}: {name}");
        }
    }
    // The table of the module names each kind.
    let table = read("src/wire/mod.rs");
    for name in numbers.keys() {
        let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
        let named = table
            .lines()
            .filter(|line| line.starts_with("//! | "))
            .any(|line| line.split(|c| !is_part(c)).any(|word| word == name));
        assert!(named, "src/wire/mod.rs: the table of kinds has no {name}");
    }
}

/// Every metric an appliance has is described, with its type; every one described is there.
#[test]
fn metrics_are_those_of_the_documentation() {
    let http = format!("127.0.0.1:{}", free_ports(1));
    let _appliance = Appliance::start(&[
        "disk.size=64MiB",
        "disk.segment=1MiB",
        &format!("metrics.http={http}"),
    ]);
    let mut there = BTreeMap::new();
    // Housekeeping has its first snapshot after a second.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while there.is_empty() && std::time::Instant::now() < deadline {
        let mut stream = TcpStream::connect(&http).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        for line in answer.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            there.insert(name.to_owned(), kind.to_owned());
        }
    }
    let described: BTreeMap<String, String> = rows(&read("docs/observe.md"))
        .filter(|cells| cells[0].starts_with("`buslane_"))
        .map(|cells| (ticked(&cells[0]).unwrap().to_owned(), cells[1].clone()))
        .collect();
    assert_eq!(there, described, "left /metrics, right docs/observe.md");
}

/// Every code of an error on the wire is said, by number and name, with what it means and what frees it.
#[test]
fn error_codes_are_those_of_the_documentation() {
    let code = read("src/wire/control/errors.rs");
    let (_, codes) = code.split_once("pub enum ErrorCode {").unwrap();
    let codes: BTreeMap<String, String> = codes
        .split("\n}")
        .next()
        .unwrap()
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .map(|(name, number)| (number.to_owned(), name.to_owned()))
        .collect();
    let page = read("docs/operate.md");
    let (_, table) = page.split_once("| code |").expect("a table of error codes");
    let table: Vec<Vec<String>> = rows(table.split("\n\n").next().unwrap()).collect();
    let said: BTreeMap<String, String> = table
        .iter()
        .map(|cells| (ticked(&cells[0]).unwrap().to_owned(), ticked(&cells[1]).unwrap().to_owned()))
        .collect();
    assert_eq!(said, codes, "left docs/operate.md, right src/wire/control/errors.rs");
    for cells in &table {
        assert!(cells.len() == 4 && cells[2].len() > 10 && cells[3].len() > 10, "{cells:?}");
        let number: u16 = ticked(&cells[0]).unwrap().parse().unwrap();
        let code = ErrorCode::from_code(number).expect("a code that is known");
        assert_eq!(format!("{code:?}"), ticked(&cells[1]).unwrap());
    }
}

#[test]
fn exit_codes_are_those_of_the_documentation() {
    let text = String::new;
    let codes = [
        CommandError::OutputClosed,
        CommandError::Failed(text()),
        CommandError::Usage(text()),
        CommandError::Unreachable(text()),
        CommandError::Warnings(text()),
        CommandError::Interrupted,
    ];
    let codes: BTreeSet<String> = codes.iter().map(|error| error.exit_code().to_string()).collect();
    let page = read("docs/operate.md");
    let (_, table) = page.split_once("| exit code |").expect("a table of exit codes");
    let table = table.split("\n\n").next().unwrap();
    let said: BTreeSet<String> =
        rows(table).map(|cells| ticked(&cells[0]).unwrap().to_owned()).collect();
    assert_eq!(said, codes);
}

/// Files that pages point to are there: links, and paths in ticks.
#[test]
fn every_file_that_is_named_is_there() {
    let mut count = 0;
    for (path, text) in pages() {
        let directory = Path::new(ROOT).join(&path).parent().unwrap().to_owned();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap().split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                assert!(directory.join(target).exists(), "{path}: there is no {target}");
                count += 1;
            }
        }
        for part in text.split('`').skip(1).step_by(2) {
            let first = part.split_whitespace().next().unwrap_or("");
            let top = first.split('/').next().unwrap();
            let is_ours = ["src", "tests", "scripts", "docs", "benches", "native"].contains(&top);
            if is_ours && first.contains('/') && !first.contains(['*', '$', '{']) {
                assert!(Path::new(ROOT).join(first).exists(), "{path}: there is no {first}");
                count += 1;
            }
        }
    }
    assert!(count > 40, "only {count} were found");
}

/// A key that a page names is one; what messages of the code name is tested beside the keys.
#[test]
fn every_key_that_a_page_names_is_one() {
    let (readme, host) = (read("hw-profiles/README.md"), read("docs/host.md"));
    let keys: BTreeSet<String> =
        rows(&readme).filter_map(|cells| ticked(&cells[0]).map(str::to_owned)).collect();
    let is_key = |name: &str| {
        keys.contains(name) || keys.iter().any(|key| key.starts_with(&format!("{name}.")))
    };
    let is_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
    let mut count = 0;
    for (path, text) in pages() {
        for part in text.split('`').skip(1).step_by(2) {
            for word in part.split(|c: char| !is_char(c)).map(|word| word.trim_matches('.')) {
                let section = word.split('.').next().unwrap();
                let is_named = ["shard", "disk", "limits", "client"].contains(&section);
                if !is_named || !word.contains('.') || word.ends_with(".rs") || word.ends_with(".c")
                {
                    continue;
                }
                // Checks of the host are named alike.
                let is_check = host.contains(&format!("| `{word}` |"));
                assert!(is_key(word) || is_check, "{path}: there is no key {word}");
                count += 1;
            }
        }
    }
    assert!(count > 60, "only {count} were found");
}
