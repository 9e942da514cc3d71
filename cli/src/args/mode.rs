//! Disk modes.

use ashlar_types::control::DiskMode;
use clap::ValueEnum;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DiskModeArg {
    /// Snapshot groups take it along
    #[default]
    Dependent,
    /// Snapshot groups leave it out
    IndependentPersistent,
    /// They leave it out as well, and what is written to it is dropped when it is detached or taken over by another host
    IndependentNonpersistent,
}

impl From<DiskModeArg> for DiskMode {
    fn from(arg: DiskModeArg) -> DiskMode {
        match arg {
            DiskModeArg::Dependent => DiskMode::Dependent,
            DiskModeArg::IndependentPersistent => DiskMode::IndependentPersistent,
            DiskModeArg::IndependentNonpersistent => DiskMode::IndependentNonpersistent,
        }
    }
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
    fn modes_are_written_as_they_are_shown() {
        for arg in DiskModeArg::value_variants() {
            let written = arg.to_possible_value().expect("none is hidden");
            assert_eq!(written.get_name(), DiskMode::from(*arg).word());
        }
        for line in [
            "ashlar volume create v --size 1G --disk-mode independent-persistent",
            "ashlar volume clone v@s w --disk-mode independent-nonpersistent",
            "ashlar volume clone v@s --count 3 --name-template w-%d --disk-mode dependent --json",
            "ashlar volume import file v --disk-mode independent-nonpersistent",
            "ashlar volume set v --disk-mode dependent",
            "ashlar volume set v --disk-mode independent-nonpersistent --provision lazy --size 2G",
        ] {
            CommandLine::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn mistakes_make_one_clear_line() {
        let text = mistake("ashlar volume set v --disk-mode independent");
        assert!(text.contains("invalid value 'independent' for '--disk-mode <MODE>'"), "{text}");
        assert!(mistake("ashlar volume set v").contains("--disk-mode <MODE>"));
    }
}
