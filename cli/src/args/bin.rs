//! Deleting volumes, and the bin that keeps some of them.

use super::name;
use ashlar_types::Name;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[arg(value_parser = name)]
    pub name: Name,
    /// Its snapshots too; into the bin they go anyway
    #[arg(long)]
    pub snapshots: bool,
    /// Keep it in the bin for so long, like 12h or 7d [default: as the pool says]
    #[arg(long, value_name = "TIME", value_parser = span, allow_hyphen_values = true)]
    pub defer: Option<u64>,
    /// For good, whatever the pool says
    #[arg(long, conflicts_with = "defer")]
    pub now: bool,
    /// For good, and overwrite every block that it ever had, on every OSD
    #[arg(long, conflicts_with = "defer")]
    pub secure: bool,
    /// Don't wait until all is overwritten; `ashlar wipe` shows how far it is
    #[arg(long, requires = "secure")]
    pub no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub enum BinCommand {
    /// List the volumes in the bin
    List,
    /// Bring a volume back, with its snapshots
    Restore {
        /// Its name or its id
        #[arg(value_name = "NAME|ID")]
        volume: String,
        /// Under this name [default: the one that it had]
        #[arg(long, value_parser = name)]
        name: Option<Name>,
    },
    /// Delete volumes in the bin for good, with their snapshots
    Purge(PurgeArgs),
}

#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// Its name or its id
    #[arg(value_name = "NAME|ID", required_unless_present_any = ["all", "expired"], conflicts_with_all = ["all", "expired"])]
    pub volume: Option<String>,
    /// All of them
    #[arg(long, conflicts_with = "expired")]
    pub all: bool,
    /// Those whose time is over, without waiting for the window in which that happens by itself
    #[arg(long)]
    pub expired: bool,
    /// And overwrite every block that they ever had, on every OSD
    #[arg(long)]
    pub secure: bool,
    /// Don't wait until all is overwritten; `ashlar wipe` shows how far it is
    #[arg(long, requires = "secure")]
    pub no_wait: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SpanError {
    #[error("{0:?} is not a time; write it as 90s, 30m, 12h or 7d")]
    Unit(String),
    #[error("{0:?} is longer than the bin keeps anything: at most {DAYS_MAX}d")]
    Long(String),
}

/// As the metadata service has it; here, so that a pool isn't made before its time is refused.
const DAYS_MAX: u64 = 3650;

/// Seconds.
fn span(text: &str) -> Result<u64, SpanError> {
    let wrong = || SpanError::Unit(text.to_owned());
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 60 * 60,
        Some('d') => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    let is_kept = |seconds: &u64| *seconds <= DAYS_MAX * 24 * 60 * 60;
    seconds.filter(is_kept).ok_or_else(|| SpanError::Long(text.to_owned()))
}

/// Of a pool: also `0`, for none.
pub fn retention(text: &str) -> Result<u64, SpanError> {
    if text == "0" { Ok(0) } else { span(text) }
}

#[cfg(test)]
mod tests {
    use super::super::{CommandLine, first_paragraph};
    use super::*;
    use clap::Parser;

    fn mistake(line: &str) -> String {
        first_paragraph(&CommandLine::try_parse_from(line.split(' ')).expect_err(line).to_string())
    }

    #[test]
    fn the_spellings_that_scripts_use_are_understood() {
        for line in [
            "ashlar volume delete v --defer 7d",
            "ashlar volume delete v --snapshots --defer 90s --json",
            "ashlar volume delete v --now --snapshots",
            "ashlar pool create p --replicas 3 --bin-retention 7d",
            "ashlar pool set p --bin-retention 12h",
            "ashlar pool set p --bin-retention 0",
            "ashlar bin list --json",
            "ashlar bin restore v",
            "ashlar bin restore vol.3 --name w",
            "ashlar bin purge v",
            "ashlar bin purge --all",
            "ashlar bin purge --expired --json",
        ] {
            CommandLine::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn times_have_a_unit() {
        let spans = ["1s", "2m", "3h", "4d"].map(|text| span(text).expect("a time"));
        assert_eq!(spans, [1, 120, 3 * 3600, 4 * 86_400]);
        for text in
            ["", "7", "d", "7w", "-1d", "1.5h", "7 d", "7D", "99999999999999999999d", "18446744073709551615d", "7é"]
        {
            assert!(span(text).is_err(), "{text}");
        }
        assert!(span("3650d").is_ok() && span("3651d").expect_err("too long").to_string().contains("at most 3650d"));
        assert!(retention("0").is_ok_and(|seconds| seconds == 0) && retention("1").is_err());
    }

    #[test]
    fn mistakes_make_one_clear_line() {
        assert!(
            mistake("ashlar volume delete v --defer 7")
                .contains("\"7\" is not a time; write it as 90s, 30m, 12h or 7d")
        );
        assert!(mistake("ashlar volume delete v --defer -7d").contains("\"-7d\" is not a time"));
        assert!(mistake("ashlar volume delete v --defer 7d --now").contains("--now"));
        assert!(mistake("ashlar pool set p").contains("--bin-retention"));
        assert!(mistake("ashlar pool set p --bin-retention soon").contains("\"soon\" is not a time"));
        assert!(mistake("ashlar bin purge").contains("<NAME|ID>"));
        assert!(mistake("ashlar bin purge v --all").contains("--all"));
        assert!(mistake("ashlar bin restore").contains("<NAME|ID>"));
        assert!(mistake("ashlar bin restore v --name a@b").contains("a name takes letters"));
    }
}
