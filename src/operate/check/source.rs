//! The captured database: asks for the facts, and has them judged.

use std::time::SystemTime;

use highwater_postgres::Error;
use tokio_postgres::Client;

use super::report::Report;
use super::server::ServerFacts;
use super::slot::Published;
use super::table_facts::{self, TableFacts};
use super::tables::Judge;
use super::unreachable::{connect, failed, remedy};
use super::{clock, connections, publication, server, slot, standby, transactions};
use crate::capture::{self, MappingCheck};
use crate::config::Server;
use crate::operate::database::{ANSWER, within};
use crate::roles::Config;

pub(super) async fn check(config: &Config, published: &Published, report: &mut Report) {
    let database = &config.source.database;
    let Some(client) = connect("source.database", database, report).await else {
        return;
    };
    if let Err(error) = within(look(&client, config, published, report)).await {
        failed("source.database", database, &client, &error, report).await;
    }
}

async fn look(client: &Client, config: &Config, published: &Published, report: &mut Report) -> Result<(), Error> {
    let source = &config.source;
    compare_clock(client, &source.database, report).await?;
    let server = server::facts(client).await?;
    let asked = source.clone();
    let mut beginning = blocking(move || capture::look_at_beginning(&asked, ANSWER)).await;
    server::judge(&server, report);
    let log = standby::look(client, config, &server, beginning.as_mut().ok(), report).await?;
    if let Some(log) = &log {
        let has_slot = beginning.as_ref().is_ok_and(|beginning| beginning.slot.is_some());
        // Beside the stream, a standby is asked for its timeline.
        let senders = 1 + i64::from(source.standby.is_some());
        server::judge_room(log, has_slot, senders, report);
    }
    let needed = i64::try_from(config.capture.connections()).unwrap_or(i64::MAX);
    connections::look(client, needed, report).await?;
    transactions::look(client, report).await?;
    // What cannot be told of the tables leaves the slot to be judged.
    if let Err(error) = look_at_tables(client, config, &server, report).await {
        failed("source.database", &source.database, client, &error, report).await;
    }
    // What is said of a server that does not answer was said.
    let Some(log) = log else { return Ok(()) };
    match beginning {
        Ok(beginning) => {
            slot::judge(source, config.capture.on_lost_slot, &config.topics, &log, &beginning, published, report);
        }
        Err(error) => {
            let text = format!("no replication connection: {}", crate::running::told(&error));
            let setting = if source.standby.is_some() { "source.standby" } else { "source.database" };
            report.fail(setting, text, remedy(setting, source.log(), &error));
        }
    }
    Ok(())
}

/// Looks at publication, tables and mapping.
async fn look_at_tables(
    client: &Client,
    config: &Config,
    server: &ServerFacts,
    report: &mut Report,
) -> Result<(), Error> {
    let source = &config.source;
    let tables = table_facts::facts(client, source, server.version).await?;
    let found = publication::facts(client, &source.publication).await?;
    let is_mapped = |table: &&TableFacts| source.map.iter().any(|entry| entry.table.value == table.name);
    publication::judge(source, found, &tables.iter().filter(is_mapped).collect::<Vec<_>>(), report);
    let judge = Judge { source, history: config.capture.history, role: &server.role, publication: found };
    judge.judge(&tables, report);
    let asked = source.clone();
    let mapping = blocking(move || capture::check_mapping(&asked, ANSWER)).await?;
    judge_mapping(&judge, &tables, mapping, report);
    Ok(())
}

/// Compares a database's clock with this machine's.
pub(super) async fn compare_clock(client: &Client, server: &Server, report: &mut Report) -> Result<(), Error> {
    let asked = SystemTime::now();
    let theirs = client.query_one("SELECT clock_timestamp()", &[]).await?.get(0);
    clock::judge(&server.to_string(), asked, theirs, SystemTime::now(), report);
    Ok(())
}

async fn blocking<T: Send + 'static>(question: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let answer = tokio::task::spawn_blocking(question).await;
    answer.unwrap_or_else(|panicked| Err(Error::Protocol(format!("the check itself failed: {panicked}"))))
}

/// Reports what is wrong with the mapping, but for what was said of its tables already.
fn judge_mapping(judge: &Judge<'_>, tables: &[TableFacts], check: MappingCheck, report: &mut Report) {
    let source = judge.source;
    let table = |name: &str| tables.iter().find(|table| table.name == name);
    let MappingCheck { wrong, cut_off } = check;
    let mut good = true;
    for error in wrong.into_iter().filter(|error| table(&error.table).is_some_and(TableFacts::can_be_captured)) {
        good = false;
        let remedy = error.remedy.unwrap_or_else(|| "correct the entry, or the table".to_owned());
        report.fail("mapping", format!("{}: {}", error.place, error.message), remedy);
    }
    for error in cut_off {
        let Some(table) = table(&error.table).filter(|table| table.is_captured()) else { continue };
        good = false;
        let text = format!("{}: {}: the publication leaves it out", error.place, error.message);
        report.fail("mapping", text, judge.without_list(table));
    }
    if good {
        report.ok("mapping", format!("its {} entries fit their tables", source.map.len()));
    }
}
