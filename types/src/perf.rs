//! Where the time of requests goes, as OSDs measure it and tell the metadata service: a histogram for each stage.
//! What the stages are and which of them add up stands in docs/operate.md; where they are taken, in `osd_core::perf`.

use crate::{BootId, Histogram, OsdId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole of each kind of request is followed by the parts that add up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stage {
    Write,
    WriteAdmit,
    WriteStore,
    WriteMembers,
    WriteAnswer,
    Read,
    ReadAdmit,
    ReadLease,
    ReadStore,
    ReadAnswer,
    Member,
    MemberAdmit,
    MemberStore,
    MemberAnswer,
    /// A prepare sent to another member, until its answer is here.
    PeerPrepare,
    DiskWrite,
    DiskRead,
    DiskFlush,
    TurnBusy,
    TurnMessages,
}

/// What a stage's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Microseconds,
    Messages,
}

impl Stage {
    pub const COUNT: usize = 20;
    /// In the order in which they are shown; each at its own index.
    pub const ALL: [Stage; Stage::COUNT] = [
        Stage::Write,
        Stage::WriteAdmit,
        Stage::WriteStore,
        Stage::WriteMembers,
        Stage::WriteAnswer,
        Stage::Read,
        Stage::ReadAdmit,
        Stage::ReadLease,
        Stage::ReadStore,
        Stage::ReadAnswer,
        Stage::Member,
        Stage::MemberAdmit,
        Stage::MemberStore,
        Stage::MemberAnswer,
        Stage::PeerPrepare,
        Stage::DiskWrite,
        Stage::DiskRead,
        Stage::DiskFlush,
        Stage::TurnBusy,
        Stage::TurnMessages,
    ];

    /// As it is shown. A part's name begins with that of its whole.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Write => "write",
            Stage::WriteAdmit => "write.admit",
            Stage::WriteStore => "write.store",
            Stage::WriteMembers => "write.members",
            Stage::WriteAnswer => "write.answer",
            Stage::Read => "read",
            Stage::ReadAdmit => "read.admit",
            Stage::ReadLease => "read.lease",
            Stage::ReadStore => "read.store",
            Stage::ReadAnswer => "read.answer",
            Stage::Member => "member",
            Stage::MemberAdmit => "member.admit",
            Stage::MemberStore => "member.store",
            Stage::MemberAnswer => "member.answer",
            Stage::PeerPrepare => "peer.prepare",
            Stage::DiskWrite => "disk.write",
            Stage::DiskRead => "disk.read",
            Stage::DiskFlush => "disk.flush",
            Stage::TurnBusy => "turn.busy",
            Stage::TurnMessages => "turn.messages",
        }
    }

    /// On the network; no number is used twice.
    pub const fn number(self) -> u32 {
        self as u32 + 1
    }

    /// `None` for one that only a newer version knows.
    pub fn from_number(number: u32) -> Option<Stage> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        Stage::ALL.get(index).copied()
    }

    /// Whether it is one of those that add up to a whole.
    pub fn is_part(self) -> bool {
        let of = self.name().split_once('.').map(|(whole, _)| whole);
        [Stage::Write, Stage::Read, Stage::Member].iter().any(|whole| of == Some(whole.name()))
    }

    pub const fn unit(self) -> Unit {
        match self {
            Stage::TurnMessages => Unit::Messages,
            _ => Unit::Microseconds,
        }
    }
}

/// Histograms since the start of a process. One that tells changes leaves out the stages where nothing has changed.
pub type PerfReport = BTreeMap<Stage, Histogram>;

/// What the leader of the metadata service has heard of one OSD process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsdPerf {
    pub osd: OsdId,
    pub boot: BootId,
    pub stages: PerfReport,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_its_number_and_its_place() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
            assert_eq!(Stage::from_number(stage.number()), Some(stage));
        }
        assert_eq!((Stage::from_number(0), Stage::from_number(Stage::COUNT as u32 + 1)), (None, None));
    }

    /// They are on the network: a stage that is taken away keeps its number.
    #[test]
    fn the_numbers_stay() {
        assert_eq!(Stage::Write.number(), 1);
        assert_eq!(Stage::Read.number(), 6);
        assert_eq!(Stage::Member.number(), 11);
        assert_eq!(Stage::PeerPrepare.number(), 15);
        assert_eq!(Stage::TurnMessages.number(), 20);
    }
}
