//! Settings of the brokers that no topic can have for itself, and whether a topic's copies can take a write.

use std::collections::BTreeMap;

use highwater_kafka::cluster::Copies;

use super::report::Report;
use crate::capture::TRANSACTION_TIMEOUT;
use crate::topics::LARGEST_RECORD_BYTES;

type Settings = BTreeMap<String, String>;

/// Judges one of `count` brokers. `None` for a setting that it does not tell: nothing is said of that.
pub(super) fn judge(address: &str, settings: &Settings, count: usize, report: &mut Report) {
    let subject = format!("broker {address}");
    let number = |name: &str| settings.get(name).and_then(|value| value.parse::<u128>().ok());
    let properties = |line: &str| format!("in the broker's server.properties: {line}; then restart it");
    let mut good = true;
    let mut fail = |text: String, remedy: String| {
        good = false;
        report.fail(&subject, text, remedy);
    };
    let timeout = TRANSACTION_TIMEOUT.as_millis();
    if let Some(most) = number("transaction.max.timeout.ms").filter(|most| *most < timeout) {
        let text =
            format!("refuses transactions of {timeout} ms, which capture asks for: transaction.max.timeout.ms={most}");
        fail(text, properties(&format!("transaction.max.timeout.ms={timeout}")));
    }
    let request = LARGEST_RECORD_BYTES as u128 + 64 * 1024;
    if let Some(most) = number("socket.request.max.bytes").filter(|most| *most < request) {
        let text = format!("refuses requests with records of 16 MiB: socket.request.max.bytes={most}");
        fail(text, properties("socket.request.max.bytes=104857600"));
    }
    for name in ["transaction.state.log.replication.factor", "transaction.state.log.min.isr"] {
        if let Some(copies) = number(name).filter(|copies| *copies > count as u128) {
            let text = format!(
                "asks for {copies} brokers before it takes a transaction, and there are {count}: {name}={copies}"
            );
            fail(text, properties(&format!("{name}={count}")));
        }
    }
    if settings.get("log.cleaner.enable").is_some_and(|value| value == "false") {
        good = false;
        let text = "never compacts: state topics grow without end, log.cleaner.enable=false";
        report.warn(&subject, text, properties("log.cleaner.enable=true"));
    }
    if good {
        report.ok(subject, "takes transactions and records as long as capture makes them");
    }
}

/// Judges whether the copies of a topic can take a write, and keep it. `brokers` is where a command goes.
pub(super) fn judge_copies(
    topic: &str,
    copies: Copies,
    settings: &Settings,
    brokers: (usize, &str),
    report: &mut Report,
) {
    let (count, address) = brokers;
    let subject = format!("topic {topic}");
    let set = |setting: &str| {
        format!(
            "kafka-configs.sh --bootstrap-server {address} --alter --entity-type topics --entity-name {topic} --add-config {setting}"
        )
    };
    let least = settings.get("min.insync.replicas").and_then(|value| value.parse::<usize>().ok()).unwrap_or(1);
    if least > copies.assigned {
        let text = format!("refuses every write: min.insync.replicas={least}, and it has {} copies", copies.assigned);
        report.fail(&subject, text, set(&format!("min.insync.replicas={}", copies.assigned.saturating_sub(1).max(1))));
    } else if copies.in_sync < least {
        let text = format!("refuses writes: {} copies are in sync, min.insync.replicas={least}", copies.in_sync);
        report.fail(&subject, text, "start the brokers that are down");
    }
    if copies.assigned == 1 && count > 1 {
        let text = format!("has one copy among {count} brokers: it is away with its broker, and lost with its disk");
        let remedy = format!(
            "give it more: kafka-reassign-partitions.sh --bootstrap-server {address} --execute --reassignment-json-file …; and set \
             topics.replication_factor"
        );
        report.warn(&subject, text, remedy);
    }
    if copies.assigned > 1 && least == 1 {
        let text = format!(
            "may lose what it acknowledged with one broker: min.insync.replicas=1 of {} copies",
            copies.assigned
        );
        report.warn(&subject, text, set("min.insync.replicas=2"));
    }
    if settings.get("unclean.leader.election.enable").is_some_and(|value| value == "true") {
        let text = "lets a copy that lacks records lead: acknowledged records can vanish";
        report.warn(&subject, text, set("unclean.leader.election.enable=false"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::check::Grade;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn bad(report: &Report) -> Vec<(Grade, String)> {
        let bad = report.findings().iter().filter(|finding| finding.grade > Grade::Ok);
        bad.map(|finding| (finding.grade, finding.remedy.clone().unwrap())).collect()
    }

    #[test]
    fn each_limit_of_a_broker_below_what_capture_needs_is_named_with_its_line() {
        let cases = [
            ("transaction.max.timeout.ms", "60000", "900000", Grade::Fail),
            ("socket.request.max.bytes", "1000000", "104857600", Grade::Fail),
            ("transaction.state.log.replication.factor", "3", "1", Grade::Fail),
            ("transaction.state.log.min.isr", "2", "1", Grade::Fail),
            ("log.cleaner.enable", "false", "true", Grade::Warn),
        ];
        for (name, found, right, grade) in cases {
            let mut report = Report::default();
            judge("k:9092", &settings(&[(name, found)]), 1, &mut report);
            let remedy = format!("in the broker's server.properties: {name}={right}; then restart it");
            assert_eq!(bad(&report), [(grade, remedy)]);
            let mut report = Report::default();
            judge("k:9092", &settings(&[(name, right)]), 1, &mut report);
            assert_eq!(bad(&report), [], "{name}={right} is enough");
        }
    }

    #[test]
    fn copies_that_cannot_take_or_keep_a_write_are_named_with_the_command() {
        let config = |setting| {
            format!(
                "kafka-configs.sh --bootstrap-server k:1 --alter --entity-type topics --entity-name t --add-config {setting}"
            )
        };
        let isr = |least| settings(&[("min.insync.replicas", least)]);
        let cases = [
            (1, 1, isr("1"), 1, vec![]),
            (3, 3, isr("2"), 3, vec![]),
            (1, 1, isr("2"), 1, vec![(Grade::Fail, config("min.insync.replicas=1"))]),
            (3, 1, isr("2"), 3, vec![(Grade::Fail, "start the brokers that are down".to_owned())]),
            (3, 3, isr("1"), 3, vec![(Grade::Warn, config("min.insync.replicas=2"))]),
            (
                3,
                3,
                settings(&[("min.insync.replicas", "2"), ("unclean.leader.election.enable", "true")]),
                3,
                vec![(Grade::Warn, config("unclean.leader.election.enable=false"))],
            ),
        ];
        for (assigned, in_sync, settings, brokers, expected) in cases {
            let mut report = Report::default();
            judge_copies("t", Copies { assigned, in_sync }, &settings, (brokers, "k:1"), &mut report);
            assert_eq!(bad(&report), expected);
        }
        let mut report = Report::default();
        judge_copies("t", Copies { assigned: 1, in_sync: 1 }, &isr("1"), (3, "k:1"), &mut report);
        assert!(bad(&report)[0].1.contains("kafka-reassign-partitions.sh"));
    }
}
