//! The places where the simulator plants bugs (conventions §2): constants that only `chaos` sets. Daemons are built with
//! [`Honest`], where each is `false` and the compiler drops the branch.

/// One planted bug each; the names are those of `ashlar chaos sim --plant`.
pub trait Policy: std::fmt::Debug + 'static {
    /// Answers a prepare when it is written, before it is flushed.
    const ACK_BEFORE_FLUSH: bool = false;
    /// Never flushes.
    const NO_FLUSH: bool = false;
    /// A new primary keeps all of its own undecided writes and asks nobody.
    const SKIP_RECONCILE: bool = false;
    /// R3: prepares of an epoch older than the promised one are taken.
    const STALE_EPOCH_ACCEPTED: bool = false;
    /// R5: reads are served without leases.
    const NO_READ_LEASE: bool = false;
    /// R1: a write is answered without the joining members that have its chunk.
    const JOINER_NOT_AWAITED: bool = false;
    /// R8: a write to a chunk that wasn't pushed yet is taken by a joining member.
    const WRITE_ON_MISSING_CHUNK: bool = false;
    /// R10: only the last few retry ids are kept.
    const FORGOTTEN_RETRY_ID: bool = false;
    /// R12: `min_size` isn't checked when a write is answered.
    const MIN_SIZE_AT_ADMISSION_ONLY: bool = false;
    /// R7: a restarted primary goes on in the epoch it held, and by the name of the process that held it: clients and peers refuse
    /// any other.
    const BOOT_ID_IGNORED: bool = false;
    /// §7: barriers are reported as passed without a floor.
    const FLOOR_SKIPPED: bool = false;
    /// A wipe is told as done at once, of which nothing was done.
    const WIPE_TOLD_EARLY: bool = false;
    /// F1: what a checkpoint finds to be replaced is not wiped.
    const REPLACED_NOT_WIPED: bool = false;
    /// L2: reads by an older stack are served when a newer one is.
    const STALE_STACK_READ: bool = false;
    /// §6: a write that covers an unwritten block of a clone partly takes the rest for zeroes.
    const FORGOTTEN_BASE: bool = false;
    /// M2: a read through the stack that a merge has overtaken is answered all the same.
    const READ_ACROSS_MERGE: bool = false;
    /// A primary says that nothing is left of a layer that it has begun to merge.
    const LAYER_PURGED_EARLY: bool = false;
    /// §6: a fill is done by what its worker knew, over what was written meanwhile.
    const STALE_JOB_WORKER: bool = false;
    /// §4: credit out of what is reserved is granted for any volume.
    const RESERVATION_GIVEN_AWAY: bool = false;
    /// R4: a member reports without waiting for the prepares that it has under way.
    const LATE_PREPARE_AFTER_REPORT: bool = false;
    /// R4: a member whose log is damaged reports as if it could tell.
    const DAMAGED_TAIL_VETOES: bool = false;
}

/// No planted bug: what daemons run.
#[derive(Clone, Copy, Debug)]
pub struct Honest;

impl Policy for Honest {}
