//! Validated object keys and list prefixes.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// Why a string is not an object key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid object key {key:?}: {reason}")]
pub struct InvalidKey {
    key: String,
    reason: &'static str,
}

/// The key of an object: components separated by `/`, at most [`Key::LEN_MAX`] bytes of UTF-8.
///
/// No component is empty, `.` or `..`, begins with `.layerpack-` (stores keep their own files under such names) or
/// holds a control character, so that a key can be a file path below a root and an S3 key alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// The longest key, in bytes (S3's own limit).
    pub const LEN_MAX: usize = 1024;
    /// The longest component, in bytes (the limit of file systems).
    pub const COMPONENT_LEN_MAX: usize = 255;

    /// Checks `key`.
    pub fn new(key: impl Into<String>) -> Result<Self, InvalidKey> {
        let key = key.into();
        match check(&key) {
            Ok(()) => Ok(Self(key.into_boxed_str())),
            Err(reason) => Err(InvalidKey { key, reason }),
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The beginning of keys, cut at a `/`: empty (everything), or a valid key followed by `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPrefix(String);

impl KeyPrefix {
    /// The prefix of every key.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks `prefix`, which is empty or ends with `/`.
    pub fn new(prefix: impl Into<String>) -> Result<Self, InvalidKey> {
        let prefix = prefix.into();
        if prefix.is_empty() {
            return Ok(Self(prefix));
        }
        let checked = match prefix.strip_suffix('/') {
            Some(key) => check(key),
            None => Err("a prefix must end with '/'"),
        };
        match checked {
            Ok(()) => Ok(Self(prefix)),
            Err(reason) => Err(InvalidKey { key: prefix, reason }),
        }
    }

    /// The key `rest` below this prefix.
    pub fn key(&self, rest: &str) -> Result<Key, InvalidKey> {
        Key::new(format!("{}{rest}", self.0))
    }

    /// The prefix `component/` below this prefix.
    pub fn child(&self, component: &str) -> Result<Self, InvalidKey> {
        Self::new(format!("{}{component}/", self.0))
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(key: &str) -> Result<(), &'static str> {
    if key.is_empty() {
        return Err("it is empty");
    }
    if key.len() > Key::LEN_MAX {
        return Err("it is longer than 1,024 bytes");
    }
    for component in key.split('/') {
        match component {
            "" => return Err("a component is empty"),
            "." | ".." => return Err("a component is '.' or '..'"),
            _ if component.len() > Key::COMPONENT_LEN_MAX => {
                return Err("a component is longer than 255 bytes");
            }
            _ if component.starts_with(".layerpack-") => {
                return Err("components that begin with '.layerpack-' are reserved");
            }
            _ if component.chars().any(char::is_control) => return Err("it holds a control character"),
            _ => {}
        }
    }
    Ok(())
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(key: &str) -> Result<Self, InvalidKey> {
        Self::new(key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_leave_a_root_are_refused() {
        let long = "x".repeat(256);
        for bad in
            ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b", "a\nb", ".layerpack-x", &long]
        {
            assert!(Key::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(Key::new("a/".repeat(600) + "b").is_err());
        for good in ["a", "a/b", "ä/ö", "...", ".hidden", "a b"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn prefixes_end_at_a_separator() {
        assert!(KeyPrefix::new("a").is_err());
        assert!(KeyPrefix::new("/").is_err());
        assert_eq!(KeyPrefix::root().child("a").unwrap().key("b/c").unwrap().as_str(), "a/b/c");
    }
}
