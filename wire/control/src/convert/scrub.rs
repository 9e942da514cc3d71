//! `ashlar_types::scrub`.

use super::{ProtoError, byte, name, pg_from_proto, pg_required, pg_to_proto, required};
use crate::proto;
use crate::proto::scrub_target::Target;
use ashlar_types::scrub::{PgScrub, ScrubReport, ScrubTarget, ScrubWish};
use ashlar_types::{OsdId, PgId};

impl From<ScrubTarget> for proto::ScrubTarget {
    fn from(target: ScrubTarget) -> Self {
        let target = match target {
            ScrubTarget::All => Target::All(proto::Nothing {}),
            ScrubTarget::Pool(pool) => Target::Pool(pool.into()),
            ScrubTarget::Osd(osd) => Target::Osd(osd.0),
            ScrubTarget::Pgs(pgs) => Target::Pgs(proto::PgList { pgs: pgs.into_iter().map(pg_to_proto).collect() }),
        };
        proto::ScrubTarget { target: Some(target) }
    }
}

impl TryFrom<proto::ScrubTarget> for ScrubTarget {
    type Error = ProtoError;
    fn try_from(target: proto::ScrubTarget) -> Result<Self, ProtoError> {
        Ok(match required("ScrubTarget.target", target.target)? {
            Target::All(_) => ScrubTarget::All,
            Target::Pool(pool) => ScrubTarget::Pool(name("ScrubTarget.pool", &pool)?),
            Target::Osd(osd) => ScrubTarget::Osd(OsdId(osd)),
            Target::Pgs(list) => ScrubTarget::Pgs(list.pgs.into_iter().map(pg_from_proto).collect()),
        })
    }
}

impl From<ScrubReport> for proto::ScrubReport {
    fn from(r: ScrubReport) -> Self {
        proto::ScrubReport {
            number: r.number,
            deep: r.deep,
            ended_at: r.ended_at,
            copies: r.copies.into(),
            chunks: r.chunks,
            mismatches: r.mismatches,
            bad_blocks: r.bad_blocks,
            repaired_blocks: r.repaired_blocks,
        }
    }
}

impl TryFrom<proto::ScrubReport> for ScrubReport {
    type Error = ProtoError;
    fn try_from(r: proto::ScrubReport) -> Result<Self, ProtoError> {
        Ok(ScrubReport {
            number: r.number,
            deep: r.deep,
            ended_at: r.ended_at,
            copies: byte("ScrubReport.copies", r.copies)?,
            chunks: r.chunks,
            mismatches: r.mismatches,
            bad_blocks: r.bad_blocks,
            repaired_blocks: r.repaired_blocks,
        })
    }
}

pub(super) fn scrub_to_proto((pg, scrub): (PgId, PgScrub)) -> proto::PgScrub {
    let wish = |w: ScrubWish| proto::ScrubWish { number: w.number, deep: w.deep };
    proto::PgScrub {
        pg: Some(pg_to_proto(pg)),
        wish: scrub.wish.map(wish),
        last: scrub.last.map(Into::into),
        last_deep: scrub.last_deep.map(Into::into),
    }
}

pub(super) fn scrub_from_proto(scrub: proto::PgScrub) -> Result<(PgId, PgScrub), ProtoError> {
    let wish = |w: proto::ScrubWish| ScrubWish { number: w.number, deep: w.deep };
    let report = |r: Option<proto::ScrubReport>| r.map(ScrubReport::try_from).transpose();
    let pg = pg_required("PgScrub.pg", scrub.pg)?;
    let (last, last_deep) = (report(scrub.last)?, report(scrub.last_deep)?);
    Ok((pg, PgScrub { wish: scrub.wish.map(wish), last, last_deep }))
}
