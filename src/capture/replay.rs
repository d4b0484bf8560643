//! A streamed transaction that has committed, on the way of every other one: Begin, changes, Commit.

use std::collections::HashMap;
use std::time::Instant;

use highwater_postgres::Lsn;
use highwater_postgres::pgoutput::{Begin, Message, StreamCommit};
use metrics::histogram;
use tracing::debug;

use super::error::Error;
use super::feeds::Announced;
use super::spill::Replay;
use super::work::{Work, decode};

/// Bytes of a message before its content, inside of a stream: its kind, and its (sub)transaction.
const KIND_AND_XID: usize = 5;

/// A replay that is under way.
pub(super) struct Replaying {
    replay: Replay,
    xid: u32,
    end_lsn: Lsn,
    /// What the log had said of tables before; the transaction's own announcements stand in its replay.
    away: Announced,
    /// What the replay has said of tables, by OID. Every savepoint that was rolled back makes the server say it again.
    said: HashMap<u32, Vec<u8>>,
    began: Instant,
}

impl Work {
    /// Begins a replay: `publish` is false where the transaction stands in the topics already. Its announcements of tables
    /// count all the same, since the server does not repeat them.
    pub(super) fn begin_replay(&mut self, commit: &StreamCommit, publish: bool) -> Result<Replaying, Error> {
        let replay = self.spill()?.commit(commit.xid)?;
        self.begin(&begin_of(commit), publish)?;
        let away = self.feeds.put_away();
        let (xid, end_lsn) = (commit.xid, commit.end_lsn);
        Ok(Replaying { replay, xid, end_lsn, away, said: HashMap::new(), began: Instant::now() })
    }

    /// Handles so many messages; `false` if there were no more.
    pub(super) fn replay(&mut self, replaying: &mut Replaying, messages: u32) -> Result<bool, Error> {
        for _ in 0..messages {
            let Some(kept) = replaying.replay.next()? else { return Ok(false) };
            match decode(kept.payload, true)? {
                Message::Relation(relation) => {
                    let said = &kept.payload[KIND_AND_XID..];
                    if replaying.said.get(&relation.oid).is_some_and(|before| before == said) {
                        self.feeds.relation_again(relation.oid, kept.piece);
                    } else {
                        self.describe_announced(&relation)?;
                        self.announced(&relation, kept.piece);
                        replaying.said.insert(relation.oid, said.to_vec());
                    }
                }
                message => self.apply(&message)?,
            }
        }
        Ok(true)
    }

    /// Ends a replay behind its last message.
    pub(super) fn end_replay(&mut self, replaying: Replaying) -> Result<(), Error> {
        let Replaying { replay, xid, end_lsn, away, began, .. } = replaying;
        self.commit(end_lsn)?;
        self.feeds.take_back(away);
        self.spill()?.replayed(replay);
        histogram!("highwater_capture_replay_seconds").record(began.elapsed().as_secs_f64());
        debug!(xid, took = ?began.elapsed(), "a streamed transaction is sent");
        Ok(())
    }
}

/// Returns what an ordinary transaction would have begun with.
pub(super) fn begin_of(commit: &StreamCommit) -> Begin {
    Begin { final_lsn: commit.commit_lsn, commit_time: commit.commit_time, xid: commit.xid }
}
