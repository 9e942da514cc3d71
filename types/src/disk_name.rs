//! What a gateway serves: a volume, or one of its snapshots.

use crate::{Name, NameError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `VOLUME` or `VOLUME@SNAPSHOT`. A name has no `@`, so the text says which it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiskName {
    pub volume: Name,
    /// `None`: the volume itself.
    pub snapshot: Option<Name>,
}

impl From<Name> for DiskName {
    fn from(volume: Name) -> DiskName {
        DiskName { volume, snapshot: None }
    }
}

impl FromStr for DiskName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<DiskName, NameError> {
        match text.split_once('@') {
            Some((volume, snapshot)) => {
                Ok(DiskName { volume: Name::new(volume)?, snapshot: Some(Name::new(snapshot)?) })
            }
            None => Ok(Name::new(text)?.into()),
        }
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.volume),
            None => self.volume.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_a_volume_or_a_snapshot_and_is_given_back() {
        for text in ["vol", "vol-1@before.upgrade"] {
            assert_eq!(text.parse::<DiskName>().expect("a name").to_string(), text);
        }
        assert_eq!("v".parse::<DiskName>().expect("a name").snapshot, None);
        assert!("v@s".parse::<DiskName>().expect("a name").snapshot.is_some());
    }

    #[test]
    fn half_a_name_is_none() {
        for bad in ["", "@", "v@", "@s", "v@s@t", "v@ s", "v/@s"] {
            assert!(bad.parse::<DiskName>().is_err(), "{bad:?}");
        }
    }
}
