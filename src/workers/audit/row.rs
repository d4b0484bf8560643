//! History events → rows of the audit log. A plain function over values.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::events::envelope::Envelope;

/// Longest text of an address that the log's column takes.
const ADDRESS_LENGTH: usize = 45;

/// A row of `data_change_logs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Where the change stands, as text.
    pub position: String,
    /// When its transaction committed, RFC 3339.
    pub changed_at: String,
    /// The changed table; with its schema outside `public`.
    pub table_name: String,
    /// The key as text; a JSON object where it has several columns, `*` for a truncation.
    pub record_id: String,
    /// INSERT, UPDATE, DELETE or TRUNCATE.
    pub operation: &'static str,
    /// The old row as JSON, as far as the log showed it.
    pub old_values: Option<String>,
    /// The new row as JSON.
    pub new_values: Option<String>,
    /// Columns of an update whose text differs; `None` where the old row is not known, or a row is too large for an event.
    pub changed_columns: Option<Vec<String>>,
    /// Whether an application claimed the change.
    pub attributed: bool,
    /// Who that application said it was.
    pub who: Who,
    /// The transaction's id, 32 bits.
    pub xid: Option<i64>,
}

/// What an application said of a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// Goes to `changed_by`.
    pub user_id: Option<String>,
    /// Address of the client.
    pub ip_address: Option<String>,
    /// Program of the client.
    pub user_agent: Option<String>,
    /// Request that made the change.
    pub request_id: Option<String>,
    /// Why it was made.
    pub reason: Option<String>,
}

/// Why an event is no row: it belongs to the dead letters.
#[derive(Debug, thiserror::Error)]
pub enum NoRow {
    /// The event's type is none of the history's.
    #[error("`{0}` is no event of the history")]
    Kind(String),
    /// The event has no data, or not that of the history.
    #[error("the event's data is not that of the history: {0}")]
    Data(String),
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    table: Cow<'a, str>,
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    old: Option<&'a RawValue>,
    #[serde(borrow, default)]
    new: Option<&'a RawValue>,
    #[serde(borrow, default)]
    context: Option<&'a RawValue>,
}

type Columns<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// Maps one event of the history to its row.
///
/// # Errors
/// An event that is none of the history's.
pub fn audit_row(event: &Envelope<'_>) -> Result<AuditRow, NoRow> {
    let operation = match event.kind.as_ref() {
        "history.insert" => "INSERT",
        "history.update" => "UPDATE",
        "history.delete" => "DELETE",
        "history.truncate" => "TRUNCATE",
        other => return Err(NoRow::Kind(other.to_owned())),
    };
    let data = event.data.ok_or_else(|| NoRow::Data("it is missing".to_owned()))?;
    let data: Data<'_> = read(data)?;
    let changed_columns = match (operation, data.old, data.new) {
        // A column that is not there for its length may have changed.
        ("UPDATE", Some(old), Some(new)) if event.unavailable.is_none() => Some(differing(&read(old)?, &read(new)?)),
        _ => None,
    };
    let (attributed, who) = claimed(data.context);
    Ok(AuditRow {
        position: event.position.to_string(),
        changed_at: event.time.clone().into_owned(),
        record_id: if operation == "TRUNCATE" { "*".to_owned() } else { record_id(data.key)? },
        table_name: data.table.into_owned(),
        operation,
        old_values: data.old.map(|row| row.get().to_owned()),
        new_values: data.new.map(|row| row.get().to_owned()),
        changed_columns,
        attributed,
        who,
        xid: event.xid.as_deref().and_then(|xid| xid.parse().ok()),
    })
}

fn read<'a, T: Deserialize<'a>>(json: &'a RawValue) -> Result<T, NoRow> {
    serde_json::from_str(json.get()).map_err(|error| NoRow::Data(error.to_string()))
}

/// Returns the key's value, or the key itself where it has several columns: joined values would be ambiguous.
fn record_id(key: Option<&RawValue>) -> Result<String, NoRow> {
    let Some(key) = key else {
        return Ok(String::new());
    };
    let columns: Columns<'_> = read(key)?;
    Ok(match columns.len() {
        0 => String::new(),
        1 => columns.values().next().and_then(|value| text(value)).unwrap_or_default(),
        _ => key.get().to_owned(),
    })
}

/// Returns the new row's columns whose text is not that of the old row.
fn differing(old: &Columns<'_>, new: &Columns<'_>) -> Vec<String> {
    new.iter()
        .filter(|(name, value)| old.get(*name).is_none_or(|before| before.get() != value.get()))
        .map(|(name, _)| name.clone().into_owned())
        .collect()
}

/// Reads the context. One that was no JSON object claims nothing, but its text is kept as the reason.
fn claimed(context: Option<&RawValue>) -> (bool, Who) {
    let Some(columns) = context.and_then(|context| serde_json::from_str::<Columns<'_>>(context.get()).ok()) else {
        return (false, Who::default());
    };
    let field = |name: &str| columns.get(name).and_then(|value| text(value));
    if let Some(invalid) = field("invalid") {
        return (false, Who { reason: Some(invalid), ..Who::default() });
    }
    let ip_address = field("ip_address").map(|address| address.chars().take(ADDRESS_LENGTH).collect());
    let who = Who {
        user_id: field("user_id"),
        ip_address,
        user_agent: field("user_agent"),
        request_id: field("request_id"),
        reason: field("reason"),
    };
    (true, who)
}

/// Returns a scalar as text, anything else as its JSON; `None` for null. PostgreSQL's text cannot hold the character NUL.
fn text(value: &RawValue) -> Option<String> {
    match serde_json::from_str::<Option<Cow<'_, str>>>(value.get()) {
        Ok(None) => None,
        Ok(Some(text)) => Some(text.replace('\0', "\u{FFFD}")),
        Err(_) => Some(value.get().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(kind: &str, data: &str) -> String {
        format!(
            r#"{{"specversion":"1.0","id":"00000001-00000000000000AB-00000002/history","source":"/highwater/shop",
            "type":"{kind}","time":"2026-11-21T10:00:00.123456Z","position":"00000001-00000000000000AB-00000002",
            "xid":"7301","data":{data}}}"#
        )
    }

    fn row(kind: &str, data: &str) -> Result<AuditRow, NoRow> {
        audit_row(&Envelope::parse(event(kind, data).as_bytes()).unwrap())
    }

    #[test]
    fn an_update_tells_what_changed_and_who_did_it() {
        let row = row(
            "history.update",
            r#"{"table":"parts","key":{"id":42},"old":{"id":42,"part_name":"a","version":1},
                "new":{"id":42,"part_name":"b","version":2},
                "context":{"user_id":5,"ip_address":"192.0.2.1","user_agent":"x","request_id":"r1","reason":null},"total":1}"#,
        )
        .unwrap();
        assert_eq!(row.record_id, "42");
        assert_eq!(row.operation, "UPDATE");
        assert_eq!(row.changed_columns, Some(vec!["part_name".to_owned(), "version".to_owned()]));
        assert!(row.attributed);
        assert_eq!(row.who.user_id.as_deref(), Some("5"));
        assert_eq!((row.who.reason, row.xid), (None, Some(7301)));
        assert_eq!(row.old_values.as_deref(), Some(r#"{"id":42,"part_name":"a","version":1}"#));
    }

    #[test]
    fn an_update_of_a_row_too_large_for_an_event_claims_no_changed_columns() {
        let data = r#"{"table":"t","key":{"id":1},"old":{"id":1,"a":"x"},"new":{"id":1,"a":"y"},"context":null}"#;
        let event = event("history.update", data).replace(r#""data""#, r#""unavailable":"b","data""#);
        let row = audit_row(&Envelope::parse(event.as_bytes()).unwrap()).unwrap();
        assert_eq!((row.operation, row.changed_columns), ("UPDATE", None));
    }

    #[test]
    fn what_nobody_claimed_is_unattributed() {
        for context in ["null", r#"{"invalid":"not json"}"#] {
            let data =
                format!(r#"{{"table":"t","key":{{"id":"x"}},"old":null,"new":{{"id":"x"}},"context":{context}}}"#);
            let row = row("history.insert", &data).unwrap();
            assert!(!row.attributed && row.who.user_id.is_none(), "{context}");
            assert_eq!((row.record_id.as_str(), &row.old_values), ("x", &None));
        }
    }

    #[test]
    fn a_truncation_is_one_row_for_all_records() {
        let row =
            row("history.truncate", r#"{"table":"parts","key":null,"old":null,"new":null,"context":null}"#).unwrap();
        assert_eq!((row.record_id.as_str(), row.operation), ("*", "TRUNCATE"));
        assert_eq!((row.old_values, row.new_values), (None, None));
    }

    #[test]
    fn an_update_without_its_old_row_claims_no_changed_columns() {
        let row = row("history.update", r#"{"table":"t","key":{"id":1},"old":null,"new":{"id":1},"context":null}"#);
        assert_eq!(row.unwrap().changed_columns, None);
    }

    #[test]
    fn a_key_of_several_columns_stays_unambiguous() {
        let data = r#"{"table":"t","key":{"a":"1,2","b":3},"old":null,"new":{"a":"1,2","b":3},"context":null}"#;
        assert_eq!(row("history.insert", data).unwrap().record_id, r#"{"a":"1,2","b":3}"#);
    }

    #[test]
    fn other_events_are_refused() {
        assert!(matches!(row("stock.updated", r#"{"table":"t"}"#), Err(NoRow::Kind(_))));
        assert!(matches!(row("history.update", r#"{"table":7}"#), Err(NoRow::Data(_))));
    }

    proptest! {
        #[test]
        fn no_context_makes_a_text_that_postgres_refuses(user in any::<String>(), address in any::<String>()) {
            let context = serde_json::json!({ "user_id": user, "ip_address": address });
            let data = format!(r#"{{"table":"t","key":{{"id":1}},"old":null,"new":{{"id":1}},"context":{context}}}"#);
            let who = row("history.insert", &data).unwrap().who;
            let texts = [who.user_id.unwrap(), who.ip_address.unwrap()];
            prop_assert!(texts.iter().all(|text| !text.contains('\0')));
            prop_assert!(texts[1].chars().count() <= ADDRESS_LENGTH);
        }
    }
}
