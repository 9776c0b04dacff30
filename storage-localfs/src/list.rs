//! Lists in byte order of whole keys, one page at a time.

use cap_std::fs::Dir;
use storage_api::{ErrorKind, Key, KeyPrefix, ListPage, ListRequest};

use crate::fault::{Fault, Result};
use crate::read::object_info;
use crate::root::{Root, entry_type, look_up, open_dir};

/// Passes over a page before giving up on one that shows nothing new.
const PASSES_MAX: usize = 100;

/// The page of objects that `request` asks for, with at most `keys_max` keys and common prefixes.
pub(crate) fn page(root: &Root, request: &ListRequest, keys_max: usize) -> Result<ListPage> {
    let prefix = request.prefix.as_str();
    let room = request.max_keys.unwrap_or(keys_max).min(keys_max);
    if room == 0 {
        return Err(Fault::new(ErrorKind::Invalid, "list", prefix, "a page of no keys was asked for"));
    }
    settled(prefix, || pass(root, request, room))
}

/// The first page of `pass` that shows nothing which the pass before did not.
///
/// Reading directories takes no snapshot: a pass may show an object, and not another that was acknowledged before the
/// put of the first began. But all that this page shows was there when its pass began, and so was, and is shown, what
/// had been acknowledged before that. The times of the directories could spare a quiet store the second pass, but
/// they tick too coarsely (every few milliseconds) to prove anything.
fn settled(prefix: &str, mut pass: impl FnMut() -> Result<ListPage>) -> Result<ListPage> {
    let mut before = pass()?;
    for _ in 1..PASSES_MAX {
        let page = pass()?;
        if !shows_more(&page, &before) {
            return Ok(page);
        }
        before = page;
    }
    let wrong = format!("objects were added during each of {PASSES_MAX} passes: list again");
    Err(Fault::new(ErrorKind::Interrupted, "list", prefix, wrong))
}

/// Whether `page` has a key or common prefix that `before` has not. Both are in byte order.
fn shows_more(page: &ListPage, before: &ListPage) -> bool {
    let is_new = |key: &Key| before.objects.binary_search_by(|object| object.key.cmp(key)).is_err();
    page.objects.iter().any(|object| is_new(&object.key))
        || page.common_prefixes.iter().any(|prefix| before.common_prefixes.binary_search(prefix).is_err())
}

/// The page with at most `room` keys and common prefixes, as one pass over the directories shows it.
fn pass(root: &Root, request: &ListRequest, room: usize) -> Result<ListPage> {
    let prefix = request.prefix.as_str();
    let after = request.start_after.as_deref().unwrap_or("");
    let mut walk = Walk { after, rolled_up: request.rolled_up, room, last: None, page: ListPage::default() };
    match root.descend(prefix).and_then(|dir| walk.visit(&dir, prefix)) {
        Err(fault) if !fault.is_not_found() => Err(fault),
        Ok(_) | Err(_) => Ok(walk.page),
    }
}

/// Whether a walk goes on.
#[derive(PartialEq)]
enum Step {
    Next,
    PageFull,
}

struct Walk<'a> {
    after: &'a str,
    rolled_up: bool,
    room: usize,
    /// The last key or common prefix on the page.
    last: Option<String>,
    page: ListPage,
}

impl Walk<'_> {
    /// Lists what is in `dir`, whose keys begin with `prefix`. What vanishes meanwhile is passed over.
    fn visit(&mut self, dir: &Dir, prefix: &str) -> Result<Step> {
        for Entry { name, is_dir } in entries(dir, prefix)? {
            let step = if is_dir {
                self.visit_dir(dir, &name, format!("{prefix}{name}/"))
            } else {
                self.visit_file(dir, &name, format!("{prefix}{name}"))
            };
            match step {
                Ok(Step::PageFull) => return Ok(Step::PageFull),
                Err(fault) if !fault.is_not_found() => return Err(fault),
                Ok(Step::Next) | Err(_) => {}
            }
        }
        Ok(Step::Next)
    }

    fn visit_file(&mut self, parent: &Dir, name: &str, key: String) -> Result<Step> {
        if key.as_str() <= self.after {
            return Ok(Step::Next);
        }
        let metadata = look_up(parent, name, &key)?;
        let Ok(valid) = Key::new(key.as_str()) else { return Ok(Step::Next) };
        if self.is_full() {
            return Ok(Step::PageFull);
        }
        self.page.objects.push(object_info(valid, &metadata)?);
        self.last = Some(key);
        Ok(Step::Next)
    }

    fn visit_dir(&mut self, parent: &Dir, name: &str, prefix: String) -> Result<Step> {
        // Everything below is after `after` or not alike, unless `after` lies inside.
        if prefix.as_str() <= self.after && (self.rolled_up || !self.after.starts_with(&prefix)) {
            return Ok(Step::Next);
        }
        let dir = open_dir(parent, name, &prefix)?;
        if !self.rolled_up {
            return self.visit(&dir, &prefix);
        }
        let Ok(valid) = KeyPrefix::new(prefix.as_str()) else { return Ok(Step::Next) };
        if !has_object(&dir, &prefix)? {
            return Ok(Step::Next);
        }
        if self.is_full() {
            return Ok(Step::PageFull);
        }
        self.page.common_prefixes.push(valid);
        self.last = Some(prefix);
        Ok(Step::Next)
    }

    /// Whether the page has no room for one more; it then says where the next one begins.
    fn is_full(&mut self) -> bool {
        let is_full = self.page.objects.len() + self.page.common_prefixes.len() >= self.room;
        if is_full {
            self.page.next = self.last.take();
        }
        is_full
    }
}

/// Whether there is an object anywhere below `dir`. What vanishes meanwhile is not.
fn has_object(dir: &Dir, prefix: &str) -> Result<bool> {
    for Entry { name, is_dir } in entries(dir, prefix)? {
        if !is_dir {
            return Ok(true);
        }
        let prefix = format!("{prefix}{name}/");
        match open_dir(dir, &name, &prefix).and_then(|dir| has_object(&dir, &prefix)) {
            Ok(true) => return Ok(true),
            Err(fault) if !fault.is_not_found() => return Err(fault),
            Ok(false) | Err(_) => {}
        }
    }
    Ok(false)
}

struct Entry {
    name: String,
    is_dir: bool,
}

/// The files and directories in `dir` that can be objects or hold some, in byte order of the keys they stand for.
/// Anything else that has a key's name is refused: put in an object's place, it would hide that object.
fn entries(dir: &Dir, prefix: &str) -> Result<Vec<Entry>> {
    let fault = |error| Fault::io("list", prefix, error);
    let mut entries = Vec::new();
    for entry in dir.entries().map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{prefix}{name}");
        // Stage files, and names that no key has.
        if Key::new(path.as_str()).is_err() {
            continue;
        }
        let file_type = match entry_type(dir, &entry, &path) {
            Err(fault) if fault.is_not_found() => continue,
            file_type => file_type?,
        };
        if !file_type.is_file() && !file_type.is_dir() {
            let what = if file_type.is_symlink() { "a symbolic link" } else { "a pipe, socket or device" };
            let wrong =
                format!("{what} is not an object: put the file or directory itself there, or remove it");
            return Err(Fault::new(ErrorKind::PermissionDenied, "list", path, wrong));
        }
        entries.push(Entry { name, is_dir: file_type.is_dir() });
    }
    // A directory stands for keys that go on with '/': "a-b" comes before "a/c", though "a" comes before "a-b".
    entries.sort_by(|a, b| a.sort_key().cmp(b.sort_key()));
    Ok(entries)
}

impl Entry {
    fn sort_key(&self) -> impl Iterator<Item = u8> {
        self.name.bytes().chain(self.is_dir.then_some(b'/'))
    }
}

#[cfg(test)]
mod tests;
