//! Snapshots of several volumes at one moment.

use super::{SNAPSHOT_SECONDS, TIMEOUT_SECONDS_MAX, name};
use ashlar_types::Name;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum SnapshotGroupCommand {
    /// Keep what several volumes hold at one moment, attached or not: each gets a snapshot of the group's name
    Create {
        #[arg(value_parser = name)]
        name: Name,
        /// Which, with commas between them
        #[arg(long, value_name = "A,B,...", required = true, value_delimiter = ',', value_parser = name)]
        volumes: Vec<Name>,
        /// How long it is waited for that nothing can change the snapshots any more
        #[arg(long, value_name = "SECONDS", default_value_t = SNAPSHOT_SECONDS, value_parser = clap::value_parser!(u64).range(..=TIMEOUT_SECONDS_MAX))]
        timeout: u64,
    },
    /// List the groups
    List,
    /// Everything about one group
    Show {
        #[arg(value_parser = name)]
        name: Name,
    },
    /// Delete the snapshots that are left of a group. Refused while one of them is attached
    Delete {
        #[arg(value_parser = name)]
        name: Name,
    },
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
            "ashlar snapshot group create nightly --volumes a,b,c",
            "ashlar snapshot group create nightly --volumes a --volumes b --timeout 5 --json",
            "ashlar snapshot group list",
            "ashlar snapshot group show nightly --json",
            "ashlar snapshot group delete nightly",
        ] {
            CommandLine::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn mistakes_make_one_clear_line() {
        assert!(mistake("ashlar snapshot group create nightly").contains("--volumes <A,B,...>"));
        assert!(mistake("ashlar snapshot group create --volumes a,b").contains("<NAME>"));
        assert!(mistake("ashlar snapshot group create g --volumes a,,b").contains("name"));
        assert!(mistake("ashlar snapshot group create g --volumes a@s").contains("a name takes letters"));
        assert!(mistake("ashlar snapshot group create v@g --volumes a").contains("a name takes letters"));
        assert!(mistake("ashlar snapshot group show").contains("<NAME>"));
    }
}
