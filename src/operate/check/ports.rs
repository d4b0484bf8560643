//! The ports that this process will listen on.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::report::Report;
use crate::roles::{Config, Role};

pub(super) async fn check(config: &Config, roles: &[Role], report: &mut Report) {
    free("operate.listen", config.operate.listen, report).await;
    if roles.contains(&Role::Storefront) {
        free("storefront.listen", config.storefront.listen, report).await;
    }
}

async fn free(setting: &str, address: SocketAddr, report: &mut Report) {
    match TcpListener::bind(address).await {
        Ok(_) => report.ok(setting, format!("{address} is free")),
        Err(error) => {
            let remedy = format!("stop what listens there (`ss -ltnp`), or change {setting}");
            report.fail(setting, format!("cannot listen on {address}: {error}"), remedy);
        }
    }
}
