//! One streamed transaction: its changes as they came, and what of it was rolled back.

use super::block::{self, HEADER};
use super::claims::{Claims, Unclear};
use super::error::SpillError;
use super::file::Blocks;

/// Begins a record of our own between pgoutput's messages, which all begin with a letter: the number of the piece of the log
/// that follows.
const PIECE: u8 = 0;
/// Begins the record of a rollback: the subtransaction.
const ROLLED_BACK: u8 = 1;

/// A transaction whose end has not come.
#[derive(Debug)]
pub(super) struct Streamed {
    pub(super) xid: u32,
    /// Changes of rows, those that were rolled back included.
    pub(super) changes: u64,
    blocks: Blocks,
    /// The block that is being filled.
    pending: Vec<u8>,
    /// Subtransactions that were rolled back, in the order in which the server said so.
    rolled_back: Vec<u32>,
}

impl Streamed {
    pub(super) fn new(xid: u32, blocks: Blocks) -> Self {
        Self { xid, changes: 0, blocks, pending: Vec::new(), rolled_back: Vec::new() }
    }

    /// Takes note that another piece of the log begins.
    pub(super) fn begin_piece(&mut self, number: u64) {
        let mut record = [PIECE; 9];
        record[1..].copy_from_slice(&number.to_le_bytes());
        self.push(&record);
    }

    /// Keeps a message.
    pub(super) fn keep(&mut self, payload: &[u8]) {
        self.changes += u64::from(is_change(payload));
        self.push(payload);
    }

    fn push(&mut self, payload: &[u8]) {
        if self.pending.is_empty() {
            block::begin(&mut self.pending);
        }
        block::push(&mut self.pending, payload);
    }

    /// Returns how much waits in memory, bytes.
    pub(super) fn in_memory(&self) -> usize {
        self.pending.len()
    }

    /// Returns how much is on disk, bytes.
    pub(super) fn on_disk(&self) -> u64 {
        self.blocks.len()
    }

    /// Writes what waits in memory.
    pub(super) fn write(&mut self) -> Result<(), SpillError> {
        if !self.pending.is_empty() {
            self.blocks.append(&mut self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    /// Gives back what only a transaction needs that is being read: a descriptor, and the memory of an empty block.
    pub(super) fn rest(&mut self) {
        self.blocks.rest();
        self.pending.shrink_to_fit();
    }

    /// Takes note that a subtransaction was rolled back.
    pub(super) fn roll_back(&mut self, subxid: u32) {
        self.rolled_back.push(subxid);
        let mut record = [ROLLED_BACK; 5];
        record[1..].copy_from_slice(&subxid.to_be_bytes());
        self.push(&record);
    }

    /// Returns how many rolled-back subtransactions are remembered.
    pub(super) fn rolled_back(&self) -> usize {
        self.rolled_back.len()
    }

    /// Ends the transaction: what survived is read from its beginning.
    pub(super) fn replay(mut self) -> Replay {
        self.rest();
        self.rolled_back.sort_unstable();
        Replay {
            streamed: self,
            offset: 0,
            block: Vec::new(),
            at: 0,
            piece: 0,
            claims: Claims::default(),
            claim: Vec::new(),
            told: false,
            dropped: 0,
        }
    }
}

/// A message that survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::capture) struct Kept<'a> {
    /// As it was kept.
    pub(in crate::capture) payload: &'a [u8],
    /// The piece of the log in which it came.
    pub(in crate::capture) piece: u64,
}

/// A committed transaction, read from its beginning.
#[derive(Debug)]
pub(in crate::capture) struct Replay {
    streamed: Streamed,
    /// Of the next block.
    offset: u64,
    block: Vec<u8>,
    /// Of the next record in the block.
    at: usize,
    piece: u64,
    claims: Claims,
    /// The message about who makes the change at `at`, and whether it was handed out before it.
    claim: Vec<u8>,
    told: bool,
    dropped: u64,
}

/// What a replay found: a record at its place in the block, or the message that belongs before it.
enum Found {
    Claim,
    Record(usize),
}

impl Replay {
    /// Returns the next message that counts.
    ///
    /// # Errors
    /// What was read is not what was written, the system refused, or it cannot be told who made a change.
    pub(in crate::capture) fn next(&mut self) -> Result<Option<Kept<'_>>, SpillError> {
        let Some(found) = self.find()? else { return Ok(None) };
        let payload = match found {
            Found::Claim => &self.claim[..],
            Found::Record(at) => block::record_at(&self.block, at).map_or(&[][..], |(payload, _)| payload),
        };
        Ok(Some(Kept { payload, piece: self.piece }))
    }

    fn find(&mut self) -> Result<Option<Found>, SpillError> {
        let mut told = std::mem::take(&mut self.told);
        loop {
            let at = self.at;
            let Some((payload, next)) = block::record_at(&self.block, at) else {
                if self.next_block()? {
                    continue;
                }
                return Ok(None);
            };
            match (payload.first(), xid_of(payload)) {
                (Some(&PIECE), _) => self.piece = payload[1..].try_into().map_or(0, u64::from_le_bytes),
                (Some(&ROLLED_BACK), Some(subxid)) => self.claims.rolled_back(subxid),
                (Some(b'M'), _) => self.claims.message(payload),
                (Some(b'I' | b'U' | b'D' | b'T'), Some(xid)) if !std::mem::take(&mut told) => {
                    let survives = self.streamed.rolled_back.binary_search(&xid).is_err();
                    let unclear = |Unclear| SpillError::Unclear { xid: self.streamed.xid };
                    if let Some(claim) = self.claims.change(xid, survives).map_err(unclear)? {
                        claim.clone_into(&mut self.claim);
                        self.told = true;
                        return Ok(Some(Found::Claim));
                    }
                    if survives {
                        self.at = next;
                        return Ok(Some(Found::Record(at)));
                    }
                    self.dropped += 1;
                }
                // A change whose claim was handed out; or the shape of a table, which counts wherever it was announced: the
                // server need not announce it again to the rest of the transaction.
                _ => {
                    self.at = next;
                    return Ok(Some(Found::Record(at)));
                }
            }
            self.at = next;
        }
    }

    /// Returns how many changes of rows were passed over so far, because they were rolled back.
    pub(in crate::capture) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns how much is on disk, bytes.
    pub(super) fn on_disk(&self) -> u64 {
        self.streamed.on_disk()
    }

    /// Returns how many rolled-back subtransactions are remembered.
    pub(super) fn rolled_back(&self) -> usize {
        self.streamed.rolled_back()
    }

    fn next_block(&mut self) -> Result<bool, SpillError> {
        self.at = HEADER;
        let Streamed { blocks, pending, .. } = &mut self.streamed;
        if self.offset < blocks.len() {
            blocks.read(self.offset, &mut self.block)?;
            self.offset += self.block.len() as u64;
            return Ok(true);
        }
        // What had not been written yet is the rest.
        self.block = std::mem::take(pending);
        Ok(!self.block.is_empty())
    }
}

/// Returns the (sub)transaction of a message: inside of a stream it stands behind the kind.
fn xid_of(payload: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(payload.get(1..5)?.try_into().ok()?))
}

fn is_change(payload: &[u8]) -> bool {
    matches!(payload, [b'I' | b'U' | b'D' | b'T', ..])
}
