//! Changes → history events: the whole story, rows as they stand in the table, with who did it.

use super::draft::{Draft, Drafts, Heading, Stamp, Topic};
use super::json::{ShortText, write_string};
use super::row::{Change, Row, Table, Value, without_long};

/// Prefix of the transactional logical message that tells who made the changes after it.
pub const CONTEXT_PREFIX: &[u8] = b"highwater.context";

/// Returns the context to publish for a message's content: the JSON object itself, or its text where it is none.
#[must_use]
pub fn context_json(content: &[u8]) -> Vec<u8> {
    if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(content).is_ok() {
        return content.to_vec();
    }
    let mut json = b"{\"invalid\":".to_vec();
    write_string(&mut json, content);
    json.push(b'}');
    json
}

/// Writes the history event of one change; `context` is JSON, empty where no application claimed the change.
#[must_use]
pub fn write_history(
    drafts: &mut Drafts,
    table: &Table,
    change: Change<'_>,
    stamp: &Stamp<'_>,
    seq: u32,
    context: &[u8],
) -> Draft {
    let (kind, old, new) = match change {
        Change::Insert { new } | Change::Snapshot { new } => ("history.insert", None, Some(new)),
        Change::Update { old, new } => ("history.update", old, Some(new)),
        Change::Delete { old } => ("history.delete", Some(old), None),
    };
    Draft::within_limit(|longest| {
        let Some(longest) = longest else {
            return write_rows(drafts, table, kind, [old, new], stamp, seq, context, b"");
        };
        let short = [old, new].map(|row| row.map(|row| without_long(row, longest)));
        let left_out = left_out(table, &[old, new], &short);
        write_rows(drafts, table, kind, short.each_ref().map(Option::as_deref), stamp, seq, context, &left_out)
    })
}

/// Returns the names of the columns of which a row had a value that its short form has not, comma-separated.
fn left_out(table: &Table, rows: &[Option<Row<'_>>; 2], short: &[Option<Vec<Value<'_>>>; 2]) -> Vec<u8> {
    let lacks = |at: usize| {
        rows.iter()
            .zip(short)
            .any(|(row, short)| row.and_then(|row| row.get(at)) != short.as_ref().and_then(|row| row.get(at)))
    };
    let names = table
        .columns
        .iter()
        .enumerate()
        .filter(|(at, _)| lacks(*at))
        .map(|(_, column)| column.name.replace(',', "%2C"));
    names.collect::<Vec<_>>().join(",").into_bytes()
}

#[expect(clippy::too_many_arguments, reason = "each part of an event that differs from event to event")]
fn write_rows(
    drafts: &mut Drafts,
    table: &Table,
    kind: &str,
    [old, new]: [Option<Row<'_>>; 2],
    stamp: &Stamp<'_>,
    seq: u32,
    context: &[u8],
    unavailable: &[u8],
) -> Draft {
    let keyed = new.or(old).unwrap_or(&[]);
    let mut draft = begin(drafts, table, kind, keyed, stamp, seq);
    draft.attribute("unavailable", unavailable);
    draft.finish(|out| {
        out.extend_from_slice(b"{\"table\":");
        write_string(out, table.name.as_bytes());
        out.extend_from_slice(b",\"key\":");
        write_columns(out, table, keyed, table.primary_key.iter().copied());
        for (label, row) in [(&b",\"old\":"[..], old), (b",\"new\":", new)] {
            out.extend_from_slice(label);
            match row {
                Some(row) => write_columns(out, table, row, 0..table.columns.len()),
                None => out.extend_from_slice(b"null"),
            }
        }
        write_context(out, context);
    });
    draft
}

/// Writes the history event of a truncated table.
#[must_use]
pub fn write_history_truncation(
    drafts: &mut Drafts,
    table: &Table,
    stamp: &Stamp<'_>,
    seq: u32,
    context: &[u8],
) -> Draft {
    let mut draft = begin(drafts, table, "history.truncate", &[], stamp, seq);
    draft.finish(|out| {
        out.extend_from_slice(b"{\"table\":");
        write_string(out, table.name.as_bytes());
        out.extend_from_slice(b",\"key\":null,\"old\":null,\"new\":null");
        write_context(out, context);
    });
    draft
}

fn begin(drafts: &mut Drafts, table: &Table, kind: &str, keyed: Row<'_>, stamp: &Stamp<'_>, seq: u32) -> Draft {
    let mut entity = ShortText::from_slice(table.name.as_bytes());
    for (at, column) in table.primary_key.iter().enumerate() {
        if let Some(Value::Text(text)) = keyed.get(*column) {
            entity.push(if at == 0 { b'/' } else { b',' });
            entity.extend_from_slice(text);
        }
    }
    let heading = Heading { id_tail: &[b"history"], subject: &[table.name.as_bytes()], entity: &entity };
    // The topic has one partition, so that its order is the order of commits.
    Draft::begin(drafts, Topic::History, stamp, stamp.position(seq), &[kind], heading)
}

fn write_columns(out: &mut Vec<u8>, table: &Table, row: Row<'_>, columns: impl Iterator<Item = usize>) {
    out.push(b'{');
    for index in columns {
        let (Some(column), Some(value)) = (table.columns.get(index), row.get(index)) else {
            continue;
        };
        if *value == Value::Unknown {
            continue;
        }
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        write_string(out, column.name.as_bytes());
        out.push(b':');
        match value {
            Value::Text(text) => column.encoding.write(out, text),
            Value::Null | Value::Unknown => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}

fn write_context(out: &mut Vec<u8>, context: &[u8]) {
    out.extend_from_slice(b",\"context\":");
    out.extend_from_slice(if context.is_empty() { b"null" } else { context });
    out.push(b'}');
}
