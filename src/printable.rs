//! What others wrote, made fit for a terminal.

use std::borrow::Cow;

/// Text with what moves a terminal's cursor, changes its colours or turns its writing round shown as an escape
/// (`\u{1b}`). Line ends and tabs stay.
#[must_use]
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| !matches!(c, '\n' | '\t') && is_command(c))
}

/// The same for one line: line ends and tabs are escapes too.
#[must_use]
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_command)
}

fn is_command(c: char) -> bool {
    // Controls of ASCII and of Latin-1, separators of lines, marks and overrides of the direction of writing.
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, is_bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_bad) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_bad(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_as_a_command() {
        assert_eq!(printable("orders\t1\nümlaut"), "orders\t1\nümlaut");
        assert_eq!(printable("\u{1b}]0;x\u{7}"), "\\u{1b}]0;x\\u{7}");
        assert_eq!(printable("a\rb\u{9b}31m\u{202e}"), "a\\rb\\u{9b}31m\\u{202e}");
        assert_eq!(one_line("a\nb\tc"), "a\\nb\\tc");
    }
}
