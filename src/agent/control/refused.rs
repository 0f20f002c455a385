//! "No" as an HTTP answer.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::wire::api::Refusal;

/// The exit codes of the command line that a refusal may name.
const UNCHANGED: u8 = 1;
const USAGE: u8 = 2;
const BUSY: u8 = 5;
const NO_AGENT: u8 = 6;

/// A refusal with its HTTP status.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    refusal: Refusal,
}

impl Refused {
    /// The question makes no sense.
    pub(super) fn usage(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, refusal: Refusal { error: error.into(), exit: USAGE } }
    }

    /// The agent has too much to do.
    pub(super) fn busy(error: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, refusal: Refusal { error: error.into(), exit: BUSY } }
    }

    /// The loop is gone.
    pub(super) fn leaving() -> Self {
        let error = "the agent is stopping: nothing new can be asked of it".to_owned();
        Self { status: StatusCode::SERVICE_UNAVAILABLE, refusal: Refusal { error, exit: NO_AGENT } }
    }
}

impl From<Refusal> for Refused {
    /// What the loop refused.
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.exit {
            USAGE => StatusCode::BAD_REQUEST,
            BUSY => StatusCode::CONFLICT,
            NO_AGENT => StatusCode::SERVICE_UNAVAILABLE,
            UNCHANGED => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, refusal }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(self.refusal)).into_response()
    }
}
