//! `highwater check` on topics that lost what was committed to them: it says what the start would refuse.

use std::time::Duration;

use highwater_demo::check::caught_up;

use crate::check::check;
use crate::faults::delete_topic;
use crate::shop::Shop;

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_is_a_failure_with_the_choices_and_not_one_that_will_be_made() {
    let shop = Shop::open("check_deleted", 20).await;
    let prefix = shop.endpoints.topic_prefix.clone();
    let mut pipeline = shop.pipeline(&["capture", "cache"]).await;
    caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    let before = check(&shop.endpoints.variables, &["capture"]);
    assert_eq!(before.code, Some(0), "{}", before.text);

    delete_topic(&shop, "stock").await;
    let topic = format!("topic {prefix}.stock");
    let said = check(&shop.endpoints.variables, &["capture"]);
    let remedy = said.remedy(&["FAIL", &topic, "ends at offset 0", "the topic was deleted"]);
    assert!(remedy.contains("on_lost_slot = \"resnapshot\"") && remedy.contains("kafka-topics.sh"), "{remedy}");
    assert!(!said.finds(&["will be made at the start"]) && said.code == Some(1), "{}", said.text);
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_ON_LOST_SLOT".to_owned(), "resnapshot".to_owned());
    let said = check(&variables, &["capture"]);
    assert!(
        said.finds(&["warn", &topic, "will read every mapped table again"]) && said.code == Some(0),
        "{}",
        said.text
    );

    delete_topic(&shop, "progress").await;
    let said = check(&variables, &["capture"]);
    let remedy = said.remedy(&["FAIL", &format!("topic {prefix}.progress"), "holds no progress"]);
    assert!(remedy.contains("to begin anew with a snapshot") && said.code == Some(1), "{}", said.text);
    assert!(!said.finds(&["will be made at the start", "progress"]), "{}", said.text);
    shop.close().await;
}
