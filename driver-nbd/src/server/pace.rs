//! How fast a client must go on that holds bytes of the pool, for which others wait.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What has to pass in or out within the patience. So a client can't hold a longest payload for ever with a byte now and then,
/// and one behind a link of some Mbit/s is not cut off.
const PROGRESS_BYTES: usize = 4 << 20;

/// The client received or sent too little for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stalled;

#[derive(Debug)]
pub(super) struct Pace {
    patience: Duration,
    deadline: Instant,
    bytes: usize,
}

impl Pace {
    pub fn new(patience: Duration) -> Pace {
        Pace { patience, deadline: Instant::now() + patience, bytes: 0 }
    }

    /// So many bytes have passed.
    pub fn on_bytes(&mut self, count: usize) {
        self.bytes += count;
        if self.bytes >= PROGRESS_BYTES {
            *self = Pace::new(self.patience);
        }
    }

    /// Waits for the client, without end while nobody needs what it holds.
    pub async fn keep<T>(
        &mut self,
        transfer: impl Future<Output = T>,
        is_needed: impl Fn() -> bool,
    ) -> Result<T, Stalled> {
        let mut transfer = pin!(transfer);
        loop {
            match timeout_at(self.deadline, &mut transfer).await {
                Ok(result) => return Ok(result),
                Err(_) if is_needed() => return Err(Stalled),
                Err(_) => *self = Pace::new(self.patience),
            }
        }
    }
}
