//! A slot that has our slot's name and is somebody else's: it is neither read nor, whatever else is lost, dropped.

use highwater_postgres::replication::{SlotKind, SlotState};

/// Whose a slot is that capture cannot use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// It hands out the log as it is.
    #[error("it is physical, as a standby or a backup has it")]
    Physical,
    /// It decodes the log for another reader.
    #[error("its output plugin is {0}, not pgoutput")]
    Plugin(String),
    /// It decodes another database.
    #[error("it is of database {found}, not of {ours}")]
    Database {
        /// The slot's.
        found: String,
        /// The source's.
        ours: String,
    },
    /// It goes with the session that made it, which is none of ours.
    #[error("it is temporary, of another session")]
    Temporary,
}

impl Foreign {
    /// What the operator does about it.
    pub const REMEDY: &str = "set [source] slot to a name of its own, that no slot has";

    /// Returns why a slot of the server is not one for us to use, whose session is in `database`.
    #[must_use]
    pub fn of(slot: &SlotState, database: Option<&str>) -> Option<Self> {
        let named = |name: Option<&str>| name.unwrap_or("none").to_owned();
        if slot.kind == SlotKind::Physical {
            return Some(Self::Physical);
        }
        if slot.plugin.as_deref() != Some("pgoutput") {
            return Some(Self::Plugin(named(slot.plugin.as_deref())));
        }
        if slot.database.as_deref() != database {
            return Some(Self::Database { found: named(slot.database.as_deref()), ours: named(database) });
        }
        slot.temporary.then_some(Self::Temporary)
    }
}
