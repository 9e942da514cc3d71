//! Payload bytes that connections share, beyond what each has of its own.
//!
//! O1: who waits is served in the order of arrival, so a long request is not overtaken for ever by short ones.
//! O2: bytes are held by requests that are received, done or answered, never by one that waits for more: what a request
//!     takes, it takes at once. So whoever holds some gives them back, if client and device go on; see `pace` for clients that don't.

use tokio::sync::Semaphore;

#[derive(Debug)]
pub(super) struct Pool {
    bytes: usize,
    left: Semaphore,
}

impl Pool {
    pub fn new(bytes: usize) -> Pool {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Pool { bytes, left: Semaphore::new(bytes) }
    }

    /// Waits until there are `bytes`, and takes them. A request that is longer than the pool takes all of it. Gives how much was
    /// taken.
    pub async fn take(&self, bytes: usize) -> usize {
        let bytes = bytes.min(self.bytes);
        let permits = u32::try_from(bytes).expect("a request's payload has at most 32 MiB");
        self.left.acquire_many(permits).await.expect("a pool is never closed").forget();
        bytes
    }

    pub fn give_back(&self, bytes: usize) {
        self.left.add_permits(bytes);
    }

    #[cfg(test)]
    pub fn left(&self) -> usize {
        self.left.available_permits()
    }
}
