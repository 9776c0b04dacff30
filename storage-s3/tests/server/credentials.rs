//! Where credentials come from, and that their absence is told soon. The environment of a process is what this is
//! about, so each test starts itself once more in one of its own.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::Duration;

use layerpack_tests::{READ_WRITE, S3Server};
use storage_api::{ErrorKind, Operation, StorageError};
use storage_s3::{S3Config, S3Store};
use url::Url;

use crate::{attempt, cause};

/// Names the URL that the started process uses.
const URL: &str = "LAYERPACK_TEST_CREDENTIALS_URL";

/// Runs the test `name` in a process that has nothing in its environment but `variables` and `url`.
fn start(name: &str, url: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("credentials::{name}"), "--nocapture"]).env_clear().env(URL, url);
    command.envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")]);
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What becomes of a list, with what the environment says.
async fn list(url: &str) -> Result<(), StorageError> {
    let config = S3Config::from_url(&Url::parse(url).unwrap()).unwrap();
    attempt(&S3Store::connect(config).await.unwrap(), Operation::List).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credentials_are_told_soon() {
    let Ok(url) = std::env::var(URL) else {
        let server = S3Server::start();
        // An instance's metadata service that accepts connections and never answers.
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        let url = server.url("p");
        start("no_credentials_are_told_soon", &url, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)]);
        return start("no_credentials_are_told_soon", &url, &[("AWS_EC2_METADATA_DISABLED", "true")]);
    };
    let listed = tokio::time::timeout(Duration::from_secs(10), list(&url)).await;
    let error = listed.expect("no answer within ten seconds").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    let text = cause(&error);
    assert!(text.contains("no credentials") && text.contains("AWS_ACCESS_KEY_ID"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_and_the_profile_are_asked() {
    let Ok(url) = std::env::var(URL) else {
        let server = S3Server::start();
        let name = "the_environment_and_the_profile_are_asked";
        let keys = [("AWS_ACCESS_KEY_ID", READ_WRITE.id), ("AWS_SECRET_ACCESS_KEY", READ_WRITE.secret)];
        start(name, &server.url("p"), &keys);
        // Region, endpoint and credentials of a profile that the URL names.
        let file = tempfile::NamedTempFile::new().unwrap();
        let profile = format!(
            "[profile work]\naws_access_key_id = {}\naws_secret_access_key = {}\nregion = us-east-1\nendpoint_url = {}\n",
            READ_WRITE.id,
            READ_WRITE.secret,
            server.endpoint()
        );
        std::io::Write::write_all(&mut file.as_file(), profile.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap();
        return start(name, "s3://layerpack/p?profile=work", &[("AWS_CONFIG_FILE", path)]);
    };
    list(&url).await.unwrap();
}
