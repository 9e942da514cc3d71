//! Histograms on their way to the metadata service. Its leader keeps what it is told, so it is told only what has changed; a leader that may be
//! another one is told everything.

use ashlar_types::perf::{PerfReport, Stage};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(crate) struct PerfOutbox {
    /// Since the start of this process.
    known: PerfReport,
    unsent: BTreeSet<Stage>,
}

impl PerfOutbox {
    /// The data thread has told these.
    pub(crate) fn add(&mut self, news: PerfReport) {
        self.unsent.extend(news.keys());
        self.known.extend(news);
    }

    /// What goes with the next heartbeat.
    pub(crate) fn take(&mut self) -> PerfReport {
        let unsent = std::mem::take(&mut self.unsent);
        unsent.into_iter().filter_map(|stage| Some((stage, self.known.get(&stage)?.clone()))).collect()
    }

    /// A heartbeat was lost, or whoever hears the next one may have heard none.
    pub(crate) fn send_all(&mut self) {
        self.unsent.extend(self.known.keys());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::Histogram;

    fn of(stages: &[Stage], value: u64) -> PerfReport {
        let mut histogram = Histogram::default();
        histogram.add(value);
        stages.iter().map(|stage| (*stage, histogram.clone())).collect()
    }

    #[test]
    fn only_what_has_changed_is_sent_and_everything_after_a_loss() {
        let mut outbox = PerfOutbox::default();
        outbox.send_all();
        assert_eq!(outbox.take(), PerfReport::new());
        outbox.add(of(&[Stage::Read, Stage::Write], 1));
        outbox.add(of(&[Stage::Read], 2));
        let newest: PerfReport = of(&[Stage::Read], 2).into_iter().chain(of(&[Stage::Write], 1)).collect();
        assert_eq!(outbox.take(), newest);
        assert_eq!(outbox.take(), PerfReport::new());
        outbox.add(of(&[Stage::Write], 1));
        assert_eq!(outbox.take(), of(&[Stage::Write], 1));
        outbox.send_all();
        assert_eq!(outbox.take(), newest);
    }
}
