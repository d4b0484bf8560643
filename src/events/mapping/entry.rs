//! A mapping entry checked against its table: what a row's event holds, and whether an update changes any of it.

use super::spec::Family;
use super::template::Template;
use crate::events::json::{Encoding, ShortText, write_number, write_string};
use crate::events::row::{Row, Value};

/// One table feeding one event.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Which topic and event types it feeds.
    pub family: Family,
    /// `stock`, `price`, or the kind of content; the last part of an event's id.
    pub name: String,
    pub(super) part: Part,
    pub(super) entity: Template,
    pub(super) groups: Vec<Template>,
    pub(super) fields: Vec<Field>,
    pub(super) attributes: Vec<Field>,
    pub(super) stock: Option<StockColumns>,
}

/// How a row tells its part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// It is of no part.
    None,
    /// By a column of its own.
    Column {
        /// The column.
        column: usize,
        /// How the id becomes JSON.
        encoding: Encoding,
    },
    /// By the row of another table that a column names.
    Through {
        /// The other table.
        table: String,
        /// The column that holds the other row's key.
        by: usize,
        /// How the part's id becomes JSON.
        encoding: Encoding,
    },
}

/// One field of an event's data.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    /// `"name":`, ready to be copied.
    pub(super) label: Vec<u8>,
    pub(super) source: Source,
    /// Whether a change of it alone is a change.
    pub(super) counts: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Source {
    Column { column: usize, encoding: Encoding, null: Option<Vec<u8>> },
    Constant(Vec<u8>),
    FirstOf(Vec<(usize, Encoding)>),
}

/// The columns behind a stock event's derived fields.
#[derive(Debug, Clone)]
pub(super) struct StockColumns {
    pub(super) current: Source,
    pub(super) reserved: Option<Source>,
    pub(super) minimum: Option<Source>,
}

/// What an update does to an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Difference {
    /// Nothing that the event shows.
    None,
    /// These fields differ, of which one counts.
    Fields,
    /// The old row was not sent whole, so nobody can tell.
    NotKnown,
}

/// What a source gives for a row.
enum Resolved<'a> {
    Text(&'a [u8], Encoding),
    Json(&'a [u8]),
    Null,
    Unknown,
}

impl Source {
    fn resolve<'a>(&'a self, row: Row<'a>) -> Resolved<'a> {
        match self {
            Self::Constant(json) => Resolved::Json(json),
            Self::Column { column, encoding, null } => match (row[*column], null) {
                (Value::Text(text), _) => Resolved::Text(text, *encoding),
                (Value::Unknown, _) => Resolved::Unknown,
                (Value::Null, Some(json)) => Resolved::Json(json),
                (Value::Null, None) => Resolved::Null,
            },
            Self::FirstOf(columns) => {
                for (column, encoding) in columns {
                    match row[*column] {
                        Value::Text(text) => return Resolved::Text(text, *encoding),
                        // The first that is not null cannot be told behind one that was not sent.
                        Value::Unknown => return Resolved::Unknown,
                        Value::Null => {}
                    }
                }
                Resolved::Null
            }
        }
    }

    fn integer(&self, row: Row<'_>) -> Option<i64> {
        match self.resolve(row) {
            Resolved::Text(text, _) | Resolved::Json(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            Resolved::Null | Resolved::Unknown => None,
        }
    }

    /// Returns whether the two rows differ, or `None` where one of them does not say.
    fn differs(&self, old: Row<'_>, new: Row<'_>) -> Option<bool> {
        let text = |resolved| match resolved {
            Resolved::Text(text, _) | Resolved::Json(text) => Some(Some(text)),
            Resolved::Null => Some(None),
            Resolved::Unknown => None,
        };
        match (text(self.resolve(old)), text(self.resolve(new))) {
            // A value that was not sent with the new row is an unchanged one.
            (_, None) => Some(false),
            (None, Some(_)) => None,
            (Some(old), Some(new)) => Some(old != new),
        }
    }
}

/// `available_stock`, `is_in_stock` and `is_low_stock`; `None` where a value that they need is null.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Availability {
    available: Option<i64>,
    low: Option<bool>,
}

impl StockColumns {
    fn availability(&self, row: Row<'_>) -> Availability {
        let or_zero = |source: &Option<Source>| source.as_ref().map_or(Some(0), |source| source.integer(row));
        let available = self.current.integer(row).zip(or_zero(&self.reserved));
        let available = available.map(|(current, reserved)| current.saturating_sub(reserved).max(0));
        let low = available.zip(or_zero(&self.minimum)).map(|(available, minimum)| available <= minimum);
        Availability { available, low }
    }

    /// Whether the row gives what the derived fields need; a delete under a narrow replica identity does not.
    fn known(&self, row: Row<'_>) -> bool {
        let sources = [Some(&self.current), self.reserved.as_ref(), self.minimum.as_ref()];
        sources.into_iter().flatten().all(|source| !matches!(source.resolve(row), Resolved::Unknown))
    }
}

impl Entry {
    /// Returns how a row tells its part.
    #[must_use]
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// Appends the entity, the record's key; `false` where the row does not give it.
    pub fn write_entity(&self, out: &mut ShortText, row: Row<'_>, part: Option<&[u8]>) -> bool {
        self.entity.write(out, row, part)
    }

    /// Whether a record's key can be an entity of this entry.
    #[must_use]
    pub fn may_be_entity(&self, key: &[u8]) -> bool {
        self.entity.may_give(key)
    }

    /// Appends the groups of a row to a comma-separated list, each once.
    pub fn write_groups(&self, list: &mut ShortText, row: Row<'_>, part: Option<&[u8]>) {
        for template in &self.groups {
            let end = list.len();
            if end > 0 {
                list.push(b',');
            }
            let at = list.len();
            if !template.write(list, row, part) {
                list.truncate(end);
                continue;
            }
            // A comma would make two groups of one; it is written as in a URL.
            if list[at..].contains(&b',') {
                let escaped = escape_commas(&list[at..]);
                list.truncate(at);
                list.extend_from_slice(&escaped);
            }
            let (before, name) = list.split_at(at);
            if before.split(|byte| *byte == b',').any(|other| other == name) {
                list.truncate(end);
            }
        }
    }

    /// Tells what an update does to this event, and appends the fields that differ, comma-separated.
    #[must_use]
    pub fn difference(&self, old: Row<'_>, new: Row<'_>, changed: &mut ShortText) -> Difference {
        let mut counts = false;
        for (field, prefix) in self.all_fields() {
            match field.source.differs(old, new) {
                None => return Difference::NotKnown,
                Some(false) => {}
                Some(true) => {
                    counts |= field.counts;
                    push_name(changed, prefix, &field.name);
                }
            }
        }
        if !counts {
            return Difference::None;
        }
        self.push_derived(changed, old, new);
        Difference::Fields
    }

    fn push_derived(&self, changed: &mut ShortText, old: Row<'_>, new: Row<'_>) {
        let Some(stock) = &self.stock else { return };
        let (old, new) = (stock.availability(old), stock.availability(new));
        let in_stock = |a: Availability| a.available.map(|available| available > 0);
        let derived = [
            ("available_stock", old.available != new.available),
            ("is_in_stock", in_stock(old) != in_stock(new)),
            ("is_low_stock", old.low != new.low),
        ];
        for (name, _) in derived.into_iter().filter(|(_, differs)| *differs) {
            push_name(changed, "", name);
        }
    }

    /// Returns the names of the fields whose value was not sent, comma-separated.
    #[must_use]
    pub fn unavailable(&self, row: Row<'_>) -> ShortText {
        let mut names = ShortText::new();
        // Nearly always nothing: only then is the walk over the fields worth it.
        if row.contains(&Value::Unknown) {
            for (field, prefix) in self.all_fields() {
                if matches!(field.source.resolve(row), Resolved::Unknown) {
                    push_name(&mut names, prefix, &field.name);
                }
            }
        }
        names
    }

    fn all_fields(&self) -> impl Iterator<Item = (&Field, &'static str)> {
        let fields = self.fields.iter().map(|field| (field, ""));
        fields.chain(self.attributes.iter().map(|field| (field, "attributes.")))
    }

    /// Appends the event's `data`: a JSON object of what the row gives.
    pub fn write_data(&self, out: &mut Vec<u8>, row: Row<'_>, part: Option<&[u8]>) {
        out.push(b'{');
        if let (Some(id), Part::Column { encoding, .. } | Part::Through { encoding, .. }) = (part, &self.part) {
            out.extend_from_slice(b"\"part_id\":");
            encoding.write(out, id);
            out.push(b',');
        }
        write_fields(out, &self.fields, row);
        if let Some(stock) = self.stock.as_ref().filter(|stock| stock.known(row)) {
            write_availability(out, stock.availability(row));
        }
        out.extend_from_slice(b"\"attributes\":{");
        write_fields(out, &self.attributes, row);
        if out.last() == Some(&b',') {
            out.pop();
        }
        out.extend_from_slice(b"}}");
    }
}

/// Appends `"name":value,` for each field that the row gives.
fn write_fields(out: &mut Vec<u8>, fields: &[Field], row: Row<'_>) {
    for field in fields {
        let resolved = field.source.resolve(row);
        if matches!(resolved, Resolved::Unknown) {
            continue;
        }
        out.extend_from_slice(&field.label);
        match resolved {
            Resolved::Text(text, encoding) => encoding.write(out, text),
            Resolved::Json(json) => out.extend_from_slice(json),
            Resolved::Null | Resolved::Unknown => out.extend_from_slice(b"null"),
        }
        out.push(b',');
    }
}

fn write_availability(out: &mut Vec<u8>, Availability { available, low }: Availability) {
    let boolean = |value: Option<bool>| match value {
        Some(true) => &b"true"[..],
        Some(false) => b"false",
        None => b"null",
    };
    out.extend_from_slice(b"\"available_stock\":");
    match available {
        Some(available) => write_number(out, available),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"is_in_stock\":");
    out.extend_from_slice(boolean(available.map(|available| available > 0)));
    out.extend_from_slice(b",\"is_low_stock\":");
    out.extend_from_slice(boolean(low));
    out.push(b',');
}

fn push_name(list: &mut ShortText, prefix: &str, name: &str) {
    if !list.is_empty() {
        list.push(b',');
    }
    list.extend_from_slice(prefix.as_bytes());
    list.extend_from_slice(name.as_bytes());
}

fn escape_commas(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len() + 2);
    for &byte in name {
        match byte {
            b',' => escaped.extend_from_slice(b"%2C"),
            byte => escaped.push(byte),
        }
    }
    escaped
}

/// Returns `"name":`, ready to be copied before a value.
pub(super) fn label(name: &str) -> Vec<u8> {
    let mut label = Vec::new();
    write_string(&mut label, name.as_bytes());
    label.push(b':');
    label
}
