//! The section `[source]`, which every role shares: the database that is captured, and what its rows mean.

use std::collections::BTreeMap;

use super::document::Document;
use super::map::read_map;
use super::section::Section;
use super::server::Server;
use crate::events::mapping::spec::EntrySpec;

/// Where the default mapping stands: one truth for the text that operators read and for the code.
const DEFAULTS: &str = include_str!("../../config.toml");

const SCHEMES: [&str; 2] = ["postgresql", "postgres"];

/// The section `[source]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Name of the source, in every event's `source`.
    pub name: String,
    /// The captured database, as the capturing role.
    pub database: Server,
    /// The standby whose log is read instead of the primary's, as the same role; `PostgreSQL` 16 and newer.
    pub standby: Option<Server>,
    /// The replication slot.
    pub slot: String,
    /// The publication that names the captured tables.
    pub publication: String,
    /// Start of every topic's name, before the dot.
    pub topic_prefix: String,
    /// How rows become events.
    pub map: Vec<EntrySpec>,
}

impl Source {
    /// Reads the section.
    pub fn read(section: &mut Section<'_>) -> Self {
        let default = "postgresql://highwater_capture@127.0.0.1:5432/shop";
        let database = section.server("database", default, &SCHEMES);
        Self {
            name: name(section, "name", "shop", "-_."),
            standby: section.another_server("standby", &SCHEMES, database.password()),
            database,
            slot: name(section, "slot", "highwater", "_"),
            publication: section.text("publication", "highwater"),
            topic_prefix: name(section, "topic_prefix", "catalog", "-_."),
            map: Some(read_map(section)).filter(|map| !map.is_empty()).unwrap_or_else(default_map),
        }
    }

    /// Returns the server whose log is read, which has the slot.
    #[must_use]
    pub fn log(&self) -> &Server {
        self.standby.as_ref().unwrap_or(&self.database)
    }
}

/// Reads a name that becomes part of other names: ASCII letters, digits, and a few signs.
fn name(section: &mut Section<'_>, key: &str, default: &str, signs: &str) -> String {
    let name = section.text(key, default);
    let fits = |letter: char| letter.is_ascii_alphanumeric() || signs.contains(letter);
    if name.is_empty() || name.len() > 63 || !name.chars().all(fits) {
        let expected = format!("1 to 63 ASCII letters, digits or any of {signs}");
        section.error(key, format!("found the text {name:?}; expected {expected}"));
    }
    name
}

/// Returns the mapping of the reference schema, as the project's config.toml has it.
fn default_map() -> Vec<EntrySpec> {
    let document = Document::parse("built-in config.toml", DEFAULTS, BTreeMap::new());
    let mut source = document.section("source");
    read_map(&mut source)
}
