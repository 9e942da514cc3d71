//! When volumes get their space, and how much pools may promise.

use ashlar_types::Name;
use ashlar_types::control::{OverCommit, Provision};
use clap::{Args, ValueEnum};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProvisionArg {
    /// It takes space as it is written
    #[default]
    Thin,
    /// Its whole size is reserved, not written: no write to it meets a full disk
    Lazy,
    /// Its whole size is reserved and written with zeroes, so that no later write has to find a place
    Eager,
}

impl From<ProvisionArg> for Provision {
    fn from(arg: ProvisionArg) -> Provision {
        match arg {
            ProvisionArg::Thin => Provision::Thin,
            ProvisionArg::Lazy => Provision::Lazy,
            ProvisionArg::Eager => Provision::Eager,
        }
    }
}

/// What is waited for by default, as a takeover is.
const RESERVE_SECONDS: u64 = 60;

#[derive(Clone, Copy, Debug, Args)]
pub struct ReserveArgs {
    /// How long a reservation is waited for
    #[arg(long, value_name = "SECONDS", default_value_t = RESERVE_SECONDS, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub timeout: u64,
}

#[derive(Debug, Args)]
#[group(id = "change", required = true, multiple = true, args = ["provision", "size", "disk_mode", "wipe_freed"])]
pub struct VolumeSetArgs {
    #[arg(value_parser = super::name)]
    pub name: Name,
    /// When it gets its space
    #[arg(long, value_name = "MODE")]
    pub provision: Option<ProvisionArg>,
    /// What becomes of what is written to it, and whether snapshot groups take it along. Refused while somebody has it
    #[arg(long, value_name = "MODE")]
    pub disk_mode: Option<super::DiskModeArg>,
    /// Whether what it frees is overwritten, on every OSD, soon after
    #[arg(long, value_name = "on|off")]
    pub wipe_freed: Option<super::SwitchArg>,
    /// The new size, not the difference
    #[arg(long, value_parser = super::size, allow_hyphen_values = true)]
    pub size: Option<u64>,
    /// It may become smaller, also while it is in use. Refused if there is data behind the new end, or if several gateways have it
    #[arg(long, requires = "size")]
    pub shrink: bool,
    /// Also if there is data behind the new end, which is lost
    #[arg(long, requires = "shrink")]
    pub force: bool,
    #[command(flatten)]
    pub reserve: ReserveArgs,
    #[command(flatten)]
    pub job: super::JobArgs,
}

/// A ratio, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverCommitArg(pub Option<OverCommit>);

#[derive(Debug, thiserror::Error)]
#[error("an over-commit ratio is 0.01 to 10000, as 20 or 1.5, or `none`")]
pub struct OverCommitError;

pub fn over_commit(text: &str) -> Result<OverCommitArg, OverCommitError> {
    if text == "none" {
        return Ok(OverCommitArg(None));
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(part) || part.len() > 2 {
        return Err(OverCommitError);
    }
    let hundredths = format!("{part:0<2}").parse::<u32>().map_err(|_| OverCommitError)?;
    let whole = whole.parse::<u32>().map_err(|_| OverCommitError)?;
    let ratio = whole.checked_mul(100).and_then(|whole| whole.checked_add(hundredths)).ok_or(OverCommitError)?;
    if (1..=1_000_000).contains(&ratio) { Ok(OverCommitArg(Some(OverCommit(ratio)))) } else { Err(OverCommitError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_have_two_places() {
        let ratio = |text| over_commit(text).ok().map(|arg| arg.0.map(|ratio| ratio.0));
        assert_eq!(ratio("none"), Some(None));
        for (text, hundredths) in [("20", 2000), ("1.5", 150), ("0.01", 1), ("10000", 1_000_000), ("1.05", 105)] {
            assert_eq!(ratio(text), Some(Some(hundredths)), "{text}");
        }
        for text in ["", "0", "0.00", "10000.01", "-1", "1.005", "x", ".5", "1,5", "99999999999"] {
            assert_eq!(ratio(text), None, "{text}");
        }
    }
}
