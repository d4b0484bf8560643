//! The whole demo: schema and catalogue where they are missing, the pipeline, writers, observers, a page, a live table.

mod http;
mod page;
mod pipeline;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::ledger::{Copy, Ledger};
use crate::observe::Observers;
use crate::write::Writers;
use crate::{Endpoints, check, generate, schema, write};
use pipeline::Pipeline;

/// How often the table is drawn.
const REDRAW: Duration = Duration::from_millis(500);
/// Writing before the measurement starts, at several times the rate: connections are opened, statements prepared, and the
/// broker's Java is compiled, which takes a broker that was just started some 15 s of processor time.
const WARM_UP: Duration = Duration::from_secs(5);
/// The same where the figures count.
const CHECKED_WARM_UP: Duration = Duration::from_secs(30);
const WARM_UP_RATE: u32 = 4;
/// Then so long at the rate that is measured: what the warm-up gave the broker's compiler to do takes it some seconds more, on
/// one of two cores.
const COOL_DOWN: Duration = Duration::from_secs(10);
/// How long the copies may take to show what the warm-up wrote.
const WARMED_WITHIN: Duration = Duration::from_secs(30);
/// How long the disk may take to write all that is waiting for it.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// How long a run without a terminal measures.
const CHECKED_FOR: Duration = Duration::from_secs(20);
/// How long the copies may take to contain the catalogue before the writes begin.
const FILLED_WITHIN: Duration = Duration::from_mins(5);

/// How to run the demo.
#[derive(Debug, Clone)]
pub struct Options {
    /// End by itself, without a terminal, and compare every copy with the database.
    pub check: bool,
    /// End by itself after so long; without, at Ctrl-C.
    pub seconds: Option<u64>,
    /// The writes.
    pub writes: write::Options,
    /// The catalogue, where there is none.
    pub catalogue: generate::Options,
    /// The pipeline's configuration.
    pub config: PathBuf,
    /// Where the page listens, if that port is free.
    pub page: SocketAddr,
}

/// Runs the demo; returns whether nothing differed.
///
/// # Errors
/// A server that is not there, or a pipeline that ends.
pub async fn run(mut endpoints: Endpoints, options: &Options) -> Result<bool> {
    prepare(&endpoints, options).await?;
    endpoints.storefront = free(&endpoints.storefront).await?;
    endpoints.operate = free(&endpoints.operate).await?;
    let (listener, address) = page::listen(options.page).await?;
    let page = format!("http://{address}");
    println!("starting the pipeline");
    let mut pipeline = Pipeline::start(&endpoints, &options.config, &page)?;
    let serving = tokio::spawn(page::serve(listener, endpoints.clone()));
    let outcome = live(&endpoints, options, &page, &mut pipeline, &Stop::on_signal()?).await;
    serving.abort();
    let drained = pipeline.stop().await;
    let clean = outcome?;
    drained?;
    Ok(clean)
}

/// Brings the database to the schema and fills it.
async fn prepare(endpoints: &Endpoints, options: &Options) -> Result<()> {
    let mut client = Endpoints::connect(&endpoints.admin_database).await.context("is the stack up?")?;
    schema::apply(&mut client).await?;
    if let Some(password) = &endpoints.password {
        schema::set_passwords(&client, password).await?;
    }
    if generate::is_empty(&client).await? {
        println!("filling the shop with {} parts", options.catalogue.parts);
        generate::fill(&client, &options.catalogue).await?;
    }
    Ok(())
}

/// Waits until the pipeline is ready and every copy has the catalogue.
async fn fill(endpoints: &Endpoints, pipeline: &mut Pipeline) -> Result<()> {
    pipeline.ready(endpoints).await?;
    println!("waiting until every copy has the catalogue");
    check::caught_up(endpoints, FILLED_WITHIN).await
}

/// Writes, watches and draws until the time is over or somebody ends it, then checks if asked to.
async fn live(
    endpoints: &Endpoints,
    options: &Options,
    page: &str,
    pipeline: &mut Pipeline,
    stop: &Stop,
) -> Result<bool> {
    tokio::select! {
        ready = fill(endpoints, pipeline) => ready?,
        () = stop.asked() => return Ok(true),
    }
    let ledger = Arc::new(Ledger::default());
    let mut observers = Observers::start(endpoints, Arc::clone(&ledger)).await?;
    println!("page: {page}");
    warm_up(endpoints, options, &ledger, stop).await?;
    observers.forget();
    let writers = Writers::start(endpoints, options.writes, Some(Arc::clone(&ledger))).await?;
    let ends = match (options.seconds, options.check) {
        (Some(seconds), _) => Some(Duration::from_secs(seconds)),
        (None, true) => Some(CHECKED_FOR),
        (None, false) => None,
    };
    let mut display = Display { page, ledger: &ledger, started: Instant::now(), before: None };
    while ends.is_none_or(|ends| display.started.elapsed() < ends) {
        tokio::select! {
            () = tokio::time::sleep(REDRAW) => {}
            () = stop.asked() => break,
        }
        pipeline.still_runs()?;
        if let Some(error) = observers.failure() {
            return Err(error.context("an observer lost its copy"));
        }
        let text = display.draw(&writers, &observers).await;
        if !options.check {
            // Home, the table, clear what is below.
            print!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"));
            std::io::Write::flush(&mut std::io::stdout())?;
        }
    }
    let text = display.draw_all(&writers, &observers).await;
    let written = writers.stop().await?;
    if !options.check {
        print!("\x1b[H\x1b[J");
    }
    println!("{text}\n{written}");
    let mut clean = true;
    if options.check {
        println!("comparing every copy with the database");
        let options = check::Options::default();
        let report = tokio::select! {
            report = check::everything(endpoints, &options) => report?,
            () = stop.asked() => bail!("ended before every copy was compared"),
        };
        print!("{report}");
        clean = report.is_clean();
    }
    observers.stop().await?;
    Ok(clean)
}

/// Writes without measuring, until every copy shows the last of it.
async fn warm_up(endpoints: &Endpoints, options: &Options, ledger: &Arc<Ledger>, stop: &Stop) -> Result<()> {
    let time = if options.check { CHECKED_WARM_UP } else { WARM_UP };
    println!("warming up for {time:?}");
    write_for(time, WARM_UP_RATE, endpoints, options, ledger, stop).await?;
    if options.check {
        settle().await;
        write_for(COOL_DOWN, 1, endpoints, options, ledger, stop).await?;
    }
    Ok(())
}

/// Writes at a multiple of the rate, then waits for every copy.
async fn write_for(
    time: Duration,
    times_the_rate: u32,
    endpoints: &Endpoints,
    options: &Options,
    ledger: &Arc<Ledger>,
    stop: &Stop,
) -> Result<()> {
    let write::Options { rate, seed, .. } = options.writes;
    let (rate, seed) = (rate.saturating_mul(times_the_rate), seed.wrapping_add(times_the_rate.into()));
    let writers =
        Writers::start(endpoints, write::Options { rate, seed, ..options.writes }, Some(Arc::clone(ledger))).await?;
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = stop.asked() => {}
    }
    writers.stop().await?;
    let deadline = Instant::now() + WARMED_WITHIN;
    while Copy::ALL.into_iter().any(|copy| ledger.missing(copy, Duration::ZERO) > 0) && Instant::now() < deadline {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            () = stop.asked() => return Ok(()),
        }
    }
    Ok(())
}

/// Lets the disk have what the warm-up wrote: the system would write it half a minute later, between the commits that are
/// measured, and as much of it as two minutes of the shop's own writes make.
async fn settle() {
    let settled = tokio::time::timeout(SETTLED_WITHIN, tokio::process::Command::new("sync").status()).await;
    if !matches!(settled, Ok(Ok(status)) if status.success()) {
        println!("the disk did not settle; the figures include what it still writes");
    }
}

/// What the table is drawn from.
struct Display<'a> {
    page: &'a str,
    ledger: &'a Ledger,
    started: Instant,
    /// When the table was drawn last, with the committed transactions and each copy's count.
    before: Option<(Instant, u64, [u64; Copy::ALL.len()])>,
}

impl Display<'_> {
    async fn draw(&mut self, writers: &Writers, observers: &Observers) -> String {
        let since = self.before.take();
        self.draw_since(writers, observers, since).await
    }

    /// Draws with the rates of the whole time.
    async fn draw_all(&mut self, writers: &Writers, observers: &Observers) -> String {
        self.draw_since(writers, observers, None).await
    }

    #[expect(clippy::cast_precision_loss, reason = "rates for the eye")]
    async fn draw_since(
        &mut self,
        writers: &Writers,
        observers: &Observers,
        since: Option<(Instant, u64, [u64; Copy::ALL.len()])>,
    ) -> String {
        let written = writers.so_far().await;
        let latencies = Copy::ALL.map(|copy| observers.so_far(copy));
        let (at, committed, counts) = since.unwrap_or((self.started, 0, [0; Copy::ALL.len()]));
        let seconds = at.elapsed().as_secs_f64().max(0.001);
        let lines: Vec<table::Line> = Copy::ALL
            .into_iter()
            .zip(latencies)
            .zip(counts)
            .map(|((copy, latency), before)| table::Line {
                copy,
                latency,
                per_second: latency.count.saturating_sub(before) as f64 / seconds,
                missing: self.ledger.missing(copy, table::MISSING_AFTER),
            })
            .collect();
        let per_second = written.committed.saturating_sub(committed) as f64 / seconds;
        self.before = Some((Instant::now(), written.committed, latencies.map(|latency| latency.count)));
        table::draw(self.started.elapsed(), self.page, &written, per_second, &lines)
    }
}

/// Returns an address of the same host whose port is free: the wished one, or any.
async fn free(wished: &str) -> Result<String> {
    let address: SocketAddr = wished.trim_start_matches("http://").parse().context("not an address")?;
    let (listener, found) = page::listen(address).await?;
    drop(listener);
    Ok(format!("http://{found}"))
}

/// Whether somebody wants the demo to end, by Ctrl-C or SIGTERM.
struct Stop(watch::Receiver<bool>);

impl Stop {
    fn on_signal() -> Result<Self> {
        let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (asked, stop) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
            }
            asked.send_replace(true);
            // The sender must not go before those who wait for it.
            asked.closed().await;
        });
        Ok(Self(stop))
    }

    async fn asked(&self) {
        // It ends only with this receiver.
        let _ = self.0.clone().wait_for(|asked| *asked).await;
    }
}
