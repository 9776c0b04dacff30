//! What every answer is checked for before the SDK takes it apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

/// Why an answer is not taken for one of S3.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAnAnswer {
    /// A web page: of a proxy, of a portal, of a web server in the place of the store.
    #[error("a web page")]
    Page {
        /// Its status.
        status: u16,
    },
    /// A status and headers that contradict each other.
    #[error("an answer of which status and range do not fit")]
    Range,
}

/// Refuses what S3 never answers, before it is mistaken for an object or for a success, and looks out for servers that
/// list in an order of their own.
#[derive(Debug)]
pub(crate) struct AnswerCheck {
    pub(crate) lists_by_directory: Arc<AtomicBool>,
}

impl Intercept for AnswerCheck {
    fn name(&self) -> &'static str {
        "AnswerCheck"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        let (status, headers) = (response.status().as_u16(), response.headers());
        // https://github.com/seaweedfs/seaweedfs, weed/s3api: every answer has it.
        if headers.get("server").is_some_and(|server| server.contains("SeaweedFS")) {
            self.lists_by_directory.store(true, Ordering::Relaxed);
        }
        let kind = headers.get("content-type").unwrap_or_default();
        if kind.trim_start().get(..9).is_some_and(|kind| kind.eq_ignore_ascii_case("text/html")) {
            return Err(NotAnAnswer::Page { status }.into());
        }
        if (200..300).contains(&status) && (status == 206) != headers.contains_key("content-range") {
            return Err(NotAnAnswer::Range.into());
        }
        Ok(())
    }
}
