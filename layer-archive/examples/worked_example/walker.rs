//! Walks over bytes and notes what each of them means.

use std::fmt::Write;

/// Bytes per line of hexadecimal.
const LINE: usize = 24;

/// Notes the meaning of bytes from front to back.
pub(crate) struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
    text: String,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, text: String::new() }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next `len` bytes, or what there is of them.
    pub(crate) fn peek(&self, len: usize) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        rest.get(..len).unwrap_or(rest)
    }

    pub(crate) fn title(&mut self, title: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let _ = writeln!(self.text, "-- {title}");
    }

    /// Notes `len` bytes as `what`.
    pub(crate) fn raw(&mut self, len: usize, what: &str) -> &'a [u8] {
        let bytes = self.peek(len);
        let mut note = what;
        let mut at = self.at;
        for line in bytes.chunks(LINE) {
            let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            let text = format!("{at:06x}  {:<71}  {note}", hex.join(" "));
            let _ = writeln!(self.text, "{}", text.trim_end());
            (note, at) = ("", at + line.len());
        }
        self.at += bytes.len();
        bytes
    }

    /// Notes a little-endian integer of `len` bytes and returns it.
    pub(crate) fn integer(&mut self, len: usize, what: &str) -> u64 {
        let value = self.peek(len).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        self.raw(len, &format!("{what} = {value}"));
        value
    }

    /// Notes a checksum or another number that means nothing to people.
    pub(crate) fn opaque(&mut self, len: usize, what: &str) {
        self.raw(len, what);
    }

    /// Notes a postcard varint and returns it.
    pub(crate) fn varint(&mut self, what: &str) -> u64 {
        let len = self.peek(10).iter().take_while(|byte| **byte >= 0x80).count() + 1;
        let value = self.peek(len).iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
        self.raw(len, &format!("{what} = {value}"));
        value
    }

    /// Notes a postcard string or byte string.
    pub(crate) fn string(&mut self, what: &str) {
        let len = self.peek(1).first().map_or(0, |len| usize::from(*len));
        let text = String::from_utf8_lossy(self.peek(1 + len)).chars().skip(1).collect::<String>();
        self.raw(1 + len, &format!("{what} = {text:?}"));
    }

    /// Notes whether an optional value is there.
    pub(crate) fn option(&mut self, what: &str) -> bool {
        let there = self.peek(1) == [1];
        self.raw(1, &format!("{what}: {}", if there { "there" } else { "none" }));
        there
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}
