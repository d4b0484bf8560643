//! What goes in comes out, but for what was rolled back; and limits and damage are noticed.

use std::fs;
use std::path::PathBuf;

use highwater_postgres::pgoutput::{StreamAbort, StreamStart};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SMALL: Limits = Limits { block: 64, memory: 200, disk: 1 << 20, savepoints: 1000 };

fn spill(limits: Limits) -> (TempDir, Spill) {
    let base = tempfile::tempdir().unwrap();
    let spill = Spill::open(&base.path().join("spill"), limits).unwrap();
    (base, spill)
}

/// A message as it stands inside of a stream.
fn message(kind: u8, xid: u32, content: u64) -> Vec<u8> {
    [&[kind][..], &xid.to_be_bytes(), &content.to_be_bytes()].concat()
}

fn piece(spill: &mut Spill, xid: u32, first: bool, number: u64, messages: &[Vec<u8>]) -> Result<(), Error> {
    spill.start(StreamStart { xid, first }, number)?;
    messages.iter().try_for_each(|message| spill.keep(message))?;
    spill.stop()
}

fn abort(xid: u32, subxid: u32) -> StreamAbort {
    StreamAbort { xid, subxid, at: None }
}

/// Commits a transaction and reads it: its messages, and the pieces in which they came.
fn read(spill: &mut Spill, xid: u32) -> Result<Vec<(Vec<u8>, u64)>, Error> {
    let mut replay = spill.commit(xid)?;
    let mut read = Vec::new();
    while let Some(kept) = replay.next()? {
        read.push((kept.payload.to_vec(), kept.piece));
    }
    spill.replayed(replay);
    Ok(read)
}

fn files(base: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(base.path().join("spill")).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().unwrap() == "spill").collect()
}

/// Fills a file with three blocks of a transaction 7, two thirds of it on disk.
fn filled(limits: Limits) -> (TempDir, Spill) {
    let (base, mut spill) = spill(limits);
    let messages: Vec<_> = (0..12).map(|n| message(b'I', 7, n)).collect();
    piece(&mut spill, 7, true, 1, &messages).unwrap();
    (base, spill)
}

#[test]
fn a_shape_announced_in_a_savepoint_counts_though_it_is_rolled_back_and_who_did_it_does_not() {
    let (_base, mut spill) = spill(SMALL);
    // pgoutput gives a logical message the transaction's own id, wherever it stands.
    let kinds = [(b'I', 7), (b'R', 8), (b'I', 8), (b'M', 7), (b'I', 8)];
    let messages: Vec<_> = (0..).zip(kinds).map(|(n, (kind, xid))| message(kind, xid, n)).collect();
    let behind = message(b'U', 7, 9);
    piece(&mut spill, 7, true, 5, &messages).unwrap();
    spill.abort(abort(7, 8)).unwrap();
    piece(&mut spill, 7, false, 6, std::slice::from_ref(&behind)).unwrap();
    let expected = [(messages[0].clone(), 5), (messages[1].clone(), 5), (behind, 6)];
    assert_eq!(read(&mut spill, 7).unwrap(), expected);
}

#[test]
fn a_rollback_drops_its_transaction_alone_and_a_stray_one_nothing() {
    let (base, mut spill) = spill(SMALL);
    let of = |xid| (0..20).map(|n| message(b'I', xid, n)).collect::<Vec<_>>();
    piece(&mut spill, 7, true, 1, &of(7)).unwrap();
    piece(&mut spill, 9, true, 2, &of(9)).unwrap();
    spill.abort(abort(9, 9)).unwrap();
    spill.abort(abort(1, 1)).unwrap();
    spill.abort(abort(1, 2)).unwrap();
    assert_eq!(files(&base).len(), 1);
    assert_eq!(read(&mut spill, 7).unwrap().len(), 20);
    assert_eq!(files(&base), Vec::<PathBuf>::new(), "a file goes with its transaction");
    assert_eq!((spill.on_disk, spill.rolled_back), (0, 0));
}

#[test]
fn an_id_that_begins_again_is_another_transaction() {
    let (_base, mut spill) = filled(SMALL);
    let again = [message(b'I', 7, 99)];
    piece(&mut spill, 7, true, 3, &again).unwrap();
    assert_eq!(read(&mut spill, 7).unwrap(), [(again[0].clone(), 3)]);
}

#[test]
fn a_transaction_that_never_began_cannot_go_on_or_commit() {
    let (_base, mut spill) = spill(SMALL);
    assert!(matches!(spill.start(StreamStart { xid: 7, first: false }, 1), Err(Error::Unexpected(_))));
    assert!(matches!(spill.commit(7), Err(Error::Unexpected(_))));
}

#[test]
fn the_limit_of_the_files_is_never_passed() {
    let (base, mut spill) = spill(Limits { disk: 1000, ..SMALL });
    let messages: Vec<_> = (0..100).map(|n| message(b'I', 7, n)).collect();
    let error = piece(&mut spill, 7, true, 1, &messages).unwrap_err();
    assert!(error.to_string().contains("need more than 1000 bytes in"), "{error}");
    let on_disk: u64 = files(&base).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!((800..=1000).contains(&on_disk), "{on_disk}");
    assert_eq!(spill.on_disk, on_disk);
}

#[test]
fn what_waits_in_memory_is_bounded_over_all_transactions() {
    let (_base, mut spill) = spill(Limits { block: 64, memory: 150, ..SMALL });
    for xid in 1..50 {
        piece(&mut spill, xid, true, u64::from(xid), &[message(b'I', xid, 0)]).unwrap();
        let in_memory: usize = spill.open.values().map(Streamed::in_memory).sum();
        assert!(in_memory <= 150, "{in_memory}");
    }
    for xid in 1..50 {
        assert_eq!(read(&mut spill, xid).unwrap(), [(message(b'I', xid, 0), u64::from(xid))]);
    }
}

#[test]
fn rolled_back_savepoints_that_are_remembered_are_bounded() {
    let (_base, mut spill) = filled(Limits { savepoints: 2, ..SMALL });
    spill.abort(abort(7, 8)).unwrap();
    spill.abort(abort(7, 9)).unwrap();
    let error = spill.abort(abort(7, 10)).unwrap_err();
    assert!(matches!(error, Error::Spill(SpillError::Savepoints { limit: 2 })), "{error}");
}

#[test]
fn damage_is_noticed_with_file_and_offset() {
    let whole = {
        let (base, _spill) = filled(SMALL);
        fs::read(&files(&base)[0]).unwrap()
    };
    let second = 8 + usize::try_from(u32::from_le_bytes(whole[..4].try_into().unwrap())).unwrap();
    let mut flipped = whole.clone();
    flipped[second + 20] ^= 1;
    let mut endless = whole.clone();
    endless[second..second + 4].fill(0xff);
    let twice = [&whole[..second], &whole[..second], &whole[2 * second..]].concat();
    let damages = [
        (flipped, "the checksum of a block is wrong"),
        (endless, "a block is longer than any that was written"),
        (twice, "the checksum of a block is wrong"),
        (whole[..whole.len() - 1].to_vec(), "it is shorter than what was written"),
    ];
    for (damaged, what) in damages {
        let (base, mut spill) = filled(SMALL);
        let path = files(&base).remove(0).canonicalize().unwrap();
        fs::write(&path, &damaged).unwrap();
        let error = read(&mut spill, 7).unwrap_err();
        let Error::Spill(SpillError::Damaged { file, offset, what: said }) = &error else { panic!("{error}") };
        assert_eq!((file, *said), (&path, what));
        assert!(*offset >= second as u64, "{error}");
        assert!(error.is_transient(), "the slot sends all again");
    }
    let (base, mut spill) = filled(SMALL);
    fs::remove_file(&files(&base)[0]).unwrap();
    assert!(matches!(read(&mut spill, 7), Err(Error::Spill(SpillError::Disk { .. }))));
}

/// Where a claim says who it was: behind its kind, the transaction's id, flags, and its place in the log.
const CLAIMED_AT: usize = 1 + 4 + 1 + 8;

/// Returns a message that claims what follows for one of three; no two stand at one place in the log.
fn claim(xid: u32, number: u64) -> Vec<u8> {
    let who = u8::try_from(number % 3).unwrap_or_default();
    [&[b'M'][..], &xid.to_be_bytes(), &[1], &number.to_be_bytes(), &[who]].concat()
}

/// What a session does to its transaction.
#[derive(Clone, Copy, Debug)]
enum Act {
    Change,
    Relation,
    Claim,
    Savepoint,
    Release,
    RollbackTo,
}

fn acts() -> impl Strategy<Value = Vec<(usize, Act, bool)>> {
    use Act::{Change, Claim, Relation, Release, RollbackTo, Savepoint};
    let act = prop_oneof![5 => Just(Change), 1 => Just(Relation), 1 => Just(Claim), 2 => Just(Savepoint), 1 => Just(Release), 2 => Just(RollbackTo)];
    prop::collection::vec((0..3_usize, act, prop::bool::weighted(0.2)), 0..200)
}

/// A transaction as the server decodes it.
#[derive(Default)]
struct Decoded {
    xid: u32,
    /// The open subtransactions, outermost first: those released into each, it itself first, and how much there was before.
    levels: Vec<(Vec<u32>, usize)>,
    /// What a reader of the committed transaction must see: whose, and the message.
    all: Vec<(u32, Vec<u8>)>,
    /// Not sent yet.
    queued: Vec<(u32, Vec<u8>)>,
    sent: Vec<u32>,
    begun: bool,
}

impl Decoded {
    fn do_act(&mut self, act: Act, number: u64, next_xid: &mut u32, spill: &mut Spill) {
        match act {
            Act::Change | Act::Relation | Act::Claim => {
                let xid = self.levels.last().map_or(self.xid, |(xids, _)| xids[0]);
                let message = match act {
                    // It does not say in which savepoint it stands.
                    Act::Claim => claim(self.xid, number),
                    Act::Relation => message(b'R', xid, number),
                    _ => message(b'I', xid, number),
                };
                self.all.push((xid, message.clone()));
                self.queued.push((xid, message));
            }
            Act::Savepoint => {
                *next_xid += 1;
                self.levels.push((vec![*next_xid], self.all.len()));
            }
            Act::Release => {
                if let (Some((released, _)), Some((outer, _))) = (self.levels.pop(), self.levels.last_mut()) {
                    outer.extend(released);
                }
            }
            Act::RollbackTo => {
                let Some((gone, before)) = self.levels.pop() else { return };
                let since = self.all.split_off(before);
                // A shape that was announced stays announced, if the server had sent it.
                let queued = &self.queued;
                self.all.extend(since.into_iter().filter(|kept| kept.1[0] == b'R' && !queued.contains(kept)));
                self.queued.retain(|(xid, _)| !gone.contains(xid));
                for subxid in gone.into_iter().filter(|xid| self.sent.contains(xid)) {
                    spill.abort(abort(self.xid, subxid)).unwrap();
                }
            }
        }
    }

    fn send(&mut self, number: u64, spill: &mut Spill) {
        let messages: Vec<Vec<u8>> = self.queued.iter().map(|(_, message)| message.clone()).collect();
        self.sent.extend(self.queued.drain(..).map(|(xid, _)| xid));
        piece(spill, self.xid, !std::mem::replace(&mut self.begun, true), number, &messages).unwrap();
    }
}

proptest! {
    #[test]
    fn exactly_what_was_not_rolled_back_comes_out_in_order_with_who_did_it(
        acts in acts(), block in 20..400_usize, memory in 0..2000_usize,
    ) {
        let (_base, mut spill) = spill(Limits { block, memory, ..SMALL });
        let mut next_xid = 100;
        let mut transactions: Vec<Decoded> = (1..=3).map(|xid| Decoded { xid, ..Decoded::default() }).collect();
        for (number, (which, act, send)) in (0..).zip(acts) {
            transactions[which].do_act(act, number, &mut next_xid, &mut spill);
            if send {
                transactions[which].send(number, &mut spill);
            }
        }
        for mut transaction in transactions {
            transaction.send(u64::MAX, &mut spill);
            let rolled_back = spill.open[&transaction.xid].rolled_back();
            match read(&mut spill, transaction.xid) {
                Ok(read) => {
                    let read = read.into_iter().map(|(message, _)| message);
                    let expected = transaction.all.into_iter().map(|(_, message)| message);
                    prop_assert_eq!(with_claims(read), with_claims(expected));
                }
                // Nothing is guessed; and where no savepoint was rolled back there is nothing to guess.
                Err(Error::Spill(SpillError::Unclear { .. })) => prop_assert!(rolled_back > 0),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn what_has_ended_occupies_nothing(acts in acts()) {
        let (base, mut spill) = spill(SMALL);
        let mut next_xid = 100;
        let mut transaction = Decoded { xid: 1, ..Decoded::default() };
        for (number, (_, act, send)) in (0..).zip(acts.into_iter().filter(|(_, act, _)| !matches!(act, Act::Claim))) {
            transaction.do_act(act, number, &mut next_xid, &mut spill);
            if send {
                transaction.send(number, &mut spill);
            }
        }
        transaction.send(u64::MAX, &mut spill);
        read(&mut spill, 1).unwrap();
        prop_assert_eq!(files(&base), Vec::<PathBuf>::new());
        prop_assert_eq!((spill.on_disk, spill.rolled_back), (0, 0));
    }
}

/// Returns changes and shapes in order, each change with who made it.
fn with_claims(messages: impl Iterator<Item = Vec<u8>>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut claim = None;
    let mut changes = Vec::new();
    for message in messages {
        match message[0] {
            b'M' => claim = Some(message[CLAIMED_AT..].to_vec()),
            b'R' => changes.push((message, None)),
            _ => changes.push((message, claim.clone())),
        }
    }
    changes
}
