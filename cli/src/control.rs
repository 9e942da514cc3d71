//! Questions to the metadata service.

use crate::error::CliError;
use ashlar_types::control::{ControlReply, ControlRequest, OsdUsage, VolumeInfo};
use ashlar_types::perf::OsdPerf;
use ashlar_types::view::{ClusterView, PoolInfo};
use ashlar_types::{ClusterId, OsdId, PgId, Revision};
use ashlar_wire_control::ControlClient;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an election, or a restart of all nodes, may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Control {
    client: ControlClient,
    patience: Duration,
}

/// What the leader knows beyond the replicated state.
#[derive(Clone, Debug)]
pub struct ServiceStatus {
    /// Its address.
    pub leader: String,
    /// Of OSDs that the leader has heard of their space.
    pub usage: BTreeMap<OsdId, OsdUsage>,
    /// Deleted volumes that clones stand on.
    pub volumes_kept: u64,
    pub volumes_in_bin: u64,
    /// Their sizes together.
    pub bin_bytes: u64,
}

impl Control {
    pub fn new(addresses: Vec<String>) -> Result<Control, CliError> {
        Ok(Control { client: ControlClient::new(addresses)?, patience: PATIENCE })
    }

    /// For those who ask by themselves.
    pub fn client(&self) -> &ControlClient {
        &self.client
    }

    pub fn with_patience(self, patience: Duration) -> Control {
        Control { patience, ..self }
    }

    pub async fn ask(&self, request: ControlRequest) -> Result<ControlReply, CliError> {
        Ok(self.client.request_within(request, self.patience).await?)
    }

    pub async fn status(&self) -> Result<ServiceStatus, CliError> {
        match self.ask(ControlRequest::ServiceStatus).await? {
            ControlReply::Status(status) => Ok(ServiceStatus {
                leader: status.address,
                usage: status.usage.into_iter().filter(|(_, usage)| usage.total > 0).collect(),
                volumes_kept: status.volumes_kept,
                volumes_in_bin: status.volumes_in_bin,
                bin_bytes: status.bin_bytes,
            }),
            reply => Err(CliError::unexpected("status", &reply)),
        }
    }

    pub async fn view(&self) -> Result<ClusterView, CliError> {
        self.view_since(Revision(0)).await
    }

    /// What changed since.
    pub async fn view_since(&self, revision: Revision) -> Result<ClusterView, CliError> {
        match self.ask(ControlRequest::ViewSince { revision }).await? {
            ControlReply::View(view) => Ok(*view),
            reply => Err(CliError::unexpected("a view", &reply)),
        }
    }

    /// The number of the wish, and the PGs that the request was for.
    pub async fn scrub(&self, request: ControlRequest) -> Result<(u64, Vec<PgId>), CliError> {
        match self.ask(request).await? {
            ControlReply::Scrub { number, pgs } => Ok((number, pgs)),
            reply => Err(CliError::unexpected("scrub", &reply)),
        }
    }

    /// What OSDs have told of the time of their requests.
    pub async fn perf(&self) -> Result<Vec<OsdPerf>, CliError> {
        match self.ask(ControlRequest::PerfStatus).await? {
            ControlReply::Perf(osds) => Ok(osds),
            reply => Err(CliError::unexpected("perf", &reply)),
        }
    }

    pub async fn pools(&self) -> Result<Vec<PoolInfo>, CliError> {
        match self.ask(ControlRequest::PoolList).await? {
            ControlReply::Pools(pools) => Ok(pools),
            reply => Err(CliError::unexpected("pool list", &reply)),
        }
    }

    pub async fn volumes(&self) -> Result<Vec<VolumeInfo>, CliError> {
        match self.ask(ControlRequest::VolumeList).await? {
            ControlReply::Volumes(volumes) => Ok(volumes),
            reply => Err(CliError::unexpected("volume list", &reply)),
        }
    }

    /// Takes the next OSD id.
    pub async fn osd_create(&self, host: String) -> Result<(OsdId, ClusterId), CliError> {
        match self.ask(ControlRequest::OsdCreate { host }).await? {
            ControlReply::OsdCreated { osd, cluster } => Ok((osd, cluster)),
            reply => Err(CliError::unexpected("osd create", &reply)),
        }
    }
}
