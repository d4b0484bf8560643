//! How a server that is down is tried: again and again, with growing pauses, until a deadline.

use std::fmt::{self, Display};
use std::time::{Duration, Instant};

use super::Shutdown;

/// How long a server is tried, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Pause after the first attempt; it doubles with each.
    pub first: Duration,
    /// The pause grows no longer than this.
    pub longest: Duration,
    /// No attempt starts later than this after the first.
    pub deadline: Duration,
}

/// A server as messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What it is: `Redis`.
    pub server: &'static str,
    /// Where it is looked for, without secrets: `redis://127.0.0.1:6379`.
    pub address: String,
    /// The setting that says so: `cache.server`.
    pub setting: &'static str,
}

/// A server that could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum GaveUp<E> {
    /// It did not answer before the deadline.
    #[error("{target} did not answer within {} s ({attempts} attempts); start it, or change {}", waited.as_secs(), target.setting)]
    Deadline {
        /// Who did not answer.
        target: Target,
        /// How often it was tried.
        attempts: u32,
        /// How long it was tried.
        waited: Duration,
        /// What the last attempt said.
        source: E,
    },
    /// It answered, in a way that another attempt will not change.
    #[error("{target} refused; see {}", target.setting)]
    Refused {
        /// Who refused.
        target: Target,
        /// What it said.
        source: E,
    },
    /// The process was asked to stop first.
    #[error("stopped while waiting for {0}")]
    Stopped(Target),
}

/// The attempts made so far: pure, so that a task and a thread can both wait by it.
#[derive(Debug)]
pub struct Attempts {
    patience: Patience,
    made: u32,
}

impl Attempts {
    /// Starts with no attempt made.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        Self { patience, made: 0 }
    }

    /// Returns how many attempts were made.
    #[must_use]
    pub fn made(&self) -> u32 {
        self.made
    }

    /// Counts a failed attempt and returns the pause before the next; `None` if that would be past the deadline.
    ///
    /// `waited` is the time since the first attempt.
    pub fn failed(&mut self, waited: Duration) -> Option<Duration> {
        let doublings = self.made.min(30);
        self.made += 1;
        let pause = self.patience.first.saturating_mul(1 << doublings).min(self.patience.longest);
        (waited.saturating_add(pause) <= self.patience.deadline).then_some(pause)
    }
}

/// Tries a server until it answers, the deadline has passed, or the process is to stop. Each failed attempt is a log line
/// with the server and its address.
///
/// # Errors
/// If the server did not answer in time, or answered with an error that `is_transient` does not call so.
pub async fn reach<T, E: Display, F: Future<Output = Result<T, E>>>(
    target: &Target,
    patience: Patience,
    shutdown: &Shutdown,
    is_transient: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, GaveUp<E>> {
    let mut trial = Trial::start(target, patience);
    loop {
        let outcome = shutdown.run_until_cancelled(attempt()).await;
        let Some(outcome) = outcome else {
            return Err(GaveUp::Stopped(target.clone()));
        };
        let pause = match outcome {
            Ok(reached) => return Ok(reached),
            Err(error) => trial.failed(error, &is_transient)?,
        };
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Err(GaveUp::Stopped(target.clone()));
        }
    }
}

/// Does what [`reach`] does on a thread of its own.
///
/// # Errors
/// As [`reach`].
pub fn reach_blocking<T, E: Display>(
    target: &Target,
    patience: Patience,
    shutdown: &Shutdown,
    is_transient: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, GaveUp<E>> {
    // Pauses are cut into slices, since a thread cannot wait for the shutdown and for time at once.
    const SLICE: Duration = Duration::from_millis(50);
    let mut trial = Trial::start(target, patience);
    loop {
        let pause = match attempt() {
            Ok(reached) => return Ok(reached),
            Err(error) => trial.failed(error, &is_transient)?,
        };
        let until = Instant::now() + pause;
        loop {
            if shutdown.is_cancelled() {
                return Err(GaveUp::Stopped(target.clone()));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(SLICE));
        }
    }
}

/// One server being tried.
struct Trial<'a> {
    target: &'a Target,
    attempts: Attempts,
    started: Instant,
}

impl<'a> Trial<'a> {
    fn start(target: &'a Target, patience: Patience) -> Self {
        Self { target, attempts: Attempts::new(patience), started: Instant::now() }
    }

    /// Returns the pause before the next attempt, or why there is none.
    fn failed<E: Display>(&mut self, error: E, is_transient: impl Fn(&E) -> bool) -> Result<Duration, GaveUp<E>> {
        let target = self.target.clone();
        if !is_transient(&error) {
            return Err(GaveUp::Refused { target, source: error });
        }
        let waited = self.started.elapsed();
        let Some(pause) = self.attempts.failed(waited) else {
            let attempts = self.attempts.made();
            return Err(GaveUp::Deadline { target, attempts, waited, source: error });
        };
        tracing::warn!(
            server = target.server,
            address = target.address,
            attempt = self.attempts.made(),
            retry_in_ms = pause.as_millis(),
            error = %error,
            "server does not answer, will try again"
        );
        Ok(pause)
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.server, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATIENCE: Patience = Patience {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(4),
        deadline: Duration::from_millis(20),
    };

    fn target() -> Target {
        Target { server: "Redis", address: "redis://127.0.0.1:1".into(), setting: "cache.server" }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_end_at_the_deadline() {
        let mut attempts = Attempts::new(PATIENCE);
        let pauses: Vec<_> = [0, 1, 3, 7, 15, 17].map(|ms| attempts.failed(Duration::from_millis(ms))).into();
        let expected = [Some(1), Some(2), Some(4), Some(4), Some(4), None];
        assert_eq!(pauses, expected.map(|ms| ms.map(Duration::from_millis)));
        assert_eq!(attempts.made(), 6);
    }

    proptest! {
        #[test]
        fn no_attempt_starts_after_the_deadline(waited in 0u64..40, before in 0u32..100) {
            let mut attempts = Attempts { patience: PATIENCE, made: before };
            let waited = Duration::from_millis(waited);
            if let Some(pause) = attempts.failed(waited) {
                prop_assert!(waited + pause <= PATIENCE.deadline);
                prop_assert!(pause <= PATIENCE.longest);
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_comes_up_late_is_reached() {
        let mut left = 3;
        let attempt = || {
            left -= 1;
            std::future::ready(if left == 0 { Ok("up") } else { Err("down".to_owned()) })
        };
        let reached = reach(&target(), PATIENCE, &Shutdown::new(), |_: &String| true, attempt).await;
        assert_eq!(reached.unwrap(), "up");
    }

    #[tokio::test]
    async fn a_server_that_stays_down_is_named_with_its_address_and_the_setting() {
        let never = async || Err::<(), _>("connection refused".to_owned());
        let GaveUp::Deadline { target, .. } =
            reach(&target(), PATIENCE, &Shutdown::new(), |_| true, never).await.unwrap_err()
        else {
            panic!("expected the deadline");
        };
        assert_eq!(target.to_string(), "Redis at redis://127.0.0.1:1");
        assert_eq!(target.setting, "cache.server");
    }

    #[test]
    fn a_thread_gives_up_at_once_when_the_error_will_not_go_away() {
        let mut made = 0;
        let outcome = reach_blocking(
            &target(),
            PATIENCE,
            &Shutdown::new(),
            |_| false,
            || {
                made += 1;
                Err::<(), _>("password authentication failed")
            },
        );
        assert!(matches!(outcome, Err(GaveUp::Refused { .. })));
        assert_eq!(made, 1);
    }

    #[test]
    fn a_thread_stops_waiting_when_the_process_is_to_stop() {
        let shutdown = Shutdown::new();
        let patience =
            Patience { longest: Duration::from_mins(1), first: Duration::from_mins(1), deadline: Duration::MAX };
        let outcome = reach_blocking(
            &target(),
            patience,
            &shutdown,
            |_| true,
            || {
                shutdown.cancel();
                Err::<(), _>("down")
            },
        );
        assert!(matches!(outcome, Err(GaveUp::Stopped(_))));
    }
}
