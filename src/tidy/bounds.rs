//! Every bound of `src/limits.rs` is tried: a test names it, and shows what happens at it and beyond.

use super::tests::tree;
use super::{has_word, own};

/// Bounds that no test tries, in their order, and why.
const UNTRIED: [(&str, &str); 2] = [
    ("ERRORS_SKIPPED_MAX", "the kernel keeps one such error for a socket: there is no edge to try"),
    ("ALLOCATE_BURST", "how many buffers are fetched at once, from a pool that only DPDK has"),
];

/// What of a file is said by tests: all of some, and the test modules of the others.
fn tested<'a>(path: &str, text: &'a str) -> &'a str {
    let is_all = ["tests/", "src/testing/", "src/sim/"].iter().any(|of| path.starts_with(of))
        || path.ends_with("tests.rs");
    if is_all { text } else { &text[own(text).len()..] }
}

#[test]
fn every_bound_is_named_by_a_test_or_it_is_said_why_not() {
    let tree = tree();
    let names: Vec<&str> = include_str!("../limits.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next())
        .collect();
    assert!(names.len() > 70, "only {} bounds were found", names.len());
    let is_named = |name: &str| {
        let uses = |text: &str| text.lines().any(|line| has_word(line, name));
        tree.iter().any(|(path, text)| uses(tested(path, text)))
    };
    let excepted: Vec<&str> = UNTRIED.iter().map(|(name, _)| *name).collect();
    let untried: Vec<&str> = names.into_iter().filter(|name| !is_named(name)).collect();
    assert_eq!(untried, excepted, "no test says what happens at the first ones and beyond them");
}

#[test]
fn what_tests_say_is_told_from_what_is_tested() {
    let text = "use x::A;\n#[cfg(test)]\nmod tests {\n    B\n}\n";
    assert_eq!(tested("src/x.rs", text), "#[cfg(test)]\nmod tests {\n    B\n}\n");
    assert_eq!(tested("src/x.rs", "A\n"), "");
    for all in ["src/x/edge_tests.rs", "src/x/tests.rs", "tests/x.rs", "src/sim/x.rs"] {
        assert_eq!(tested(all, text), text, "{all}");
    }
}
