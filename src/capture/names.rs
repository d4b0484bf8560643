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

    /// Returns that of a topic.
    pub(super) fn of(&self, topic: Topic) -> &T {
        state_at(topic).map_or(&self.history, |at| &self.states[at])
    }

    /// Returns that of a topic, to be changed.
    pub(super) fn of_mut(&mut self, topic: Topic) -> &mut T {
        match state_at(topic) {
            Some(at) => &mut self.states[at],
            None => &mut self.history,
        }
    }
}

/// Returns where a state topic stands among them, in the order of [`Family::ALL`].
fn state_at(topic: Topic) -> Option<usize> {
    match topic {
        Topic::State(Family::Stock) => Some(0),
        Topic::State(Family::Price) => Some(1),
        Topic::State(Family::Content) => Some(2),
        Topic::History => None,
    }
}
