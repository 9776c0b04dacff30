//! Waiting until a server takes objects.

use std::time::Duration;

use anyhow::{Result, anyhow};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use layerpack_tests::{BUCKET, READ_WRITE, REGION};
use storage_api::{Clock, SystemClock};

use super::process::Process;

/// SeaweedFS takes 3 seconds where nothing else runs.
const READY_TIME_MAX: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(100);
/// A server that has just come up may accept a connection and forget it.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(5);

/// Waits until the bucket at `endpoint` exists and takes an object; creates it.
///
/// # Errors
/// When one of `processes`, which are the server, ends, or when it takes too long.
pub(super) async fn wait(endpoint: &str, processes: &mut [Process]) -> Result<()> {
    let client = client(endpoint);
    let started = crate::timer();
    loop {
        for process in &mut *processes {
            process.require_running()?;
        }
        let error = match probe(&client).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if started.elapsed() > READY_TIME_MAX {
            let logs: Vec<String> = processes.iter().map(Process::log_tail).collect();
            let seconds = READY_TIME_MAX.as_secs();
            return Err(anyhow!(
                "{endpoint} took no object within {seconds} s ({error}); {}",
                logs.join("\n")
            ));
        }
        SystemClock.sleep(PAUSE).await;
    }
}

fn client(endpoint: &str) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(endpoint)
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(READ_WRITE.id, READ_WRITE.secret, None, None, "xtask"))
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_timeout(ATTEMPT_TIME_MAX).build());
    Client::from_conf(config.build())
}

/// Creates the bucket where it is not there, and an object in it.
async fn probe(client: &Client) -> Result<(), String> {
    if let Err(error) = client.create_bucket().bucket(BUCKET).send().await
        && !matches!(error.code(), Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists"))
    {
        return Err(DisplayErrorContext(error).to_string());
    }
    let object = client.put_object().bucket(BUCKET).key("ready").body(b"ready".to_vec().into());
    object.send().await.map_err(|error| DisplayErrorContext(error).to_string())?;
    let delete = client.delete_object().bucket(BUCKET).key("ready").send().await;
    delete.map(drop).map_err(|error| DisplayErrorContext(error).to_string())
}
