//! The standby whose log is read, where one is named: that it is one of this primary's, and keeps what its slot needs.

use highwater_postgres::{Error, quote};
use tokio_postgres::Client;

use super::report::Report;
use super::server::{self, ServerFacts};
use super::unreachable::connect;
use crate::capture::{Beginning, OLDEST_STANDBY, Primary};
use crate::roles::Config;

const SETTING: &str = "source.standby";

/// What tells whether a slot stands on a standby, and can be made there.
#[derive(Debug, Clone)]
struct Keeping {
    /// Whether it gets the primary's log now.
    receiving: bool,
    /// Whether the primary is told which rows are still needed here.
    feedback: bool,
    /// The primary's slot that remembers it while the standby is away.
    primary_slot: Option<String>,
    /// Whether the role may have the primary log what a new slot waits for.
    may_urge: bool,
    /// The primary's slot of the same name, if nobody reads it.
    left_behind: Option<String>,
}

/// Looks at the server whose log is read; returns what it says of itself, or none if it does not answer. Without a standby it is
/// the primary. The log of the beginning then ends where the primary's does: a standby may be behind.
pub(super) async fn look(
    primary: &Client,
    config: &Config,
    of_primary: &ServerFacts,
    mut beginning: Option<&mut Beginning>,
    report: &mut Report,
) -> Result<Option<ServerFacts>, Error> {
    const KEEPING: &str =
        "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver), current_setting('hot_standby_feedback')::bool,
                                  nullif(current_setting('primary_slot_name'), '')";
    const OF_PRIMARY: &str = "
        SELECT coalesce(has_function_privilege(to_regprocedure('pg_catalog.pg_log_standby_snapshot()')::oid, 'EXECUTE'), false),
               (SELECT slot_name::text FROM pg_replication_slots WHERE slot_name = $1 AND NOT active)";
    let Some(server) = &config.source.standby else { return Ok(Some(of_primary.clone())) };
    let Some(client) = connect(SETTING, server, report).await else { return Ok(None) };
    let facts = server::facts(&client).await?;
    if of_primary.in_recovery {
        // Said already; it can tell nothing of the primary's.
        return Ok(Some(facts));
    }
    let identity = primary.query_one(Primary::IDENTIFY, &[]).await?;
    let identity = Primary::parse(identity.get(0), identity.get(1), identity.get(2))?;
    if let Some(beginning) = &mut beginning {
        beginning.system.flushed = identity.flushed;
    }
    let row = client.query_one(KEEPING, &[]).await?;
    let of_primary = primary.query_one(OF_PRIMARY, &[&config.source.slot]).await?;
    let keeping = Keeping {
        receiving: row.get(0),
        feedback: row.get(1),
        primary_slot: row.get(2),
        may_urge: of_primary.get(0),
        left_behind: of_primary.get(1),
    };
    judge(&facts, &keeping, identity, beginning.as_deref(), report);
    Ok(Some(facts))
}

fn judge(facts: &ServerFacts, keeping: &Keeping, primary: Primary, beginning: Option<&Beginning>, report: &mut Report) {
    if let Some(Beginning { system, .. }) = beginning {
        if system.system_identifier != primary.system_identifier {
            let remedy = "name a standby of source.database, or the primary that it follows";
            return report.fail(SETTING, "is of another cluster than source.database", remedy);
        }
        if system.timeline != primary.timeline {
            let text = format!("is on timeline {}, and the primary on {}", system.timeline, primary.timeline);
            let remedy = "have it follow that primary, or name in source.database the one that it follows; capture waits for that";
            return report.fail(SETTING, text, remedy);
        }
    }
    if !facts.in_recovery {
        let remedy = "name a standby of it, or remove source.standby";
        return report.warn(SETTING, "is the primary itself: it was promoted, or never was a standby", remedy);
    }
    if u32::try_from(facts.version).is_ok_and(|version| version < OLDEST_STANDBY) {
        let text = format!("is PostgreSQL {}, which decodes no log on a standby", facts.version / 10_000);
        return report.fail(SETTING, text, "remove source.standby, or upgrade PostgreSQL to 16 or newer");
    }
    if facts.wal_level != "logical" {
        let remedy = "on the standby: ALTER SYSTEM SET wal_level = 'logical'; then restart it";
        report.fail(SETTING, format!("has wal_level {}, not logical", facts.wal_level), remedy);
    }
    if !keeping.receiving {
        let text = "gets no log from the primary now: nothing new is captured";
        report.warn(SETTING, text, "see primary_conninfo, and pg_stat_wal_receiver and the log of the standby");
    }
    judge_keeping(keeping, report);
    judge_slot(facts, keeping, beginning, report);
}

/// Judges whether what a slot needs stays.
fn judge_keeping(keeping: &Keeping, report: &mut Report) {
    if !keeping.feedback {
        let text =
            "does not tell the primary which rows it needs (hot_standby_feedback): a VACUUM there can cost the slot";
        let remedy = "on the standby: ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();";
        report.warn(SETTING, text, remedy);
    }
    if keeping.primary_slot.is_none() {
        let text = "has no slot on the primary, which forgets what the standby needs while it is away: the slot can be lost then";
        let remedy = "on the primary: SELECT pg_create_physical_replication_slot('standby'); on the standby: \
                      ALTER SYSTEM SET primary_slot_name = 'standby'; SELECT pg_reload_conf();";
        report.warn(SETTING, text, remedy);
    }
}

/// Judges the slot, or the place for it, beside what every slot is judged by.
fn judge_slot(facts: &ServerFacts, keeping: &Keeping, beginning: Option<&Beginning>, report: &mut Report) {
    let Some(beginning) = beginning else { return };
    if let Some(slot) = &keeping.left_behind {
        let text = format!("the primary has a slot {slot} too, which nobody reads and which keeps its log");
        let drop = format!("SELECT pg_drop_replication_slot({})", quote::literal(slot));
        report.warn(SETTING, text, format!("on the primary, if nothing else is to read it: {drop};"));
    }
    match &beginning.slot {
        Some(slot) if slot.synced => {
            let text =
                format!("slot {} is a copy of the primary's failover slot, which cannot be read here", slot.name);
            report.fail(SETTING, text, "set source.slot to a name of its own");
        }
        Some(_) => {}
        None if keeping.may_urge => {}
        None => {
            let text = "a new slot waits until the primary logs its running transactions, which an idle one does not by itself";
            let role = quote::identifier(&facts.role);
            let remedy = format!("on the primary: GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO {role};");
            report.warn(SETTING, text, remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_postgres::Lsn;
    use highwater_postgres::replication::{SystemIdentity, Timelines};

    use super::*;
    use crate::operate::check::Grade;

    const KEEPS: Keeping =
        Keeping { receiving: true, feedback: true, primary_slot: None, may_urge: true, left_behind: None };

    fn keeps() -> Keeping {
        Keeping { primary_slot: Some("replica1".into()), ..KEEPS }
    }

    fn standby() -> ServerFacts {
        ServerFacts { version: 170_011, in_recovery: true, ..ServerFacts::good() }
    }

    /// Returns text and remedy of what is not as it should be, the primary having this identifier and timeline.
    fn found(facts: &ServerFacts, keeping: &Keeping, primary: (u64, u32)) -> Vec<(Grade, String, String)> {
        let system = SystemIdentity { system_identifier: 7, timeline: 2, flushed: Lsn(9), database: None };
        let timelines = Timelines::parse(2, "1\t0/5\tpromoted\n").unwrap();
        let primary = Primary { system_identifier: primary.0, timeline: primary.1, flushed: Lsn(9) };
        let beginning = Beginning { slot: None, system, timelines };
        let mut report = Report::default();
        judge(facts, keeping, primary, Some(&beginning), &mut report);
        let told = report.findings().iter();
        told.map(|finding| (finding.grade, finding.text.clone(), finding.remedy.clone().unwrap_or_default())).collect()
    }

    #[test]
    fn each_fault_of_a_standby_is_named_alone_with_what_mends_it() {
        assert_eq!(found(&standby(), &keeps(), (7, 2)), []);
        let cases = [
            (standby(), keeps(), (8, 2), Grade::Fail, "another cluster", "name a standby of source.database"),
            (standby(), keeps(), (7, 3), Grade::Fail, "timeline 2, and the primary on 3", "follow that primary"),
            (ServerFacts::good(), keeps(), (7, 2), Grade::Warn, "the primary itself", "remove source.standby"),
            (
                ServerFacts { version: 150_014, ..standby() },
                keeps(),
                (7, 2),
                Grade::Fail,
                "PostgreSQL 15",
                "16 or newer",
            ),
            (
                ServerFacts { wal_level: "replica".into(), ..standby() },
                keeps(),
                (7, 2),
                Grade::Fail,
                "wal_level replica",
                "SET wal_level = 'logical'",
            ),
            (
                standby(),
                Keeping { feedback: false, ..keeps() },
                (7, 2),
                Grade::Warn,
                "VACUUM",
                "SET hot_standby_feedback = on",
            ),
            (
                standby(),
                Keeping { receiving: false, ..keeps() },
                (7, 2),
                Grade::Warn,
                "gets no log",
                "primary_conninfo",
            ),
            (
                standby(),
                Keeping { left_behind: Some("highwater".into()), ..keeps() },
                (7, 2),
                Grade::Warn,
                "a slot highwater too",
                "pg_drop_replication_slot",
            ),
            (standby(), KEEPS, (7, 2), Grade::Warn, "no slot on the primary", "primary_slot_name"),
            (
                standby(),
                Keeping { may_urge: false, ..keeps() },
                (7, 2),
                Grade::Warn,
                "a new slot waits",
                "pg_log_standby_snapshot() TO \"reader\"",
            ),
        ];
        for (facts, keeping, primary, grade, text, remedy) in cases {
            let found = found(&facts, &keeping, primary);
            let [(found_grade, found_text, found_remedy)] = &found[..] else { panic!("{text}: {found:?}") };
            assert!(
                *found_grade == grade && found_text.contains(text) && found_remedy.contains(remedy),
                "{text}: {found:?}"
            );
        }
    }
}
