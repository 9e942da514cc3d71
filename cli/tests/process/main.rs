//! Real daemons, real clients: each test runs its own `ashlar up` in its own folder, with ports that nobody else has, and stops
//! every process it started, also when it fails. A test whose tools are missing says so and passes.

mod support;
mod wipe_freed;
mod wipes;

mod bad_input;
mod bin;
mod clients;
mod clone_data;
mod clones;
mod crash;
mod damaged;
mod differences;
mod golden;
mod groups;
mod images;
mod jobs;
mod lifecycle;
mod modes;
mod nbd_hostile;
mod perf;
mod production;
mod provision;
mod scrub;
mod shrinks;
mod snapshots;
mod unattended;
