//! Images like a fresh cluster's, without PostgreSQL: the same number and sizes of files, as compressible, as repeated.
//!
//! The numbers are those of `initdb` of PostgreSQL 15.18: three databases of identical files, and shared relations.

use std::io::{self, Write};

use anyhow::Result;

use super::Made;
use super::pages::{PAGE_BYTES, Page, PageMaker, Texture};
use super::random::Random;
use super::relish::{BASE_TABLESPACE, Fork, GLOBAL_TABLESPACE, Relation, Relish};
use super::timeline::TimelineWriter;

/// The checkpoint of a fresh PostgreSQL 15.
const LSN: u64 = 0x0150_0708;
/// Where the pages' LSNs start.
const FIRST_LSN: u64 = 0x0100_0000;
/// The oids of `template1`, `template0` and `postgres`.
const DATABASES: [u32; 3] = [1, 4, 5];
/// The first file node, and the most that is added from one to the next.
const FIRST_NODE: u32 = 1213;
const NODE_STEP_MAX: u32 = 20;

/// Relations that are alike.
#[derive(Clone, Copy, Debug)]
struct Shape {
    relations: u32,
    pages: u32,
    kind: Kind,
}

/// What the pages of a relation are.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A table: it has a free space map and a visibility map.
    Table(Texture),
    /// A table or an index without any page.
    Empty,
    /// An index: its first page is the meta page.
    Index(Texture),
}

const fn empty(relations: u32) -> Shape {
    Shape { relations, pages: 0, kind: Kind::Empty }
}

const fn index(relations: u32, pages: u32, fill_percent: usize, noise_bytes: usize) -> Shape {
    Shape { relations, pages, kind: Kind::Index(Texture { fill_percent, noise_bytes }) }
}

const fn table(relations: u32, pages: u32, fill_percent: usize, noise_bytes: usize) -> Shape {
    Shape { relations, pages, kind: Kind::Table(Texture { fill_percent, noise_bytes }) }
}

/// Shared relations: number, pages, fill and noise of each group.
const SHARED: [Shape; 4] = [empty(15), index(19, 1, 0, 0), table(5, 1, 3, 0), index(9, 2, 3, 0)];

/// A database's relations. Fill and noise are chosen so that a group compresses as PostgreSQL's files of its size do.
const DATABASE: [Shape; 22] = [
    empty(51),
    index(75, 1, 0, 0),
    table(8, 1, 60, 20),
    index(27, 2, 5, 0),
    index(20, 2, 70, 3),
    table(5, 3, 90, 20),
    index(5, 4, 60, 0),
    table(7, 5, 90, 2),
    index(4, 6, 70, 0),
    table(1, 7, 90, 6),
    table(2, 8, 90, 12),
    table(1, 10, 90, 4),
    table(2, 11, 90, 8),
    table(5, 14, 90, 8),
    index(2, 15, 90, 0),
    table(1, 19, 95, 60),
    table(1, 28, 90, 4),
    table(1, 31, 90, 12),
    table(1, 44, 90, 20),
    index(1, 56, 45, 0),
    table(1, 64, 95, 200),
    table(1, 96, 90, 6),
];

/// Writes the layers.
pub(super) fn fill(writer: &mut TimelineWriter, seed: u64) -> Result<Made> {
    writer.report("making files like those of a fresh cluster");
    let nodes = &mut Random::for_stream(seed, 0);
    let shared = relations(&SHARED, nodes);
    let database = relations(&DATABASE, nodes);
    add_all(writer, seed, GLOBAL_TABLESPACE, 0, &shared)?;
    for oid in DATABASES {
        add_all(writer, seed, BASE_TABLESPACE, oid, &database)?;
    }
    add_other_files(writer, seed)?;
    Ok(Made { source: "synthetic", postgres_version: None, lsn: LSN })
}

/// A file node for each relation. The same relation has the same node, and so the same bytes, in every database.
fn relations(shapes: &[Shape], random: &mut Random) -> Vec<(u32, Shape)> {
    let mut node = FIRST_NODE;
    let mut relations = Vec::new();
    for shape in shapes {
        for _ in 0..shape.relations {
            node += 1 + random.below(NODE_STEP_MAX);
            relations.push((node, *shape));
        }
    }
    relations
}

fn add_all(
    writer: &mut TimelineWriter,
    seed: u64,
    tablespace: u32,
    database: u32,
    relations: &[(u32, Shape)],
) -> Result<()> {
    for (node, shape) in relations {
        let relation = |fork| Relation { tablespace, database, node: *node, fork };
        let stream = u64::from(tablespace) << 32 | u64::from(*node);
        let pages = &mut PageMaker::new(Random::for_stream(seed, stream), FIRST_LSN);
        add_pages(writer, relation(Fork::Main), |file| write_main(file, pages, *shape))?;
        if let Kind::Table(_) = shape.kind {
            let [root, middle, leaf] = [pages.free_space(), pages.free_space(), pages.free_space()];
            add_pages(writer, relation(Fork::FreeSpace), |file| {
                [root, middle, leaf].iter().try_for_each(|page| file.write_all(page))
            })?;
            add_pages(writer, relation(Fork::Visibility), |file| file.write_all(&pages.visibility()))?;
        }
    }
    Ok(())
}

fn add_pages(
    writer: &mut TimelineWriter,
    relation: Relation,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    writer.add_with(&Relish::Segment(relation, 0).image_name(LSN), write)
}

fn write_main(file: &mut dyn Write, pages: &mut PageMaker, shape: Shape) -> io::Result<()> {
    for block in 0..shape.pages {
        let page: Page = match shape.kind {
            Kind::Empty => break,
            Kind::Table(texture) => pages.heap(texture),
            Kind::Index(_) if block == 0 => pages.index_meta(),
            Kind::Index(texture) => pages.index_leaf(texture),
        };
        file.write_all(&page)?;
    }
    Ok(())
}

/// The files that are not relations: mostly zeros.
fn add_other_files(writer: &mut TimelineWriter, seed: u64) -> Result<()> {
    const FILE_NODE_MAP_BYTES: usize = 512;
    const CHECKPOINT_BYTES: usize = 88;
    let maps = DATABASES.map(|database| (BASE_TABLESPACE, database));
    let files = [(GLOBAL_TABLESPACE, 0)].into_iter().chain(maps).map(|(tablespace, database)| {
        (Relish::FileNodeMap { tablespace, database }, FILE_NODE_MAP_BYTES, u64::from(tablespace), 200)
    });
    let files = files.chain([
        (Relish::TransactionStatus, PAGE_BYTES, 1, 200),
        (Relish::MultixactOffsets, PAGE_BYTES, 2, 0),
        (Relish::MultixactMembers, PAGE_BYTES, 2, 0),
        (Relish::Control, PAGE_BYTES, 3, 296),
        (Relish::ControlCheckpoint, CHECKPOINT_BYTES, 4, 40),
    ]);
    for (relish, bytes, stream, random_bytes) in files {
        let mut content = vec![0; bytes];
        Random::for_stream(seed, stream).fill(&mut content[..random_bytes]);
        writer.add(&relish.image_name(LSN), &mut content.as_slice())?;
    }
    Ok(())
}
