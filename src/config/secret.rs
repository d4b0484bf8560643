//! Passwords. Promise: a secret shows in no log, no error and no debug output.

use std::fmt;

/// A text that only [`Secret::expose`] shows.
///
/// It has no `Display` and cannot be serialised, so that writing it anywhere is a visible act.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text itself, for the one place that sends it to its server.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_does_not_show_a_secret() {
        let shown = format!("{:?}", Some(Secret::new("hunter2".into())));
        assert_eq!(shown, "Some(Secret(hidden))");
    }
}
