//! Whether the topics hold what capture committed to them: what a start refuses, said before.

use highwater_kafka::{Cluster, Connection, Error};

use super::report::Report;
use super::slot::{Published, anew};
use crate::capture::progress::Progress;
use crate::capture::start::Lost;
use crate::capture::{Held, OnLostSlot};
use crate::operate::database::ANSWER;
use crate::roles::Config;

/// Returns what is lost, as the start of capture would find it.
pub(super) async fn lost(
    config: &Config,
    connection: &Connection,
    cluster: &Cluster,
    published: &Published,
) -> Result<Option<Lost>, Error> {
    let topics = &config.topics;
    let Some(progress) = published else { return Ok(None) };
    // Of a partition without a leader nobody knows its end; it is named anyway.
    if cluster.unavailable.keys().any(|topic| topics.specs().iter().any(|spec| spec.name == *topic)) {
        return Ok(None);
    }
    let count = |name: &str| cluster.topics.get(name).copied().unwrap_or(0);
    let held = Held::new(topics, connection.clone(), ANSWER, count);
    if let Some(progress) = progress {
        return Ok(held.compare(progress).await?.1);
    }
    let events = held.topic_with_events().await?;
    Ok(events.map(|topic| Lost::Progress { topic, progress: topics.progress() }))
}

/// Judges what is lost.
pub(super) fn judge(config: &Config, lost: &Lost, report: &mut Report) {
    let (Lost::Records { topic, .. } | Lost::Progress { progress: topic, .. }) = lost else { return };
    let subject = format!("topic {topic}");
    if lost.is_gap() && config.capture.on_lost_slot == OnLostSlot::Resnapshot {
        let text = format!("{lost}; capture will read every mapped table again");
        report.warn(subject, text, "know that what the history held there is gone");
    } else {
        report.fail(subject, lost.to_string(), anew(lost, &config.source, &config.topics, true));
    }
}

/// Returns the topics of these that a start makes as new ones: nothing was ever committed to them.
pub(super) fn never_written(config: &Config, missing: Vec<String>, published: &Published) -> Vec<String> {
    let written = |topic: &String, progress: &Progress| {
        let mut ends = progress.ends.iter().filter(|(suffix, _)| config.topics.name(suffix) == *topic);
        ends.any(|(_, ends)| ends.iter().any(|end| *end > 0))
    };
    let Some(Some(progress)) = published else { return missing };
    missing.into_iter().filter(|topic| !written(topic, progress)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::check::Grade;
    use crate::position::Bound;

    fn config() -> Config {
        let document = crate::config::Document::parse("test.toml", "", std::collections::BTreeMap::new());
        Config::read(document).unwrap()
    }

    #[test]
    fn a_loss_forbids_the_start_unless_capture_mends_it() {
        let records = Lost::Records {
            topic: "catalog.stock".into(),
            partition: 1,
            end: 0,
            expected: 9,
            progress: "catalog.progress".into(),
        };
        let progress = Lost::Progress { topic: "catalog.stock".into(), progress: "catalog.progress".into() };
        let mut config = config();
        let graded = |config: &Config, lost: &Lost| {
            let mut report = Report::default();
            judge(config, lost, &mut report);
            report.findings()[0].clone()
        };
        for lost in [&records, &progress] {
            let found = graded(&config, lost);
            assert_eq!(found.grade, Grade::Fail);
            assert!(found.remedy.unwrap().contains("kafka-topics.sh"), "{lost}");
        }
        config.capture.on_lost_slot = OnLostSlot::Resnapshot;
        assert_eq!(graded(&config, &records).grade, Grade::Warn);
        assert_eq!(graded(&config, &progress).grade, Grade::Fail, "nothing tells from where to go on");
    }

    #[test]
    fn a_missing_topic_that_had_records_is_none_that_the_start_makes() {
        let config = config();
        let missing =
            || vec!["catalog.stock".to_owned(), "catalog.prices".to_owned(), "catalog.dead-letters".to_owned()];
        assert_eq!(never_written(&config, missing(), &Some(None)), missing());
        let mut progress = Progress::beginning("7".into(), Bound::at_lsn(1, 9), 2);
        progress.ends = [("stock".to_owned(), vec![0, 3]), ("prices".to_owned(), vec![0, 0])].into();
        let left = never_written(&config, missing(), &Some(Some(progress)));
        assert_eq!(left, ["catalog.prices", "catalog.dead-letters"]);
    }
}
