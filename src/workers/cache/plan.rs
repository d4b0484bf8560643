//! Events → changes of the cache. Plain functions over values.
//!
//! Promise: whatever an event makes stale, its changes make unservable; and what the cache stores is the event's own data,
//! byte for byte.
//!
//! - A *written* key gets the data of each event that is not a delete. Only where exactly one row feeds the key.
//! - An *invalidated* key loses its value. So does a written one whose row is deleted, or whose event lacks fields that
//!   PostgreSQL did not send.
//! - Every group of the event gets a fence.
//! - A truncation makes stale all that an event fed, of which no list exists: it moves the fence of one more group, the
//!   *scope* ([`scope`]) of each event that the table feeds. Who reads an entry names the scopes of the events that feed
//!   it ([`Plan::scopes`]). The
//!   record stands in every partition of its topic, so it arrives in the order of the key's own partition, and its fence
//!   is below that partition's mark as any other. The scope goes by event, not by table: readers then need the cache's
//!   configuration alone, at the price of a few more misses where two tables feed one event and one of them is emptied.
//! - An update that may have renamed an entry moves the scope too: a key can hold other fields than the part, and the event
//!   has the new values alone. So does an event that lacks such a field. Keys by part never need it, since a row that
//!   moves to another part is deleted and created; keys by other fields are for what is seldom renamed, in tables with
//!   full replica identity, without which no event says what changed.

use std::collections::HashMap;

use highwater_redis::{Change, Stamp};
use serde::Deserialize;

use super::template::{Fields, PART_ID, Template};
use crate::events::envelope::Envelope;

/// One `[[cache.key]]`: a family of entries and what feeds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The entry's name for an event.
    pub key: Template,
    /// The events behind it.
    pub fed: Fed,
}

/// What feeds a key: events by the names that stand in their ids, `stock`, `price`, or a kind of content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fed {
    /// Each event's data is the value.
    Written(String),
    /// Each event makes the value stale.
    Invalidated(Vec<String>),
}

impl Rule {
    /// Returns the events that feed the key.
    #[must_use]
    pub fn events(&self) -> &[String] {
        match &self.fed {
            Fed::Written(event) => std::slice::from_ref(event),
            Fed::Invalidated(events) => events,
        }
    }
}

/// An event that does not tell which entry it makes stale.
#[derive(Debug, thiserror::Error)]
pub enum Unplannable {
    /// The data is missing or no object.
    #[error("the event's data is no JSON object")]
    Data,
}

/// All rules of a cache.
#[derive(Debug, Clone)]
pub struct Plan {
    rules: Vec<Rule>,
    /// Fields that any of them needs.
    fields: Vec<String>,
}

/// Returns the group whose fence moves when a table that feeds the event is emptied.
#[must_use]
pub fn scope(event: &str) -> String {
    format!("event:{event}")
}

impl Plan {
    /// Takes the rules.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut fields: Vec<String> = rules.iter().flat_map(|rule| rule.key.fields()).map(str::to_owned).collect();
        fields.sort_unstable();
        fields.dedup();
        Self { rules, fields }
    }

    /// Returns the groups that a reader of a rule's entries must name: the scopes of the events that feed it.
    #[must_use]
    pub fn scopes(rule: &Rule) -> Vec<String> {
        rule.events().iter().map(|event| scope(event)).collect()
    }

    /// Appends what an event changes. `event` is no mark.
    ///
    /// # Errors
    /// An event that does not tell which entry it makes stale; `changes` is then as it was.
    pub fn add<'a>(&self, event: &Envelope<'a>, changes: &mut Vec<Change<'a>>) -> Result<(), Unplannable> {
        let at = stamp(event);
        if event.truncated_table().is_some() {
            let emptied = emptied(event)?;
            changes.extend(emptied.iter().map(|event| Change::Fence { group: scope(event), at }));
            return Ok(());
        }
        let start = changes.len();
        if let Err(refused) = self.add_keys(event, at, changes) {
            changes.truncate(start);
            return Err(refused);
        }
        changes.extend(event.groups().map(|group| Change::Fence { group: group.to_owned(), at }));
        Ok(())
    }

    fn add_keys<'a>(&self, event: &Envelope<'a>, at: Stamp, changes: &mut Vec<Change<'a>>) -> Result<(), Unplannable> {
        let name = event.entry();
        let rules = || self.rules.iter().filter(|rule| rule.events().iter().any(|fed| fed == name));
        if rules().next().is_none() {
            return Ok(());
        }
        let data = event.data.ok_or(Unplannable::Data)?;
        let fields = Fields::pick(data, &self.fields).map_err(|_| Unplannable::Data)?;
        let mut renames = false;
        for rule in rules() {
            renames |= may_rename(event, &rule.key);
            let key = match rule.key.render(&fields) {
                Ok(key) => key,
                // A row of no part has no entry that is named by its part.
                Err(PART_ID) => continue,
                Err(_) => {
                    renames = true;
                    continue;
                }
            };
            let whole = event.family_and_verb().1 != "deleted" && event.unavailable().next().is_none();
            changes.push(match rule.fed {
                Fed::Written(_) if whole => Change::Write { key, value: data.get().as_bytes(), at },
                Fed::Written(_) | Fed::Invalidated(_) => Change::Invalidate { key, at },
            });
        }
        // A value that this event writes contains it, and is served above the fence.
        changes.extend(renames.then(|| Change::Fence { group: scope(name), at }));
        Ok(())
    }
}

/// Tells whether the row may have fed an entry of another name before the event.
fn may_rename(event: &Envelope<'_>, key: &Template) -> bool {
    event.family_and_verb().1 == "updated"
        && match event.changed() {
            Some(mut changed) => changed.any(|changed| key.fields().any(|field| field == changed)),
            None => key.fields().any(|field| field != PART_ID),
        }
}

/// Returns the events that an emptied table fed in the topic. Records of before they were listed name the first alone.
fn emptied(event: &Envelope<'_>) -> Result<Vec<String>, Unplannable> {
    #[derive(Deserialize)]
    struct Emptied {
        #[serde(default)]
        entries: Vec<String>,
    }
    let data = event.data.ok_or(Unplannable::Data)?;
    let Emptied { mut entries } = serde_json::from_str(data.get()).map_err(|_| Unplannable::Data)?;
    if entries.is_empty() {
        entries.push(event.entry().to_owned());
    }
    Ok(entries)
}

fn stamp(event: &Envelope<'_>) -> Stamp {
    Stamp::new(event.position.text())
}

/// Keeps, of the changes of each key and group, the one that decides: the newest, and a write before an invalidation by
/// the same change, whose value would survive it. The cache ends as if all had been applied.
#[must_use]
pub(super) fn coalesce(changes: Vec<Change<'_>>) -> Vec<Change<'_>> {
    let mut places: HashMap<(bool, String), usize> = HashMap::with_capacity(changes.len());
    let mut kept: Vec<Change<'_>> = Vec::with_capacity(changes.len());
    for change in changes {
        let name = match &change {
            Change::Write { key, .. } | Change::Invalidate { key, .. } => (false, key.clone()),
            Change::Fence { group, .. } => (true, group.clone()),
        };
        let place = *places.entry(name).or_insert(kept.len());
        match kept.get_mut(place) {
            None => kept.push(change),
            Some(older) if rank(older) <= rank(&change) => *older = change,
            Some(_) => {}
        }
    }
    kept
}

fn rank(change: &Change<'_>) -> (Stamp, bool) {
    match change {
        Change::Write { at, .. } => (*at, true),
        Change::Invalidate { at, .. } | Change::Fence { at, .. } => (*at, false),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
