//! The histograms' way from the core to the control thread: by message, so that neither thread waits for the other. With each beat, since
//! nothing else wakes an idle data thread.

use super::{Core, Shell, ToControl};

impl<C: Core> Shell<C> {
    pub(super) fn tell_perf(&mut self) {
        let Some(news) = self.core.perf().news(self.now) else { return };
        if let Err(error) = self.outbox.try_send(ToControl::Perf(news))
            && let ToControl::Perf(news) = error.into_inner()
        {
            self.core.perf().on_news_lost(&news);
        }
    }
}
