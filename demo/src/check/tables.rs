//! The captured tables as the checker knows them: their rows in the database, and what an event must say of a row.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use tokio_postgres::Client;

/// How a column's value looks in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Number,
    Flag,
    Text,
    Time,
}
use Form::{Flag, Number, Text, Time};

/// A captured table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The state topic, without its prefix.
    pub(super) topic: &'static str,
    /// Before the key's column in the record's key: `image/` of `image/977`.
    pub(super) key_prefix: &'static str,
    /// The column behind the prefix.
    pub(super) key_column: &'static str,
    /// The column with the part, if the table is of parts.
    pub(super) part_column: Option<&'static str>,
    columns: &'static [(&'static str, Form)],
}

/// Not for shoppers: state events must not have it.
const HIDDEN: [&str; 1] = ["last_updated_by"];
/// Columns that an event may leave out, because its key says them or shoppers do not need them.
const OPTIONAL: [&str; 3] = ["id", "part_id", "created_at"];

pub(super) static TABLES: [Table; 7] = [
    Table {
        name: "categories",
        topic: "content",
        key_prefix: "category/",
        key_column: "id",
        part_column: None,
        columns: &[
            ("id", Number),
            ("parent_id", Number),
            ("name", Text),
            ("slug", Text),
            ("description", Text),
            ("sort_order", Number),
            ("is_active", Flag),
            ("created_at", Time),
            ("updated_at", Time),
        ],
    },
    Table {
        name: "parts",
        topic: "content",
        key_prefix: "",
        key_column: "id",
        part_column: Some("id"),
        columns: &[
            ("id", Number),
            ("parent_id", Number),
            ("category_id", Number),
            ("sku", Text),
            ("part_name", Text),
            ("brand", Text),
            ("description", Text),
            ("is_active", Flag),
            ("version", Number),
            ("created_at", Time),
            ("updated_at", Time),
        ],
    },
    Table {
        name: "stock_levels",
        topic: "stock",
        key_prefix: "",
        key_column: "part_id",
        part_column: Some("part_id"),
        columns: &[
            ("id", Number),
            ("part_id", Number),
            ("current_stock", Number),
            ("reserved_quantity", Number),
            ("min_stock_level", Number),
            ("version", Number),
            ("last_updated_by", Number),
            ("created_at", Time),
            ("updated_at", Time),
        ],
    },
    Table {
        name: "part_prices",
        topic: "prices",
        key_prefix: "price/",
        key_column: "id",
        part_column: Some("part_id"),
        columns: &[
            ("id", Number),
            ("part_id", Number),
            ("price_type", Text),
            ("price", Text),
            ("currency", Text),
            ("min_quantity", Number),
            ("valid_from", Time),
            ("valid_to", Time),
            ("is_active", Flag),
            ("created_at", Time),
            ("updated_at", Time),
        ],
    },
    Table {
        name: "prices",
        topic: "prices",
        key_prefix: "legacy-price/",
        key_column: "id",
        part_column: Some("part_id"),
        columns: &[
            ("id", Number),
            ("part_id", Number),
            ("price", Text),
            ("currency", Text),
            ("created_at", Time),
            ("updated_at", Time),
        ],
    },
    Table {
        name: "part_images",
        topic: "content",
        key_prefix: "image/",
        key_column: "id",
        part_column: Some("part_id"),
        columns: &[
            ("id", Number),
            ("part_id", Number),
            ("url", Text),
            ("alt_text", Text),
            ("sort_order", Number),
            ("is_primary", Flag),
            ("created_at", Time),
            ("updated_at", Time),
        ],
    },
    Table {
        name: "part_specifications",
        topic: "content",
        key_prefix: "spec/",
        key_column: "id",
        part_column: Some("part_id"),
        columns: &[
            ("id", Number),
            ("part_id", Number),
            ("spec_name", Text),
            ("spec_value", Text),
            ("unit", Text),
            ("sort_order", Number),
            ("created_at", Time),
            ("updated_at", Time),
        ],
    },
];

/// A row, each value as PostgreSQL's own text.
pub(super) type Row = Vec<Option<String>>;

/// The rows of every table, by record key.
pub(super) type Rows = BTreeMap<&'static str, HashMap<String, Row>>;

/// Reads every captured table, all in one snapshot.
pub(super) async fn read(client: &mut Client) -> Result<Rows> {
    let transaction = client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let transaction = transaction.read_only(true).start().await?;
    transaction.batch_execute("SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'").await?;
    let mut all = Rows::new();
    for table in &TABLES {
        let columns: Vec<String> = table.columns.iter().map(|(name, _)| format!("{name}::text")).collect();
        let statement = format!("SELECT {} FROM {}", columns.join(", "), table.name);
        let rows = transaction.query(&statement, &[]).await.with_context(|| format!("cannot read {}", table.name))?;
        let rows = rows.iter().map(|row| (0..columns.len()).map(|column| row.get(column)).collect::<Row>());
        all.insert(table.name, rows.map(|row| (table.key(&row), row)).collect());
    }
    transaction.commit().await?;
    Ok(all)
}

/// Returns the table that feeds a key of a topic.
pub(super) fn table_of(topic: &str, key: &str) -> Option<&'static Table> {
    let prefix = key.find('/').map_or("", |slash| &key[..=slash]);
    TABLES.iter().find(|table| table.topic == topic && table.key_prefix == prefix)
}

impl Table {
    fn column<'a>(&self, row: &'a Row, name: &str) -> Option<&'a str> {
        let index = self.columns.iter().position(|(column, _)| *column == name)?;
        row.get(index)?.as_deref()
    }

    /// Returns the key of the record that shows this row.
    pub(super) fn key(&self, row: &Row) -> String {
        format!("{}{}", self.key_prefix, self.column(row, self.key_column).unwrap_or_default())
    }

    /// Returns the part that the row is of.
    pub(super) fn part<'a>(&self, row: &'a Row) -> Option<&'a str> {
        self.column(row, self.part_column?)
    }

    /// Tells in what the data of a state event is not the row.
    pub(super) fn state_differences(&self, row: &Row, data: &Value) -> Vec<String> {
        let mut found = Vec::new();
        for ((name, form), value) in self.columns.iter().zip(row) {
            let shown = data.get(name).or_else(|| data.get("attributes")?.get(name));
            match shown {
                Some(_) if HIDDEN.contains(name) => found.push(format!("{name} is shown to shoppers")),
                None if HIDDEN.contains(name) || OPTIONAL.contains(name) => {}
                Some(shown) if says(shown, *form, value.as_deref(), true) => {}
                shown => found.push(format!("{name} is {shown:?}, the row has {value:?}")),
            }
        }
        if self.name == "stock_levels" {
            found.extend(self.derived_differences(row, data));
        }
        found
    }

    /// Compares what a stock event derives.
    fn derived_differences(&self, row: &Row, data: &Value) -> Vec<String> {
        let number = |name| self.column(row, name).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        let available = (number("current_stock") - number("reserved_quantity")).max(0);
        let expected = [
            ("available_stock", Value::from(available)),
            ("is_in_stock", Value::from(available > 0)),
            ("is_low_stock", Value::from(available <= number("min_stock_level"))),
        ];
        let differs = |(name, value): &(&str, Value)| data.get(*name) != Some(value);
        let told = |(name, value): (&str, Value)| format!("{name} is {:?}, not {value}", data.get(name));
        expected.into_iter().filter(differs).map(told).collect()
    }

    /// Tells in what a row of the history is not the row of the database.
    pub(super) fn history_differences(&self, row: &Row, shown: &Map<String, Value>) -> Vec<String> {
        let mut found = Vec::new();
        for ((name, form), value) in self.columns.iter().zip(row) {
            let shown = shown.get(*name);
            if !shown.is_some_and(|shown| says(shown, *form, value.as_deref(), false)) {
                found.push(format!("{name} is {shown:?}, the row has {value:?}"));
            }
        }
        found
    }
}

/// Tells whether an event's value says what PostgreSQL's text says.
fn says(shown: &Value, form: Form, text: Option<&str>, rfc_3339: bool) -> bool {
    let Some(text) = text else {
        return shown.is_null();
    };
    match (form, shown) {
        (Number, Value::Number(number)) => number.to_string() == text,
        (Flag, Value::Bool(flag)) => text == if *flag { "true" } else { "false" },
        (Text, Value::String(shown)) => shown == text,
        (Time, Value::String(shown)) => {
            if rfc_3339 {
                as_postgres(shown).as_deref() == Some(text)
            } else {
                shown == text
            }
        }
        _ => false,
    }
}

/// Turns `2026-11-21T10:00:00.120Z` into `2026-11-21 10:00:00.12+00`.
fn as_postgres(time: &str) -> Option<String> {
    let (day, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let clock = match clock.split_once('.') {
        Some((seconds, fraction)) => {
            format!("{seconds}.{fraction}").trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        None => clock.to_owned(),
    };
    Some(format!("{day} {clock}+00"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stock() -> (&'static Table, Row) {
        let row = ["1", "42", "50", "8", "5", "3", "9", "2026-01-01 00:00:00+00", "2026-01-01 10:00:00.12+00"];
        (&TABLES[2], row.map(|text| Some(text.to_owned())).to_vec())
    }

    fn data() -> Value {
        json!({ "part_id": 42, "current_stock": 50, "reserved_quantity": 8, "min_stock_level": 5, "version": 3,
                "updated_at": "2026-01-01T10:00:00.120000Z", "available_stock": 42, "is_in_stock": true,
                "is_low_stock": false })
    }

    #[test]
    fn an_event_that_says_the_row_has_no_differences() {
        let (table, row) = stock();
        assert_eq!(table.key(&row), "42");
        assert_eq!(table.state_differences(&row, &data()), Vec::<String>::new());
    }

    #[test]
    fn every_field_that_is_wrong_or_missing_is_a_difference() {
        let (table, row) = stock();
        for field in ["current_stock", "version", "updated_at", "available_stock", "is_low_stock"] {
            let (mut wrong, mut missing) = (data(), data());
            wrong[field] = json!("x");
            missing.as_object_mut().unwrap().remove(field);
            assert_eq!(table.state_differences(&row, &wrong).len(), 1, "{field}");
            assert_eq!(table.state_differences(&row, &missing).len(), 1, "{field}");
        }
        let mut shown = data();
        shown["attributes"] = json!({ "last_updated_by": 9 });
        assert_eq!(table.state_differences(&row, &shown).len(), 1);
    }

    #[test]
    fn keys_tell_their_table() {
        assert_eq!(table_of("content", "image/7").map(|table| table.name), Some("part_images"));
        assert_eq!(table_of("content", "7").map(|table| table.name), Some("parts"));
        assert_eq!(table_of("stock", "7").map(|table| table.name), Some("stock_levels"));
        assert!(table_of("stock", "image/7").is_none());
    }
}
