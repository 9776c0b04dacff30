//! Hostile bytes of a few kilobytes do not make a reader hold more than the limits say.
#![expect(clippy::cast_possible_truncation, reason = "the test's own numbers are small")]

#[global_allocator]
static PEAK: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

#[path = "suite/dissect.rs"]
#[cfg(test)]
#[expect(dead_code, reason = "this test needs a part of it")]
mod dissect;

#[cfg(test)]
mod tests {
    use layer_archive::{BundleIndex, FrameDecoder, Manifest, limits};

    use super::PEAK;
    use super::dissect::{COMPRESSED, CRITICAL, Dissected, DissectedManifest, Section, compress};

    /// A table that says it has 2^32 - 1 rows, and goes on with `row`s for `len` bytes.
    fn table(row: &[u8], len: usize) -> Vec<u8> {
        let mut plain = vec![0xff, 0xff, 0xff, 0xff, 0x0f];
        plain.extend(row.iter().copied().cycle().take(len));
        plain
    }

    fn bundle(tag: u16, plain: Vec<u8>) -> Vec<u8> {
        let section = Section { tag, version: 1 | CRITICAL | COMPRESSED, plain };
        let (sections, seek) = (vec![section], vec![(0, 0)]);
        let (version, min_reader, flags, frames, layers) = (1, 1, 0, u32::MAX, u32::MAX);
        let data = Vec::new();
        Dissected { data, sections, version, min_reader, flags, frames, layers, seek }.write()
    }

    fn manifest(plain: Vec<u8>) -> Vec<u8> {
        DissectedManifest { version: 1, min_reader: 1, features: 0, plain }.write()
    }

    /// The most that is allocated at one time while `read` runs, beyond what was allocated before.
    fn peak_of(read: impl FnOnce()) -> usize {
        let before = PEAK.current_usage();
        PEAK.reset_peak_usage();
        read();
        PEAK.peak_usage() - before
    }

    /// One test, because it measures what the whole process allocates.
    #[test]
    fn hostile_bytes_do_not_make_a_reader_allocate_without_bound() {
        let full = limits::READ_SECTION_PLAIN_MAX as usize - 5;
        // A layer row is 29 bytes at least, a frame row 6, a link row 3 (an empty name ends it early).
        let rows: [(u16, &[u8]); 3] = [(2, &[1; 6]), (3, &[1; 29]), (4, &[1, b'x', 0, 0])];
        let mut hostile: Vec<(String, Vec<u8>)> = Vec::new();
        for (tag, row) in rows {
            hostile.push((format!("section {tag}, long"), bundle(tag, table(row, full))));
            hostile.push((format!("section {tag}, short"), bundle(tag, table(row, 100))));
        }
        hostile.push(("commit".into(), bundle(5, table(&[0xff], full))));
        for (what, object) in hostile {
            let peak = peak_of(|| assert!(BundleIndex::parse_object(&object).is_err()));
            let allowed = if what.ends_with("short") { 1 << 20 } else { 384 << 20 };
            assert!(object.len() < 64 << 10, "{what}: {} bytes", object.len());
            assert!(peak < allowed, "{what}: {peak} bytes for {}", object.len());
        }

        let object = manifest(table(&[0], full));
        let peak = peak_of(|| assert!(Manifest::decode(&object).is_err()));
        assert!(peak < 384 << 20, "manifest: {peak} bytes");

        let bomb = compress(&vec![0; 64 << 20]);
        let peak = peak_of(|| assert!(FrameDecoder::new().decode(&bomb, 1 << 20).is_err()));
        assert!(peak < 2 << 20, "frame: {peak} bytes");
        let end = [3, 0, 0, 0, 0, 0xb1, 0xea, 0x92, 0x8f];
        let peak = peak_of(|| assert!(BundleIndex::parse_tail(&end, u64::MAX).is_err()));
        assert!(peak < 1 << 20, "tail: {peak} bytes");
    }
}
