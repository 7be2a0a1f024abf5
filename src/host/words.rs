//! Words of a profile as a shell and as systemd take them: none becomes more than one, or a line of its own.

/// A word as a shell takes it.
pub(super) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A word as a unit takes it: in quotes where it needs them, specifiers and escapes as themselves.
pub(super) fn unit_word(word: &str) -> String {
    let mut text = String::new();
    for c in word.chars() {
        match c {
            '%' => text.push_str("%%"),
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    let is_plain = |c: char| c.is_alphanumeric() || "/._-=:,+%@[]".contains(c);
    if word.chars().all(is_plain) { text } else { format!("\"{text}\"") }
}

/// Words of a unit, one after the other.
pub(super) fn list(words: &[&str]) -> String {
    words.iter().map(|word| unit_word(word)).collect::<Vec<_>>().join(" ")
}

/// A command line; there a dollar would be a variable. The binary is no variable's place.
pub(super) fn command(binary: &str, words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| unit_word(word).replace('$', "$$")).collect();
    format!("{} {}", unit_word(binary), words.join(" "))
}
