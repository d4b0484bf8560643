//! The replication slot, and whether it goes on from what the topics hold.

use highwater_postgres::replication::{SlotState, WalStatus};
use highwater_postgres::{Lsn, quote};

use super::report::Report;
use super::server::ServerFacts;
use crate::capture::foreign::Foreign;
use crate::capture::progress::Progress;
use crate::capture::start::{Invalidation, Lost};
use crate::capture::{Beginning, OnLostSlot};
use crate::config::Source;
use crate::topics::Topics;

/// What the topics hold: `None` where Kafka does not tell, else the newest progress if there is one.
pub(super) type Published = Option<Option<Progress>>;

/// Below this share of `max_slot_wal_keep_size` a slot is close to being lost.
const LITTLE_LEFT: i64 = 5;

/// Judges the slot by itself, then with the progress.
pub(super) fn judge(
    source: &Source,
    on_lost_slot: OnLostSlot,
    topics: &Topics,
    server: &ServerFacts,
    beginning: &Beginning,
    published: &Published,
    report: &mut Report,
) {
    let subject = format!("slot {}", source.slot);
    let of_slot = |slot| Foreign::of(slot, beginning.system.database.as_deref());
    if let Some(foreign) = beginning.slot.as_ref().and_then(of_slot) {
        return report.fail(subject, format!("belongs to another use: {foreign}"), Foreign::REMEDY);
    }
    let topic = topics.progress();
    let decided = published.as_ref().map(|progress| beginning.decide(source, &topic, progress.clone()));
    let lost = match decided {
        Some(Err(lost)) => Some(lost),
        // Kafka is not needed to see this.
        None => {
            let why = beginning.slot.as_ref().and_then(Invalidation::of);
            why.map(|why| Lost::SlotInvalidated { slot: source.slot.clone(), why })
        }
        Some(Ok(_)) => None,
    };
    if let Some(lost) = lost.as_ref().filter(|lost| lost.is_gap() && on_lost_slot == OnLostSlot::Resnapshot) {
        let text = format!("{lost}; capture will go on with a new slot, and read every mapped table again");
        let remedy = "know that the missing changes never reach the audit log and the mirror";
        return report.warn(subject, text, remedy);
    }
    if let Some(lost) = lost {
        let remedy = anew(&lost, source, topics, beginning.slot.is_some());
        return report.fail(subject, lost.to_string(), remedy);
    }
    if let Some(Some(progress)) = published {
        judge_place(progress, beginning, &topic, report);
    }
    match (&beginning.slot, published) {
        (Some(slot), _) => judge_standing(source, slot, beginning.system.flushed, server, report),
        (None, Some(_)) => report.ok(subject, "will be made at the start"),
        (None, None) => report.warn(
            subject,
            "is missing; whether that is a loss only Kafka can tell",
            "start Kafka, or mend what is said of it here",
        ),
    }
}

/// Returns the way to begin anew, with its commands.
pub(super) fn anew(lost: &Lost, source: &Source, topics: &Topics, has_slot: bool) -> String {
    let drop = format!("SELECT pg_drop_replication_slot({}); ", quote::literal(&source.slot));
    format!(
        "{}: kafka-topics.sh --bootstrap-server {} --delete --topic '{}\\..*'; {}DELETE FROM highwater.audit_progress; \
         redis-cli FLUSHDB",
        lost.choices(&source.topic_prefix),
        topics.brokers,
        source.topic_prefix.replace('.', "\\."),
        if has_slot { drop.as_str() } else { "" },
    )
}

/// Whether the server's log holds the place up to which was published.
fn judge_place(progress: &Progress, beginning: &Beginning, topic: &str, report: &mut Report) {
    let (bound, end) = (progress.bound, beginning.system.flushed);
    let subject = format!("topic {topic}");
    if let Some(switch) = progress.phantoms(&beginning.timelines) {
        let text = format!(
            "holds progress up to {bound}, but from {switch} on the server's log is of timeline {}: what was published behind \
             the promotion of a standby is not in its database; capture will name it and read every mapped table again",
            switch.timeline()
        );
        report.warn(subject, text, "know that the audit log and the mirror keep what was lost by the promotion");
    } else if bound.lsn() > end.0 {
        let text = format!(
            "holds progress up to {bound}, but the server's log ends at {end}: it was restored from a backup, and what it \
             commits below that would be taken for published"
        );
        let remedy =
            "name the server with the whole log in source.database; or begin anew with another source.topic_prefix";
        report.fail(subject, text, remedy);
    }
}

fn judge_standing(source: &Source, slot: &SlotState, end: Lsn, server: &ServerFacts, report: &mut Report) {
    let subject = format!("slot {}", source.slot);
    let kept = slot.restart_lsn.map(|restart| end.0.saturating_sub(restart.0) >> 20);
    let limit = server.keep_mb.map_or_else(|| "without a limit".to_owned(), |mb| format!("of {mb} MB at most"));
    let text = format!(
        "keeps {} MB of WAL, {limit}",
        kept.map_or_else(|| "an unknown number of".to_owned(), |mb| mb.to_string())
    );
    let raise = server.keep_mb.map(|mb| {
        format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{}MB'; SELECT pg_reload_conf();", (mb * 2).max(1024))
    });
    let left_mb = slot.safe_wal_size.map(|bytes| bytes >> 20);
    match (raise, server.keep_mb, left_mb) {
        (raise, ..) if slot.wal_status == Some(WalStatus::Unreserved) => {
            let remedy = format!("start capture at once; {}", raise.unwrap_or_default());
            report.warn(&subject, format!("{text}; it will be lost at the next checkpoint"), remedy);
        }
        (Some(raise), Some(limit), Some(left)) if left < limit / LITTLE_LEFT => {
            report.warn(&subject, format!("{text}; it is lost after {left} MB more"), raise);
        }
        _ => report.ok(&subject, text),
    }
    if server.idle_timeout_s > 0 {
        let text = format!(
            "is lost when capture stands still for {} s (idle_replication_slot_timeout)",
            server.idle_timeout_s
        );
        report.warn(&subject, text, "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();");
    }
    if let Some(pid) = slot.active_pid {
        let text = format!("is held by server process {pid}: this capture will wait as a standby");
        report.warn(subject, text, "stop the other capture, if it is not meant to be the active one");
    }
}

#[cfg(test)]
mod tests {
    use highwater_postgres::replication::{SlotKind, SystemIdentity, Timelines};

    use super::*;
    use crate::operate::check::Grade;
    use crate::position::Bound;
    use crate::roles::Config;

    const MB: u64 = 1 << 20;

    fn slot() -> SlotState {
        SlotState {
            name: "highwater".into(),
            kind: SlotKind::Logical,
            plugin: Some("pgoutput".into()),
            database: Some("shop".into()),
            temporary: false,
            active_pid: None,
            restart_lsn: Some(Lsn(60 * MB)),
            confirmed_flush: Some(Lsn(64 * MB)),
            wal_status: Some(WalStatus::Reserved),
            safe_wal_size: None,
            two_phase: false,
            failover: false,
            synced: false,
            invalidation: None,
        }
    }

    fn progress(timeline: u32, lsn: u64) -> Progress {
        Progress::beginning("7".into(), Bound::at_lsn(timeline, lsn), 4)
    }

    /// Grade, text and remedy of the gravest finding.
    fn gravest(slot: Option<SlotState>, published: &Published, server: &ServerFacts) -> (Grade, String, String) {
        let document = crate::config::Document::parse("test.toml", "", std::collections::BTreeMap::new());
        let config = Config::read(document).unwrap();
        let database = Some("shop".to_owned());
        let system = SystemIdentity { system_identifier: 7, timeline: 2, flushed: Lsn(100 * MB), database };
        let timelines = Timelines::parse(2, "1\t0/3C00000\tpromoted\n").unwrap();
        let beginning = Beginning { slot, system, timelines };
        let mut report = Report::default();
        judge(&config.source, OnLostSlot::Error, &config.topics, server, &beginning, published, &mut report);
        let gravest = report.findings().iter().max_by_key(|finding| finding.grade).unwrap();
        (gravest.grade, gravest.text.clone(), gravest.remedy.clone().unwrap_or_default())
    }

    #[test]
    fn each_state_of_a_slot_has_its_finding_and_its_command() {
        let (good, at) = (ServerFacts::good(), |lsn| Some(Some(progress(2, lsn))));
        let narrow = ServerFacts { keep_mb: Some(100), ..ServerFacts::good() };
        let idle = ServerFacts { idle_timeout_s: 60, ..ServerFacts::good() };
        let with = |change: fn(&mut SlotState)| {
            let mut changed = slot();
            change(&mut changed);
            Some(changed)
        };
        let cases = [
            (Some(slot()), at(70 * MB), &good, Grade::Ok, "keeps 40 MB of WAL, without a limit", ""),
            (None, Some(None), &good, Grade::Ok, "will be made", ""),
            (None, None, &good, Grade::Warn, "only Kafka can tell", "start Kafka, or mend what is said of it here"),
            (None, at(70 * MB), &good, Grade::Fail, "is missing on", "--delete --topic 'catalog\\..*'; DELETE FROM"),
            (
                with(|s| s.wal_status = Some(WalStatus::Lost)),
                None,
                &good,
                Grade::Fail,
                "is lost",
                "pg_drop_replication_slot('highwater');",
            ),
            (
                with(|s| s.invalidation = Some("rows_removed".into())),
                at(70 * MB),
                &good,
                Grade::Fail,
                "is lost",
                "SELECT pg_drop",
            ),
            (
                with(|s| s.confirmed_flush = Some(Lsn(80 * MB))),
                at(70 * MB),
                &good,
                Grade::Fail,
                "made anew",
                "SELECT pg_drop",
            ),
            (
                with(|s| s.plugin = Some("wal2json".into())),
                at(70 * MB),
                &good,
                Grade::Fail,
                "another use: its output plugin is wal2json",
                "[source] slot",
            ),
            (with(|s| s.database = Some("other".into())), None, &good, Grade::Fail, "another use", "[source] slot"),
            (
                with(|s| (s.kind, s.plugin, s.database) = (SlotKind::Physical, None, None)),
                at(70 * MB),
                &good,
                Grade::Fail,
                "physical",
                "[source] slot",
            ),
            (with(|s| s.temporary = true), None, &good, Grade::Fail, "another use", "[source] slot"),
            (with(|s| s.active_pid = Some(7)), at(70 * MB), &good, Grade::Warn, "server process 7", "stop the other"),
            (
                with(|s| s.wal_status = Some(WalStatus::Unreserved)),
                at(70 * MB),
                &narrow,
                Grade::Warn,
                "next checkpoint",
                "= '1024MB';",
            ),
            (
                with(|s| s.safe_wal_size = Some(9 << 20)),
                at(70 * MB),
                &narrow,
                Grade::Warn,
                "after 9 MB more",
                "max_slot_wal_keep_size",
            ),
            (with(|s| s.safe_wal_size = Some(90 << 20)), at(70 * MB), &narrow, Grade::Ok, "of 100 MB at most", ""),
            (
                Some(slot()),
                at(70 * MB),
                &idle,
                Grade::Warn,
                "stands still for 60 s",
                "idle_replication_slot_timeout = 0;",
            ),
            (Some(slot()), at(101 * MB), &good, Grade::Fail, "log ends at", "topic_prefix"),
            (Some(slot()), Some(Some(progress(1, 70 * MB))), &good, Grade::Fail, "made anew", ""),
        ];
        for (slot, published, server, grade, text, remedy) in cases {
            let shown = format!("{slot:?} {published:?}");
            let found = gravest(slot, &published, server);
            assert_eq!(found.0, grade, "{shown}: {found:?}");
            assert!(found.1.contains(text), "{shown}: {found:?}");
            assert!(found.2.contains(remedy), "{shown}: {found:?}");
        }
    }

    #[test]
    fn progress_behind_the_promotion_of_a_standby_is_named() {
        // The slot is still on the old timeline, as a copied one is.
        let behind = SlotState { confirmed_flush: Some(Lsn(50 * MB)), ..slot() };
        let found = gravest(Some(behind.clone()), &Some(Some(progress(1, 70 * MB))), &ServerFacts::good());
        assert_eq!(found.0, Grade::Warn);
        assert!(found.1.contains("timeline 2: what was published behind the promotion"), "{found:?}");
        let at_the_switch = gravest(Some(behind), &Some(Some(progress(1, 60 * MB))), &ServerFacts::good());
        assert_eq!(at_the_switch.0, Grade::Ok, "{at_the_switch:?}");
    }
}
