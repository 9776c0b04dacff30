//! What every answer is checked for before the SDK takes it apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeDeserializationInterceptorContextRef,
    BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use http_body_util::Limited;

/// An answer that is read as a whole, a list or an error, is not read beyond this: a list of 1,000 keys of 1 KiB has less than
/// a tenth of it. The SDK would take whatever comes into memory.
const ANSWER_BYTES_MAX: usize = 16 << 20;

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

/// Whether a request asks for the bytes of an object, which are streamed.
#[derive(Debug)]
struct AsksForObject(bool);

impl Storable for AsksForObject {
    type Storer = StoreReplace<Self>;
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

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request();
        let query = request.uri().split_once('?').map_or("", |(_, query)| query);
        let lists = |pair: &str| matches!(pair.split('=').next(), Some("list-type" | "uploads"));
        let asks = request.method() == "GET" && !query.split('&').any(lists);
        config.interceptor_state().store_put(AsksForObject(asks));
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let is_object = config.load::<AsksForObject>().is_some_and(|asks| asks.0);
        // The bytes of an object are streamed, and bounded by whoever reads them.
        if !(is_object && context.response().status().is_success()) {
            let body = std::mem::replace(context.response_mut().body_mut(), SdkBody::taken());
            let limited = SdkBody::from_body_1_x(Limited::new(body, ANSWER_BYTES_MAX));
            *context.response_mut().body_mut() = limited;
        }
        Ok(())
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
