//! `ashlar volume set`: when a volume gets its space, and its size. To shrink one that nobody has (else: shrink.rs) this process takes it for itself,
//! looks at what lies behind the new end and discards it, so that a volume that grows again reads as zeroes there.

use super::volume::{ask_volume, if_reserved, provision_word, volume_json};
use super::{job, mode, reserve, shrink};
use crate::args::VolumeSetArgs;
use crate::control::Control;
use crate::error::CliError;
use crate::output::{Output, note};
use crate::transfer::{Disk, interrupts};
use ashlar_types::control::{AttachMode, ControlError, ControlRequest, DiskMode, Provision, VolumeInfo};
use ashlar_types::job::{JobInfo, JobKind};
use ashlar_types::{BLOCK_BYTES, BlockError, DiskName, Name, format_bytes};
use ashlar_wire_control::ControlClientError;
use std::time::Duration;

/// Looked at, and discarded, at a time.
const STEP_BYTES: u64 = 1 << 30;

pub async fn run(control: &Control, args: VolumeSetArgs) -> Result<Output, CliError> {
    let VolumeSetArgs { name, provision, disk_mode, size, shrink: may_shrink, force, reserve, job: how } = args;
    job::check(provision.map(Into::into), may_shrink, how)?;
    let patience = Duration::from_secs(reserve.timeout);
    let mut volume = ask_volume(control, "volume show", ControlRequest::VolumeShow { name: name.clone() }).await?;
    let mut shrinking = None;
    // Who becomes persistent may be shrunk and made eager then; who becomes non-persistent is what it shall be before.
    let mode = disk_mode.map(DiskMode::from);
    let is_last = mode == Some(DiskMode::IndependentNonpersistent);
    if let Some(mode) = mode.filter(|_| !is_last) {
        volume = mode::set(control, volume, mode, patience).await?;
    }
    if let Some(size) = size {
        volume = match size < volume.size {
            true if may_shrink && shrink::is_in_use(&volume) => {
                let (now, job) = shrink::run(control, &volume, size, force, how).await?;
                shrinking = job.map(|job| job.id);
                now
            }
            true if may_shrink => shrink_unused(control, &volume, size, force).await?,
            true => {
                let (has, way) = (format_bytes(volume.size), "--shrink makes it smaller");
                return Err(CliError::Conflict { what: format!("volume {name} has {has}, which is more; {way}") });
            }
            false if may_shrink && size > volume.size => {
                let has = format_bytes(volume.size);
                let what = format!("volume {name} has {has}, which is less; without --shrink it grows");
                return Err(CliError::Conflict { what });
            }
            false => {
                let request = ControlRequest::VolumeExtend { name: name.clone(), size };
                let was = volume.provision;
                let volume = ask_volume(control, "volume extend", request).await?;
                let volume = reserve::wait(control, volume, patience).await?;
                if was != Provision::Thin && volume.provision == Provision::Thin {
                    let done = format!("volume {name} has {} now", format_bytes(volume.size));
                    return Err(CliError::BecameThin { name: name.to_string(), done });
                }
                volume
            }
        };
    }
    if let Some(provision) = provision {
        let request = ControlRequest::VolumeSet { name, provision: provision.into() };
        volume = ask_volume(control, "volume set", request).await?;
        volume = reserve::wait(control, volume, patience).await?;
        if volume.provision != provision.into() {
            return Err(CliError::NotReserved { name: volume.name.to_string() });
        }
        volume = job::zeroed(control, volume, how).await?;
    }
    if let Some(mode) = mode.filter(|_| is_last) {
        volume = mode::set(control, volume, mode, patience).await?;
    }
    let (size, how) = (format_bytes(volume.size), provision_word(volume.provision));
    let and = disk_mode.map_or(String::new(), |_| format!(" and {}", volume.disk_mode.word()));
    let begun = shrinking.map_or(String::new(), |job| format!("; {job} shrinks it"));
    let text = format!("volume {} is {how}{and} now and has {size}{}{begun}", volume.name, if_reserved(&volume));
    Ok(Output::new(text, volume_json(&volume)))
}

/// While a volume is written with zeroes its worker would go on behind the new end, where this process has discarded already, and nobody would give that
/// space back. So the job is paused, which fences the worker before the disk is given to us, and goes on in the end.
async fn shrink_unused(control: &Control, volume: &VolumeInfo, size: u64, force: bool) -> Result<VolumeInfo, CliError> {
    if volume.disk_mode == DiskMode::IndependentNonpersistent {
        // The metadata service would say so when the end is discarded already.
        let (name, why) = (&volume.name, "what it falls back to holds its end");
        let way = "give it `--disk-mode dependent` in the same command";
        let what = format!("volume {name} is {} and can't be shrunk: {why}; {way}", volume.disk_mode.word());
        return Err(CliError::Conflict { what });
    }
    let job = job::of_volume(control, volume.id).await?.filter(|job| job.kind == JobKind::Zero && !job.paused);
    let Some(job) = job else { return shrink_at_rest(control, volume, size, force).await };
    let mut interrupt = interrupts()?;
    match set_paused(control, &job, true).await {
        Ok(()) => {}
        // It has just ended.
        Err(CliError::Control(ControlClientError::Refused(ControlError::NotFound { .. }))) => {
            return shrink_at_rest(control, volume, size, force).await;
        }
        Err(error) => {
            // It may have been heard all the same.
            resume(control, &job).await;
            return Err(error);
        }
    }
    let shrunk = tokio::select! {
        shrunk = shrink_at_rest(control, volume, size, force) => shrunk,
        _ = interrupt.recv() => {
            let name = &volume.name;
            let way = format!("`ashlar volume detach {name}` takes it from this command, `volume show` says its size");
            Err(CliError::Conflict { what: format!("interrupted while volume {name} was being shrunk; {way}") })
        }
    };
    resume(control, &job).await;
    shrunk
}

async fn set_paused(control: &Control, job: &JobInfo, paused: bool) -> Result<(), CliError> {
    job::ask(control, ControlRequest::JobSet { job: job.id, rate: job.rate, paused }).await.map(drop)
}

/// What was shrunk, or not, is more than that.
async fn resume(control: &Control, job: &JobInfo) {
    match set_paused(control, job, false).await {
        // Given up meanwhile.
        Err(CliError::Control(ControlClientError::Refused(ControlError::NotFound { .. }))) => {}
        Err(error) => {
            note(&format!("{} stays paused: {error}; `ashlar job resume {}` goes on with it", job.id, job.id));
        }
        Ok(()) => {}
    }
}

async fn shrink_at_rest(
    control: &Control,
    volume: &VolumeInfo,
    size: u64,
    force: bool,
) -> Result<VolumeInfo, CliError> {
    let name = DiskName::from(volume.name.clone());
    let gateway = Disk::gateway_name("shrink", &name);
    let disk = Disk::attach(control, &name, gateway.clone(), AttachMode::Exclusive, false).await?;
    let shrunk = match clear(&disk, &volume.name, size, force).await {
        Ok(()) => {
            let request = ControlRequest::VolumeShrink { name: volume.name.clone(), size, gateway };
            ask_volume(control, "volume set", request).await
        }
        Err(error) => Err(error),
    };
    let detached = disk.detach().await;
    let shrunk = shrunk?;
    detached.map(|()| shrunk)
}

/// Discards all from `end` on. Of the block in which the end lies only what is behind it counts and is cleared; whole blocks are given up without being
/// read.
async fn clear(disk: &Disk, name: &Name, end: u64, force: bool) -> Result<(), CliError> {
    let failed = |source: BlockError| CliError::Shrink { name: name.clone(), source };
    let refuse = |at: u64| {
        let what =
            format!("volume {name} has data behind {end} bytes, the first at {at}; --force shrinks it all the same");
        Err(CliError::Conflict { what })
    };
    let whole = end.next_multiple_of(BLOCK_BYTES.into()).min(disk.size());
    if end < whole {
        let len = u32::try_from(whole - end).expect("less than a block");
        let tail = disk.read(end, len).await.map_err(failed)?;
        if let Some(first) = tail.iter().position(|byte| *byte != 0) {
            if !force {
                return refuse(end + first as u64);
            }
            disk.zero(end, len.into()).await.map_err(failed)?;
        }
    }
    let mut at = whole;
    while at < disk.size() {
        for extent in disk.extents(at, (disk.size() - at).min(STEP_BYTES)).await.map_err(failed)? {
            if !extent.zero && !force {
                return refuse(at);
            }
            if !extent.zero {
                disk.zero(at, extent.len).await.map_err(failed)?;
            }
            at += extent.len;
        }
    }
    disk.flush().await.map_err(failed)
}
