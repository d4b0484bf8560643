//! Entries, fences and progress: what is sent to the functions and what their answers mean.

use std::time::Duration;

use redis::{Cmd, FromRedisValue, Value};

use crate::{Cache, Error, Stamp};

/// What a longer time to live is cut to, a century: Redis refuses one whose end it cannot count.
const LONGEST_LIFE: Duration = Duration::from_hours(100 * 365 * 24);

/// One effect of the log on the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// Stores a value that contains everything of its key up to the point, unless something newer is known.
    Write {
        /// Name of the entry.
        key: String,
        /// Stored as it is, without a time to live.
        value: &'a [u8],
        /// The change that made it.
        at: Stamp,
    },
    /// Drops the value of a key unless it contains the change already, and refuses older ones from now on.
    Invalidate {
        /// Name of the entry.
        key: String,
        /// The change that made it stale.
        at: Stamp,
    },
    /// Makes every entry that is read with this group, and does not contain the change, unservable.
    Fence {
        /// Name of the group.
        group: String,
        /// The change that made them stale.
        at: Stamp,
    },
}

/// How far one partition was applied, kept beside the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The next offset to read.
    pub offset: u64,
    /// Every change of this partition below it was applied; `None` as long as that cannot be said of any bound.
    pub mark: Option<Stamp>,
    /// The newest point that was read.
    pub newest: Option<Stamp>,
    /// The source may not show yet what was read: it was handed out before its commits could be seen there.
    pub ahead: bool,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The cache contains the batch.
    Done {
        /// As it stands now; its mark and newest never go back.
        progress: Progress,
        /// What the changes did.
        outcome: Outcome,
    },
    /// The cache has another state than the one that the batch builds on, and nothing was changed. It lost its tail (a
    /// restart, a failover), was emptied (`None`), or another worker applied this partition: read on from the offset there.
    Elsewhere(Option<Progress>),
}

/// What a list of changes did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Values stored.
    pub written: u64,
    /// Values not stored, because the cache knew newer or the same.
    pub older: u64,
    /// Values dropped.
    pub dropped: u64,
}

/// What a reader must name to be served: an entry and all that can make it stale.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Name of the entry.
    pub key: &'a str,
    /// Groups whose fences judge it beside its own.
    pub groups: &'a [&'a str],
    /// Every partition that feeds the key or one of its groups. With none there are no hits and no fills.
    pub partitions: &'a [&'a str],
}

/// A value with its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The bytes as they were stored.
    pub value: Vec<u8>,
    /// The value contains every change below it.
    pub low: Stamp,
    /// The value contains no change at or above it: what a client that saw it may ask for from then on.
    pub high: Stamp,
}

/// The answer to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The value may be served.
    Hit {
        /// Value and bounds.
        entry: Entry,
        /// The least mark of the reading's partitions: everything below it was applied.
        mark: Stamp,
    },
    /// There is no value, or one that is too old for its fences or the token.
    Miss {
        /// The greatest bound that the reading's partitions have seen; the `low` of a fill from a primary that is read after
        /// this miss. `None` where one of them is ahead of that primary ([`Progress::ahead`]): a value read there now may lack
        /// what the cache knows already, so that no such fill is possible.
        seen: Option<Stamp>,
        /// As for a hit.
        mark: Stamp,
    },
    /// A partition has no mark yet: nothing is served, and a fill would be refused.
    Unready,
}

impl Cache {
    /// Returns how far a partition was applied, `None` if never.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn progress(&self, partition: &str) -> Result<Option<Progress>, Error> {
        let mut read = redis::cmd("HMGET");
        read.arg(self.progress_key(partition)).arg(&["offset", "mark", "newest", "ahead"]);
        let fields: [Option<String>; 4] = self.send(&read, "was asked for progress").await?;
        self.read_progress(&fields.map(Option::unwrap_or_default))
    }

    /// Applies changes of one partition in their order and moves its progress from `from` to `to`, all or nothing.
    ///
    /// A call whose answer was lost can be made again. Redis serves nobody else meanwhile: keep a batch to some thousand
    /// changes and a few megabytes.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn apply(
        &self,
        partition: &str,
        from: Option<Progress>,
        to: Progress,
        changes: &[Change<'_>],
    ) -> Result<Applied, Error> {
        let mut call = self.function("apply", 1 + keys_of(changes));
        call.arg(self.progress_key(partition));
        self.add_keys(&mut call, changes);
        add_progress(&mut call, from);
        add_progress(&mut call, Some(to));
        add_changes(&mut call, changes);
        let (done, offset, mark, newest, ahead, written, older, dropped): (u8, _, _, _, _, u64, u64, u64) =
            self.call(&call, "did not apply a batch").await?;
        let outcome = Outcome { written, older, dropped };
        match (done, self.read_progress(&[offset, mark, newest, ahead])?) {
            (1, Some(progress)) => Ok(Applied::Done { progress, outcome }),
            (_, progress) => Ok(Applied::Elsewhere(progress)),
        }
    }

    /// Applies changes beside a live worker: by the same rules, leaving all progress as it is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn replay(&self, changes: &[Change<'_>]) -> Result<Outcome, Error> {
        let mut call = self.function("replay", keys_of(changes));
        self.add_keys(&mut call, changes);
        add_changes(&mut call, changes);
        let (written, older, dropped) = self.call(&call, "did not apply a replayed batch").await?;
        Ok(Outcome { written, older, dropped })
    }

    /// Looks an entry up for a reader who wants at least everything below `token`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, reading: &Reading<'_>, token: Option<Stamp>) -> Result<Lookup, Error> {
        let mut call = self.reading("get", reading);
        call.arg(token.as_ref().map_or("", Stamp::as_str));
        let answer: Vec<Value> = self.call(&call, "did not look an entry up").await?;
        self.read_lookup(answer)
    }

    /// Offers a value read elsewhere, and tells whether it was stored.
    ///
    /// `low` must be a bound of what the value surely contains, taken before it was read; `high` one taken after. It is
    /// refused if a fence stands at or above `low`, if the cache has a value at least as new, or if a partition has no mark.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn fill(
        &self,
        reading: &Reading<'_>,
        entry: &Entry,
        time_to_live: Option<Duration>,
    ) -> Result<bool, Error> {
        let millis = time_to_live.map_or(0, |life| life.min(LONGEST_LIFE).as_millis().max(1));
        let mut call = self.reading("fill", reading);
        call.arg(entry.low.as_str()).arg(entry.high.as_str());
        call.arg(millis.to_string()).arg(&entry.value);
        let stored: u8 = self.call(&call, "did not take a fill").await?;
        Ok(stored == 1)
    }

    fn reading(&self, function: &str, reading: &Reading<'_>) -> Cmd {
        let fences = 1 + reading.groups.len();
        let mut call = self.function(function, 1 + fences + reading.partitions.len());
        call.arg(reading.key).arg(self.fence_key(reading.key));
        for group in reading.groups {
            call.arg(self.fence_key(group));
        }
        for partition in reading.partitions {
            call.arg(self.progress_key(partition));
        }
        call.arg(fences);
        call
    }

    fn add_keys(&self, call: &mut Cmd, changes: &[Change<'_>]) {
        for change in changes {
            match change {
                Change::Write { key, .. } | Change::Invalidate { key, .. } => call.arg(key).arg(self.fence_key(key)),
                Change::Fence { group, .. } => call.arg(self.fence_key(group)),
            };
        }
    }

    fn fence_key(&self, name: &str) -> String {
        [self.prefix(), ":fence:", name].concat()
    }

    fn progress_key(&self, partition: &str) -> String {
        [self.prefix(), ":progress:", partition].concat()
    }

    fn answer(&self, what: &'static str) -> Error {
        Error::Answer { server: self.server().to_owned(), what }
    }

    fn read_progress(&self, [offset, mark, newest, ahead]: &[String; 4]) -> Result<Option<Progress>, Error> {
        let stamp = |text: &str| match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| self.answer("progress")),
        };
        if offset.is_empty() {
            return Ok(None);
        }
        Ok(Some(Progress {
            offset: offset.parse().map_err(|_| self.answer("progress"))?,
            mark: stamp(mark)?,
            newest: stamp(newest)?,
            ahead: !ahead.is_empty(),
        }))
    }

    fn read_lookup(&self, answer: Vec<Value>) -> Result<Lookup, Error> {
        let mut parts = answer.into_iter();
        let mut next = || -> Result<Vec<u8>, Error> {
            let part = parts.next().ok_or_else(|| self.answer("lookup"))?;
            FromRedisValue::from_redis_value(part).map_err(|_| self.answer("lookup"))
        };
        let stamp = |bytes: Vec<u8>| Stamp::try_from(bytes.as_slice()).map_err(|_| self.answer("lookup"));
        match next()?.as_slice() {
            b"hit" => {
                let (mark, low, high) = (stamp(next()?)?, stamp(next()?)?, stamp(next()?)?);
                let entry = Entry { value: next()?, low, high };
                Ok(Lookup::Hit { entry, mark })
            }
            b"miss" => {
                let (mark, seen) = (stamp(next()?)?, next()?);
                Ok(Lookup::Miss { mark, seen: if seen.is_empty() { None } else { Some(stamp(seen)?) } })
            }
            b"unready" => Ok(Lookup::Unready),
            _ => Err(self.answer("lookup")),
        }
    }
}

fn keys_of(changes: &[Change<'_>]) -> usize {
    let keys = |change: &Change<'_>| {
        if matches!(change, Change::Fence { .. }) { 1 } else { 2 }
    };
    changes.iter().map(keys).sum()
}

fn add_progress(call: &mut Cmd, progress: Option<Progress>) {
    let text = |stamp: Option<Stamp>| stamp.map(|stamp| stamp.to_string()).unwrap_or_default();
    match progress {
        Some(Progress { offset, mark, newest, ahead }) => {
            call.arg(offset).arg(text(mark)).arg(text(newest)).arg(if ahead { "1" } else { "" })
        }
        None => call.arg("").arg("").arg("").arg(""),
    };
}

fn add_changes(call: &mut Cmd, changes: &[Change<'_>]) {
    for change in changes {
        match change {
            Change::Write { value, at, .. } => call.arg("W").arg(at.as_str()).arg(*value),
            Change::Invalidate { at, .. } => call.arg("I").arg(at.as_str()),
            Change::Fence { at, .. } => call.arg("F").arg(at.as_str()),
        };
    }
}
