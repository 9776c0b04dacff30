//! Pages of 8 KiB that look to a compressor like those of a fresh PostgreSQL cluster.

use super::random::Random;

/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = 8192;

/// A page.
pub(super) type Page = [u8; PAGE_BYTES];

/// Bytes of a page's header; line pointers follow it.
const HEADER_BYTES: usize = 24;
/// Bytes at the end of an index page that say what kind it is.
const INDEX_SPECIAL_BYTES: usize = 16;
/// Layout version 4, as PostgreSQL has written since 8.3.
const LAYOUT_VERSION: u64 = 4;
/// Bytes of a name column, padded with zeros.
const NAME_BYTES: usize = 64;

const WORDS: [&[u8]; 40] = [
    b"pg", b"get", b"set", b"array", b"text", b"int4", b"int8", b"float8", b"bool", b"date", b"time",
    b"stamp", b"tz", b"json", b"range", b"multi", b"hash", b"btree", b"gist", b"cmp", b"eq", b"ne", b"lt",
    b"gt", b"send", b"recv", b"in", b"out", b"index", b"stat", b"oid", b"name", b"char", b"numeric", b"inet",
    b"point", b"box", b"poly", b"agg", b"trans",
];

/// How full a page is and how hard to compress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Texture {
    /// Percent of the page that tuples may take.
    pub(super) fill_percent: usize,
    /// Bytes of random letters in every tuple.
    pub(super) noise_bytes: usize,
}

/// Makes the pages of one file.
#[derive(Debug)]
pub(super) struct PageMaker {
    random: Random,
    lsn: u64,
    oid: u32,
    block: u64,
}

impl PageMaker {
    /// A maker of pages changed from `lsn` on.
    pub(super) fn new(mut random: Random, lsn: u64) -> Self {
        let lsn = lsn + u64::from(random.below(1 << 20)) * 8;
        let oid = 100 + random.below(12_000);
        Self { random, lsn, oid, block: 0 }
    }

    /// The first page of a B-tree index.
    pub(super) fn index_meta(&mut self) -> Page {
        const MAGIC: u32 = 0x0005_3162;
        const BTREE_VERSION: u32 = 4;
        const META_FLAG: u16 = 8;
        let mut page = [0; PAGE_BYTES];
        put(&mut page, HEADER_BYTES, &MAGIC.to_le_bytes());
        put(&mut page, HEADER_BYTES + 4, &BTREE_VERSION.to_le_bytes());
        put(&mut page, PAGE_BYTES - 4, &META_FLAG.to_le_bytes());
        self.finish(&mut page, HEADER_BYTES + 48, PAGE_BYTES - INDEX_SPECIAL_BYTES, INDEX_SPECIAL_BYTES);
        page
    }

    /// A page of table rows.
    pub(super) fn heap(&mut self, texture: Texture) -> Page {
        self.with_tuples(texture, 0, Self::heap_tuple)
    }

    /// A leaf of an index.
    pub(super) fn index_leaf(&mut self, texture: Texture) -> Page {
        self.with_tuples(texture, INDEX_SPECIAL_BYTES, Self::index_tuple)
    }

    /// A page of a free space map: a binary tree in which one leaf's value is repeated up to the root.
    pub(super) fn free_space(&mut self) -> Page {
        let mut page = [0; PAGE_BYTES];
        let nodes = HEADER_BYTES + 4;
        let value = low::<1>(self.random.next())[0].max(1);
        let mut node = 4095 + self.random.below(64) as usize;
        while node > 0 {
            page[nodes + node] = value;
            node = (node - 1) / 2;
        }
        page[nodes] = value;
        self.finish(&mut page, HEADER_BYTES, PAGE_BYTES, 0);
        page
    }

    /// A page of a visibility map: two bits for each page of the table.
    pub(super) fn visibility(&mut self) -> Page {
        let mut page = [0; PAGE_BYTES];
        let bytes = 1 + self.random.below(4) as usize;
        page[HEADER_BYTES..HEADER_BYTES + bytes].fill(0x55);
        self.finish(&mut page, HEADER_BYTES, PAGE_BYTES, 0);
        page
    }

    /// Fills a page from its end with tuples and from its start with pointers to them.
    fn with_tuples(
        &mut self,
        texture: Texture,
        special: usize,
        tuple: fn(&mut Self, u16, usize) -> Vec<u8>,
    ) -> Page {
        const NORMAL: usize = 1 << 15;
        let mut page = [0; PAGE_BYTES];
        let (mut lower, mut upper) = (HEADER_BYTES, PAGE_BYTES - special);
        let room_left = (upper - lower) * (100 - texture.fill_percent.min(100)) / 100;
        for number in 1.. {
            let bytes = tuple(self, number, texture.noise_bytes);
            let taken = bytes.len().next_multiple_of(8);
            if lower + 4 + taken + room_left > upper {
                break;
            }
            upper -= taken;
            put(&mut page, upper, &bytes);
            let pointer = upper | NORMAL | bytes.len() << 17;
            put(&mut page, lower, &low::<4>(pointer as u64));
            lower += 4;
        }
        self.finish(&mut page, lower, upper, special);
        self.block += 1;
        page
    }

    /// A catalog row: the tuple header, an oid, a name, references, a text of noise.
    fn heap_tuple(&mut self, number: u16, noise_bytes: usize) -> Vec<u8> {
        let mut tuple = Vec::with_capacity(128 + noise_bytes);
        tuple.extend(1_u32.to_le_bytes());
        tuple.extend([0; 10]);
        tuple.extend(low::<2>(self.block));
        tuple.extend(number.to_le_bytes());
        tuple.extend([28, 0, 3, 11, 24, 0]);
        self.oid += 1 + self.random.below(3);
        tuple.extend(self.oid.to_le_bytes());
        let name = tuple.len();
        for word in 0..2 + self.random.below(2) {
            if word > 0 {
                tuple.push(b'_');
            }
            tuple.extend(self.random.pick(&WORDS));
        }
        tuple.resize(name + NAME_BYTES, 0);
        for reference in [11, 10, self.random.pick(&[0, 16, 23, 25, 1700, 2281])] {
            tuple.extend(u32::to_le_bytes(reference));
        }
        self.add_noise(&mut tuple, noise_bytes);
        tuple
    }

    /// An index entry: the row's place, the entry's length, an oid, a second key of noise.
    fn index_tuple(&mut self, number: u16, noise_bytes: usize) -> Vec<u8> {
        let mut tuple = Vec::with_capacity(16 + noise_bytes);
        tuple.extend([0, 0]);
        tuple.extend(low::<2>(self.block));
        tuple.extend(number.to_le_bytes());
        tuple.extend(low::<2>(16 + noise_bytes as u64));
        self.oid += 1 + u32::from(self.random.below(4) == 0);
        tuple.extend(self.oid.to_le_bytes());
        tuple.extend([0; 4]);
        self.add_noise(&mut tuple, noise_bytes);
        tuple
    }

    fn add_noise(&mut self, tuple: &mut Vec<u8>, noise_bytes: usize) {
        for _ in 0..noise_bytes {
            tuple.push(self.random.pick(b"abcdefghijklmnopqrstuvwxyz"));
        }
    }

    /// Writes the header: LSN, end of the pointers, start of the tuples, start of the special area.
    fn finish(&mut self, page: &mut Page, lower: usize, upper: usize, special: usize) {
        self.lsn += 8 * (1 + u64::from(self.random.below(1_000)));
        put(page, 0, &low::<4>(self.lsn >> 32));
        put(page, 4, &low::<4>(self.lsn));
        put(page, 12, &low::<2>(lower as u64));
        put(page, 14, &low::<2>(upper as u64));
        put(page, 16, &low::<2>((PAGE_BYTES - special) as u64));
        put(page, 18, &low::<2>(PAGE_BYTES as u64 | LAYOUT_VERSION));
    }
}

fn put(page: &mut Page, at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The low `N` bytes of `value`, little-endian.
fn low<const N: usize>(value: u64) -> [u8; N] {
    let bytes = value.to_le_bytes();
    std::array::from_fn(|index| bytes[index])
}
