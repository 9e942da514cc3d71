//! The way of histograms and of what is used from the core to the control thread: by message, so that neither thread waits for the other. With each beat, since
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

    pub(super) fn tell_space(&mut self) {
        let news = self.core.space_news();
        if let Err(error) = self.outbox.try_send(ToControl::Space(news))
            && let ToControl::Space(news) = error.into_inner()
        {
            self.core.on_space_news_lost(&news);
        }
    }
}
