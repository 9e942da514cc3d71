//! `ashlar volume import`: makes a volume of a file.

use super::volume::ask_volume;
use super::{job, mode, reserve};
use crate::args::{ImportArgs, JobArgs};
use crate::control::Control;
use crate::error::{CliError, reasons};
use crate::output::Output;
use crate::transfer::{
    Content, CopyError, Disk, PIECE_BYTES, Piece, Progress, Source, SourceError, WINDOW, interrupts,
};
use ashlar_types::control::{AttachMode, ControlReply, ControlRequest, DiskMode, Provision, VolumeInfo};
use ashlar_types::{BlockError, DiskName, Name, format_bytes};
use serde_json::json;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

/// As long as a takeover may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether trying again can't help: then nothing is left of the volume.
fn is_final(error: &CopyError) -> bool {
    matches!(error, CopyError::Source(_) | CopyError::Volume { source: BlockError::NoSpace, .. })
}

pub async fn run(control: &Control, args: ImportArgs) -> Result<Output, CliError> {
    let ImportArgs { file, name, size: wanted, pool, provision, disk_mode, format, resume } = args;
    let provision = provision.map(Provision::from);
    mode::check(provision.unwrap_or_default(), disk_mode.map(Into::into).unwrap_or_default())?;
    let failed = |error: &CopyError, what_now: String| {
        let (name, reason) = (name.clone(), reasons(error));
        CliError::Import { name, reason, what_now }
    };
    let mut interrupt = interrupts()?;
    let from = file;
    let source = spawn_blocking(move || Source::open(&from, format, wanted)).await.map_err(CopyError::from);
    let source = source.and_then(|opened| Ok(opened?)).map_err(|error| failed(&error, String::new()))?;
    let size = source.check_size(wanted).map_err(|error| failed(&error.into(), String::new()))?;
    if resume {
        check_volume(control, &name, size, pool.as_ref()).await?;
    } else {
        create(control, &name, size, pool, provision.unwrap_or_default()).await?;
    }
    if let Some(provision) = provision.filter(|_| resume) {
        set_provision(control, &name, before_copy(provision)).await?;
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
    let mut progress = Progress::new(format!("importing {name}"), disk.size());
    let (format, copied) = (source.format(), copy(&disk, source, resume, &mut interrupt, &mut progress).await);
    progress.end();
    let detached = disk.detach().await;
    let written = match copied {
        Ok(written) => written,
        Err(error) if is_final(&error) && !resume => {
            let what_now = undo(control, &name).await;
            return Err(failed(&error, what_now));
        }
        Err(error) => {
            return Err(failed(&error, "; the same command with --resume goes on".to_owned()));
        }
    };
    detached?;
    if provision == Some(Provision::Eager) {
        let volume = set_provision(control, &name, Provision::Eager).await?;
        job::zeroed(control, volume, JobArgs { rate: None, no_wait: false }).await?;
    }
    if let Some(mode) = disk_mode {
        // Not before: what is written to a non-persistent one is dropped.
        let volume = ask_volume(control, "volume show", ControlRequest::VolumeShow { name: name.clone() }).await?;
        mode::set_new(control, volume, mode.into(), PATIENCE).await?;
    }
    let seconds = progress.elapsed().as_secs_f64();
    let text = format!(
        "volume {name} imported from a {format} image: {}, {} written, in {seconds:.1} s",
        format_bytes(size),
        format_bytes(written)
    );
    let value = json!({ "name": name, "size": size, "format": format.to_string(), "written_bytes": written, "seconds": seconds });
    Ok(Output::new(text, value))
}

/// The zeroes of an eager volume are written behind the data, not below it.
fn before_copy(provision: Provision) -> Provision {
    match provision {
        Provision::Thin => Provision::Thin,
        Provision::Lazy | Provision::Eager => Provision::Lazy,
    }
}

/// With its space, where it is to have that; else nothing is left of it.
async fn create(
    control: &Control,
    name: &Name,
    size: u64,
    pool: Option<Name>,
    provision: Provision,
) -> Result<(), CliError> {
    let request = ControlRequest::VolumeCreate { name: name.clone(), size, pool, provision: before_copy(provision) };
    let volume = match control.ask(request).await? {
        ControlReply::Volume(volume) => volume,
        reply => return Err(CliError::unexpected("volume create", &reply)),
    };
    match reserve::wait(control, volume, PATIENCE).await {
        Ok(_) => Ok(()),
        Err(error) => {
            if matches!(error, CliError::StillReserving { .. }) {
                undo(control, name).await;
            }
            Err(error)
        }
    }
}

async fn set_provision(control: &Control, name: &Name, provision: Provision) -> Result<VolumeInfo, CliError> {
    let request = ControlRequest::VolumeSet { name: name.clone(), provision };
    let volume = ask_volume(control, "volume set", request).await?;
    let volume = reserve::wait(control, volume, PATIENCE).await?;
    match volume.provision == provision {
        true => Ok(volume),
        false => Err(CliError::NotReserved { name: name.to_string() }),
    }
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
        ControlReply::Volume(volume) if volume.disk_mode == DiskMode::IndependentNonpersistent => {
            let (mode, way) =
                (volume.disk_mode.word(), "`--disk-mode dependent` makes it one that keeps what is imported");
            Err(CliError::Conflict { what: format!("volume {name} is {mode}; `volume set {name}` with {way}") })
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
) -> Result<u64, CopyError> {
    let behind = Piece { offset: source.size(), content: Content::Zero(disk.size().saturating_sub(source.size())) };
    let (sender, mut pieces) = mpsc::channel::<Piece>(WINDOW);
    let reader = spawn_blocking(move || {
        source.read_all(&mut |piece| sender.blocking_send(piece).is_ok())?;
        // Nobody takes it: why, is known there.
        let _ = sender.blocking_send(behind);
        Ok::<(), SourceError>(())
    });
    // Those that are left when this ends early are given up.
    let mut under_way: JoinSet<Result<(u64, u64), CopyError>> = JoinSet::new();
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
            _ = interrupt.recv() => return Err(CopyError::Interrupted),
        }
    }
    reader.await??;
    disk.flush().await.map_err(|source| CopyError::Volume { offset: 0, source })?;
    Ok(written)
}

/// Gives the bytes that are done, and how many of them were written.
async fn put(disk: Disk, piece: Piece, resume: bool) -> Result<(u64, u64), CopyError> {
    let (offset, len) = (piece.offset, piece.len());
    let failed = |source| CopyError::Volume { offset, source };
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
