//! Kafka: who answers, and whether the topics are as they have to be.

use std::collections::BTreeMap;

use highwater_kafka::{Admin, Error, Isolation, TopicSpec, last_record};

use super::report::Report;
use crate::operate::database::ANSWER;
use crate::roles::Config;

/// What other checks need to know of the topics.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Whether capture has published before; `None` where Kafka does not tell.
    pub(super) progress: Option<bool>,
}

pub(super) async fn check(config: &Config, report: &mut Report) -> Facts {
    match look(config, report).await {
        Ok(facts) => facts,
        Err(error) => {
            let text = format!("Kafka at {}: {error}", config.topics.brokers);
            report.fail("topics.brokers", text, "start Kafka, or change topics.brokers");
            Facts::default()
        }
    }
}

async fn look(config: &Config, report: &mut Report) -> Result<Facts, Error> {
    let topics = &config.topics;
    let connection = topics.connection("highwater-check");
    let admin = Admin::new(&connection)?;
    let cluster = admin.cluster(ANSWER).await?;
    report.ok("topics.brokers", format!("{} answers", cluster.brokers.join(", ")));
    let brokers = cluster.brokers.len();
    if usize::try_from(topics.replication_factor).is_ok_and(|copies| copies > brokers) {
        let text = format!("{} copies are asked for, and there are {brokers} brokers", topics.replication_factor);
        report.fail("topics.replication_factor", text, format!("set topics.replication_factor to {brokers} or less"));
    }
    let (there, missing) = split(topics.specs(), &cluster.topics);
    for spec in &there {
        let differences = admin.differences(std::slice::from_ref(spec), ANSWER).await?;
        if differences.is_empty() {
            report.ok(
                format!("topic {}", spec.name),
                format!("{} partitions, settings as they should be", spec.partitions),
            );
        }
        for difference in differences {
            report.fail(format!("topic {}", spec.name), difference.to_string(), difference.remedy(&topics.brokers));
        }
    }
    if !missing.is_empty() {
        report.ok("topics", format!("{} will be made at the start", missing.join(", ")));
    }
    let progress = topics.progress();
    if missing.contains(&progress) {
        return Ok(Facts { progress: Some(false) });
    }
    let newest = last_record(&connection, &progress, 0, Isolation::ReadCommitted, ANSWER).await?;
    Ok(Facts { progress: Some(newest.is_some()) })
}

/// Tells the topics that stand from the names of those that do not.
fn split(specs: Vec<TopicSpec>, there: &BTreeMap<String, i32>) -> (Vec<TopicSpec>, Vec<String>) {
    let (there, missing): (Vec<_>, Vec<_>) = specs.into_iter().partition(|spec| there.contains_key(&spec.name));
    (there, missing.into_iter().map(|spec| spec.name).collect())
}
