//! Random tables, rows and transactions: the write-ahead log that the decoders are compared on.

use highwater_postgres::{Connection, Session};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::stack::{TIMEOUT, fresh, server};

/// Types, and an expression of `g`, the row's number, that makes a value of them.
const TYPES: [(&str, &str); 13] = [
    ("int", "g * 7 - 3"),
    ("bigint", "g::bigint << 40"),
    ("text", "repeat('äß', g % 5)"),
    ("varchar(40)", "left(md5(g::text), 12)"),
    ("numeric(12,3)", "g / 7.0"),
    ("boolean", "g % 2 = 0"),
    ("timestamptz", "'2026-01-01'::timestamptz + g * interval '1 hour'"),
    ("jsonb", "jsonb_build_object('g', g, 'ü', NULL)"),
    ("uuid", "md5(g::text)::uuid"),
    ("bytea", "decode(md5(g::text), 'hex')"),
    ("int[]", "ARRAY[g, NULL, 4]"),
    ("mood", "(ARRAY['glad', 'it''s \"odd\"'])[1 + g % 2]::mood"),
    ("even", "(g * 2)::even"),
];
const IDENTITIES: [&str; 4] = ["DEFAULT", "FULL", "NOTHING", "USING INDEX"];
/// Rows that together outgrow the least `logical_decoding_work_mem`, so that their transaction is streamed.
const MANY: u32 = 300;

struct Table {
    /// Quoted.
    name: String,
    identity: &'static str,
    columns: Vec<(&'static str, &'static str)>,
}

/// A session with transactions of its own, on tables of its own, so that two of them never wait for each other.
struct Writer {
    session: Connection,
    tables: Vec<Table>,
    /// Open savepoints; `None` outside of a transaction.
    savepoints: Option<u32>,
}

/// Two writers whose transactions interleave, in a database of their own: `PostgreSQL` cannot decode, ever, what follows a truncation
/// that was committed while a slot was made beside older transactions (XX000, "could not map filenumber").
pub(crate) struct Workload {
    random: SmallRng,
    database: String,
    schema: String,
    origin: String,
    writers: Vec<Writer>,
}

impl Workload {
    /// Makes the tables; everything else is random by the seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let (schema, origin, database) = (format!("\"décodé {}\"", fresh("s")), fresh("origin"), fresh("random"));
        server().sql(&format!("CREATE DATABASE {database}"));
        let session = || Connection::connect(&server().socket(&database), Session::Ordinary).unwrap();
        let make = format!(
            "CREATE SCHEMA {schema}; SET search_path = {schema}; CREATE SEQUENCE ids; \
             CREATE TYPE mood AS ENUM ('glad', 'it''s \"odd\"'); CREATE DOMAIN even AS int CHECK (value % 2 = 0); \
             SELECT pg_replication_origin_create('{origin}')"
        );
        session().simple_query(&make, TIMEOUT).unwrap();
        let writers = (0..2_u32).map(|number| {
            let mut session = session();
            session.simple_query(&format!("SET search_path = {schema}"), TIMEOUT).unwrap();
            if number == 1 {
                // Its transactions look as if they had been replicated from elsewhere.
                let sql = format!("SELECT pg_replication_origin_session_setup('{origin}')");
                session.simple_query(&sql, TIMEOUT).unwrap();
            }
            let table = |(at, identity)| Table::make(&mut session, &mut random, number * 10 + at, identity);
            let tables = (0..).zip(IDENTITIES).map(table).collect();
            Writer { session, tables, savepoints: None }
        });
        let writers = writers.collect();
        Self { random, database, schema, origin, writers }
    }

    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// Writes a logical message with the prefix `end` behind everything.
    pub(crate) fn mark_end(&mut self) {
        self.writers[0].execute("SELECT pg_logical_emit_message(false, 'end', '')");
    }

    /// Returns what stands after `CREATE PUBLICATION name`.
    pub(crate) fn publication(&self) -> String {
        let names = self.writers.iter().flat_map(|writer| &writer.tables);
        let names = names.map(|table| format!("{}.{}", self.schema, table.name));
        format!("FOR TABLE {}", names.collect::<Vec<_>>().join(", "))
    }

    /// Makes this many steps of both writers; all transactions are over then.
    pub(crate) fn run(&mut self, steps: u32) {
        self.writers[0].what_chance_may_leave_out(&mut self.random);
        for _ in 0..steps {
            let writer = self.random.random_range(0..self.writers.len());
            self.writers[writer].step(&mut self.random);
        }
        for writer in &mut self.writers {
            writer.end(true);
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Its server process may outlive its connection for a moment, and would keep the origin busy.
            self.writers[1].execute("SELECT pg_replication_origin_session_reset()");
            self.writers.clear();
            server().sql(&format!("DROP DATABASE {} WITH (FORCE)", self.database));
            server().sql(&format!("SELECT pg_replication_origin_drop('{}')", self.origin));
        }
    }
}

impl Table {
    fn make(session: &mut Connection, random: &mut SmallRng, number: u32, identity: &'static str) -> Self {
        let name = format!("\"Tisch \"\"{number}\"\"\"");
        let mut columns: Vec<_> =
            (0..random.random_range(0..9)).map(|_| *TYPES.choose(random).expect("types")).collect();
        // Types that are not built in are announced.
        columns.extend(&TYPES[TYPES.len() - 2..]);
        let listed = (0..).zip(&columns).map(|(at, (kind, _))| format!(", \"c {at}\" {kind}"));
        let key = if identity == "FULL" { "" } else { "PRIMARY KEY" };
        let which = if identity == "USING INDEX" { format!("USING INDEX code_{number}") } else { identity.to_owned() };
        let sql = format!(
            "CREATE TABLE {name} (id bigint NOT NULL {key}, code bigint NOT NULL, n int, big text{}); \
             ALTER TABLE {name} ALTER big SET STORAGE EXTERNAL; CREATE UNIQUE INDEX code_{number} ON {name} (code); \
             ALTER TABLE {name} REPLICA IDENTITY {which}",
            listed.collect::<String>()
        );
        session.simple_query(&sql, TIMEOUT).unwrap();
        Self { name, identity, columns }
    }

    fn insert(&self, random: &mut SmallRng, rows: u32) -> String {
        let nulls = random.random_range(2..9);
        let values = (0..).zip(&self.columns).map(|(at, (_, value))| {
            let at: u32 = at;
            format!(", CASE WHEN (g + {at}) % {nulls} = 0 THEN NULL ELSE {value} END")
        });
        // The long value is kept outside of the row from 2 kB on.
        let big = if rows < 5 { 3000 } else { 100 };
        format!(
            "INSERT INTO {} SELECT nextval('ids'), nextval('ids'), g, repeat('x', {big}){} FROM generate_series(1, {rows}) g",
            self.name,
            values.collect::<String>()
        )
    }

    /// Some of its rows, always the same ones of the same table.
    fn some(&self, random: &mut SmallRng) -> String {
        let count = random.random_range(1..6);
        format!("id IN (SELECT id FROM {} ORDER BY id LIMIT {count})", self.name)
    }
}

impl Writer {
    fn execute(&mut self, sql: &str) {
        self.session.simple_query(sql, TIMEOUT).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    fn what_chance_may_leave_out(&mut self, random: &mut SmallRng) {
        let (many, one) = (self.tables[0].insert(random, MANY), self.tables[0].insert(random, 1));
        self.execute(&format!("BEGIN; {many}; SAVEPOINT s; {many}; ROLLBACK TO s; {one}; COMMIT"));
        self.execute(&format!("BEGIN; {many}; {many}; ROLLBACK"));
        let (first, second) = (&self.tables[0].name, &self.tables[1].name);
        self.execute(&format!("TRUNCATE {first}, {second}"));
    }

    fn step(&mut self, random: &mut SmallRng) {
        let Some(savepoints) = self.savepoints else {
            self.execute(
                "BEGIN; SELECT CASE WHEN pg_replication_origin_session_is_setup() THEN \
                          pg_replication_origin_xact_setup('0/ABCDEF', now()) END",
            );
            self.savepoints = Some(0);
            return;
        };
        match random.random_range(0..20) {
            0 => self.end(true),
            1 => self.end(random.random_bool(0.7)),
            2 | 3 => {
                self.execute(&format!("SAVEPOINT s{savepoints}"));
                self.savepoints = Some(savepoints + 1);
            }
            4 | 5 if savepoints > 0 => {
                let to = random.random_range(0..savepoints);
                let (word, left) = if random.random_bool(0.6) { ("ROLLBACK TO", to + 1) } else { ("RELEASE", to) };
                self.execute(&format!("{word} s{to}"));
                self.savepoints = Some(left);
            }
            6 => {
                let sql = self.truncation(random);
                self.execute(&sql);
                self.end(true);
            }
            _ => {
                let sql = self.change(random);
                self.execute(&sql);
            }
        }
    }

    /// Always the last change of a transaction that commits. `PostgreSQL` 15, streaming a transaction whose truncation was
    /// rolled back, now and then ends with `could not map filenode … to relation OID`: the rolled-back rows of its
    /// catalogue can be gone by then. That is no message that a decoder could be compared on.
    fn truncation(&self, random: &mut SmallRng) -> String {
        let table = self.tables.choose(random).expect("tables");
        let other = self.tables.choose(random).filter(|other| other.name != table.name && random.random_bool(0.5));
        let other = other.map(|other| format!(", {}", other.name)).unwrap_or_default();
        let options = ["", "RESTART IDENTITY", "CASCADE", "RESTART IDENTITY CASCADE"].choose(random);
        format!("TRUNCATE {}{other} {}", table.name, options.expect("options"))
    }

    fn change(&self, random: &mut SmallRng) -> String {
        let table = self.tables.choose(random).expect("tables");
        let name = &table.name;
        // Without an identity, rows can only be inserted.
        let most = if table.identity == "NOTHING" { 5 } else { 12 };
        match random.random_range(0..most) {
            0..3 => {
                let rows = random.random_range(1..5);
                table.insert(random, rows)
            }
            3 => table.insert(random, MANY),
            4 => {
                let (transactional, length) = (random.random_bool(0.7), random.random_range(0..40));
                format!("SELECT pg_logical_emit_message({transactional}, 'wer? ü', repeat('%', {length}))")
            }
            5 | 6 => format!("UPDATE {name} SET n = coalesce(n, 0) + 1 WHERE {}", table.some(random)),
            7 => format!("UPDATE {name} SET n = NULL, big = repeat('y', 2500) WHERE {}", table.some(random)),
            8 | 9 => {
                format!("UPDATE {name} SET id = nextval('ids'), code = nextval('ids') WHERE {}", table.some(random))
            }
            _ => format!("DELETE FROM {name} WHERE {}", table.some(random)),
        }
    }

    fn end(&mut self, commit: bool) {
        if self.savepoints.take().is_some() {
            self.execute(if commit { "COMMIT" } else { "ROLLBACK" });
        }
    }
}
