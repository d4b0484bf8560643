//! The roles of the one binary and their settings.

use std::fmt;
use std::path::Path;

use crate::capture;
use crate::config::{ConfigErrors, Document, Section, Source};
use crate::running;
use crate::topics::Topics;
use crate::workers::{audit, cache, storefront};

/// What a process can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// WAL to topics.
    Capture,
    /// Topics to Redis.
    Cache,
    /// History to `data_change_logs`.
    Audit,
    /// Topics to browsers.
    Storefront,
}

/// Every setting of every role.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[source]`.
    pub source: Source,
    /// `[topics]`.
    pub topics: Topics,
    /// `[capture]`.
    pub capture: capture::Settings,
    /// `[cache]`.
    pub cache: cache::Settings,
    /// `[audit]`.
    pub audit: audit::Settings,
    /// `[storefront]`.
    pub storefront: storefront::Settings,
    /// `[operate]`.
    pub operate: running::Settings,
}

impl Role {
    /// Every role, in the order in which a change reaches them.
    pub const ALL: [Self; 4] = [Self::Capture, Self::Cache, Self::Audit, Self::Storefront];

    /// Returns the name on the command line, in metrics and in logs; also that of the role's section.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Cache => "cache",
            Self::Audit => "audit",
            Self::Storefront => "storefront",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Config {
    /// Reads a file with the environment over it.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(Document::open(path)?)
    }

    /// Gives a document its meaning. All sections are read, also those of roles that do not run here, since one file
    /// serves every process.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn read(document: Document) -> Result<Self, ConfigErrors> {
        let config = Self::read_sections(&document);
        document.finish()?;
        Ok(config)
    }

    fn read_sections(document: &Document) -> Self {
        let source = read(document, "source", Source::read);
        Self {
            topics: read(document, "topics", |section| Topics::read(section, &source.topic_prefix)),
            capture: read(document, "capture", |section| capture::Settings::read(section, &source.map)),
            cache: read(document, "cache", |section| cache::Settings::read(section, &source.map)),
            audit: read(document, "audit", audit::Settings::read),
            storefront: read(document, "storefront", storefront::Settings::read),
            operate: read(document, "operate", running::Settings::read),
            source,
        }
    }
}

fn read<'a, T>(document: &'a Document, name: &str, settings: impl FnOnce(&mut Section<'a>) -> T) -> T {
    let mut section = document.section(name);
    let settings = settings(&mut section);
    section.finish();
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn publishing_ahead_of_the_primary_is_refused_where_the_primary_is_asked_for_parts() {
        let text = "
[[source.map]]
table = 'partner_stockrecord'
event = 'stock'
part = { through = 'product', by = 'product_id' }
entity = 'stock/{id}'
[capture]
visible_first = false
";
        let errors = Config::read(Document::parse("shop.toml", text, BTreeMap::new())).unwrap_err().to_string();
        assert!(errors.contains("shop.toml:8: capture.visible_first: found false; expected true"), "{errors}");
        assert!(errors.contains("`partner_stockrecord` (shop.toml:5)"), "{errors}");
    }

    #[test]
    fn config_toml_parses_shows_every_setting_and_equals_the_defaults() {
        let shown = Document::parse("config.toml", include_str!("../config.toml"), BTreeMap::new());
        let config = Config::read_sections(&shown);
        // Secrets are the only settings that cannot be shown.
        let unset: Vec<_> = shown.unset().into_iter().filter(|path| !path.ends_with(".password_file")).collect();
        assert_eq!(unset, Vec::<String>::new(), "settings that config.toml does not show");
        if let Err(errors) = shown.finish() {
            panic!("{errors}");
        }
        let mut defaults = Config::read(Document::parse("nothing", "", BTreeMap::new())).unwrap();
        // The default mapping is config.toml's own; only its places differ.
        assert_eq!(defaults.source.map.len(), config.source.map.len());
        defaults.source.map.clone_from(&config.source.map);
        assert_eq!(config, defaults);
    }
}
