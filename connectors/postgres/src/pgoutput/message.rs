//! The messages of pgoutput, in the manual's terms.

use super::{Columns, Oids, TupleData};
use crate::{Lsn, Timestamp};

/// One message of pgoutput.
///
/// In `xid: Option<u32>` stands the (sub)transaction of a message inside a stream of an in-progress transaction, where
/// several can be open at once; outside, the transaction is that of the last [`Begin`].
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Message<'a> {
    /// A committed transaction starts; its changes follow.
    Begin(Begin),
    /// The transaction that was begun is complete.
    Commit(Commit),
    /// The transaction came here by replication from elsewhere.
    Origin(Origin<'a>),
    /// The shape of a table, before its first change and after each change of shape.
    Relation(Relation<'a>),
    /// A type that is not built in, before the relation that uses it.
    Type(Type<'a>),
    /// A new row.
    Insert(Insert<'a>),
    /// A changed row.
    Update(Update<'a>),
    /// A row that went.
    Delete(Delete<'a>),
    /// Emptied tables.
    Truncate(Truncate<'a>),
    /// What `pg_logical_emit_message` wrote.
    Logical(LogicalMessage<'a>),
    /// A piece of an in-progress transaction starts.
    StreamStart(StreamStart),
    /// The piece ends.
    StreamStop,
    /// A streamed transaction committed: all its pieces count.
    StreamCommit(StreamCommit),
    /// A streamed transaction, or a savepoint of one, was rolled back.
    StreamAbort(StreamAbort),
}

/// Start of a committed transaction.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where the commit record starts; equals [`Commit::commit_lsn`].
    pub final_lsn: Lsn,
    /// The commit's moment.
    pub commit_time: Timestamp,
    /// The top-level transaction's id, its low 32 bits.
    pub xid: u32,
}

/// End of a committed transaction.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Unused by the server so far.
    pub flags: u8,
    /// Where the commit record starts.
    pub commit_lsn: Lsn,
    /// Where it ends: the least LSN whose acknowledgement lets the transaction go.
    pub end_lsn: Lsn,
    /// The commit's moment.
    pub commit_time: Timestamp,
}

/// Where a replicated transaction came from.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Its commit on the server it came from.
    pub commit_lsn: Lsn,
    /// The origin's name.
    pub name: &'a str,
}

/// Which columns an old row carries.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// All columns.
    Full,
    /// Those of a named unique index.
    Index,
}

/// A table's shape at one place of the log.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Relation<'a> {
    /// Set inside a stream.
    pub xid: Option<u32>,
    /// What the changes call the table.
    pub oid: u32,
    /// Its schema; empty for `pg_catalog`.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What its old rows carry.
    pub identity: ReplicaIdentity,
    /// The published columns, in the order of every tuple.
    pub columns: Columns<'a>,
}

/// A type that is not built in.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Type<'a> {
    /// Set inside a stream.
    pub xid: Option<u32>,
    /// What columns call it.
    pub oid: u32,
    /// Its schema; empty for `pg_catalog`.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// A new row.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Insert<'a> {
    /// Set inside a stream.
    pub xid: Option<u32>,
    /// The table's OID.
    pub relation: u32,
    /// The row.
    pub new: TupleData<'a>,
}

/// A changed row.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Update<'a> {
    /// Set inside a stream.
    pub xid: Option<u32>,
    /// The table's OID.
    pub relation: u32,
    /// What stood there before, as far as the replica identity tells.
    pub old: OldRow<'a>,
    /// What stands there now.
    pub new: TupleData<'a>,
}

/// A row that went.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Delete<'a> {
    /// Set inside a stream.
    pub xid: Option<u32>,
    /// The table's OID.
    pub relation: u32,
    /// What stood there; never [`OldRow::None`].
    pub old: OldRow<'a>,
}

/// A row as it was before a change.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum OldRow<'a> {
    /// Not sent: the key did not change, or the table has no replica identity.
    None,
    /// The replica identity's columns; all others are null.
    Key(TupleData<'a>),
    /// The whole row.
    Full(TupleData<'a>),
}

impl<'a> OldRow<'a> {
    /// Returns the columns, if any were sent.
    #[must_use]
    pub fn tuple(self) -> Option<TupleData<'a>> {
        match self {
            Self::None => None,
            Self::Key(tuple) | Self::Full(tuple) => Some(tuple),
        }
    }
}

/// Tables emptied by one TRUNCATE.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Truncate<'a> {
    /// Set inside a stream.
    pub xid: Option<u32>,
    /// `CASCADE` was said; the tables it reached are listed, too.
    pub cascade: bool,
    /// `RESTART IDENTITY` was said.
    pub restart_identity: bool,
    /// The tables' OIDs.
    pub relations: Oids<'a>,
}

/// What `pg_logical_emit_message` wrote.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// Set inside a stream, if the message is transactional.
    pub xid: Option<u32>,
    /// Whether it belongs to its transaction, or stands on its own.
    pub transactional: bool,
    /// Where it stands in the log.
    pub lsn: Lsn,
    /// Whose message it is.
    pub prefix: &'a [u8],
    /// Its bytes.
    pub content: &'a [u8],
}

/// Start of a piece of an in-progress transaction.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct StreamStart {
    /// The top-level transaction's id.
    pub xid: u32,
    /// Whether nothing of it was streamed before.
    pub first: bool,
}

/// Commit of a streamed transaction.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct StreamCommit {
    /// The top-level transaction's id.
    pub xid: u32,
    /// Unused by the server so far.
    pub flags: u8,
    /// Where the commit record starts.
    pub commit_lsn: Lsn,
    /// Where it ends.
    pub end_lsn: Lsn,
    /// The commit's moment.
    pub commit_time: Timestamp,
}

/// Rollback of a streamed transaction or of one of its savepoints.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct StreamAbort {
    /// The top-level transaction's id.
    pub xid: u32,
    /// What was rolled back: equal to `xid` for the whole, else one of its subtransactions.
    pub subxid: u32,
    /// Place and moment of the rollback; sent only with `streaming 'parallel'`.
    pub at: Option<(Lsn, Timestamp)>,
}
