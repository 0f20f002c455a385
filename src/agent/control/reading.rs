//! Bodies of questions: bounded in size and time, and explained when they are wrong.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::refused::Refused;
use crate::wire::api;

/// The longest question is a deploy with a note: 64 KiB is far beyond it and costs nothing to hold.
const LARGEST: usize = 64 * 1024;

/// A question that has a body.
pub(super) trait Question: DeserializeOwned {
    /// What a body looks like.
    const SHAPE: &str;
}

impl Question for api::Deploy {
    const SHAPE: &str = r#"{"path": "/absolute/file", "force": false, "sha256": "64 hex digits", "note": "text"}, of which only path must be given"#;
}

impl Question for api::Restart {
    const SHAPE: &str = r#"{"note": "text"} or nothing"#;
}

impl Question for api::Rollback {
    const SHAPE: &str = r#"{"release": "digest or its beginning", "note": "text"} or nothing"#;
}

impl Question for api::Scale {
    const SHAPE: &str = r#"{"workers": 4}"#;
}

/// Reads a question. No body is the same as `{}`.
pub(super) async fn question<Q: Question>(body: Body, patience: Duration) -> Result<Q, Refused> {
    let collected = tokio::time::timeout(patience, Limited::new(body, LARGEST).collect()).await;
    let whole = match collected {
        Err(_) => {
            let error = format!("the body did not come within {patience:?}: send it at once");
            return Err(Refused::usage(StatusCode::REQUEST_TIMEOUT, error));
        }
        Ok(Err(cause)) if cause.is::<LengthLimitError>() => {
            let error = format!("the body is larger than {LARGEST} bytes: expected {}", Q::SHAPE);
            return Err(Refused::usage(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
        Ok(Err(cause)) => {
            return Err(Refused::usage(StatusCode::BAD_REQUEST, format!("the body cannot be read: {cause}")));
        }
        Ok(Ok(body)) => body.to_bytes(),
    };
    let text: &[u8] = if whole.is_empty() { b"{}" } else { &whole };
    serde_json::from_slice(text).map_err(|cause| {
        Refused::usage(StatusCode::BAD_REQUEST, format!("the body is not understood: {cause}: expected {}", Q::SHAPE))
    })
}
