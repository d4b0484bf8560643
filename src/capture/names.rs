//! What the topics of a source are called, by what goes to them.

use crate::events::draft::Topic;
use crate::events::mapping::spec::Family;
use crate::topics::Topics;

/// The names of the topics that capture writes to.
pub(super) struct Names {
    pub(super) events: PerTopic<String>,
    pub(super) progress: String,
    pub(super) dead_letters: String,
}

/// Something for each kind of topic that events go to.
pub(super) struct PerTopic<T> {
    pub(super) states: [T; 3],
    history: T,
}

impl Names {
    pub(super) fn of(topics: &Topics) -> Self {
        let events = PerTopic { states: topics.states(), history: topics.history() };
        Self { events, progress: topics.progress(), dead_letters: topics.dead_letters() }
    }
}

impl<T> PerTopic<T> {
    /// Makes something of each.
    pub(super) fn map<U>(&self, make: impl Fn(&T) -> U) -> PerTopic<U> {
        PerTopic { states: self.states.each_ref().map(&make), history: make(&self.history) }
    }

    /// Returns that of a topic, to be changed.
    pub(super) fn of_mut(&mut self, topic: Topic) -> &mut T {
        match topic {
            Topic::State(Family::Stock) => &mut self.states[0],
            Topic::State(Family::Price) => &mut self.states[1],
            Topic::State(Family::Content) => &mut self.states[2],
            Topic::History => &mut self.history,
        }
    }

    /// Returns that of a topic.
    pub(super) fn of(&self, topic: Topic) -> &T {
        match topic {
            Topic::State(Family::Stock) => &self.states[0],
            Topic::State(Family::Price) => &self.states[1],
            Topic::State(Family::Content) => &self.states[2],
            Topic::History => &self.history,
        }
    }
}
