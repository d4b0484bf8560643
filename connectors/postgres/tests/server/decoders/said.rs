//! What a message says, in a form that no decoder owns, so that decoders can be compared field by field.

use highwater_postgres::pgoutput::{Column, Message, OldRow, ReplicaIdentity, TupleData};

/// A message and, inside a stream, the (sub)transaction that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) xid: Option<u32>,
    pub(crate) said: Said,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Begin { lsn: u64, time: i64, xid: u32 },
    Commit { flags: u8, lsn: u64, end: u64, time: i64 },
    Origin { lsn: u64, name: String },
    Relation { oid: u32, namespace: String, name: String, identity: u8, columns: Vec<Described> },
    Type { oid: u32, namespace: String, name: String },
    Insert { relation: u32, new: Row },
    Update { relation: u32, old: Option<Old>, new: Row },
    Delete { relation: u32, old: Old },
    Truncate { cascade: bool, restart: bool, relations: Vec<u32> },
    Logical { transactional: bool, lsn: u64, prefix: Vec<u8>, content: Vec<u8> },
    StreamStart { xid: u32, first: bool },
    StreamStop,
    StreamCommit { xid: u32, flags: u8, lsn: u64, end: u64, time: i64 },
    StreamAbort { xid: u32, subxid: u32, at: Option<(u64, i64)> },
}

/// A column of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) key: bool,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) typmod: i32,
}

/// An old row; `kind` is `K` or `O`, or nothing where a decoder does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Old {
    pub(crate) kind: Option<char>,
    pub(crate) row: Row,
}

pub(crate) type Row = Vec<Value>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

fn row(tuple: TupleData<'_>) -> Row {
    let value = |column| match column {
        Column::Null => Value::Null,
        Column::Unchanged => Value::Unchanged,
        Column::Text(bytes) => Value::Text(bytes.to_vec()),
        Column::Binary(bytes) => Value::Binary(bytes.to_vec()),
    };
    tuple.columns().map(value).collect()
}

fn old(old: OldRow<'_>) -> Option<Old> {
    match old {
        OldRow::None => None,
        OldRow::Key(tuple) => Some(Old { kind: Some('K'), row: row(tuple) }),
        OldRow::Full(tuple) => Some(Old { kind: Some('O'), row: row(tuple) }),
    }
}

fn identity(identity: ReplicaIdentity) -> u8 {
    match identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    }
}

/// Reads what our own decoder says.
pub(crate) fn ours(message: Message<'_>) -> Decoded {
    let (xid, said) = match message {
        Message::Begin(m) => (None, Said::Begin { lsn: m.final_lsn.0, time: m.commit_time.0, xid: m.xid }),
        Message::Commit(m) => {
            (None, Said::Commit { flags: m.flags, lsn: m.commit_lsn.0, end: m.end_lsn.0, time: m.commit_time.0 })
        }
        Message::Origin(m) => (None, Said::Origin { lsn: m.commit_lsn.0, name: m.name.to_owned() }),
        Message::Relation(m) => {
            let described = |c: highwater_postgres::pgoutput::RelationColumn<'_>| Described {
                key: c.key,
                name: c.name.to_owned(),
                type_oid: c.type_oid,
                typmod: c.typmod,
            };
            let columns = m.columns.into_iter().map(described).collect();
            let (namespace, name) = (m.namespace.to_owned(), m.name.to_owned());
            (m.xid, Said::Relation { oid: m.oid, namespace, name, identity: identity(m.identity), columns })
        }
        Message::Type(m) => {
            (m.xid, Said::Type { oid: m.oid, namespace: m.namespace.to_owned(), name: m.name.to_owned() })
        }
        Message::Insert(m) => (m.xid, Said::Insert { relation: m.relation, new: row(m.new) }),
        Message::Update(m) => (m.xid, Said::Update { relation: m.relation, old: old(m.old), new: row(m.new) }),
        Message::Delete(m) => {
            (m.xid, Said::Delete { relation: m.relation, old: old(m.old).expect("a delete has an old row") })
        }
        Message::Truncate(m) => {
            let relations = m.relations.iter().collect();
            (m.xid, Said::Truncate { cascade: m.cascade, restart: m.restart_identity, relations })
        }
        Message::Logical(m) => {
            let (prefix, content) = (m.prefix.to_vec(), m.content.to_vec());
            (m.xid, Said::Logical { transactional: m.transactional, lsn: m.lsn.0, prefix, content })
        }
        Message::StreamStart(m) => (None, Said::StreamStart { xid: m.xid, first: m.first }),
        Message::StreamStop => (None, Said::StreamStop),
        Message::StreamCommit(m) => {
            let (lsn, end, time) = (m.commit_lsn.0, m.end_lsn.0, m.commit_time.0);
            (None, Said::StreamCommit { xid: m.xid, flags: m.flags, lsn, end, time })
        }
        Message::StreamAbort(m) => {
            let at = m.at.map(|(lsn, time)| (lsn.0, time.0));
            (None, Said::StreamAbort { xid: m.xid, subxid: m.subxid, at })
        }
    };
    Decoded { xid, said }
}
