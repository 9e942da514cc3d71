//! Taking over the content of a directory as the durable beginning of a disk.

use crate::disk::{Disk, Kind, Owner, ROOT};
use crate::mount::Error;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const READ_BYTES: usize = 1 << 20;

pub(crate) fn import(disk: &mut Disk, directory: &Path) -> Result<(), Error> {
    import_into(disk, ROOT, directory)?;
    disk.sync_all().map_err(|_| Error::PowerOff)
}

fn import_into(disk: &mut Disk, parent: u64, directory: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Import { path, source }
    };
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let entry = entry.map_err(failed(directory))?;
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path).map_err(failed(&path))?;
        let name = entry.file_name();
        let mode = u16::try_from(metadata.mode() & 0o7777).expect("masked to 12 bits");
        let owner = Owner { mode, uid: metadata.uid(), gid: metadata.gid() };
        if metadata.is_dir() {
            let made = disk.create(parent, &name, Kind::Directory, owner).map_err(io::Error::other);
            import_into(disk, made.map_err(failed(&path))?, &path)?;
        } else if metadata.is_file() {
            let made = disk.create(parent, &name, Kind::File, owner).map_err(io::Error::other);
            copy(disk, made.map_err(failed(&path))?, &path, metadata.len()).map_err(failed(&path))?;
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).map_err(failed(&path))?;
            let made = disk.create_symlink(parent, &name, target.as_os_str(), owner).map_err(io::Error::other);
            made.map_err(failed(&path))?;
        }
    }
    Ok(())
}

fn copy(disk: &mut Disk, inode: u64, path: &Path, size: u64) -> io::Result<()> {
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        disk.write(disk.era(), inode, at, &buffer[..read], Default::default()).map_err(io::Error::other)?;
        at += read as u64;
    }
    disk.truncate(disk.era(), inode, size).map_err(io::Error::other)
}
