//! Clients that join, fall behind, leave and resume at any moment, over two topics of two partitions.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::position::Position;

const PARTITIONS: [(usize, i32); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

#[derive(Debug, Clone)]
enum Step {
    /// Something happens to a part in a topic.
    Event { topic: usize, part: u8, size: usize },
    /// Capture marks a partition up to the present.
    Mark { place: usize },
    /// The reader reads the next record of a partition, each at its own pace.
    Read { place: usize },
    /// A client joins; `resume` with the token of the client that left last.
    Join { topics: u8, part: Option<u8>, resume: bool },
    /// A client takes what waits for it, as its follower does.
    Take { client: prop::sample::Index },
    /// A client's connection breaks.
    Leave { client: prop::sample::Index },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..2, 0_u8..4, 0_usize..100).prop_map(|(topic, part, size)| Step::Event { topic, part, size }),
        4 => (0_usize..4).prop_map(|place| Step::Mark { place }),
        8 => (0_usize..4).prop_map(|place| Step::Read { place }),
        2 => (1_u8..4, prop::option::of(0_u8..4), any::<bool>())
            .prop_map(|(topics, part, resume)| Step::Join { topics, part, resume }),
        6 => any::<prop::sample::Index>().prop_map(|client| Step::Take { client }),
        1 => any::<prop::sample::Index>().prop_map(|client| Step::Leave { client }),
    ]
}

fn event(topic: usize, part: u8, lsn: u64, size: usize) -> Event {
    Event {
        position: Position { timeline: 1, lsn, seq: 0 },
        topic,
        partition: i32::from(part % 2),
        key: Bytes::from(vec![part]),
        part: Some(part.to_string().into()),
        text: "x".repeat(size).into(),
        whole: true,
        truncation: false,
    }
}

/// A page: what it shows of each entity, and from where on it says it is complete.
struct Page {
    interest: Interest,
    joined: Joined,
    shown: BTreeMap<(usize, Bytes), Position>,
    token: Option<Bound>,
}

/// The truth: every event so far, and the newest of each entity.
#[derive(Default)]
struct Shop(Vec<Event>);

impl Shop {
    fn newest(&self, interest: &Interest, below: Bound) -> BTreeMap<(usize, Bytes), Position> {
        let covered = self.0.iter().filter(|event| interest.covers(event) && below.contains(event.position));
        covered.map(|event| ((event.topic, event.key.clone()), event.position)).collect()
    }

    /// Fetches the state from the shop's own database, as a page does.
    fn fetch(&self, page: &mut Page) {
        for (entity, position) in self.newest(&page.interest, Bound::at_lsn(1, u64::MAX)) {
            let shown = page.shown.entry(entity).or_insert(position);
            *shown = position.max(*shown);
        }
    }
}

impl Page {
    fn take(&mut self, shop: &Shop) {
        let mark = self.joined.marks.borrow_and_update()[self.interest.topics.number()].clone();
        let taken = self.joined.outbox.take(150);
        let empty = taken.is_empty();
        if taken.resync.is_some() {
            shop.fetch(self);
        }
        for event in taken.events {
            let shown = self.shown.entry((event.topic, event.key.clone())).or_insert(event.position);
            *shown = event.position.max(*shown);
        }
        if let Some(mark) = mark.filter(|mark| empty && self.token.is_none_or(|token| token < mark.bound)) {
            self.token = Some(mark.bound);
        }
    }

    /// Whatever lies below the token is shown, or something newer of its entity.
    fn keeps_its_promise(&self, shop: &Shop) -> bool {
        let Some(token) = self.token else { return true };
        shop.newest(&self.interest, token)
            .iter()
            .all(|(entity, &newest)| self.shown.get(entity).is_some_and(|&shown| shown >= newest))
    }
}

fn join(hub: &Hub, shop: &Shop, topics: u8, part: Option<u8>, left: Option<&Page>) -> Page {
    let topics = Topics::all_sets().nth(topics.into()).unwrap_or_default();
    let fresh = Interest { topics, parts: part.map(|part| BTreeSet::from([part.to_string().into()])) };
    let interest = left.map_or(fresh, |left| left.interest.clone());
    let token = left.and_then(|left| left.token);
    let joined = hub.join(interest.clone(), token, 1_500);
    let resumed = joined.resumed;
    let shown = left.filter(|_| resumed).map(|left| left.shown.clone()).unwrap_or_default();
    let mut page = Page { interest, joined, shown, token: token.filter(|_| resumed) };
    if !resumed {
        shop.fetch(&mut page);
    }
    page
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_lies_below_a_clients_token_is_on_its_page(steps in prop::collection::vec(step(), 1..150), ring in 0_usize..6_000) {
        let hub = Hub::new("test");
        for (topic, index) in PARTITIONS {
            hub.add_partition(topic, index, ring);
        }
        let (mut shop, mut pages, mut left, mut lsn) = (Shop::default(), Vec::<Page>::new(), None, 0);
        let mut logs: [VecDeque<Read>; 4] = Default::default();
        for step in steps {
            match step {
                Step::Event { topic, part, size } => {
                    lsn += 1;
                    let event = event(topic, part, lsn, size);
                    shop.0.push(event.clone());
                    logs[topic * 2 + usize::from(part % 2)].push_back(Read::Event(event));
                }
                Step::Mark { place } => {
                    let (topic, partition) = PARTITIONS[place];
                    let marked = Marked { bound: Bound::at_lsn(1, lsn + 1), time: Arc::from("t") };
                    logs[place].push_back(Read::Mark { topic, partition, marked });
                }
                Step::Read { place } => hub.publish(logs[place].pop_front()),
                Step::Join { topics, part, resume } => {
                    pages.push(join(&hub, &shop, topics, part, left.as_ref().filter(|_| resume)));
                }
                Step::Take { client } if !pages.is_empty() => {
                    let client = client.index(pages.len());
                    pages[client].take(&shop);
                }
                Step::Leave { client } if !pages.is_empty() => {
                    let page = pages.swap_remove(client.index(pages.len()));
                    hub.leave(page.joined.id);
                    left = Some(page);
                }
                Step::Take { .. } | Step::Leave { .. } => {}
            }
            prop_assert!(pages.iter().all(|page| page.keeps_its_promise(&shop)));
        }
        // When all is quiet, everybody shows the present.
        hub.publish(logs.into_iter().flatten());
        for page in &mut pages {
            (0..200).for_each(|_| page.take(&shop));
            prop_assert_eq!(&page.shown, &shop.newest(&page.interest, Bound::at_lsn(1, u64::MAX)));
        }
        for page in &pages {
            hub.leave(page.joined.id);
        }
        let state = hub.state();
        prop_assert!(state.clients.is_empty() && state.all.is_empty() && state.by_part.is_empty());
    }
}
