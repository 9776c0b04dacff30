//! Images from a list of layer names: sizes as a fleet of pageservers has them, contents to match the kind of layer.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::Made;
use super::content::LayerKind;
use super::random::Random;
use super::timeline::TimelineWriter;

mod history;
mod sizes;

/// Where layer names come from.
#[derive(Clone, Debug)]
pub enum NameList {
    /// A text file with a name on each line; lines that are empty or start with `#` are skipped.
    File(PathBuf),
    /// This many names of a made-up history of a timeline.
    Generated(u32),
}

/// The longest name a file system takes, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Streams of the seed: the list, then one for each layer.
const HISTORY_STREAM: u64 = 0;

/// The names of the first `count` layers of the made-up history that `seed` decides.
pub fn generated_names(count: u32, seed: u64) -> Vec<String> {
    let mut history = history::History::new(Random::for_stream(seed, HISTORY_STREAM));
    (0..count).map(|_| history.next_name()).collect()
}

/// Writes the layers.
pub(super) fn fill(writer: &mut TimelineWriter, list: &NameList, scale: f64, seed: u64) -> Result<Made> {
    ensure!(scale.is_finite() && scale > 0.0, "a scale of {scale} makes no layers: give a number above 0");
    let mut lsn = 0;
    let mut add = |number: u64, name: &str| {
        let layer = ParsedName::parse(name);
        lsn = lsn.max(layer.lsn);
        let random = &mut Random::for_stream(seed, HISTORY_STREAM + number);
        let bytes = sizes::scaled(sizes::draw(random), scale);
        writer.add_with(name, |file| layer.kind.write(file, bytes, random))
    };
    match list {
        NameList::File(path) => add_from_file(path, &mut add)?,
        NameList::Generated(layers) => {
            let mut history = history::History::new(Random::for_stream(seed, HISTORY_STREAM));
            for number in 1..=*layers {
                add(u64::from(number), &history.next_name())?;
            }
        }
    }
    Ok(Made { source: "names", postgres_version: None, lsn })
}

fn add_from_file(path: &Path, add: &mut dyn FnMut(u64, &str) -> Result<()>) -> Result<()> {
    let reading = || format!("reading the list of names {}", path.display());
    let file = BufReader::new(File::open(path).with_context(reading)?);
    let mut seen = HashSet::new();
    for (index, line) in (1..).zip(file.lines()) {
        let line = line.with_context(reading)?;
        let name = line.trim();
        if name.is_empty() || name.starts_with('#') {
            continue;
        }
        let place = || format!("{}, line {index}", path.display());
        require_single_component(name).with_context(place)?;
        if !seen.insert(name.to_owned()) {
            bail!("{}: `{name}` is there twice: a timeline has one layer of a name", place());
        }
        add(index, name)?;
    }
    Ok(())
}

/// Refuses a name that could leave the timeline's directory, or that is not a layer's to take.
fn require_single_component(name: &str) -> Result<()> {
    let one_component = !name.contains(['/', '\\', '\0']) && name != "." && name != "..";
    ensure!(
        one_component,
        "`{}` is not a layer's file name: it must be a single path component",
        name.escape_debug()
    );
    ensure!(name.len() <= NAME_BYTES_MAX, "`{name}` has {} bytes, more than {NAME_BYTES_MAX}", name.len());
    ensure!(name != "metadata", "`metadata` is the name of the timeline's own file");
    Ok(())
}

/// What an image needs to know of a layer's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ParsedName {
    kind: LayerKind,
    /// The layer's (last) LSN, 0 where the name tells none.
    lsn: u64,
}

impl ParsedName {
    /// Reads `<keys>__<lsn>[-<lsn>]` and `rel_..._<lsn>[_<lsn>]`; two LSNs are a delta, anything else is an image.
    fn parse(name: &str) -> Self {
        let lsns: Vec<u64> = match name.split_once("__") {
            Some((_, lsns)) => lsns.split('-').map_while(parse_lsn).collect(),
            None => name.split('_').filter_map(parse_lsn).collect(),
        };
        let kind = if lsns.len() > 1 { LayerKind::Delta } else { LayerKind::Image };
        Self { kind, lsn: lsns.last().copied().unwrap_or(0) }
    }
}

fn parse_lsn(text: &str) -> Option<u64> {
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lsns_are_a_delta() {
        let image =
            "000000067F00000001000004DF0000000006-000000067F00000001000004DF0000000009__00000000014FED58";
        let cases = [
            (image.to_owned(), LayerKind::Image, 0x14F_ED58),
            (format!("{image}-v1-00000001"), LayerKind::Image, 0x14F_ED58),
            (format!("{image}-000000000154C481-v1-00000001"), LayerKind::Delta, 0x154_C481),
            ("rel_1663_13990_2609_0_10_000000000169C348".to_owned(), LayerKind::Image, 0x169_C348),
            (
                "rel_1663_13990_2609_0_10_000000000169C348_0000000001702000_DROPPED".to_owned(),
                LayerKind::Delta,
                0x170_2000,
            ),
            ("strange".to_owned(), LayerKind::Image, 0),
        ];
        for (name, kind, lsn) in cases {
            assert_eq!(ParsedName::parse(&name), ParsedName { kind, lsn }, "{name}");
        }
    }
}
