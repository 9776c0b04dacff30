//! The command line of the task runner: `cargo xtask <command>`.
#![expect(clippy::print_stdout, reason = "a command-line program")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use xtask::image::{self, DEFAULT_SIZE_SCALE, ImageOptions, Installation, NameList, Source};
use xtask::repository::Repository;
use xtask::{bench, ci, demo, prove, servers, tidy};

/// Layerpack's task runner.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make a benchmark image: a pageserver work directory with layer files.
    Image(ImageArguments),
    /// Back a new database up into a store, wipe it, restore it, compare every byte, and print what it took.
    Demo(DemoArguments),
    /// Check what the compiler does not: layering, file sizes, headers, paths.
    Tidy {
        /// Record files that have shrunk in the size ratchet.
        #[arg(long)]
        bless: bool,
    },
    /// Measure backup and restore of an image on S3 beside one object per layer with 100 requests in flight.
    Bench(bench::BenchArguments),
    /// Install and start S3 servers of other people's making, and run the suites on them or on any endpoint.
    #[command(name = "s3-servers", subcommand)]
    Servers(servers::Task),
    /// Run every step of continuous integration.
    Ci,
    /// Run what takes longer than continuous integration may: proofs at larger bounds, with their times.
    Prove {
        /// The proofs to run [default: all].
        names: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct DemoArguments {
    /// Keep the image, and the stores where they are local, in this directory, which must be absent or empty.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// What to make the image of [default: postgres where it is found, else synthetic].
    #[arg(long, value_enum)]
    source: Option<DemoSource>,
    /// Where to store, file:///DIR or s3://BUCKET/PREFIX?...; what is stored stays there, below a fresh prefix
    /// [default: a temporary directory].
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DemoSource {
    /// The files of a fresh cluster of this machine's PostgreSQL.
    Postgres,
    /// Files like those, made from a seed.
    Synthetic,
}

#[derive(Debug, clap::Args)]
struct ImageArguments {
    /// Directory to make the image in; must be absent or empty.
    dir: PathBuf,
    /// With `--source names`: a file with a layer name on each line.
    names: Option<PathBuf>,
    /// What to make the image of [default: postgres where it is found, else synthetic].
    #[arg(long, value_enum)]
    source: Option<SourceKind>,
    /// Equal seeds make equal images, but for the contents of real clusters.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// With `--source postgres`: fill the cluster with `pgbench -i` at this scale.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pgbench_scale: Option<u32>,
    /// With `--source names`: factor on the sizes of the fleet's layers [default: 0.001].
    #[arg(long, value_name = "F")]
    scale: Option<f64>,
    /// With `--source names`, instead of a file: make up N names.
    #[arg(long, value_name = "N", conflicts_with = "names")]
    layers: Option<u32>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SourceKind {
    /// The files of a fresh cluster of this machine's PostgreSQL.
    Postgres,
    /// Files like those, made from the seed.
    Synthetic,
    /// A list of layer names.
    Names,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            report(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Task::Image(arguments) => make_image(arguments),
        Task::Demo(arguments) => run_demo(arguments),
        Task::Tidy { bless } => {
            let repository = Repository::here();
            if bless {
                tidy::bless(&repository)?;
            }
            let violations = tidy::check(&repository)?;
            for violation in &violations {
                println!("{violation}");
            }
            println!("tidy: {} violations", violations.len());
            Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Task::Bench(arguments) => {
            bench::run_command(&Repository::here(), arguments, report)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Servers(task) => {
            servers::run(&Repository::here(), task, report)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Ci => {
            ci::run(&Repository::here())?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Prove { names } => {
            prove::run(&Repository::here(), &names, report)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run_demo(DemoArguments { keep, source, remote }: DemoArguments) -> Result<ExitCode> {
    let source = match source {
        Some(DemoSource::Postgres) => Source::Postgres { pgbench_scale: None },
        Some(DemoSource::Synthetic) => Source::Synthetic,
        None if Installation::find().is_ok() => Source::Postgres { pgbench_scale: None },
        None => Source::Synthetic,
    };
    let remote = remote.map(|text| text.parse()).transpose()?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let dir = match keep {
        Some(dir) => std::path::absolute(dir)?,
        None => scratch.path().to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let demo = runtime.block_on(demo::run(&dir, source, remote.as_ref(), report))?;
    println!("{demo}");
    Ok(ExitCode::SUCCESS)
}

fn make_image(arguments: ImageArguments) -> Result<ExitCode> {
    let options = ImageOptions { source: source(&arguments)?, seed: arguments.seed, progress: report };
    let summary = image::create(&options, &arguments.dir)?;
    if arguments.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("{} layers, {} bytes in {}", summary.layers, summary.bytes, summary.timeline_dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The source that the arguments ask for; those that belong to another source are an error.
fn source(arguments: &ImageArguments) -> Result<Source> {
    let kind = arguments.source.unwrap_or_else(|| match Installation::find() {
        Ok(_) => SourceKind::Postgres,
        Err(_) => SourceKind::Synthetic,
    });
    if kind != SourceKind::Postgres && arguments.pgbench_scale.is_some() {
        bail!("--pgbench-scale needs PostgreSQL: use it with --source postgres");
    }
    let for_names = arguments.names.is_some() || arguments.layers.is_some() || arguments.scale.is_some();
    if kind != SourceKind::Names && for_names {
        bail!("a list of names, --layers and --scale go with --source names");
    }
    Ok(match kind {
        SourceKind::Postgres => Source::Postgres { pgbench_scale: arguments.pgbench_scale },
        SourceKind::Synthetic => Source::Synthetic,
        SourceKind::Names => {
            let list = match (&arguments.names, arguments.layers) {
                (Some(path), _) => NameList::File(path.clone()),
                (None, Some(layers)) => NameList::Generated(layers),
                (None, None) => {
                    bail!("--source names needs a file of names after the directory, or --layers N")
                }
            };
            Source::Names { list, scale: arguments.scale.unwrap_or(DEFAULT_SIZE_SCALE) }
        }
    })
}

#[expect(clippy::print_stderr, reason = "progress and errors stay out of what --json prints")]
fn report(line: &str) {
    eprintln!("{line}");
}
