//! Names that people give to volumes and pools.

use serde::{Deserialize, Serialize};
use std::fmt;

/// 1 to 255 bytes of letters, digits, `.`, `_`, `-`; not beginning with `-` or `.`. It stands unescaped in an NBD URI, a file name and
/// a shell word; `@` is kept for snapshots.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name must have 1 to 255 characters, this has {0}")]
    Length(usize),
    #[error("{0:?} in {1:?}: a name takes letters, digits, '.', '_' and '-' only")]
    Character(char, String),
    #[error("a name must not begin with {0:?}")]
    First(char),
}

impl Name {
    pub fn new(text: &str) -> Result<Name, NameError> {
        if text.is_empty() || text.len() > 255 {
            return Err(NameError::Length(text.len()));
        }
        if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
            return Err(NameError::Character(bad, text.chars().take(40).collect()));
        }
        match text.chars().next() {
            Some(first @ ('-' | '.')) => Err(NameError::First(first)),
            _ => Ok(Name(text.to_owned())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Name, NameError> {
        Name::new(&text)
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Name, NameError> {
        Name::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_need_escaping_are_refused() {
        assert!(Name::new("vm-1.root_disk").is_ok());
        assert_eq!(Name::new(""), Err(NameError::Length(0)));
        assert!(matches!(Name::new("a b"), Err(NameError::Character(' ', _))));
        assert!(matches!(Name::new("a@b"), Err(NameError::Character('@', _))));
        assert!(matches!(Name::new("-rf"), Err(NameError::First('-'))));
        assert!(matches!(Name::new(&"x".repeat(256)), Err(NameError::Length(256))));
    }
}
