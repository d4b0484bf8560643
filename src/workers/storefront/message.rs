//! The messages between gateway and client that are no events.
//!
//! A client sends `{"type":"subscribe","topics":["stock","prices"],"parts":[42],"resume":"<position of its last mark>"}`;
//! without `parts`, or with `"all"`, it follows all. The gateway answers `welcome`, then sends events, marks and, where it
//! cannot give every event, `resync`.

use std::collections::BTreeSet;

use axum::extract::ws::Utf8Bytes;
use serde::Deserialize;
use serde_json::json;

use super::event::{Topics, topic_number};
use super::hub::Interest;
use crate::position::Bound;

/// A valid subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subscribe {
    pub(super) interest: Interest,
    pub(super) resume: Option<Bound>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "type")]
    kind: String,
    topics: Vec<String>,
    #[serde(default)]
    parts: Option<Parts>,
    #[serde(default)]
    resume: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Parts {
    Word(String),
    List(Vec<PartId>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PartId {
    Number(i64),
    Text(String),
}

/// Reads a client's message.
///
/// # Errors
/// What is wrong, for the client to read.
pub(super) fn subscribe(text: &str, max_parts: usize) -> Result<Subscribe, String> {
    let written: Written = serde_json::from_str(text).map_err(|error| format!("not a subscription: {error}"))?;
    if written.kind != "subscribe" {
        return Err(format!("unknown type {:?}; expected \"subscribe\"", written.kind));
    }
    let parts = match written.parts {
        None => None,
        Some(Parts::Word(word)) if word == "all" => None,
        Some(Parts::Word(word)) => return Err(format!("unknown parts {word:?}; expected a list or \"all\"")),
        Some(Parts::List(list)) => Some(list.into_iter().map(PartId::text).collect()),
    };
    let topics = written.topics.iter().map(String::as_str);
    interest(topics, parts, written.resume.as_deref(), max_parts)
}

/// Puts a subscription together from its parts, as they also stand in an SSE request.
///
/// # Errors
/// What is wrong, for the client to read.
pub(super) fn interest<'a>(
    names: impl Iterator<Item = &'a str>,
    parts: Option<BTreeSet<Box<str>>>,
    resume: Option<&str>,
    max_parts: usize,
) -> Result<Subscribe, String> {
    let mut topics = Topics::default();
    for name in names {
        let number = topic_number(name)
            .ok_or_else(|| format!("unknown topic {name:?}; expected \"stock\", \"prices\" or \"content\""))?;
        topics = topics.and(Topics::only(number));
    }
    if topics.is_empty() {
        return Err("no topics; expected some of \"stock\", \"prices\", \"content\"".to_owned());
    }
    if parts.as_ref().is_some_and(|parts| parts.len() > max_parts) {
        return Err(format!("more than {max_parts} parts; follow all of them instead"));
    }
    if parts.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err("an empty list of parts; leave it out to follow all".to_owned());
    }
    let resume = resume.map(str::parse).transpose().map_err(|error| format!("resume: {error}"))?;
    Ok(Subscribe { interest: Interest { topics, parts }, resume })
}

impl PartId {
    fn text(self) -> Box<str> {
        match self {
            Self::Number(number) => number.to_string().into(),
            Self::Text(text) => text.into(),
        }
    }
}

/// The answer to a subscription: every event from `position` on will come; fetch the state now, and let the newer win.
/// `resumed` says that nothing was missed since the token, so that there is nothing to fetch.
pub(super) fn welcome(from: Bound, resumed: bool) -> Utf8Bytes {
    json!({ "type": "welcome", "position": from, "resumed": resumed }).to_string().into()
}

/// Events are missing: fetch the state again; every event from `position` on will come.
pub(super) fn resync(from: Bound) -> Utf8Bytes {
    json!({ "type": "resync", "position": from }).to_string().into()
}

/// The last message was not understood.
pub(super) fn error(reason: &str) -> Utf8Bytes {
    json!({ "type": "error", "reason": reason }).to_string().into()
}

/// Everything below `bound` that the client follows was sent before this: its token from now on.
pub(super) fn mark(source: &str, bound: Bound, time: &str) -> Utf8Bytes {
    let id = format!("{bound}/mark");
    let mark = json!({
        "specversion": "1.0", "id": id, "source": source, "type": "mark", "time": time, "position": bound,
    });
    mark.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_names_topics_parts_and_token() {
        let text = r#"{"type":"subscribe","topics":["stock","content"],"parts":[42,"a"],"resume":"00000001-000000000000000A-00000000"}"#;
        let read = subscribe(text, 10).expect("valid");
        assert_eq!(read.interest.topics, Topics::only(0).and(Topics::only(2)));
        assert_eq!(read.interest.parts, Some(BTreeSet::from(["42".into(), "a".into()])));
        assert_eq!(read.resume, Some(Bound::at_lsn(1, 10)));
        let all = subscribe(r#"{"type":"subscribe","topics":["prices"],"parts":"all"}"#, 10).expect("valid");
        assert_eq!((all.interest.parts, all.resume), (None, None));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("{", "not a subscription"),
            (r#"{"type":"subscribe","topics":[]}"#, "no topics"),
            (r#"{"type":"subscribe","topics":["price"]}"#, "unknown topic \"price\""),
            (r#"{"type":"publish","topics":["stock"]}"#, "unknown type"),
            (r#"{"type":"subscribe","topics":["stock"],"parts":"some"}"#, "unknown parts"),
            (r#"{"type":"subscribe","topics":["stock"],"parts":[]}"#, "empty list"),
            (r#"{"type":"subscribe","topics":["stock"],"parts":[1,2,3]}"#, "more than 2 parts"),
            (r#"{"type":"subscribe","topics":["stock"],"resume":"x"}"#, "resume: `x`"),
            (r#"{"type":"subscribe","topics":["stock"],"extra":1}"#, "unknown field"),
        ] {
            let error = subscribe(text, 2).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
