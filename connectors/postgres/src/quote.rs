//! Names and texts inside SQL and replication commands.

/// Returns a name as a quoted identifier: `"a""b"`.
///
/// A NUL, which no name of the server can hold, is left out.
#[must_use]
pub fn identifier(name: &str) -> String {
    enclose(name, '"')
}

/// Returns a table's full name, both parts quoted.
#[must_use]
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// Returns a text as a string literal that means the same whatever `standard_conforming_strings` is.
///
/// A NUL, which no text of the server can hold, is left out.
#[must_use]
pub fn literal(text: &str) -> String {
    if text.contains('\\') { format!(" E{}", enclose(&text.replace('\\', "\\\\"), '\'')) } else { enclose(text, '\'') }
}

/// Returns a text as a literal of the replication grammar, which knows no backslash escapes.
pub(crate) fn replication_literal(text: &str) -> String {
    enclose(text, '\'')
}

fn enclose(text: &str, mark: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(mark);
    for c in text.chars().filter(|c| *c != '\0') {
        if c == mark {
            quoted.push(mark);
        }
        quoted.push(c);
    }
    quoted.push(mark);
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_inside_is_doubled() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(qualified("public", "Odd.Name"), "\"public\".\"Odd.Name\"");
    }

    #[test]
    fn a_backslash_does_not_end_a_literal() {
        assert_eq!(literal(r"\'; drop"), r" E'\\''; drop'");
        assert_eq!(replication_literal(r"\'"), r"'\'''");
    }

    #[test]
    fn a_nul_cannot_cut_a_command() {
        assert_eq!(identifier("a\0b"), "\"ab\"");
        assert_eq!(literal("a\0b"), "'ab'");
    }
}
