//! The captured database: the server's settings, the role, the publication and the slot.

use highwater_postgres::{Error, quote};
use tokio_postgres::Client;

use super::report::Report;
use super::tables;
use crate::capture;
use crate::config::{Server, Source};
use crate::operate::database::{self, ANSWER};
use crate::roles::Config;

/// What the server says of itself and of the capturing role.
#[derive(Debug, Clone)]
struct ServerFacts {
    in_recovery: bool,
    wal_level: String,
    slots: (i64, i64),
    senders: (i64, i64),
    role: String,
    may_replicate: bool,
}

/// What the server says of the slot.
#[derive(Debug, Clone)]
struct SlotFacts {
    plugin: String,
    here: bool,
    active_pid: Option<i32>,
    wal_status: String,
    retained: String,
}

const SERVER_FACTS: &str = "
    SELECT pg_is_in_recovery(), current_setting('wal_level'),
           (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::bigint,
           (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
           current_setting('max_wal_senders')::bigint,
           r.rolname::text, r.rolreplication OR r.rolsuper
    FROM pg_roles r WHERE r.rolname = current_user";

const SLOT_FACTS: &str = "
    SELECT coalesce(plugin::text, ''), coalesce(database = current_database(), false), active_pid,
           coalesce(wal_status, 'lost'),
           pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))
    FROM pg_replication_slots WHERE slot_name = $1";

pub(super) async fn check(config: &Config, progress: Option<bool>, report: &mut Report) {
    let source = &config.source;
    let Some(client) = connect("source.database", &source.database, report).await else {
        return;
    };
    if let Err(error) = look(&client, config, progress, report).await {
        let text = format!("{} answered with an error: {error}", source.database);
        report.fail("source.database", text, "see the server's log");
    }
}

/// Connects and says so; without a connection nothing more can be said.
pub(super) async fn connect(setting: &str, server: &Server, report: &mut Report) -> Option<Client> {
    match database::connect(server, "highwater check").await {
        Ok(client) => {
            report.ok(setting, format!("{server} answers"));
            Some(client)
        }
        Err(error) => {
            let section = setting.split('.').next().unwrap_or_default().to_uppercase();
            let remedy = if error.is_transient() {
                format!("start PostgreSQL, or change {setting}")
            } else {
                format!("change {setting}, or set HIGHWATER_{section}_PASSWORD")
            };
            report.fail(setting, format!("{server}: {error}"), remedy);
            None
        }
    }
}

async fn look(client: &Client, config: &Config, progress: Option<bool>, report: &mut Report) -> Result<(), Error> {
    let row = client.query_one(SERVER_FACTS, &[]).await?;
    let facts = ServerFacts {
        in_recovery: row.get(0),
        wal_level: row.get(1),
        slots: (row.get(2), row.get(3)),
        senders: (row.get(4), row.get(5)),
        role: row.get(6),
        may_replicate: row.get(7),
    };
    let slot = client.query_opt(SLOT_FACTS, &[&config.source.slot]).await?.map(|row| SlotFacts {
        plugin: row.get(0),
        here: row.get(1),
        active_pid: row.get(2),
        wal_status: row.get(3),
        retained: row.get::<_, Option<String>>(4).unwrap_or_else(|| "unknown".to_owned()),
    });
    judge_server(&facts, slot.is_some(), report);
    tables::check(client, &config.source, &facts.role, report).await?;
    mapping(&config.source, report).await?;
    judge_slot(&config.source, slot.as_ref(), progress, report);
    Ok(())
}

/// Compiles the mapping as a start does.
async fn mapping(source: &Source, report: &mut Report) -> Result<(), Error> {
    let asked = source.clone();
    let checked = tokio::task::spawn_blocking(move || capture::check_mapping(&asked, ANSWER)).await;
    let errors = match checked {
        Ok(errors) => errors?,
        Err(panicked) => {
            report.fail("mapping", panicked.to_string(), "report it: the check itself failed");
            return Ok(());
        }
    };
    if errors.is_empty() {
        report.ok("mapping", format!("its {} entries fit their tables", source.map.len()));
    }
    for error in errors {
        report.fail("mapping", error.to_string(), "correct the entry, or the table");
    }
    Ok(())
}

fn judge_server(facts: &ServerFacts, has_slot: bool, report: &mut Report) {
    if facts.in_recovery {
        let remedy = "name the primary in source.database, for example by target_session_attrs";
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
    let places = [("max_replication_slots", facts.slots, !has_slot), ("max_wal_senders", facts.senders, true)];
    for (setting, (used, most), needs_one) in places {
        let text = format!("{used} of {most} in use");
        if needs_one && used >= most {
            let remedy = format!("ALTER SYSTEM SET {setting} = {}; then restart the server", most + 4);
            report.fail(setting, text, remedy);
        } else {
            report.ok(setting, text);
        }
    }
}

fn judge_slot(source: &Source, slot: Option<&SlotFacts>, progress: Option<bool>, report: &mut Report) {
    let name = &source.slot;
    let subject = format!("slot {name}");
    let anew = |drop: &str| {
        let prefix = &source.topic_prefix;
        format!(
            "restore the slot with its server; or begin anew: stop all roles, delete the topics `{prefix}.*`, {drop}start"
        )
    };
    let Some(slot) = slot else {
        return match progress {
            Some(true) => report.fail(subject, "is missing, though the topics hold progress", anew("")),
            Some(false) => report.ok(subject, "will be made at the start"),
            None => report.warn(subject, "is missing; whether that is a loss only Kafka can tell", "start Kafka"),
        };
    };
    if slot.plugin != "pgoutput" || !slot.here {
        let text = format!("belongs to another use (plugin {:?}, this database: {})", slot.plugin, slot.here);
        return report.fail(subject, text, "change source.slot");
    }
    if slot.wal_status == "lost" {
        let drop = format!("SELECT pg_drop_replication_slot({}); then ", quote::literal(name));
        return report.fail(subject, "is lost: the server removed WAL that it still needed", anew(&drop));
    }
    if slot.wal_status == "unreserved" {
        let remedy = "start capture at once, and raise max_slot_wal_keep_size";
        report.warn(&subject, "will be lost at the next checkpoint", remedy);
    }
    match slot.active_pid {
        Some(pid) => {
            let text = format!("is held by server process {pid}: this capture will wait as a standby");
            report.warn(subject, text, "stop the other capture, if it is not meant to be the active one");
        }
        None => report.ok(subject, format!("is free and keeps {} of WAL", slot.retained)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::check::Grade;

    fn source() -> Source {
        let document = crate::config::Document::parse("test.toml", "", std::collections::BTreeMap::new());
        Source::read(&mut document.section("source"))
    }

    fn slot() -> SlotFacts {
        let (plugin, wal_status, retained) = ("pgoutput".into(), "reserved".into(), "16 MB".into());
        SlotFacts { plugin, here: true, active_pid: None, wal_status, retained }
    }

    fn grade_of_slot(slot: Option<&SlotFacts>, progress: Option<bool>) -> (Grade, String) {
        let mut report = Report::default();
        judge_slot(&source(), slot, progress, &mut report);
        let last = report.findings().last().unwrap();
        (last.grade, last.text.clone())
    }

    #[test]
    fn a_slot_that_is_missing_though_topics_hold_progress_or_lost_forbids_the_start_and_names_the_choices() {
        let mut report = Report::default();
        judge_slot(&source(), None, Some(true), &mut report);
        assert!(!report.can_start());
        let remedy = report.findings()[0].remedy.clone().unwrap();
        assert!(remedy.ends_with("delete the topics `catalog.*`, start"), "{remedy}");
        let mut report = Report::default();
        judge_slot(&source(), Some(&SlotFacts { wal_status: "lost".into(), ..slot() }), Some(true), &mut report);
        let remedy = report.findings()[0].remedy.clone().unwrap();
        assert!(remedy.ends_with("SELECT pg_drop_replication_slot('highwater'); then start"), "{remedy}");
    }

    #[test]
    fn slots_are_judged_by_what_they_are() {
        assert_eq!(grade_of_slot(None, Some(false)).0, Grade::Ok);
        assert_eq!(grade_of_slot(None, None).0, Grade::Warn);
        assert_eq!(grade_of_slot(Some(&slot()), Some(true)).0, Grade::Ok);
        assert_eq!(grade_of_slot(Some(&SlotFacts { active_pid: Some(7), ..slot() }), None).0, Grade::Warn);
        assert_eq!(grade_of_slot(Some(&SlotFacts { wal_status: "lost".into(), ..slot() }), None).0, Grade::Fail);
        assert_eq!(grade_of_slot(Some(&SlotFacts { plugin: "wal2json".into(), ..slot() }), None).0, Grade::Fail);
        assert_eq!(grade_of_slot(Some(&SlotFacts { here: false, ..slot() }), None).0, Grade::Fail);
    }

    #[test]
    fn a_server_that_cannot_be_captured_is_told_how_to_become_so() {
        let facts = ServerFacts {
            in_recovery: true,
            wal_level: "replica".into(),
            slots: (10, 10),
            senders: (10, 10),
            role: "reader".into(),
            may_replicate: false,
        };
        let mut report = Report::default();
        judge_server(&facts, false, &mut report);
        let failures: Vec<_> =
            report.findings().iter().map(|finding| (finding.grade, finding.subject.as_str())).collect();
        let subjects = ["source.database", "wal_level", "role", "max_replication_slots", "max_wal_senders"];
        assert_eq!(failures, subjects.map(|subject| (Grade::Fail, subject)));
        let mut report = Report::default();
        let good = ServerFacts {
            in_recovery: false,
            wal_level: "logical".into(),
            may_replicate: true,
            senders: (0, 10),
            ..facts
        };
        judge_server(&good, true, &mut report);
        assert!(report.can_start(), "{report}");
    }
}
