//! Rows that are too large for one record.

use super::*;
use crate::events::draft::LARGEST_EVENT;

#[test]
fn an_event_that_would_be_too_large_lacks_its_longest_values_and_says_so() {
    let entry = entry(IMAGE, &part_images());
    let (long, longer) = ("x".repeat(900_000), "y".repeat(LARGEST_EVENT));
    let old = row(&["977", "42", "NULL", "/a", "NULL", "NULL", "1", "NULL", "1"]);
    let new = row(&["977", "42", "NULL", &longer, &long, "NULL", "1", "NULL", "1"]);
    let drafts = events(&entry, Change::Update { old: Some(&old), new: &new }).unwrap();
    let event = parsed(&drafts[0]);
    is_valid("content", &event);
    assert!(drafts[0].shortened && drafts[0].value.len() <= LARGEST_EVENT);
    assert_eq!((&event["unavailable"], &event["changed"]), (&json!("url"), &json!("url,caption")));
    assert!(event["data"].get("url").is_none());
    assert_eq!(event["data"]["caption"], long, "what has room stays");
    // Each of these control characters takes six bytes.
    let control = "\u{1}".repeat(1_000_000);
    let new = row(&["977", "42", "NULL", &control, &control, &long, "1", "NULL", "1"]);
    let drafts = events(&entry, Change::Insert { new: &new }).unwrap();
    assert!(!drafts[0].shortened && drafts[0].value.len() > 12_000_000, "{}", drafts[0].value.len());
    let control = "\u{1}".repeat(3_000_000);
    let new = row(&["977", "42", "NULL", &control, "NULL", &long, "1", "NULL", "1"]);
    let drafts = events(&entry, Change::Insert { new: &new }).unwrap();
    assert_eq!(parsed(&drafts[0])["unavailable"], "url");
}

#[test]
fn the_deletion_of_a_row_that_is_too_large_names_the_row() {
    let entry = entry(IMAGE, &part_images());
    let longer = "y".repeat(LARGEST_EVENT);
    let old = row(&["977", "42", "NULL", &longer, "NULL", "NULL", "1", "NULL", "1"]);
    let moved = row(&["977", "43", "NULL", &longer, "NULL", "NULL", "1", "NULL", "1"]);
    let drafts = events(&entry, Change::Delete { old: &old }).unwrap();
    assert!(drafts[0].value.len() <= LARGEST_EVENT && drafts[0].deletes && drafts[0].shortened);
    assert_eq!((drafts[0].key.as_slice(), &parsed(&drafts[0])["data"]["part_id"]), (&b"image/977"[..], &json!(42)));
    let drafts = events(&entry, Change::Update { old: Some(&old), new: &moved }).unwrap();
    let subjects: Vec<Json> = drafts.iter().map(|draft| parsed(draft)["subject"].clone()).collect();
    assert_eq!(subjects, ["part/42", "part/43"]);
    assert_eq!(parsed(&drafts[1])["unavailable"], "url");
}

#[test]
fn history_has_every_change_of_a_row_that_is_too_large_without_its_longest_values() {
    let half = "y".repeat(LARGEST_EVENT / 2);
    let old = row(&["977", "42", "NULL", &half, "old", "NULL", "1", "NULL", "1"]);
    let new = row(&["977", "42", "NULL", &half, "new", "NULL", "1", "NULL", "1"]);
    let change = Change::Update { old: Some(&old), new: &new };
    let mut draft = write_history(&mut Drafts::default(), &part_images(), change, &STAMP, 0, b"");
    draft.mark_last(7);
    let event = parsed(&draft);
    is_valid("history", &event);
    assert!(draft.shortened && draft.value.len() <= LARGEST_EVENT);
    assert_eq!(event["unavailable"], "url");
    let data = &event["data"];
    assert_eq!((&data["old"]["alt_text"], &data["new"]["alt_text"]), (&json!("old"), &json!("new")));
    assert!(data["old"].get("url").is_none() && data["new"].get("url").is_none());
    assert_eq!((&data["key"], &data["total"], &event["last"]), (&json!({ "id": 977 }), &json!(7), &json!(true)));
}
