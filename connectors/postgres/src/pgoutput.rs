//! Decoder of pgoutput, the logical replication protocol's messages, versions 1 to 4.
//!
//! Source: `PostgreSQL` manual, chapter "Logical Replication Message Formats". Everything borrows from the payload; a
//! message is walked once when it is decoded, so that iterating its columns afterwards cannot fail. No bytes make it
//! panic, and nothing is allocated, whatever a count claims.
//!
//! Two-phase messages (`b P K r p`) come only from slots created for them, which this crate never does; they are an
//! unknown kind here.

mod message;
#[cfg(test)]
mod tests;
mod tuple;

pub use message::{
    Begin, Commit, Delete, Insert, LogicalMessage, Message, OldRow, Origin, Relation, ReplicaIdentity, StreamAbort,
    StreamCommit, StreamStart, Truncate, Type, Update,
};
pub use tuple::{Column, ColumnIter, Columns, Oids, RelationColumn, RelationColumnIter, TupleData};

use crate::cursor::{Cursor, Short};
use crate::{Lsn, Timestamp};

/// Bytes that are no pgoutput message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There was nothing.
    #[error("an empty pgoutput message")]
    Empty,
    /// A kind that the protocol up to version 4, without two-phase commit, does not have.
    #[error("unknown kind of pgoutput message, byte {0:#04x}")]
    UnknownKind(u8),
    /// The message ends before what it announces.
    #[error("pgoutput message `{0}` is cut short")]
    Short(char),
    /// Bytes are left over: most often an `in_stream` that does not fit.
    #[error("pgoutput message `{kind}` has {count} bytes too many")]
    Trailing {
        /// The message's first byte.
        kind: char,
        /// How many bytes are left.
        count: usize,
    },
    /// A field has a value that the protocol does not have.
    #[error("pgoutput message `{kind}` has {value:#04x} as {field}")]
    Unexpected {
        /// The message's first byte.
        kind: char,
        /// What the value should have said.
        field: &'static str,
        /// What stands there.
        value: u8,
    },
    /// A name that is not UTF-8: the database's encoding is `SQL_ASCII`, which cannot be converted.
    #[error("pgoutput message `{0}` has a name that is not UTF-8; the database's encoding is most likely SQL_ASCII")]
    NotUtf8(char),
}

/// Why a part of a message could not be read; the message's kind is added by [`decode`].
enum Fault {
    Short,
    NotUtf8,
    Unexpected(&'static str, u8),
}

impl From<Short> for Fault {
    fn from(Short: Short) -> Self {
        Self::Short
    }
}

impl Fault {
    fn of(self, kind: char) -> DecodeError {
        match self {
            Self::Short => DecodeError::Short(kind),
            Self::NotUtf8 => DecodeError::NotUtf8(kind),
            Self::Unexpected(field, value) => DecodeError::Unexpected { kind, field, value },
        }
    }
}

/// Decodes the payload of one `XLogData` frame.
///
/// `in_stream` says whether it stands between a [`Message::StreamStart`] and its [`Message::StreamStop`]: messages there
/// carry a transaction id, and nothing in their own bytes tells so.
///
/// # Errors
///
/// Bytes that are not exactly one message of the protocol.
pub fn decode(payload: &[u8], in_stream: bool) -> Result<Message<'_>, DecodeError> {
    let (kind, rest) = payload.split_first().ok_or(DecodeError::Empty)?;
    let mut cursor = Cursor::new(rest);
    let shown = char::from(*kind);
    let message =
        body(*kind, &mut cursor, in_stream).map_err(|fault| fault.of(shown))?.ok_or(DecodeError::UnknownKind(*kind))?;
    match cursor.rest().len() {
        0 => Ok(message),
        count => Err(DecodeError::Trailing { kind: shown, count }),
    }
}

/// Reads what follows the first byte, in the order of kinds of a busy stream.
fn body<'a>(kind: u8, c: &mut Cursor<'a>, in_stream: bool) -> Result<Option<Message<'a>>, Fault> {
    let xid = |c: &mut Cursor<'a>| in_stream.then(|| c.u32()).transpose();
    Ok(Some(match kind {
        b'I' => Message::Insert(Insert { xid: xid(c)?, relation: c.u32()?, new: new_row(c)? }),
        b'U' => {
            let (xid, relation) = (xid(c)?, c.u32()?);
            let old = old_row(c)?;
            Message::Update(Update { xid, relation, old, new: new_row(c)? })
        }
        b'D' => {
            let (xid, relation) = (xid(c)?, c.u32()?);
            match old_row(c)? {
                OldRow::None => return Err(Fault::Unexpected("kind of old row", c.u8()?)),
                old => Message::Delete(Delete { xid, relation, old }),
            }
        }
        b'B' => Message::Begin(Begin { final_lsn: lsn(c)?, commit_time: time(c)?, xid: c.u32()? }),
        b'C' => {
            Message::Commit(Commit { flags: c.u8()?, commit_lsn: lsn(c)?, end_lsn: lsn(c)?, commit_time: time(c)? })
        }
        b'R' => Message::Relation(Relation {
            xid: xid(c)?,
            oid: c.u32()?,
            namespace: name(c)?,
            name: name(c)?,
            identity: identity(c)?,
            columns: Columns::read(c)?,
        }),
        b'Y' => Message::Type(Type { xid: xid(c)?, oid: c.u32()?, namespace: name(c)?, name: name(c)? }),
        b'M' => logical_message(xid(c)?, c)?,
        b'T' => {
            let (xid, count, options) = (xid(c)?, c.u32()?, c.u8()?);
            let relations = Oids::read(c, count)?;
            Message::Truncate(Truncate {
                xid,
                cascade: options & 1 != 0,
                restart_identity: options & 2 != 0,
                relations,
            })
        }
        b'O' => Message::Origin(Origin { commit_lsn: lsn(c)?, name: name(c)? }),
        b'S' => Message::StreamStart(StreamStart { xid: c.u32()?, first: c.u8()? != 0 }),
        b'E' => Message::StreamStop,
        b'c' => Message::StreamCommit(StreamCommit {
            xid: c.u32()?,
            flags: c.u8()?,
            commit_lsn: lsn(c)?,
            end_lsn: lsn(c)?,
            commit_time: time(c)?,
        }),
        b'A' => {
            let (xid, subxid) = (c.u32()?, c.u32()?);
            let at = if c.is_empty() { None } else { Some((lsn(c)?, time(c)?)) };
            Message::StreamAbort(StreamAbort { xid, subxid, at })
        }
        _ => return Ok(None),
    }))
}

fn lsn(c: &mut Cursor<'_>) -> Result<Lsn, Short> {
    c.u64().map(Lsn)
}

fn time(c: &mut Cursor<'_>) -> Result<Timestamp, Short> {
    c.i64().map(Timestamp)
}

fn name<'a>(c: &mut Cursor<'a>) -> Result<&'a str, Fault> {
    std::str::from_utf8(c.string()?).map_err(|_| Fault::NotUtf8)
}

fn identity(c: &mut Cursor<'_>) -> Result<ReplicaIdentity, Fault> {
    Ok(match c.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        other => return Err(Fault::Unexpected("replica identity", other)),
    })
}

fn new_row<'a>(c: &mut Cursor<'a>) -> Result<TupleData<'a>, Fault> {
    match c.u8()? {
        b'N' => TupleData::read(c),
        other => Err(Fault::Unexpected("kind of new row", other)),
    }
}

/// Reads an old row if one stands here, and nothing otherwise.
fn old_row<'a>(c: &mut Cursor<'a>) -> Result<OldRow<'a>, Fault> {
    let mut ahead = *c;
    let old = match ahead.u8()? {
        b'K' => OldRow::Key(TupleData::read(&mut ahead)?),
        b'O' => OldRow::Full(TupleData::read(&mut ahead)?),
        _ => return Ok(OldRow::None),
    };
    *c = ahead;
    Ok(old)
}

fn logical_message<'a>(xid: Option<u32>, c: &mut Cursor<'a>) -> Result<Message<'a>, Fault> {
    let (flags, lsn, prefix) = (c.u8()?, lsn(c)?, c.string()?);
    let length = usize::try_from(c.u32()?).map_err(|_| Fault::Short)?;
    let content = c.bytes(length)?;
    Ok(Message::Logical(LogicalMessage { xid, transactional: flags & 1 != 0, lsn, prefix, content }))
}
