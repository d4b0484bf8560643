//! The section `[cache]`.

use std::time::Duration;

use highwater_redis::{Options, Secret};

use super::plan::{Fed, Rule};
use super::template::{PART_ID, Template};
use crate::config::{Placed, Section, Server, instead};
use crate::events::mapping::spec::{EntrySpec, PartSpec};

/// The entries of the reference schema, each with the event that writes it or those that invalidate it.
const DEFAULT_KEYS: [(&str, Option<&str>, &[&str]); 5] = [
    ("part:{part_id}", Some("part"), &[]),
    ("part:{part_id}:stock", Some("stock"), &[]),
    ("part:{part_id}:prices", None, &["price"]),
    ("part:{part_id}:images", None, &["image"]),
    ("part:{part_id}:specs", None, &["spec"]),
];

/// How the cache worker finds its server and what it keeps there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The Redis server.
    pub server: Server,
    /// What the names of fences and progress begin with.
    pub prefix: String,
    /// How long the server may take to answer.
    pub answer_timeout: Duration,
    /// The entries.
    pub rules: Vec<Rule>,
}

impl Settings {
    /// Reads the section. What stands in `[[cache.key]]` is compared with the mapping of the source.
    pub fn read(section: &mut Section<'_>, map: &[EntrySpec]) -> Self {
        let server = section.server("server", "redis://127.0.0.1:6379", &["redis", "rediss", "unix"]);
        let prefix = section.text("prefix", "highwater");
        let answer_timeout = section.millis("answer_timeout_ms", 5_000, 10..=60_000);
        let mut rules: Vec<Rule> = Vec::new();
        if section.has("key") {
            for key in section.sections("key") {
                rules.extend(rule(key, map));
            }
        } else {
            rules.extend(default_rules());
        }
        Self { server, prefix, answer_timeout, rules }
    }

    /// Returns what the connector needs.
    #[must_use]
    pub fn options(&self) -> Options {
        let mut options = Options::new(self.server.url());
        options.password = self.server.password().map(|password| Secret::new(password.expose()));
        options.prefix.clone_from(&self.prefix);
        options.answer_timeout = self.answer_timeout;
        options
    }
}

/// The keys of a configuration that names none.
fn default_rules() -> impl Iterator<Item = Rule> {
    DEFAULT_KEYS.into_iter().filter_map(|(key, written, invalidated)| {
        let fed = match written {
            Some(event) => Fed::Written(event.to_owned()),
            None => Fed::Invalidated(invalidated.iter().map(ToString::to_string).collect()),
        };
        // They parse, as a test shows.
        Some(Rule { key: Template::parse(key).ok()?, fed })
    })
}

fn rule(mut section: Section<'_>, map: &[EntrySpec]) -> Option<Rule> {
    let key = section.required_text("key");
    let written = section.optional_text("write");
    let invalidated = section.optional_list("invalidate");
    let fed = match (written, invalidated) {
        (Some(event), None) => Some(("write", vec![event])),
        (None, Some(events)) if !events.is_empty() => Some(("invalidate", events)),
        _ => {
            section.error("key", "needs either write = \"<event>\" or invalidate = [\"<event>\", …]");
            None
        }
    };
    let template = match Template::parse(&key.value) {
        Ok(template) => Some(template),
        Err(_) if key.value.is_empty() => None,
        Err(refused) => {
            section.error("key", format!("`{}` {refused}", key.value));
            None
        }
    };
    let rule = fed.zip(template).map(|((setting, events), key)| {
        for event in &events {
            check(&mut section, setting, event, &key, map);
        }
        let mut events = events.into_iter().map(|event| event.value);
        let fed = match (setting, events.next()) {
            ("write", Some(event)) => Fed::Written(event),
            (_, first) => Fed::Invalidated(first.into_iter().chain(events).collect()),
        };
        Rule { key, fed }
    });
    section.finish();
    rule
}

/// Refuses an event that nothing feeds, or one that lacks a field of the key's name.
fn check(section: &mut Section<'_>, setting: &str, event: &Placed<String>, key: &Template, map: &[EntrySpec]) {
    let name = |entry: &EntrySpec| match &entry.kind {
        Some(kind) => kind.value.clone(),
        None => entry.family.name().to_owned(),
    };
    let feeding: Vec<&EntrySpec> = map.iter().filter(|entry| name(entry) == event.value).collect();
    if feeding.is_empty() && !map.is_empty() {
        let names: Vec<String> = map.iter().map(name).collect();
        let nearest = instead(&event.value, names.iter().map(String::as_str));
        section.error(setting, format!("no [[source.map]] feeds an event `{}`; {nearest}", event.value));
    }
    for entry in feeding {
        for field in key.fields() {
            let given = entry.fields.iter().any(|(name, _)| name.value == field);
            let part = field == PART_ID && entry.part.value != PartSpec::None;
            if !given && !part {
                let (table, event) = (&entry.table.value, &event.value);
                section.error("key", format!("event `{event}` of table {table} has no field `{field}`"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigErrors, Document, Source};
    use std::collections::BTreeMap;

    /// Reads a configuration whose `[[source.map]]` is complete.
    fn read(text: &str) -> Result<Settings, ConfigErrors> {
        let document = Document::parse("test.toml", text, BTreeMap::new());
        let source = Source::read(&mut document.section("source"));
        let mut section = document.section("cache");
        let settings = Settings::read(&mut section, &source.map);
        section.finish();
        document.finish().map(|()| settings)
    }

    #[test]
    fn without_keys_those_of_the_reference_schema_are_kept() {
        let settings = read("").unwrap();
        assert_eq!(settings.rules.len(), DEFAULT_KEYS.len());
        for (rule, (key, ..)) in settings.rules.iter().zip(DEFAULT_KEYS) {
            assert_eq!(rule.key, Template::parse(key).unwrap());
        }
    }

    #[test]
    fn everything_that_is_wrong_with_keys_is_said_at_once() {
        let text = r#"
            [[cache.key]]
            key = "part:{part_id}:pictures"
            invalidate = ["imgae"]
            [[cache.key]]
            key = "parts:list"
            write = "part"
            [[cache.key]]
            key = "part:{part_id}"
            write = "part"
            invalidate = ["part"]
            [[cache.key]]
            key = "part:{par_id}:stock"
            write = "stock"
            [[cache.key]]
            key = "category:{part_id}"
            write = "category"
            invalidates = []
            [[source.map]]
            table = "stock_levels"
            event = "stock"
            part = "part_id"
            entity = "{part_id}"
            [[source.map]]
            table = "parts"
            event = "content"
            kind = "part"
            part = "id"
            entity = "{part_id}"
            [[source.map]]
            table = "part_images"
            event = "content"
            kind = "image"
            part = "part_id"
            entity = "image/{id}"
            [[source.map]]
            table = "categories"
            event = "content"
            kind = "category"
            part = false
            entity = "category/{id}"
        "#;
        let errors = read(text).unwrap_err().to_string();
        for expected in [
            "test.toml:4: cache.key[1].invalidate: no [[source.map]] feeds an event `imgae`; did you mean `image`?",
            "test.toml:6: cache.key[2].key: `parts:list` contains no field",
            "test.toml:9: cache.key[3].key: needs either write = \"<event>\" or invalidate",
            "test.toml:13: cache.key[4].key: event `stock` of table stock_levels has no field `par_id`",
            "test.toml:16: cache.key[5].key: event `category` of table categories has no field `part_id`",
            "test.toml:18: cache.key[5].invalidates: ",
        ] {
            assert!(errors.contains(expected), "{expected} is missing in {errors}");
        }
    }

    #[test]
    fn the_password_does_not_show() {
        let variables = BTreeMap::from([("HIGHWATER_CACHE_PASSWORD".to_owned(), "hunter2".to_owned())]);
        let document = Document::parse("test.toml", "", variables);
        let settings = Settings::read(&mut document.section("cache"), &[]);
        assert!(settings.options().password.is_some());
        assert!(!format!("{settings:?} {:?}", settings.options()).contains("hunter2"));
    }
}
