//! An object store in S3, or in what speaks its protocol.
//!
//! [`S3Store`] is the whole [`ObjectStore`](storage_api::ObjectStore) contract on the AWS SDK, one request a call and
//! nothing retried: that is the decorators' work. Where a server is known to differ from S3, the place that handles it
//! says which server, and where that is written.

mod answer;
mod checksum;
mod config;
mod connect;
mod copy;
mod delete;
mod fault;
mod list;
mod read;
mod store;
mod uploads;
mod within;

pub use config::{
    Addressing, Checksums, Encryption, InvalidS3Url, PlainHttp, S3Config, StaticCredentials, UnknownOption,
};
pub use store::S3Store;
