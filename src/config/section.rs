//! The second stage of reading: what the values of one section mean.
//!
//! Every getter takes the key and its default, reports what is wrong to the document and then gives the default, so that
//! one run shows all errors. A variable `HIGHWATER_<SECTION>_<KEY>` overrides the file.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::document::{Document, ENVIRONMENT_PREFIX, Node, Table, Value};
use super::place::{Place, Placed};
use super::problems::instead;

/// One section of a configuration, whose keys are taken one by one.
///
/// [`Section::finish`] refuses the keys that nobody took.
#[derive(Debug)]
#[must_use = "finish() refuses unknown keys"]
pub struct Section<'a> {
    document: &'a Document,
    path: String,
    place: Place,
    table: Option<&'a Table>,
    /// Start of the variables that override this section; parts of lists have none.
    variables: Option<String>,
    taken: BTreeSet<String>,
}

/// A value that was written, in the file or in a variable.
pub(super) struct Written<'a> {
    pub(super) place: Place,
    pub(super) found: Found<'a>,
}

/// Variables hold only text; what it means is up to the key.
#[derive(Clone, Copy)]
pub(super) enum Found<'a> {
    Toml(&'a Value),
    Variable(&'a str),
}

impl<'a> Section<'a> {
    pub(super) fn top(document: &'a Document, name: &str, node: Option<&'a Node>) -> Self {
        let mut section = Self::of(document, name.to_owned(), node);
        section.variables = Some(format!("{ENVIRONMENT_PREFIX}{}_", name.to_uppercase()));
        section
    }

    fn of(document: &'a Document, path: String, node: Option<&'a Node>) -> Self {
        let place = document.at(node.map_or(0, |node| node.line));
        let table = match node.map(|node| &node.value) {
            Some(Value::Table(table)) => Some(table),
            Some(other) => {
                let message = format!("found {}; expected a table of settings", other.describe());
                document.report(place.clone(), path.clone(), message);
                None
            }
            None => None,
        };
        Self { document, path, place, table, variables: None, taken: BTreeSet::new() }
    }

    /// Returns where the section starts.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// Returns the section's name with those above it, such as `cache.key[2]`; entries of a list count from 1.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the key was written, in the file or in a variable.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        let in_file = self.table.is_some_and(|table| table.get(key).is_some());
        in_file || self.overriding(key).is_some()
    }

    /// Returns where the key was written; the section's own place if it was not.
    #[must_use]
    pub fn place_of(&self, key: &str) -> Place {
        match self.peek(key) {
            Some(written) => written.place,
            None => self.place(),
        }
    }

    /// Reports a problem with a key that only its reader can see.
    pub fn error(&mut self, key: &str, message: impl Into<String>) {
        let place = self.place_of(key);
        self.refuse(place, key, message.into());
    }

    /// Reads a text.
    pub fn text(&mut self, key: &str, default: &str) -> String {
        self.optional_text(key).map_or_else(|| default.to_owned(), |text| text.value)
    }

    /// Reads a text that has no default; a missing one is a problem, and empty.
    pub fn required_text(&mut self, key: &str) -> Placed<String> {
        if !self.has(key) {
            self.error(key, "is missing; expected a text");
        }
        self.optional_text(key).unwrap_or_else(|| Placed { value: String::new(), place: self.place() })
    }

    /// Reads a text that may be missing.
    pub fn optional_text(&mut self, key: &str) -> Option<Placed<String>> {
        self.take(key, "a text", |found| text_in(found).map(str::to_owned))
    }

    /// Reads `true` or `false`.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        let flag = self.take(key, "true or false", |found| match found {
            Found::Toml(Value::Flag(flag)) => Some(*flag),
            Found::Variable("true") => Some(true),
            Found::Variable("false") => Some(false),
            _ => None,
        });
        flag.map_or(default, |flag| flag.value)
    }

    /// Reads a whole number within a range.
    pub fn number<T>(&mut self, key: &str, default: T, range: RangeInclusive<T>) -> T
    where
        T: Copy + Display + PartialOrd + TryFrom<i128>,
    {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.number_in(key, default, &range, &expected)
    }

    /// Reads a duration in milliseconds; the key ends in `_ms`.
    ///
    /// # Panics
    /// If the key does not.
    pub fn millis(&mut self, key: &str, default_ms: u64, range: RangeInclusive<u64>) -> Duration {
        assert!(key.ends_with("_ms"), "the unit of `{key}` is not in its name");
        let expected = format!("milliseconds from {} to {}", range.start(), range.end());
        Duration::from_millis(self.number_in(key, default_ms, &range, &expected))
    }

    /// Reads a duration in seconds; the key ends in `_s`.
    ///
    /// # Panics
    /// If the key does not.
    pub fn seconds(&mut self, key: &str, default_s: u64, range: RangeInclusive<u64>) -> Duration {
        assert!(key.ends_with("_s"), "the unit of `{key}` is not in its name");
        let expected = format!("seconds from {} to {}", range.start(), range.end());
        Duration::from_secs(self.number_in(key, default_s, &range, &expected))
    }

    /// Reads a size in mebibytes and returns it in bytes; the key ends in `_mib`.
    ///
    /// # Panics
    /// If the key does not.
    pub fn mebibytes(&mut self, key: &str, default_mib: u32, range: RangeInclusive<u32>) -> usize {
        assert!(key.ends_with("_mib"), "the unit of `{key}` is not in its name");
        let expected = format!("mebibytes from {} to {}", range.start(), range.end());
        let mib = self.number_in(key, default_mib, &range, &expected);
        usize::try_from(mib).unwrap_or(usize::MAX).saturating_mul(1024 * 1024)
    }

    /// Reads one of a few words.
    pub fn choice<T: Clone>(&mut self, key: &str, choices: &[(&str, T)], default: T) -> T {
        let Some(text) = self.optional_text(key) else {
            return default;
        };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text.value) {
            return choice.clone();
        }
        let right = instead(&text.value, choices.iter().map(|(word, _)| *word));
        let message = format!("found the text {:?}; {right}", text.value);
        self.refuse(text.place, key, message);
        default
    }

    /// Reads a list of texts; in a variable they are separated by commas.
    pub fn list(&mut self, key: &str, default: &[&str]) -> Vec<String> {
        match self.optional_list(key) {
            Some(list) => list.into_iter().map(|item| item.value).collect(),
            None => default.iter().map(|&item| item.to_owned()).collect(),
        }
    }

    /// Reads a list of texts that may be missing, each with its place.
    pub fn optional_list(&mut self, key: &str) -> Option<Vec<Placed<String>>> {
        let document = self.document;
        let list = self.take(key, "a list of texts", |found| match found {
            Found::Toml(Value::List(list)) => list.iter().map(|n| text_of(document, n)).collect(),
            Found::Variable(text) => Some(split_variable(text)),
            Found::Toml(_) => None,
        })?;
        let place = list.place;
        let items =
            list.value.into_iter().map(|(value, own)| Placed { value, place: own.unwrap_or_else(|| place.clone()) });
        Some(items.collect())
    }

    /// Reads the address on which a server listens, such as `127.0.0.1:8080`; port 0 lets the system choose one.
    pub fn listen(&mut self, key: &str, default: SocketAddr) -> SocketAddr {
        let address = self.take(key, "an address such as \"127.0.0.1:8080\"", |found| {
            text_in(found).and_then(|text| text.parse().ok())
        });
        address.map_or(default, |address| address.value)
    }

    /// Opens a section inside this one; a missing one reads as an empty one.
    pub fn section(&mut self, key: &str) -> Self {
        self.taken.insert(key.to_owned());
        let node = self.table.and_then(|table| table.get(key));
        let path = format!("{}.{key}", self.path);
        let mut section = Self::of(self.document, path, node);
        let prefix = self.variables.as_ref();
        section.variables = prefix.map(|prefix| format!("{prefix}{}_", key.to_uppercase()));
        section
    }

    /// Opens every section of a list, written as `[[section.key]]`.
    pub fn sections(&mut self, key: &str) -> Vec<Self> {
        self.taken.insert(key.to_owned());
        let Some(node) = self.table.and_then(|table| table.get(key)) else {
            return Vec::new();
        };
        let Value::List(list) = &node.value else {
            let found = node.value.describe();
            let message = format!("found {found}; expected sections [[{}.{key}]]", self.path);
            self.refuse(self.document.at(node.line), key, message);
            return Vec::new();
        };
        let open = |(at, node)| {
            let path = format!("{}.{key}[{}]", self.path, at + 1);
            Self::of(self.document, path, Some(node))
        };
        list.iter().enumerate().map(open).collect()
    }

    /// Ends the section: keys that nobody took are problems, each with the nearest right name.
    pub fn finish(self) {
        for (key, node) in self.table.into_iter().flat_map(Table::entries) {
            if !self.taken.contains(key) {
                let right = instead(key, self.taken.iter().map(String::as_str));
                let message = format!("there is no such setting; {right}");
                self.refuse(self.document.at(node.line), key, message);
            }
        }
    }

    fn number_in<T>(&mut self, key: &str, default: T, range: &RangeInclusive<T>, expected: &str) -> T
    where
        T: Copy + PartialOrd + TryFrom<i128>,
    {
        let number = self.take(key, expected, |found| {
            let number = match found {
                Found::Toml(Value::Integer(number)) => *number,
                Found::Variable(text) => text.trim().parse().ok()?,
                Found::Toml(_) => return None,
            };
            T::try_from(number).ok().filter(|number| range.contains(number))
        });
        number.map_or(default, |number| number.value)
    }

    /// Takes a key's value in the form that `read` knows; a value it does not know is a problem.
    pub(super) fn take<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(Found<'a>) -> Option<T>,
    ) -> Option<Placed<T>> {
        self.taken.insert(key.to_owned());
        let Some(Written { place, found }) = self.peek(key) else {
            if self.variables.is_some() {
                self.document.note_unset(format!("{}.{key}", self.path));
            }
            return None;
        };
        if let Some(value) = read(found) {
            return Some(Placed { value, place });
        }
        let found = match found {
            Found::Toml(value) => value.describe(),
            Found::Variable(text) => format!("{text:?}"),
        };
        self.refuse(place, key, format!("found {found}; expected {expected}"));
        None
    }

    /// Returns a key's value, the variable before the file.
    pub(super) fn peek(&self, key: &str) -> Option<Written<'a>> {
        if let Some((name, text)) = self.overriding(key) {
            return Some(Written { place: Place::whole(&name), found: Found::Variable(text) });
        }
        let node = self.table?.get(key)?;
        Some(Written { place: self.document.at(node.line), found: Found::Toml(&node.value) })
    }

    fn overriding(&self, key: &str) -> Option<(String, &'a str)> {
        self.variables.as_ref()?;
        let name = self.variable_of(key);
        let text = self.document.variable(&name)?;
        Some((name, text))
    }

    /// Takes a key without reading it.
    pub(super) fn take_quietly(&mut self, key: &str) {
        self.taken.insert(key.to_owned());
    }

    /// Returns the name of the variable that overrides a key.
    pub(super) fn variable_of(&self, key: &str) -> String {
        let prefix = self.variables.as_deref().unwrap_or(ENVIRONMENT_PREFIX);
        format!("{prefix}{}", key.to_uppercase())
    }

    pub(super) fn refuse(&self, place: Place, key: &str, message: String) {
        let path = format!("{}.{key}", self.path);
        self.document.report(place, path, message);
    }

    pub(super) fn document(&self) -> &'a Document {
        self.document
    }

    /// Takes every key of the section, for sections whose keys are the operator's own names.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = (&'a str, &'a Node)> + use<'a> {
        let table = self.table;
        let entries = move || table.into_iter().flat_map(Table::entries);
        self.taken.extend(entries().map(|(key, _)| key.to_owned()));
        entries()
    }

    /// Returns the key's value if it is a table.
    pub(super) fn table_at(&self, key: &str) -> Option<&'a Node> {
        let node = self.table?.get(key)?;
        matches!(node.value, Value::Table(_)).then_some(node)
    }

    /// Opens a value of this section as a section of its own.
    pub(super) fn inside(&self, key: &str, node: &'a Node) -> Self {
        Self::of(self.document, format!("{}.{key}", self.path), Some(node))
    }
}

fn text_in(found: Found<'_>) -> Option<&str> {
    match found {
        Found::Toml(Value::Text(text)) => Some(text),
        Found::Variable(text) => Some(text),
        Found::Toml(_) => None,
    }
}

fn text_of(document: &Document, node: &Node) -> Option<(String, Option<Place>)> {
    match &node.value {
        Value::Text(text) => Some((text.clone(), Some(document.at(node.line)))),
        _ => None,
    }
}

fn split_variable(text: &str) -> Vec<(String, Option<Place>)> {
    let items = text.split(',').map(str::trim);
    items.filter(|item| !item.is_empty()).map(|item| (item.to_owned(), None)).collect()
}
