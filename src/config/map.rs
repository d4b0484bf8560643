//! `[[source.map]]` as written: entries of the mapping with their places. Whether their tables and columns exist, and
//! whether they fit together, is checked against the database later.

use super::document::{Node, Value};
use super::place::Placed;
use super::section::{Found, Section};
use crate::events::mapping::spec::{EntrySpec, Family, FieldSpec, PartSpec};

const EVENTS: [(&str, Option<Family>); 3] =
    [("stock", Some(Family::Stock)), ("price", Some(Family::Price)), ("content", Some(Family::Content))];

/// Reads every `[[source.map]]` of the section `[source]`.
pub fn read_map(source: &mut Section<'_>) -> Vec<EntrySpec> {
    source.sections("map").into_iter().map(entry).collect()
}

fn entry(mut section: Section<'_>) -> EntrySpec {
    let family = family(&mut section);
    let spec = EntrySpec {
        place: section.place(),
        table: section.required_text("table"),
        family: family.unwrap_or(Family::Content),
        kind: kind(&mut section, family),
        part: part(&mut section),
        entity: section.required_text("entity"),
        groups: section.optional_list("groups").unwrap_or_default(),
        ignore: section.optional_list("ignore").unwrap_or_default(),
        attributes: section.optional_list("attributes"),
        fields: fields(section.section("fields")),
    };
    section.finish();
    spec
}

/// Returns no family where it is missing or wrong: then nothing can be said of the kind.
fn family(section: &mut Section<'_>) -> Option<Family> {
    if !section.has("event") {
        section.required_text("event");
        return None;
    }
    section.choice("event", &EVENTS, None)
}

/// Content comes in kinds, and each needs its name; stock and prices do not.
fn kind(section: &mut Section<'_>, family: Option<Family>) -> Option<Placed<String>> {
    let kind = section.optional_text("kind");
    match (&kind, family) {
        (None, Some(Family::Content)) => {
            section.error("kind", "is missing; expected a name, such as \"image\", for an event of content");
        }
        (Some(_), Some(Family::Stock | Family::Price)) => {
            section.error("kind", "is for events of content; remove it");
        }
        _ => {}
    }
    kind
}

fn part(section: &mut Section<'_>) -> Placed<PartSpec> {
    const EXPECTED: &str = "a column, false, or { through = \"table\", by = \"column\" }";
    if !section.has("part") {
        section.error("part", format!("is missing; expected {EXPECTED}"));
    }
    if let Some(node) = section.table_at("part") {
        let mut inside = section.inside("part", node);
        let place = inside.place();
        let through = inside.required_text("through").value;
        let by = inside.required_text("by").value;
        inside.finish();
        section.take_quietly("part");
        let value = PartSpec::Through { through, by };
        return Placed { value, place };
    }
    let part = section.take("part", EXPECTED, |found| match found {
        Found::Toml(Value::Text(column)) => Some(PartSpec::Column(column.clone())),
        Found::Toml(Value::Flag(false)) => Some(PartSpec::None),
        _ => None,
    });
    part.unwrap_or_else(|| Placed { value: PartSpec::None, place: section.place() })
}

fn fields(mut section: Section<'_>) -> Vec<(Placed<String>, FieldSpec)> {
    let mut fields = Vec::new();
    for (name, node) in section.take_all() {
        let name = Placed { value: name.to_owned(), place: section.document().at(node.line) };
        if let Some(field) = field(&section, &name, node) {
            fields.push((name, field));
        }
    }
    section.finish();
    fields
}

fn field(section: &Section<'_>, name: &Placed<String>, node: &Node) -> Option<FieldSpec> {
    const EXPECTED: &str = "a column, { column = …, null = … }, { value = … } or { first_of = [columns] }";
    let refuse = |message: String| {
        section.refuse(name.place.clone(), &name.value, message);
        None
    };
    match &node.value {
        Value::Text(column) => {
            let column = Placed { value: column.clone(), place: name.place.clone() };
            return Some(FieldSpec::Column { column, null: None });
        }
        Value::Table(_) => {}
        other => return refuse(format!("found {}; expected {EXPECTED}", other.describe())),
    }
    let document = section.document();
    let problems = document.problem_count();
    let mut inside = section.inside(&name.value, node);
    let column = inside.optional_text("column");
    let null = json(&mut inside, "null");
    let constant = json(&mut inside, "value");
    let first_of = inside.optional_list("first_of");
    inside.finish();
    match (column, null, constant, first_of) {
        (Some(column), null, None, None) => Some(FieldSpec::Column { column, null }),
        (None, None, Some(constant), None) => Some(FieldSpec::Constant(constant)),
        (None, None, None, Some(columns)) if !columns.is_empty() => Some(FieldSpec::FirstOf(columns)),
        // A misspelt key was said already.
        _ if document.problem_count() > problems => None,
        _ => refuse(format!("names not exactly one source; expected {EXPECTED}")),
    }
}

/// Reads a constant as JSON text.
fn json(section: &mut Section<'_>, key: &str) -> Option<String> {
    let constant = section.take(key, "a text, a number, true or false", |found| match found {
        Found::Toml(Value::Text(text)) => Some(serde_json::Value::from(text.as_str()).to_string()),
        Found::Toml(Value::Integer(number)) => Some(number.to_string()),
        Found::Toml(Value::Flag(flag)) => Some(flag.to_string()),
        // The text of a finite TOML float is JSON but for underscores and a plus.
        Found::Toml(Value::Other("number", text)) => {
            let text = text.replace('_', "");
            let text = text.trim_start_matches('+');
            serde_json::from_str::<serde_json::Number>(text).ok().map(|_| text.to_owned())
        }
        _ => None,
    });
    constant.map(|constant| constant.value)
}
