//! The clock as Redis sees it: texts of a fixed width.

use std::fmt;
use std::str::FromStr;

/// A point or an exclusive bound of the log, as text `TTTTTTTT-LLLLLLLLLLLLLLLL-SSSSSSSS` in upper-case hexadecimal.
///
/// The order of the text is the order in time. Which of the two it is follows from where it stands: a [`crate::Change`]
/// and a fence are points, all else is a bound.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp([u8; Self::LENGTH]);

/// A text that is no stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no stamp: expected TTTTTTTT-LLLLLLLLLLLLLLLL-SSSSSSSS in upper-case hexadecimal")]
pub struct NotAStamp;

impl Stamp {
    /// Width of the text in bytes.
    pub const LENGTH: usize = 34;

    /// Takes a text that was made in this form; one that comes from outside is parsed instead.
    ///
    /// # Panics
    /// If the text has another form, whose order would not be its order in time.
    #[must_use]
    pub fn new(text: [u8; Self::LENGTH]) -> Self {
        assert!(sorts(&text), "no stamp: {:?}", String::from_utf8_lossy(&text));
        Self(text)
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The form was checked and is ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Lower case is refused, because it sorts elsewhere.
fn sorts(text: &[u8; Stamp::LENGTH]) -> bool {
    text.iter().enumerate().all(|(i, byte)| match i {
        8 | 25 => *byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'A'..=b'F'),
    })
}

impl TryFrom<&[u8]> for Stamp {
    type Error = NotAStamp;

    fn try_from(text: &[u8]) -> Result<Self, NotAStamp> {
        let text = text.try_into().map_err(|_| NotAStamp)?;
        sorts(&text).then_some(Self(text)).ok_or(NotAStamp)
    }
}

impl FromStr for Stamp {
    type Err = NotAStamp;

    fn from_str(text: &str) -> Result<Self, NotAStamp> {
        text.as_bytes().try_into()
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_spelling_that_sorts_is_taken() {
        let good = "00000001-00000000000000AB-00000002";
        assert_eq!(good.parse::<Stamp>().map(|s| s.to_string()).as_deref(), Ok(good));
        for bad in [
            "00000001-00000000000000ab-00000002",
            "00000001-00000000000000AB-0000000",
            "00000001-00000000000000AB_00000002",
            "0000000100000000000000000AB-0000002",
            "",
        ] {
            assert_eq!(bad.parse::<Stamp>(), Err(NotAStamp), "{bad}");
        }
    }
}
