//! The captured server itself: version, settings, room for one more reader of its log, and the role that reads it.

use highwater_postgres::quote;
use tokio_postgres::Client;

use super::report::Report;

/// Protocol 2 of logical replication, and thereby all that capture rests on, came with PostgreSQL 14.
const OLDEST: i32 = 140_000;

/// What the server says of itself and of the capturing role.
#[derive(Debug, Clone)]
pub(super) struct ServerFacts {
    /// As in `server_version_num`: 150014 is 15.14.
    pub(super) version: i32,
    pub(super) in_recovery: bool,
    /// Where a standby gets its log from, if it tells.
    pub(super) upstream: Option<String>,
    pub(super) wal_level: String,
    /// In use, and how many there can be.
    pub(super) slots: (i64, i64),
    pub(super) senders: (i64, i64),
    pub(super) role: String,
    pub(super) may_replicate: bool,
    /// `max_slot_wal_keep_size` in MB; none without a limit.
    pub(super) keep_mb: Option<i64>,
    /// `idle_replication_slot_timeout` in seconds, of PostgreSQL 18; 0 is none.
    pub(super) idle_timeout_s: i64,
}

// `pg_stat_get_wal_senders` counts for everybody, where pg_stat_activity hides other roles' processes.
const FACTS: &str = "
    SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),
           (SELECT sender_host || ':' || sender_port FROM pg_stat_wal_receiver LIMIT 1), current_setting('wal_level'),
           (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::bigint,
           (SELECT count(*) FROM pg_stat_get_wal_senders()), current_setting('max_wal_senders')::bigint,
           r.rolname::text, r.rolreplication OR r.rolsuper,
           (SELECT nullif(setting::bigint, -1) FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
           coalesce((SELECT setting::bigint FROM pg_settings WHERE name = 'idle_replication_slot_timeout'), 0)
    FROM pg_roles r WHERE r.rolname = current_user";

pub(super) async fn facts(client: &Client) -> Result<ServerFacts, tokio_postgres::Error> {
    let row = client.query_one(FACTS, &[]).await?;
    Ok(ServerFacts {
        version: row.get(0),
        in_recovery: row.get(1),
        upstream: row.get(2),
        wal_level: row.get(3),
        slots: (row.get(4), row.get(5)),
        senders: (row.get(6), row.get(7)),
        role: row.get(8),
        may_replicate: row.get(9),
        keep_mb: row.get(10),
        idle_timeout_s: row.get(11),
    })
}

/// Judges the primary, whoever hands out its log.
pub(super) fn judge(facts: &ServerFacts, report: &mut Report) {
    let version = format!("{}.{}", facts.version / 10_000, facts.version % 10_000);
    if facts.version < OLDEST {
        report.fail("server_version", format!("is {version}; 14 is the oldest"), "upgrade PostgreSQL to 14 or newer");
    } else {
        report.ok("server_version", version);
    }
    if facts.in_recovery {
        let upstream = facts.upstream.as_ref().map_or_else(String::new, |address| format!(", {address},"));
        let remedy =
            format!("name the primary{upstream} in source.database, or add target_session_attrs=read-write to it");
        report.fail("source.database", "is a standby; only the primary knows which commits are visible", remedy);
    }
    if facts.wal_level == "logical" {
        report.ok("wal_level", "logical");
    } else {
        let remedy = "ALTER SYSTEM SET wal_level = 'logical'; then restart the server";
        report.fail("wal_level", format!("is {}, not logical", facts.wal_level), remedy);
    }
    if facts.may_replicate {
        report.ok("role", format!("{} may replicate", facts.role));
    } else {
        let remedy = format!("ALTER ROLE {} REPLICATION;", quote::identifier(&facts.role));
        report.fail("role", format!("{} may not replicate", facts.role), remedy);
    }
}

/// Judges whether the server that hands out the log has room for a slot, if there is none, and for so many `senders`.
pub(super) fn judge_room(facts: &ServerFacts, has_slot: bool, senders: i64, report: &mut Report) {
    let slots = i64::from(!has_slot);
    let places = [("max_replication_slots", facts.slots, slots), ("max_wal_senders", facts.senders, senders)];
    for (setting, (used, most), needed) in places {
        let text = format!("{used} of {most} in use");
        if needed > 0 && used + needed > most {
            let remedy = format!("ALTER SYSTEM SET {setting} = {}; then restart the server", most + 4);
            report.fail(setting, text, remedy);
        } else {
            report.ok(setting, text);
        }
    }
}

#[cfg(test)]
impl ServerFacts {
    /// A server with nothing to say against it.
    pub(super) fn good() -> Self {
        Self {
            version: 150_014,
            in_recovery: false,
            upstream: None,
            wal_level: "logical".into(),
            slots: (1, 10),
            senders: (1, 10),
            role: "reader".into(),
            may_replicate: true,
            keep_mb: None,
            idle_timeout_s: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::check::Grade;

    /// Returns subject and remedy of what is not as it should be.
    fn found(facts: &ServerFacts, has_slot: bool) -> Vec<(String, String)> {
        let mut report = Report::default();
        judge(facts, &mut report);
        judge_room(facts, has_slot, 1, &mut report);
        let bad = report.findings().iter().filter(|finding| finding.grade > Grade::Ok);
        bad.map(|finding| (finding.subject.clone(), finding.remedy.clone().unwrap())).collect()
    }

    #[test]
    fn each_fault_of_a_server_is_named_alone_with_what_mends_it() {
        let good = ServerFacts::good;
        let cases = [
            (good(), true, None),
            (
                ServerFacts { version: 130_012, ..good() },
                true,
                Some(("server_version", "upgrade PostgreSQL to 14 or newer")),
            ),
            (
                ServerFacts { in_recovery: true, upstream: Some("db1:5432".into()), ..good() },
                true,
                Some((
                    "source.database",
                    "name the primary, db1:5432, in source.database, or add target_session_attrs=read-write to it",
                )),
            ),
            (
                ServerFacts { wal_level: "replica".into(), ..good() },
                true,
                Some(("wal_level", "ALTER SYSTEM SET wal_level = 'logical'; then restart the server")),
            ),
            (
                ServerFacts { may_replicate: false, ..good() },
                true,
                Some(("role", "ALTER ROLE \"reader\" REPLICATION;")),
            ),
            (ServerFacts { senders: (9, 10), ..good() }, true, None),
            (
                ServerFacts { slots: (10, 10), ..good() },
                false,
                Some(("max_replication_slots", "ALTER SYSTEM SET max_replication_slots = 14; then restart the server")),
            ),
            (ServerFacts { slots: (10, 10), ..good() }, true, None),
            (
                ServerFacts { senders: (10, 10), ..good() },
                true,
                Some(("max_wal_senders", "ALTER SYSTEM SET max_wal_senders = 14; then restart the server")),
            ),
        ];
        for (facts, has_slot, expected) in cases {
            let expected: Vec<_> =
                expected.into_iter().map(|(subject, remedy)| (subject.to_owned(), remedy.to_owned())).collect();
            assert_eq!(found(&facts, has_slot), expected, "{facts:?}");
        }
    }
}
