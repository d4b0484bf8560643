//! Records that no attempt can apply, put where an operator finds them, with their original bytes.

use highwater_kafka::{Error, Record, Writer};

/// Headers that say where a dead letter comes from; the record's own headers follow them.
pub const REASON: &str = "reason";
/// Who could not apply it.
pub const WORKER: &str = "worker";
/// Where it stood.
pub const TOPIC: &str = "topic";
/// Where it stood.
pub const PARTITION: &str = "partition";
/// Where it stood.
pub const OFFSET: &str = "offset";
/// Its key there.
pub const KEY: &str = "key";
/// How many of the headers are the letter's own.
pub const OWN_HEADERS: usize = 6;

/// Writes a record to the dead letters. Its key there is `<worker>/<topic>/<partition>/<offset>`, the same at every attempt.
pub(super) async fn write(
    writer: &Writer,
    dead_letters: &str,
    worker: &str,
    record: &Record,
    reason: &str,
) -> Result<(), Error> {
    let (partition, offset) = (record.partition.to_string(), record.offset.to_string());
    let key = format!("{worker}/{}/{partition}/{offset}", record.topic);
    let mut headers: Vec<(&str, &[u8])> = vec![
        (REASON, reason.as_bytes()),
        (WORKER, worker.as_bytes()),
        (TOPIC, record.topic.as_bytes()),
        (PARTITION, partition.as_bytes()),
        (OFFSET, offset.as_bytes()),
        (KEY, &record.key),
    ];
    headers.extend(record.headers.iter().map(|(name, value)| (name.as_str(), value.as_ref())));
    writer.send(dead_letters, 0, key.as_bytes(), record.value.as_deref(), &headers).await
}
