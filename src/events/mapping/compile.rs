//! Checks a mapping entry against its table. Promise: what cannot work is refused at the start, all of it at once, with
//! the place in the configuration and the nearest right name.

use highwater_postgres::quote;

use super::declared::{Kind, declared_fields};
use super::entry::{Entry, Field, Part, Source, StockColumns, label};
use super::spec::{EntrySpec, Family, FieldSpec, PartSpec, Place, Placed};
use super::template::{Template, TemplateError};
use crate::config::instead;
use crate::events::json::Encoding;
use crate::events::row::Table;

/// A mapping entry that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct MappingError {
    /// Where it stands.
    pub place: Place,
    /// The entry's table, as the configuration names it.
    pub table: String,
    /// What is wrong, and what would be right.
    pub message: String,
    /// The statement that mends it, where it is the database that is to change.
    pub remedy: Option<String>,
}

impl MappingError {
    /// Makes an error that the configuration is to mend.
    #[must_use]
    pub fn new(place: &Place, table: &str, message: String) -> Self {
        Self { place: place.clone(), table: table.to_owned(), message, remedy: None }
    }
}

/// Names that mean something else in ids and keys.
const RESERVED_KINDS: &[&str] = &["stock", "price", "history", "mark", "truncate"];

/// Checks the entries against each other, before any table is known.
///
/// # Errors
/// Two entries with one event and kind for a table, a kind where none belongs, and the reverse.
pub fn check_entries(specs: &[EntrySpec]) -> Result<(), Vec<MappingError>> {
    let mut errors = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        let mut refuse = |message| errors.push(MappingError::new(&spec.place, &spec.table.value, message));
        let kind = spec.kind.as_ref().map(|kind| kind.value.as_str());
        let twin = specs[..at].iter().find(|other| {
            let same_kind = other.kind.as_ref().map(|kind| kind.value.as_str()) == kind;
            other.table.value == spec.table.value && other.family == spec.family && same_kind
        });
        if let Some(twin) = twin {
            let event = spec.family.name();
            let message =
                format!("table `{}` feeds `{event}` already, by the entry at {}", spec.table.value, twin.place);
            refuse(message);
        }
        match (spec.family, kind) {
            (Family::Content, None) => {
                refuse("event `content` needs a `kind`, such as `kind = \"image\"`".to_owned());
            }
            (Family::Content, Some(kind)) => check_kind(kind).into_iter().for_each(refuse),
            (family, Some(_)) => refuse(format!("event `{}` has no `kind`: remove it", family.name())),
            (_, None) => {}
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn check_kind(kind: &str) -> Option<String> {
    let plain =
        !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
    if plain && !RESERVED_KINDS.contains(&kind) {
        return None;
    }
    Some(format!(
        "`{kind}` cannot be a kind: use lower-case letters, digits, `-` and `_`, and none of {}",
        RESERVED_KINDS.join(", ")
    ))
}

/// Checks an entry against its table. `siblings` are all entries of the table, this one included: columns that none of
/// them names stand under `attributes`. `part_encoding` is how the part's id becomes JSON where it stands one step away.
///
/// # Errors
/// Everything that is wrong with the entry.
pub fn compile(
    spec: &EntrySpec,
    siblings: &[&EntrySpec],
    table: &Table,
    part_encoding: Encoding,
) -> Result<Entry, Vec<MappingError>> {
    let mut check = Check { table, errors: Vec::new() };
    let part = check.part(&spec.part, part_encoding);
    let part_column = match &part {
        Part::Column { column, .. } => Some(*column),
        Part::Through { by, .. } => Some(*by),
        Part::None => None,
    };
    let entity = check.entity(spec, &part, part_column);
    let has_part = part != Part::None;
    let groups = spec.groups.iter().filter_map(|group| check.template(group, has_part)).collect();
    let ignore: Vec<usize> = spec.ignore.iter().filter_map(|name| check.column(name)).collect();
    let mut fields = check.fields(spec, &ignore);
    check.declared_columns(spec, &mut fields, &ignore);
    let attributes = check.attributes(spec, siblings, &fields, &ignore);
    let stock = (spec.family == Family::Stock).then(|| check.stock(spec, &fields)).flatten();
    match (entity, check.errors.is_empty()) {
        (Some(entity), true) => Ok(Entry {
            family: spec.family,
            name: spec.kind.as_ref().map_or(spec.family.name(), |kind| &kind.value).to_owned(),
            part,
            entity,
            groups,
            fields,
            attributes,
            stock,
        }),
        _ => Err(check.errors),
    }
}

struct Check<'a> {
    table: &'a Table,
    errors: Vec<MappingError>,
}

impl Check<'_> {
    fn refuse(&mut self, place: &Place, message: String) {
        self.errors.push(MappingError::new(place, &self.table.name, message));
    }

    fn column(&mut self, name: &Placed<String>) -> Option<usize> {
        let column = self.table.column(&name.value);
        if column.is_none() {
            let message = self.no_column(&name.value);
            self.refuse(&name.place, message);
        } else if name.value.contains(',') {
            self.refuse(
                &name.place,
                format!("column `{}` has a comma in its name, which lists of fields cannot hold", name.value),
            );
        }
        column
    }

    fn no_column(&self, name: &str) -> String {
        let names = self.table.columns.iter().map(|column| column.name.as_str());
        format!("table `{}` has no published column `{name}`; {}", self.table.name, instead(name, names))
    }

    fn part(&mut self, part: &Placed<PartSpec>, part_encoding: Encoding) -> Part {
        let mut by_column = |name: &String| self.column(&Placed { value: name.clone(), place: part.place.clone() });
        let found = match &part.value {
            PartSpec::None => return Part::None,
            PartSpec::Column(name) => by_column(name).map(|column| Part::Column { column, encoding: Encoding::Text }),
            PartSpec::Through { through, by } => {
                by_column(by).map(|by| Part::Through { table: through.clone(), by, encoding: part_encoding })
            }
        };
        match found {
            Some(Part::Column { column, .. }) => {
                self.in_identity(column, &part.place);
                Part::Column { column, encoding: self.table.columns[column].encoding }
            }
            Some(Part::Through { table, by, encoding }) => {
                self.in_identity(by, &part.place);
                Part::Through { table, by, encoding }
            }
            Some(Part::None) | None => Part::None,
        }
    }

    /// Refuses a column that a delete would not give, because the delete could not be routed.
    fn in_identity(&mut self, column: usize, place: &Place) {
        if self.table.in_identity(column) {
            return;
        }
        let (table, name) = (&self.table.name, &self.table.columns[column].name);
        let message = format!(
            "column `{name}` is outside the replica identity of table `{table}`, so a delete could not be routed: \
             run `ALTER TABLE {table} REPLICA IDENTITY FULL`, or give it a unique index that holds the primary key and `{name}`, and \
             `ALTER TABLE {table} REPLICA IDENTITY USING INDEX …`"
        );
        let remedy = Some(format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table_in_sql(table)));
        self.errors.push(MappingError { remedy, ..MappingError::new(place, table, message) });
    }

    fn template(&mut self, template: &Placed<String>, has_part: bool) -> Option<Template> {
        match Template::compile(&template.value, self.table, has_part) {
            Ok(compiled) => return Some(compiled),
            Err(TemplateError::Malformed) => {
                self.refuse(&template.place, format!("template `{}` has a brace without its partner", template.value));
            }
            Err(TemplateError::NoColumn(name)) => {
                let message = self.no_column(&name);
                self.refuse(&template.place, format!("template `{}`: {message}", template.value));
            }
        }
        None
    }

    fn entity(&mut self, spec: &EntrySpec, part: &Part, part_column: Option<usize>) -> Option<Template> {
        let template = self.template(&spec.entity, *part != Part::None)?;
        let columns: Vec<usize> = template.columns(part_column).collect();
        for column in &columns {
            self.in_identity(*column, &spec.entity.place);
        }
        if !self.table.identifies(&columns) {
            let message = if template.is_bare_part() {
                format!(
                    "a part may have several rows in `{}`, so `{{part_id}}` is not enough: add a key, such as `{}/{{id}}`",
                    self.table.name,
                    spec.kind.as_ref().map_or(spec.family.name(), |kind| &kind.value)
                )
            } else {
                format!(
                    "template `{}` does not hold the primary key of `{}` or another unique key: two rows would share it",
                    spec.entity.value, self.table.name
                )
            };
            self.refuse(&spec.entity.place, message);
        }
        Some(template)
    }

    fn fields(&mut self, spec: &EntrySpec, ignore: &[usize]) -> Vec<Field> {
        let known = declared_fields(spec.family);
        let mut fields = Vec::new();
        for (name, field) in &spec.fields {
            let declared = known.iter().find(|declared| declared.name == name.value);
            if declared.is_none() && spec.family != Family::Content {
                let names = known.iter().map(|declared| declared.name);
                let (event, near) = (spec.family.name(), instead(&name.value, names));
                self.refuse(&name.place, format!("event `{event}` has no field `{}`; {near}", name.value));
                continue;
            }
            if name.value.contains(',') || matches!(name.value.as_str(), "part_id" | "attributes") {
                self.refuse(&name.place, format!("`{}` cannot be the name of a field", name.value));
                continue;
            }
            let kind = declared.map_or(Kind::Any, |declared| declared.kind);
            if let Some(source) = self.source(name, field, kind) {
                fields.push(new_field(&name.value, source, ignore));
            }
        }
        fields
    }

    fn source(&mut self, name: &Placed<String>, field: &FieldSpec, kind: Kind) -> Option<Source> {
        match field {
            FieldSpec::Constant(json) => Some(Source::Constant(json.clone().into_bytes())),
            FieldSpec::Column { column, null } => {
                let index = self.column(column)?;
                let encoding = self.encoding(name, index, kind)?;
                Some(Source::Column { column: index, encoding, null: null.clone().map(String::into_bytes) })
            }
            FieldSpec::FirstOf(columns) => {
                let found: Vec<usize> = columns.iter().filter_map(|column| self.column(column)).collect();
                let with_encoding =
                    found.into_iter().filter_map(|index| Some((index, self.encoding(name, index, kind)?)));
                Some(Source::FirstOf(with_encoding.collect()))
            }
        }
    }

    fn encoding(&mut self, field: &Placed<String>, index: usize, kind: Kind) -> Option<Encoding> {
        let column = &self.table.columns[index];
        match kind {
            Kind::Integer if column.encoding != Encoding::Number => {
                let (table, column) = (&self.table.name, &column.name);
                let message =
                    format!("field `{}` is a whole number, but column `{column}` of `{table}` is not", field.value);
                self.refuse(&field.place, message);
                None
            }
            Kind::Time if column.instant => Some(Encoding::Time),
            Kind::Integer | Kind::Time | Kind::Any => Some(column.encoding),
        }
    }

    /// Adds the declared fields that the entry does not name and whose column has the field's own name.
    fn declared_columns(&mut self, spec: &EntrySpec, fields: &mut Vec<Field>, ignore: &[usize]) {
        if spec.family == Family::Content {
            return;
        }
        for declared in declared_fields(spec.family) {
            let named = spec.fields.iter().any(|(name, _)| name.value == declared.name);
            if let (false, Some(column)) = (named, self.table.column(declared.name)) {
                let name = Placed { value: declared.name.to_owned(), place: spec.place.clone() };
                if let Some(encoding) = self.encoding(&name, column, declared.kind) {
                    fields.push(new_field(declared.name, Source::Column { column, encoding, null: None }, ignore));
                }
            }
        }
    }

    fn attributes(&mut self, spec: &EntrySpec, siblings: &[&EntrySpec], own: &[Field], ignore: &[usize]) -> Vec<Field> {
        let chosen: Vec<usize> = if let Some(names) = &spec.attributes {
            names.iter().filter_map(|name| self.column(name)).collect()
        } else {
            let used = |column: &usize| {
                own.iter().any(|field| reads(&field.source, *column))
                    || siblings.iter().any(|sibling| names_column(sibling, &self.table.columns[*column].name))
            };
            (0..self.table.columns.len()).filter(|column| !used(column)).collect()
        };
        let mut fields = Vec::with_capacity(chosen.len());
        for index in chosen {
            let column = &self.table.columns[index];
            if column.name.contains(',') {
                let message = format!("column `{}` has a comma in its name: leave it out by `attributes`", column.name);
                self.refuse(&spec.place, message);
                continue;
            }
            let source = Source::Column { column: index, encoding: column.encoding, null: None };
            fields.push(new_field(&column.name, source, ignore));
        }
        fields
    }

    fn stock(&mut self, spec: &EntrySpec, fields: &[Field]) -> Option<StockColumns> {
        let source = |name: &str| fields.iter().find(|field| field.name == name).map(|field| field.source.clone());
        let Some(current) = source("current_stock") else {
            let message = format!(
                "event `stock` needs the field `current_stock`: name the column of `{}` that holds it",
                self.table.name
            );
            self.refuse(&spec.place, message);
            return None;
        };
        Some(StockColumns { current, reserved: source("reserved_quantity"), minimum: source("min_stock_level") })
    }
}

/// Returns a table's name as statements take it, from the name by which the mapping calls it.
#[must_use]
pub fn table_in_sql(name: &str) -> String {
    name.split_once('.').map_or_else(|| quote::identifier(name), |(schema, table)| quote::qualified(schema, table))
}

/// Whether any of a table's entries reads the column into its events.
#[must_use]
pub fn reads_column(entries: &[&EntrySpec], name: &str) -> bool {
    let own_name = |spec: &&EntrySpec| declared_fields(spec.family).iter().any(|declared| declared.name == name);
    entries.iter().any(|spec| {
        let ignored = spec.ignore.iter().any(|column| column.value == name);
        let as_attribute = spec.attributes.is_none() && !ignored;
        as_attribute || names_column(spec, name) || own_name(spec)
    })
}

fn new_field(name: &str, source: Source, ignore: &[usize]) -> Field {
    let counts = match &source {
        Source::Column { column, .. } => !ignore.contains(column),
        Source::FirstOf(columns) => columns.iter().any(|(column, _)| !ignore.contains(column)),
        Source::Constant(_) => false,
    };
    Field { name: name.to_owned(), label: label(name), source, counts }
}

fn reads(source: &Source, column: usize) -> bool {
    match source {
        Source::Column { column: own, .. } => *own == column,
        Source::FirstOf(columns) => columns.iter().any(|(own, _)| *own == column),
        Source::Constant(_) => false,
    }
}

/// Whether an entry names the column in any of its settings.
fn names_column(spec: &EntrySpec, name: &str) -> bool {
    let in_fields = spec.fields.iter().any(|(field, source)| match source {
        FieldSpec::Column { column, .. } => column.value == name,
        FieldSpec::FirstOf(columns) => columns.iter().any(|column| column.value == name),
        FieldSpec::Constant(_) => field.value == name,
    });
    let in_part = match &spec.part.value {
        PartSpec::Column(column) | PartSpec::Through { by: column, .. } => column == name,
        PartSpec::None => false,
    };
    let in_attributes = spec.attributes.iter().flatten().any(|column| column.value == name);
    in_fields || in_part || in_attributes || spec.ignore.iter().any(|column| column.value == name)
}
