//! Marks: "every change below bound P that belongs in this partition stands before me".

use super::json::{commit_time, write_number, write_string};
use crate::position::Bound;

/// What a mark says.
#[derive(Debug, Clone, Copy)]
pub struct Mark<'a> {
    /// CloudEvents `source`.
    pub source: &'a str,
    /// Full name of the topic that it stands in.
    pub topic: &'a str,
    /// Partition that it stands in.
    pub partition: u32,
    /// Never splits a transaction.
    pub bound: Bound,
    /// Live events of the partition so far.
    pub count: u64,
    /// Whether the snapshot of the topic's tables stands before it.
    pub complete: bool,
    /// Whether the primary may not show yet all that stands before it.
    pub ahead: bool,
    /// Distinguishes the marks of one partition that have the same bound.
    pub number: u64,
    /// When it was made, microseconds since 2000-01-01 UTC.
    pub time_us: i64,
}

/// Appends the mark as a CloudEvent.
pub fn write_mark(out: &mut Vec<u8>, mark: &Mark<'_>) {
    let bound = mark.bound.text();
    out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":\"");
    out.extend_from_slice(&bound);
    out.extend_from_slice(b"/mark/");
    out.extend_from_slice(mark.topic.as_bytes());
    out.push(b'/');
    write_number(out, mark.partition);
    out.push(b'/');
    write_number(out, mark.number);
    out.extend_from_slice(b"\",\"source\":");
    write_string(out, mark.source.as_bytes());
    out.extend_from_slice(b",\"type\":\"mark\",\"time\":\"");
    out.extend_from_slice(&commit_time(mark.time_us));
    out.extend_from_slice(b"\",\"position\":\"");
    out.extend_from_slice(&bound);
    out.extend_from_slice(b"\",\"count\":\"");
    write_number(out, mark.count);
    out.extend_from_slice(if mark.complete { b"\",\"complete\":true" } else { b"\",\"complete\":false" });
    out.extend_from_slice(if mark.ahead { b",\"ahead\":true}" } else { b"}" });
}
