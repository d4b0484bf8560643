//! What events do to entries and groups.

use std::collections::BTreeMap;

use highwater_redis::{Change, Stamp};
use proptest::prelude::*;

use super::*;

fn at(lsn: u64) -> Stamp {
    format!("00000001-{lsn:016X}-00000000").parse().unwrap()
}

/// An event of the reference mapping at lsn 5.
fn event(kind: &str, entry: &str, attributes: &str, data: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{at}/{entry}","source":"/highwater/shop","type":"{kind}","time":"2026-11-21T10:00:00.000000Z",
            "position":"{at}"{attributes},"data":{data}}}"#,
        at = at(5)
    )
}

fn rule(key: &str, fed: Fed) -> Rule {
    Rule { key: Template::parse(key).unwrap(), fed }
}

fn plan() -> Plan {
    Plan::new(vec![
        rule("part:{part_id}", Fed::Written("part".into())),
        rule("part:{part_id}:stock", Fed::Written("stock".into())),
        rule("part:{part_id}:prices", Fed::Invalidated(vec!["price".into()])),
        rule("sku:{sku}", Fed::Invalidated(vec!["part".into(), "price".into()])),
    ])
}

fn changes(event: &str) -> Result<Vec<Change<'_>>, String> {
    let mut changes = Vec::new();
    let event = Envelope::parse(event.as_bytes()).unwrap();
    plan().add(&event, &mut changes).map(|()| changes).map_err(|refused| refused.to_string())
}

fn invalidate(key: &str) -> Change<'static> {
    Change::Invalidate { key: key.into(), at: at(5) }
}

fn fence(group: &str) -> Change<'static> {
    Change::Fence { group: group.into(), at: at(5) }
}

#[test]
fn a_written_key_gets_the_data_byte_for_byte_and_every_group_its_fence() {
    let data = r#"{"part_id": 42,  "current_stock":5, "attributes":{"x":1.50}}"#;
    for verb in ["created", "updated", "snapshot"] {
        let event = event(&format!("stock.{verb}"), "stock", r#","groups":"parts:list,pdp:42""#, data);
        let write = Change::Write { key: "part:42:stock".into(), value: data.as_bytes(), at: at(5) };
        assert_eq!(changes(&event), Ok(vec![write, fence("parts:list"), fence("pdp:42")]));
    }
}

#[test]
fn a_deleted_row_invalidates_its_written_key() {
    let event = event("stock.deleted", "stock", "", r#"{"part_id":42}"#);
    assert_eq!(changes(&event), Ok(vec![invalidate("part:42:stock")]));
}

#[test]
fn an_event_that_lacks_fields_does_not_become_a_value() {
    let event = event("stock.updated", "stock", r#","unavailable":"attributes.note""#, r#"{"part_id":42}"#);
    assert_eq!(changes(&event), Ok(vec![invalidate("part:42:stock")]));
}

#[test]
fn one_event_can_feed_several_keys() {
    let data = r#"{"part_id":42,"sku":"A-1"}"#;
    let event = event("content.updated", "part", r#","changed":"name""#, data);
    let write = Change::Write { key: "part:42".into(), value: data.as_bytes(), at: at(5) };
    assert_eq!(changes(&event), Ok(vec![write, invalidate("sku:A-1")]));
}

#[test]
fn an_update_that_may_have_renamed_an_entry_makes_the_old_name_stale_by_the_scope() {
    let data = r#"{"part_id":42,"sku":"A-2"}"#;
    let write = || Change::Write { key: "part:42".into(), value: data.as_bytes(), at: at(5) };
    for (verb, changed, renames) in [
        ("updated", r#","changed":"name,sku""#, true),
        ("updated", "", true),
        ("updated", r#","changed":"name""#, false),
        ("created", "", false),
        ("snapshot", "", false),
    ] {
        let event = event(&format!("content.{verb}"), "part", changed, data);
        let mut expected = vec![write(), invalidate("sku:A-2")];
        expected.extend(renames.then(|| fence("event:part")));
        assert_eq!(changes(&event), Ok(expected), "{verb}{changed}");
    }
    let by_part_alone = event("stock.updated", "stock", "", r#"{"part_id":42}"#);
    assert_eq!(changes(&by_part_alone).unwrap().len(), 1);
}

#[test]
fn an_event_that_no_key_names_moves_its_groups_alone() {
    let event = event("content.updated", "category", r#","groups":"category:3""#, r#"{"id":3}"#);
    assert_eq!(changes(&event), Ok(vec![fence("category:3")]));
}

#[test]
fn a_row_of_no_part_has_no_entry_and_one_without_another_field_of_the_name_moves_the_scope() {
    let of_no_part = event("stock.updated", "stock", "", r#"{"current_stock":5}"#);
    assert_eq!(changes(&of_no_part), Ok(vec![]));
    let without_sku = event("content.deleted", "part", r#","groups":"parts:list""#, r#"{"part_id":42}"#);
    assert_eq!(changes(&without_sku), Ok(vec![invalidate("part:42"), fence("event:part"), fence("parts:list")]));
    let no_object = event("stock.updated", "stock", "", "7");
    assert!(changes(&no_object).is_err());
}

#[test]
fn a_truncation_moves_the_fence_that_every_reader_of_its_event_names() {
    let event = event("catalog.truncated", "stock/3", r#","entity":"truncate/stock_levels""#, r#"{"table":"x"}"#);
    let [Change::Fence { group, .. }] = &changes(&event).unwrap()[..] else { panic!("no fence") };
    let stock = rule("part:{part_id}:stock", Fed::Written("stock".into()));
    assert_eq!(Plan::scopes(&stock).as_slice(), std::slice::from_ref(group));
}

#[test]
fn a_truncation_moves_the_fence_of_each_kind_of_content_that_its_table_feeds() {
    let data = r#"{"table":"parts","entries":["part","seo"]}"#;
    let event = event("catalog.truncated", "part/3", r#","entity":"truncate/parts""#, data);
    assert_eq!(changes(&event), Ok(vec![fence("event:part"), fence("event:seo")]));
}

/// What the connector does with changes, as far as one name goes: fence, and the point of the value.
fn apply(changes: &[Change<'_>]) -> BTreeMap<(bool, String), (Stamp, Option<Stamp>)> {
    let mut names = BTreeMap::new();
    for change in changes {
        let (group, name, at, writes) = match change {
            Change::Write { key, at, .. } => (false, key, *at, true),
            Change::Invalidate { key, at } => (false, key, *at, false),
            Change::Fence { group, at } => (true, group, *at, false),
        };
        let (fence, value) = names.entry((group, name.clone())).or_insert((at, None));
        match value {
            _ if writes && at >= *fence => *value = Some(at),
            Some(written) if !writes && *written < at => *value = None,
            _ => {}
        }
        *fence = at.max(*fence);
    }
    names
}

fn change() -> impl Strategy<Value = Change<'static>> {
    (0..3_u8, 0..3_u8, 0..8_u64).prop_map(|(kind, name, lsn)| {
        let (name, at) = (name.to_string(), at(lsn));
        match kind {
            0 => Change::Write { key: name, value: b"v", at },
            1 => Change::Invalidate { key: name, at },
            _ => Change::Fence { group: name, at },
        }
    })
}

proptest! {
    /// In any order, also that of a transaction that was aborted and published again.
    #[test]
    fn coalesced_changes_end_as_all_of_them(changes in prop::collection::vec(change(), 0..24)) {
        let kept = coalesce(changes.clone());
        prop_assert_eq!(apply(&kept), apply(&changes));
        let names: std::collections::BTreeSet<_> = apply(&changes).into_keys().collect();
        prop_assert_eq!(kept.len(), names.len());
    }
}
