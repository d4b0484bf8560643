//! The first stage of reading: what was written, and where.
//!
//! A [`Document`] is a parsed file with the environment over it. The sections read from it collect their problems here;
//! [`Document::finish`] hands over all of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::place::Place;
use super::problems::{ConfigErrors, Problem, instead, nearest};
use super::section::Section;

/// Start of every environment variable that is a setting.
pub const ENVIRONMENT_PREFIX: &str = "HIGHWATER_";

/// Variables that belong to the command line or to the scripts, not to a section.
const OTHER_VARIABLES: [&str; 3] = ["HIGHWATER_CONFIG", "HIGHWATER_PASSWORD", "HIGHWATER_STACK_DIR"];

/// A configuration as written: a file's values with their lines, and the environment that overrides them.
#[derive(Debug)]
pub struct Document {
    file: Arc<str>,
    directory: PathBuf,
    root: Table,
    environment: BTreeMap<String, String>,
    broken_lines: BTreeSet<usize>,
    problems: RefCell<Vec<Problem>>,
    sections: RefCell<BTreeSet<String>>,
    variables: RefCell<BTreeSet<String>>,
    unset: RefCell<Vec<String>>,
}

/// Keys with their lines and values, in the order written.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(Vec<(String, Node)>);

/// A value and the line on which it, or its key, starts.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// What TOML can hold.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Flag(bool),
    /// A float or a time, which no setting takes: kept as its text for the message.
    Other(&'static str, String),
    List(Vec<Node>),
    Table(Table),
}

impl Document {
    /// Reads a file and takes the process's environment over it.
    ///
    /// # Errors
    /// If the file cannot be read. What is wrong inside it comes at [`Document::finish`].
    pub fn open(path: &Path) -> Result<Self, ConfigErrors> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let looked = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
            let message = format!(
                "cannot read {}: {error}; name another file by --config PATH or HIGHWATER_CONFIG",
                looked.display()
            );
            let problem = Problem { place: Place::whole(&file), path: String::new(), message };
            ConfigErrors::new(&file, vec![problem])
        })?;
        let mut document = Self::parse(&file, &text, BTreeMap::new());
        if let Some(directory) = path.parent() {
            document.directory = directory.to_path_buf();
        }
        document.take_environment(std::env::vars_os());
        Ok(document)
    }

    /// Parses a text; `file` is its name in messages, `environment` is what overrides it.
    #[must_use]
    pub fn parse(file: &str, text: &str, environment: BTreeMap<String, String>) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut document = Self {
            file: file.into(),
            directory: PathBuf::new(),
            root: Table::default(),
            environment,
            broken_lines: BTreeSet::new(),
            problems: RefCell::default(),
            sections: RefCell::default(),
            variables: RefCell::default(),
            unset: RefCell::default(),
        };
        document.root = read_table(table.get_ref(), &Lines::of(text));
        for error in errors {
            let line = Lines::of(text).of_span(&error.span().unwrap_or_default());
            if document.broken_lines.insert(line) {
                let place = document.at(line);
                document.report(place, String::new(), error.message().trim().to_owned());
            }
        }
        document
    }

    fn take_environment(&mut self, variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>) {
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|n| n.starts_with(ENVIRONMENT_PREFIX)) else {
                continue;
            };
            match value.into_string() {
                Ok(value) => drop(self.environment.insert(name.to_owned(), value)),
                Err(_) => self.report(Place::whole(name), String::new(), "the value is not UTF-8".to_owned()),
            }
        }
    }

    /// Opens a top section; a missing one reads as an empty one, since every setting has its default.
    pub fn section(&self, name: &str) -> Section<'_> {
        self.sections.borrow_mut().insert(name.to_owned());
        Section::top(self, name, self.root.get(name))
    }

    /// Ends the reading: sections and variables that nobody asked for are problems too.
    ///
    /// # Errors
    /// All problems that were found, if there are any.
    pub fn finish(self) -> Result<(), ConfigErrors> {
        let sections = self.sections.borrow();
        for (name, node) in self.root.entries() {
            if !sections.contains(name) {
                let right = instead(name, sections.iter().map(String::as_str));
                let message = format!("there is no such section; {right}");
                self.report(self.at(node.line), format!("[{name}]"), message);
            }
        }
        self.refuse_unknown_variables(&sections);
        drop(sections);
        let mut problems = self.problems.take();
        if problems.is_empty() {
            return Ok(());
        }
        // What follows from a line that could not be parsed says nothing new.
        problems.retain(|problem| problem.path.is_empty() || !self.broken_lines.contains(&problem.place.line));
        Err(ConfigErrors::new(&self.file, problems))
    }

    /// Returns the settings of the top sections that were asked for and not written: they have their defaults.
    #[must_use]
    pub fn unset(&self) -> Vec<String> {
        self.unset.borrow().clone()
    }

    /// A variable looks like a setting if it starts with a section's name, or is nearly a setting's name; others, such as
    /// those of the scripts, are none of our business.
    fn refuse_unknown_variables(&self, sections: &BTreeSet<String>) {
        let known = self.variables.borrow();
        for name in self.environment.keys() {
            if known.contains(name) || OTHER_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let rest = name.strip_prefix(ENVIRONMENT_PREFIX).unwrap_or(name);
            let section = sections.iter().find_map(|section| {
                let prefix = format!("{}_", section.to_uppercase());
                rest.strip_prefix(&prefix)
            });
            if section.is_some_and(is_service_link) {
                continue;
            }
            let near = nearest(rest, known.iter().filter_map(|n| n.strip_prefix(ENVIRONMENT_PREFIX)));
            if section.is_none() && near.is_none() {
                continue;
            }
            let right = near
                .map_or_else(|| "unset it".to_owned(), |near| format!("did you mean `{ENVIRONMENT_PREFIX}{near}`?"));
            let message = format!("there is no such setting; {right}");
            self.report(Place::whole(name), String::new(), message);
        }
    }

    pub(super) fn report(&self, place: Place, path: String, message: String) {
        self.problems.borrow_mut().push(Problem { place, path, message });
    }

    pub(super) fn problem_count(&self) -> usize {
        self.problems.borrow().len()
    }

    pub(super) fn at(&self, line: usize) -> Place {
        Place { file: Arc::clone(&self.file), line }
    }

    /// Returns the value of a variable and remembers its name as a right one.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.borrow_mut().insert(name.to_owned());
        self.environment.get(name).map(String::as_str)
    }

    pub(super) fn note_unset(&self, path: String) {
        self.unset.borrow_mut().push(path);
    }

    /// Resolves a path that stands in the file: relative ones are relative to the file's folder.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }
}

/// Kubernetes puts the addresses of a service called `highwater-storefront` into every pod's environment, under names
/// that start like our settings.
fn is_service_link(rest: &str) -> bool {
    rest.starts_with("SERVICE_") || rest == "PORT" || rest.starts_with("PORT_")
}

/// Byte offsets at which the lines of a text start.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let starts = text.match_indices('\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(starts).collect())
    }

    fn of_span(&self, span: &Range<usize>) -> usize {
        self.0.partition_point(|start| *start <= span.start)
    }
}

fn read_table(table: &DeTable<'_>, lines: &Lines) -> Table {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let entries = entries.into_iter().map(|(key, value)| {
        let line = match value.get_ref() {
            // An array of tables has no line of its own that helps more than its key's.
            DeValue::Array(_) | DeValue::Table(_) => lines.of_span(&key.span()),
            _ => lines.of_span(&value.span()),
        };
        let value = read_value(value.get_ref(), lines);
        (key.get_ref().to_string(), Node { line, value })
    });
    Table(entries.collect())
}

fn read_value(value: &DeValue<'_>, lines: &Lines) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::Other("number", number.to_string()), Value::Integer),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Float(number) => Value::Other("number", number.as_str().to_owned()),
        DeValue::Datetime(time) => Value::Other("time", time.to_string()),
        DeValue::Array(list) => Value::List(
            list.iter()
                .map(|item| Node { line: lines.of_span(&item.span()), value: read_value(item.get_ref(), lines) })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(read_table(table, lines)),
    }
}

impl Table {
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(key, node)| (key.as_str(), node))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().find(|(name, _)| *name == key).map(|(_, node)| node)
    }
}

impl Value {
    /// Says what was found, for a message.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("the text {text:?}"),
            Self::Integer(number) => format!("the number {number}"),
            Self::Flag(flag) => flag.to_string(),
            Self::Other(kind, text) => format!("the {kind} {text}"),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}
