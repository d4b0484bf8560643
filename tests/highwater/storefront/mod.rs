//! The storefront gateway on a real broker, with a real `WebSocket` client: what a page gets when it joins, comes back, is slow, or
//! has no business here.

mod catalogue;
mod gateway;
mod page;

use std::time::Duration;

use catalogue::Catalogue;
use gateway::Gateway;
use page::{Page, position, text};

use crate::stack::SHARED;

const TIMEOUT: Duration = Duration::from_secs(20);

fn brokers() -> String {
    SHARED.with(&["kafka"])["HIGHWATER_TOPICS_BROKERS"].clone()
}

async fn catalogue() -> Catalogue {
    Catalogue::open(&brokers()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_gets_events_byte_for_byte_and_its_token_behind_them() {
    let mut catalogue = catalogue().await;
    catalogue.marks(10);
    let gateway = Gateway::start(&catalogue, |_| {}).await;
    let mut page = Page::join(&gateway, r#"{"type":"subscribe","topics":["stock","prices"]}"#).await;
    let welcome = page.next().await;
    assert!(text(&welcome, "type") == "welcome" && !welcome["resumed"].as_bool().unwrap_or(true), "{welcome}");
    assert_eq!(text(&page.next_mark().await, "position"), position(10));

    let stock = catalogue.publish("stock", 42, 11);
    let content = catalogue.publish("content", 42, 12);
    let price = catalogue.publish("prices", 7, 13);
    let got = [page.next_event().await, page.next_event().await];
    assert!(got.contains(&stock) && got.contains(&price) && !got.contains(&content), "{got:?}");
    catalogue.marks(14);
    assert_eq!(text(&page.next_mark().await, "position"), position(14));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_gets_the_parts_it_follows_and_no_others() {
    let mut catalogue = catalogue().await;
    catalogue.marks(10);
    let gateway = Gateway::start(&catalogue, |_| {}).await;
    let mut page = Page::join(&gateway, r#"{"type":"subscribe","topics":["stock"],"parts":[42,"7"]}"#).await;
    page.next().await;
    let followed = [(42, 11), (7, 13)].map(|(part, lsn)| {
        catalogue.publish("stock", 1_000 + part, lsn);
        catalogue.publish("stock", part, lsn + 1)
    });
    let got = [page.next_event().await, page.next_event().await];
    assert!(followed.iter().all(|event| got.contains(event)), "{got:?}");
    // Another subscription on the same connection takes the place of the first.
    page.send(r#"{"type":"subscribe","topics":["stock"],"parts":[8]}"#).await;
    page.next_of("welcome").await;
    catalogue.publish("stock", 42, 20);
    let eight = catalogue.publish("stock", 8, 21);
    assert_eq!(page.next_event().await, eight);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_comes_back_gets_what_it_missed_also_at_a_restarted_gateway() {
    let mut catalogue = catalogue().await;
    catalogue.publish("stock", 1, 9);
    catalogue.marks(10);
    let gateway = Gateway::start(&catalogue, |_| {}).await;
    let mut page = Page::join(&gateway, r#"{"type":"subscribe","topics":["stock"],"parts":[1,2]}"#).await;
    let token = text(&page.next_mark().await, "position");
    drop(page);
    let missed = [catalogue.publish("stock", 1, 11), catalogue.publish("stock", 2, 12)];
    catalogue.publish("stock", 3, 13);
    catalogue.marks(14);

    let again = format!(r#"{{"type":"subscribe","topics":["stock"],"parts":[1,2],"resume":"{token}"}}"#);
    for start in 0..2 {
        let restarted = if start == 0 { None } else { Some(Gateway::start(&catalogue, |_| {}).await) };
        let mut page = Page::join(restarted.as_ref().unwrap_or(&gateway), &again).await;
        let welcome = page.next().await;
        assert!(text(&welcome, "type") == "welcome" && welcome["resumed"].as_bool() == Some(true), "{welcome}");
        let mut got = vec![page.next_event().await, page.next_event().await];
        got.sort();
        let mut expected = missed.to_vec();
        expected.sort();
        assert_eq!(got, expected);
        assert_eq!(text(&page.next_mark().await, "position"), position(14));
        if let Some(restarted) = restarted {
            restarted.stop().await;
        }
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_before_what_the_gateway_keeps_is_answered_with_resync() {
    let mut catalogue = catalogue().await;
    catalogue.marks(10);
    for lsn in 11..40 {
        catalogue.publish("stock", 1, lsn);
    }
    catalogue.marks(40);
    // It keeps nothing from before its start.
    let gateway = Gateway::start(&catalogue, |settings| settings.preload = Duration::ZERO).await;
    let again = format!(r#"{{"type":"subscribe","topics":["stock"],"resume":"{}"}}"#, position(10));
    let mut page = Page::join(&gateway, &again).await;
    let welcome = page.next().await;
    assert_eq!(welcome["resumed"].as_bool(), Some(false), "{welcome}");
    assert_eq!(text(&page.next().await, "type"), "resync");
    let live = catalogue.publish("stock", 1, 41);
    assert_eq!(page.next_event().await, live);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_page_is_kept_and_gets_the_newest_of_each_part() {
    let mut catalogue = catalogue().await;
    catalogue.marks(10);
    let gateway = Gateway::start(&catalogue, |settings| {
        settings.send_buffer = 16 * 1024;
        settings.queue = 256 * 1024;
    })
    .await;
    let mut page = Page::join(&gateway, r#"{"type":"subscribe","topics":["stock"]}"#).await;
    page.next().await;
    // 40 MiB that the page does not read, far more than any buffer on the way.
    let (parts, rounds) = (10, 200);
    for round in 0..rounds {
        catalogue.publish_many((0..parts).map(|part| ("stock", part, 100 + round * parts + part, 20_000)));
    }
    let end = 100 + rounds * parts;
    catalogue.marks(end);
    let slow = page.read_until_mark(&position(end)).await;
    assert!(!slow.resynced, "the queue was large enough for every part");
    assert!(slow.events.len() < 1_500, "{} events for a page that did not read", slow.events.len());
    for part in 0..parts {
        let of_part: Vec<&String> =
            slow.events.iter().filter(|(entity, _)| *entity == part.to_string()).map(|(_, p)| p).collect();
        assert!(of_part.is_sorted(), "part {part} went back");
        assert_eq!(of_part.last().map(|p| p.as_str()), Some(position(end - parts + part).as_str()), "part {part}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_falls_behind_by_more_than_its_queue_is_told_to_resync() {
    let mut catalogue = catalogue().await;
    catalogue.marks(10);
    let gateway = Gateway::start(&catalogue, |settings| {
        settings.send_buffer = 16 * 1024;
        settings.queue = 64 * 1024;
    })
    .await;
    let mut page = Page::join(&gateway, r#"{"type":"subscribe","topics":["stock"]}"#).await;
    page.next().await;
    for block in 0..40 {
        catalogue.publish_many((0..50).map(|n| ("stock", block * 50 + n, 100 + block * 50 + n, 10_000)));
    }
    catalogue.marks(3_000);
    let slow = page.read_until_mark(&position(3_000)).await;
    assert!(slow.resynced && slow.events.len() < 2_000, "{} events", slow.events.len());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_and_more_clients_than_may_be_are_refused() {
    let mut catalogue = catalogue().await;
    catalogue.marks(10);
    let gateway = Gateway::start(&catalogue, |settings| {
        settings.origins = vec!["https://shop.example".to_owned()];
        settings.max_clients = 1;
    })
    .await;
    assert_eq!(Page::refused(&gateway, Some("https://evil.example")).await, 403);
    let subscribe = r#"{"type":"subscribe","topics":["stock"]}"#;
    let page = Page::join_from(&gateway, Some("https://shop.example"), subscribe).await;
    assert_eq!(Page::refused(&gateway, None).await, 503);
    drop(page);
    // Its place is free once the gateway has noticed.
    gateway.has_room().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nonsense_is_told_so_and_one_that_says_too_much_is_dropped() {
    let mut catalogue = catalogue().await;
    catalogue.marks(10);
    let gateway = Gateway::start(&catalogue, |settings| settings.max_message = 4 * 1024).await;
    let mut page = Page::join(&gateway, r#"{"type":"subscribe","topics":["stocks"]}"#).await;
    assert!(text(&page.next().await, "reason").contains("unknown topic"), "told what is wrong");
    page.send(r#"{"type":"subscribe","topics":["stock"]}"#).await;
    assert_eq!(text(&page.next().await, "type"), "welcome");
    page.send(&" ".repeat(5_000)).await;
    page.ended().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_sign_of_life_is_dropped() {
    let mut catalogue = catalogue().await;
    catalogue.marks(10);
    let gateway = Gateway::start(&catalogue, |settings| {
        settings.heartbeat = Duration::from_secs(1);
        settings.max_clients = 1;
    })
    .await;
    // It holds the connection open, but answers no ping, because it never reads.
    let page = Page::join(&gateway, r#"{"type":"subscribe","topics":["stock"]}"#).await;
    assert_eq!(Page::refused(&gateway, None).await, 503);
    gateway.has_room().await;
    drop(page);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_sends_pages_away_with_a_hint_when_to_come_back() {
    let mut catalogue = catalogue().await;
    catalogue.marks(10);
    let gateway = Gateway::start(&catalogue, |_| {}).await;
    let mut page = Page::join(&gateway, r#"{"type":"subscribe","topics":["stock"]}"#).await;
    page.next().await;
    let (stopped, (code, reason)) = tokio::join!(gateway.stop(), page.closed());
    assert_eq!(code, 1012);
    assert!(reason.contains("reconnect_ms"), "{reason}");
    assert!(stopped < Duration::from_secs(3), "the drain took {stopped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_carry_the_same_and_resume_by_their_id() {
    let mut catalogue = catalogue().await;
    catalogue.marks(10);
    let gateway = Gateway::start(&catalogue, |_| {}).await;
    let first = gateway.sse("topics=stock&parts=42", None, &format!("id: {}", position(10))).await;
    assert!(
        first.contains("HTTP/1.1 200") && first.contains("text/event-stream") && first.contains("\"welcome\""),
        "{first}"
    );
    let missed = catalogue.publish("stock", 42, 11);
    catalogue.marks(12);
    let second = gateway.sse("topics=stock&parts=42", Some(&position(10)), &format!("id: {}", position(12))).await;
    assert!(second.contains(&format!("data: {missed}")), "{second}");
    assert!(gateway.sse("topics=nonsense", None, "unknown topic").await.contains("HTTP/1.1 400"));
    gateway.stop().await;
}
