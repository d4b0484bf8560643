//! Transactions that are under way at some moment: in the log they may have committed already, and been published, without
//! being visible yet.

use std::time::{Duration, Instant};

use highwater_postgres::{Connection, Error};
use tracing::{info, warn};

/// Between two questions whether they are over.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// After so long somebody should know what is waited for.
const NAMED_AFTER: Duration = Duration::from_secs(10);
/// Names what is under way below a transaction; its id in `pg_stat_activity` is shown to everybody, since when only to some.
const IN_THE_WAY: &str = "
    SELECT string_agg(name, ', ') FROM (
        SELECT format('process %s of %s', pid, usename) || coalesce(' since ' || xact_start, '') AS name, backend_xid AS xid
        FROM pg_stat_activity
        UNION ALL
        SELECT format('prepared transaction %L since %s', gid, prepared), transaction FROM pg_prepared_xacts) running
    WHERE age(xid) >= age('$1'::xid)";

/// Waits until they are over.
#[derive(Debug, Clone, Copy)]
pub(super) enum Settling {
    /// Nobody has asked which there are.
    Unasked,
    /// Some have to be over.
    Waiting(Waiting),
    Over,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    /// All below this one have to be over.
    below: u64,
    since: Instant,
    asked: Instant,
    named: bool,
}

impl Settling {
    /// Whether all of them are over; asks the primary as long as they are not.
    pub(super) fn is_over(&mut self, primary: &mut Connection, timeout: Duration) -> Result<bool, Error> {
        let now = Instant::now();
        let mut waiting = match *self {
            Self::Over => return Ok(true),
            Self::Waiting(waiting) if now < waiting.asked + ASK_EVERY => return Ok(false),
            Self::Waiting(waiting) => waiting,
            // Not the end of a snapshot: the newest transactions may be under way beyond it.
            Self::Unasked => {
                Waiting { below: primary.next_transaction_id(timeout)?, since: now, asked: now, named: false }
            }
        };
        let over = primary.current_snapshot(timeout)?.xmin() >= waiting.below;
        waiting.asked = now;
        if over && waiting.named {
            info!(waited = ?waiting.since.elapsed(), "the transactions that were waited for are over");
        } else if !over && !waiting.named && waiting.since.elapsed() > NAMED_AFTER {
            waiting.named = true;
            let transactions = in_the_way(primary, waiting.below, timeout)?;
            warn!(
                transactions,
                "transactions that are under way are waited for, before rows are read or shown: end them, or wait"
            );
        }
        *self = if over { Self::Over } else { Self::Waiting(waiting) };
        Ok(over)
    }
}

fn in_the_way(primary: &mut Connection, below: u64, timeout: Duration) -> Result<String, Error> {
    // The number that the server compares has 32 bits.
    let sql = IN_THE_WAY.replace("$1", &(below & u64::from(u32::MAX)).to_string());
    Ok(primary.simple_query(&sql, timeout)?.value(0, "string_agg").unwrap_or("none that this role may see").to_owned())
}
