//! The page's own small server: the static files, and the state that a page starts from.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::Endpoints;

/// Parts on the page: the most popular ones.
const PARTS: i64 = 48;

/// The state is made by PostgreSQL as JSON, with numbers such as prices as text, which is how events have them.
const STATE: &str = "
    SELECT jsonb_build_object(
        'part_id', p.id, 'part_name', p.part_name, 'brand', p.brand, 'version', p.version,
        'stock', (SELECT to_jsonb(s) || jsonb_build_object(
                     'available_stock', greatest(0, s.current_stock - s.reserved_quantity),
                     'is_low_stock', greatest(0, s.current_stock - s.reserved_quantity) <= s.min_stock_level)
                     - 'last_updated_by'
                  FROM stock_levels s WHERE s.part_id = p.id),
        'prices', (SELECT coalesce(jsonb_agg(jsonb_build_object('id', r.id, 'price_type', r.price_type,
                     'price', r.price::text, 'currency', r.currency, 'is_active', r.is_active) ORDER BY r.id), '[]')
                   FROM part_prices r WHERE r.part_id = p.id))::text
    FROM parts p WHERE p.is_active ORDER BY p.id LIMIT $1";

struct Shop {
    database: String,
    settings: Value,
}

/// Listens, at the wished port or, where that is taken, at a free one; returns the address.
pub(super) async fn listen(wished: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener = match TcpListener::bind(wished).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(SocketAddr::new(wished.ip(), 0)).await?,
    };
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves the page until the task is dropped.
pub(super) async fn serve(listener: TcpListener, endpoints: Endpoints) -> Result<()> {
    let web_socket = format!("{}/v1/ws", endpoints.storefront.replacen("http", "ws", 1));
    let shop = Shop { database: endpoints.shop_database, settings: json!({ "web_socket": web_socket }) };
    let html = |text| move || async move { ([(CONTENT_TYPE, "text/html; charset=utf-8")], text) };
    let script = |text| move || async move { ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], text) };
    let style = |text| move || async move { ([(CONTENT_TYPE, "text/css; charset=utf-8")], text) };
    let router = Router::new()
        .route("/", get(html(include_str!("../../../web/index.html"))))
        .route("/live.js", get(script(include_str!("../../../web/live.js"))))
        .route("/feed.js", get(script(include_str!("../../../web/feed.js"))))
        .route("/live.css", get(style(include_str!("../../../web/live.css"))))
        .route("/settings.json", get(|State(shop): State<Arc<Shop>>| async move { Json(shop.settings.clone()) }))
        .route("/parts", get(parts))
        .with_state(Arc::new(shop));
    Ok(axum::serve(listener, router).await?)
}

/// The state of the page's parts, read from the primary: what an event announced is there.
async fn parts(State(shop): State<Arc<Shop>>) -> Response {
    match read_parts(&shop.database).await {
        Ok(parts) => ([(CACHE_CONTROL, "no-store"), (CONTENT_TYPE, "application/json")], parts).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the database is away").into_response(),
    }
}

async fn read_parts(database: &str) -> Result<String> {
    let client = Endpoints::connect(database).await?;
    let rows = client.query(STATE, &[&PARTS]).await?;
    let parts: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(format!("{{\"parts\":[{}]}}", parts.join(",")))
}
