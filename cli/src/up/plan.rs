//! What `up` has to add to a folder: its options against what is there. Decides, touches nothing.

use crate::cluster_file::{ClusterFile, PendingOsd};
use crate::error::CliError;
use ashlar_types::format_bytes;
use std::path::{Path, PathBuf};

pub const OSDS_DEFAULT: u32 = 3;
pub const OSD_BYTES_DEFAULT: u64 = 10 << 30;

/// The options of `up` about OSDs. Paths are absolute.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub osds: Option<u32>,
    pub osd_bytes: Option<u64>,
    pub preallocate: bool,
    pub disks: Vec<PathBuf>,
}

/// The OSDs to add. `bytes_of` tells how large a disk is, where it is readable.
pub fn plan(
    wish: &Wish,
    cluster: &ClusterFile,
    bytes_of: impl Fn(&Path) -> Option<u64>,
) -> Result<Vec<PendingOsd>, CliError> {
    if let Some(twice) = wish.disks.iter().enumerate().find(|(at, disk)| wish.disks[..*at].contains(disk)) {
        return conflict(format!("--disk {} is given twice", twice.1.display()));
    }
    let have = cluster.osd.len() + cluster.pending.len();
    let have_u32 = u32::try_from(have).unwrap_or(u32::MAX);
    if wish.disks.is_empty() {
        plan_files(wish, cluster, have_u32, bytes_of)
    } else {
        plan_disks(wish, cluster, have_u32)
    }
}

fn plan_disks(wish: &Wish, cluster: &ClusterFile, have: u32) -> Result<Vec<PendingOsd>, CliError> {
    let is_known = |disk: &&PathBuf| {
        cluster.osd.iter().any(|osd| osd.disk == **disk)
            || cluster.pending.iter().any(|osd| osd.disk.as_ref() == Some(*disk))
    };
    let new: Vec<PendingOsd> = wish
        .disks
        .iter()
        .filter(|disk| !is_known(disk))
        .map(|disk| PendingOsd { disk: Some(disk.clone()), ..PendingOsd::default() })
        .collect();
    let total = have.saturating_add(u32::try_from(new.len()).unwrap_or(u32::MAX));
    match wish.osds {
        Some(osds) if osds != total => {
            conflict(format!("--osds {osds} contradicts --disk: with these disks the cluster has {total} OSDs"))
        }
        _ => Ok(new),
    }
}

fn plan_files(
    wish: &Wish,
    cluster: &ClusterFile,
    have: u32,
    bytes_of: impl Fn(&Path) -> Option<u64>,
) -> Result<Vec<PendingOsd>, CliError> {
    let wanted = wish.osds.unwrap_or(if have == 0 { OSDS_DEFAULT } else { have });
    if wanted < have {
        return conflict(format!("--osds {wanted}: this cluster has {have} OSDs, and `up` takes none away"));
    }
    // Those that are unfinished take the size on.
    if wanted == have && cluster.pending.is_empty() {
        let other = cluster.osd.iter().find_map(|osd| {
            let bytes = bytes_of(&osd.disk)?;
            (wish.osd_bytes? != bytes).then_some((osd, bytes))
        });
        if let (Some((osd, bytes)), Some(asked)) = (other, wish.osd_bytes) {
            let (asked, bytes) = (format_bytes(asked), format_bytes(bytes));
            return conflict(format!(
                "--osd-size {asked}: {} has {bytes} already; the size is for new OSDs only",
                osd.id
            ));
        }
    }
    let one = PendingOsd {
        id: None,
        disk: None,
        bytes: Some(wish.osd_bytes.unwrap_or(OSD_BYTES_DEFAULT)),
        preallocate: wish.preallocate,
    };
    Ok((have..wanted).map(|_| one.clone()).collect())
}

/// OSDs that an earlier `up` could not finish (for want of space, say) get the size that is asked for now.
pub fn correct_unfinished(wish: &Wish, cluster: &mut ClusterFile) {
    let Some(bytes) = wish.osd_bytes else { return };
    for pending in cluster.pending.iter_mut().filter(|pending| pending.disk.is_none()) {
        pending.bytes = Some(bytes);
        pending.preallocate = wish.preallocate;
    }
}

fn conflict<T>(what: String) -> Result<T, CliError> {
    Err(CliError::Conflict { what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_file::{GatewayEntry, MdsEntry, OsdEntry};
    use ashlar_types::{ClusterId, MdsId, OsdId};

    fn cluster(disks: &[&str]) -> ClusterFile {
        let gateway = GatewayEntry { name: "gw".into(), nbd: "h:1".into(), nbd_socket: "/s".into() };
        let mut cluster = ClusterFile::new(ClusterId(7), MdsEntry { id: MdsId(1), address: "h:2".into() }, gateway);
        cluster.osd = (1..)
            .zip(disks)
            .map(|(id, disk)| OsdEntry { id: OsdId(id), address: format!("h:{}", 10 + id), disk: disk.into() })
            .collect();
        cluster
    }

    fn added(wish: &Wish, disks: &[&str]) -> Result<usize, String> {
        plan(wish, &cluster(disks), |_| Some(1 << 30)).map(|new| new.len()).map_err(|e| e.one_line())
    }

    #[test]
    fn a_new_cluster_has_three_osds_unless_told_otherwise() {
        assert_eq!(added(&Wish::default(), &[]), Ok(3));
        assert_eq!(added(&Wish { osds: Some(1), ..Wish::default() }, &[]), Ok(1));
        assert_eq!(added(&Wish { disks: vec!["/a".into(), "/b".into()], ..Wish::default() }, &[]), Ok(2));
    }

    #[test]
    fn the_same_options_again_add_nothing() {
        assert_eq!(added(&Wish::default(), &["/x", "/y"]), Ok(0));
        assert_eq!(added(&Wish { osds: Some(2), osd_bytes: Some(1 << 30), ..Wish::default() }, &["/x", "/y"]), Ok(0));
        assert_eq!(added(&Wish { disks: vec!["/x".into(), "/y".into()], ..Wish::default() }, &["/x", "/y"]), Ok(0));
    }

    #[test]
    fn more_osds_or_disks_are_added() {
        assert_eq!(added(&Wish { osds: Some(5), osd_bytes: Some(2 << 30), ..Wish::default() }, &["/x", "/y"]), Ok(3));
        assert_eq!(added(&Wish { disks: vec!["/z".into()], ..Wish::default() }, &["/x", "/y"]), Ok(1));
    }

    #[test]
    fn unfinished_osds_take_on_another_size() {
        let wish = Wish { osd_bytes: Some(2 << 30), ..Wish::default() };
        let mut cluster = cluster(&["/x"]);
        let unfinished = PendingOsd { id: Some(OsdId(2)), bytes: Some(9 << 30), preallocate: true, disk: None };
        cluster.pending.push(unfinished.clone());
        assert_eq!(plan(&wish, &cluster, |_| Some(1 << 30)).expect("no contradiction"), vec![]);
        correct_unfinished(&wish, &mut cluster);
        assert_eq!(cluster.pending, vec![PendingOsd { bytes: Some(2 << 30), preallocate: false, ..unfinished }]);
    }

    #[test]
    fn contradictions_are_named() {
        let fewer = added(&Wish { osds: Some(1), ..Wish::default() }, &["/x", "/y"]);
        assert_eq!(fewer, Err("--osds 1: this cluster has 2 OSDs, and `up` takes none away".into()));
        let size = added(&Wish { osd_bytes: Some(2 << 30), ..Wish::default() }, &["/x"]);
        assert_eq!(size, Err("--osd-size 2GiB: osd.1 has 1GiB already; the size is for new OSDs only".into()));
        let both = added(&Wish { osds: Some(3), disks: vec!["/a".into()], ..Wish::default() }, &[]);
        assert!(both.is_err());
        let twice = added(&Wish { disks: vec!["/a".into(), "/a".into()], ..Wish::default() }, &[]);
        assert_eq!(twice, Err("--disk /a is given twice".into()));
    }
}
