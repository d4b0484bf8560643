//! The cache: whether Redis answers and is what the fences need.

use std::time::SystemTime;

use highwater_redis::{Cache, Error};

use super::clock;
use super::report::Report;
use crate::roles::Config;

pub(super) async fn check(config: &Config, report: &mut Report) {
    let server = &config.cache.server;
    // Connecting checks version, mode and eviction policy, and loads the functions.
    match Cache::connect(&config.cache.options()).await {
        Ok(cache) => {
            report.ok("cache.server", format!("{server} answers, of a version and policy that keep fences"));
            let asked = SystemTime::now();
            match cache.clock().await {
                Ok(theirs) => clock::judge(&server.to_string(), asked, theirs, SystemTime::now(), report),
                Err(error) => report.fail("cache.server", error.to_string(), remedy(&error, server.url())),
            }
        }
        Err(error) => report.fail("cache.server", error.to_string(), remedy(&error, server.url())),
    }
}

fn remedy(error: &Error, url: &str) -> String {
    let remedy = match error {
        Error::Evicts { .. } => {
            return format!("redis-cli -u {url} CONFIG SET maxmemory-policy volatile-lru; and the same in redis.conf");
        }
        Error::TooOld { .. } => "upgrade Redis to 7.0 or newer",
        Error::Cluster { .. } => "name a single server with replicas in cache.server",
        Error::Address { .. } | Error::PasswordInAddress => "correct cache.server",
        error if error.is_transient() => "start Redis, or change cache.server",
        _ => "look at Redis's own log; a refused login wants HIGHWATER_CACHE_PASSWORD and the user in cache.server",
    };
    remedy.to_owned()
}
