//! The way to the server: what it must be, and what happens when it goes and comes back.

use highwater_redis::{Applied, Cache, Change, Error, Progress, Secret};

use std::time::Instant;

use crate::clock::at;
use crate::server::{START, Server};

const PROGRESS: Progress = Progress { offset: 1, mark: None, newest: None, ahead: false };

#[tokio::test]
async fn a_server_that_may_evict_fences_is_refused_with_the_remedy() {
    let server = Server::start(&["--maxmemory-policy", "allkeys-lru"]).await;
    let error = Cache::connect(&server.options()).await.unwrap_err();
    assert!(matches!(&error, Error::Evicts { policy, .. } if policy == "allkeys-lru"), "{error}");
    assert!(!error.is_transient());
    assert!(error.to_string().contains("CONFIG SET maxmemory-policy"), "{error}");
    server.run::<()>(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]).await;
    server.cache().await;
}

#[tokio::test]
async fn a_node_of_a_cluster_is_refused() {
    let server = Server::start(&["--cluster-enabled", "yes"]).await;
    let error = Cache::connect(&server.options()).await.unwrap_err();
    assert!(matches!(error, Error::Cluster { .. }) && !error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_server_that_is_down_is_a_transient_error_that_names_it() {
    let mut server = Server::start(&[]).await;
    server.kill();
    let error = Cache::connect(&server.options()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("redis.sock"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_fatal_and_not_shown() {
    let server = Server::start(&["--requirepass", "right-one"]).await;
    let mut options = server.options();
    for password in [None, Some(Secret::new("wrong-one"))] {
        options.password = password;
        let error = Cache::connect(&options).await.unwrap_err();
        assert!(!error.is_transient(), "{error}");
        assert!(!format!("{error} {error:?}").contains("wrong-one"));
    }
    options.password = Some(Secret::new("right-one"));
    let cache = Cache::connect(&options).await.unwrap();
    assert_eq!(cache.progress("p/0").await.unwrap(), None);
}

#[tokio::test]
async fn functions_that_were_flushed_are_loaded_again() {
    let server = Server::start(&[]).await;
    let cache = server.cache().await;
    server.run::<()>(&["FUNCTION", "FLUSH"]).await;
    let applied = cache.apply("p/0", None, PROGRESS, &[]).await.unwrap();
    assert!(matches!(applied, Applied::Done { .. }), "{applied:?}");
}

#[tokio::test]
async fn a_server_killed_and_started_empty_is_noticed_by_the_next_batch() {
    let mut server = Server::start(&[]).await;
    let cache = server.cache().await;
    cache.apply("p/0", None, PROGRESS, &[]).await.unwrap();
    server.kill();
    let error = cache.progress("p/0").await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    server.start_again().await;
    let next = Progress { offset: 2, ..PROGRESS };
    let applied = until_back(|| cache.apply("p/0", Some(PROGRESS), next, &[])).await;
    assert_eq!(applied, Applied::Elsewhere(None));
}

#[tokio::test]
async fn a_server_that_comes_back_with_a_policy_that_evicts_is_refused() {
    let mut server = Server::start(&[]).await;
    let cache = server.cache().await;
    server.kill();
    server.start_again().await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]).await;
    let error = loop {
        match cache.apply("p/0", None, PROGRESS, &[]).await {
            Err(error) if error.is_transient() => {}
            Err(error) => break error,
            Ok(applied) => panic!("{applied:?}"),
        }
    };
    assert!(matches!(error, Error::Evicts { .. }), "{error}");
}

#[tokio::test]
async fn a_full_server_refuses_a_batch_as_a_whole_and_takes_it_later() {
    let server = Server::start(&[]).await;
    let cache = server.cache().await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let change = Change::Fence { group: "g".into(), at: at(1) };
    let error = cache.apply("p/0", None, PROGRESS, std::slice::from_ref(&change)).await.unwrap_err();
    assert!(error.is_transient() && error.kind() == "out_of_memory", "{error}");
    assert_eq!(server.run::<i64>(&["DBSIZE"]).await, 0);
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let applied = cache.apply("p/0", None, PROGRESS, &[change]).await.unwrap();
    assert!(matches!(applied, Applied::Done { .. }), "{applied:?}");
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_waited_for() {
    let server = Server::start(&[]).await;
    let cache = server.cache().await;
    server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = cache.apply("p/0", None, PROGRESS, &[]).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    server.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    cache.apply("p/0", None, PROGRESS, &[]).await.unwrap();
}

/// Calls until the server is back, at most for [`START`].
async fn until_back<T, F: Future<Output = Result<T, Error>>>(mut call: impl FnMut() -> F) -> T {
    let until = Instant::now() + START;
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => assert!(error.is_transient() && Instant::now() < until, "{error}"),
        }
    }
}
