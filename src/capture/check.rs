//! What capture finds at its start, asked beforehand and without changing anything.

use std::time::Duration;

use highwater_postgres::replication::{SlotState, SystemIdentity, Timelines};
use highwater_postgres::{Connection, Error, Session};

use super::feeds::Feeds;
use super::progress::Progress;
use super::settings::Settings;
use super::spill::{SpillError, room_in};
use super::start::{Lost, Serving, SlotState as Place, Start, decide_start};
use super::tables::{describe_named, describe_published};
use crate::config::Source;
use crate::events::mapping::compile::MappingError;

/// What is wrong with a mapping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MappingCheck {
    /// Whatever is published: names, types and keys of the tables themselves.
    pub wrong: Vec<MappingError>,
    /// What the publication leaves out of tables that have it.
    pub cut_off: Vec<MappingError>,
}

/// Checks the mapping against the tables as they are now, and against what is published of them. Blocks.
///
/// # Errors
/// What the database says; what is wrong with the mapping is the value.
pub fn check_mapping(source: &Source, timeout: Duration) -> Result<MappingCheck, Error> {
    let config =
        source.database.postgres("highwater check")?.with_connect_timeout(timeout).with_statement_timeout(timeout);
    let mut primary = Connection::connect(&config, Session::Ordinary)?;
    let names: Vec<&str> = source.map.iter().map(|entry| entry.table.value.as_str()).collect();
    let tables = describe_named(&mut primary, &names, timeout)?;
    let published = describe_published(&mut primary, &source.publication, timeout)?;
    let wrong = Feeds::check(&source.map, tables).err().unwrap_or_default();
    let mut cut_off = Feeds::check(&source.map, published).err().unwrap_or_default();
    cut_off.retain(|error| wrong.iter().all(|known| known.place != error.place));
    Ok(MappingCheck { wrong, cut_off })
}

/// Returns the bytes that are free for streamed transactions of a source, which `settings` keep in a folder.
///
/// # Errors
/// The folder cannot be used.
pub fn spill_room(settings: &Settings, source: &str) -> Result<u64, SpillError> {
    room_in(&settings.spill_folder_of(source))
}

/// Where capture would begin, as the server tells it.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// The slot; `None` where there is none of its name.
    pub slot: Option<SlotState>,
    /// The server, and how far its log is.
    pub system: SystemIdentity,
    /// Which timeline owns which part of its log.
    pub timelines: Timelines,
}

/// Asks the server whose log is read where capture would begin, over a replication connection as it uses itself. Blocks.
///
/// # Errors
/// What the database says.
pub fn look_at_beginning(source: &Source, timeout: Duration) -> Result<Beginning, Error> {
    let config =
        source.log().postgres("highwater check")?.with_connect_timeout(timeout).with_statement_timeout(timeout);
    let mut replication = Connection::connect(&config, Session::Replication)?;
    let slot = replication.slot(&source.slot, timeout)?;
    let system = replication.identify_system(timeout)?;
    let timelines = replication.timelines(system.timeline, timeout)?;
    Ok(Beginning { slot, system, timelines })
}

impl Beginning {
    /// Decides how a start would go on from this progress.
    ///
    /// # Errors
    /// Slot and progress do not fit together.
    pub fn decide(&self, source: &Source, topic: &str, progress: Option<Progress>) -> Result<Start, Lost> {
        let state = Place::of(self.slot.as_ref(), &self.timelines);
        let (server, system) = (source.log().url(), self.system.system_identifier.to_string());
        let from = Serving { slot: &source.slot, server, system: &system, timeline: self.system.timeline };
        decide_start(from, topic, state, progress)
    }
}
