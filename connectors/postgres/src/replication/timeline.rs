//! Which timeline owns which part of the log.
//!
//! After a promotion a slot still hands out commits of the old timeline. A place in the log is named by the timeline that
//! owns it in the server's history, not by the one that the server is on.

use std::time::Duration;

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// The end of one timeline.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that ended.
    pub timeline: u32,
    /// The first place that is no longer its own.
    pub until: Lsn,
}

/// A server's timelines, from its history file (manual: Timelines).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timelines {
    /// In the order of the log.
    switches: Vec<Switch>,
    current: u32,
}

impl Timelines {
    /// Reads the history file of the timeline `current`.
    ///
    /// # Errors
    ///
    /// A line that is none of a history file, or timelines or places that go back.
    pub fn parse(current: u32, history: &str) -> Result<Self> {
        let lines = history.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let switches = lines.map(switch).collect::<Option<Vec<_>>>();
        let ordered = |switches: &Vec<Switch>| {
            switches.is_sorted_by(|a, b| a.timeline < b.timeline && a.until <= b.until)
                && switches.last().is_none_or(|last| last.timeline < current)
        };
        match switches.filter(ordered) {
            Some(switches) => Ok(Self { switches, current }),
            None => {
                Err(Error::Protocol(format!("the history of timeline {current} cannot be understood: {history:?}")))
            }
        }
    }

    /// Returns the timeline that owns a place of the log. A place at a switch belongs to the newer one.
    #[must_use]
    pub fn timeline_of(&self, lsn: Lsn) -> u32 {
        let ended = self.switches.partition_point(|switch| switch.until <= lsn);
        self.switches.get(ended).map_or(self.current, |switch| switch.timeline)
    }

    /// Returns the ends of the timelines before the current one, oldest first.
    #[must_use]
    pub fn switches(&self) -> &[Switch] {
        &self.switches
    }

    /// Returns the timeline that the server is on.
    #[must_use]
    pub fn current(&self) -> u32 {
        self.current
    }
}

/// Reads `1\t0/3000000\tno recovery target specified`.
fn switch(line: &str) -> Option<Switch> {
    let mut fields = line.split_ascii_whitespace();
    Some(Switch { timeline: fields.next()?.parse().ok()?, until: fields.next()?.parse().ok()? })
}

impl Connection {
    /// Asks for the history of a timeline, most often that of [`Connection::identify_system`].
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`]; SQLSTATE 58P01 if the server has no such history.
    pub fn timelines(&mut self, timeline: u32, timeout: Duration) -> Result<Timelines> {
        if timeline <= 1 {
            // The first timeline has no history file.
            return Timelines::parse(timeline, "");
        }
        let rows = self.simple_query(&format!("TIMELINE_HISTORY {timeline}"), timeout)?;
        let history = rows.value(0, "content").unwrap_or_default();
        Timelines::parse(timeline, history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTORY: &str = "1\t0/3000000\tno recovery target specified\n\n# a comment\n2\t0/5000028\tat \"x\"\n";

    #[test]
    fn a_place_belongs_to_the_timeline_that_wrote_it() {
        let timelines = Timelines::parse(4, HISTORY).unwrap();
        let owner = |lsn: u64| timelines.timeline_of(Lsn(lsn));
        assert_eq!([owner(0), owner(0x2FF_FFFF), owner(0x300_0000), owner(0x500_0027)], [1, 1, 2, 2]);
        assert_eq!([owner(0x500_0028), owner(u64::MAX)], [4, 4]);
        assert_eq!(timelines.switches()[1], Switch { timeline: 2, until: Lsn(0x500_0028) });
    }

    #[test]
    fn a_first_timeline_owns_everything() {
        let timelines = Timelines::parse(1, "").unwrap();
        assert_eq!((timelines.timeline_of(Lsn(u64::MAX)), timelines.current()), (1, 1));
    }

    #[test]
    fn two_promotions_at_one_place_leave_a_timeline_without_any() {
        let timelines = Timelines::parse(3, "1\t0/100\tx\n2\t0/100\tx\n").unwrap();
        assert_eq!((timelines.timeline_of(Lsn(0xFF)), timelines.timeline_of(Lsn(0x100))), (1, 3));
    }

    #[test]
    fn a_history_that_goes_back_is_refused() {
        for history in ["x\t0/1\t", "1\t0", "2\t0/1\n1\t0/2", "1\t0/2\n2\t0/1", "3\t0/1"] {
            assert!(Timelines::parse(3, history).is_err(), "{history:?}");
        }
    }
}
