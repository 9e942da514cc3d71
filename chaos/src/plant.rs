//! The planted bugs: each is one constant of the OSD core's [`Policy`] set the wrong way, or lies between the metadata service and who asks it
//! (world/planted.rs). The simulator is tested by them.

use crate::aim::Aim;
use crate::machine::OsdMachine;
use ashlar_osd_core::{Honest, Osd, OsdConfig, Policy};
use ashlar_types::Tick;
use std::fmt;
use std::str::FromStr;

macro_rules! plants {
    (
        osd { $($plant:ident, $name:literal, $constant:ident, [$($aim:ident),+];)+ }
        mds { $($asked:ident, $asked_name:literal, [$($asked_aim:ident),+];)+ }
    ) => {
        /// A planted bug; what each does stands at the constants of [`Policy`], and in world/planted.rs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Plant {
            $($plant,)+
            $($asked,)+
        }

        impl Plant {
            pub const ALL: &[Plant] = &[$(Plant::$plant,)+ $(Plant::$asked,)+];

            pub fn name(self) -> &'static str {
                match self { $(Plant::$plant => $name,)+ $(Plant::$asked => $asked_name,)+ }
            }
        }

        mod policies {
            use super::Policy;
            $(
                #[derive(Clone, Copy, Debug)]
                pub struct $plant;
                impl Policy for $plant {
                    const $constant: bool = true;
                }
            )+
        }

        /// The faults that bring a planted bug to light soonest.
        pub fn aims_for(plant: Plant) -> &'static [Aim] {
            match plant {
                $(Plant::$plant => &[$(Aim::$aim),+],)+
                $(Plant::$asked => &[$(Aim::$asked_aim),+],)+
            }
        }

        /// An OSD core with the bug, or the honest one.
        pub fn new_machine(plant: Option<Plant>, config: OsdConfig, now: Tick) -> Box<dyn OsdMachine> {
            match plant {
                None $(| Some(Plant::$asked))+ => Box::new(Osd::<Honest>::new(config, now)),
                $(Some(Plant::$plant) => Box::new(Osd::<policies::$plant>::new(config, now)),)+
            }
        }
    };
}

plants! {
    osd {
        AckBeforeFlush, "ack-before-flush", ACK_BEFORE_FLUSH, [PowerLoss];
        NoFlush, "no-flush", NO_FLUSH, [PowerLoss];
        SkipReconcile, "skip-reconcile", SKIP_RECONCILE, [SecondFailure, IsolatePrimary];
        StaleEpochAccepted, "stale-epoch-accepted", STALE_EPOCH_ACCEPTED, [IsolatePrimary];
        NoReadLease, "no-read-lease", NO_READ_LEASE, [IsolatePrimary];
        JoinerNotAwaited, "joiner-not-awaited", JOINER_NOT_AWAITED, [Joiner];
        WriteOnMissingChunk, "write-on-missing-chunk", WRITE_ON_MISSING_CHUNK, [Joiner];
        ForgottenRetryId, "forgotten-retry-id", FORGOTTEN_RETRY_ID, [BreakConnections];
        MinSizeAtAdmissionOnly, "min-size-at-admission-only", MIN_SIZE_AT_ADMISSION_ONLY, [BelowMinSize];
        BootIdIgnored, "boot-id-ignored", BOOT_ID_IGNORED, [LostBoot];
        FloorSkipped, "floor-skipped", FLOOR_SKIPPED, [TakeOver];
        StaleStackRead, "stale-stack-read", STALE_STACK_READ, [Snapshots];
        ForgottenBase, "forgotten-base", FORGOTTEN_BASE, [Clones];
        ReadAcrossMerge, "read-across-merge", READ_ACROSS_MERGE, [Snapshots];
        LayerPurgedEarly, "layer-purged-early", LAYER_PURGED_EARLY, [Snapshots];
        StaleJobWorker, "stale-job-worker", STALE_JOB_WORKER, [Clones];
        ReservationGivenAway, "reservation-given-away", RESERVATION_GIVEN_AWAY, [FullDisk];
        WipeToldEarly, "wipe-told-early", WIPE_TOLD_EARLY, [PowerLoss, Joiner];
        ReplacedNotWiped, "replaced-not-wiped", REPLACED_NOT_WIPED, [PowerLoss, Snapshots];
        LatePrepareAfterReport, "late-prepare-after-report", LATE_PREPARE_AFTER_REPORT, [PausedPrimary];
        DamagedTailVetoes, "damaged-tail-vetoes", DAMAGED_TAIL_VETOES, [DamagedTail];
    }
    mds {
        ScratchKept, "scratch-kept", [DiskModes];
    }
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names no planted bug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a planted bug; there are: {}", Plant::ALL.iter().map(|p| p.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownPlant {
    name: String,
}

impl FromStr for Plant {
    type Err = UnknownPlant;
    fn from_str(name: &str) -> Result<Plant, UnknownPlant> {
        Plant::ALL.iter().copied().find(|p| p.name() == name).ok_or_else(|| UnknownPlant { name: name.to_owned() })
    }
}
