//! What a disk holds already, told by the marks that file systems, partition tables and volume managers leave. `mkfs` destroys none of
//! them without being forced.

use ashlar_osd_core::format::superblock::{SLOTS, Superblock};

/// Bytes from the beginning of a disk that must be looked at.
pub(crate) const LOOK_BYTES: usize = 256 << 10;

struct Mark {
    at: usize,
    bytes: &'static [u8],
    name: &'static str,
}

const fn mark(at: usize, bytes: &'static [u8], name: &'static str) -> Mark {
    Mark { at, bytes, name }
}

/// As libblkid knows them.
const MARKS: &[Mark] = &[
    mark(0x438, &[0x53, 0xef], "an ext2/3/4 file system"),
    mark(0, b"XFSB", "an XFS file system"),
    mark(0x10040, b"_BHRfS_M", "a btrfs file system"),
    mark(0x400, &[0x10, 0x20, 0xf5, 0xf2], "an F2FS file system"),
    mark(0x8000, b"JFS1", "a JFS file system"),
    mark(0x10034, b"ReIsEr", "a ReiserFS file system"),
    mark(3, b"NTFS    ", "an NTFS file system"),
    mark(3, b"EXFAT   ", "an exFAT file system"),
    mark(0x36, b"FAT1", "a FAT file system"),
    mark(0x52, b"FAT32", "a FAT file system"),
    mark(0x8001, b"CD001", "an ISO 9660 file system"),
    mark(0x1018, &[0xc6, 0x85, 0x73, 0xf6], "a bcache device"),
    mark(0, b"LUKS\xba\xbe", "an encrypted device (LUKS)"),
    mark(0x218, b"LVM2 001", "an LVM volume"),
    mark(0x18, b"LVM2 001", "an LVM volume"),
    mark(0x1000, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a RAID (md)"),
    mark(0, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a RAID (md)"),
    mark(0xff6, b"SWAPSPACE2", "swap space"),
    mark(0, b"bluestore block device", "a Ceph OSD"),
    mark(0, b"QFI\xfb", "a QCOW2 image"),
    mark(0x200, b"EFI PART", "a GPT partition table"),
    mark(0x1000, b"EFI PART", "a GPT partition table"),
    mark(0x1fe, &[0x55, 0xaa], "a partition table or boot sector"),
];

/// The little-endian magic of ZFS's uberblocks, at every KiB of its ring.
const ZFS: (std::ops::Range<usize>, [u8; 8]) = (128 << 10..256 << 10, 0x00ba_b10c_u64.to_le_bytes());

/// What the beginning of a disk says that it is; `None` where nothing is known there.
pub(crate) fn find(beginning: &[u8]) -> Option<String> {
    let superblock = SLOTS.iter().find_map(|at| Superblock::decode(beginning.get(usize::try_from(*at).ok()?..)?).ok());
    if let Some(superblock) = superblock {
        let identity = superblock.identity;
        return Some(format!("{} of cluster {}", identity.osd, identity.cluster));
    }
    let is_there = |at: usize, bytes: &[u8]| beginning.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    if let Some(mark) = MARKS.iter().find(|m| is_there(m.at, m.bytes)) {
        return Some(mark.name.into());
    }
    ZFS.0.step_by(1024).any(|at| is_there(at, &ZFS.1)).then(|| "a ZFS pool".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_disk_holds_nothing() {
        assert_eq!(find(&vec![0; LOOK_BYTES]), None);
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn each_mark_is_found_at_its_place() {
        for mark in MARKS {
            let mut disk = vec![0; LOOK_BYTES];
            disk[mark.at..mark.at + mark.bytes.len()].copy_from_slice(mark.bytes);
            assert_eq!(find(&disk).as_deref(), Some(mark.name));
        }
        let mut disk = vec![0; LOOK_BYTES];
        disk[200 << 10..(200 << 10) + 8].copy_from_slice(&ZFS.1);
        assert_eq!(find(&disk).as_deref(), Some("a ZFS pool"));
    }

    #[test]
    fn a_file_system_made_by_its_own_tool_is_found() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(8 << 20).expect("sparse");
        let made = std::process::Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).arg(file.path()).status();
        if !made.is_ok_and(|status| status.success()) {
            return; // the tool is not installed; the table above is tested without it
        }
        let disk = std::fs::read(file.path()).expect("readable");
        assert_eq!(find(&disk[..LOOK_BYTES]).as_deref(), Some("an ext2/3/4 file system"));
    }
}
