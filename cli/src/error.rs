//! Why a command failed, as one line for people.

use crate::layout::Service;
use ashlar_client::OpenError;
use ashlar_types::control::ControlReply;
use ashlar_types::{BlockError, JobId, Name, NameError, WipeId};
use ashlar_wire_control::ControlClientError;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Config { path: PathBuf, reason: String },
    #[error("no home folder is known; say where the cluster is with --cluster")]
    NoHome,
    #[error(
        "no cluster in {}; start one with `ashlar up`, or name another with --cluster DIR|HOST:PORT",
        folder.display()
    )]
    NoCluster { folder: PathBuf },
    #[error("`{command}` works on a cluster's folder on this machine; name it with --cluster DIR")]
    NeedsFolder { command: &'static str },
    /// An option contradicts the cluster that is there.
    #[error("{what}")]
    Conflict { what: String },
    #[error("{service} is not of this folder; it has {have}")]
    UnknownService { service: Service, have: String },
    #[error("another ashlar command has been working on {} for {} s", folder.display(), waited.as_secs())]
    FolderBusy { folder: PathBuf, waited: Duration },
    #[error("{} is held by process {holder}: it runs already", path.display())]
    AlreadyRuns { path: PathBuf, holder: i32 },
    #[error("cannot start {service}")]
    Start { service: Service, source: io::Error },
    #[error("cannot stop {service}")]
    Stop { service: Service, source: io::Error },
    #[error("{service} ended ({status}) right after its start: {last_line}; its log is {}", log.display())]
    Died { service: Service, status: String, last_line: String, log: PathBuf },
    #[error(
        "{service} can't start: {address} is taken by another program, and {told} look for it there; end that program, or move \
         {service} with `ashlar down` and `ashlar up`, which interrupts attached volumes"
    )]
    AddressTaken { service: Service, address: String, told: String },
    #[error("no free port for {service} from {first} on")]
    NoPort { service: Service, first: u16 },
    #[error("{what} after {} s; see {}", waited.as_secs(), log.display())]
    NotReady { what: String, waited: Duration, log: PathBuf },
    #[error("the cluster in {} is down; `ashlar up` brings it back", folder.display())]
    Down { folder: PathBuf },
    #[error(transparent)]
    Control(#[from] ControlClientError),
    /// A peer of another version, or our bug.
    #[error("the metadata service answered {request} with something else: {reply}")]
    Unexpected { request: &'static str, reply: String },
    #[error("say which gateway with --gateway; {known}")]
    WhichGateway { known: String },
    #[error("the gateway at {address} does not serve {volume:?} yet: {reason}")]
    Gateway { address: String, volume: String, reason: String },
    /// Whoever had it may still write to these PGs.
    #[error(
        "volume {name:?} is {done}, but after {} s who had it before is not fenced everywhere: waiting for {pgs}",
        waited.as_secs()
    )]
    NotFenced { name: String, done: &'static str, waited: Duration, pgs: String },
    #[error(
        "snapshot {name} is taken, but after {} s it may still change: waiting for {pgs}; `ashlar snapshot show {name}` says when it is available",
        waited.as_secs()
    )]
    NotAvailable { name: String, waited: Duration, pgs: String },
    #[error(
        "there is no room to reserve for volume {name}: others have taken it meanwhile; `ashlar pool show` says what is used"
    )]
    NotReserved { name: String },
    #[error(
        "after {} s not all OSDs have said that they keep the space of volume {name}: `ashlar status` says whether some are down; \
         `ashlar volume show {name}` says when it is reserved",
        waited.as_secs()
    )]
    StillReserving { name: String, waited: Duration },
    #[error(
        "{done}, but there was no room left to reserve for it: volume {name} is thin now; `volume set {name} --provision lazy` tries again"
    )]
    BecameThin { name: String, done: String },
    #[error("{made}, but volume {name} is not {mode} yet; `volume set {name} --disk-mode {mode}` tries again")]
    ModeNotSet { made: String, name: String, mode: &'static str, source: Box<CliError> },
    #[error("{job} does not exist: it is done or given up; `ashlar job list` lists those that are not")]
    NoJob { job: JobId },
    #[error("{wipe} is not known; `ashlar wipe list` lists those that are")]
    NoWipe { wipe: WipeId },
    #[error("{job} of volume {volume} was given up before it was done; what it had done stays")]
    JobGivenUp { job: JobId, volume: Name },
    #[error(
        "{job}, which shrank volume {volume}, was given up; what --force allowed it to discard is lost, `ashlar volume show {volume}` says its size"
    )]
    ShrinkGivenUp { job: JobId, volume: Name },
    #[error("volume {name} keeps its size: what lies behind the new end cannot be discarded: {source}")]
    Shrink { name: Name, source: BlockError },
    #[error("pool {name:?} does not exist")]
    NoPool { name: Name },
    #[error(
        "snapshot group {name} is taken, but after {} s its snapshots may still change, and writes to its volumes wait: waiting for {pgs}; `ashlar snapshot group show {name}` says when it is available, `ashlar snapshot group delete {name}` gives it up",
        waited.as_secs()
    )]
    GroupNotAvailable { name: String, waited: Duration, pgs: String },
    /// The first requests for many clones were done, and then one was not.
    #[error(
        "{made} of {wanted} clones are made, up to {last}; `--first {first_left} --count {}` goes on behind them when this is mended",
        wanted - made
    )]
    Cloned { made: usize, wanted: usize, last: Name, first_left: u64, source: Box<CliError> },
    #[error("no clone is made{}", if left.is_empty() { String::new() } else { format!(", but {} could not be deleted again", left.join(", ")) })]
    NotCloned { left: Vec<String>, source: Box<CliError> },
    #[error("volume {name} is not imported: {reason}{what_now}")]
    Import { name: Name, reason: String, what_now: String },
    #[error("{name} is not exported: {reason}")]
    Export { name: String, reason: String },
    #[error("{name} cannot be compared: at byte {offset}")]
    Compare { name: String, offset: u64, source: BlockError },
    #[error("it can't be opened here")]
    Open { source: Box<OpenError> },
    #[error("--name-template makes a name that is none")]
    NameTemplate { source: NameError },
    #[error(transparent)]
    Osd(#[from] ashlar_osd::OsdError),
    #[error(transparent)]
    Mds(#[from] ashlar_mds::MdsError),
    /// A daemon could not begin or go on.
    #[error("{what}")]
    Daemon { what: &'static str, source: Box<dyn Error + Send + Sync> },
    #[error("{} is in use by a running OSD; stop that first", path.display())]
    DiskInUse { path: PathBuf },
    #[error("{what}")]
    System { what: &'static str, source: io::Error },
}

/// The exit status of a daemon whose address is taken, so that `up` knows to choose another.
pub const EXIT_ADDRESS_IN_USE: u8 = 4;

impl CliError {
    pub fn unexpected(request: &'static str, reply: &ControlReply) -> CliError {
        CliError::Unexpected { request, reply: format!("{reply:?}").chars().take(200).collect() }
    }

    pub fn exit_status(&self) -> u8 {
        if is_address_in_use(self) { EXIT_ADDRESS_IN_USE } else { 1 }
    }

    /// The whole chain of reasons in one line.
    pub fn one_line(&self) -> String {
        reasons(self).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// An error and what it came from.
pub fn reasons(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(reason) = next {
        let more = reason.to_string();
        // Some libraries repeat their source in their own text.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = reason.source();
    }
    text
}

fn is_address_in_use(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::AddrInUse) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_make_one_line() {
        let source = io::Error::new(io::ErrorKind::PermissionDenied, "not\nyours");
        let error = CliError::File { action: "read", path: "/x".into(), source };
        assert_eq!(error.one_line(), "cannot read /x: not yours");
    }

    #[test]
    fn a_taken_address_has_its_own_exit_status() {
        let taken: Box<dyn Error + Send + Sync> = Box::new(io::Error::from(io::ErrorKind::AddrInUse));
        assert_eq!(CliError::Daemon { what: "mds", source: taken }.exit_status(), EXIT_ADDRESS_IN_USE);
        let other: Box<dyn Error + Send + Sync> = Box::new(io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(CliError::Daemon { what: "mds", source: other }.exit_status(), 1);
    }
}
