//! What the store counts, for metrics and for tests.

/// Since the process started. Bytes and numbers; `memory_*` are of this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Payload of prepares, pushes and repairs.
    pub client_bytes: u64,
    pub device_bytes_written: u64,
    pub device_writes: u64,
    pub device_bytes_read: u64,
    pub device_reads: u64,
    pub flushes: u64,
    pub discards: u64,
    pub discarded_bytes: u64,
    pub records: u64,
    pub batches: u64,
    pub checkpoints: u64,
    /// Index pages written by checkpoints.
    pub index_pages_written: u64,
    /// Blocks whose medium or checksum failed.
    pub bad_blocks: u64,
    /// Index pages that were damaged.
    pub bad_pages: u64,
    pub memory_directory_bytes: u64,
    pub memory_allocator_bytes: u64,
    pub memory_delta_bytes: u64,
    pub memory_cache_bytes: u64,
    pub chunks: u64,
}
