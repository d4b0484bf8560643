//! Who a write claims to be.

use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::json;

const REASONS: [&str; 6] = [
    "goods received",
    "stocktaking",
    "order placed",
    "price list of the supplier",
    "customer called: \"wrong picture\"",
    "Änderung laut Katalog — Seite 7",
];
const BROWSERS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/142.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Safari/605.1.15",
    "admin-panel/4.2",
];

/// What is sent with a transaction so that the audit log can tell who made it.
pub(super) struct Context {
    pub(super) request_id: String,
    /// The message's content.
    pub(super) message: String,
}

/// Invents a context; the reason is the caller's, or one of the usual.
pub(super) fn invent(dice: &mut SmallRng, reason: Option<&str>) -> Context {
    let request_id = format!("{:016x}", dice.random::<u64>());
    let reason = reason.unwrap_or(REASONS[dice.random_range(0..REASONS.len())]);
    let ip_address = if dice.random_ratio(1, 5) {
        format!("2001:db8::{:x}", dice.random::<u16>())
    } else {
        format!("192.0.2.{}", dice.random::<u8>())
    };
    let message = json!({
        "user_id": dice.random_range(1..=15),
        "ip_address": ip_address,
        "user_agent": BROWSERS[dice.random_range(0..BROWSERS.len())],
        "request_id": request_id,
        "reason": reason,
    });
    Context { request_id, message: message.to_string() }
}
