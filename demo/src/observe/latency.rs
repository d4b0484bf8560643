//! How long changes took from their commit to a copy.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies of one copy being measured.
pub(super) struct Latency {
    us: Mutex<Histogram<u64>>,
}

/// Latencies of one copy so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Changes that were measured.
    pub count: u64,
    /// Half of them took no longer.
    pub p50: Duration,
    /// Ninety-nine of a hundred took no longer.
    pub p99: Duration,
    /// The slowest.
    pub max: Duration,
}

impl Latency {
    pub(super) fn new() -> Result<Self, hdrhistogram::CreationError> {
        // To ten minutes, with three significant digits.
        Ok(Self { us: Mutex::new(Histogram::new_with_bounds(1, 600_000_000, 3)?) })
    }

    /// Records a change by its commit and its arrival, in microseconds since 1970.
    pub(super) fn record(&self, committed_us: i64, arrived_us: i64) {
        let took = u64::try_from(arrived_us - committed_us).unwrap_or(0).max(1);
        self.us.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(took);
    }

    pub(super) fn so_far(&self) -> Quantiles {
        let us = self.us.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |quantile| Duration::from_micros(us.value_at_quantile(quantile));
        Quantiles { count: us.len(), p50: at(0.5), p99: at(0.99), max: Duration::from_micros(us.max()) }
    }

    pub(super) fn forget(&self) {
        self.us.lock().unwrap_or_else(PoisonError::into_inner).reset();
    }
}
