//! Dead letters of capture: what a row lost, and where an operator finds it. Table and key, no other data.

use serde_json::json;

use super::error::Error;
use super::publisher::Publisher;
use crate::position::Position;

/// Why values of a row are in the dead letters.
const TOO_LARGE: &str = "the event would be larger than a record may be, and was sent without the row's longest values";

impl Publisher {
    /// Puts what no event can carry where an operator finds it.
    pub(super) fn dead_letter(&mut self, position: Position, row: &str, reason: &str) -> Result<(), Error> {
        self.letter(
            &position.text(),
            &json!({ "worker": "capture", "position": position, "row": row, "reason": reason }),
        )
    }

    /// Does so for values that a state event lacks, of an entry of this name.
    pub(super) fn dead_letter_of_values(&mut self, position: Position, row: &str, entry: &str) -> Result<(), Error> {
        self.dead_letter(position, row, &format!("{entry}: {TOO_LARGE}"))
    }

    /// Does so for values that the history lacks.
    pub(super) fn dead_letter_of_history(&mut self, position: Position, row: &str) -> Result<(), Error> {
        // A key of its own: what settles the row's letter does not settle this one.
        let key = format!("{position}/history");
        let letter = json!({ "worker": "capture", "position": position, "history": row, "reason": TOO_LARGE });
        self.letter(key.as_bytes(), &letter)
    }
}
