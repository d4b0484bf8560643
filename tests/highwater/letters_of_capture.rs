//! `highwater dead-letters retry` on letters of capture, which refer to rows.

use highwater_kafka::{Connection, Writer};

use crate::process::highwater;
use crate::shop::Shop;

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_asked_for_once_however_many_letters_are_of_it() {
    let shop = Shop::open("letters_capture", 10).await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    let writer = Writer::new(&Connection::new(&shop.endpoints.brokers, "letter-tests")).expect("a writer");
    let topic = shop.endpoints.topic("dead-letters");
    for row in ["parts/1", "parts/2", "prices/7", "parts/3"] {
        let position = "00000001-0000000000000009-00000000";
        let letter = format!(r#"{{"worker":"capture","position":"{position}","row":"{row}","reason":"too large"}}"#);
        let headers: [(&str, &[u8]); 2] = [("worker", b"capture"), ("reason", b"too large")];
        writer.send(&topic, 0, row.as_bytes(), Some(letter.as_bytes()), &headers).await.expect("a letter");
    }
    let witness = format!("{}_witness", shop.endpoints.topic_prefix);
    let make = format!("SELECT pg_create_logical_replication_slot('{witness}', 'test_decoding')");
    shop.admin.simple_query(&make).await.expect("a witness of the log");

    let retry = highwater(&shop.endpoints.variables).args(["dead-letters", "retry", "--all"]).output();
    let retry = retry.expect("the binary runs");
    let text = String::from_utf8_lossy(&[retry.stdout, retry.stderr].concat()).into_owned();
    let asked = format!(
        "SELECT count(*) FROM pg_logical_slot_get_changes('{witness}', NULL, NULL) WHERE data LIKE '%highwater.snapshot%'"
    );
    let asked = shop.value(&asked).await;
    shop.admin.simple_query(&format!("SELECT pg_drop_replication_slot('{witness}')")).await.expect("dropped");
    assert!(retry.status.success(), "{text}");
    assert_eq!(text.matches("its table will be read again").count(), 4, "each letter has its line:\n{text}");
    assert_eq!(asked, "2", "one request for parts and one for prices:\n{text}");
    shop.close().await;
}
