//! `highwater check` on real servers: things are broken one by one, the finding names the command, and the command mends it.

use std::process::Output;

use highwater_demo::endpoints::Endpoints;

use crate::process::highwater;
use crate::shop::{Shop, eventually};
use crate::stack::{SHOPS, Variables, root};

/// What `check` said: exit code and lines.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
    }

    /// Returns the remedy of the finding whose line holds all of these.
    pub(crate) fn remedy(&self, of: &[&str]) -> String {
        let mut lines = self.text.lines();
        let found = lines.find(|line| of.iter().all(|part| line.contains(part)));
        assert!(found.is_some(), "no finding with {of:?}:\n{}", self.text);
        let remedy = lines.next().and_then(|line| line.trim().strip_prefix("→ "));
        remedy.unwrap_or_else(|| panic!("no remedy for {of:?}:\n{}", self.text)).to_owned()
    }

    pub(crate) fn finds(&self, of: &[&str]) -> bool {
        self.text.lines().any(|line| of.iter().all(|part| line.contains(part)))
    }
}

pub(crate) fn check(variables: &Variables, roles: &[&str]) -> Said {
    Said::of(highwater(variables).arg("check").args(roles).output().expect("the binary runs"))
}

/// A fault: the statements that make it, what the finding's line says, and the grade.
struct Fault {
    broken_by: &'static str,
    found: &'static [&'static str],
}

/// Faults of the captured database, each mended by the very statements that its finding shows.
const FAULTS: [Fault; 14] = [
    Fault {
        broken_by: "REVOKE SELECT ON parts FROM highwater_capture",
        found: &["FAIL", "table parts", "cannot be read"],
    },
    Fault {
        broken_by: "REVOKE USAGE ON SCHEMA public FROM highwater_capture, PUBLIC",
        found: &["FAIL", "table parts", "may not use"],
    },
    Fault {
        broken_by: "ALTER PUBLICATION highwater SET (publish = 'insert, update')",
        found: &["FAIL", "publication highwater", "deletes, truncations"],
    },
    Fault {
        broken_by: "ALTER PUBLICATION highwater DROP TABLE prices",
        found: &["FAIL", "table prices", "not in the publication"],
    },
    Fault { broken_by: "DROP PUBLICATION highwater", found: &["FAIL", "publication highwater", "is missing"] },
    Fault {
        broken_by: "ALTER TABLE parts REPLICA IDENTITY DEFAULT",
        found: &["warn", "table parts", "old values", "long values of", "description"],
    },
    Fault {
        broken_by: "ALTER TABLE part_prices REPLICA IDENTITY DEFAULT",
        found: &["FAIL", "mapping", "part_id", "outside the replica identity"],
    },
    Fault {
        broken_by: "ALTER TABLE part_images REPLICA IDENTITY NOTHING",
        found: &["FAIL", "table part_images", "without a replica identity"],
    },
    Fault {
        broken_by: "ALTER PUBLICATION highwater DROP TABLE categories;
                    ALTER PUBLICATION highwater ADD TABLE categories (id, parent_id, name, slug)",
        found: &["FAIL", "table categories", "column list beside a full", "refuses the shop's updates"],
    },
    Fault {
        broken_by:
            "ALTER PUBLICATION highwater DROP TABLE part_prices; ALTER TABLE part_prices REPLICA IDENTITY DEFAULT;
                    ALTER PUBLICATION highwater ADD TABLE part_prices WHERE (is_active)",
        found: &["FAIL", "table part_prices", "row filter over is_active"],
    },
    Fault {
        broken_by: "ALTER PUBLICATION highwater DROP TABLE part_specifications; ALTER TABLE part_specifications SET UNLOGGED",
        found: &["FAIL", "table part_specifications", "unlogged"],
    },
    Fault {
        broken_by: "ALTER TABLE prices DROP CONSTRAINT prices_pkey",
        found: &["FAIL", "mapping", "prices", "no primary key"],
    },
    Fault { broken_by: "ALTER TABLE parts ENABLE ROW LEVEL SECURITY", found: &["FAIL", "table parts", "row security"] },
    Fault {
        broken_by: "ALTER PUBLICATION highwater ADD TABLE users; ALTER TABLE users REPLICA IDENTITY DEFAULT",
        found: &["warn", "table users", "old values are missing"],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_the_captured_database_is_found_and_gone_after_the_shown_command() {
    let shop = Shop::open("check", 10).await;
    let variables = &shop.endpoints.variables;
    let before = check(variables, &["capture"]);
    assert_eq!(before.code, Some(0), "{}", before.text);
    assert!(before.text.contains("0 warnings, 0 errors"), "{}", before.text);
    for Fault { broken_by, found } in FAULTS {
        shop.admin.batch_execute(broken_by).await.unwrap_or_else(|error| panic!("{broken_by}: {error}"));
        let said = check(variables, &["capture"]);
        let remedy = said.remedy(found);
        assert_eq!(said.code, Some(i32::from(said.finds(&["FAIL "]))), "{}", said.text);
        shop.admin.batch_execute(&remedy).await.unwrap_or_else(|error| panic!("{broken_by}: {remedy}: {error}"));
        let said = check(variables, &["capture"]);
        assert!(!said.finds(found), "after {remedy}:\n{}", said.text);
        // Some faults bring others, which have findings of their own.
        mend_all(&shop, said).await;
    }
    // Row security was passed by for the role, which all databases of the server share.
    shop.admin.batch_execute("ALTER ROLE highwater_capture NOBYPASSRLS").await.expect("as before");
    shop.close().await;
}

/// Runs every shown statement until nothing is wrong.
async fn mend_all(shop: &Shop, mut said: Said) {
    for _ in 0..4 {
        let statements = ["ALTER ", "GRANT ", "CREATE "];
        let remedies = said.text.lines().filter_map(|line| line.trim().strip_prefix("→ "));
        let remedies: Vec<String> =
            remedies.filter(|sql| statements.iter().any(|verb| sql.starts_with(verb))).map(str::to_owned).collect();
        if remedies.is_empty() {
            break;
        }
        for remedy in remedies {
            // One may have mended what the next is for.
            let _ = shop.admin.batch_execute(&remedy).await;
        }
        said = check(&shop.endpoints.variables, &["capture"]);
    }
    assert!(said.text.contains("0 warnings, 0 errors"), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_replication_or_login_is_named_with_the_alter_role_that_mends_it() {
    let shop = Shop::open("check_role", 10).await;
    let (admin, variables) = (&shop.admin, &shop.endpoints.variables);
    let refused: [(&str, &[&str]); 3] = [
        ("ALTER ROLE highwater_capture CONNECTION LIMIT 4", &["FAIL", "connections", "has 4 places", "needs 5"]),
        ("ALTER ROLE highwater_capture NOREPLICATION", &["FAIL", "role", "may not replicate"]),
        ("ALTER ROLE highwater_capture NOLOGIN", &["FAIL", "source.database", "not permitted to log in"]),
    ];
    for (broken_by, found) in refused {
        admin.batch_execute(broken_by).await.expect("broken");
        let said = check(variables, &["capture"]);
        let remedy = said.remedy(found);
        let sql = remedy.trim_start_matches("as a superuser: ");
        let mended = admin.batch_execute(sql).await;
        // Other tests use the role.
        admin
            .batch_execute("ALTER ROLE highwater_capture LOGIN REPLICATION CONNECTION LIMIT -1")
            .await
            .expect("as before");
        mended.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(said.code, Some(1), "{}", said.text);
    }
    assert_eq!(check(variables, &["capture"]).code, Some(0));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_is_captured_by_its_root_after_the_shown_commands() {
    let shop = Shop::open("check_parts", 10).await;
    let sql = "ALTER PUBLICATION highwater DROP TABLE prices; DROP TABLE prices;
        CREATE TABLE prices (id bigint PRIMARY KEY, part_id bigint NOT NULL, price numeric NOT NULL, currency char(3),
            created_at timestamptz, updated_at timestamptz) PARTITION BY HASH (id);
        CREATE TABLE prices_0 PARTITION OF prices FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        ALTER TABLE prices REPLICA IDENTITY FULL; GRANT SELECT ON prices TO highwater_capture;
        ALTER PUBLICATION highwater ADD TABLE prices";
    shop.admin.batch_execute(sql).await.expect("a partitioned table");
    let said = check(&shop.endpoints.variables, &["capture"]);
    assert!(said.finds(&["FAIL", "table prices", "names of its partitions"]), "{}", said.text);
    mend_all(&shop, said).await;
    let identity = shop.value("SELECT relreplident FROM pg_class WHERE relname = 'prices_0'").await;
    assert_eq!(identity, "f", "each partition's own identity decides");

    // By its own name, a partition is one that no change is of.
    shop.admin.batch_execute("GRANT SELECT ON prices_0 TO highwater_capture").await.expect("granted");
    let config = std::fs::read_to_string(root().join("config.toml")).expect("the configuration");
    let by_partition = SHOPS.path().join("by_partition.toml");
    let mapped = config.replace("table = \"prices\"", "table = \"prices_0\"");
    std::fs::write(&by_partition, mapped).expect("a configuration");
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CONFIG".to_owned(), by_partition.to_string_lossy().into_owned());
    let said = check(&variables, &["capture"]);
    assert!(said.finds(&["FAIL", "table prices_0", "come under the name of prices"]), "{}", said.text);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_of_the_slot_is_judged_with_what_the_topics_hold() {
    let shop = Shop::open("check_slot", 10).await;
    let slot = shop.endpoints.topic_prefix.clone();
    let variables = &shop.endpoints.variables;
    assert!(check(variables, &["capture"]).finds(&["ok", "slot", "will be made"]));
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let held = check(variables, &["capture"]);
    assert!(held.finds(&["warn", "slot", "is held by server process"]), "{}", held.text);
    // Its own port is taken, which is right.
    assert!(held.finds(&["FAIL", "operate.listen"]), "{}", held.text);
    assert!(pipeline.terminate().success());
    let free = check(variables, &["capture"]);
    assert!(free.finds(&["ok", "slot", "keeps"]), "{}", free.text);

    let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
    shop.admin.batch_execute(&drop).await.expect("the slot is dropped");
    let missing = check(variables, &["capture"]);
    let remedy = missing.remedy(&["FAIL", "slot", "is missing on"]);
    assert!(remedy.contains("kafka-topics.sh") && missing.code == Some(1), "{}", missing.text);

    let other = format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')");
    shop.admin.batch_execute(&other).await.expect("a slot of another use");
    let other = check(variables, &["capture"]);
    assert!(other.finds(&["FAIL", "slot", "another use", "test_decoding"]), "{}", other.text);
    shop.admin.batch_execute(&drop).await.expect("the slot is dropped");

    let anew = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput'); SELECT pg_switch_wal()");
    shop.admin.batch_execute(&anew).await.expect("a slot made by hand");
    let anew = check(variables, &["capture"]);
    let remedy = anew.remedy(&["FAIL", "slot", "was made anew"]);
    assert!(remedy.contains(&drop), "{remedy}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_named_as_such_and_everything_else_is_still_checked() {
    let shop = Shop::open("check_standby", 10).await;
    let stack = SHOPS.with(&["primary", "redis", "kafka", "replica1"]);
    let mut variables = shop.endpoints.variables.clone();
    let source = &variables["HIGHWATER_SOURCE_DATABASE"];
    let standby = source.replace(&stack["PRIMARY_PORT"], &stack["REPLICA1_PORT"]);
    assert_ne!(*source, standby);
    let replica = shop.endpoints.admin_database.replace(&stack["PRIMARY_PORT"], &stack["REPLICA1_PORT"]);
    eventually("the replica has the shop", async || Endpoints::connect(&replica).await.is_ok()).await;
    variables.insert("HIGHWATER_SOURCE_DATABASE".to_owned(), standby);
    let said = check(&variables, &[]);
    assert_eq!(said.code, Some(1), "{}", said.text);
    assert!(said.finds(&["FAIL", "source.database", "is a standby"]), "{}", said.text);
    assert!(said.finds(&["ok", "cache.server", "answers"]), "{}", said.text);
    assert!(said.finds(&["ok", "wal_level"]) && said.finds(&["ok", "table parts"]), "{}", said.text);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_otherwise_is_named_with_what_mends_it_and_other_servers_are_checked_while_one_is_down() {
    use highwater_kafka::{Admin, Connection, TopicSpec};
    let shop = Shop::open("check_topics", 10).await;
    let prefix = &shop.endpoints.topic_prefix;
    let connection = Connection::new(&shop.endpoints.brokers, "check-tests");
    let admin = Admin::new(&connection).expect("an admin client");
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let made = TopicSpec {
        name: format!("{prefix}.stock"),
        partitions: 3,
        replication: 1,
        settings: vec![
            setting("cleanup.policy", "delete"),
            setting("max.message.bytes", "1000000"),
            setting("min.insync.replicas", "2"),
        ],
    };
    admin.ensure_topics(&[made], std::time::Duration::from_secs(20)).await.expect("a topic");
    let mut variables = shop.endpoints.variables.clone();
    let said = check(&variables, &["capture"]);
    assert_eq!(said.code, Some(1));
    let topic = format!("topic {prefix}.stock");
    let expected: [(&[&str], &str); 4] = [
        (&["3 partitions, not 4"], "set partitions = 3 in [topics]"),
        (&["cleanup.policy=delete, not compact"], "--add-config 'cleanup.policy=compact'"),
        (&["max.message.bytes=1000000, not 16777216"], "--add-config 'max.message.bytes=16777216'"),
        (&["refuses every write: min.insync.replicas=2"], "--add-config min.insync.replicas=1"),
    ];
    for (found, remedy) in expected {
        let line: Vec<&str> = ["FAIL", &topic].into_iter().chain(found.iter().copied()).collect();
        assert!(said.remedy(&line).contains(remedy), "{}", said.text);
    }
    // The partition count is mended by a setting of ours.
    variables.insert("HIGHWATER_TOPICS_PARTITIONS".to_owned(), "3".to_owned());
    assert!(!check(&variables, &["capture"]).finds(&["partitions, not"]));
    admin.delete_topics(&[&format!("{prefix}.stock")], std::time::Duration::from_secs(20)).await.expect("deleted");

    variables.insert("HIGHWATER_TOPICS_BROKERS".to_owned(), "127.0.0.1:1".to_owned());
    let said = check(&variables, &[]);
    assert_eq!(said.code, Some(1));
    assert!(said.finds(&["FAIL", "topics.brokers", "127.0.0.1:1"]), "{}", said.text);
    assert!(said.finds(&["ok", "table parts"]) && said.finds(&["ok", "audit log"]), "{}", said.text);
    assert!(said.finds(&["ok", "cache.server"]), "{}", said.text);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_role_that_may_too_little_or_too_much_is_named_with_the_grant_and_the_revoke() {
    let shop = Shop::open("check_audit", 10).await;
    let faults: [(&str, &[&str]); 3] = [
        ("REVOKE INSERT ON data_change_logs FROM highwater_audit", &["FAIL", "audit log", "may not append"]),
        ("REVOKE USAGE ON SCHEMA highwater FROM highwater_audit", &["FAIL", "audit log", "may not use the schema"]),
        (
            "GRANT DELETE ON data_change_logs TO highwater_audit",
            &["warn", "audit log", "may change what it has written"],
        ),
    ];
    for (broken_by, found) in faults {
        shop.admin.batch_execute(broken_by).await.expect("broken");
        let said = check(&shop.endpoints.variables, &["audit"]);
        let remedy = said.remedy(found);
        shop.admin.batch_execute(&remedy).await.unwrap_or_else(|error| panic!("{remedy}: {error}"));
        let said = check(&shop.endpoints.variables, &["audit"]);
        assert!(said.text.contains("0 warnings, 0 errors"), "{}", said.text);
    }
    shop.close().await;
}
