//! `ashlar gateway`: ties the NBD server to the volume library. Exports are the volumes attached to this gateway's name; each
//! connection asks for its volume anew, so what exists may change.

use super::{asked_to_end, runtime};
use crate::args::DaemonArgs;
use crate::config::GatewayConfig;
use crate::down;
use crate::error::CliError;
use crate::output::Output;
use ashlar_client::{Gateway, GatewayOptions, OpenError};
use ashlar_driver_nbd::{ExportEntry, ExportFuture, Exports, Limits, Server};
use ashlar_types::control::{AttachmentInfo, ControlRequest};
use ashlar_types::{BlockDevice, BootId};
use ashlar_wire_control::ControlClient;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::sync::Arc;
use std::time::Duration;

/// How long requests under way may take when the process is asked to end, and then the volumes to close. `down` waits for both:
/// who is killed instead leaves its socket behind, and sessions that were not closed.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(6);
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// What neither of them counts: idle clients that are still told, and the process's end.
const SHUTDOWN_REST: Duration = Duration::from_secs(1);
const _: () = assert!(
    SHUTDOWN_GRACE.as_secs() + CLOSE_PATIENCE.as_secs() + SHUTDOWN_REST.as_secs() < down::STOP_SECONDS,
    "a gateway ends by itself before `down` kills it"
);

/// Between two tries to reach the metadata service at the start.
const PAUSE: Duration = Duration::from_millis(200);

pub fn run(args: &DaemonArgs) -> Result<Output, CliError> {
    super::run("gateway", args, |config: GatewayConfig| {
        raise_open_files_limit();
        runtime(threads())?.block_on(serve(config))
    })
}

/// Half of the processors: the others do the work of those who ask, and a request that wakes another thread on its way costs more than it gains.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2)
}

/// Each connection is a descriptor, and the usual soft limit is 1024.
fn raise_open_files_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve(config: GatewayConfig) -> Result<(), CliError> {
    let control = ControlClient::new(config.mds.clone())?;
    let boot = BootId(super::random_u64()?);
    let mut ended = std::pin::pin!(asked_to_end());
    let gateway = tokio::select! {
        gateway = connect(&config, &control, boot) => gateway,
        ended = &mut ended => return ended,
    };
    let defaults = Limits::default();
    let limits = Limits {
        connections_max: config.nbd_connections_max,
        connections_per_export_max: defaults.connections_per_export_max.max(config.nbd_connections_max / 4),
        shutdown_grace: SHUTDOWN_GRACE,
        ..defaults
    };
    let server = Server::new(Arc::new(Volumes { gateway: gateway.clone() }), limits);
    let daemon = |what| move |source: std::io::Error| CliError::Daemon { what, source: source.into() };
    let address = server.listen_tcp(config.nbd_listen).await.map_err(daemon("cannot listen for NBD on nbd_listen"))?;
    let request = ControlRequest::RegisterGateway {
        gateway: config.name.clone(),
        boot,
        nbd_address: config.nbd_advertise.clone().unwrap_or_else(|| address.to_string()),
        nbd_socket: config.nbd_socket.display().to_string(),
    };
    tokio::select! {
        registered = control.request(request) => drop(registered?),
        ended = &mut ended => return ended,
    }
    // Last, since `up` takes it for a sign that the gateway is up: by then the cluster knows its addresses.
    // A socket file that a killed process left is ours: the pid file, or the service manager, allows one process.
    server.listen_unix(&config.nbd_socket).await.map_err(daemon("cannot listen for NBD on nbd_socket"))?;
    tracing::info!(gateway = %config.name, %boot, %address, socket = %config.nbd_socket.display(), "serving");
    tokio::select! {
        () = gateway.work() => {}
        ended = &mut ended => ended?,
    }
    server.shutdown().await;
    gateway.shutdown().await;
    Ok(())
}

/// Daemons may start in any order: waits for the metadata service as long as it takes.
async fn connect(config: &GatewayConfig, control: &ControlClient, boot: BootId) -> Gateway {
    let defaults = GatewayOptions::default();
    let base_cache_bytes = config.clone_cache_bytes.unwrap_or(defaults.base_cache_bytes);
    let jobs_max = config.jobs_max.unwrap_or(defaults.jobs_max);
    let options = GatewayOptions { close_patience: CLOSE_PATIENCE, base_cache_bytes, jobs_max, ..defaults };
    loop {
        let control = Arc::new(control.clone());
        match Gateway::connect(control, config.name.clone(), boot, options).await {
            Ok(gateway) => return gateway,
            Err(error) => tracing::warn!(%error, "waiting for the metadata service"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The volumes attached to this gateway, as NBD sees them.
struct Volumes {
    gateway: Gateway,
}

impl Exports for Volumes {
    fn list(&self) -> ExportFuture<'_, Vec<ExportEntry>> {
        Box::pin(async {
            let attachments = self.gateway.list().await;
            let attachments =
                attachments.map_err(|error| ashlar_driver_nbd::OpenError::Unavailable(error.to_string()))?;
            let describe = |attachment: &AttachmentInfo| match (&attachment.name.snapshot, attachment.read_only) {
                (Some(_), _) => "snapshot, read-only".to_owned(),
                (None, true) => "volume, read-only".to_owned(),
                (None, false) => "volume".to_owned(),
            };
            let entry = |attachment: AttachmentInfo| ExportEntry {
                name: attachment.name.to_string(),
                description: describe(&attachment),
            };
            Ok(attachments.into_iter().map(entry).collect())
        })
    }

    fn open<'a>(&'a self, name: &'a str) -> ExportFuture<'a, Arc<dyn BlockDevice>> {
        Box::pin(async move {
            match self.gateway.open(name).await {
                Ok(volume) => Ok(volume as Arc<dyn BlockDevice>),
                Err(error) => Err(refusal(&error)),
            }
        })
    }
}

fn refusal(error: &OpenError) -> ashlar_driver_nbd::OpenError {
    use ashlar_driver_nbd::OpenError as Nbd;
    let text = error.to_string();
    match error {
        OpenError::Name(_) | OpenError::NotAttached { .. } => Nbd::Unknown(text),
        OpenError::Fencing { .. } | OpenError::Fenced { .. } | OpenError::Refused { .. } => Nbd::Busy(text),
        OpenError::Control { .. } => Nbd::Unavailable(text),
        OpenError::ShuttingDown => Nbd::ShuttingDown,
    }
}
