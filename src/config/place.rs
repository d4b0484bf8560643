//! Where a setting was written, so that an error can point at it.

use std::fmt;
use std::sync::Arc;

/// Where a setting stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as the user named it, the name of the built-in default, or an environment variable.
    pub file: Arc<str>,
    /// Counted from 1; 0 where no line is meant: a variable, or something that is missing in the file.
    pub line: usize,
}

/// A setting with the place that errors name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<T> {
    /// What was written.
    pub value: T,
    /// Where it was written.
    pub place: Place,
}

impl Place {
    /// Names a variable, or a file as a whole.
    #[must_use]
    pub fn whole(name: &str) -> Self {
        Self { file: name.into(), line: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}
