//! Jobs: what gateways do for volumes in the background.

use ashlar_types::{JobId, Name};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List the jobs that are not done
    List,
    /// Everything about one job
    Show {
        #[arg(value_parser = job)]
        job: JobId,
    },
    /// Stop working on a job for now; what is done stays
    Pause {
        #[arg(value_parser = job)]
        job: JobId,
    },
    /// Go on with a job that was paused
    Resume {
        #[arg(value_parser = job)]
        job: JobId,
    },
    /// How much a job may write in a second, also while it runs
    Rate {
        #[arg(value_parser = job)]
        job: JobId,
        /// Like 50MiB, at least 1MiB, or none
        #[arg(value_parser = rate, allow_hyphen_values = true)]
        rate: Rate,
    },
    /// Give a job up; what is done stays
    Cancel {
        #[arg(value_parser = job)]
        job: JobId,
    },
}

/// Bytes a second, or as fast as it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

fn rate(text: &str) -> Result<Rate, String> {
    match text {
        "none" => Ok(Rate(None)),
        _ => super::size(text).map(|rate| Rate(Some(rate))).map_err(|error| format!("{error}; or `none`")),
    }
}

fn job(text: &str) -> Result<JobId, &'static str> {
    let number = text.strip_prefix("job.").unwrap_or(text);
    number.parse().map(JobId).map_err(|_| "a job is named like job.7; `ashlar job list` lists them")
}

/// How a job is waited for.
#[derive(Clone, Copy, Debug, Args)]
pub struct JobArgs {
    /// How much may be written in a second, like 50MiB [default: as fast as it goes]
    #[arg(long, value_name = "SIZE", value_parser = super::size, allow_hyphen_values = true)]
    pub rate: Option<u64>,
    /// Return when it has begun; `ashlar job list` tells how far it is
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub struct FlattenArgs {
    #[arg(value_parser = super::name)]
    pub name: Name,
    #[command(flatten)]
    pub job: JobArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_with_and_without_their_prefix() {
        assert_eq!((job("job.7"), job("7")), (Ok(JobId(7)), Ok(JobId(7))));
        for text in ["", "job.", "7.", "vol.7", "-1"] {
            assert!(job(text).is_err(), "{text}");
        }
    }
}
