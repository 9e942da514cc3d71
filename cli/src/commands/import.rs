//! `ashlar volume import`: makes a volume of a file.

use crate::args::ImportArgs;
use crate::control::Control;
use crate::error::{CliError, reasons};
use crate::output::Output;
use crate::transfer::{Content, Disk, PIECE_BYTES, Piece, Progress, Source, SourceError, WINDOW, interrupts};
use ashlar_types::control::{AttachMode, ControlReply, ControlRequest};
use ashlar_types::{BlockError, DiskName, Name, format_bytes};
use serde_json::json;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet, spawn_blocking};

/// Why a copy ended early.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("at byte {offset}")]
    Volume { offset: u64, source: BlockError },
    #[error("interrupted")]
    Interrupted,
    #[error("our own bug")]
    Task(#[from] JoinError),
}

impl ImportError {
    /// Whether trying again can't help: then nothing is left of the volume.
    fn is_final(&self) -> bool {
        matches!(self, ImportError::Source(_) | ImportError::Volume { source: BlockError::NoSpace, .. })
    }
}

pub async fn run(control: &Control, args: ImportArgs) -> Result<Output, CliError> {
    let ImportArgs { file, name, size: wanted, pool, format, resume } = args;
    let failed = |error: &ImportError, what_now: String| {
        let (name, reason) = (name.clone(), reasons(error));
        CliError::Import { name, reason, what_now }
    };
    let mut interrupt = interrupts()?;
    let from = file;
    let source = spawn_blocking(move || Source::open(&from, format, wanted)).await.map_err(ImportError::from);
    let source = source.and_then(|opened| Ok(opened?)).map_err(|error| failed(&error, String::new()))?;
    let size = source.check_size(wanted).map_err(|error| failed(&error.into(), String::new()))?;
    if resume {
        check_volume(control, &name, size, pool.as_ref()).await?;
    } else {
        control.ask(ControlRequest::VolumeCreate { name: name.clone(), size, pool }).await?;
    }
    let disk = DiskName::from(name.clone());
    let id = Disk::gateway_name("import", &disk);
    let disk = match Disk::attach(control, &disk, id, AttachMode::Exclusive, false).await {
        Ok(disk) => disk,
        Err(error) => {
            if !resume {
                undo(control, &name).await;
            }
            return Err(error);
        }
    };
    let mut progress = Progress::new(format!("importing {name}"), source.size());
    let (format, copied) = (source.format(), copy(&disk, source, resume, &mut interrupt, &mut progress).await);
    progress.end();
    let detached = disk.detach().await;
    let written = match copied {
        Ok(written) => written,
        Err(error) if error.is_final() && !resume => {
            let what_now = undo(control, &name).await;
            return Err(failed(&error, what_now));
        }
        Err(error) => {
            return Err(failed(&error, "; the same command with --resume goes on".to_owned()));
        }
    };
    detached?;
    let seconds = progress.elapsed().as_secs_f64();
    let text = format!(
        "volume {name} imported from a {format} image: {}, {} written, in {seconds:.1} s",
        format_bytes(size),
        format_bytes(written)
    );
    let value = json!({ "name": name, "size": size, "format": format.to_string(), "written_bytes": written, "seconds": seconds });
    Ok(Output::new(text, value))
}

/// Deletes what was made of the volume, and says so.
async fn undo(control: &Control, name: &Name) -> String {
    match control.ask(ControlRequest::VolumeDelete { name: name.clone(), with_snapshots: false }).await {
        Ok(_) => "; the volume is deleted again".to_owned(),
        // Why the import failed is more to the point than what this met.
        Err(_) => format!("; `ashlar volume delete {name}` removes what there is of it"),
    }
}

async fn check_volume(control: &Control, name: &Name, size: u64, pool: Option<&Name>) -> Result<(), CliError> {
    match control.ask(ControlRequest::VolumeShow { name: name.clone() }).await? {
        ControlReply::Volume(volume) if pool.is_some_and(|pool| *pool != volume.pool_name) => {
            Err(CliError::Conflict { what: format!("volume {name} is in pool {}", volume.pool_name) })
        }
        ControlReply::Volume(volume) if volume.size == size => Ok(()),
        ControlReply::Volume(volume) => {
            let (has, needs) = (format_bytes(volume.size), format_bytes(size));
            let what = format!("volume {name} has {has}, the image {needs}: it was not made for this image");
            Err(CliError::Conflict { what })
        }
        reply => Err(CliError::unexpected("volume show", &reply)),
    }
}

/// Gives the bytes that were written.
async fn copy(
    disk: &Disk,
    source: Source,
    resume: bool,
    interrupt: &mut Signal,
    progress: &mut Progress,
) -> Result<u64, ImportError> {
    let size = source.size();
    let (sender, mut pieces) = mpsc::channel::<Piece>(WINDOW);
    let reader = spawn_blocking(move || source.read_all(&mut |piece| sender.blocking_send(piece).is_ok()));
    // Those that are left when this ends early are given up.
    let mut under_way: JoinSet<Result<(u64, u64), ImportError>> = JoinSet::new();
    let (mut is_read, mut written) = (false, 0);
    while !is_read || !under_way.is_empty() {
        tokio::select! {
            piece = pieces.recv(), if !is_read && under_way.len() < WINDOW => match piece {
                Some(piece) => drop(under_way.spawn(put(disk.clone(), piece, resume))),
                None => is_read = true,
            },
            Some(done) = under_way.join_next() => {
                let (bytes, were_written) = done??;
                progress.add(bytes);
                written += were_written;
            }
            _ = interrupt.recv() => return Err(ImportError::Interrupted),
        }
    }
    reader.await??;
    if resume {
        let cleared = clear(disk, size, disk.size().saturating_sub(size)).await;
        written += cleared.map_err(|source| ImportError::Volume { offset: size, source })?;
    }
    disk.flush().await.map_err(|source| ImportError::Volume { offset: 0, source })?;
    Ok(written)
}

/// Gives the bytes that are done, and how many of them were written.
async fn put(disk: Disk, piece: Piece, resume: bool) -> Result<(u64, u64), ImportError> {
    let (offset, len) = (piece.offset, piece.len());
    let failed = |source| ImportError::Volume { offset, source };
    let written = match piece.content {
        // A volume that was just made reads as zeroes.
        Content::Zero(_) if !resume => 0,
        Content::Zero(len) => clear(&disk, offset, len).await.map_err(failed)?,
        Content::Data(data) => {
            let count = u32::try_from(data.len()).expect("a piece");
            if resume && disk.read(offset, count).await.map_err(failed)? == data {
                0
            } else {
                disk.write(offset, data).await.map_err(failed)?;
                len
            }
        }
    };
    Ok((len, written))
}

/// What an earlier import, of something else, may have left.
async fn clear(disk: &Disk, offset: u64, len: u64) -> Result<u64, BlockError> {
    let (mut at, end, mut cleared) = (offset, offset + len, 0);
    while at < end {
        for extent in disk.extents(at, (end - at).min(u64::from(PIECE_BYTES) << 10)).await? {
            if !extent.zero {
                disk.zero(at, extent.len).await?;
                cleared += extent.len;
            }
            at += extent.len;
        }
    }
    Ok(cleared)
}
