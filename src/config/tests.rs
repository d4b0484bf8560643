//! What an operator reads when a configuration is wrong, word for word.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::events::mapping::spec::{EntrySpec, FieldSpec, PartSpec};

fn document(text: &str, variables: &[(&str, &str)]) -> Document {
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Document::parse("test.toml", text, variables.collect())
}

/// A role's settings with every kind of value.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    mark: Duration,
    keep: Duration,
    memory: usize,
    partitions: u16,
    on: bool,
    format: u8,
    origins: Vec<String>,
    server: Server,
}

impl Sample {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            name: section.text("name", "shop"),
            mark: section.millis("mark_ms", 50, 1..=60_000),
            keep: section.seconds("keep_s", 10, 1..=3600),
            memory: section.mebibytes("memory_mib", 64, 1..=4096),
            partitions: section.number("partitions", 8, 1..=1000),
            on: section.flag("on", true),
            format: section.choice("format", &[("text", 1), ("json", 2)], 1),
            origins: section.list("origins", &["http://localhost"]),
            server: section.server("server", "redis://127.0.0.1", &["redis", "rediss"]),
        }
    }
}

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Sample, String> {
    let document = document(text, variables);
    let mut section = document.section("sample");
    let sample = Sample::read(&mut section);
    section.finish();
    document.finish().map(|()| sample).map_err(|errors| errors.to_string())
}

fn read_entries(text: &str) -> Result<Vec<EntrySpec>, String> {
    let document = document(text, &[]);
    let mut section = document.section("source");
    let entries = read_map(&mut section);
    section.finish();
    document.finish().map(|()| entries).map_err(|errors| errors.to_string())
}

#[test]
fn nothing_written_gives_the_defaults() {
    let sample = read("", &[]).unwrap();
    assert_eq!(sample.mark, Duration::from_millis(50));
    assert_eq!(sample.memory, 64 * 1024 * 1024);
    assert_eq!(sample.origins, ["http://localhost"]);
    assert_eq!(sample, read("[sample]\n", &[]).unwrap());
}

#[test]
fn a_variable_overrides_the_file() {
    let text = "[sample]\nmark_ms = 7\norigins = [\"a\", \"b\"]\non = true\n";
    let variables = [
        ("HIGHWATER_SAMPLE_MARK_MS", "9"),
        ("HIGHWATER_SAMPLE_ORIGINS", "https://a.test, https://b.test"),
        ("HIGHWATER_SAMPLE_ON", "false"),
    ];
    let sample = read(text, &variables).unwrap();
    assert_eq!(sample.mark, Duration::from_millis(9));
    assert_eq!(sample.origins, ["https://a.test", "https://b.test"]);
    assert!(!sample.on);
}

#[test]
fn all_errors_are_said_at_once_with_line_and_nearest_name() {
    let text = "\
[sample]
name = 3
mark_sm = 20
mark_ms = \"fast\"
keep_s = 0
partitions = 1_000_000
format = \"jsno\"
origins = [\"a\", 4]
on = \"yes\"

[sampel]
name = \"x\"

[elsewhere]
";
    let errors = read(text, &[("HIGHWATER_SAMPLE_KEEPS", "4")]).unwrap_err();
    let expected = "\
test.toml is refused, 11 errors:
  test.toml:2: sample.name: found the number 3; expected a text
  test.toml:3: sample.mark_sm: there is no such setting; did you mean `mark_ms`?
  test.toml:4: sample.mark_ms: found the text \"fast\"; expected milliseconds from 1 to 60000
  test.toml:5: sample.keep_s: found the number 0; expected seconds from 1 to 3600
  test.toml:6: sample.partitions: found the number 1000000; expected a whole number from 1 to 1000
  test.toml:7: sample.format: found the text \"jsno\"; did you mean `json`?
  test.toml:8: sample.origins: found a list; expected a list of texts
  test.toml:9: sample.on: found the text \"yes\"; expected true or false
  test.toml:11: [sampel]: there is no such section; did you mean `sample`?
  test.toml:14: [elsewhere]: there is no such section; expected `sample`
  HIGHWATER_SAMPLE_KEEPS: there is no such setting; did you mean `HIGHWATER_SAMPLE_KEEP_S`?";
    assert_eq!(errors, expected);
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_lines_and_what_else_is_wrong() {
    let errors = read("[sample]\nname = \nmark_ms = 1\nmark_ms = 2\nkeep_s = \"x\"\n", &[]).unwrap_err();
    let lines: Vec<_> = errors.lines().map(|line| line.split(": ").next().unwrap().trim()).collect();
    assert_eq!(lines[1..], ["test.toml:2", "test.toml:4", "test.toml:5"], "{errors}");
}

#[test]
fn a_missing_file_says_what_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent.toml");
    let errors = Document::open(&path).unwrap_err().to_string();
    assert!(errors.contains(&format!("cannot read {}", path.display())), "{errors}");
    assert!(errors.contains("No such file"), "{errors}");
    assert!(errors.contains("--config PATH or HIGHWATER_CONFIG"), "{errors}");
}

#[test]
fn variables_of_the_scripts_and_of_the_cluster_are_left_alone() {
    let variables = [
        ("HIGHWATER_STACK_DIR", "build/stack"),
        ("HIGHWATER_PASSWORD", "x"),
        ("HIGHWATER_CONFIG", "config.toml"),
        ("HIGHWATER_SAMPLE_SERVICE_HOST", "10.0.0.1"),
        ("HIGHWATER_SAMPLE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("HIGHWATER_RELEASE", "7"),
    ];
    read("", &variables).unwrap();
}

#[test]
fn a_misspelt_variable_is_refused() {
    let errors = read("", &[("HIGHWATER_SAMPEL_MARK_MS", "4")]).unwrap_err();
    assert!(
        errors
            .ends_with("HIGHWATER_SAMPEL_MARK_MS: there is no such setting; did you mean `HIGHWATER_SAMPLE_MARK_MS`?")
    );
}

#[test]
fn a_password_in_the_file_is_refused_with_what_to_do_and_not_shown() {
    let text = "[sample]\nserver = \"redis://me:hunter2@cache:6379/1\"\npassword = \"hunter3\"\n";
    let errors = read(text, &[]).unwrap_err();
    let remedy = "set HIGHWATER_SAMPLE_PASSWORD, or name a file by password_file";
    let expected = format!(
        "test.toml is refused, 2 errors:\n  \
         test.toml:2: sample.server: a URL in this file must not hold a password; {remedy}\n  \
         test.toml:3: sample.password: a secret must not stand in this file; {remedy}"
    );
    assert_eq!(errors, expected);
}

#[test]
fn a_password_comes_from_its_variable_then_its_file_then_the_variable_with_the_url() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "from file\n").unwrap();
    let text = format!("[sample]\npassword_file = {:?}\n", path.to_str().unwrap());
    let url = ("HIGHWATER_SAMPLE_SERVER", "rediss://me:from%20url@cache/1?x=1");
    let variable = ("HIGHWATER_SAMPLE_PASSWORD", "from variable");
    let password = |text: &str, variables: &[_]| {
        let server = read(text, variables).unwrap().server;
        assert_eq!(server.url(), "rediss://me@cache/1?x=1");
        assert_eq!(format!("{server:?} {server}").matches("from").count(), 0);
        server.password().unwrap().expose().to_owned()
    };
    assert_eq!(password(&text, &[url, variable]), "from variable");
    assert_eq!(password(&text, &[url]), "from file");
    assert_eq!(password("", &[url]), "from url");
}

#[test]
fn a_url_that_is_none_is_refused_without_being_shown() {
    for wrong in ["host=db password=hunter2", "mysql://me:hunter2@db", "redis://db/?password=hunter2"] {
        let errors = read("", &[("HIGHWATER_SAMPLE_SERVER", wrong)]).unwrap_err();
        assert!(errors.contains("expected redis://… or rediss://…"), "{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }
}

#[test]
fn a_mapping_entry_is_read_in_the_order_written_with_its_places() {
    let text = "\
[[source.map]]
table = \"partner_stockrecord\"
event = \"stock\"
part = { through = \"product\", by = \"product_id\" }
entity = \"stock/{id}\"
groups = [\"family:{parent_id|id}\"]
attributes = []
[source.map.fields]
reserved_quantity = { column = \"num_allocated\", null = 0 }
current_stock = \"num_in_stock\"
price_type = { value = \"ba\\\"se\" }
value = { first_of = [\"value_text\", \"value_integer\"] }
[[source.map]]
table = \"c\"
event = \"content\"
kind = \"category\"
part = false
entity = \"category/{id}\"
";
    let entries = read_entries(text).unwrap();
    assert_eq!(entries.len(), 2);
    let stock = &entries[0];
    assert_eq!(stock.table.place.to_string(), "test.toml:2");
    let through = PartSpec::Through { through: "product".into(), by: "product_id".into() };
    assert_eq!(stock.part.value, through);
    assert_eq!(stock.attributes, Some(vec![]));
    let names: Vec<_> = stock.fields.iter().map(|(name, _)| name.value.as_str()).collect();
    assert_eq!(names, ["reserved_quantity", "current_stock", "price_type", "value"]);
    assert!(matches!(&stock.fields[0].1, FieldSpec::Column { null: Some(null), .. } if null == "0"));
    assert_eq!(stock.fields[2].1, FieldSpec::Constant("\"ba\\\"se\"".into()));
    assert_eq!(entries[1].part.value, PartSpec::None);
    assert_eq!(entries[1].place.line, 13);
    assert_eq!(entries[1].attributes, None);
}

#[test]
fn every_wrong_part_of_a_mapping_entry_is_named() {
    let text = "\
[[source.map]]
tabel = \"parts\"
event = \"stok\"
part = true
entity = \"{part_id}\"
[source.map.fields]
a = 4
b = { colum = \"x\" }
c = { column = \"x\", value = 1 }
[[source.map]]
table = \"parts\"
event = \"price\"
kind = \"part\"
part = { through = \"parts\" }
entity = \"{part_id}\"
";
    let errors = read_entries(text).unwrap_err();
    let field = "a column, { column = …, null = … }, { value = … } or { first_of = [columns] }";
    let expected = format!(
        "\
test.toml is refused, 9 errors:
  test.toml:1: source.map[1].table: is missing; expected a text
  test.toml:2: source.map[1].tabel: there is no such setting; did you mean `table`?
  test.toml:3: source.map[1].event: found the text \"stok\"; did you mean `stock`?
  test.toml:4: source.map[1].part: found true; expected a column, false, or {{ through = \"table\", by = \"column\" }}
  test.toml:7: source.map[1].fields.a: found the number 4; expected {field}
  test.toml:8: source.map[1].fields.b.colum: there is no such setting; did you mean `column`?
  test.toml:9: source.map[1].fields.c: names not exactly one source; expected {field}
  test.toml:13: source.map[2].kind: is for events of content; remove it
  test.toml:14: source.map[2].part.by: is missing; expected a text"
    );
    assert_eq!(errors, expected);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\[\\]a-z=\"{}.,0-9 \n#_-]{0,200}") {
        let _ = read(&format!("[sample]\n{text}"), &[]);
        let _ = read_entries(&format!("[[source.map]]\n{text}"));
    }

    #[test]
    fn a_number_is_taken_exactly_when_it_is_in_its_range(number in any::<i64>()) {
        let read = read(&format!("[sample]\npartitions = {number}\n"), &[]);
        prop_assert_eq!(read.map(|sample| i64::from(sample.partitions)).ok(),
            (1..=1000).contains(&number).then_some(number));
    }

    #[test]
    fn a_password_shows_in_nothing_but_its_expose(password in "[a-zA-Z0-9%/:@?#]{6,20}") {
        let url = format!("redis://me:{password}@cache/1");
        let variables = [("HIGHWATER_SAMPLE_SERVER", url.as_str())];
        let shown = match read("", &variables) {
            Ok(sample) => format!("{sample:?} {}", sample.server),
            Err(errors) => errors,
        };
        prop_assert!(!shown.contains(&password), "{}", shown);
    }

    #[test]
    fn one_wrong_letter_still_finds_the_name(at in 0usize..7, letter in "[xqz]") {
        let mut name: Vec<char> = "mark_ms".chars().collect();
        name[at] = letter.chars().next().unwrap();
        let wrong: String = name.into_iter().collect();
        prop_assert_eq!(nearest(&wrong, ["name", "mark_ms", "keep_s"]), Some("mark_ms"));
    }
}

#[test]
fn a_short_name_is_not_near_to_everything() {
    assert_eq!(nearest("a", ["id", "by"]), None);
    assert_eq!(nearest("a", []), None);
}

fn read_client(text: &str, variables: &[(&str, &str)]) -> Result<Vec<(String, Secret)>, String> {
    let document = document(text, variables);
    let mut section = document.section("topics");
    let properties = section.client_properties("client");
    section.finish();
    document.finish().map(|()| properties).map_err(|errors| errors.to_string())
}

#[test]
fn a_client_property_that_may_be_a_secret_comes_from_a_file_and_is_never_shown() {
    let file = std::env::temp_dir().join(format!("highwater-client-property-{}", std::process::id()));
    std::fs::write(&file, "hunter2\n").unwrap();
    let text = format!(
        "[topics]\nclient = [\"security.protocol = ssl\", \"ssl.key.password=@{}\",\n\"sasl.oauthbearer.token.endpoint.url=https://a/b\"]",
        file.display()
    );
    let read = read_client(&text, &[]);
    let variable = format!("ssl.keystore.password=@{}", file.display());
    let overridden = read_client("", &[("HIGHWATER_TOPICS_CLIENT", &variable)]);
    std::fs::remove_file(&file).unwrap();
    let read = read.unwrap();
    assert!(!format!("{read:?}").contains("hunter2"), "{read:?}");
    let shown: Vec<(&str, &str)> = read.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    let url = ("sasl.oauthbearer.token.endpoint.url", "https://a/b");
    assert_eq!(shown, [("security.protocol", "ssl"), ("ssl.key.password", "hunter2"), url]);
    assert_eq!(overridden.unwrap()[0].1.expose(), "hunter2");
    let missing = read_client(&text, &[]).unwrap_err();
    assert!(missing.contains("test.toml:2") && missing.contains("cannot read"), "{missing}");
}

#[test]
fn a_secret_among_the_client_properties_in_clear_is_refused_with_its_line_and_not_repeated() {
    let refused = [
        ("sasl.password=hunter2", "HIGHWATER_TOPICS_PASSWORD"),
        ("sasl.jaas.config=x password='hunter2';", "\"sasl.jaas.config=@/run/secrets/…\""),
        ("ssl.key.password=hunter2", "@/run/secrets/"),
        ("SSL.KEY.PEM=hunter2", "@/run/secrets/"),
        ("sasl.oauthbearer.client.secret=hunter2", "@/run/secrets/"),
        ("hunter2", "without `=`"),
    ];
    for (item, remedy) in refused {
        let error = read_client(&format!("[topics]\nclient = [\n\"{item}\"]"), &[]).unwrap_err();
        assert!(
            error.contains("test.toml:3") && error.contains(remedy) && !error.contains("hunter2"),
            "{item}: {error}"
        );
    }
    let error = read_client("[topics]\nclient = \"sasl.password=hunter2\"", &[]).unwrap_err();
    assert!(error.contains("test.toml:2") && !error.contains("hunter2"), "{error}");
}
