//! Slots, identity, snapshots.

use highwater_postgres::replication::{SlotKind, SlotOptions, StartOptions, Streaming, WalStatus};
use highwater_postgres::visibility::widen;
use highwater_postgres::{Error, Lsn};

use crate::stack::{TIMEOUT, fresh, server, until};

#[test]
fn a_slot_is_made_seen_and_removed() {
    let (name, mut connection) = (fresh("slot"), server().replication());
    assert_eq!(connection.slot(&name, TIMEOUT).unwrap(), None);
    let created =
        connection.create_slot(&name, SlotOptions { failover: true, ..SlotOptions::default() }, TIMEOUT).unwrap();
    let state = connection.slot(&name, TIMEOUT).unwrap().expect("the slot");
    assert_eq!(
        (state.name.as_str(), state.kind, state.plugin.as_deref()),
        (name.as_str(), SlotKind::Logical, Some("pgoutput"))
    );
    assert_eq!((state.database.as_deref(), state.temporary, state.active_pid), (Some("shop"), false, None));
    assert_eq!((state.confirmed_flush, state.wal_status), (Some(created.consistent_point), Some(WalStatus::Reserved)));
    assert_eq!((state.failover, state.synced), (connection.server_version() >= 170_000, false));
    assert!(state.restart_lsn.is_some_and(|restart| restart <= created.consistent_point) && !state.two_phase);

    let again = connection.create_slot(&name, SlotOptions::default(), TIMEOUT).unwrap_err();
    assert_eq!((again.code(), again.is_transient()), (Some("42710"), false));
    connection.drop_slot(&name, true, TIMEOUT).unwrap();
    assert_eq!(connection.slot(&name, TIMEOUT).unwrap(), None);
    assert_eq!(connection.drop_slot(&name, false, TIMEOUT).unwrap_err().code(), Some("42704"));
}

#[test]
fn a_temporary_slot_goes_with_its_session() {
    let name = fresh("slot");
    let mut connection = server().replication();
    connection.create_slot(&name, SlotOptions { temporary: true, ..SlotOptions::default() }, TIMEOUT).unwrap();
    assert!(server().session().slot(&name, TIMEOUT).unwrap().expect("the slot").temporary);
    drop(connection);
    until("the slot's end", || server().session().slot(&name, TIMEOUT).unwrap().is_none().then_some(()));
}

#[test]
fn a_slot_that_another_session_reads_is_waited_for() {
    let (name, publication) = (fresh("slot"), fresh("publication"));
    server().sql(&format!("CREATE PUBLICATION {publication}"));
    let mut connection = server().replication();
    connection.create_slot(&name, SlotOptions::default(), TIMEOUT).unwrap();
    let publications = [publication.as_str()];
    let options =
        StartOptions { slot: &name, start: Lsn::ZERO, publications: &publications, streaming: Streaming::Off };
    let stream = connection.start_replication(&options, TIMEOUT).unwrap();
    let state = server().session().slot(&name, TIMEOUT).unwrap().expect("the slot");
    assert_eq!(state.active_pid, Some(stream.backend_pid()));

    let error = server().replication().start_replication(&options, TIMEOUT).unwrap_err();
    assert_eq!((error.code(), error.is_transient()), (Some("55006"), true), "{error}");
    stream.close(TIMEOUT).unwrap().drop_slot(&name, true, TIMEOUT).unwrap();

    let gone = server().replication().start_replication(&options, TIMEOUT).unwrap_err();
    assert_eq!((gone.code(), gone.is_transient()), (Some("42704"), false), "{gone}");
}

#[test]
fn a_server_says_who_it_is() {
    let mut connection = server().replication();
    let identity = connection.identify_system(TIMEOUT).unwrap();
    let known =
        server().sql("SELECT system_identifier, pg_current_wal_flush_lsn() AS flushed FROM pg_control_system()");
    assert_eq!(known.value(0, "system_identifier"), Some(identity.system_identifier.to_string().as_str()));
    assert!(identity.flushed <= known.value(0, "flushed").unwrap().parse().unwrap());
    assert_eq!((identity.timeline, identity.database.as_deref()), (1, Some("shop")));
    assert_eq!(connection.timelines(1, TIMEOUT).unwrap().timeline_of(identity.flushed), 1);
    let missing = connection.timelines(7, TIMEOUT).unwrap_err();
    assert_eq!((missing.code(), missing.is_transient()), (Some("58P01"), false));
}

#[test]
fn a_snapshot_tells_the_finished_from_the_open() -> Result<(), Error> {
    let (mut open, mut asking) = (server().session(), server().session());
    open.simple_query("BEGIN", TIMEOUT)?;
    let xid: u64 = open.simple_query("SELECT pg_current_xact_id()", TIMEOUT)?.single()?.parse().unwrap();
    let done: u64 = server().sql("SELECT pg_current_xact_id()").single()?.parse().unwrap();
    let snapshot = asking.current_snapshot(TIMEOUT)?;
    assert!(!snapshot.finished(xid) && snapshot.finished(done) && snapshot.xmin() <= xid, "{snapshot}");
    #[expect(clippy::cast_possible_truncation, reason = "what the stream carries")]
    let carried = xid as u32;
    assert_eq!(widen(carried, snapshot.xmax()), xid);
    open.simple_query("COMMIT", TIMEOUT)?;
    assert!(asking.current_snapshot(TIMEOUT)?.finished(xid) && !asking.in_recovery(TIMEOUT)?);
    Ok(())
}
