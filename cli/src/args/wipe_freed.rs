//! Volumes that wipe as they free.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SwitchArg {
    On,
    Off,
}

impl SwitchArg {
    pub fn is_on(self) -> bool {
        self == SwitchArg::On
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CommandLine, first_paragraph};
    use clap::Parser;

    #[test]
    fn it_is_set_as_it_is_shown() {
        for line in [
            "ashlar volume create v --size 1G --wipe-freed",
            "ashlar volume set v --wipe-freed on",
            "ashlar volume set v --wipe-freed off --size 2G --json",
        ] {
            CommandLine::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let mistake =
            CommandLine::try_parse_from("ashlar volume set v --wipe-freed yes".split(' ')).expect_err("on or off");
        let text = first_paragraph(&mistake.to_string());
        assert!(text.contains("invalid value 'yes' for '--wipe-freed <on|off>'"), "{text}");
    }
}
