//! What `volume import` and `volume export` take.

use super::{DiskModeArg, ProvisionArg, disk, name, size};
use crate::transfer::ImageFormat;
use ashlar_types::{DiskName, Name};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A raw or qcow2 image or a block device; `-` is standard input, raw
    pub file: PathBuf,
    /// The volume, which is made
    #[arg(value_parser = name)]
    pub name: Name,
    /// Of the volume [default: what the image has]; how much comes from standard input
    #[arg(long, value_parser = size, allow_hyphen_values = true)]
    pub size: Option<u64>,
    /// [default: the pool `default`]
    #[arg(long, value_parser = name)]
    pub pool: Option<Name>,
    /// When it gets its space: before anything is written to it [default: thin]
    #[arg(long, value_name = "MODE")]
    pub provision: Option<ProvisionArg>,
    /// What becomes of what is written to it after the import, and whether snapshot groups take it along [default: dependent]
    #[arg(long, value_name = "MODE")]
    pub disk_mode: Option<DiskModeArg>,
    /// raw or qcow2 [default: what the file looks like]
    #[arg(long)]
    pub format: Option<ImageFormat>,
    /// Go on with an import that was interrupted: the volume is there; what it holds already is compared, and only the rest written
    #[arg(long)]
    pub resume: bool,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// VOLUME, attached to nobody, or VOLUME@SNAPSHOT
    #[arg(value_name = "VOLUME[@SNAPSHOT]", value_parser = disk)]
    pub disk: DiskName,
    /// A file, which is made, or a block device; `-` is standard output
    pub file: PathBuf,
    /// raw or qcow2 [default: qcow2 if the file's name ends so]
    #[arg(long)]
    pub format: Option<ImageFormat>,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

impl ExportArgs {
    pub fn format(&self) -> ImageFormat {
        let is_qcow2 = self.file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("qcow2"));
        self.format.unwrap_or(if is_qcow2 { ImageFormat::Qcow2 } else { ImageFormat::Raw })
    }
}
