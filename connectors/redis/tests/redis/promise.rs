//! The promise under every order of events: random runs of commits, batches, reads, fills in flight and losses of state,
//! on a real server and on a plain model of it beside. After each lookup both must answer alike, and what is served must
//! contain every change whose fence the cache has applied, and every change below the reader's token.

use highwater_redis::{Applied, Cache, Change, Lookup, Reading};
use proptest::prelude::*;

use crate::model::{
    Commit, GROUP, KEYS, Reached, State, Time, Value, WRITTEN, bound, entry, point, prefix, progress, text,
};
use crate::server::Server;

const PARTITIONS: [&str; 2] = ["p/0", "p/1"];
/// Contents are the bits of one word.
const MOST_COMMITS: usize = 60;

/// A reader between its miss and its fill.
#[derive(Debug)]
struct Reader {
    key: usize,
    grouped: bool,
    value: Value,
}

#[derive(Debug, Clone)]
enum Step {
    Commit {
        partition: usize,
        key: Option<usize>,
        group: bool,
    },
    Show(prop::sample::Index),
    Publish(usize),
    /// Also what the primary does not show yet.
    PublishAhead(usize),
    Replicate(usize),
    /// The worker of a partition applies up to so many commits, with or without a mark.
    Apply {
        partition: usize,
        most: usize,
        mark: bool,
    },
    /// Somebody replays all of the log beside the workers.
    Replay {
        partition: usize,
    },
    Get {
        key: usize,
        grouped: bool,
        token: Option<prop::sample::Index>,
    },
    ReadPrimary {
        key: usize,
        grouped: bool,
    },
    ReadReplica {
        key: usize,
        grouped: bool,
    },
    Fill(prop::sample::Index),
    Expire(usize),
    Copy,
    /// Redis comes back with the copy made last, or empty.
    Lose {
        all: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let flag = any::<bool>;
    prop_oneof![
        6 => (0..2_usize, prop::option::of(0..2_usize), flag()).prop_map(|(partition, key, group)| {
            // Keys belong to partition 0; a commit that feeds neither is one of other keys.
            Step::Commit { partition, key: key.filter(|_| partition == 0), group }
        }),
        5 => any::<prop::sample::Index>().prop_map(Step::Show),
        5 => (1..3_usize).prop_map(Step::Publish),
        1 => (1..3_usize).prop_map(Step::PublishAhead),
        3 => (1..3_usize).prop_map(Step::Replicate),
        9 => (0..2_usize, 1..4_usize, prop::bool::weighted(0.8))
            .prop_map(|(partition, most, mark)| Step::Apply { partition, most, mark }),
        1 => (0..2_usize).prop_map(|partition| Step::Replay { partition }),
        6 => (0..2_usize, flag(), prop::option::of(any::<prop::sample::Index>()))
            .prop_map(|(key, grouped, token)| Step::Get { key, grouped, token }),
        4 => (0..2_usize, flag()).prop_map(|(key, grouped)| Step::ReadPrimary { key, grouped }),
        3 => (0..2_usize, flag()).prop_map(|(key, grouped)| Step::ReadReplica { key, grouped }),
        6 => any::<prop::sample::Index>().prop_map(Step::Fill),
        1 => (0..2_usize).prop_map(Step::Expire),
        2 => Just(Step::Copy),
        1 => prop::bool::weighted(0.2).prop_map(|all| Step::Lose { all }),
    ]
}

struct World {
    cache: Cache,
    raw: redis::aio::MultiplexedConnection,
    log: Vec<Commit>,
    published: usize,
    replica: usize,
    readers: Vec<Reader>,
    state: State,
    copy: (State, Vec<(String, Vec<u8>)>),
    /// What each worker believes to stand in Redis.
    workers: [Option<Reached>; 2],
}

impl World {
    async fn new(server: &Server) -> Self {
        let mut raw = server.client().await;
        redis::cmd("FLUSHALL").exec_async(&mut raw).await.unwrap();
        Self {
            cache: server.cache().await,
            raw,
            log: Vec::new(),
            published: 0,
            replica: 0,
            readers: Vec::new(),
            state: State::default(),
            copy: (State::default(), Vec::new()),
            workers: [None; 2],
        }
    }

    async fn run(&mut self, step: &Step) {
        match step {
            Step::Commit { partition, key, group } if self.log.len() < MOST_COMMITS => {
                self.log.push(Commit { partition: *partition, key: *key, group: *group, visible: false, ahead: false });
            }
            Step::Show(index) if !self.log.is_empty() => index.get_mut(&mut self.log).visible = true,
            Step::Publish(most) => {
                let shown = self.log[self.published..].iter().take_while(|c| c.visible).count();
                self.publish(shown.min(*most));
            }
            Step::PublishAhead(most) => self.publish(self.log.len().min(self.published + most) - self.published),
            Step::Replicate(most) => self.replica = self.log.len().min(self.replica + most),
            Step::Apply { partition, most, mark } => self.apply(*partition, *most, *mark).await,
            Step::Replay { partition } => self.replay(*partition).await,
            Step::Get { key, grouped, token } => {
                let token = token.map(|index| bound(index.index(self.log.len() + 1)));
                self.get(*key, *grouped, token).await;
            }
            Step::ReadPrimary { key, grouped } => self.read_primary(*key, *grouped).await,
            Step::ReadReplica { key, grouped } => {
                // The bound is taken before the read.
                let low = bound(self.replica);
                let value = Value { content: prefix(self.replica), low, high: low };
                self.readers.push(Reader { key: *key, grouped: *grouped, value });
            }
            Step::Fill(index) if !self.readers.is_empty() => {
                let reader = self.readers.swap_remove(index.index(self.readers.len()));
                let stored = reading(reader.key, reader.grouped, |reading| {
                    let (cache, entry) = (self.cache.clone(), entry(&reader.value));
                    async move { cache.fill(&reading, &entry, None).await.unwrap() }
                });
                assert_eq!(
                    stored.await,
                    self.state.fill(reader.key, reader.grouped, reader.value.clone()),
                    "{reader:?}"
                );
            }
            Step::Expire(key) => {
                redis::cmd("DEL").arg(KEYS[*key]).exec_async(&mut self.raw).await.unwrap();
                self.state.values.remove(KEYS[*key]);
            }
            Step::Copy => self.copy = (self.state.clone(), self.dump().await),
            Step::Lose { all } => self.lose(*all).await,
            Step::Commit { .. } | Step::Show(_) | Step::Fill(_) => {}
        }
    }

    /// Publishes so many more. Each says whether it, or anything before it, is ahead of the primary: in another partition
    /// somebody may not have read that yet.
    fn publish(&mut self, count: usize) {
        for _ in 0..count {
            self.published += 1;
            self.log[self.published - 1].ahead = self.is_ahead();
        }
    }

    fn is_ahead(&self) -> bool {
        self.log[..self.published].iter().any(|commit| !commit.visible)
    }

    /// The commits of a partition in the published log; an offset counts them.
    fn partition(&self, partition: usize) -> Vec<usize> {
        let published = self.log[..self.published].iter().enumerate();
        published.filter(|(_, commit)| commit.partition == partition).map(|(index, _)| index).collect()
    }

    fn changes(&self, commits: &[usize]) -> (Vec<Vec<u8>>, Vec<(usize, Commit)>) {
        let contents = commits.iter().map(|index| prefix(index + 1).to_string().into_bytes()).collect();
        (contents, commits.iter().map(|index| (*index, self.log[*index])).collect())
    }

    async fn apply(&mut self, partition: usize, most: usize, mark: bool) {
        let commits = self.partition(partition);
        let from = self.workers[partition];
        let begin = usize::try_from(from.map_or(0, |p| p.0)).unwrap();
        let end = commits.len().min(begin + most);
        let batch = &commits[begin..end];
        // All below the next commit of this partition stands before it; at the end all that is published does.
        let reached = bound(commits.get(end).copied().unwrap_or(self.published));
        let reached = mark.then_some(reached).max(from.and_then(|p| p.1));
        let newest = batch.last().map(|index| point(*index)).max(from.and_then(|p| p.2));
        let ahead = if mark {
            self.is_ahead()
        } else {
            from.is_some_and(|p| p.3) || batch.iter().any(|index| self.log[*index].ahead)
        };
        let to = (end as u64, reached, newest, ahead);
        let (contents, made) = self.changes(batch);
        let changes = to_changes(&contents, &made);
        let answer = self.cache.apply(PARTITIONS[partition], from.map(progress), progress(to), &changes).await.unwrap();
        let stands = self.state.progress[partition];
        if stands == from {
            for (index, commit) in &made {
                self.state.make(*index, commit);
            }
            self.state.progress[partition] = Some(to);
            self.workers[partition] = Some(to);
            assert!(matches!(answer, Applied::Done { progress: p, .. } if p == progress(to)), "{answer:?}");
        } else if stands == Some(to) {
            // A worker that lags behind a state equal to what it wants: Redis holds the batch already.
            self.workers[partition] = Some(to);
            assert!(matches!(answer, Applied::Done { .. }), "{answer:?}");
        } else {
            assert_eq!(answer, Applied::Elsewhere(stands.map(progress)));
            self.workers[partition] = stands;
        }
    }

    async fn replay(&mut self, partition: usize) {
        let commits = self.partition(partition);
        let (contents, made) = self.changes(&commits);
        self.cache.replay(&to_changes(&contents, &made)).await.unwrap();
        for (index, commit) in &made {
            self.state.make(*index, commit);
        }
    }

    async fn get(&self, key: usize, grouped: bool, token: Option<Time>) -> Lookup {
        let cache = self.cache.clone();
        let answer =
            reading(key, grouped, |reading| async move { cache.get(&reading, token.map(text)).await.unwrap() }).await;
        assert_eq!(answer, self.state.get(key, grouped, token), "{key} {grouped} {token:?}");
        if let Lookup::Hit { entry, .. } = &answer {
            let content: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
            for (index, _) in self.log.iter().enumerate().filter(|(_, commit)| commit.feeds(key, grouped)) {
                let below = token.is_some_and(|token| point(index) < token);
                if content >> index & 1 == 0 {
                    assert!(!self.state.applied.contains(&index), "served without {index}, whose fence was applied");
                    assert!(!below, "served without {index}, which is below the token {token:?}");
                }
            }
        }
        answer
    }

    /// Misses (a token that nothing meets), then reads the primary as it stands at that time.
    async fn read_primary(&mut self, key: usize, grouped: bool) {
        let Lookup::Miss { seen, .. } = self.get(key, grouped, Some((u64::MAX, 0))).await else {
            return;
        };
        let Lookup::Miss { seen: expected, .. } = self.state.get(key, grouped, Some((u64::MAX, 0))) else {
            unreachable!("the answers were compared");
        };
        assert_eq!(seen, expected);
        // Without a bound there is no fill.
        let Some(seen) = seen else { return };
        let parts: Vec<u64> = seen.as_str().split('-').map(|part| u64::from_str_radix(part, 16).unwrap()).collect();
        let low = (parts[1], u32::try_from(parts[2]).unwrap());
        let visible = self.log.iter().enumerate().filter(|(_, commit)| commit.visible);
        let content = visible.fold(0, |content, (index, _)| content | 1 << index);
        let high = bound(self.log.len());
        self.readers.push(Reader { key, grouped, value: Value { content, low, high } });
    }

    async fn dump(&mut self) -> Vec<(String, Vec<u8>)> {
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut self.raw).await.unwrap();
        let mut dumps = Vec::new();
        for key in keys {
            let dump = redis::cmd("DUMP").arg(&key).query_async(&mut self.raw).await.unwrap();
            dumps.push((key, dump));
        }
        dumps
    }

    async fn lose(&mut self, all: bool) {
        redis::cmd("FLUSHALL").exec_async(&mut self.raw).await.unwrap();
        self.state = State::default();
        if all {
            return;
        }
        let (state, dumps) = &self.copy;
        for (key, dump) in dumps {
            redis::cmd("RESTORE").arg(key).arg(0).arg(dump).exec_async(&mut self.raw).await.unwrap();
        }
        self.state = state.clone();
    }
}

fn reading<'a, T>(key: usize, grouped: bool, call: impl FnOnce(Reading<'a>) -> T) -> T {
    call(Reading {
        key: KEYS[key],
        groups: if grouped { &[GROUP] } else { &[] },
        partitions: if grouped { &PARTITIONS } else { &PARTITIONS[..1] },
    })
}

fn to_changes<'a>(contents: &'a [Vec<u8>], made: &[(usize, Commit)]) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    for (value, (index, commit)) in contents.iter().zip(made) {
        let at = text(point(*index));
        match commit.key.map(|key| KEYS[key]) {
            Some(WRITTEN) => changes.push(Change::Write { key: WRITTEN.into(), value, at }),
            Some(key) => changes.push(Change::Invalidate { key: key.into(), at }),
            None => {}
        }
        if commit.group {
            changes.push(Change::Fence { group: GROUP.into(), at });
        }
    }
    changes
}

#[test]
fn no_order_of_events_makes_the_cache_serve_a_value_without_a_change_whose_fence_it_applied() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::start(&[]));
    // Outside the closure the cases share one server; inside, each begins with it emptied.
    proptest!(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() },
        |(steps in prop::collection::vec(step(), 1..120))| {
            runtime.block_on(async {
                let mut world = World::new(&server).await;
                for step in &steps {
                    world.run(step).await;
                }
                for key in 0..KEYS.len() {
                    world.get(key, true, None).await;
                    world.get(key, false, None).await;
                }
            });
        }
    );
}
