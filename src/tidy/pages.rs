//! What pages say of the source tree is there.

use std::fs;
use std::path::Path;

use super::has_word;
use super::tests::tree;

/// What a table of the page about the code names: a file, and a function or type in it.
fn named(page: &str) -> Vec<(&str, &str)> {
    page.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `src/")?.splitn(3, '|');
            let file = cells.next()?.trim().trim_end_matches('`');
            Some((file, cells.next()?.trim().trim_matches('`')))
        })
        .collect()
}

#[test]
fn what_the_page_about_the_code_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).expect("the page");
    let rows = named(&page);
    assert!(rows.len() > 30, "only {} rows", rows.len());
    for (file, name) in rows {
        let text = fs::read_to_string(root.join("src").join(file)).unwrap_or_default();
        let is_there = ["fn", "struct", "enum", "trait"]
            .iter()
            .any(|kind| text.lines().any(|line| has_word(line, &format!("{kind} {name}"))));
        assert!(is_there, "docs/architecture.md: no {name} in src/{file}");
    }
    for quoted in page.split('`').filter(|word| word.starts_with("src/")) {
        assert!(root.join(quoted).exists(), "docs/architecture.md: no {quoted}");
    }
}

/// The files of whole-process tests, without what they have in common.
fn tests() -> Vec<String> {
    let is_one = |path: &String| path.starts_with("tests/") && path.matches('/').count() == 1;
    tree().into_iter().map(|(path, _)| path).filter(is_one).collect()
}

#[test]
fn every_file_of_tests_stands_in_the_page_about_testing_and_no_other() {
    let page = include_str!("../../docs/testing.md");
    let tests = tests();
    assert!(tests.len() > 20, "only {} files", tests.len());
    for path in &tests {
        assert!(page.contains(&format!("`{path}`")), "docs/testing.md does not say what {path} is");
    }
    for quoted in page.split('`').filter(|word| word.starts_with("tests/")) {
        assert!(tests.iter().any(|path| path == quoted), "docs/testing.md: no {quoted}");
    }
}
