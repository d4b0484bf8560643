//! Kafka: who answers, and whether brokers and topics are as they have to be.

use highwater_kafka::cluster::Unavailable;
use highwater_kafka::{
    Admin, Cluster, Connection, Consumer, ConsumerSettings, Error, Isolation, TopicSpec, last_record,
};

use super::report::Report;
use super::slot::Published;
use super::{brokers, held};
use crate::capture::progress::Progress;
use crate::capture::start::Lost;
use crate::operate::database::ANSWER;
use crate::roles::Config;

/// Checks Kafka, and returns what capture has published. `captures`: whether capture will go on from that.
pub(super) async fn check(config: &Config, captures: bool, report: &mut Report) -> Published {
    match look(config, captures, report).await {
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
        Error::Setting { .. } => "correct [topics] client",
        Error::Refused { .. } => {
            "grant the client's user what it was refused: see kafka-acls.sh, topics.client and HIGHWATER_TOPICS_PASSWORD"
        }
        _ => "start Kafka, or change topics.brokers",
    }
}

async fn look(config: &Config, captures: bool, report: &mut Report) -> Result<Published, Error> {
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
    let sorted = Sorted::of(topics.specs(), &cluster);
    for spec in &sorted.whole {
        look_at_topic(&admin, spec, &cluster, &topics.brokers, report).await?;
    }
    sorted.unavailable.iter().for_each(|(name, why)| unavailable(name, why, &topics.brokers, report));
    let missing = refused(&connection, sorted.missing, &topics.brokers, report).await?;
    let progress = topics.progress();
    if !cluster.topics.contains_key(&progress) && !missing.contains(&progress) {
        // What it holds is not told.
        return Ok(None);
    }
    let mut published = newest(&connection, &progress, missing.contains(&progress), report).await?;
    let mut lost = if captures { held::lost(config, &connection, &cluster, &published).await? } else { None };
    if matches!(lost, Some(Lost::Progress { .. })) && !missing.contains(&progress) {
        // A capture that began meanwhile has its progress by now.
        published = newest(&connection, &progress, false, report).await?;
        lost = lost.filter(|_| published == Some(None));
    }
    if let Some(lost) = &lost {
        held::judge(config, lost, report);
    }
    let without_progress = matches!(lost, Some(Lost::Progress { .. }));
    let mut new = held::never_written(config, missing, &published);
    new.retain(|name| !without_progress || *name != progress);
    if !new.is_empty() {
        report.ok("topics", format!("{} will be made at the start", new.join(", ")));
    }
    Ok(published)
}

/// Compares a topic with what it should be.
async fn look_at_topic(
    admin: &Admin,
    spec: &TopicSpec,
    cluster: &Cluster,
    address: &str,
    report: &mut Report,
) -> Result<(), Error> {
    let differences = admin.differences(std::slice::from_ref(spec), ANSWER).await?;
    let subject = format!("topic {}", spec.name);
    if differences.is_empty() {
        report.ok(&subject, format!("{} partitions, settings as they should be", spec.partitions));
    }
    for difference in differences {
        report.fail(&subject, difference.to_string(), difference.remedy(address));
    }
    let settings = admin.settings(&spec.name, ANSWER).await?;
    if let Some(copies) = cluster.copies.get(&spec.name) {
        brokers::judge_copies(&spec.name, *copies, &settings, (cluster.brokers.len(), address), report);
    }
    Ok(())
}

fn unavailable(name: &str, why: &Unavailable, address: &str, report: &mut Report) {
    let remedy = match why {
        Unavailable::Leaderless(_) => format!(
            "start the broker that has it; kafka-topics.sh --bootstrap-server {address} --describe --topic {name} shows which"
        ),
        Unavailable::Refused(_) => may_describe(name, address),
    };
    report.fail(format!("topic {name}"), why.to_string(), remedy);
}

fn may_describe(name: &str, address: &str) -> String {
    format!(
        "kafka-acls.sh --bootstrap-server {address} --add --allow-principal User:… --operation Describe --topic {name}"
    )
}

/// Reports those of these topics that the client's user may not see: brokers leave them out of the list of all. Returns the rest.
async fn refused(
    connection: &Connection,
    missing: Vec<String>,
    address: &str,
    report: &mut Report,
) -> Result<Vec<String>, Error> {
    // A reader, since it makes no topic by asking for it.
    let reader = Consumer::new(connection, ConsumerSettings::new("highwater.check", Isolation::ReadCommitted))?;
    let mut left = Vec::new();
    for name in missing {
        match reader.partitions(&name, ANSWER).await {
            Err(error @ Error::Refused { .. }) => {
                report.fail(format!("topic {name}"), error.to_string(), may_describe(&name, address));
            }
            answer => {
                answer?;
                left.push(name);
            }
        }
    }
    Ok(left)
}

/// Reads the newest progress.
async fn newest(connection: &Connection, topic: &str, missing: bool, report: &mut Report) -> Result<Published, Error> {
    if missing {
        return Ok(Some(None));
    }
    let newest = last_record(connection, topic, 0, Isolation::ReadCommitted, ANSWER).await?;
    Ok(read_progress(topic, newest.and_then(|record| record.value).as_deref(), report))
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

/// The topics that are wanted, by what the brokers say of them.
struct Sorted {
    whole: Vec<TopicSpec>,
    unavailable: Vec<(String, Unavailable)>,
    missing: Vec<String>,
}

impl Sorted {
    fn of(specs: Vec<TopicSpec>, cluster: &Cluster) -> Self {
        let mut sorted = Self { whole: Vec::new(), unavailable: Vec::new(), missing: Vec::new() };
        for spec in specs {
            match cluster.unavailable.get(&spec.name) {
                Some(why) => sorted.unavailable.push((spec.name, why.clone())),
                None if cluster.topics.contains_key(&spec.name) => sorted.whole.push(spec),
                None => sorted.missing.push(spec.name),
            }
        }
        sorted
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::operate::check::Grade;

    #[test]
    fn a_topic_without_a_leader_is_named_and_not_made_at_the_start() {
        let spec = |name: &str| TopicSpec { name: name.into(), partitions: 1, replication: 1, settings: Vec::new() };
        let away = ("catalog.progress".to_owned(), Unavailable::Leaderless(vec![0]));
        let cluster = Cluster {
            brokers: Vec::new(),
            topics: BTreeMap::from([("catalog.stock".to_owned(), 1)]),
            unavailable: BTreeMap::from([away.clone()]),
            copies: BTreeMap::new(),
        };
        let wanted = ["catalog.stock", "catalog.progress", "catalog.history"].map(spec);
        let sorted = Sorted::of(wanted.to_vec(), &cluster);
        assert_eq!(sorted.whole, [spec("catalog.stock")]);
        assert_eq!((sorted.unavailable, sorted.missing), (vec![away.clone()], vec!["catalog.history".to_owned()]));
        let mut report = Report::default();
        unavailable(&away.0, &away.1, "h:1", &mut report);
        let found = &report.findings()[0];
        assert_eq!((found.grade, found.text.as_str()), (Grade::Fail, "has no leader for partition 0"));
        assert!(found.remedy.as_ref().unwrap().contains("start the broker that has it"));
    }
}
