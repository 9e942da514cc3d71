//! Files that are imported. Nothing here trusts what they say: no other file is opened because one names it, and what is cut off is refused.

use super::qcow2::{self, Header, HeaderError};
use super::{Content, ImageFormat, PIECE_BYTES, Piece, split_zeroes};
use ashlar_types::format_bytes;
use bytes::Bytes;
use imago::file::File as ImageFile;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping, Storage, StorageOpenOptions};
use rustix::fs::SeekFrom as HoleSeek;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is empty", path.display())]
    Empty { path: PathBuf },
    #[error(
        "{} is a {format} image; make it a raw one first with `qemu-img convert -O raw`, or say --format raw if its bytes are meant as they are",
        path.display()
    )]
    Foreign { path: PathBuf, format: &'static str },
    #[error(
        "{} is packed by {packer}; unpack it first, or say --format raw if its bytes are meant as they are",
        path.display()
    )]
    Packed { path: PathBuf, packer: &'static str },
    #[error("{} is no qcow2 image", path.display())]
    NoQcow2 { path: PathBuf },
    #[error("{} is truncated: {detail}", path.display())]
    Truncated { path: PathBuf, detail: String },
    #[error("{}: {detail}; `qemu-img convert` makes an image without it", path.display())]
    Unsupported { path: PathBuf, detail: String },
    #[error("{} is neither a file nor a block device; a pipe is read as `-`, with --size", path.display())]
    NoFile { path: PathBuf },
    #[error("{} is damaged: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error(
        "{} stands on another image, {backing}; put them together first with `qemu-img convert`",
        path.display()
    )]
    Backing { path: PathBuf, backing: String },
    #[error("{} keeps its data in another file; put them together first with `qemu-img convert`", path.display())]
    External { path: PathBuf },
    #[error("{} is encrypted; decrypt it first with `qemu-img convert`", path.display())]
    Encrypted { path: PathBuf },
    #[error("what comes from standard input is raw")]
    StreamFormat,
    #[error("say with --size how much comes from standard input")]
    NoSize,
    #[error("standard input is truncated: it ended after {got} of {wanted} bytes")]
    Short { wanted: u64, got: u64 },
    #[error("standard input holds more than the {wanted} bytes of --size")]
    Long { wanted: u64 },
    #[error("{} has {size}; --size is {wanted}, and less would cut it off", path.display())]
    TooSmall { path: PathBuf, size: String, wanted: String },
}

#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    /// Bytes.
    size: u64,
    format: ImageFormat,
    kind: Kind,
}

enum Kind {
    Raw(File),
    Qcow2 {
        image: Box<FormatAccess<ImageFile>>,
        header: Header,
        file_len: u64,
    },
    Stream {
        from: Box<dyn Read + Send>,
        /// Nobody said what it is.
        looks: bool,
    },
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Raw(_) => "Raw",
            Kind::Qcow2 { .. } => "Qcow2",
            Kind::Stream { .. } => "Stream",
        })
    }
}

impl Source {
    /// `-` is standard input, of which `size` bytes are taken.
    pub fn open(path: &Path, format: Option<ImageFormat>, size: Option<u64>) -> Result<Source, SourceError> {
        if path.as_os_str() == "-" {
            let size = size.ok_or(SourceError::NoSize)?;
            return match format {
                Some(ImageFormat::Qcow2) => Err(SourceError::StreamFormat),
                _ => Ok(Source::stream(Box::new(io::stdin()), size, format.is_none())),
            };
        }
        let failed = |source| SourceError::Read { path: path.to_owned(), source };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(SourceError::NoFile { path: path.to_owned() });
        }
        let mut file = File::open(path).map_err(failed)?;
        // Also of a block device.
        let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if len == 0 {
            return Err(SourceError::Empty { path: path.to_owned() });
        }
        let format = match format {
            Some(format) => format,
            None => detect(path, &file, len)?,
        };
        match format {
            ImageFormat::Raw => Ok(Source { path: path.to_owned(), size: len, format, kind: Kind::Raw(file) }),
            ImageFormat::Qcow2 => open_qcow2(path, &file, len),
        }
    }

    fn stream(from: Box<dyn Read + Send>, size: u64, looks: bool) -> Source {
        let kind = Kind::Stream { from, looks };
        Source { path: PathBuf::from("standard input"), size, format: ImageFormat::Raw, kind }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn format(&self) -> ImageFormat {
        self.format
    }

    /// The size of the disk: what was asked for must hold what there is.
    pub fn check_size(&self, wanted: Option<u64>) -> Result<u64, SourceError> {
        let size = self.size.next_multiple_of(512);
        match wanted {
            Some(wanted) if wanted < self.size => {
                let (size, wanted) = (format_bytes(self.size), format_bytes(wanted));
                Err(SourceError::TooSmall { path: self.path.clone(), size, wanted })
            }
            Some(wanted) => Ok(wanted),
            None => Ok(size),
        }
    }

    /// Hands out everything in order, until `take` says that it wants no more. Blocks.
    pub fn read_all(self, take: &mut dyn FnMut(Piece) -> bool) -> Result<(), SourceError> {
        let Source { path, size, kind, .. } = self;
        match kind {
            Kind::Raw(file) => read_raw(&path, &file, size, take),
            Kind::Qcow2 { image, header, file_len } => read_qcow2(&path, &image, &header, file_len, take),
            Kind::Stream { from, looks } => read_stream(&path, from, size, looks, take),
        }
    }
}

const FOREIGN: [(usize, &[u8], &str); 9] = [
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0x40, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
];
const PACKED: [(&[u8], &str); 6] = [
    (&[0x1f, 0x8b], "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
];

/// By their first bytes, and the last 512 (VHD).
fn detect(path: &Path, file: &File, len: u64) -> Result<ImageFormat, SourceError> {
    let failed = |source| SourceError::Read { path: path.to_owned(), source };
    let mut head = vec![0; usize::try_from(len.min(512)).expect("small")];
    file.read_exact_at(&mut head, 0).map_err(failed)?;
    let mut tail = head.clone();
    file.read_exact_at(&mut tail, len - head.len() as u64).map_err(failed)?;
    look_at(path, &head, &tail)
}

fn look_at(path: &Path, head: &[u8], tail: &[u8]) -> Result<ImageFormat, SourceError> {
    if head.starts_with(&qcow2::MAGIC) {
        return match head.get(4..8) {
            Some([0, 0, 0, 1]) => Err(SourceError::Foreign { path: path.to_owned(), format: "qcow (version 1)" }),
            _ => Ok(ImageFormat::Qcow2),
        };
    }
    let mut foreign =
        FOREIGN.iter().filter(|(at, magic, _)| head.get(*at..).is_some_and(|from| from.starts_with(magic)));
    let format = foreign.next().map(|(_, _, format)| *format).or(tail.starts_with(b"conectix").then_some("VHD"));
    if let Some(format) = format {
        return Err(SourceError::Foreign { path: path.to_owned(), format });
    }
    match PACKED.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, packer)) => Err(SourceError::Packed { path: path.to_owned(), packer }),
        None => Ok(ImageFormat::Raw),
    }
}

fn open_qcow2(path: &Path, file: &File, file_len: u64) -> Result<Source, SourceError> {
    let path = path.to_owned();
    let mut magic = [0; 4];
    if file_len < 4 || file.read_exact_at(&mut magic, 0).is_err() || magic != qcow2::MAGIC {
        return Err(SourceError::NoQcow2 { path });
    }
    let checked = Header::read(file, file_len).and_then(|header| {
        header.check_tables(file, file_len)?;
        Ok(header)
    });
    let header = match checked {
        Ok(header) => header,
        Err(HeaderError::Io(source)) => return Err(SourceError::Read { path, source }),
        Err(error @ HeaderError::Truncated { .. }) => {
            return Err(SourceError::Truncated { path, detail: error.to_string() });
        }
        Err(error @ HeaderError::Unsupported(_)) => {
            return Err(SourceError::Unsupported { path, detail: error.to_string() });
        }
        Err(error @ HeaderError::Damaged(_)) => return Err(SourceError::Damaged { path, detail: error.to_string() }),
    };
    if header.is_encrypted {
        return Err(SourceError::Encrypted { path });
    }
    let storage = ImageFile::open(StorageOpenOptions::new().filename(&path));
    let storage = storage.map_err(|source| SourceError::Read { path: path.clone(), source })?;
    let image =
        Qcow2::<ImageFile>::builder(storage).backing(None).data_file(None).open(DenyImplicitOpenGate::default());
    let image = image.map_err(|error| SourceError::Damaged { path: path.clone(), detail: error.to_string() })?;
    if let Some(backing) = image.implicit_backing_file() {
        return Err(SourceError::Backing { path, backing: backing.escape_debug().to_string() });
    }
    if image.requires_external_data_file() {
        return Err(SourceError::External { path });
    }
    let image = Box::new(FormatAccess::new(image));
    let size = image.size();
    if size == 0 {
        return Err(SourceError::Empty { path });
    }
    let format = ImageFormat::Qcow2;
    let kind = Kind::Qcow2 { image, header, file_len };
    let source = Source { path, size, format, kind };
    source.check_clusters()?;
    Ok(source)
}

impl Source {
    /// That the clusters are in the file, before anything is made of it.
    fn check_clusters(&self) -> Result<(), SourceError> {
        let Kind::Qcow2 { image, header, file_len } = &self.kind else { return Ok(()) };
        let mut at = 0;
        while at < self.size {
            at += next_run(&self.path, image, header, *file_len, at, self.size - at)?.1;
        }
        Ok(())
    }
}

/// Whether the run that begins here holds data, and its bytes.
fn next_run(
    path: &Path,
    image: &FormatAccess<ImageFile>,
    header: &Header,
    file_len: u64,
    at: u64,
    most: u64,
) -> Result<(bool, u64), SourceError> {
    let damaged = |detail: String| SourceError::Damaged { path: path.to_owned(), detail };
    let (mapping, len) = image.get_mapping(at, most).map_err(|error| damaged(error.to_string()))?;
    if len == 0 {
        return Err(damaged(format!("nothing is known of byte {at} and what follows")));
    }
    match mapping {
        Mapping::Zero { .. } => Ok((false, len)),
        Mapping::Raw { offset, .. } => {
            let needed = header.least_end(offset, len);
            if needed > file_len {
                let detail = format!("its data reaches byte {needed}, the file ends at byte {file_len}");
                return Err(SourceError::Truncated { path: path.to_owned(), detail });
            }
            Ok((true, len))
        }
        _ => Ok((true, len)),
    }
}

fn read_qcow2(
    path: &Path,
    image: &FormatAccess<ImageFile>,
    header: &Header,
    file_len: u64,
    take: &mut dyn FnMut(Piece) -> bool,
) -> Result<(), SourceError> {
    let (mut at, size) = (0, image.size());
    while at < size {
        let (is_data, len) = next_run(path, image, header, file_len, at, size - at)?;
        if !is_data {
            if !take(Piece { offset: at, content: Content::Zero(len) }) {
                return Ok(());
            }
            at += len;
            continue;
        }
        let len = len.min(u64::from(PIECE_BYTES));
        let mut buffer = vec![0; usize::try_from(len).expect("a piece")];
        image.read(&mut buffer[..], at).map_err(|source| SourceError::Read { path: path.to_owned(), source })?;
        if !split_zeroes(at, &Bytes::from(buffer)).into_iter().all(&mut *take) {
            return Ok(());
        }
        at += len;
    }
    Ok(())
}

fn read_raw(path: &Path, file: &File, size: u64, take: &mut dyn FnMut(Piece) -> bool) -> Result<(), SourceError> {
    let mut at = 0;
    while at < size {
        let data = next_data(file, at, size);
        if data.start > at && !take(Piece { offset: at, content: Content::Zero(data.start - at) }) {
            return Ok(());
        }
        at = data.start;
        while at < data.end {
            let len = (data.end - at).min(u64::from(PIECE_BYTES));
            let mut buffer = vec![0; usize::try_from(len).expect("a piece")];
            file.read_exact_at(&mut buffer, at).map_err(|source| {
                if source.kind() == io::ErrorKind::UnexpectedEof {
                    let detail = format!("it became shorter than {size} bytes while it was read");
                    return SourceError::Truncated { path: path.to_owned(), detail };
                }
                SourceError::Read { path: path.to_owned(), source }
            })?;
            if !split_zeroes(at, &Bytes::from(buffer)).into_iter().all(&mut *take) {
                return Ok(());
            }
            at += len;
        }
    }
    Ok(())
}

/// Where the file holds data next, at or behind `at`. Where the file system knows nothing of holes, everything is data.
fn next_data(file: &File, at: u64, size: u64) -> std::ops::Range<u64> {
    let start = match rustix::fs::seek(file, HoleSeek::Data(at)) {
        Ok(start) => start.clamp(at, size),
        Err(rustix::io::Errno::NXIO) => return size..size,
        Err(_) => return at..size,
    };
    let end = rustix::fs::seek(file, HoleSeek::Hole(start)).map_or(size, |end| end.clamp(start, size));
    start..end
}

fn read_stream(
    path: &Path,
    mut from: Box<dyn Read + Send>,
    size: u64,
    looks: bool,
    take: &mut dyn FnMut(Piece) -> bool,
) -> Result<(), SourceError> {
    let failed = |source| SourceError::Read { path: path.to_owned(), source };
    let mut at = 0;
    while at < size {
        let len = (size - at).min(u64::from(PIECE_BYTES));
        let mut buffer = Vec::with_capacity(usize::try_from(len).expect("a piece"));
        (&mut from).take(len).read_to_end(&mut buffer).map_err(failed)?;
        let got = buffer.len() as u64;
        if at == 0 && looks {
            let head = &buffer[..buffer.len().min(512)];
            if look_at(path, head, head)? == ImageFormat::Qcow2 {
                return Err(SourceError::StreamFormat);
            }
        }
        if got < len {
            return Err(SourceError::Short { wanted: size, got: at + got });
        }
        if !split_zeroes(at, &Bytes::from(buffer)).into_iter().all(&mut *take) {
            return Ok(());
        }
        at += len;
    }
    match from.read(&mut [0]).map_err(failed)? {
        0 => Ok(()),
        _ => Err(SourceError::Long { wanted: size }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Write};

    fn all(source: Source) -> Result<Vec<Piece>, SourceError> {
        let mut pieces = Vec::new();
        source.read_all(&mut |piece| {
            pieces.push(piece);
            true
        })?;
        Ok(pieces)
    }

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("made");
        file.write_all(bytes).expect("written");
        file
    }

    #[test]
    fn a_raw_file_comes_in_pieces_without_gaps_and_its_holes_as_zeroes() {
        let file = file_of(&[]);
        file.as_file().set_len((5 << 20) + 100).expect("made longer");
        file.as_file().write_all_at(&[7; 100], 3 << 20).expect("written");
        file.as_file().write_all_at(&[8; 100], 5 << 20).expect("written");
        let source = Source::open(file.path(), None, None).expect("raw");
        assert_eq!(source.check_size(None).expect("any"), (5 << 20) + 512);
        assert!(matches!(source.check_size(Some(512)), Err(SourceError::TooSmall { .. })));
        let pieces = all(source).expect("read");
        let mut at = 0;
        let mut bytes = Vec::new();
        for piece in pieces {
            assert_eq!(piece.offset, at);
            at += piece.len();
            match piece.content {
                Content::Data(data) => bytes.extend_from_slice(&data),
                Content::Zero(len) => bytes.resize(bytes.len() + usize::try_from(len).expect("small"), 0),
            }
        }
        assert!(bytes == std::fs::read(file.path()).expect("read"));
    }

    #[test]
    fn a_stream_that_is_shorter_or_longer_than_it_should_be_is_refused() {
        let of = |len: usize, size| all(Source::stream(Box::new(Cursor::new(vec![1; len])), size, true));
        assert_eq!(of(1000, 1000).expect("whole").len(), 1);
        assert!(matches!(of(999, 1000), Err(SourceError::Short { wanted: 1000, got: 999 })));
        assert!(matches!(of(1001, 1000), Err(SourceError::Long { wanted: 1000 })));
        let image = Source::stream(Box::new(Cursor::new(qcow2_image())), 5 << 16, true);
        assert!(matches!(all(image), Err(SourceError::StreamFormat)));
        assert!(matches!(Source::open(Path::new("-"), None, None), Err(SourceError::NoSize)));
    }

    #[test]
    fn foreign_and_packed_files_are_named() {
        let mut vdi = vec![0; 512];
        vdi[0x40..0x44].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        let mut vhd = vec![0; 4096];
        vhd[3584..3592].copy_from_slice(b"conectix");
        for (bytes, name) in [(b"KDMV".to_vec(), "VMDK"), (vdi, "VDI"), (vhd, "VHD"), (vec![0x1f, 0x8b, 8], "gzip")] {
            let file = file_of(&bytes);
            let error = Source::open(file.path(), None, None).expect_err("refused").to_string();
            assert!(error.contains(name), "{error}");
            assert!(Source::open(file.path(), Some(ImageFormat::Raw), None).is_ok(), "if it is meant so");
        }
        assert!(matches!(Source::open(file_of(&[]).path(), None, None), Err(SourceError::Empty { .. })));
        let raw = file_of(&[1; 100]);
        assert!(matches!(Source::open(raw.path(), Some(ImageFormat::Qcow2), None), Err(SourceError::NoQcow2 { .. })));
    }

    /// The header of an image of 1 MiB with clusters of 64 KiB and one table for it, which has one cluster of data.
    fn qcow2_image() -> Vec<u8> {
        let mut image = vec![0; 5 << 16];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &qcow2::MAGIC);
        put(4, &2u32.to_be_bytes());
        put(20, &16u32.to_be_bytes());
        put(24, &(1u64 << 20).to_be_bytes());
        put(36, &1u32.to_be_bytes());
        // Tables: of references at 1, L1 at 2, L2 at 3; data at 4.
        put(40, &(2u64 << 16).to_be_bytes());
        put(48, &(1u64 << 16).to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(2 << 16, &(3u64 << 16 | 1 << 63).to_be_bytes());
        put(3 << 16, &(4u64 << 16 | 1 << 63).to_be_bytes());
        put(4 << 16, &[9; 100]);
        image
    }

    #[test]
    fn a_qcow2_image_is_read_and_a_truncated_one_refused_whatever_is_missing() {
        let image = qcow2_image();
        let file = file_of(&image);
        let source = Source::open(file.path(), None, None).expect("good");
        assert_eq!((source.size(), source.format()), (1 << 20, ImageFormat::Qcow2));
        let pieces = all(source).expect("read");
        let Content::Data(data) = &pieces[0].content else { panic!("{pieces:?}") };
        assert!(data[..100] == [9; 100] && data.len() == 1 << 16);
        assert_eq!(pieces[1..].iter().map(Piece::len).sum::<u64>(), (1 << 20) - (1 << 16));
        for len in [50, 100, 1 << 16, (2 << 16) + 4, 3 << 16, (4 << 16) - 1, 4 << 16] {
            let file = file_of(&image[..len]);
            let error = Source::open(file.path(), None, None).expect_err("refused");
            assert!(matches!(error, SourceError::Truncated { .. }), "{len}: {error}");
        }
    }

    #[test]
    fn a_compressed_cluster_that_is_cut_off_is_refused_by_a_byte() {
        // One sector and another from 4 clusters on: 54 bits of offset for clusters of 64 KiB.
        let mut image = qcow2_image();
        image[3 << 16..(3 << 16) + 8].copy_from_slice(&(4u64 << 16 | 1 << 54 | 1 << 62).to_be_bytes());
        image.truncate((4 << 16) + 1024);
        let error = |bytes: &[u8]| Source::open(file_of(bytes).path(), None, None).err();
        assert!(error(&image).is_none());
        assert!(matches!(error(&image[..image.len() - 1]), Some(SourceError::Truncated { .. })));
    }

    #[test]
    fn nothing_else_is_opened_because_an_image_names_it() {
        let mut image = qcow2_image();
        let name = b"/etc/passwd";
        image[8..16].copy_from_slice(&200u64.to_be_bytes());
        image[16..20].copy_from_slice(&u32::try_from(name.len()).expect("short").to_be_bytes());
        image[200..200 + name.len()].copy_from_slice(name);
        let error = Source::open(file_of(&image).path(), None, None).expect_err("refused");
        assert!(matches!(&error, SourceError::Backing { backing, .. } if backing == "/etc/passwd"), "{error}");
        let mut image = qcow2_image();
        image[32..36].copy_from_slice(&1u32.to_be_bytes());
        assert!(matches!(Source::open(file_of(&image).path(), None, None), Err(SourceError::Encrypted { .. })));
    }

    #[test]
    fn whatever_a_qcow2_image_says_nothing_panics() {
        let image = qcow2_image();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..500 {
            let mut damaged = image.clone();
            for _ in 0..3 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = usize::try_from(random >> 33).expect("small");
                let at = if random & 1 == 0 { at % 104 } else { (2 << 16) + at % ((1 << 16) + 16) };
                damaged[at] = (random >> 8) as u8;
            }
            let file = file_of(&damaged);
            if let Ok(source) = Source::open(file.path(), Some(ImageFormat::Qcow2), None)
                && source.size() < 1 << 30
            {
                let _ = all(source);
            }
        }
    }
}
