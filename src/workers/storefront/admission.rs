//! Who may connect: decided before the upgrade, from the request alone.
//!
//! A browser names the page's origin and lets any page connect anywhere, so the gateway decides which pages may (RFC 6455,
//! section 10.2). Programs send no origin and are let in. Tokens that name a visitor belong here as well.

use axum::http::{HeaderMap, StatusCode, header};

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its page's origin is not listed.
    Origin,
    /// There are as many clients as there may be.
    Full,
    /// The gateway has not caught up yet, or drains.
    NotReady,
}

impl Refusal {
    pub(super) fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Origin => (StatusCode::FORBIDDEN, "pages of this origin may not connect: see storefront.origins\n"),
            Self::Full => {
                (StatusCode::SERVICE_UNAVAILABLE, "as many clients as may be are connected: try again later\n")
            }
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not ready: try again later\n"),
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Full => "full",
            Self::NotReady => "not-ready",
        }
    }
}

/// Tells whether the request's origin, if it has one, is listed or the gateway's own host.
pub(super) fn origin_may(headers: &HeaderMap, listed: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    if listed.iter().any(|listed| listed == "*" || listed.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    host.is_some() && host.zip(own).is_some_and(|(host, own)| host.eq_ignore_ascii_case(own))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn pages_of_listed_origins_and_of_the_own_host_may_connect_others_may_not() {
        let listed = ["https://shop.example".to_owned()];
        for (origin, may) in [
            (None, true),
            (Some("https://shop.example"), true),
            (Some("http://gateway:8080"), true),
            (Some("https://shop.example.evil"), false),
            (Some("http://shop.example"), false),
            (Some("null"), false),
            (Some("gateway:8080"), false),
        ] {
            let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("gateway:8080"))]);
            headers.extend(origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))));
            assert_eq!(origin_may(&headers, &listed), may, "{origin:?}");
        }
    }
}
