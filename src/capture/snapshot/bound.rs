//! The bound of what was just read.

use std::time::Duration;

use highwater_postgres::{Connection, Error, Lsn};

/// Returns the bound of what was just read, above every bound that was published before.
///
/// A message of our own before the question makes it so; the commit behind it makes the stream reach the bound without
/// waiting for anybody else: on an idle server the log would not move, and the rows would stand behind marks that deny them.
pub(super) fn next_high(primary: &mut Connection, timeout: Duration) -> Result<u64, Error> {
    const TOUCH: &str = "BEGIN; SELECT pg_logical_emit_message(true, 'highwater.bound', ''); \
                         SELECT pg_current_wal_insert_lsn(); COMMIT";
    let rows = primary.simple_query(TOUCH, timeout)?;
    let text = rows.single()?.to_owned();
    let unexpected = |_| Error::Protocol(format!("pg_current_wal_insert_lsn() gave `{text}`"));
    let high: Lsn = text.parse().map_err(unexpected)?;
    Ok(start_of_page_if_just_past_its_header(high.0))
}

/// The insert position skips a page's header (`XLogPageHeaderData`, 24 bytes; 40 on a segment's first page), where no
/// record ends: nothing would ever reach it on an idle server.
fn start_of_page_if_just_past_its_header(lsn: u64) -> u64 {
    const PAGE: u64 = 8192;
    match lsn % PAGE {
        header @ (24 | 40) => lsn - header,
        _ => lsn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_just_past_a_page_header_counts_as_its_pages_start() {
        assert_eq!(start_of_page_if_just_past_its_header(8192 + 24), 8192);
        assert_eq!(start_of_page_if_just_past_its_header(16 * 1024 * 1024 + 40), 16 * 1024 * 1024);
        assert_eq!(start_of_page_if_just_past_its_header(8192 + 48), 8192 + 48);
    }
}
