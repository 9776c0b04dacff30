//! From a configuration to a client. Nothing is asked of the store here.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    AppName, Builder, Credentials, IdentityCache, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls;
use aws_types::service_config::ServiceConfigKey;
use storage_api::{ErrorKind, Operation, StorageError};
use url::Url;

use crate::answer::AnswerCheck;
use crate::config::S3Config;
use crate::fault::{BACKEND, Place};
use crate::store::S3Store;

/// The region of requests where none is configured; servers other than AWS's mostly do not care, and AWS's answer to
/// a wrong one names the right one.
const REGION_DEFAULT: &str = "us-east-1";
/// For how long the metadata service of an instance may take to be reached. Elsewhere than on AWS nobody answers there.
const IMDS_TIMEOUT: Duration = Duration::from_secs(1);
/// For how long credentials may take to be found in all.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

impl S3Store {
    /// The store that `config` names. Credentials are looked up with the first request, and again when they expire.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) where the configuration cannot be used. Whether there is such a store is seen
    /// by the first request.
    pub async fn connect(mut config: S3Config) -> Result<Self, StorageError> {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let region = region(&config).await;
        let sdk = sdk_config(&config, &http, &region).await;
        if config.endpoint.is_none() {
            config.endpoint = configured_endpoint(&sdk).map_err(|wrong| invalid(&config, wrong))?;
        }
        config.check_endpoint().map_err(|wrong| invalid(&config, wrong))?;
        let lists_by_directory = Arc::new(AtomicBool::new(false));
        let mut builder = Builder::from(&sdk)
            .region(region.clone())
            .force_path_style(config.is_path_style())
            // All of these are the business of the decorators, of `within`, and of this crate's own checksums.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(config.connect_timeout).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .interceptor(AnswerCheck { lists_by_directory: Arc::clone(&lists_by_directory) });
        if let Some(endpoint) = &config.endpoint {
            // The SDK joins paths to it.
            builder = builder.endpoint_url(endpoint.as_str().trim_end_matches('/'));
        }
        if !config.user_agent.is_empty() {
            let name = AppName::new(config.user_agent.clone());
            let wrong = "user_agent may have letters, digits and !#$%&'*+-.^_`|~ only";
            builder = builder.app_name(name.map_err(|_| invalid(&config, wrong.to_owned()))?);
        }
        let place = Place { bucket: config.bucket.clone(), at: config.place(), region: region.to_string() };
        Ok(Self::new(Client::from_conf(builder.build()), config, place, lists_by_directory))
    }
}

fn invalid(config: &S3Config, wrong: String) -> StorageError {
    StorageError::new(ErrorKind::Invalid, Operation::Open, format!("s3://{}", config.bucket), BACKEND)
        .with_source(wrong)
}

/// The configured region, the environment's or the profile's. The instance's is not asked for: that is a request to a
/// service that is mostly not there.
async fn region(config: &S3Config) -> Region {
    if let Some(region) = &config.region {
        return Region::new(region.clone());
    }
    if let Some(region) = EnvironmentVariableRegionProvider::new().region().await {
        return region;
    }
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &config.profile {
        profile = profile.profile_name(name);
    }
    profile.build().region().await.unwrap_or_else(|| Region::from_static(REGION_DEFAULT))
}

/// What the environment and the profile files say, with the credentials that they lead to.
async fn sdk_config(config: &S3Config, http: &SharedHttpClient, region: &Region) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http.clone())
        .region(region.clone())
        .identity_cache(IdentityCache::lazy().load_timeout(CREDENTIALS_TIMEOUT).build())
        .credentials_provider(credentials(config, http, region).await);
    if let Some(name) = &config.profile {
        loader = loader.profile_name(name);
    }
    loader.load().await
}

async fn credentials(
    config: &S3Config,
    http: &SharedHttpClient,
    region: &Region,
) -> SharedCredentialsProvider {
    if let Some(given) = &config.credentials {
        let (id, secret) = (given.access_key_id.as_str(), given.secret_access_key.as_str());
        return SharedCredentialsProvider::new(Credentials::new(
            id,
            secret,
            given.session_token.clone(),
            None,
            "layerpack",
        ));
    }
    let provider = ProviderConfig::default().with_http_client(http.clone()).with_region(Some(region.clone()));
    let instance = imds::Client::builder()
        .configure(&provider)
        .max_attempts(1)
        .connect_timeout(IMDS_TIMEOUT)
        .read_timeout(IMDS_TIMEOUT)
        .build();
    let mut chain =
        DefaultCredentialsChain::builder().configure(provider).region(region.clone()).imds_client(instance);
    if let Some(name) = &config.profile {
        chain = chain.profile_name(name);
    }
    SharedCredentialsProvider::new(chain.build().await)
}

/// The endpoint that the environment or the profile names, that of S3 before that of all services.
fn configured_endpoint(sdk: &SdkConfig) -> Result<Option<Url>, String> {
    let key = ServiceConfigKey::builder().service_id("s3").env("AWS_ENDPOINT_URL").profile("endpoint_url");
    let of_s3 = key.build().ok().and_then(|key| sdk.service_config()?.load_config(key));
    let Some(text) = of_s3.or_else(|| sdk.endpoint_url().map(str::to_owned)) else { return Ok(None) };
    let url = Url::parse(&text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
    });
    url.map(Some).ok_or_else(|| {
        "the endpoint of AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile's endpoint_url is not http://host:port \
         or https://host"
            .to_owned()
    })
}
