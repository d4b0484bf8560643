//! The board on which every role says whether it does its work, read by `/readyz`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The board of one process, with a line for each of its roles from the beginning. Clones share it.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<Board>>);

type Board = BTreeMap<&'static str, Option<String>>;

/// One role's line on the board. Clones write the same line.
#[derive(Debug, Clone)]
pub struct Standing {
    board: Readiness,
    role: &'static str,
}

impl Readiness {
    /// Makes the board of these roles, none of them ready.
    ///
    /// All at once: a board that is read before a role stands on it would call a process ready that has not begun.
    #[must_use]
    pub fn of(roles: impl IntoIterator<Item = &'static str>) -> Self {
        let board = Self(Arc::default());
        roles.into_iter().for_each(|role| board.role(role).waits_for("starting"));
        board
    }

    /// Returns what writes a role's line.
    #[must_use]
    pub fn role(&self, role: &'static str) -> Standing {
        Standing { board: self.clone(), role }
    }

    /// Returns every role with the reason why it is not ready, or `None` if it is.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, Option<String>)> {
        self.board().iter().map(|(role, reason)| (*role, reason.clone())).collect()
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // A line is replaced whole, so that a panic in between leaves the board as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// Says that the role does its work.
    pub fn ready(&self) {
        self.write(None);
    }

    /// Says that the role does not do its work, and why: `Redis at 127.0.0.1:6379 does not answer`.
    pub fn waits_for(&self, reason: impl Into<String>) {
        self.write(Some(reason.into()));
    }

    fn write(&self, reason: Option<String>) {
        let before = self.board.board().insert(self.role, reason.clone());
        if before != Some(reason.clone()) {
            let ready = reason.is_none();
            metrics::gauge!("highwater_role_ready", "role" => self.role).set(if ready { 1.0 } else { 0.0 });
            match reason {
                None => tracing::info!(role = self.role, "role is ready"),
                Some(reason) => tracing::info!(role = self.role, reason, "role is not ready"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_not_ready_until_it_says_so_and_gives_its_reason_after() {
        let board = Readiness::of(["cache", "audit"]);
        let starting = || Some("starting".to_owned());
        assert_eq!(board.all(), [("audit", starting()), ("cache", starting())], "before any of them has begun");
        let cache = board.role("cache");
        let audit = board.role("audit");
        audit.ready();
        assert_eq!(board.all(), [("audit", None), ("cache", starting())]);
        cache.ready();
        audit.waits_for("a reason");
        assert_eq!(board.all(), [("audit", Some("a reason".to_owned())), ("cache", None)]);
    }
}
