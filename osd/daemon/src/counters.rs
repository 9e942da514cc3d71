//! What the data thread counts, read by the control thread.

use ashlar_types::control::OsdUsage;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident)*) => {
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Counters {
            /// Name and value of each, for logs and metrics.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Rounds of the data thread; each handles all that was done meanwhile.
    batches_total
    events_total
    messages_received_total
    messages_sent_total
    bytes_received_total
    bytes_sent_total
    /// Vectored sends; each carries all messages that waited for one connection.
    sends_total
    disk_reads_total
    disk_read_bytes_total
    disk_writes_total
    disk_write_bytes_total
    /// Bytes that had to be copied because the disk didn't take them where they were.
    disk_write_copied_bytes_total
    disk_flushes_total
    disk_discards_total
    disk_errors_total
    connections_accepted_total
    connections_refused_total
    /// Closed for a malformed frame.
    connections_malformed_total
    /// Closed because their peer didn't read.
    connections_stalled_total
    connections_open
    /// Requests to the metadata service dropped because too many waited. Both threads count here.
    control_dropped_total
    usage_total_bytes
    usage_used_bytes
    usage_free_bytes
    /// What volumes that have their size reserved may still take.
    usage_unfilled_bytes
    /// Of what is used: superblocks and log, index, data of layers.
    usage_fixed_bytes
    usage_index_bytes
    usage_data_bytes
    /// Of what is free: what a wipe under way has not looked at yet.
    usage_wipe_left_bytes
    /// Of what volumes that wipe as they free have given up: what is not wiped yet, about.
    usage_unwiped_bytes
    /// Of the same: what was overwritten and could not be read back.
    usage_wipe_unverified_bytes
    repaired_blocks_total
    lost_blocks_total
}

/// For what the data thread alone counts: without a locked instruction, of which a batch would have ten.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Counters {
    pub fn usage(&self) -> OsdUsage {
        OsdUsage {
            total: self.usage_total_bytes.load(Relaxed),
            used: self.usage_used_bytes.load(Relaxed),
            free: self.usage_free_bytes.load(Relaxed),
            unfilled: self.usage_unfilled_bytes.load(Relaxed),
            fixed: self.usage_fixed_bytes.load(Relaxed),
            index: self.usage_index_bytes.load(Relaxed),
            data: self.usage_data_bytes.load(Relaxed),
            repaired_blocks: self.repaired_blocks_total.load(Relaxed),
            lost_blocks: self.lost_blocks_total.load(Relaxed),
            wipe_left: self.usage_wipe_left_bytes.load(Relaxed),
            unwiped: self.usage_unwiped_bytes.load(Relaxed),
            wipe_unverified: self.usage_wipe_unverified_bytes.load(Relaxed),
        }
    }

    pub(crate) fn set_usage(&self, usage: OsdUsage) {
        self.usage_total_bytes.store(usage.total, Relaxed);
        self.usage_used_bytes.store(usage.used, Relaxed);
        self.usage_free_bytes.store(usage.free, Relaxed);
        self.usage_unfilled_bytes.store(usage.unfilled, Relaxed);
        self.usage_fixed_bytes.store(usage.fixed, Relaxed);
        self.usage_index_bytes.store(usage.index, Relaxed);
        self.usage_data_bytes.store(usage.data, Relaxed);
        self.repaired_blocks_total.store(usage.repaired_blocks, Relaxed);
        self.lost_blocks_total.store(usage.lost_blocks, Relaxed);
        self.usage_wipe_left_bytes.store(usage.wipe_left, Relaxed);
        self.usage_unwiped_bytes.store(usage.unwiped, Relaxed);
        self.usage_wipe_unverified_bytes.store(usage.wipe_unverified, Relaxed);
    }
}
