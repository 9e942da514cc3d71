//! `ashlar_types::perf`: histograms, of which only the buckets that hold something go over the network.
//! Nothing of it can be wrong in a way that matters: what only a newer version knows is passed over.

use crate::proto;
use ashlar_types::perf::{OsdPerf, PerfReport, Stage};
use ashlar_types::{BootId, Histogram, OsdId};

pub(super) fn stages_to_proto(stages: PerfReport) -> Vec<proto::StageHistogram> {
    stages.into_iter().map(|(stage, histogram)| to_proto(stage, &histogram)).collect()
}

pub(super) fn stages_from_proto(stages: Vec<proto::StageHistogram>) -> PerfReport {
    stages.into_iter().filter_map(from_proto).collect()
}

fn to_proto(stage: Stage, histogram: &Histogram) -> proto::StageHistogram {
    let mut last = 0;
    let (mut steps, mut counts) = (Vec::new(), Vec::new());
    for (bucket, count) in histogram.buckets() {
        steps.push(u32::from(bucket - last));
        counts.push(count);
        last = bucket;
    }
    proto::StageHistogram { stage: stage.number(), sum: histogram.sum(), max: histogram.max(), steps, counts }
}

fn from_proto(of: proto::StageHistogram) -> Option<(Stage, Histogram)> {
    let stage = Stage::from_number(of.stage)?;
    let buckets = of.steps.into_iter().scan(0u16, |bucket, step| {
        *bucket = bucket.saturating_add(u16::try_from(step).unwrap_or(u16::MAX));
        Some(*bucket)
    });
    Some((stage, Histogram::from_buckets(of.sum, of.max, buckets.zip(of.counts))))
}

impl From<OsdPerf> for proto::OsdPerf {
    fn from(of: OsdPerf) -> Self {
        proto::OsdPerf { osd: of.osd.0, boot: of.boot.0, stages: stages_to_proto(of.stages) }
    }
}

impl From<proto::OsdPerf> for OsdPerf {
    fn from(of: proto::OsdPerf) -> Self {
        OsdPerf { osd: OsdId(of.osd), boot: BootId(of.boot), stages: stages_from_proto(of.stages) }
    }
}
