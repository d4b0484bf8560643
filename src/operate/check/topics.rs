//! Kafka: who answers, and whether brokers and topics are as they have to be.

use std::collections::BTreeMap;

use highwater_kafka::{Admin, Error, Isolation, TopicSpec, last_record};

use super::brokers;
use super::report::Report;
use super::slot::Published;
use crate::capture::progress::Progress;
use crate::operate::database::ANSWER;
use crate::roles::Config;

/// Checks Kafka, and returns what capture has published.
pub(super) async fn check(config: &Config, report: &mut Report) -> Published {
    match look(config, report).await {
        Ok(published) => published,
        Err(error) => {
            let text = format!("Kafka at {}: {error}", config.topics.brokers);
            report.fail("topics.brokers", text, remedy(&error));
            None
        }
    }
}

fn remedy(error: &Error) -> &'static str {
    match error {
        Error::Setting { .. } => "correct topics.client",
        Error::Refused { .. } => {
            "grant the client's user what it was refused: see kafka-acls.sh, topics.client and HIGHWATER_TOPICS_PASSWORD"
        }
        _ => "start Kafka, or change topics.brokers",
    }
}

async fn look(config: &Config, report: &mut Report) -> Result<Published, Error> {
    let topics = &config.topics;
    let connection = topics.connection("highwater-check");
    let admin = Admin::new(&connection)?;
    let cluster = admin.cluster(ANSWER).await?;
    report.ok("topics.brokers", format!("{} answers", cluster.brokers.join(", ")));
    let count = cluster.brokers.len();
    if usize::try_from(topics.replication_factor).is_ok_and(|copies| copies > count) {
        let text = format!("{} copies are asked for, and there are {count} brokers", topics.replication_factor);
        report.fail("topics.replication_factor", text, format!("set topics.replication_factor = {count} or less"));
    }
    match admin.broker_settings(ANSWER).await {
        Ok(all) => all.iter().for_each(|(address, settings)| brokers::judge(address, settings, count, report)),
        Err(error) => {
            let remedy = "let the client's user describe the cluster's settings (kafka-acls.sh --operation DescribeConfigs --cluster)";
            report.warn("topics.brokers", format!("their settings are not known: {error}"), remedy);
        }
    }
    let (there, missing) = split(topics.specs(), &cluster.topics);
    for spec in &there {
        let differences = admin.differences(std::slice::from_ref(spec), ANSWER).await?;
        let subject = format!("topic {}", spec.name);
        if differences.is_empty() {
            report.ok(&subject, format!("{} partitions, settings as they should be", spec.partitions));
        }
        for difference in differences {
            report.fail(&subject, difference.to_string(), difference.remedy(&topics.brokers));
        }
        let settings = admin.settings(&spec.name, ANSWER).await?;
        if let Some(copies) = cluster.copies.get(&spec.name) {
            brokers::judge_copies(&spec.name, *copies, &settings, (count, &topics.brokers), report);
        }
    }
    if !missing.is_empty() {
        report.ok("topics", format!("{} will be made at the start", missing.join(", ")));
    }
    let progress = topics.progress();
    if missing.contains(&progress) {
        return Ok(Some(None));
    }
    let newest = last_record(&connection, &progress, 0, Isolation::ReadCommitted, ANSWER).await?;
    Ok(read_progress(&progress, newest.and_then(|record| record.value).as_deref(), report))
}

fn read_progress(topic: &str, value: Option<&[u8]>, report: &mut Report) -> Published {
    let Some(value) = value else { return Some(None) };
    match serde_json::from_slice::<Progress>(value) {
        Ok(progress) => Some(Some(progress)),
        Err(error) => {
            let text = format!("its newest record is no progress: {error}");
            report.fail(
                format!("topic {topic}"),
                text,
                "see what else writes to it, or set another source.topic_prefix",
            );
            None
        }
    }
}

/// Tells the topics that stand from the names of those that do not.
fn split(specs: Vec<TopicSpec>, there: &BTreeMap<String, i32>) -> (Vec<TopicSpec>, Vec<String>) {
    let (there, missing): (Vec<_>, Vec<_>) = specs.into_iter().partition(|spec| there.contains_key(&spec.name));
    (there, missing.into_iter().map(|spec| spec.name).collect())
}
