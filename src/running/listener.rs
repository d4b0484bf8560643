//! `/metrics` for Prometheus, `/healthz` (the process answers) and `/readyz` (every role does its work).

use std::fmt::Write;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use super::Readiness;

/// Media type of the Prometheus text format (Prometheus manual, "Exposition formats").
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until it is dropped, which is after the drain, so that a drain can be watched.
///
/// # Errors
/// If the listener fails.
pub async fn serve(listener: TcpListener, metrics: PrometheusHandle, readiness: Readiness) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .with_state(metrics)
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(show_readiness).with_state(readiness));
    axum::serve(listener, router).await
}

async fn show_metrics(State(metrics): State<PrometheusHandle>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], metrics.render()).into_response()
}

async fn show_readiness(State(readiness): State<Readiness>) -> Response {
    let mut text = String::new();
    let mut status = StatusCode::OK;
    for (role, reason) in readiness.all() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{role}: {}", reason.as_deref().unwrap_or("ready"));
        if reason.is_some() {
            status = StatusCode::SERVICE_UNAVAILABLE;
        }
    }
    (status, text).into_response()
}
