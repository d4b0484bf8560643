//! A plain model of what Redis should hold, and the world it stands in: a log with two partitions. Commits become visible
//! on the primary in any order and are published in the log's order once visible. Contents are bit masks of commits.

use std::collections::{BTreeMap, BTreeSet};

use highwater_redis::{Entry, Lookup, Progress, Stamp};

use crate::clock::stamp;

/// One written and one invalidated key, fed by partition 0; the group is moved from both partitions.
pub(crate) const WRITTEN: &str = "written";
pub(crate) const DROPPED: &str = "dropped";
pub(crate) const KEYS: [&str; 2] = [WRITTEN, DROPPED];
pub(crate) const GROUP: &str = "group";

/// A stamp as the model sees it.
pub(crate) type Time = (u64, u32);
/// Progress: offset, mark, newest, whether it is ahead of the primary.
pub(crate) type Reached = (u64, Option<Time>, Option<Time>, bool);

pub(crate) fn text((lsn, count): Time) -> Stamp {
    stamp(lsn, count)
}

pub(crate) fn point(commit: usize) -> Time {
    (commit as u64 + 1, 0)
}

pub(crate) fn after((lsn, count): Time) -> Time {
    (lsn, count + 1)
}

/// The bound that contains the first so many commits.
pub(crate) fn bound(commits: usize) -> Time {
    (commits as u64 + 1, 0)
}

pub(crate) fn prefix(commits: usize) -> u64 {
    (1_u64 << commits) - 1
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    pub(crate) partition: usize,
    /// Index into [`KEYS`].
    pub(crate) key: Option<usize>,
    pub(crate) group: bool,
    pub(crate) visible: bool,
    /// Published before all up to it was visible.
    pub(crate) ahead: bool,
}

impl Commit {
    pub(crate) fn feeds(&self, key: usize, grouped: bool) -> bool {
        self.key == Some(key) || (self.group && grouped)
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Value {
    pub(crate) content: u64,
    pub(crate) low: Time,
    pub(crate) high: Time,
}

/// What Redis should hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) fences: BTreeMap<&'static str, Time>,
    pub(crate) values: BTreeMap<&'static str, Value>,
    pub(crate) progress: [Option<Reached>; 2],
    /// Commits whose fences were applied in this state, which is what the promise is about.
    pub(crate) applied: BTreeSet<usize>,
}

impl State {
    pub(crate) fn fence(&self, key: usize, grouped: bool) -> Option<Time> {
        let own = self.fences.get(KEYS[key]);
        own.max(self.fences.get(GROUP).filter(|_| grouped)).copied()
    }

    pub(crate) fn touch(&mut self, name: &'static str, at: Time) {
        let fence = self.fences.entry(name).or_insert(at);
        *fence = at.max(*fence);
    }

    pub(crate) fn make(&mut self, index: usize, commit: &Commit) {
        let at = point(index);
        if let Some(key) = commit.key.map(|key| KEYS[key]) {
            let refused = self.fences.get(key).is_some_and(|fence| *fence > at);
            let contained = self.values.get(key).is_some_and(|value| value.low > at);
            self.touch(key, at);
            if !contained && key == DROPPED {
                self.values.remove(key);
            } else if !contained && !refused {
                let (low, content) = (after(at), prefix(index + 1));
                self.values.insert(key, Value { content, low, high: low });
            }
        }
        if commit.group {
            self.touch(GROUP, at);
        }
        self.applied.insert(index);
    }

    /// Least mark of the partitions that feed a reading, and the greatest bound that they have seen unless one is ahead.
    pub(crate) fn marks(&self, grouped: bool) -> Option<(Time, Option<Time>)> {
        let fed = if grouped { &self.progress[..] } else { &self.progress[..1] };
        let marks: Option<Vec<Time>> = fed.iter().map(|p| p.and_then(|(_, mark, ..)| mark)).collect();
        let marks = marks?;
        let newest = fed.iter().filter_map(|p| p.and_then(|(_, _, newest, _)| newest)).map(after);
        let seen = marks.iter().copied().chain(newest).max();
        let ahead = fed.iter().flatten().any(|(.., ahead)| *ahead);
        Some((*marks.iter().min()?, seen.filter(|_| !ahead)))
    }

    pub(crate) fn get(&self, key: usize, grouped: bool, token: Option<Time>) -> Lookup {
        let Some((mark, seen)) = self.marks(grouped) else {
            return Lookup::Unready;
        };
        let fence = self.fence(key, grouped);
        match self.values.get(KEYS[key]) {
            Some(value) if fence.is_none_or(|f| f < value.low) && token.is_none_or(|t| t <= value.low || t <= mark) => {
                Lookup::Hit { entry: entry(value), mark: text(mark) }
            }
            _ => Lookup::Miss { seen: seen.map(text), mark: text(mark) },
        }
    }

    pub(crate) fn fill(&mut self, key: usize, grouped: bool, value: Value) -> bool {
        let fresh = self.marks(grouped).is_some()
            && self.fence(key, grouped).is_none_or(|fence| fence < value.low)
            && self.values.get(KEYS[key]).is_none_or(|stands| stands.low < value.low);
        if fresh {
            self.values.insert(KEYS[key], value);
        }
        fresh
    }
}

pub(crate) fn entry(value: &Value) -> Entry {
    Entry { value: value.content.to_string().into_bytes(), low: text(value.low), high: text(value.high) }
}

pub(crate) fn progress(p: Reached) -> Progress {
    Progress { offset: p.0, mark: p.1.map(text), newest: p.2.map(text), ahead: p.3 }
}
