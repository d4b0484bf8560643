use super::*;
use crate::operate::check::Grade;

pub(in crate::operate::check) fn source() -> Source {
    let document = crate::config::Document::parse("test.toml", "", std::collections::BTreeMap::new());
    Source::read(&mut document.section("source"))
}

/// The table `parts` as it should be.
pub(in crate::operate::check) fn good() -> TableFacts {
    TableFacts {
        name: "parts".into(),
        sql_name: "parts".into(),
        schema: "public".into(),
        kind: 'r',
        unlogged: false,
        partition: false,
        published: true,
        published_root: None,
        schema_usable: true,
        readable: true,
        rows_hidden: false,
        identity: 'f',
        identity_columns: vec!["id".into(), "description".into()],
        listed: false,
        cut_off: Vec::new(),
        row_filter: None,
        filter_columns: Vec::new(),
        unsent: Vec::new(),
        not_stored: Vec::new(),
        toastable: vec!["description".into()],
        odd_partitions: Vec::new(),
    }
}

fn judge(table: TableFacts, history: bool, publication: Publication) -> Vec<(Grade, String, String)> {
    let mut source = source();
    source.map.retain(|entry| entry.table.value == "parts");
    let judge = Judge { source: &source, history, role: "reader", publication: Some(publication) };
    let mut report = Report::default();
    let unmapped = (table.name != "parts").then(good);
    judge.judge(&[Some(table), unmapped].into_iter().flatten().collect::<Vec<_>>(), &mut report);
    let bad = report.findings().iter().filter(|finding| finding.grade > Grade::Ok);
    bad.map(|finding| (finding.grade, finding.text.clone(), finding.remedy.clone().unwrap())).collect()
}

/// What drops a column list, in one transaction.
const REPUBLISHED: &str =
    "BEGIN; ALTER PUBLICATION \"highwater\" DROP TABLE parts; ALTER PUBLICATION \"highwater\" ADD TABLE parts; COMMIT;";

const KEYED: fn(TableFacts) -> TableFacts =
    |table| TableFacts { identity: 'd', identity_columns: vec!["id".into()], ..table };

#[test]
fn a_table_as_it_should_be_is_ok() {
    assert_eq!(judge(good(), true, Publication::WHOLE), []);
}

#[test]
fn each_fault_of_a_mapped_table_comes_with_the_statement_that_mends_it() {
    let full = "ALTER TABLE parts REPLICA IDENTITY FULL;";
    let (whole, by_root) = (Publication::WHOLE, Publication { via_root: true, ..Publication::WHOLE });
    let part = || TableFacts { published: false, partition: true, published_root: Some("wares".into()), ..good() };
    let cases = [
        (
            part(),
            by_root,
            Grade::Fail,
            "come under the name of wares",
            "map wares instead; or ALTER PUBLICATION \"highwater\" SET (publish_via_partition_root = false);",
        ),
        (
            part(),
            Publication { all_tables: true, ..by_root },
            Grade::Fail,
            "come under the name of wares",
            "map wares instead; or ALTER PUBLICATION \"highwater\" SET (publish_via_partition_root = false);",
        ),
        (
            TableFacts { published: false, ..good() },
            whole,
            Grade::Fail,
            "not in the publication",
            "ALTER PUBLICATION \"highwater\" ADD TABLE parts;",
        ),
        (
            TableFacts { published: false, kind: 'p', ..good() },
            whole,
            Grade::Fail,
            "names of its partitions",
            "ALTER PUBLICATION \"highwater\" SET (publish_via_partition_root = true);",
        ),
        (
            TableFacts { published: false, kind: 'p', ..good() },
            by_root,
            Grade::Fail,
            "not in the publication",
            "ALTER PUBLICATION \"highwater\" ADD TABLE parts;",
        ),
        (TableFacts { unlogged: true, ..good() }, whole, Grade::Fail, "unlogged", "ALTER TABLE parts SET LOGGED;"),
        (TableFacts { kind: 'f', ..good() }, whole, Grade::Fail, "foreign", "map the table on its own server"),
        (TableFacts { kind: 'v', ..good() }, whole, Grade::Fail, "view", "map the tables behind it"),
        (
            TableFacts { schema_usable: false, ..good() },
            whole,
            Grade::Fail,
            "schema",
            "GRANT USAGE ON SCHEMA \"public\" TO \"reader\";",
        ),
        (
            TableFacts { readable: false, ..good() },
            whole,
            Grade::Fail,
            "cannot be read",
            "GRANT SELECT ON parts TO \"reader\";",
        ),
        (
            TableFacts { rows_hidden: true, ..good() },
            whole,
            Grade::Fail,
            "row security",
            "ALTER ROLE \"reader\" BYPASSRLS;",
        ),
        (
            TableFacts { odd_partitions: vec!["parts_1".into()], kind: 'p', ..good() },
            by_root,
            Grade::Warn,
            "parts_1",
            "ALTER TABLE parts_1 REPLICA IDENTITY FULL;",
        ),
        (KEYED(good()), whole, Grade::Warn, "long values of description", full),
    ];
    for (table, publication, grade, text, remedy) in cases {
        let shown = format!("{table:?}");
        let found = judge(table, true, publication);
        assert_eq!(found.len(), 1, "{shown}: {found:?}");
        assert_eq!((found[0].0, found[0].2.as_str()), (grade, remedy), "{shown}");
        assert!(found[0].1.contains(text), "{shown}: {found:?}");
    }
}

#[test]
fn what_makes_the_server_refuse_the_shops_writes_forbids_the_start() {
    let nothing = TableFacts { identity: 'n', identity_columns: Vec::new(), ..good() };
    let filtered = TableFacts { filter_columns: vec!["is_active".into()], ..KEYED(good()) };
    for table in [nothing, filtered] {
        let found = judge(table, false, Publication::WHOLE);
        assert_eq!((found[0].0, found[0].2.as_str()), (Grade::Fail, "ALTER TABLE parts REPLICA IDENTITY FULL;"));
        assert!(found[0].1.contains("refuses the shop's updates"), "{found:?}");
    }
    let cut_off = TableFacts { listed: true, cut_off: vec!["id".into()], ..KEYED(good()) };
    let found = judge(cut_off, false, Publication::WHOLE);
    assert_eq!((found[0].0, found[0].2.clone()), (Grade::Fail, format!("/* publishes id, too */ {REPUBLISHED}")));
    let by_key = TableFacts { filter_columns: vec!["id".into()], ..good() };
    assert_eq!(judge(by_key, true, Publication::WHOLE), []);
    let inserts = Publication { update: false, delete: false, ..Publication::WHOLE };
    let nothing = TableFacts { identity: 'n', identity_columns: Vec::new(), ..good() };
    assert!(
        judge(nothing, false, inserts).iter().all(|found| found.0 == Grade::Warn),
        "only updates and deletes need it"
    );
}

#[test]
fn no_remedy_gives_a_table_an_identity_with_which_the_server_refuses_the_shops_writes() {
    let (sent, full) = (
        "ALTER PUBLICATION \"highwater\" SET (publish_generated_columns = stored);",
        "ALTER TABLE parts REPLICA IDENTITY FULL;",
    );
    let stored = TableFacts { unsent: vec!["gross".into()], ..good() };
    let not_stored = TableFacts { not_stored: stored.unsent.clone(), ..stored.clone() };
    let listed = TableFacts { listed: true, row_filter: Some("(id > 5)".into()), ..stored.clone() };
    let filtered = REPUBLISHED.replace("ADD TABLE parts", "ADD TABLE parts WHERE ((id > 5))");
    let with_list = TableFacts { listed: true, ..good() };
    let part_of_it = TableFacts { cut_off: vec!["purchase_cost".into()], ..with_list.clone() };
    let all = format!("/* publishes purchase_cost, too */ {REPUBLISHED}");
    let cases = [
        (with_list.clone(), Grade::Fail, REPUBLISHED.to_owned()),
        (part_of_it.clone(), Grade::Fail, all.clone()),
        (KEYED(with_list), Grade::Warn, format!("{REPUBLISHED} {full}")),
        (KEYED(part_of_it), Grade::Warn, format!("{all} {full}")),
        (listed, Grade::Fail, format!("{filtered} {sent}")),
        (stored.clone(), Grade::Fail, sent.to_owned()),
        (KEYED(stored), Grade::Warn, format!("{sent} {full}")),
        (
            not_stored.clone(),
            Grade::Fail,
            "no publication can have gross: make them STORED, or ALTER TABLE parts REPLICA IDENTITY DEFAULT;"
                .to_owned(),
        ),
        (KEYED(not_stored), Grade::Warn, format!("make gross STORED first, then {sent} {full}")),
    ];
    for (table, grade, remedy) in cases {
        let shown = format!("{table:?}");
        let found = judge(table, true, Publication::WHOLE);
        assert_eq!(found.iter().map(|found| (found.0, &found.2)).collect::<Vec<_>>(), [(grade, &remedy)], "{shown}");
    }
}

#[test]
fn a_published_table_that_nothing_reads_is_named_unless_the_history_does() {
    let other = TableFacts { name: "users".into(), sql_name: "users".into(), ..good() };
    assert_eq!(judge(other.clone(), true, Publication::WHOLE), []);
    let found = judge(other.clone(), false, Publication::WHOLE);
    assert_eq!(found[0].2, "ALTER PUBLICATION \"highwater\" DROP TABLE users;");
    let all = Publication { all_tables: true, ..Publication::WHOLE };
    assert_eq!(judge(other, false, all), []);
    let audited = TableFacts { name: "users".into(), sql_name: "users".into(), toastable: Vec::new(), ..KEYED(good()) };
    let found = judge(audited, true, Publication::WHOLE);
    assert_eq!(found[0].2, "ALTER TABLE users REPLICA IDENTITY FULL;");
    let own =
        TableFacts { name: "highwater.x".into(), sql_name: "highwater.x".into(), schema: "highwater".into(), ..good() };
    assert!(judge(own, true, Publication::WHOLE)[0].1.contains("Highwater's own"));
}

#[test]
fn a_missing_table_names_the_line_that_asks_for_it_and_the_nearest_name() {
    let near = TableFacts { name: "part".into(), sql_name: "part".into(), ..good() };
    let mut source = source();
    source.map.retain(|entry| entry.table.value == "parts");
    let judge = Judge { source: &source, history: true, role: "reader", publication: Some(Publication::WHOLE) };
    let mut report = Report::default();
    judge.judge(&[near], &mut report);
    let text = &report.findings()[0].text;
    assert!(text.starts_with("does not exist, though built-in config.toml:"), "{text}");
    assert!(text.ends_with("did you mean `part`?"), "{text}");
}
