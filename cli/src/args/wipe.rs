//! Wipes: the records of volumes that were deleted so that nothing of them is left.

use ashlar_types::WipeId;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum WipeCommand {
    /// List the volumes that were or are being wiped
    List,
    /// Everything about one of them: what was wiped on each OSD, and what is waited for
    Show {
        #[arg(value_parser = wipe)]
        wipe: WipeId,
    },
    /// Take the record of one away
    Forget {
        #[arg(value_parser = wipe)]
        wipe: WipeId,
        /// Wait no more for OSDs that have not wiped; the record stays, and names them
        #[arg(long)]
        give_up: bool,
    },
}

fn wipe(text: &str) -> Result<WipeId, &'static str> {
    let number = text.strip_prefix("wipe.").unwrap_or(text);
    number.parse().map(WipeId).map_err(|_| "a wipe is named like wipe.7; `ashlar wipe list` lists them")
}

#[cfg(test)]
mod tests {
    use super::super::{CommandLine, first_paragraph};
    use clap::Parser;

    fn mistake(line: &str) -> String {
        first_paragraph(&CommandLine::try_parse_from(line.split(' ')).expect_err(line).to_string())
    }

    #[test]
    fn the_spellings_that_scripts_use_are_understood() {
        for line in [
            "ashlar volume delete v --secure",
            "ashlar volume delete v --secure --now --snapshots --no-wait --json",
            "ashlar bin purge v --secure",
            "ashlar bin purge --all --secure --no-wait",
            "ashlar wipe list --json",
            "ashlar wipe show wipe.3",
            "ashlar wipe show 3",
            "ashlar wipe forget wipe.3 --give-up",
        ] {
            CommandLine::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn mistakes_make_one_clear_line() {
        assert!(mistake("ashlar volume delete v --secure --defer 7d").contains("--defer"));
        assert!(mistake("ashlar volume delete v --no-wait").contains("--secure"));
        assert!(mistake("ashlar bin purge v --no-wait").contains("--secure"));
        assert!(mistake("ashlar wipe show vm").contains("a wipe is named like wipe.7"));
        assert!(mistake("ashlar wipe forget").contains("<WIPE>"));
    }
}
