//! The text of values: the stream's is that of `SELECT`, whatever roles and databases set.

use std::collections::BTreeMap;

use highwater_postgres::pgoutput::{Column, Message};
use highwater_postgres::replication::Streaming;
use highwater_postgres::{Connection, Error, Session};

use crate::stack::{TIMEOUT, server};
use crate::stream::{Subscription, read};

/// Types with values that are hard to write, as SQL expressions.
const HOSTILE: [(&str, &[&str]); 34] = [
    ("date", &["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'5874897-12-31'", "'2026-02-03'"]),
    (
        "timestamp",
        &["'infinity'", "'4714-11-24 00:00:00 BC'", "'294276-12-31 23:59:59.999999'", "'2026-02-03 04:05:06.7'"],
    ),
    (
        "timestamptz",
        &[
            "'-infinity'",
            "'4714-11-24 00:00:00+00 BC'",
            "'294276-12-31 23:59:59.999999+00'",
            "'2026-02-03 04:05:06.7+09'",
        ],
    ),
    ("time", &["'24:00:00'", "'00:00:00.000001'"]),
    ("timetz", &["'24:00:00+15:59'", "'12:30:00.5-07:45:30'"]),
    ("interval", &["'-178000000 years'", "'1 mon -2 days 03:04:05.000006'", "'-1 year 2 mons -3 days'", "'0'"]),
    (
        "numeric",
        &[
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "repeat('9', 1000)::numeric",
            "repeat('7', 131072)::numeric",
            "('0.' || repeat('0', 999) || '1')::numeric",
        ],
    ),
    ("numeric(20,4)", &["1", "-0.00005", "'NaN'"]),
    ("float8", &["'NaN'", "'-0'", "'Infinity'", "5e-324", "0.1::float8 + 0.2", "1.7976931348623157e308"]),
    ("float4", &["'-Infinity'", "1e-45", "0.1", "16777217"]),
    ("int[]", &["'[2:3][-1:0]={{1,2},{3,4}}'", "'{NULL,1}'", "'{}'"]),
    ("text[]", &["ARRAY['a,b', '\"q\"', E'back\\\\slash', NULL, 'NULL', '', ' ', '{}']"]),
    ("timestamptz[]", &["'{infinity,\"2026-02-03 04:05:06+00\",NULL}'"]),
    ("int4range", &["'[1,5)'", "'empty'", "'(,)'"]),
    ("numrange", &["'(1.50,NaN]'"]),
    ("tstzrange", &["'[-infinity,\"2026-02-03 04:05:06+00\")'"]),
    ("nummultirange", &["'{[1,2),[3.0,)}'", "'{}'"]),
    (
        "jsonb",
        &["'{\"b\": [1.10, null, 1e400], \"a\": \"\\u00fc\\n\\\"\", \"\": {}}'", "'null'", "'\"\\ud83d\\ude00\"'"],
    ),
    ("json", &["'{\"a\" : 1,  \"a\":2}'"]),
    ("bytea", &["''", "'\\xdeadbeef00'"]),
    ("money", &["'-1234567.89'", "'92233720368547758.07'"]),
    ("mood", &["'it''s \"odd\", ok'", "'ünïcode'"]),
    ("nested", &["-3"]),
    ("pair", &["ROW('a,b', NULL)::pair", "ROW('', ARRAY[1,2])::pair"]),
    ("bpchar(5)", &["'ab'"]),
    ("text", &["''", "E'tab\\tnew\\nline\\r\\\\'", "'\u{1F600}'", "repeat('ü', 3000)"]),
    ("bool", &["true", "false"]),
    ("bigint", &["-9223372036854775808"]),
    ("uuid", &["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"]),
    ("inet", &["'::ffff:1.2.3.4/128'", "'10.0.0.1/8'"]),
    ("varbit", &["B'10101'", "B''"]),
    ("tsvector", &["'''it''''s'':1A b:2'"]),
    ("path", &["'((1,2),(-0,1e300))'"]),
    ("xml", &["'<a b=\"c\">&lt;</a>'"]),
];

/// Some of their texts, so that both sides cannot be wrong alike.
const KNOWN: [(&str, &str); 12] = [
    ("date", "0044-03-15 BC"),
    ("timestamptz", "2026-02-02 19:05:06.7+00"),
    ("timetz", "12:30:00.5-07:45:30"),
    ("interval", "1 mon -2 days +03:04:05.000006"),
    ("numeric(20,4)", "-0.0001"),
    ("float8", "0.30000000000000004"),
    ("float4", "1.6777216e+07"),
    ("int[]", "[2:3][-1:0]={{1,2},{3,4}}"),
    ("int4range", "[1,5)"),
    ("bytea", "\\xdeadbeef00"),
    ("money", "-$1,234,567.89"),
    ("mood", "it's \"odd\", ok"),
];

/// What an administrator may have set; none of it may reach the text.
const SETTINGS: [&str; 6] = [
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = 'sql_standard'",
    "TimeZone = 'Asia/Kolkata'",
    "extra_float_digits = -15",
    "bytea_output = 'escape'",
    "client_encoding = 'LATIN1'",
];

fn prepare() {
    server().sql("CREATE DATABASE \"odd Values\"");
    server().sql(&format!("CREATE ROLE odd LOGIN SUPERUSER REPLICATION PASSWORD '{}'", server().password()));
    for setting in SETTINGS {
        server().sql(&format!("ALTER DATABASE \"odd Values\" SET {setting}"));
        server().sql(&format!("ALTER ROLE odd SET {setting}"));
        server().sql(&format!("ALTER ROLE odd IN DATABASE \"odd Values\" SET {setting}"));
    }
    let columns: Vec<String> = HOSTILE.iter().enumerate().map(|(i, (kind, _))| format!("c{i} {kind}")).collect();
    let mut session = Connection::connect(&server().tcp("odd", "odd%20Values"), Session::Ordinary).unwrap();
    let types = "CREATE TYPE mood AS ENUM ('it''s \"odd\", ok', 'ünïcode'); CREATE DOMAIN inner_one AS int CHECK (VALUE < 0); \
                 CREATE DOMAIN nested AS inner_one; CREATE TYPE pair AS (a text, b int[])";
    session.simple_query(types, TIMEOUT).unwrap();
    let table = format!("CREATE TABLE hostile (id int PRIMARY KEY, {})", columns.join(", "));
    session.simple_query(&table, TIMEOUT).unwrap();
}

type Texts = BTreeMap<Vec<u8>, Vec<Option<Vec<u8>>>>;

/// Returns statements for a value of an enum that the same transaction makes. Only 17 and newer take one that it also adds.
fn late_value(server_version: u32) -> String {
    let make = match server_version {
        170_000.. => "CREATE TYPE late AS ENUM ('a'); ALTER TYPE late ADD VALUE 'b' BEFORE 'a'",
        _ => "CREATE TYPE late AS ENUM ('b', 'a')",
    };
    format!(
        "BEGIN; {make}; ALTER TABLE hostile ADD COLUMN late late; INSERT INTO hostile (id, late) VALUES (2000, 'b'); COMMIT"
    )
}

/// Writes each row, once inserted and once updated into place, and returns how many there are.
fn fill(session: &mut Connection) -> usize {
    let rows = HOSTILE.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    for i in 0..rows {
        let values: Vec<&str> = HOSTILE.iter().map(|(_, values)| values.get(i).copied().unwrap_or("NULL")).collect();
        session.simple_query(&format!("INSERT INTO hostile VALUES ({i}, {})", values.join(", ")), TIMEOUT).unwrap();
        let places: Vec<String> = values.iter().enumerate().map(|(at, value)| format!("c{at} = {value}")).collect();
        let id = 1000 + i;
        let update =
            format!("INSERT INTO hostile VALUES ({id}); UPDATE hostile SET {} WHERE id = {id}", places.join(", "));
        session.simple_query(&update, TIMEOUT).unwrap();
    }
    session.simple_query(&late_value(session.server_version()), TIMEOUT).unwrap();
    2 * rows + 1
}

fn selected(session: &mut Connection) -> Texts {
    let mut texts = Texts::new();
    let read = session.for_each_row("SELECT * FROM hostile", TIMEOUT, |row| {
        let mut values = row.values().map(|value| value.map(<[u8]>::to_vec));
        let id = values.next().flatten().expect("an id");
        texts.insert(id, values.collect());
        Ok::<_, Error>(())
    });
    assert_eq!(read.unwrap(), texts.len() as u64);
    texts
}

#[test]
fn hostile_values_have_the_text_of_select_whatever_roles_and_databases_set() {
    prepare();
    let config = server().tcp("odd", "odd%20Values");
    let subscription = Subscription::new(&config, "FOR TABLE hostile");
    let mut session = Connection::connect(&config, Session::Ordinary).unwrap();
    let rows = fill(&mut session);

    let mut streamed = Texts::new();
    read(&mut subscription.stream(Streaming::Off), |message| {
        let new = match message {
            Message::Insert(insert) => Some(insert.new),
            Message::Update(update) => Some(update.new),
            _ => None,
        };
        if let Some(new) = new {
            let mut values = new.columns().map(|column| match column {
                Column::Null => None,
                Column::Text(text) => Some(text.to_vec()),
                other => panic!("{other:?}"),
            });
            let id = values.next().flatten().expect("an id");
            streamed.insert(id, values.collect());
        }
        streamed.len() == rows && streamed.contains_key(&b"2000"[..])
    });

    let selected = selected(&mut session);
    for (id, expected) in &selected {
        for (i, value) in expected.iter().enumerate() {
            let shown = |value: &Option<Vec<u8>>| value.as_ref().map(|text| String::from_utf8_lossy(text).into_owned());
            // The last column came with the last row.
            let streamed = streamed[id].get(i).cloned().flatten();
            let kind = HOSTILE.get(i).map_or("late", |(kind, _)| kind);
            assert_eq!(shown(&streamed), shown(value), "{kind} of row {id:?}");
        }
    }
    assert_eq!(selected[&b"2000"[..]].last(), Some(&Some(b"b".to_vec())));
    for (kind, text) in KNOWN {
        let column = HOSTILE.iter().position(|(name, _)| *name == kind).expect("a type of the list");
        let found = streamed.values().any(|row| row[column].as_deref() == Some(text.as_bytes()));
        assert!(found, "no {kind} is written as {text}");
    }
}
