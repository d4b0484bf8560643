//! Tools that take turns, so that what the machine does meanwhile meets all of them alike.

use anyhow::Result;

use crate::report::Median;

/// A tool's runs, or why there are no more.
pub(crate) struct Outcome<T, R> {
    pub(crate) tool: T,
    pub(crate) runs: Vec<R>,
    pub(crate) failure: Option<String>,
}

impl<T, R> Outcome<T, R> {
    /// The median of a figure of the runs; none where a run failed.
    pub(crate) fn median(&self, figure: impl Fn(&R) -> f64) -> Option<Median> {
        Median::of(self.runs.iter().map(figure)).filter(|_| self.failure.is_none())
    }

    /// Says why there is no median, in one line.
    pub(crate) fn why(&self) -> String {
        let why = self.failure.as_deref().and_then(|why| why.lines().next()).unwrap_or("no run");
        format!("could not run: {why}")
    }
}

/// Warms a broker that was just started, by runs that do not count: its young compiler takes three times the CPU of the broker's own
/// work, and less each time.
pub(crate) async fn warm_up<R>(runs: u32, mut run: impl AsyncFnMut() -> Result<R>) {
    for nth in 1..=runs {
        eprintln!("bench: run {nth} of {runs} that do not count, for a broker that was just started");
        if let Err(error) = run().await {
            eprintln!("bench: it failed: {error:#}");
        }
    }
}

/// Runs each tool once in each round, and says what came of it; a tool that has failed is left out from then on.
pub(crate) async fn take_turns<T: Copy, R>(
    tools: impl IntoIterator<Item = T>,
    rounds: usize,
    name: impl Fn(T) -> String,
    mut run: impl AsyncFnMut(T) -> Result<R>,
    told: impl Fn(&R) -> String,
) -> Vec<Outcome<T, R>> {
    let mut outcomes: Vec<Outcome<T, R>> =
        tools.into_iter().map(|tool| Outcome { tool, runs: Vec::new(), failure: None }).collect();
    for round in 1..=rounds {
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.failure.is_none()) {
            let name = name(outcome.tool);
            match run(outcome.tool).await {
                Ok(run) => {
                    eprintln!("bench: round {round}: {name}: {}", told(&run));
                    outcome.runs.push(run);
                }
                Err(error) => {
                    eprintln!("bench: round {round}: {name} failed: {error:#}");
                    outcome.failure = Some(format!("{error:#}"));
                }
            }
        }
    }
    outcomes
}
