//! The command line: commands, options and their help.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{ArgAction, Args, Parser, Subcommand};
use layer_archive::{Ancestor, Seq, TenantId, TimelineId, UnixMillis};
use sync_engine::At;

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed or incomplete; what was left out is listed
    2  called wrongly
    3  damage found
    4  the tenant, timeline, layer or point in time is not in the store
    5  another writer has taken the timeline over, or holds it
    6  the store is missing, unreachable or refuses
  130, 143  interrupted: run it again";

/// Packed, checksummed remote storage for a Postgres pageserver.
///
/// Layers of a pageserver's work directory are packed into bundles, which any `tar --zstd -xf` extracts, and kept in a
/// store: a directory, or a bucket in S3 or in what speaks its protocol. Nothing in a store is overwritten, everything is verified when it is read.
#[derive(Debug, Parser)]
#[command(name = "layerpack", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Print one JSON object on stdout and nothing else (`cat`: on stderr)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Read defaults from a TOML file; options on the command line win
    ///
    /// Keys: remote, workdir, bundle_bytes_target (bytes), parts_in_flight (of a layer that is uploaded in parts),
    /// create_store (whether `backup` creates a store where there is none, true if not said), retention (how long `gc` keeps the past: 7d if not said). The table `s3` takes every
    /// option of an s3:// URL, requests_in_flight and retry_for; options in the URL win. No secrets.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Log more on stderr; twice for still more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// No progress and no warnings on stderr, only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put into the store what it does not have of a work directory
    ///
    /// Layers that are in the store with the same contents are left alone, so a second backup of the same directory
    /// writes nothing. A layer that is in the store with other contents is a conflict: it is reported, and nothing is
    /// done to either side. Creates the store where there is none.
    Backup(Backup),
    /// Put into a work directory what it does not have of the store
    ///
    /// Every layer is verified before it gets its name, and the timeline's metadata is written last. Nothing is
    /// overwritten: equal files are kept, different ones are conflicts.
    Restore(Restore),
    /// Say what is in the store, timeline by timeline
    Status(Status),
    /// List the layers of a timeline
    Ls(Ls),
    /// Say what is in one bundle or manifest, from a file or a store
    Inspect(Inspect),
    /// Fetch some layers into a work directory
    Fetch(Fetch),
    /// Write a layer, or a part of it, to stdout
    Cat(Cat),
    /// Remove layers from a timeline
    ///
    /// A commit that says so: the timeline can be restored to how it was before until `gc` has deleted the bytes. All of
    /// the layers are in the timeline, or nothing is removed.
    Rm(Rm),
    /// Delete what nobody needs any more, and pack what is half empty anew; a dry run without --execute
    ///
    /// Points in time stay restorable for the retention period, by the store's clock. On a timeline that is held by its
    /// writer it only deletes, and leaves repacking until that writer has left.
    Gc(Gc),
    /// Make a new timeline of a state of another one, or of all of a tenant
    ///
    /// Inside a store the store copies the bundles itself; to another store they stream through. A new timeline is there
    /// with its last request, and both go on independently. A branch is copied to where its ancestor is, which must have
    /// all that the branch needs. The timelines of a tenant go with their ancestors first; what an earlier run has copied
    /// is left as it is, and one that cannot be copied keeps its branches back and nothing else.
    Copy(Copy),
    /// Delete a timeline, for ever; a dry run without --execute
    ///
    /// A tombstone says so; its bytes go with `gc` after retention, and until then `restore --at` still finds its states.
    /// Refused while there are branches of it. Its id is never used again. A branch that never began, of which only its
    /// ancestor knows, is deleted too, so that the ancestor keeps no layers for it.
    Delete(Delete),
    /// Check that the store has what it should have
    ///
    /// Reads the manifests and compares them with the objects that are there; with --deep also reads and checks every
    /// byte of every bundle. With --repair what is damaged is stored anew, from what still reads and from the local files.
    Verify(Verify),
}

impl Command {
    /// For how long its requests are tried again, where it was said.
    pub(crate) fn retry_for(&self) -> Option<Duration> {
        match self {
            Self::Backup(backup) => backup.retry.retry_for,
            Self::Restore(restore) => restore.retry.retry_for,
            Self::Copy(_) | Self::Delete(_) => None,
            Self::Status(_)
            | Self::Ls(_)
            | Self::Inspect(_)
            | Self::Fetch(_)
            | Self::Cat(_)
            | Self::Rm(_)
            | Self::Gc(_)
            | Self::Verify(_) => None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RemoteArg {
    /// The store: file:///DIR or s3://BUCKET/PREFIX
    ///
    /// An s3:// URL takes options: s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=REGION; the others are profile,
    /// path_style, allow_http, storage_class, sse, sse_kms_key_id, tags, checksums, connect_timeout, progress_timeout,
    /// user_agent. Credentials come from the AWS environment variables, profile files or roles, never from the URL.
    // It is read later, with the options of the configuration file; and what is said of it must not repeat a secret.
    #[arg(long, value_name = "URL")]
    pub(crate) remote: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArg {
    /// For how long a request to the store is tried again, such as 90s or 1h; 5 minutes if not said
    ///
    /// A store that has never answered is given up after 10 seconds. Then it ends with 6 and can be run again.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) retry_for: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct WorkdirArg {
    /// The pageserver's work directory, the one that holds `tenants`
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
}

/// All timelines, those of one tenant, or one.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Only this tenant
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<TenantId>,
    /// Only this timeline of the tenant
    #[arg(long, value_name = "TIMELINE", requires = "tenant")]
    pub(crate) timeline: Option<TimelineId>,
}

#[derive(Debug, Args)]
pub(crate) struct OneTimeline {
    /// The tenant
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: TenantId,
    /// The timeline
    #[arg(long, value_name = "TIMELINE")]
    pub(crate) timeline: TimelineId,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    pub(crate) workdir: WorkdirArg,
    #[command(flatten)]
    pub(crate) remote: RemoteArg,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Also remove from the timelines what is gone from the work directory
    #[arg(long)]
    pub(crate) mirror: bool,
    /// Mirror even where that removes more than half of a timeline
    #[arg(long, requires = "mirror")]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) retry: RetryArg,
    /// Where the timeline was branched off, where it has no metadata file that says so
    #[arg(long, value_name = "TIMELINE@LSN", requires = "timeline", value_parser = ancestor)]
    pub(crate) ancestor: Option<Ancestor>,
    /// Say what would be done, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A timeline and an LSN on it, `<timeline>@X/Y`.
fn ancestor(text: &str) -> Result<Ancestor, String> {
    let (timeline, lsn) =
        text.split_once('@').ok_or("a timeline, @ and an LSN work, such as <timeline>@0/169C348")?;
    let timeline = timeline.parse().map_err(|error: layer_archive::InvalidId| error.to_string())?;
    let lsn = lsn.parse().map_err(|error: layer_archive::InvalidId| error.to_string())?;
    Ok(Ancestor { timeline, lsn })
}

const POINT: &str = "seq:N|lsn:X/Y|time:RFC3339";

/// A point in time.
fn point(text: &str) -> Result<At, String> {
    let (kind, value) = text.split_once(':').unwrap_or((text, ""));
    match kind {
        "seq" => value.parse().map(|seq| At::Seq(Seq(seq))).map_err(|error| format!("{value:?}: {error}")),
        "lsn" => value.parse().map(At::Lsn).map_err(|error: layer_archive::InvalidId| error.to_string()),
        "time" => {
            let since = time(value)?.duration_since(UNIX_EPOCH).map_err(|_| "before 1970".to_owned())?;
            let millis = u64::try_from(since.as_millis()).map_err(|error| error.to_string())?;
            Ok(At::Time(UnixMillis(millis)))
        }
        _ => Err("seq:12, lsn:0/169C348 and time:2026-11-27T06:15:00Z work".into()),
    }
}

/// A time by RFC 3339: in UTC, or with an offset as `+02:00`.
fn time(text: &str) -> Result<SystemTime, String> {
    let parse =
        |text: &str| humantime::parse_rfc3339_weak(text).map_err(|error| format!("{text:?}: {error}"));
    let split = text.len().checked_sub(6).and_then(|at| text.split_at_checked(at));
    let Some((local, offset)) = split.filter(|(_, offset)| offset.as_bytes().get(3) == Some(&b':')) else {
        return parse(text);
    };
    let number = |range| offset.get(range).and_then(|digits: &str| digits.parse::<u64>().ok());
    let behind = match (offset.as_bytes().first(), number(1..3), number(4..6)) {
        (Some(sign @ (b'+' | b'-')), Some(hours @ ..24), Some(minutes @ ..60)) => {
            (*sign == b'-', Duration::from_secs((hours * 60 + minutes) * 60))
        }
        _ => return parse(text),
    };
    let time = parse(local)?;
    let moved = if behind.0 { time.checked_add(behind.1) } else { time.checked_sub(behind.1) };
    moved.ok_or_else(|| format!("{text:?} is out of range"))
}

/// What is copied, or made: a whole tenant, or one timeline of it.
#[derive(Clone, Debug)]
pub(crate) enum CopySubject {
    Tenant(TenantId),
    Timeline(TenantId, TimelineId),
}

/// `<tenant>` or `<tenant>/<timeline>`.
fn copy_subject(text: &str) -> Result<CopySubject, String> {
    let invalid = |error: layer_archive::InvalidId| error.to_string();
    match text.split_once('/') {
        None => text.parse().map(CopySubject::Tenant).map_err(invalid),
        Some((tenant, timeline)) => {
            let tenant = tenant.parse().map_err(invalid)?;
            Ok(CopySubject::Timeline(tenant, timeline.parse().map_err(invalid)?))
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Copy {
    #[command(flatten)]
    pub(crate) remote: RemoteArg,
    /// The timeline to be copied, or a tenant
    #[arg(long, value_name = "TENANT[/TIMELINE]", value_parser = copy_subject)]
    pub(crate) from: CopySubject,
    /// The timeline to be made, or the tenant that a tenant's timelines go to, under their ids
    #[arg(long, value_name = "TENANT[/TIMELINE]", value_parser = copy_subject)]
    pub(crate) to: CopySubject,
    /// The state to be copied; the newest if not said. A record (seq) is one timeline's
    #[arg(long, value_name = POINT, value_parser = point)]
    pub(crate) at: Option<At>,
    /// The store of the timeline to be made, which must exist; the same store if not said
    #[arg(long, value_name = "URL")]
    pub(crate) to_remote: Option<String>,
    #[command(flatten)]
    pub(crate) take_over: TakeOverArg,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) remote: RemoteArg,
    #[command(flatten)]
    pub(crate) which: OneTimeline,
    /// Do it
    #[arg(long)]
    pub(crate) execute: bool,
    #[command(flatten)]
    pub(crate) take_over: TakeOverArg,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) workdir: WorkdirArg,
    #[command(flatten)]
    pub(crate) remote: RemoteArg,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// As of a record (needs --timeline), an LSN or a time, into an empty directory; `backup` refuses that directory
    #[arg(long, value_name = POINT, value_parser = point)]
    pub(crate) at: Option<At>,
    #[command(flatten)]
    pub(crate) retry: RetryArg,
    /// Say what would be done, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) remote: RemoteArg,
    /// Also compare, by name, with the layers of this work directory
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) selection: Selection,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    pub(crate) remote: RemoteArg,
    #[command(flatten)]
    pub(crate) which: OneTimeline,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A file, or the URL of an object: the store's URL, `/`, the object's key, and the options of an s3:// URL
    #[arg(value_name = "FILE-OR-URL")]
    pub(crate) subject: String,
    /// Also read every byte and check every checksum
    #[arg(long)]
    pub(crate) check: bool,
    /// Draw the bundle's frames and layers
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Fetch {
    #[command(flatten)]
    pub(crate) workdir: WorkdirArg,
    #[command(flatten)]
    pub(crate) remote: RemoteArg,
    #[command(flatten)]
    pub(crate) which: OneTimeline,
    /// The layers, by their names in the work directory
    #[arg(value_name = "LAYER", required = true)]
    pub(crate) layers: Vec<layer_archive::LayerName>,
}

#[derive(Debug, Args)]
pub(crate) struct Cat {
    #[command(flatten)]
    pub(crate) remote: RemoteArg,
    #[command(flatten)]
    pub(crate) which: OneTimeline,
    /// The layer, by its name in the work directory
    #[arg(value_name = "LAYER")]
    pub(crate) layer: layer_archive::LayerName,
    /// Where to begin, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) offset: u64,
    /// How many bytes to write; all to the end if not said
    #[arg(long, value_name = "BYTES")]
    pub(crate) length: Option<u64>,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TakeOverArg {
    /// Write although the timeline is not released; its writer is fenced if it still runs
    #[arg(long)]
    pub(crate) take_over: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    pub(crate) remote: RemoteArg,
    #[command(flatten)]
    pub(crate) which: OneTimeline,
    /// The layers, by their names in the work directory
    #[arg(value_name = "LAYER", required_unless_present = "from_file", conflicts_with = "from_file")]
    pub(crate) layers: Vec<layer_archive::LayerName>,
    /// A file with the layers' names, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) from_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) take_over: TakeOverArg,
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    #[command(flatten)]
    pub(crate) remote: RemoteArg,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// How long the past stays restorable: 7d, 12h, or 0s for the newest point alone [default: 7d]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    pub(crate) retention: Option<Duration>,
    /// Do it
    #[arg(long)]
    pub(crate) execute: bool,
    #[command(flatten)]
    pub(crate) take_over: TakeOverArg,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) remote: RemoteArg,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Read and check every byte of every bundle
    #[arg(long)]
    pub(crate) deep: bool,
    /// Compare the checksums that the store keeps, where it keeps them, without reading the bundles
    #[arg(long, conflicts_with = "deep")]
    pub(crate) stored: bool,
    /// Also compare the layers of this work directory with the store, by their contents
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// Store anew what is damaged, from what still reads and from the work directory
    #[arg(long)]
    pub(crate) repair: bool,
    #[command(flatten)]
    pub(crate) take_over: TakeOverArg,
}
