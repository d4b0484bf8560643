//! A status as text for a terminal.

use std::fmt;

use super::{Slot, Status, Worker};

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(slot) = &self.slot {
            writeln!(f, "{slot}")?;
        }
        match &self.published {
            Some(published) => writeln!(
                f,
                "published  below {}; snapshot of {} of {} tables complete, {} rows",
                published.bound, published.tables_complete, published.tables, published.snapshot_rows
            )?,
            None => writeln!(f, "published  nothing known")?,
        }
        writeln!(f, "\n{:<24} {:>10} {:>12}", "topic", "partitions", "offsets")?;
        for topic in &self.topics {
            writeln!(f, "{:<24} {:>10} {:>12}", topic.name, topic.partitions, topic.offsets)?;
        }
        writeln!(f, "\n{:<24} {:>10} {:>12}  complete below", "worker", "partitions", "behind")?;
        for worker in &self.workers {
            writeln!(f, "{worker}")?;
        }
        for error in &self.errors {
            writeln!(f, "\n{error}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot       {} is {}", self.name, self.state)?;
        if let Some(confirmed) = &self.confirmed {
            write!(f, ", confirmed {confirmed}")?;
        }
        if let Some(bytes) = self.behind_bytes {
            write!(f, ", {} behind", Bytes(bytes))?;
        }
        if let Some(bytes) = self.retained_bytes {
            write!(f, ", keeps {} of WAL", Bytes(bytes))?;
        }
        match self.wal.as_deref() {
            None | Some("reserved") => Ok(()),
            Some(wal) => write!(f, " ({wal})"),
        }
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partitions = format!("{}/{}", self.partitions, self.partitions_read);
        let bound = self.bound.as_deref().unwrap_or("-");
        write!(f, "{:<24} {partitions:>10} {:>12}  {bound}", self.name, self.behind_offsets)
    }
}

/// A number of bytes in the unit that suits it.
struct Bytes(i64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: i64 = 1024;
        match self.0 {
            bytes @ ..KIB => write!(f, "{bytes} B"),
            bytes if bytes < KIB * KIB => write!(f, "{} KiB", bytes / KIB),
            bytes if bytes < KIB * KIB * KIB => write!(f, "{} MiB", bytes / KIB / KIB),
            bytes => write!(f, "{} GiB", bytes / KIB / KIB / KIB),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::status::{Published, Topic};

    #[test]
    fn a_status_is_a_table_and_names_what_did_not_answer() {
        let status = Status {
            slot: Some(Slot {
                name: "highwater".into(),
                state: "held",
                confirmed: Some("0/16B3748".into()),
                behind_bytes: Some(96),
                retained_bytes: Some(5 * 1024 * 1024),
                wal: Some("reserved".into()),
            }),
            published: Some(Published { bound: "B".into(), tables_complete: 6, tables: 7, snapshot_rows: 12 }),
            topics: vec![Topic { name: "catalog.stock".into(), partitions: 8, offsets: 1200 }],
            workers: vec![Worker {
                name: "cache",
                partitions: 23,
                partitions_read: 24,
                behind_offsets: 7,
                bound: None,
            }],
            errors: vec!["audit: connection refused".into()],
        };
        let expected = "\
slot       highwater is held, confirmed 0/16B3748, 96 B behind, keeps 5 MiB of WAL
published  below B; snapshot of 6 of 7 tables complete, 12 rows

topic                    partitions      offsets
catalog.stock                     8         1200

worker                   partitions       behind  complete below
cache                         23/24            7  -

audit: connection refused
";
        assert_eq!(status.to_string(), expected);
    }
}
