//! Which files of a cluster belong to relations, and which relation each belongs to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::relish::{BASE_TABLESPACE, Fork, GLOBAL_TABLESPACE, Relation};

/// The files of each relation, in order of their number: PostgreSQL cuts relations at 1 GiB.
pub(super) type RelationFiles = BTreeMap<Relation, BTreeMap<u32, PathBuf>>;

/// The relation files under `global/` and every `base/<database>/` of the cluster in `data`.
pub(super) fn relation_files(data: &Path) -> Result<RelationFiles> {
    let mut relations = RelationFiles::new();
    collect(&data.join("global"), GLOBAL_TABLESPACE, 0, &mut relations)?;
    for database in databases(data)? {
        collect(&data.join("base").join(database.to_string()), BASE_TABLESPACE, database, &mut relations)?;
    }
    Ok(relations)
}

/// The oids of the databases, in order.
pub(super) fn databases(data: &Path) -> Result<Vec<u32>> {
    let mut oids: Vec<u32> =
        entries(&data.join("base"))?.iter().filter_map(|name| name.parse().ok()).collect();
    oids.sort_unstable();
    Ok(oids)
}

fn collect(dir: &Path, tablespace: u32, database: u32, relations: &mut RelationFiles) -> Result<()> {
    for name in entries(dir)? {
        if let Some((node, fork, number)) = parse_relation_file(&name) {
            let relation = Relation { tablespace, database, node, fork };
            relations.entry(relation).or_default().insert(number, dir.join(name));
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    };
    list().with_context(|| format!("listing the cluster's directory {}", dir.display()))
}

/// Node, fork and file number of `<digits>[_fsm|_vm|_init][.<digits>]`; nothing else is a relation's file.
fn parse_relation_file(name: &str) -> Option<(u32, Fork, u32)> {
    let (stem, number) = match name.split_once('.') {
        Some((stem, number)) => (stem, parse_digits(number)?),
        None => (name, 0),
    };
    let (node, fork) = match stem.split_once('_') {
        None => (stem, Fork::Main),
        Some((node, "fsm")) => (node, Fork::FreeSpace),
        Some((node, "vm")) => (node, Fork::Visibility),
        Some((node, "init")) => (node, Fork::Init),
        Some(_) => return None,
    };
    Some((parse_digits(node)?, fork, number))
}

/// A decimal number without the sign that `str::parse` would take.
fn parse_digits(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Reads files one after the other, opening each when its turn comes.
#[derive(Debug)]
pub(super) struct FileChain<I> {
    paths: I,
    current: Option<File>,
}

impl<I: Iterator<Item = PathBuf>> FileChain<I> {
    /// A reader of the files at `paths`.
    pub(super) fn new(paths: I) -> Self {
        Self { paths, current: None }
    }
}

impl<I: Iterator<Item = PathBuf>> Read for FileChain<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.current {
                let read = file.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            match self.paths.next() {
                Some(path) => self.current = Some(File::open(path)?),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relation_files_are_taken() {
        assert_eq!(parse_relation_file("1259"), Some((1259, Fork::Main, 0)));
        assert_eq!(parse_relation_file("1259_fsm"), Some((1259, Fork::FreeSpace, 0)));
        assert_eq!(parse_relation_file("16384_vm.2"), Some((16384, Fork::Visibility, 2)));
        assert_eq!(parse_relation_file("16384_init"), Some((16384, Fork::Init, 0)));
        for other in [
            "PG_VERSION",
            "pg_filenode.map",
            "pg_internal.init",
            "t3_16390",
            "12_tmp",
            "",
            "+5",
            "5.",
            "5.x",
            "_fsm",
        ] {
            assert_eq!(parse_relation_file(other), None, "{other}");
        }
    }

    #[test]
    fn a_chain_reads_every_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = ["a", "", "bc"]
            .iter()
            .enumerate()
            .map(|(number, text)| {
                let path = dir.path().join(number.to_string());
                io::Write::write_all(&mut File::create(&path).unwrap(), text.as_bytes()).unwrap();
                path
            })
            .collect();
        let mut all = String::new();
        FileChain::new(paths.into_iter()).read_to_string(&mut all).unwrap();
        assert_eq!(all, "abc");
    }
}
