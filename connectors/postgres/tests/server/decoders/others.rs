//! Two other decoders of pgoutput, and what they do not tell.

use elefant_client::replication::{self, PgOutputMessage, TupleColumn, parse_pgoutput_message};
use pg_walstream::{ColumnData, LogicalReplicationMessage as Wal, LogicalReplicationParser, TupleData};

use super::said::{Decoded, Described, Old, Row, Said, Value};

/// `pg_walstream`'s parser, which knows by itself whether it is inside a stream.
pub(crate) struct Walstream(LogicalReplicationParser);

impl Walstream {
    pub(crate) fn new(protocol_version: u32) -> Self {
        Self(LogicalReplicationParser::with_protocol_version(protocol_version))
    }

    pub(crate) fn decode(&mut self, payload: &[u8]) -> Decoded {
        let message = self.0.parse_wal_message(payload).unwrap_or_else(|error| panic!("pg_walstream: {error}"));
        let said = walstream(message.message);
        // It names the transaction of the stream on messages that carry none in their bytes, too.
        let carries = matches!(
            said,
            Said::Relation { .. }
                | Said::Type { .. }
                | Said::Insert { .. }
                | Said::Update { .. }
                | Said::Delete { .. }
                | Said::Truncate { .. }
                | Said::Logical { .. }
        );
        Decoded { xid: message.xid.filter(|_| carries), said }
    }
}

fn walstream_row(tuple: &TupleData) -> Row {
    let value = |column: &ColumnData| match column.data_type {
        b'n' => Value::Null,
        b'u' => Value::Unchanged,
        b't' => Value::Text(column.as_bytes().to_vec()),
        b'b' => Value::Binary(column.as_bytes().to_vec()),
        other => panic!("pg_walstream made a column of the kind {other}"),
    };
    (0..tuple.column_count()).map(|at| value(tuple.get_column(at).expect("a column"))).collect()
}

fn walstream(message: Wal) -> Said {
    match message {
        Wal::Begin { final_lsn, timestamp, xid } => Said::Begin { lsn: final_lsn, time: timestamp, xid },
        Wal::Commit { flags, commit_lsn, end_lsn, timestamp } => {
            Said::Commit { flags, lsn: commit_lsn, end: end_lsn, time: timestamp }
        }
        Wal::Origin { origin_lsn, origin_name } => Said::Origin { lsn: origin_lsn, name: origin_name },
        Wal::Relation { relation_id, namespace, relation_name, replica_identity, columns } => Said::Relation {
            oid: relation_id,
            namespace: namespace.to_string(),
            name: relation_name.to_string(),
            identity: replica_identity,
            columns: (columns.iter())
                .map(|c| Described {
                    key: c.is_key(),
                    name: c.name.to_string(),
                    type_oid: c.type_id,
                    typmod: c.type_modifier,
                })
                .collect(),
        },
        Wal::Type { type_id, namespace, type_name } => Said::Type { oid: type_id, namespace, name: type_name },
        Wal::Insert { relation_id, tuple } => Said::Insert { relation: relation_id, new: walstream_row(&tuple) },
        Wal::Update { relation_id, old_tuple, new_tuple, key_type } => Said::Update {
            relation: relation_id,
            old: old_tuple.map(|tuple| Old { kind: key_type, row: walstream_row(&tuple) }),
            new: walstream_row(&new_tuple),
        },
        Wal::Delete { relation_id, old_tuple, key_type } => {
            Said::Delete { relation: relation_id, old: Old { kind: Some(key_type), row: walstream_row(&old_tuple) } }
        }
        Wal::Truncate { relation_ids, flags } => {
            Said::Truncate { cascade: flags & 1 != 0, restart: flags & 2 != 0, relations: relation_ids }
        }
        Wal::Message { flags, lsn, prefix, content } => {
            Said::Logical { transactional: flags & 1 != 0, lsn, prefix: prefix.into_bytes(), content: content.to_vec() }
        }
        Wal::StreamStart { xid, first_segment } => Said::StreamStart { xid, first: first_segment },
        Wal::StreamStop => Said::StreamStop,
        Wal::StreamCommit { xid, flags, commit_lsn, end_lsn, timestamp } => {
            Said::StreamCommit { xid, flags, lsn: commit_lsn, end: end_lsn, time: timestamp }
        }
        Wal::StreamAbort { xid, subtransaction_xid, abort_lsn, abort_timestamp } => {
            Said::StreamAbort { xid, subxid: subtransaction_xid, at: abort_lsn.zip(abort_timestamp) }
        }
        other => panic!("pg_walstream took a message for {other:?}"),
    }
}

/// Decodes with elefant-client, which does not know that messages inside a stream begin with a transaction id: it is cut
/// out. So what comes back has no `xid`.
pub(crate) fn elefant(payload: &[u8], in_stream: bool) -> Said {
    let mut bytes = payload.to_vec();
    if in_stream && b"RYIUDTM".contains(&bytes[0]) {
        bytes.drain(1..5);
    }
    let message = parse_pgoutput_message(&bytes).unwrap_or_else(|error| panic!("elefant-client: {error:?}"));
    from_elefant(message)
}

/// Takes away what elefant-client does not tell: which kind an old row is of (it passes over the byte), and where a
/// streamed transaction was rolled back (it stops reading before that).
pub(crate) fn as_elefant_tells(mut said: Said) -> Said {
    match &mut said {
        Said::Update { old: Some(old), .. } | Said::Delete { old, .. } => old.kind = None,
        Said::StreamAbort { at, .. } => *at = None,
        _ => {}
    }
    said
}

fn elefant_row(tuple: replication::TupleData<'_>) -> Row {
    let value = |column| match column {
        TupleColumn::Null => Value::Null,
        TupleColumn::Unchanged => Value::Unchanged,
        TupleColumn::Text(text) => Value::Text(text.into_owned().into_bytes()),
        TupleColumn::Binary(bytes) => Value::Binary(bytes.to_vec()),
    };
    tuple.columns.into_iter().map(value).collect()
}

fn from_elefant(message: PgOutputMessage<'_>) -> Said {
    let old = |tuple| Old { kind: None, row: elefant_row(tuple) };
    match message {
        PgOutputMessage::Begin(m) => Said::Begin { lsn: m.final_lsn.0, time: m.commit_timestamp, xid: m.xid },
        PgOutputMessage::Commit(m) => {
            Said::Commit { flags: m.flags, lsn: m.commit_lsn.0, end: m.end_lsn.0, time: m.commit_timestamp }
        }
        PgOutputMessage::Origin(m) => Said::Origin { lsn: m.origin_lsn.0, name: m.origin_name.into_owned() },
        PgOutputMessage::Relation(m) => Said::Relation {
            oid: m.relation_id,
            namespace: m.namespace.into_owned(),
            name: m.name.into_owned(),
            identity: m.replica_identity,
            columns: (m.columns.into_iter())
                .map(|c| Described {
                    key: c.flags & 1 != 0,
                    name: c.name.into_owned(),
                    type_oid: c.type_oid,
                    typmod: c.type_modifier,
                })
                .collect(),
        },
        PgOutputMessage::Type(m) => {
            Said::Type { oid: m.type_oid, namespace: m.namespace.into_owned(), name: m.name.into_owned() }
        }
        PgOutputMessage::Insert(m) => Said::Insert { relation: m.relation_id, new: elefant_row(m.tuple) },
        PgOutputMessage::Update(m) => {
            Said::Update { relation: m.relation_id, old: m.old_tuple.map(old), new: elefant_row(m.new_tuple) }
        }
        PgOutputMessage::Delete(m) => Said::Delete { relation: m.relation_id, old: old(m.old_tuple) },
        PgOutputMessage::Truncate(m) => {
            let (cascade, restart) = (m.option_bits & 1 != 0, m.option_bits & 2 != 0);
            Said::Truncate { cascade, restart, relations: m.relation_ids }
        }
        PgOutputMessage::LogicalDecodingMessage(m) => {
            let (prefix, content) = (m.prefix.into_owned().into_bytes(), m.content.to_vec());
            Said::Logical { transactional: m.transactional, lsn: m.lsn.0, prefix, content }
        }
        PgOutputMessage::StreamStart(m) => Said::StreamStart { xid: m.xid, first: m.first_segment },
        PgOutputMessage::StreamStop => Said::StreamStop,
        PgOutputMessage::StreamCommit(m) => {
            let (lsn, end, time) = (m.commit_lsn.0, m.end_lsn.0, m.commit_timestamp);
            Said::StreamCommit { xid: m.xid, flags: m.flags, lsn, end, time }
        }
        PgOutputMessage::StreamAbort(m) => Said::StreamAbort { xid: m.xid, subxid: m.sub_xid, at: None },
        other @ PgOutputMessage::Unsupported { .. } => panic!("elefant-client does not know {other:?}"),
    }
}
