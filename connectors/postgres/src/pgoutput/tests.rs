//! The decoder against an encoder written from the manual, and against bytes that nobody wrote.

use super::*;
use proptest::prelude::*;

/// One message in a form that owns its parts, as the server would have them.
#[derive(Clone, Debug)]
enum Sent {
    Begin(u64, i64, u32),
    Commit(u8, u64, u64, i64),
    Origin(u64, String),
    Relation(u32, String, String, u8, Vec<(bool, String, u32, i32)>),
    Type(u32, String, String),
    Insert(u32, Vec<Value>),
    Update(u32, Option<(u8, Vec<Value>)>, Vec<Value>),
    Delete(u32, u8, Vec<Value>),
    Truncate(u8, Vec<u32>),
    Logical(bool, u64, Vec<u8>, Vec<u8>),
    StreamStart(u32, bool),
    StreamStop,
    StreamCommit(u32, u64, u64, i64),
    StreamAbort(u32, u32, Option<(u64, i64)>),
}

#[derive(Clone, Debug)]
enum Value {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text);
    out.push(0);
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_be_bytes()
}

fn put_row(out: &mut Vec<u8>, row: &[Value]) {
    out.extend(u16::try_from(row.len()).unwrap().to_be_bytes());
    for value in row {
        let (kind, bytes) = match value {
            Value::Null => (b'n', None),
            Value::Unchanged => (b'u', None),
            Value::Text(bytes) => (b't', Some(bytes)),
            Value::Binary(bytes) => (b'b', Some(bytes)),
        };
        out.push(kind);
        if let Some(bytes) = bytes {
            out.extend(length(bytes));
            out.extend(bytes);
        }
    }
}

#[expect(clippy::too_many_lines, reason = "one arm per message, in the manual's order")]
fn encode(sent: &Sent, xid: Option<u32>) -> Vec<u8> {
    let mut out = Vec::new();
    let head = |out: &mut Vec<u8>, kind: u8| {
        out.push(kind);
        out.extend(xid.iter().flat_map(|xid| xid.to_be_bytes()));
    };
    match sent {
        Sent::Begin(lsn, time, xid) => {
            out.push(b'B');
            out.extend(lsn.to_be_bytes());
            out.extend(time.to_be_bytes());
            out.extend(xid.to_be_bytes());
        }
        Sent::Commit(flags, lsn, end, time) => {
            out.extend([b'C', *flags]);
            out.extend(lsn.to_be_bytes());
            out.extend(end.to_be_bytes());
            out.extend(time.to_be_bytes());
        }
        Sent::Origin(lsn, name) => {
            out.push(b'O');
            out.extend(lsn.to_be_bytes());
            put_string(&mut out, name.as_bytes());
        }
        Sent::Relation(oid, namespace, name, identity, columns) => {
            head(&mut out, b'R');
            out.extend(oid.to_be_bytes());
            put_string(&mut out, namespace.as_bytes());
            put_string(&mut out, name.as_bytes());
            out.push(*identity);
            out.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
            for (key, name, oid, typmod) in columns {
                out.push(u8::from(*key));
                put_string(&mut out, name.as_bytes());
                out.extend(oid.to_be_bytes());
                out.extend(typmod.to_be_bytes());
            }
        }
        Sent::Type(oid, namespace, name) => {
            head(&mut out, b'Y');
            out.extend(oid.to_be_bytes());
            put_string(&mut out, namespace.as_bytes());
            put_string(&mut out, name.as_bytes());
        }
        Sent::Insert(relation, new) => {
            head(&mut out, b'I');
            out.extend(relation.to_be_bytes());
            out.push(b'N');
            put_row(&mut out, new);
        }
        Sent::Update(relation, old, new) => {
            head(&mut out, b'U');
            out.extend(relation.to_be_bytes());
            if let Some((kind, row)) = old {
                out.push(*kind);
                put_row(&mut out, row);
            }
            out.push(b'N');
            put_row(&mut out, new);
        }
        Sent::Delete(relation, kind, row) => {
            head(&mut out, b'D');
            out.extend(relation.to_be_bytes());
            out.push(*kind);
            put_row(&mut out, row);
        }
        Sent::Truncate(options, relations) => {
            head(&mut out, b'T');
            out.extend(u32::try_from(relations.len()).unwrap().to_be_bytes());
            out.push(*options);
            out.extend(relations.iter().flat_map(|oid| oid.to_be_bytes()));
        }
        Sent::Logical(transactional, lsn, prefix, content) => {
            head(&mut out, b'M');
            out.push(u8::from(*transactional));
            out.extend(lsn.to_be_bytes());
            put_string(&mut out, prefix);
            out.extend(length(content));
            out.extend(content);
        }
        Sent::StreamStart(xid, first) => {
            out.push(b'S');
            out.extend(xid.to_be_bytes());
            out.push(u8::from(*first));
        }
        Sent::StreamStop => out.push(b'E'),
        Sent::StreamCommit(xid, lsn, end, time) => {
            out.push(b'c');
            out.extend(xid.to_be_bytes());
            out.push(0);
            out.extend(lsn.to_be_bytes());
            out.extend(end.to_be_bytes());
            out.extend(time.to_be_bytes());
        }
        Sent::StreamAbort(xid, subxid, at) => {
            out.push(b'A');
            out.extend(xid.to_be_bytes());
            out.extend(subxid.to_be_bytes());
            if let Some((lsn, time)) = at {
                out.extend(lsn.to_be_bytes());
                out.extend(time.to_be_bytes());
            }
        }
    }
    out
}

fn own_row(tuple: TupleData<'_>) -> Vec<Value> {
    let values = tuple.columns().map(|column| match column {
        Column::Null => Value::Null,
        Column::Unchanged => Value::Unchanged,
        Column::Text(bytes) => Value::Text(bytes.to_vec()),
        Column::Binary(bytes) => Value::Binary(bytes.to_vec()),
    });
    let values: Vec<Value> = values.collect();
    assert_eq!(values.len(), tuple.len(), "a row's length is that of its columns");
    values
}

fn own_old(old: OldRow<'_>) -> Option<(u8, Vec<Value>)> {
    match old {
        OldRow::None => None,
        OldRow::Key(row) => Some((b'K', own_row(row))),
        OldRow::Full(row) => Some((b'O', own_row(row))),
    }
}

/// Turns what was decoded back into what was sent, and returns the transaction it names.
fn own(message: Message<'_>) -> (Sent, Option<u32>) {
    match message {
        Message::Begin(m) => (Sent::Begin(m.final_lsn.0, m.commit_time.0, m.xid), None),
        Message::Commit(m) => (Sent::Commit(m.flags, m.commit_lsn.0, m.end_lsn.0, m.commit_time.0), None),
        Message::Origin(m) => (Sent::Origin(m.commit_lsn.0, m.name.to_owned()), None),
        Message::Relation(m) => {
            let identity = match m.identity {
                ReplicaIdentity::Default => b'd',
                ReplicaIdentity::Nothing => b'n',
                ReplicaIdentity::Full => b'f',
                ReplicaIdentity::Index => b'i',
            };
            let columns = m.columns.into_iter().map(|c| (c.key, c.name.to_owned(), c.type_oid, c.typmod));
            (Sent::Relation(m.oid, m.namespace.to_owned(), m.name.to_owned(), identity, columns.collect()), m.xid)
        }
        Message::Type(m) => (Sent::Type(m.oid, m.namespace.to_owned(), m.name.to_owned()), m.xid),
        Message::Insert(m) => (Sent::Insert(m.relation, own_row(m.new)), m.xid),
        Message::Update(m) => (Sent::Update(m.relation, own_old(m.old), own_row(m.new)), m.xid),
        Message::Delete(m) => {
            let (kind, row) = own_old(m.old).expect("a delete has an old row");
            (Sent::Delete(m.relation, kind, row), m.xid)
        }
        Message::Truncate(m) => {
            let options = u8::from(m.cascade) | u8::from(m.restart_identity) << 1;
            (Sent::Truncate(options, m.relations.iter().collect()), m.xid)
        }
        Message::Logical(m) => (Sent::Logical(m.transactional, m.lsn.0, m.prefix.to_vec(), m.content.to_vec()), m.xid),
        Message::StreamStart(m) => (Sent::StreamStart(m.xid, m.first), None),
        Message::StreamStop => (Sent::StreamStop, None),
        Message::StreamCommit(m) => (Sent::StreamCommit(m.xid, m.commit_lsn.0, m.end_lsn.0, m.commit_time.0), None),
        Message::StreamAbort(m) => (Sent::StreamAbort(m.xid, m.subxid, m.at.map(|(lsn, time)| (lsn.0, time.0))), None),
    }
}

fn names() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn rows() -> impl Strategy<Value = Vec<Value>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        bytes().prop_map(Value::Text),
        bytes().prop_map(Value::Binary)
    ];
    prop::collection::vec(value, 0..12)
}

fn old_rows() -> impl Strategy<Value = (u8, Vec<Value>)> {
    (prop_oneof![Just(b'K'), Just(b'O')], rows())
}

fn identities() -> impl Strategy<Value = u8> {
    prop_oneof![Just(b'd'), Just(b'n'), Just(b'f'), Just(b'i')]
}

fn messages() -> impl Strategy<Value = Sent> {
    let columns = prop::collection::vec((any::<bool>(), names(), any::<u32>(), any::<i32>()), 0..8);
    let prefix = prop::collection::vec(1_u8.., 0..12);
    prop_oneof![
        any::<(u64, i64, u32)>().prop_map(|(a, b, c)| Sent::Begin(a, b, c)),
        any::<(u8, u64, u64, i64)>().prop_map(|(a, b, c, d)| Sent::Commit(a, b, c, d)),
        (any::<u64>(), names()).prop_map(|(a, b)| Sent::Origin(a, b)),
        (any::<u32>(), names(), names(), identities(), columns)
            .prop_map(|(a, b, c, d, e)| Sent::Relation(a, b, c, d, e)),
        (any::<u32>(), names(), names()).prop_map(|(a, b, c)| Sent::Type(a, b, c)),
        (any::<u32>(), rows()).prop_map(|(a, b)| Sent::Insert(a, b)),
        (any::<u32>(), prop::option::of(old_rows()), rows()).prop_map(|(a, b, c)| Sent::Update(a, b, c)),
        (any::<u32>(), old_rows()).prop_map(|(a, (b, c))| Sent::Delete(a, b, c)),
        (0_u8..4, any::<Vec<u32>>()).prop_map(|(a, b)| Sent::Truncate(a, b)),
        (any::<bool>(), any::<u64>(), prefix, any::<Vec<u8>>()).prop_map(|(a, b, c, d)| Sent::Logical(a, b, c, d)),
        any::<(u32, bool)>().prop_map(|(a, b)| Sent::StreamStart(a, b)),
        Just(Sent::StreamStop),
        any::<(u32, u64, u64, i64)>().prop_map(|(a, b, c, d)| Sent::StreamCommit(a, b, c, d)),
        any::<(u32, u32, Option<(u64, i64)>)>().prop_map(|(a, b, c)| Sent::StreamAbort(a, b, c)),
    ]
}

/// Walks all that a message holds, as a caller would.
fn walk(message: Message<'_>) {
    drop(own(message));
}

proptest! {
    #[test]
    fn what_is_sent_is_decoded(sent in messages(), xid: Option<u32>) {
        let bytes = encode(&sent, xid);
        let (back, named) = own(decode(&bytes, xid.is_some()).unwrap());
        // Compared as bytes: one form for all kinds, and no message is lost in comparing only what was decoded.
        prop_assert_eq!(encode(&back, xid), bytes);
        let carries_xid = matches!(
            sent,
            Sent::Relation(..) | Sent::Type(..) | Sent::Insert(..) | Sent::Update(..) | Sent::Delete(..)
                | Sent::Truncate(..) | Sent::Logical(..)
        );
        prop_assert_eq!(named, if carries_xid { xid } else { None });
    }

    #[test]
    fn a_message_that_is_cut_or_too_long_is_refused(sent in messages(), xid: Option<u32>, at: prop::sample::Index, extra: u8) {
        let mut bytes = encode(&sent, xid);
        let cut = &bytes[..at.index(bytes.len())];
        let whole_without_time = matches!(sent, Sent::StreamAbort(_, _, Some(_))) && cut.len() == 9;
        prop_assert!(decode(cut, xid.is_some()).is_err() || whole_without_time);
        bytes.push(extra);
        prop_assert!(decode(&bytes, xid.is_some()).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, in_stream: bool) {
        if let Ok(message) = decode(&bytes, in_stream) {
            walk(message);
        }
    }

    #[test]
    fn no_damage_to_a_message_makes_it_panic(sent in messages(), xid: Option<u32>, damage: Vec<(prop::sample::Index, u8)>) {
        let mut bytes = encode(&sent, xid);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(message) = decode(&bytes, xid.is_some()) {
            walk(message);
        }
    }
}

#[test]
fn every_refusal_names_its_reason() {
    let refusal = |bytes: &[u8], in_stream| decode(bytes, in_stream).unwrap_err();
    assert_eq!(refusal(b"", false), DecodeError::Empty);
    assert_eq!(refusal(b"b", false), DecodeError::UnknownKind(b'b'));
    assert_eq!(refusal(b"I\0\0", false), DecodeError::Short('I'));
    assert_eq!(refusal(b"E\0", false), DecodeError::Trailing { kind: 'E', count: 1 });
    assert_eq!(refusal(b"Y\0\0\0\x01\xFF\0x\0", false), DecodeError::NotUtf8('Y'));
    let field = DecodeError::Unexpected { kind: 'I', field: "kind of new row", value: b'K' };
    assert_eq!(refusal(b"I\0\0\0\x01K\0\0", false), field);
    let field = DecodeError::Unexpected { kind: 'D', field: "kind of old row", value: b'N' };
    assert_eq!(refusal(b"D\0\0\0\x01N\0\0", false), field);
}

#[test]
fn a_count_beyond_the_message_costs_nothing() {
    assert_eq!(decode(b"T\xFF\xFF\xFF\xFF\0\0\0\0\x01", false), Err(DecodeError::Short('T')));
    assert_eq!(decode(b"I\0\0\0\x01N\xFF\xFFn", false), Err(DecodeError::Short('I')));
    assert_eq!(decode(b"I\0\0\0\x01N\0\x01t\xFF\xFF\xFF\xFFx", false), Err(DecodeError::Short('I')));
}
