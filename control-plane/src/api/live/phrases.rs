//! What a client may say on a live connection, and what it is told beside the topics' own messages. Refuses unknown fields.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::MESSAGE_BYTES_MAX;
use crate::api::problem::ApiError;
use crate::live::{Pace, QUEUE_MESSAGES_MAX};

/// Topics of one connection.
pub(super) const TOPICS_MAX: usize = 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FromClient {
    #[serde(rename = "type")]
    pub(super) verb: Verb,
    pub(super) topic: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verb {
    Subscribe,
    Unsubscribe,
    Resnapshot,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToClient<'a> {
    /// The first message.
    Hello {
        topics_max: usize,
        message_bytes_max: usize,
        queue_messages_max: usize,
        heartbeat_s: u64,
        idle_max_s: u64,
        approximate: bool,
    },
    /// A message cannot be served.
    Error {
        topic: Option<&'a str>,
        code: &'a str,
        detail: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        mend: Option<&'a str>,
    },
    /// A topic ended; it may be asked for anew.
    Closed { topic: &'a str, code: &'a str, detail: &'a str },
}

pub(super) fn hello(pace: Pace) -> Bytes {
    render(&ToClient::Hello {
        topics_max: TOPICS_MAX,
        message_bytes_max: MESSAGE_BYTES_MAX,
        queue_messages_max: QUEUE_MESSAGES_MAX,
        heartbeat_s: pace.heartbeat.as_secs(),
        idle_max_s: pace.idle_max.as_secs(),
        approximate: true,
    })
}

/// In the words of REST.
pub(super) fn error(topic: Option<&str>, error: &ApiError) -> Bytes {
    let fault = error.errors.first();
    render(&ToClient::Error {
        topic,
        code: error.code.as_str(),
        detail: fault.map_or(error.detail.as_str(), |fault| fault.reason.as_str()),
        mend: fault.and_then(|fault| fault.mend.as_deref()),
    })
}

pub(super) fn closed(topic: &str) -> Bytes {
    let detail = "There is no such thing any more that you may see.";
    render(&ToClient::Closed { topic, code: "not_found", detail })
}

/// Strings and numbers always serialize.
fn render(message: &ToClient<'_>) -> Bytes {
    serde_json::to_vec(message).unwrap_or_default().into()
}
