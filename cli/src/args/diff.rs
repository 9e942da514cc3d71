//! What `snapshot diff` and `volume diff` take.

use super::disk;
use crate::error::CliError;
use ashlar_types::{DiskName, Name};
use clap::Args;

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// `None`: what the clone `to` stands on.
    pub from: Option<DiskName>,
    pub to: DiskName,
}

#[derive(Debug, Args)]
pub struct SnapshotDiffArgs {
    /// VOLUME@FROM VOLUME@TO, or VOLUME FROM TO
    #[arg(value_name = "SNAPSHOT", value_parser = disk, num_args = 2..=3, required = true)]
    pub names: Vec<DiskName>,
}

impl SnapshotDiffArgs {
    pub fn compared(&self) -> Result<Compared, CliError> {
        let of = |volume: &Name, name: &DiskName| match &name.snapshot {
            None => Ok(DiskName { volume: volume.clone(), snapshot: Some(name.volume.clone()) }),
            Some(_) => {
                Err(CliError::Conflict { what: format!("{name} names a volume already; {volume} is one too many") })
            }
        };
        match &self.names[..] {
            [from, to] => {
                if let Some(volume) = [from, to].into_iter().find(|name| name.snapshot.is_none()) {
                    let way = "name two snapshots, as VOLUME@FROM VOLUME@TO or VOLUME FROM TO";
                    return Err(CliError::Conflict { what: format!("{volume} is no snapshot's name; {way}") });
                }
                Ok(Compared { from: Some(from.clone()), to: to.clone() })
            }
            [DiskName { volume, snapshot: None }, from, to] => {
                Ok(Compared { from: Some(of(volume, from)?), to: of(volume, to)? })
            }
            _ => Err(CliError::Conflict {
                what: "name two snapshots, as VOLUME@FROM VOLUME@TO or VOLUME FROM TO".into(),
            }),
        }
    }
}

#[derive(Debug, Args)]
pub struct VolumeDiffArgs {
    /// VOLUME@SNAPSHOT: what the volume has now is compared with what the snapshot has
    #[arg(value_name = "VOLUME[@SNAPSHOT]", value_parser = disk)]
    pub disk: DiskName,
    /// Compare a clone, or a snapshot of it, with what it was made of
    #[arg(long)]
    pub origin: bool,
}

impl VolumeDiffArgs {
    pub fn compared(&self) -> Result<Compared, CliError> {
        let DiskName { volume, snapshot } = &self.disk;
        match (snapshot, self.origin) {
            (_, true) => Ok(Compared { from: None, to: self.disk.clone() }),
            (Some(_), false) => {
                Ok(Compared { from: Some(self.disk.clone()), to: DiskName { volume: volume.clone(), snapshot: None } })
            }
            (None, false) => {
                let what =
                    format!("what is {volume} compared with? name it {volume}@SNAPSHOT, or, of a clone, --origin");
                Err(CliError::Conflict { what })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_name(text: &str) -> DiskName {
        text.parse().expect("a good name")
    }

    fn compared(names: &[&str]) -> Result<Compared, CliError> {
        SnapshotDiffArgs { names: names.iter().copied().map(disk_name).collect() }.compared()
    }

    #[test]
    fn two_snapshots_are_named_whole_or_by_their_volume_first() {
        let expected = Compared { from: Some(disk_name("v@a")), to: disk_name("v@b") };
        for names in [&["v@a", "v@b"][..], &["v", "a", "b"]] {
            assert_eq!(compared(names).expect("well named"), expected);
        }
        for names in [&["v", "a"][..], &["v@a", "b"], &["v@a", "a", "b"], &["v", "v@a", "b"]] {
            assert!(compared(names).is_err(), "{names:?}");
        }
    }
}
