//! The rules of the house, as a test over the source tree.
//!
//! Each rule is a function of a file's path and text and returns what is wrong, with the line and what
//! to do instead; each is tested on a planted violation too, because a rule that finds nothing may be
//! blind. Adding to a list here is a decision: say why in the commit.

mod bounds;
mod pages;

use std::fs;
use std::path::Path;

/// Files that may say `unsafe`: memory shared with devices, system calls, foreign code.
const UNSAFE_FILES: [&str; 7] = [
    "src/memory.rs",
    "src/cpu.rs",
    "src/port/udp.rs",
    "src/port/dpdk/device.rs",
    "src/disk/uring.rs",
    "src/disk/spdk.rs",
    "src/client/abi.rs",
];

/// Modules from the ground up, in the order of `src/lib.rs`. One uses only those before it; those of a row of
/// `STRANGERS` do not use each other at all.
const LAYERS: [&[&str]; 8] = [
    &[
        "ids",
        "limits",
        "position",
        "clock",
        "random",
        "retry",
        "memory",
        "cpu",
        "printable",
        "whole",
        "metrics",
        "mutant",
        "fired",
        "access",
        "seal",
    ],
    &["wire"],
    &["port", "disk"],
    &["session", "log", "fanout", "history"],
    &["shard"],
    &["profile", "host", "report", "client"],
    &["measure", "admin", "launch", "itch"],
    &["sim", "cli", "command"],
];

/// Rows of `LAYERS` whose modules do not know each other.
const STRANGERS: [usize; 2] = [2, 3];

/// Who uses one behind it all the same: a profile names checks of the host, and the host reads profiles.
const BACKWARD: [(&str, &str); 1] = [("profile", "host")];

/// Lines of a file at most, its test module not counted.
const LINES_MAX: usize = 600;

/// Lines of a file wanted: above, a warning.
const LINES_WANTED: usize = 450;

/// Characters of a line at most, outside strings and comments. rustfmt breaks what it can; this finds what
/// it leaves alone. Headers of property tests are such, and stay.
const LINE_CHARS_MAX: usize = 100;

/// Words that stand for work not done.
const UNFINISHED: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];

/// What is wrong in one place.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    says: String,
}

fn finding(line: usize, says: impl Into<String>) -> Finding {
    Finding { line, says: says.into() }
}

type Rule = fn(&str, &str) -> Vec<Finding>;

const RULES: [(&str, Rule); 11] = [
    ("unsafe-files", unsafe_files),
    ("layers", layers),
    ("file-length", file_length),
    ("line-length", line_length),
    ("unfinished", unfinished),
    ("named-parameters", named_parameters),
    ("module-doc", module_doc),
    ("whitespace", whitespace),
    ("places", places),
    ("mutants", mutants),
    ("error-texts", error_texts),
];

/// What a file says outside its test module.
fn own(text: &str) -> &str {
    let begins = |at: &usize| text[*at..].lines().nth(1).is_some_and(|line| line.ends_with('{'));
    let mut modules = text.match_indices("#[cfg(test)]\nmod ").map(|(at, _)| at);
    &text[..modules.find(begins).unwrap_or(text.len())]
}

/// Lines of code outside the test module, without comments. Strings stay.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    own(text).lines().enumerate().filter_map(|(at, line)| {
        let line = line.trim();
        (!line.starts_with("//")).then(|| (at + 1, line.split(" // ").next().unwrap_or(line)))
    })
}

/// Whether `line` has `word` with no letter, digit or `_` beside it.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part);
        let after = line[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

fn unsafe_files(path: &str, text: &str) -> Vec<Finding> {
    if UNSAFE_FILES.contains(&path) || path == "src/tidy.rs" || path.starts_with("tests/") {
        return Vec::new();
    }
    code(text)
        .filter(|(_, line)| has_word(line, "unsafe") || line.contains("allow(unsafe_code"))
        .map(|(at, _)| {
            finding(
                at,
                "unsafe is for the seven files of UNSAFE_FILES: use a safe function of one of them",
            )
        })
        .collect()
}

/// The module a file belongs to: `src/wire/frame.rs` to `wire`.
fn module(path: &str) -> Option<&str> {
    path.strip_prefix("src/")?.split('/').next().map(|name| name.trim_end_matches(".rs"))
}

/// A module's row in `LAYERS`, and its place in that row.
fn layer(module: &str) -> Option<(usize, usize)> {
    LAYERS.iter().enumerate().find_map(|(at, row)| {
        let place = row.iter().position(|name| *name == module)?;
        Some((at, place))
    })
}

fn layers(path: &str, text: &str) -> Vec<Finding> {
    let Some(own) = module(path).filter(|own| !["lib", "main", "tidy", "testing"].contains(own))
    else {
        return Vec::new();
    };
    let Some(own_layer) = layer(own) else {
        return vec![finding(1, format!("module {own} is in no layer: give it a row in LAYERS"))];
    };
    if is_tests(path) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (at, line) in code(text) {
        for used in used_modules(line) {
            let is_judged = used != own && !BACKWARD.contains(&(own, used));
            let Some(used_layer) = layer(used).filter(|_| is_judged) else {
                continue;
            };
            if used_layer.0 == own_layer.0 && STRANGERS.contains(&own_layer.0) {
                findings.push(finding(
                    at,
                    format!("{own} names its neighbour {used}: let shard, which knows both, hand it over"),
                ));
            } else if used_layer > own_layer {
                findings.push(finding(
                    at,
                    format!("{own} uses {used}, which stands behind it: move what it needs down, or the caller up"),
                ));
            }
        }
    }
    findings
}

/// The modules named by `crate::x` and `crate::{x, y::z}` in a line.
fn used_modules(line: &str) -> Vec<&str> {
    let mut used = Vec::new();
    for (at, prefix) in line.match_indices("crate::") {
        let rest = &line[at + prefix.len()..];
        let group = rest.strip_prefix('{').map(|group| group.split('}').next().unwrap_or(group));
        let names: Vec<&str> = group.map_or_else(|| vec![rest], |group| group.split(',').collect());
        for name in names {
            let name = name.trim();
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            used.push(&name[..end]);
        }
    }
    used
}

fn file_length(_path: &str, text: &str) -> Vec<Finding> {
    let lines = own(text).lines().count();
    if lines <= LINES_MAX {
        return Vec::new();
    }
    vec![finding(
        LINES_MAX + 1,
        format!("{lines} lines: split the file where a second subject begins"),
    )]
}

fn line_length(_path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let exempt = ["\"", "//", "proptest::"].iter().any(|part| line.contains(part));
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX && !exempt {
            let says = format!("{chars} characters: break the line at {LINE_CHARS_MAX}");
            findings.push(finding(at + 1, says));
        }
    }
    findings
}

fn unfinished(path: &str, text: &str) -> Vec<Finding> {
    // This file names what it forbids.
    if path == "src/tidy.rs" {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let macros = ["todo!", "unimplemented!"].iter().find(|name| line.contains(*name));
        let words = UNFINISHED.iter().find(|word| has_word(line, word));
        if let Some(word) = macros.or(words) {
            let says =
                format!("{word}: finish it, return an error, or file an issue and leave it out");
            findings.push(finding(at + 1, says));
        }
    }
    findings
}

/// A tuple that the signature of a function takes apart: where the function is called, nothing says what its parts are.
/// Closures may, and tests.
fn named_parameters(path: &str, text: &str) -> Vec<Finding> {
    // This file names what it forbids.
    if !path.starts_with("src/") || is_tests(path) || path == "src/tidy.rs" {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (at, line) in code(text) {
        for (end, _) in line.match_indices("): ") {
            let Some((before, parts)) = line[..end].rsplit_once('(') else { continue };
            let is_tuple = parts.contains(", ") && parts.chars().all(is_part_of_a_tuple);
            let before = before.trim_end();
            let opens = before.is_empty() || before.ends_with(['(', ',']);
            if is_tuple && opens && !before.contains('|') {
                let says = "a tuple as a parameter: give each part its own, or make a struct";
                findings.push(finding(at, says));
            }
        }
    }
    findings
}

fn is_part_of_a_tuple(c: char) -> bool {
    c.is_alphanumeric() || [' ', ',', '_'].contains(&c)
}

/// Whether all of a file is tests.
fn is_tests(path: &str) -> bool {
    path.ends_with("_tests.rs") || path.ends_with("/tests.rs")
}

fn module_doc(path: &str, text: &str) -> Vec<Finding> {
    let opening = text.lines().find(|line| !line.starts_with("#![")).unwrap_or("");
    if !path.starts_with("src/") || opening.starts_with("//!") {
        return Vec::new();
    }
    vec![finding(1, "a file opens with `//!` and says what it is for, before the code")]
}

fn whitespace(_path: &str, text: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains('\t') || line.ends_with(' ') || line.ends_with('\r'))
        .map(|(at, _)| finding(at + 1, "tab, carriage return or space at the end: remove it"))
        .collect();
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push(finding(text.lines().count(), "the last line has no end: add one"));
    }
    findings
}

/// Names that belong to one machine are no help to anybody else.
fn places(path: &str, text: &str) -> Vec<Finding> {
    if path == "src/tidy.rs" {
        return Vec::new();
    }
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| line.contains("/home/"))
        .map(|(at, _)| finding(at + 1, "a path of one machine: make it relative to the repository"))
        .collect()
}

/// What is asserted is asserted also where a mistake is switched on: what a mutant would have to weaken for itself is what
/// catches it.
fn mutants(_path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut asserted_at = None;
    for (at, line) in code(text) {
        if line.starts_with("assert") || line.starts_with("debug_assert") {
            asserted_at = Some(at);
        }
        if let Some(at) = asserted_at.filter(|_| line.contains("Mutant::")) {
            let says = "an assertion asks for a mutant: plant the mistake where the state changes";
            findings.push(finding(at, says));
        }
        asserted_at = asserted_at.filter(|_| !line.ends_with(';'));
    }
    findings
}

/// A message stands once.
fn error_texts(path: &str, text: &str) -> Vec<Finding> {
    // This file names what it forbids.
    if path == "src/tidy.rs" {
        return Vec::new();
    }
    code(text)
        .filter(|(_, line)| line.starts_with("#[error("))
        .map(|(at, _)| {
            finding(
                at,
                "a message beside the doc comment: derive displaydoc::Display, which takes that",
            )
        })
        .collect()
}

/// Every file under `directory` whose name ends in one of `kinds`, with its path from the repository's root.
fn files(root: &Path, directory: &str, kinds: &[&str], found: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(root.join(directory)) else {
        return;
    };
    let mut entries: Vec<_> = entries.map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = format!("{directory}/{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            files(root, &path, kinds, found);
        } else if kinds.iter().any(|kind| path.ends_with(kind)) {
            found.push((path, fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

mod tests {
    use super::*;

    pub(super) fn tree() -> Vec<(String, String)> {
        let mut found = Vec::new();
        for directory in ["src", "tests", "benches"] {
            files(Path::new(env!("CARGO_MANIFEST_DIR")), directory, &[".rs"], &mut found);
        }
        found
    }

    #[test]
    fn the_files_of_the_shims_keep_the_rules_that_are_not_of_rust() {
        let mut shims = Vec::new();
        files(Path::new(env!("CARGO_MANIFEST_DIR")), "native", &[".c", ".h"], &mut shims);
        assert!(shims.len() > 20, "only {} files were found", shims.len());
        for (path, text) in &shims {
            for check in [file_length, unfinished, places] {
                assert_eq!(check(path, text), [], "{path}");
            }
            let opening = text.trim_start_matches("#define _GNU_SOURCE\n");
            assert!(opening.starts_with("/*"), "{path} says what it is for before the code");
            let trails = |line: &str| line.ends_with([' ', '\t', '\r']);
            assert!(text.ends_with('\n') && !text.lines().any(trails), "{path}: white space");
        }
    }

    #[test]
    fn the_tree_keeps_the_rules_of_the_house() {
        let tree = tree();
        assert!(tree.len() > 30, "only {} files were found", tree.len());
        let mut wrong = Vec::new();
        for (path, text) in &tree {
            for (rule, check) in RULES {
                for Finding { line, says } in check(path, text) {
                    wrong.push(format!("{path}:{line}: [{rule}] {says}"));
                }
            }
        }
        for (path, text) in &tree {
            let lines = own(text).lines().count();
            if (LINES_WANTED + 1..=LINES_MAX).contains(&lines) {
                println!("warning: {path}: {lines} lines, {LINES_WANTED} are wanted");
            }
        }
        assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn every_file_of_a_list_is_in_a_layer_of_its_own() {
        let all: Vec<&str> = LAYERS.iter().flat_map(|row| row.iter().copied()).collect();
        let mut unique = all.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(all.len(), unique.len(), "a module is in two layers");
        let declared: Vec<&str> = include_str!("lib.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod "))
            .filter_map(|name| name.strip_suffix(';'))
            // What tests are made with and what looks at the files stand in no layer.
            .filter(|name| !["testing", "tidy"].contains(name))
            .collect();
        assert_eq!(all, declared, "the modules stand in src/lib.rs in another order");
        for file in UNSAFE_FILES {
            assert!(layer(module(file).unwrap()).is_some(), "{file}");
        }
    }

    /// A violation of each rule is found, at its line; its correction is not.
    #[test]
    #[allow(clippy::too_many_lines, reason = "a table, a few lines a rule")]
    fn planted_violations_are_found() {
        let long = format!("let x = {};\n", "a + ".repeat(40));
        let many = "x();\n".repeat(LINES_MAX + 1);
        let cases: [(Rule, &str, &str, usize, &str); 19] = [
            (
                unsafe_files,
                "src/wire/mod.rs",
                "\nlet x = unsafe { y };\n",
                2,
                "let unsafely = y;\n",
            ),
            (unsafe_files, "src/log/mod.rs", "#![allow(unsafe_code)]\n", 1, "// unsafe\n"),
            (layers, "src/wire/mod.rs", "use crate::log::Log;\n", 1, "use crate::ids::Peer;\n"),
            (layers, "src/log/mod.rs", "\nuse crate::session::X;\n", 2, "use crate::log::X;\n"),
            (
                layers,
                "src/fanout/mod.rs",
                "use crate::{ids::A, log::B};\n",
                1,
                "use crate::{ids::A};\n",
            ),
            (layers, "src/port/udp.rs", "f(crate::shard::X);\n", 1, "//! crate::shard\n"),
            (layers, "src/host/x.rs", "crate::report::x();\n", 1, "crate::profile::x();\n"),
            (layers, "src/other.rs", "x\n", 1, "use crate::ids::A; // planted\n"),
            (file_length, "src/x.rs", &many, LINES_MAX + 1, "x\n"),
            (line_length, "src/x.rs", &long, 1, "let x = 1;\n"),
            (unfinished, "src/x.rs", "\n// TODO: later\n", 2, "// nothing to do\n"),
            (unfinished, "src/x.rs", "fn f() { todo!() }\n", 1, "fn mastodon() {}\n"),
            (
                named_parameters,
                "src/x.rs",
                "fn f((first, last): (u64, u64)) {}\n",
                1,
                "let (first, last): (u64, u64) = f(|(one, other): (u64, u64)| one + other);\n",
            ),
            (
                named_parameters,
                "src/x.rs",
                "fn f(\n    &self,\n    (mut off, limit): (u64, u64),\n) {}\n",
                3,
                "fn f(\n    &self,\n    Extent { start, bytes }: Extent,\n) {}\n",
            ),
            (
                named_parameters,
                "src/x.rs",
                "fn f(a: u8, (b, c): (u8, u8)) {}\n",
                1,
                "#[cfg(test)]\nmod tests {\n fn f((a, b): (u8, u8)) {}\n}\n",
            ),
            (module_doc, "src/x/mod.rs", "use std::fmt;\n", 1, "//! What it is for.\n"),
            (places, "src/x.rs", "open(\"/home/me/x\");\n", 1, "open(\"x\");\n"),
            (error_texts, "src/x.rs", "\n#[error(\"full\")]\n", 2, "/// full\n"),
            (
                mutants,
                "src/x.rs",
                "\nassert!(\n    x || Mutant::Y.is_on(),\n);\n",
                2,
                "assert!(x);\nif Mutant::Y.is_on() {\n",
            ),
        ];
        for (rule, path, bad, line, good) in cases {
            let found = rule(path, bad);
            assert_eq!(found.len(), 1, "{path}: {bad}");
            assert_eq!(found[0].line, line, "{bad}");
            assert!(found[0].says.contains(": ") || found[0].says.contains(", "), "says the mend");
            // A module nobody knows stays unknown whatever it says.
            if path != "src/other.rs" {
                assert_eq!(rule(path, good), [], "{good}");
            }
        }
        assert_eq!(whitespace("x", "a\t\nb \nc").len(), 3);
        assert_eq!(whitespace("x", "a\nb\n"), []);
    }

    #[test]
    fn tests_may_use_what_their_module_may_not() {
        let text = "use crate::ids::X;\n#[cfg(test)]\nmod tests {\n use crate::shard::Shard;\n}\n";
        assert_eq!(layers("src/wire/mod.rs", text), []);
    }
}
