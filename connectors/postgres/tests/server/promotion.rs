//! A promotion: the slot goes on handing out commits of the old timeline.

use highwater_postgres::Lsn;
use highwater_postgres::pgoutput::Message;
use highwater_postgres::replication::Streaming;

use crate::stack::{Server, TIMEOUT, until};
use crate::stream::{Subscription, read};

#[test]
fn a_commit_from_before_a_promotion_belongs_to_the_old_timeline() {
    let server = Server::up("test-postgres-promotion");
    server.sql("CREATE TABLE t (i int)");
    let subscription = Subscription::new(&server.socket("shop"), "FOR TABLE t");
    server.sql("INSERT INTO t VALUES (1)");
    // The server comes back as a standby of nobody, and is promoted.
    server.sql("COPY (SELECT 1) TO PROGRAM 'cat > standby.signal'");
    server.stack("kill");
    server.stack("start");
    assert!(server.session().in_recovery(TIMEOUT).unwrap());
    server.sql("SELECT pg_promote(true, 20)");
    until("the promotion", || (!server.session().in_recovery(TIMEOUT).unwrap()).then_some(()));
    server.sql("INSERT INTO t VALUES (2)");

    let mut connection = server.replication();
    let identity = connection.identify_system(TIMEOUT).unwrap();
    let timelines = connection.timelines(identity.timeline, TIMEOUT).unwrap();
    let mut commits: Vec<Lsn> = Vec::new();
    read(&mut subscription.stream(Streaming::Off), |message| {
        if let Message::Commit(commit) = message {
            commits.push(commit.commit_lsn);
        }
        commits.len() == 2
    });
    let owners: Vec<u32> = commits.iter().map(|lsn| timelines.timeline_of(*lsn)).collect();
    assert_eq!((identity.timeline, owners), (2, vec![1, 2]), "{timelines:?}");
}
