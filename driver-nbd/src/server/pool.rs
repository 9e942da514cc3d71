//! Payload bytes that connections share, beyond what each has of its own.
//!
//! O1: who waits is served in the order of arrival, so a long request is not overtaken for ever by short ones.
//! O2: bytes are held by requests that are received, done or answered, never by one that waits for more: what a request
//!     takes, it takes at once. So whoever holds some gives them back, if client and device go on; see `pace` for clients that
//!     don't, `accounts` for devices.

use tokio::sync::{Semaphore, SemaphorePermit};

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

    /// What there is when nobody has any.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Waits until there are `bytes`, at most all of the pool's, and takes them until they are given back, or for as long as the
    /// permit lives.
    pub async fn acquire(&self, bytes: usize) -> SemaphorePermit<'_> {
        let permits = u32::try_from(bytes).expect("a request's payload has at most 32 MiB");
        self.left.acquire_many(permits).await.expect("a pool is never closed")
    }

    pub fn give_back(&self, bytes: usize) {
        self.left.add_permits(bytes);
    }

    #[cfg(test)]
    pub fn left(&self) -> usize {
        self.left.available_permits()
    }
}
