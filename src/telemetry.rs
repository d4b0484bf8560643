//! Logs and metrics of the process. Promise: no row data and no secret in either.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use highwater::running::{LogFormat, Settings};

/// Histogram buckets for seconds: from what a commit needs to reach Kafka to what an operator notices.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];

/// Histogram buckets for sizes: records, changes, bytes.
const SIZES: [f64; 9] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e9];

/// Sends logs to standard error.
///
/// # Errors
/// If the process has a subscriber already.
pub(crate) fn start_logs(settings: &Settings) -> Result<()> {
    // Libraries below us log statements with their parameters at debug: row data. They stay at warn.
    let ours = LevelFilter::from_level(settings.log);
    let theirs = ours.min(LevelFilter::from_level(Level::WARN));
    let filter = Targets::new().with_default(theirs).with_target("highwater", ours);
    let layer =
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let layer = match settings.log_format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    // Beside the layer, not on it: a filter on a layer drops the next event of a thread that only asked what is enabled, as the
    // Kafka client does whenever one is made.
    tracing_subscriber::registry().with(filter).with(layer).try_init().context("cannot start the logs")
}

/// Collects metrics; histograms named `…_seconds` and `…_ms` have buckets of these units, all others those of sizes.
///
/// # Errors
/// If the process has a recorder already.
pub(crate) fn start_metrics() -> Result<PrometheusHandle> {
    let millis = SECONDS.map(|seconds| seconds * 1000.0);
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_ms".to_owned()), &millis))
        .and_then(|builder| builder.set_buckets(&SIZES))
        .and_then(PrometheusBuilder::install_recorder)
        .context("cannot start the metrics")
}
