//! The one clock: a [`Position`] is where a change stands in the write-ahead log; a [`Bound`] says how much of the log a
//! copy contains. Promise: the two cannot be taken for each other.
//!
//! Positions are totally ordered, and their text has a fixed width, so that string order is position order in Lua, SQL and
//! JavaScript alike.

use std::fmt;
use std::str::FromStr;

/// A point: one row change of one source.
///
/// Positions of two sources do not compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The timeline that owns `lsn` in the server's history, which after a promotion may be older than the one it is on.
    pub timeline: u32,
    /// Where the commit record of the change's transaction starts; equal for all its changes.
    pub lsn: u64,
    /// The change's place among the surviving changes of its transaction, from 0, in steps of two: a change that is a
    /// delete in one place and a create in another uses both.
    pub seq: u32,
}

/// An exclusive bound: everything below it is contained, nothing is said of what stands at it or above.
///
/// Marks, replay positions, watermarks and clients' tokens are bounds, because the next commit record may start exactly
/// where the last one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bound(Position);

/// A text that is not a position.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no position: expected TTTTTTTT-LLLLLLLLLLLLLLLL-SSSSSSSS in hexadecimal")]
pub struct NotAPosition(String);

impl Position {
    /// Length of the text form in bytes.
    pub const TEXT_LENGTH: usize = 34;

    /// Returns the least bound that contains this point.
    #[must_use]
    pub fn after(self) -> Bound {
        Bound(match self.seq.checked_add(1) {
            Some(seq) => Self { seq, ..self },
            None => Self { lsn: self.lsn + 1, seq: 0, ..self },
        })
    }

    /// Returns the text form as bytes, without allocating.
    #[must_use]
    pub fn text(self) -> [u8; Self::TEXT_LENGTH] {
        let mut text = [b'-'; Self::TEXT_LENGTH];
        hex(&mut text[..8], u64::from(self.timeline));
        hex(&mut text[9..25], self.lsn);
        hex(&mut text[26..], u64::from(self.seq));
        text
    }
}

impl Bound {
    /// The bound that contains nothing.
    pub const ZERO: Self = Self(Position { timeline: 0, lsn: 0, seq: 0 });

    /// Returns the bound below which every commit that starts before `lsn` lies.
    #[must_use]
    pub fn at_lsn(timeline: u32, lsn: u64) -> Self {
        Self(Position { timeline, lsn, seq: 0 })
    }

    /// Tells whether a copy with this bound contains the change.
    #[must_use]
    pub fn contains(self, change: Position) -> bool {
        change < self.0
    }

    /// Returns the log position of the bound.
    #[must_use]
    pub fn lsn(self) -> u64 {
        self.0.lsn
    }

    /// Returns the timeline of the bound.
    #[must_use]
    pub fn timeline(self) -> u32 {
        self.0.timeline
    }

    /// Returns the text form as bytes, without allocating.
    #[must_use]
    pub fn text(self) -> [u8; Position::TEXT_LENGTH] {
        self.0.text()
    }
}

fn hex(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789ABCDEF"[(value & 15) as usize];
        value >>= 4;
    }
}

/// Reads digits in the one spelling that sorts: upper case.
fn unhex(text: &str) -> Option<u64> {
    let sorted = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    sorted.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let parse = || {
            let dashes = text.len() == Self::TEXT_LENGTH && text.is_ascii();
            if !dashes || &text[8..9] != "-" || &text[25..26] != "-" {
                return None;
            }
            Some(Self {
                timeline: u32::try_from(unhex(&text[..8])?).ok()?,
                lsn: unhex(&text[9..25])?,
                seq: u32::try_from(unhex(&text[26..])?).ok()?,
            })
        };
        parse().ok_or_else(|| NotAPosition(text.to_owned()))
    }
}

impl FromStr for Bound {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        text.parse().map(Self)
    }
}

macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Position, Bound);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position() -> impl Strategy<Value = Position> {
        (any::<u32>(), any::<u64>(), any::<u32>()).prop_map(|(timeline, lsn, seq)| Position { timeline, lsn, seq })
    }

    proptest! {
        #[test]
        fn string_order_is_position_order(a in position(), b in position()) {
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn a_position_survives_its_text(a in position()) {
            prop_assert_eq!(a.to_string().parse::<Position>().unwrap(), a);
        }

        #[test]
        fn a_bound_after_a_change_contains_it_and_nothing_later(a in position(), b in position()) {
            prop_assume!(a.lsn < u64::MAX);
            prop_assert!(a.after().contains(a));
            prop_assert_eq!(a.after().contains(b), b <= a);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<Position>();
        }
    }

    #[test]
    fn a_bound_does_not_contain_the_commit_that_starts_at_it() {
        let bound = Bound::at_lsn(1, 0x10);
        assert!(bound.contains(Position { timeline: 1, lsn: 0xF, seq: u32::MAX }));
        assert!(!bound.contains(Position { timeline: 1, lsn: 0x10, seq: 0 }));
    }

    #[test]
    fn lower_case_is_refused_because_it_sorts_elsewhere() {
        assert!("00000001-000000000000000a-00000000".parse::<Position>().is_err());
    }
}
