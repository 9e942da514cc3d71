//! Where exports go. A file has its name when it is whole and on the medium: until then it is called otherwise, and what fails leaves nothing.

use super::{Content, ImageFormat, Piece, split_zeroes};
use imago::file::File as ImageFile;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, Storage, StorageCreateOptions};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("{} is there already; --force replaces it", path.display())]
    Exists { path: PathBuf },
    #[error("{} is neither a file nor a device", path.display())]
    NoFile { path: PathBuf },
    #[error("only raw can go {to}")]
    StreamFormat { to: &'static str },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

pub struct Sink {
    path: PathBuf,
    kind: Kind,
    /// The file that becomes `path`.
    partial: Option<PathBuf>,
    replaces: bool,
}

enum Kind {
    Raw(File),
    Qcow2(Box<FormatAccess<ImageFile>>),
    Device(File),
    /// Standard output.
    Stream(Box<dyn Write + Send>),
}

impl Sink {
    /// For a disk of `size` bytes. `-` is standard output.
    pub fn create(path: &Path, format: ImageFormat, size: u64, force: bool) -> Result<Sink, SinkError> {
        let raw = |to, kind| match format {
            ImageFormat::Qcow2 => Err(SinkError::StreamFormat { to }),
            ImageFormat::Raw => Ok(Sink { path: path.to_owned(), kind, partial: None, replaces: false }),
        };
        if path.as_os_str() == "-" {
            return raw("to standard output", Kind::Stream(Box::new(io::stdout())));
        }
        let failed = |source| SinkError::Write { path: path.to_owned(), source };
        if let Ok(there) = std::fs::metadata(path) {
            let kind = there.file_type();
            if kind.is_block_device() || kind.is_char_device() {
                let device = File::options().write(true).open(path).map_err(failed)?;
                return raw("to a device", Kind::Device(device));
            }
            if !kind.is_file() {
                return Err(SinkError::NoFile { path: path.to_owned() });
            }
            if !force {
                return Err(SinkError::Exists { path: path.to_owned() });
            }
        }
        let mut partial = path.as_os_str().to_owned();
        let unlike_any = RandomState::new().build_hasher().finish();
        partial.push(format!(".{unlike_any:016x}.partial"));
        let partial = PathBuf::from(partial);
        // Nobody else's: what is there is not opened.
        let file = File::options().write(true).create_new(true).open(&partial).map_err(failed)?;
        let mut sink =
            Sink { path: path.to_owned(), kind: Kind::Raw(file), partial: Some(partial.clone()), replaces: force };
        sink.make(&partial, format, size).map_err(failed)?;
        Ok(sink)
    }

    fn make(&mut self, partial: &Path, format: ImageFormat, size: u64) -> io::Result<()> {
        match (&self.kind, format) {
            (Kind::Raw(file), ImageFormat::Raw) => file.set_len(size),
            _ => {
                let storage = ImageFile::create_open(StorageCreateOptions::new().filename(partial).overwrite(true))?;
                let image = Qcow2::<ImageFile>::create_builder(storage).size(size);
                let image = image.create_open(DenyImplicitOpenGate::default(), |made| Ok(Qcow2::builder(made)))?;
                self.kind = Kind::Qcow2(Box::new(FormatAccess::new(image)));
                Ok(())
            }
        }
    }

    /// Pieces come in order and without gaps. Blocks.
    pub fn put(&mut self, piece: Piece) -> Result<(), SinkError> {
        self.write(piece).map_err(|source| SinkError::Write { path: self.path.clone(), source })
    }

    fn write(&mut self, piece: Piece) -> io::Result<()> {
        match (&mut self.kind, piece.content) {
            (Kind::Raw(_) | Kind::Qcow2(_), Content::Zero(_)) => Ok(()),
            (Kind::Device(out), content) => write_on(out, content),
            (Kind::Stream(out), content) => write_on(out, content),
            (Kind::Raw(file), Content::Data(data)) => {
                for part in split_zeroes(piece.offset, &data) {
                    if let Content::Data(data) = part.content {
                        file.write_all_at(&data, part.offset)?;
                    }
                }
                Ok(())
            }
            (Kind::Qcow2(image), Content::Data(data)) => {
                for part in split_zeroes(piece.offset, &data) {
                    if let Content::Data(data) = part.content {
                        image.write(&data[..], part.offset)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Everything is there: on the medium, and by its name.
    pub fn finish(mut self) -> Result<(), SinkError> {
        let path = self.path.clone();
        self.complete().map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => SinkError::Exists { path },
            _ => SinkError::Write { path, source },
        })
    }

    fn complete(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Raw(file) => file.sync_all()?,
            Kind::Qcow2(image) => {
                image.flush()?;
                image.sync()?;
            }
            Kind::Device(out) if out.metadata()?.file_type().is_block_device() => out.sync_all()?,
            Kind::Device(_) => {}
            Kind::Stream(out) => out.flush()?,
        }
        if let Some(partial) = &self.partial {
            let flags = if self.replaces { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
            match rustix::fs::renameat_with(CWD, partial, CWD, &self.path, flags) {
                // Not every file system can do that without replacing (NFS). Nothing was there at the beginning.
                Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(partial, &self.path)?,
                done => done?,
            }
            self.partial = None;
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

/// Behind what was written before.
fn write_on(out: &mut impl Write, content: Content) -> io::Result<()> {
    match content {
        Content::Zero(len) => io::copy(&mut io::Read::take(io::repeat(0), len), out).map(drop),
        Content::Data(data) => out.write_all(&data),
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            let _ = std::fs::remove_file(partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Source;
    use bytes::Bytes;

    fn data(offset: u64, value: u8) -> Piece {
        Piece { offset, content: Content::Data(Bytes::from(vec![value; 100_000])) }
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_reads_as_it_was_written() {
        for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
            let folder = tempfile::tempdir().expect("made");
            let path = folder.path().join("image");
            let mut sink = Sink::create(&path, format, 4 << 20, false).expect("made");
            sink.put(Piece { offset: 0, content: Content::Zero(1 << 20) }).expect("written");
            sink.put(data(1 << 20, 5)).expect("written");
            assert!(!path.exists());
            sink.finish().expect("whole");
            assert!(matches!(Sink::create(&path, format, 512, false), Err(SinkError::Exists { .. })));
            let source = Source::open(&path, None, None).expect("one of ours");
            assert_eq!((source.format(), source.size()), (format, 4 << 20));
            let mut found = Vec::new();
            let mut take = |piece: Piece| {
                if let Content::Data(data) = piece.content {
                    found.extend(
                        data.iter().enumerate().filter(|(_, b)| **b == 5).map(|(at, _)| piece.offset + at as u64),
                    );
                }
                true
            };
            source.read_all(&mut take).expect("read");
            assert!(found.into_iter().eq((1 << 20)..(1 << 20) + 100_000));
            drop(Sink::create(&path, format, 512, true).expect("made"));
            let (mut late, mut first) = (
                Sink::create(&folder.path().join("other"), format, 1 << 20, false).expect("made"),
                Sink::create(&folder.path().join("other"), format, 1 << 20, false).expect("made"),
            );
            first.put(data(0, 1)).expect("written");
            late.put(data(0, 2)).expect("written");
            first.finish().expect("whole");
            assert!(matches!(late.finish(), Err(SinkError::Exists { .. })), "what came meanwhile stays");
            std::fs::remove_file(folder.path().join("other")).expect("there");
            let left: Vec<_> = std::fs::read_dir(folder.path()).expect("there").collect();
            assert_eq!(left.len(), 1, "what is given up leaves nothing, and the old file is there");
        }
    }

    #[test]
    fn a_device_that_is_full_is_an_error() {
        let mut sink = Sink::create(Path::new("/dev/full"), ImageFormat::Raw, 1 << 20, false).expect("opened");
        let error = sink.put(data(0, 1)).expect_err("full");
        assert!(std::error::Error::source(&error).is_some_and(|e| e.to_string().contains("No space")));
        let error = Sink::create(Path::new("-"), ImageFormat::Qcow2, 512, false);
        assert!(matches!(error, Err(SinkError::StreamFormat { .. })));
    }
}
