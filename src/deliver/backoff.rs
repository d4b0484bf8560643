//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles from `first` to `most`, each time shortened by up to a half at random so that many do not come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), most: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// Returns the wait after `attempts` failures (at least one). `chance` is a random number of 0 to 1.
    #[must_use]
    pub fn delay(&self, attempts: u32, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1)));
        doubled.min(self.most).mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
    }
}

/// A number of 0 to 1 that differs between callers and moments. Not for secrets.
pub(super) fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    // RandomState is seeded anew for each one made.
    let word = u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or(0);
    f64::from(word) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_to_the_limit_and_never_vanish(attempts in 1_u32..100, chance in 0.0_f64..=1.0) {
            let backoff = Backoff::default();
            let delay = backoff.delay(attempts, chance);
            prop_assert!(delay <= backoff.most && delay >= backoff.first / 2);
            prop_assert!(backoff.delay(attempts + 1, chance) >= delay);
        }
    }

    #[test]
    fn chances_are_chances() {
        let many: Vec<f64> = (0..100).map(|_| chance()).collect();
        assert!(many.iter().all(|c| (0.0..1.0).contains(c)));
        assert!(many.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 0.01));
    }
}
