//! What rows become, held together with the schemas and the golden examples under `schemas/events/`. One file past 400
//! lines, because every test stands on the same two tables, mappings and golden comparison.

mod large;

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::draft::{Draft, Drafts, PartitionBy, Stamp};
use super::envelope::Envelope;
use super::history::{context_json, write_history, write_history_truncation};
use super::json::Encoding;
use super::mapping::compile::{check_entries, compile};
use super::mapping::entry::Entry;
use super::mapping::readable::refuse_unreadable;
use super::mapping::spec::EntrySpec;
use super::mark::{Mark, write_mark};
use super::row::{Change, Column, Identity, Table, Value};
use super::state::{ThroughRows, Unmappable, write_state_events, write_truncation};
use crate::config::{Document, read_map};
use crate::position::Bound;

const STAMP: Stamp<'static> = Stamp {
    source: "/highwater/shop",
    timeline: 1,
    lsn: 0xAB_CDEF,
    time: *b"2026-11-21T10:00:00.123456Z",
    xid: Some(7301),
    ahead: false,
};

struct NoOtherRows;

impl ThroughRows for NoOtherRows {
    fn part_of(&mut self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Unmappable> {
        match key {
            b"5" => Ok(Some(b"42".to_vec())),
            _ => Err(Unmappable::NoThroughRow { table: table.to_owned() }),
        }
    }
}

fn column(name: &str, oid: u32) -> Column {
    Column { name: name.to_owned(), encoding: Encoding::of_type(oid), instant: oid == 1184 }
}

fn table(name: &str, columns: &[(&str, u32)]) -> Table {
    Table {
        name: name.to_owned(),
        columns: columns.iter().map(|(name, oid)| column(name, *oid)).collect(),
        primary_key: vec![0],
        unique_keys: Vec::new(),
        identity: Identity::Full,
    }
}

fn stock_levels() -> Table {
    let columns = [
        ("id", 20),
        ("part_id", 20),
        ("current_stock", 23),
        ("reserved_quantity", 23),
        ("min_stock_level", 23),
        ("version", 23),
        ("updated_at", 1184),
        ("shelf", 25),
    ];
    let mut table = table("stock_levels", &columns);
    table.unique_keys = vec![vec![1]];
    table
}

/// Reads `[[source.map]]` entries as a configuration file holds them.
fn specs(text: &str) -> Vec<EntrySpec> {
    let document = Document::parse("config.toml", text, std::collections::BTreeMap::new());
    let mut source = document.section("source");
    let specs = read_map(&mut source);
    source.finish();
    document.finish().unwrap();
    specs
}

fn entry(text: &str, table: &Table) -> Entry {
    let specs = specs(text);
    let siblings: Vec<_> = specs.iter().collect();
    compile(&specs[0], &siblings, table, Encoding::Number).unwrap()
}

fn refusals(text: &str, table: &Table) -> Vec<String> {
    let specs = specs(text);
    let siblings: Vec<_> = specs.iter().collect();
    let errors = compile(&specs[0], &siblings, table, Encoding::Number).unwrap_err();
    errors.iter().map(ToString::to_string).collect()
}

const STOCK: &str = "
[[source.map]]
table = 'stock_levels'
event = 'stock'
part = 'part_id'
entity = '{part_id}'
groups = ['parts:list', 'pdp:{part_id}']
ignore = ['updated_at']
";

fn row<'a>(values: &[&'a str]) -> Vec<Value<'a>> {
    let value = |text: &&'a str| match *text {
        "NULL" => Value::Null,
        "UNKNOWN" => Value::Unknown,
        text => Value::Text(text.as_bytes()),
    };
    values.iter().map(value).collect()
}

fn events(entry: &Entry, change: Change<'_>) -> Result<Vec<Draft>, Unmappable> {
    let mut events = Vec::new();
    write_state_events(entry, change, &STAMP, 2, &mut NoOtherRows, &mut Drafts::default(), &mut events)?;
    Ok(events)
}

fn parsed(draft: &Draft) -> Json {
    serde_json::from_slice(&draft.value).unwrap()
}

fn is_valid(schema: &str, event: &Json) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/events/{schema}.schema.json"));
    let text = std::fs::read_to_string(path).unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap();
    let errors: Vec<String> = validator.iter_errors(event).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{event:#} against {schema}: {errors:?}");
}

/// Compares with `schemas/events/examples/<name>.json`; `HIGHWATER_GOLDEN=write` writes it anew.
fn is_golden(schema: &str, name: &str, bytes: &[u8]) {
    let event: Json = serde_json::from_slice(bytes).unwrap();
    is_valid(schema, &event);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/events/examples/{name}.json"));
    if std::env::var_os("HIGHWATER_GOLDEN").is_some() {
        std::fs::write(&path, [bytes, b"\n"].concat()).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(golden.trim_end(), String::from_utf8_lossy(bytes), "{name}");
}

#[test]
fn a_stock_update_says_what_changed_and_what_is_available() {
    let entry = entry(STOCK, &stock_levels());
    let old = row(&["9", "42", "50", "3", "5", "7", "2026-11-20 10:00:00+00", "A1"]);
    let new = row(&["9", "42", "3", "3", "5", "8", "2026-11-21 10:00:00.5+00", "A1"]);
    let mut drafts = events(&entry, Change::Update { old: Some(&old), new: &new }).unwrap();
    assert_eq!(drafts.len(), 1);
    drafts[0].mark_last(1);
    is_golden("stock", "stock.updated", &drafts[0].value);
    assert_eq!(drafts[0].key, b"42");
    assert_eq!(drafts[0].partition_by, PartitionBy::key(b"42"));
}

#[test]
fn an_event_that_may_be_ahead_of_the_primary_says_so() {
    let entry = entry(STOCK, &stock_levels());
    let new = row(&["9", "42", "3", "3", "5", "8", "2026-11-21 10:00:00.5+00", "A1"]);
    let (stamp, mut drafts) = (Stamp { ahead: true, ..STAMP }, Vec::new());
    let change = Change::Insert { new: &new };
    write_state_events(&entry, change, &stamp, 2, &mut NoOtherRows, &mut Drafts::default(), &mut drafts).unwrap();
    drafts[0].mark_last(1);
    let event = parsed(&drafts[0]);
    is_valid("stock", &event);
    assert_eq!((&event["ahead"], &event["last"]), (&json!(true), &json!(true)));
}

#[test]
fn an_update_of_ignored_columns_alone_is_no_event() {
    let entry = entry(STOCK, &stock_levels());
    let old = row(&["9", "42", "50", "3", "5", "7", "2026-11-20 10:00:00+00", "A1"]);
    let new = row(&["9", "42", "50", "3", "5", "7", "2026-11-21 10:00:00+00", "A1"]);
    assert!(events(&entry, Change::Update { old: Some(&old), new: &new }).unwrap().is_empty());
}

#[test]
fn an_update_without_its_old_row_is_sent_without_saying_what_changed() {
    let entry = entry(STOCK, &stock_levels());
    let new = row(&["9", "42", "50", "3", "5", "7", "2026-11-21 10:00:00+00", "A1"]);
    let drafts = events(&entry, Change::Update { old: None, new: &new }).unwrap();
    assert!(parsed(&drafts[0]).get("changed").is_none());
}

#[test]
fn a_row_that_moves_to_another_part_is_deleted_there_and_created_here() {
    let entry = entry(STOCK, &stock_levels());
    let old = row(&["9", "42", "50", "3", "5", "7", "2026-11-20 10:00:00+00", "A1"]);
    let new = row(&["9", "43", "50", "3", "5", "7", "2026-11-20 10:00:00+00", "A1"]);
    let drafts = events(&entry, Change::Update { old: Some(&old), new: &new }).unwrap();
    let kinds: Vec<_> = drafts.iter().map(|draft| (parsed(draft)["type"].clone(), draft.position.seq)).collect();
    assert_eq!(kinds, [(json!("stock.deleted"), 2), (json!("stock.created"), 3)]);
    assert_eq!((drafts[0].key.as_slice(), drafts[1].key.as_slice()), (&b"42"[..], &b"43"[..]));
    assert!(drafts[0].deletes && !drafts[1].deletes);
}

#[test]
fn a_delete_under_a_narrow_identity_holds_what_is_known_and_no_guesses() {
    let entry = entry(STOCK, &stock_levels());
    let old = row(&["9", "42", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN"]);
    let drafts = events(&entry, Change::Delete { old: &old }).unwrap();
    is_golden("stock", "stock.deleted", &drafts[0].value);
    assert_eq!(parsed(&drafts[0])["data"], json!({ "part_id": 42, "attributes": { "id": 9 } }));
}

#[test]
fn an_unknown_stock_leaves_what_is_derived_from_it_unknown() {
    let entry = entry(STOCK, &stock_levels());
    let new = row(&["9", "42", "NULL", "3", "5", "7", "infinity", "A1"]);
    let drafts = events(&entry, Change::Snapshot { new: &new }).unwrap();
    let data = &parsed(&drafts[0])["data"];
    for derived in ["available_stock", "is_in_stock", "is_low_stock"] {
        assert_eq!(data[derived], Json::Null, "{derived}");
    }
    assert_eq!(data["updated_at"], "infinity");
    is_golden("stock", "stock.snapshot", &drafts[0].value);
}

const IMAGE: &str = "
[[source.map]]
table = 'part_images'
event = 'content'
kind = 'image'
part = 'part_id'
entity = 'image/{id}'
groups = ['family:{family_id|part_id}']
attributes = ['note']
[source.map.fields]
url = 'url'
caption = { first_of = ['alt_text', 'title'] }
position = { column = 'sort_order', null = 0 }
shop = { value = 'main' }
";

fn part_images() -> Table {
    let columns = [
        ("id", 20),
        ("part_id", 20),
        ("family_id", 20),
        ("url", 25),
        ("alt_text", 25),
        ("title", 25),
        ("sort_order", 23),
        ("note", 3802),
        ("cost", 1700),
    ];
    table("part_images", &columns)
}

#[test]
fn fields_can_be_renamed_filled_constant_and_first_of_and_what_is_not_allowed_stays_inside() {
    let entry = entry(IMAGE, &part_images());
    let new = row(&["977", "42", "NULL", "/a.jpg", "NULL", "A \"bolt\"", "NULL", r#"{"k": 1}"#, "9.99"]);
    let drafts = events(&entry, Change::Insert { new: &new }).unwrap();
    is_golden("content", "content.created", &drafts[0].value);
    let event = parsed(&drafts[0]);
    let data = json!({ "part_id": 42, "url": "/a.jpg", "caption": "A \"bolt\"", "position": 0, "shop": "main",
                       "attributes": { "note": { "k": 1 } } });
    assert_eq!((&event["data"], &event["groups"], &event["entity"]), (&data, &json!("family:42"), &json!("image/977")));
    assert_eq!(event["id"], "00000001-0000000000ABCDEF-00000002/image");
}

#[test]
fn an_unchanged_toasted_value_is_named_and_absent_never_null() {
    let entry = entry(IMAGE, &part_images());
    let new = row(&["977", "42", "NULL", "UNKNOWN", "x", "NULL", "1", "NULL", "9.99"]);
    let drafts = events(&entry, Change::Update { old: None, new: &new }).unwrap();
    let event = parsed(&drafts[0]);
    is_valid("content", &event);
    assert_eq!(event["unavailable"], "url");
    assert!(event["data"].get("url").is_none());
}

#[test]
fn groups_of_the_old_row_are_moved_too_and_a_comma_makes_no_two_of_one() {
    let text = IMAGE.replace("family:{family_id|part_id}", "t:{title}");
    let entry = entry(&text, &part_images());
    let old = row(&["977", "42", "NULL", "/a", "NULL", "old", "1", "NULL", "1"]);
    let new = row(&["977", "42", "NULL", "/a", "NULL", "a,b", "1", "NULL", "1"]);
    let drafts = events(&entry, Change::Update { old: Some(&old), new: &new }).unwrap();
    assert_eq!(parsed(&drafts[0])["groups"], "t:a%2Cb,t:old");
}

#[test]
fn a_part_one_step_away_is_found_and_a_missing_row_is_no_guess() {
    let text = IMAGE.replace("part = 'part_id'", "part = { through = 'variants', by = 'family_id' }");
    let entry = entry(&text, &part_images());
    let new = row(&["977", "1", "5", "/a", "NULL", "NULL", "1", "NULL", "1"]);
    let drafts = events(&entry, Change::Insert { new: &new }).unwrap();
    assert_eq!(parsed(&drafts[0])["subject"], "part/42");
    let orphan = row(&["977", "1", "6", "/a", "NULL", "NULL", "1", "NULL", "1"]);
    let refused = events(&entry, Change::Insert { new: &orphan }).unwrap_err();
    assert_eq!(refused, Unmappable::NoThroughRow { table: "variants".to_owned() });
}

#[test]
fn a_row_of_no_part_is_placed_by_its_entity() {
    let text = IMAGE.replace("part = 'part_id'", "part = false").replace("|part_id", "|id");
    let entry = entry(&text, &part_images());
    let new = row(&["977", "42", "NULL", "/a", "NULL", "NULL", "1", "NULL", "1"]);
    let drafts = events(&entry, Change::Insert { new: &new }).unwrap();
    assert_eq!(drafts[0].partition_by, PartitionBy::key(b"image/977"));
    assert_eq!(parsed(&drafts[0])["subject"], "image/977");
    assert!(parsed(&drafts[0])["data"].get("part_id").is_none());
}

#[test]
fn a_price_keeps_its_scale() {
    let text = "
[[source.map]]
table = 'prices'
event = 'price'
part = 'part_id'
entity = 'legacy-price/{id}'
attributes = []
[source.map.fields]
id = 'id'
price_type = { value = 'base' }
";
    let entry = entry(text, &table("prices", &[("id", 20), ("part_id", 20), ("price", 1700), ("currency", 1042)]));
    let new = row(&["12", "42", "19.90", "EUR"]);
    let drafts = events(&entry, Change::Insert { new: &new }).unwrap();
    assert_eq!(parsed(&drafts[0])["data"]["price"], "19.90");
    is_golden("price", "price.created", &drafts[0].value);
}

#[test]
fn a_truncation_is_one_record_for_every_partition() {
    let entry = entry(STOCK, &stock_levels());
    let draft = write_truncation(&mut Drafts::default(), &[&entry], "stock_levels", &STAMP, 4, 3);
    is_golden("truncated", "catalog.truncated", &draft.value);
    assert_eq!((draft.key.as_slice(), &draft.partition_by), (&b"truncate/stock_levels"[..], &PartitionBy::Exactly(3)));
    assert_eq!(Envelope::parse(&draft.value).unwrap().truncated_table(), Some("stock_levels"));
}

#[test]
fn a_truncation_names_every_kind_of_content_that_its_table_feeds() {
    let kind = |kind: &str| {
        let text = format!(
            "[[source.map]]\ntable = 'parts'\nevent = 'content'\nkind = '{kind}'\npart = 'id'\nentity = '{kind}/{{id}}'\n"
        );
        entry(&text, &table("parts", &[("id", 20), ("name", 25)]))
    };
    let draft = write_truncation(&mut Drafts::default(), &[&kind("part"), &kind("seo")], "parts", &STAMP, 4, 0);
    is_valid("truncated", &parsed(&draft));
    assert_eq!(parsed(&draft)["data"], json!({ "table": "parts", "entries": ["part", "seo"] }));
}

#[test]
fn history_tells_both_rows_who_did_it_and_how_many_changes_there_were() {
    let table = stock_levels();
    let old = row(&["9", "42", "50", "3", "5", "7", "2026-11-20 10:00:00+00", "A1"]);
    let new = row(&["9", "42", "3", "3", "NULL", "8", "2026-11-21 10:00:00.5+00", "A1"]);
    let context = context_json(br#"{"user_id": 7, "reason": "count"}"#);
    let change = Change::Update { old: Some(&old), new: &new };
    let mut draft = write_history(&mut Drafts::default(), &table, change, &STAMP, 0, &context);
    draft.mark_last(5);
    is_golden("history", "history.update", &draft.value);
    let data = &parsed(&draft)["data"];
    assert_eq!(
        (&data["key"], &data["total"], &data["context"]["user_id"]),
        (&json!({ "id": 9 }), &json!(5), &json!(7))
    );
    assert_eq!(data["new"]["updated_at"], "2026-11-21 10:00:00.5+00", "no RFC 3339 in history");
    let truncation = write_history_truncation(&mut Drafts::default(), &table, &STAMP, 2, b"");
    is_golden("history", "history.truncate", &truncation.value);
}

#[test]
fn a_context_that_is_no_object_is_kept_as_text() {
    assert_eq!(context_json(b"[1]"), br#"{"invalid":"[1]"}"#);
    assert_eq!(context_json(b"\xff"), "{\"invalid\":\"\u{fffd}\"}".as_bytes());
}

#[test]
fn a_mark_is_what_its_schema_says() {
    let mut bytes = Vec::new();
    let bound = Bound::at_lsn(1, 0xAB);
    let mark = Mark {
        source: STAMP.source,
        topic: "catalog.stock",
        partition: 3,
        bound,
        count: 12,
        complete: true,
        ahead: false,
        number: 99,
        time_us: 848_570_400_123_456,
    };
    write_mark(&mut bytes, &mark);
    is_golden("mark", "mark", &bytes);
    assert!(Envelope::parse(&bytes).unwrap().is_mark());
    bytes.clear();
    write_mark(&mut bytes, &Mark { ahead: true, ..mark });
    is_valid("mark", &serde_json::from_slice(&bytes).unwrap());
    assert!(Envelope::parse(&bytes).unwrap().ahead);
}

#[test]
fn a_mapping_that_cannot_work_is_refused_with_its_line_and_the_nearest_name() {
    let table = stock_levels();
    let wrong = STOCK.replace("'{part_id}'", "'{part_idd}'").replace("'updated_at'", "'updatedat'");
    assert_eq!(
        refusals(&wrong, &table),
        [
            "config.toml:6: template `{part_idd}`: table `stock_levels` has no published column `part_idd`; did you mean `part_id`?",
            "config.toml:8: table `stock_levels` has no published column `updatedat`; did you mean `updated_at`?",
        ]
    );
    let several_rows = Table { unique_keys: Vec::new(), ..stock_levels() };
    let refused = refusals(STOCK, &several_rows);
    assert!(refused[0].contains("`{part_id}` is not enough"), "{refused:?}");
    let narrow = Table { identity: Identity::Columns(vec![0]), ..stock_levels() };
    let refused = refusals(STOCK, &narrow);
    assert!(refused[0].contains("ALTER TABLE stock_levels REPLICA IDENTITY FULL"), "{refused:?}");
    let of_another_key = Table { identity: Identity::Columns(vec![1]), ..stock_levels() };
    let refused = refuse_unreadable(&specs(STOCK)[0], &of_another_key).expect("it is refused").to_string();
    assert!(refused.contains("column `id` of the primary key is outside the replica identity"), "{refused}");
    assert_eq!(refuse_unreadable(&specs(STOCK)[0], &table), None);
    let text = STOCK.to_owned() + "[source.map.fields]\ncurrent_stock = 'shelf'\nreserved_quantities = 'version'\n";
    let refused = refusals(&text, &table);
    assert!(refused[0].contains("is a whole number, but column `shelf`"), "{refused:?}");
    assert!(refused[1].contains("did you mean `reserved_quantity`?"), "{refused:?}");
}

#[test]
fn two_entries_with_one_event_and_kind_for_a_table_are_refused() {
    let errors = check_entries(&specs(&[STOCK, STOCK].concat())).unwrap_err();
    assert!(errors[0].to_string().contains("feeds `stock` already"), "{errors:?}");
    assert!(check_entries(&specs(&[STOCK, IMAGE].concat())).is_ok());
}

proptest! {
    #[test]
    fn whatever_text_a_row_holds_the_event_parses_as_its_schema_says(
        texts in proptest::collection::vec(proptest::option::of(".{0,30}"), 9),
        deleted in any::<bool>(),
    ) {
        let entry = entry(IMAGE, &part_images());
        let mut values: Vec<Value<'_>> =
            texts.iter().map(|text| text.as_ref().map_or(Value::Null, |text| Value::Text(text.as_bytes()))).collect();
        // Numbers and JSON are what PostgreSQL has checked.
        (values[0], values[1], values[2]) = (Value::Text(b"977"), Value::Text(b"42"), Value::Null);
        (values[6], values[7]) = (Value::Text(b"-1"), Value::Text(b"[1e400]"));
        let change = if deleted { Change::Delete { old: &values } } else { Change::Insert { new: &values } };
        for draft in events(&entry, change).unwrap() {
            let mut draft = draft;
            draft.mark_last(1);
            Envelope::parse(&draft.value).unwrap();
        }
        let mut history = write_history(&mut Drafts::default(), &part_images(), change, &STAMP, 0, b"");
        history.mark_last(1);
        Envelope::parse(&history.value).unwrap();
    }

    #[test]
    fn what_differs_is_what_is_said_to_have_changed(
        old in proptest::collection::vec(0..3i32, 4),
        new in proptest::collection::vec(0..3i32, 4),
    ) {
        let entry = entry(STOCK, &stock_levels());
        let texts = |values: &[i32]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (old_texts, new_texts) = (texts(&old), texts(&new));
        let row_of = |v: &[String]| -> Vec<String> {
            ["9", "42"].iter().map(ToString::to_string).chain(v.iter().cloned()).chain(["x", "A1"].map(String::from)).collect()
        };
        let (old_row, new_row) = (row_of(&old_texts), row_of(&new_texts));
        let values = |row: &'static [String]| -> Vec<Value<'static>> { row.iter().map(|t| Value::Text(t.as_bytes())).collect() };
        let (old_row, new_row): (&'static [String], &'static [String]) = (old_row.leak(), new_row.leak());
        let (old_values, new_values) = (values(old_row), values(new_row));
        let drafts = events(&entry, Change::Update { old: Some(&old_values), new: &new_values }).unwrap();
        prop_assert_eq!(drafts.is_empty(), old == new);
        if let Some(draft) = drafts.first() {
            let changed = parsed(draft)["changed"].as_str().unwrap().to_owned();
            let names = ["current_stock", "reserved_quantity", "min_stock_level", "version"];
            for (at, name) in names.iter().enumerate() {
                prop_assert_eq!(changed.split(',').any(|c| c == *name), old[at] != new[at], "{}", name);
            }
        }
    }
}
