//! Who did it, inside of a streamed transaction. Pure.
//!
//! pgoutput names the savepoint of a change, but of a logical message only the transaction. So whether a message stands inside
//! of a savepoint that was rolled back has to be told from what stands around it: a savepoint that is open at two places is
//! open between them, and its end is told before anything that follows it. Where that does not tell, and a change depends on
//! it, nothing is guessed: without streaming the server sorts it out.

/// A message could be inside of a savepoint that was rolled back, or outside of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unclear;

/// What is known of who made the next change.
#[derive(Debug, Default, PartialEq, Eq)]
enum Claim {
    /// What was said last, and whether it was handed out.
    #[default]
    Told,
    ToTell,
    Unclear,
}

/// The claims of a transaction that is being replayed.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claim: Claim,
    said: Vec<u8>,
    /// A message whose next change has not come.
    pending: Option<Pending>,
    /// Whose the last change was.
    last: Option<u32>,
}

#[derive(Debug)]
struct Pending {
    message: Vec<u8>,
    /// Whether a savepoint has ended since, and whether it was that of the last change before.
    ended: bool,
    around: bool,
}

impl Claims {
    /// Takes a message about who makes the changes after it.
    pub(super) fn message(&mut self, message: &[u8]) {
        if self.pending.take_if(|pending| said(&pending.message) != said(message)).is_some() {
            self.claim = Claim::Unclear;
        }
        self.pending = Some(Pending { message: message.to_vec(), ended: false, around: false });
    }

    /// Takes note that a savepoint was rolled back.
    pub(super) fn rolled_back(&mut self, subxid: u32) {
        if let Some(pending) = &mut self.pending {
            pending.ended = true;
            pending.around |= self.last == Some(subxid);
        }
    }

    /// Takes a change; if it survived, returns the message to be told before it.
    pub(super) fn change(&mut self, xid: u32, survives: bool) -> Result<Option<&[u8]>, Unclear> {
        if let Some(pending) = self.pending.take() {
            self.settle(pending, xid, survives);
        }
        self.last = Some(xid);
        match self.claim {
            Claim::ToTell if survives => {
                self.claim = Claim::Told;
                Ok(Some(&self.said))
            }
            Claim::Unclear if survives => Err(Unclear),
            Claim::Told | Claim::ToTell | Claim::Unclear => Ok(None),
        }
    }

    fn settle(&mut self, pending: Pending, xid: u32, survives: bool) {
        // The savepoint of the change before ended after the message, or goes on behind it.
        let inside = pending.around || (!pending.ended && !survives && self.last == Some(xid));
        // The change behind it survived, and nothing has ended in between.
        let outside = !pending.ended && survives;
        if inside {
            return;
        }
        if outside {
            self.claim = Claim::ToTell;
            self.said = pending.message;
        } else if self.claim == Claim::Unclear || said(&self.said) != said(&pending.message) {
            self.claim = Claim::Unclear;
        }
    }
}

/// Returns what a message says, without its place in the log: behind a byte for the kind, the transaction's id, flags, and the
/// LSN (manual: Logical Replication Message Formats).
fn said(message: &[u8]) -> Option<&[u8]> {
    message.get(1 + 4 + 1 + 8..)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u32 = 1;
    const GONE: u32 = 2;

    fn at(place: u8, content: &str) -> Vec<u8> {
        let mut message = vec![b'M', 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, place];
        message.extend_from_slice(content.as_bytes());
        message
    }

    #[test]
    fn a_message_between_changes_of_a_savepoint_is_inside_of_it() {
        let mut claims = Claims::default();
        claims.message(&at(1, "outside"));
        assert_eq!(claims.change(TOP, true), Ok(Some(&at(1, "outside")[..])));
        assert_eq!(claims.change(GONE, false), Ok(None));
        claims.message(&at(2, "inside"));
        assert_eq!(claims.change(GONE, false), Ok(None));
        claims.message(&at(3, "at its end"));
        claims.rolled_back(GONE);
        assert_eq!(claims.change(TOP, true), Ok(None), "the first still holds");
    }

    #[test]
    fn a_message_at_the_beginning_of_a_savepoint_that_was_rolled_back_is_not_guessed() {
        let mut claims = Claims::default();
        assert_eq!(claims.change(TOP, true), Ok(None));
        claims.message(&at(1, "inside or before"));
        assert_eq!(claims.change(GONE, false), Ok(None));
        claims.rolled_back(GONE);
        assert_eq!(claims.change(TOP, true), Err(Unclear));
        claims.message(&at(2, "behind"));
        assert_eq!(claims.change(TOP, true), Ok(Some(&at(2, "behind")[..])), "what matters no more is no matter");
    }

    #[test]
    fn the_same_said_again_is_never_unclear() {
        let mut claims = Claims::default();
        claims.message(&at(1, "same"));
        assert!(claims.change(TOP, true).is_ok());
        claims.message(&at(2, "same"));
        assert_eq!(claims.change(GONE, false), Ok(None));
        claims.rolled_back(GONE);
        assert_eq!(claims.change(TOP, true), Ok(None));
    }
}
