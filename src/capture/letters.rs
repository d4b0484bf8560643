//! Dead letters of capture: what a row lost, and where an operator finds it. Table and key, no other data.

use serde_json::json;

use super::error::Error;
use super::publisher::Publisher;
use crate::position::Position;

impl Publisher {
    /// Puts what no event can carry where an operator finds it.
    pub(super) fn dead_letter(&mut self, position: Position, row: &str, reason: &str) -> Result<(), Error> {
        self.letter(
            &position.text(),
            &json!({ "worker": "capture", "position": position, "row": row, "reason": reason }),
        )
    }

    /// Does so for values that the history lacks.
    pub(super) fn dead_letter_of_history(&mut self, position: Position, row: &str, reason: &str) -> Result<(), Error> {
        // A key of its own: what settles the row's letter does not settle this one.
        let key = format!("{position}/history");
        let letter = json!({ "worker": "capture", "position": position, "history": row, "reason": reason });
        self.letter(key.as_bytes(), &letter)
    }
}
