//! The metadata service without I/O: the replicated state machine ([`state::ClusterState`]: OSDs, pools, placement groups,
//! volumes, attachments, barriers) and the Raft node around it ([`node::MetadataNode`]).
//!
//! Both are deterministic: same inputs, same outputs. Time, randomness and completions of disk writes are handed in. The
//! daemon (`mds/daemon`) and the simulator (`chaos/`) run the same code.

pub mod node;
pub mod state;
