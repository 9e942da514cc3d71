//! What is used, and by which layers, on its way to the metadata service. Of layers its leader is told what has changed; a leader that may be
//! another one is told all.

use ashlar_osd_core::SpaceNews;
use ashlar_types::LayerId;
use std::collections::{BTreeMap, BTreeSet};

/// That go with one heartbeat.
const LAYERS_MAX: usize = 2048;

#[derive(Debug, Default)]
pub(crate) struct SpaceOutbox {
    newest: SpaceNews,
    /// Those that have something.
    layers: BTreeMap<LayerId, u64>,
    unsent: BTreeSet<LayerId>,
    /// What went with the last heartbeat.
    sent: Vec<LayerId>,
}

impl SpaceOutbox {
    /// The data thread has told these.
    pub(crate) fn add(&mut self, news: SpaceNews) {
        for (layer, blocks) in &news.layers {
            self.unsent.insert(*layer);
            match blocks {
                0 => self.layers.remove(layer),
                _ => self.layers.insert(*layer, *blocks),
            };
        }
        self.newest = SpaceNews { layers: Vec::new(), ..news };
    }

    /// What goes with the next heartbeat.
    pub(crate) fn take(&mut self) -> SpaceNews {
        let mut news = self.newest.clone();
        self.sent.clear();
        while news.layers.len() < LAYERS_MAX
            && let Some(layer) = self.unsent.pop_first()
        {
            self.sent.push(layer);
            news.layers.push((layer, self.layers.get(&layer).copied().unwrap_or(0)));
        }
        news
    }

    /// The last heartbeat was lost, or whoever hears the next one may have heard none.
    pub(crate) fn send_all(&mut self) {
        self.unsent.extend(self.sent.drain(..));
        self.unsent.extend(self.layers.keys());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(layers: &[(u64, u64)]) -> SpaceNews {
        let layers = layers.iter().map(|(layer, blocks)| (LayerId(*layer), *blocks)).collect();
        SpaceNews { layers, ..SpaceNews::default() }
    }

    #[test]
    fn only_what_has_changed_is_sent_and_everything_after_a_loss() {
        let mut outbox = SpaceOutbox::default();
        outbox.add(news(&[(1, 5), (2, 6)]));
        outbox.add(news(&[(2, 0), (3, 7)]));
        assert_eq!(outbox.take().layers, news(&[(1, 5), (2, 0), (3, 7)]).layers);
        assert_eq!(outbox.take().layers, []);
        outbox.send_all();
        assert_eq!(outbox.take().layers, news(&[(1, 5), (3, 7)]).layers);
        outbox.add(news(&[(3, 0)]));
        outbox.take();
        outbox.send_all();
        assert_eq!(outbox.take().layers, news(&[(1, 5), (3, 0)]).layers, "that it is gone may be lost, too");
    }
}
