//! What the writers do next: mostly stock, of few parts much and of many a little.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Parts that the writers remember to have added or removed.
const REMEMBERED: usize = 1000;

/// What the shop has, as far as the writers must know it.
pub(super) struct Stock {
    parts: i64,
    categories: i64,
    added: Mutex<VecDeque<i64>>,
    removed: Mutex<VecDeque<i64>>,
}

impl Stock {
    pub(super) fn new(parts: i64, categories: i64) -> Self {
        Self { parts, categories, added: Mutex::default(), removed: Mutex::default() }
    }

    pub(super) fn note_added(&self, part: i64) {
        remember(&self.added, part);
    }

    pub(super) fn note_removed(&self, part: i64) {
        remember(&self.removed, part);
    }

    fn take(from: &Mutex<VecDeque<i64>>) -> Option<i64> {
        from.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

fn remember(list: &Mutex<VecDeque<i64>>, part: i64) {
    let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
    if list.len() == REMEMBERED {
        list.pop_front();
    }
    list.push_back(part);
}

/// One transaction's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// The stock level of one part moves, under optimistic locking.
    Stock { part: i64, by: i32 },
    /// An order reserves several parts, in the order of their ids.
    Order { parts: Vec<i64> },
    /// A delivery raises many stock levels in one statement.
    Delivery { parts: Vec<i64> },
    /// All prices of a part move together, the old list's too.
    Price { part: i64, permille: i32 },
    /// A part's name changes, its long description does not.
    Rename { part: i64 },
    /// A part gets a new description.
    Describe { part: i64 },
    /// One of a part's measures is corrected.
    Specification { part: i64 },
    /// A part gets one more image.
    AddImage { part: i64 },
    /// A part loses its last image that is not the primary one.
    DropImage { part: i64 },
    /// An image turns out to show another part.
    MoveImage { from: i64, to: i64 },
    /// A part with all of its rows comes in, maybe under an id that was there before.
    Add { id: Option<i64> },
    /// A part goes, its rows with it.
    Remove { part: i64 },
    /// An update that changes nothing.
    Touch { part: i64 },
    /// A category's text changes.
    Category { id: i64 },
    /// Stock moves, and is rolled back.
    Abandon { part: i64 },
    /// Stock of three parts moves, the second of them is rolled back to a savepoint.
    Savepoint { parts: [i64; 3] },
}

/// Plans the writes of one connection.
pub(super) struct Planner {
    pub(super) dice: SmallRng,
}

impl Planner {
    pub(super) fn new(seed: u64) -> Self {
        Self { dice: SmallRng::seed_from_u64(seed) }
    }

    /// Returns the next work; per mille of all work before each kind.
    pub(super) fn next(&mut self, stock: &Stock) -> Work {
        let part = self.popular(stock);
        match self.dice.random_range(0..1000) {
            0..580 => Work::Stock { part, by: self.dice.random_range(-9..=8) },
            580..630 => Work::Order { parts: self.several(stock, 2, 8) },
            630..640 => Work::Delivery { parts: self.several(stock, 20, 60) },
            640..780 => Work::Price { part, permille: self.dice.random_range(900..=1110) },
            780..830 => Work::Rename { part },
            830..850 => Work::Describe { part },
            850..870 => Work::Specification { part },
            870..885 => Work::AddImage { part },
            885..900 => Work::DropImage { part },
            900..905 => Work::MoveImage { from: part, to: self.popular(stock) },
            905..930 => self.add(stock),
            930..950 => self.remove(stock),
            950..960 => Work::Touch { part },
            960..965 => Work::Category { id: self.dice.random_range(1..=stock.categories) },
            965..985 => Work::Abandon { part },
            _ => Work::Savepoint { parts: [part, self.popular(stock), self.popular(stock)] },
        }
    }

    /// Chooses a part as shoppers would: with a probability inverse to its place in the ranking, which is its id (Zipf's
    /// law with exponent 1, by its inverse distribution).
    fn popular(&mut self, stock: &Stock) -> i64 {
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "ids are far below 2^52")]
        let rank = (stock.parts as f64).powf(self.dice.random::<f64>()) as i64;
        rank.clamp(1, stock.parts)
    }

    fn several(&mut self, stock: &Stock, least: usize, most: usize) -> Vec<i64> {
        let count = self.dice.random_range(least..=most);
        let mut parts: Vec<i64> = (0..count).map(|_| self.popular(stock)).collect();
        // Everybody locks in one order, so that two orders cannot wait for each other.
        parts.sort_unstable();
        parts.dedup();
        parts
    }

    fn add(&mut self, stock: &Stock) -> Work {
        let again = self.dice.random_ratio(1, 2);
        Work::Add { id: if again { Stock::take(&stock.removed) } else { None } }
    }

    /// Mostly removes what was added; sometimes a part of the unpopular half.
    fn remove(&mut self, stock: &Stock) -> Work {
        let known = if self.dice.random_ratio(4, 5) { Stock::take(&stock.added) } else { None };
        let part = known.unwrap_or_else(|| self.dice.random_range(stock.parts / 2 + 1..=stock.parts));
        Work::Remove { part }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_work_comes_up() {
        let (stock, mut planner) = (Stock::new(1000, 20), Planner::new(1));
        stock.note_removed(77);
        let mut kinds = std::collections::HashSet::new();
        for _ in 0..20_000 {
            kinds.insert(std::mem::discriminant(&planner.next(&stock)));
        }
        assert_eq!(kinds.len(), 16);
    }

    #[test]
    fn few_parts_get_many_of_the_writes() {
        let (stock, mut planner) = (Stock::new(10_000, 20), Planner::new(1));
        let hot = (0..10_000).filter(|_| planner.popular(&stock) <= 100).count();
        assert!((4000..6000).contains(&hot), "{hot} of 10000 writes went to the hundred most popular parts");
    }

    #[test]
    fn a_removed_id_comes_back() {
        let (stock, mut planner) = (Stock::new(100, 20), Planner::new(1));
        stock.note_removed(42);
        let back = (0..10_000).find_map(|_| match planner.next(&stock) {
            Work::Add { id: Some(id) } => Some(id),
            _ => None,
        });
        assert_eq!(back, Some(42));
    }
}
