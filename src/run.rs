//! The roles of one process, from their start to the end of the drain.
//!
//! A role that ends by itself ends the process: half a pipeline that looks alive is worse than one that a supervisor
//! starts again.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use highwater::roles::{Config, Role};
use highwater::running::{self, Readiness, Shutdown};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::start;

/// How often histograms are folded; between two scrapes they would grow without a bound.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Tasks of the roles; each ends with its role and what became of it.
type Tasks = JoinSet<(Role, Result<()>)>;

/// Runs roles until a signal or until one of them ends, then drains.
///
/// # Errors
/// If a role ends by itself, cannot be drained, or nothing can be started at all.
pub(crate) async fn run(config: Config, roles: &[Role], metrics: PrometheusHandle) -> Result<ExitCode> {
    let config = Arc::new(config);
    let mut signals = Signals::listen()?;
    let readiness = Readiness::of(roles.iter().map(|role| role.name()));
    let watched = watch(&config.operate, metrics, readiness.clone()).await?;
    let shutdown = Shutdown::new();
    let mut tasks = Tasks::new();
    for &role in roles {
        let work = start::run(role, Arc::clone(&config), shutdown.clone(), readiness.role(role.name()));
        tasks.spawn(async move { (role, work.await) });
    }
    tracing::info!(roles = ?roles, listen = %config.operate.listen, "highwater runs");

    let ended = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, deadline_s = config.operate.drain.as_secs(), "draining");
            Ok(())
        }
        Some(end) = tasks.join_next() => Err(ended_by_itself(end)),
    };
    shutdown.cancel();
    let drained = drain(&mut tasks, config.operate.drain, &mut signals).await;
    drop(watched);
    ended.and(drained)?;
    tracing::info!("drained");
    Ok(ExitCode::SUCCESS)
}

/// Serves metrics, liveness and readiness until the returned set is dropped, which is after the drain.
async fn watch(settings: &running::Settings, metrics: PrometheusHandle, readiness: Readiness) -> Result<JoinSet<()>> {
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {}; free the port, or change operate.listen", settings.listen))?;
    let mut watched = JoinSet::new();
    let upkeep = metrics.clone();
    watched.spawn(async move {
        if let Err(error) = running::serve(listener, metrics, readiness).await {
            tracing::error!(%error, "the operate listener ended");
        }
    });
    watched.spawn(async move {
        let mut ticks = tokio::time::interval(METRICS_UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(watched)
}

type End = Result<(Role, Result<()>), tokio::task::JoinError>;

fn ended_by_itself(end: End) -> anyhow::Error {
    match end {
        Ok((role, Ok(()))) => anyhow!("{role} ended without being asked to"),
        Ok((role, Err(error))) => error.context(format!("{role} cannot go on")),
        Err(error) => anyhow!(error).context("a role ended with a panic"),
    }
}

/// Waits until every role has ended, up to the deadline or a second signal.
async fn drain(tasks: &mut Tasks, deadline: Duration, signals: &mut Signals) -> Result<()> {
    let mut outcome = Ok(());
    let all = async {
        while let Some(end) = tasks.join_next().await {
            let end = match end {
                Ok((_, Ok(()))) => continue,
                end => ended_by_itself(end),
            };
            tracing::error!(error = running::told(end.as_ref()), "role failed in the drain");
            outcome = Err(end);
        }
    };
    let interrupted = tokio::select! {
        () = all => None,
        () = tokio::time::sleep(deadline) => Some(format!("the drain took longer than {} s", deadline.as_secs())),
        name = signals.next() => Some(format!("a second signal, {name}, ended the drain")),
    };
    match interrupted {
        Some(reason) => Err(anyhow!("{reason}; {} roles were still at work", tasks.len())),
        None => outcome,
    }
}

/// The signals that ask a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
