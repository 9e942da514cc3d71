//! `ashlar up`: a whole cluster in one folder, or whatever is missing of it. Everything it does is done by the daemons'
//! configuration files, `osd create` and `pool create`; it only does them in order.
//! U1: whatever is interrupted, running it again finishes it: each step is recorded in `cluster.toml` when it is done.
//! U2: a disk that can't be an OSD's is said, and keeps nothing else from coming up, now or later.

mod configs;
mod plan;
mod ports;
mod services;
mod supervise;

pub use configs::host_name;
pub use services::Services;

use crate::args::UpArgs;
use crate::cluster_file::{ClusterFile, GatewayEntry, MdsEntry, OsdEntry, PendingOsd};
use crate::config::SOCKET_PATH_BYTES_MAX;
use crate::control::Control;
use crate::disk::{self, NewDisk};
use crate::error::CliError;
use crate::health;
use crate::layout::{Layout, Service};
use crate::output::{Output, note};
use crate::place::Place;
use crate::process;
use ashlar_osd::OsdError;
use ashlar_types::control::ControlRequest;
use ashlar_types::{ClusterId, MdsId, Name, OsdId, format_bytes};
use plan::Wish;
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use supervise::EndSignals;

/// How long another `up` or `down` of the same folder may take.
const FOLDER_PATIENCE: Duration = Duration::from_secs(90);
const POOL_DEFAULT: &str = "default";
const REPLICAS_DEFAULT: usize = 3;
/// Placement groups find their primaries in far less.
const PGS_PATIENCE: Duration = Duration::from_secs(15);

pub async fn run(args: UpArgs, place: Option<Place>, as_json: bool) -> Result<Output, CliError> {
    let folder = Place::folder_for(args.dir.clone(), place, "up")?;
    let layout = Layout::new(&folder)?;
    layout.make_folders()?;
    let lock = process::lock_folder(&layout.lock_file(), &folder, FOLDER_PATIENCE)?;
    // Before the pid file is held: `down` finds it by that, and tells it to end.
    let mut end = args.foreground.then(EndSignals::catch).transpose()?;
    let _held = args.foreground.then(|| process::hold_pid_file(&layout.supervisor_file())).transpose()?;
    let begin = Instant::now();
    let wish = wish(&args)?;
    let (cluster, mut failures) = begin_cluster(&layout, &wish).await?;
    let mut services = Services::new(&layout, cluster);
    tokio::select! {
        brought_up = bring_everything_up(&mut services) => failures.extend(brought_up?),
        () = EndSignals::recv_if(&mut end) => return supervise::stop(&mut services),
    }
    let output = report(&services, begin.elapsed()).await?;
    drop(lock);
    let Some(end) = end else {
        return match failures.into_iter().next() {
            Some(first) => Err(first),
            None => Ok(output),
        };
    };
    failures.iter().for_each(|failure| note(&format!("ashlar: {}", failure.one_line())));
    output.print(as_json).map_err(|source| CliError::System { what: "cannot print", source })?;
    supervise::run(services, end).await
}

fn wish(args: &UpArgs) -> Result<Wish, CliError> {
    let absolute = |path: &PathBuf| {
        std::fs::canonicalize(path).map_err(|source| CliError::File { action: "find disk", path: path.clone(), source })
    };
    Ok(Wish {
        osds: args.osds,
        osd_bytes: args.osd_size,
        preallocate: args.preallocate,
        disks: args.disk.iter().map(absolute).collect::<Result<_, _>>()?,
    })
}

/// The folder's cluster, made if there is none, with what the options add noted down before anything is done; and why some of what
/// they add can't be.
async fn begin_cluster(layout: &Layout, wish: &Wish) -> Result<(ClusterFile, Vec<CliError>), CliError> {
    let found = ClusterFile::load(layout)?;
    let mut cluster = match found.clone() {
        Some(cluster) => cluster,
        None => new_cluster(layout)?,
    };
    let is_empty = cluster.osd.is_empty() && cluster.pending.is_empty();
    let added = plan::plan(wish, &cluster, |path| disk::bytes(path).ok())?;
    plan::correct_unfinished(wish, &mut cluster);
    cluster.pending.extend(added);
    let mut refusals = drop_refused(layout, &mut cluster).await?;
    if is_empty && !refusals.is_empty() {
        // Nothing that could come up meanwhile, and the first pool would get the wrong number of replicas.
        return Err(refusals.remove(0));
    }
    if found.as_ref() != Some(&cluster) {
        cluster.save(layout)?;
    }
    Ok((cluster, refusals))
}

/// U2: an OSD without an id is only a wish; one that can't be granted is forgotten, and may be made again.
async fn drop_refused(layout: &Layout, cluster: &mut ClusterFile) -> Result<Vec<CliError>, CliError> {
    // A mistake in the file is no disk's fault.
    cluster.id(layout)?;
    let mut refusals = Vec::new();
    for pending in std::mem::take(&mut cluster.pending) {
        let refusal = match pending.id {
            Some(_) => None,
            None => check_disk(layout, cluster, &pending).await.err(),
        };
        match refusal {
            Some(refusal) => refusals.push(refusal),
            None => cluster.pending.push(pending),
        }
    }
    Ok(refusals)
}

async fn check_disk(layout: &Layout, cluster: &ClusterFile, pending: &PendingOsd) -> Result<(), CliError> {
    // Its folder is named after an id that it doesn't have yet; nothing is there.
    let path = pending.disk.clone().unwrap_or_else(|| layout.osd_disk(NO_OSD));
    let config = configs::osd_config(layout, cluster, NO_OSD, &path, "127.0.0.1:0")?;
    match disk::check(config, new_disk(pending)).await {
        Err(CliError::Osd(OsdError::Failed { reason, .. })) if pending.disk.is_none() => {
            let size = format_bytes(pending.bytes.unwrap_or_default());
            Err(CliError::Conflict { what: format!("--osd-size {size}: {reason}") })
        }
        checked => checked,
    }
}

/// Ids are given out from 1.
const NO_OSD: OsdId = OsdId(0);

fn new_disk(pending: &PendingOsd) -> NewDisk {
    NewDisk { bytes: pending.bytes, preallocate: pending.preallocate, force: false }
}

fn new_cluster(layout: &Layout) -> Result<ClusterFile, CliError> {
    let id = MdsId(1);
    let mds = ports::choose(Service::Mds(id), ports::MDS_PORT, &[])?;
    let nbd = ports::choose(Service::Gateway, ports::NBD_PORT, &[])?;
    let cluster = ClusterId(random_u128()?);
    let gateway = GatewayEntry { name: "gateway.1".to_owned(), nbd, nbd_socket: socket_path(layout, cluster) };
    Ok(ClusterFile::new(cluster, MdsEntry { id, address: mds }, gateway))
}

/// In the folder, unless its path is too long for a socket's address.
fn socket_path(layout: &Layout, cluster: ClusterId) -> PathBuf {
    let usual = layout.folder(Service::Gateway).join("nbd.sock");
    if usual.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return usual;
    }
    let short = std::env::temp_dir().join(format!("ashlar-{}.sock", &cluster.to_string()[..12]));
    note(&format!("{} is too long for a socket's path, using {}", usual.display(), short.display()));
    short
}

fn random_u128() -> Result<u128, CliError> {
    let mut bytes = [0u8; 16];
    crate::random::fill(&mut bytes)?;
    // 0 stands for no cluster.
    Ok(u128::from_le_bytes(bytes).max(1))
}

/// What failed for good; the rest is up.
async fn bring_everything_up(services: &mut Services<'_>) -> Result<Vec<CliError>, CliError> {
    let mds: Vec<Service> = services.cluster.mds.iter().map(|mds| Service::Mds(mds.id)).collect();
    // Without metadata nothing else can come up.
    if let Some(failure) = services.bring_up(&mds).await?.into_iter().next() {
        return Err(failure);
    }
    let control = services.control()?;
    let mut failures = add_pending(services, &control).await?;
    let is_whole = failures.is_empty();
    let mut rest: Vec<Service> = services.cluster.osd.iter().map(|osd| Service::Osd(osd.id)).collect();
    rest.push(Service::Gateway);
    failures.extend(services.bring_up(&rest).await?);
    if is_whole {
        // Otherwise the next `up` makes it: a pool keeps the number of replicas that it was made with.
        make_default_pool(services, &control).await?;
    }
    if failures.is_empty() {
        wait_for_primaries(&control).await?;
    }
    Ok(failures)
}

/// Finishes pending OSDs up to their being part of the cluster, not yet running. What fails stays for the next `up`, unless it can't
/// ever be.
async fn add_pending(services: &mut Services<'_>, control: &Control) -> Result<Vec<CliError>, CliError> {
    let mut failures = Vec::new();
    let mut at = 0;
    while at < services.cluster.pending.len() {
        let Err(failure) = add_osd(services, control, at).await else { continue };
        if is_refusal(&failure) {
            // U2: the disk has changed since it was checked. The id serves the next OSD.
            let pending = services.cluster.pending.remove(at);
            remove_if_too_small(services.layout, &pending, &failure);
            services.cluster.osd_ids_unused.extend(pending.id);
            services.cluster.osd_ids_unused.sort_unstable_by(|a, b| b.cmp(a));
            services.cluster.save(services.layout)?;
        } else {
            at += 1;
        }
        failures.push(failure);
    }
    Ok(failures)
}

/// A file of `up`'s own on which no store fits would be in the way of the next OSD of this id. Nothing is on it.
fn remove_if_too_small(layout: &Layout, pending: &PendingOsd, failure: &CliError) {
    if let (None, Some(id), CliError::Osd(OsdError::Failed { .. })) = (&pending.disk, pending.id, failure) {
        // If it can't be removed, the next one is refused as this one was.
        let _ = std::fs::remove_file(layout.osd_disk(id));
    }
}

/// Whether the disk is the reason, and will be so tomorrow.
fn is_refusal(failure: &CliError) -> bool {
    let CliError::Osd(failure) = failure else { return false };
    matches!(
        failure,
        OsdError::Occupied { .. } | OsdError::NotADisk { .. } | OsdError::TooSmall { .. } | OsdError::Failed { .. }
    )
}

async fn add_osd(services: &mut Services<'_>, control: &Control, at: usize) -> Result<(), CliError> {
    let id = match services.cluster.pending[at].id {
        Some(id) => id,
        None => {
            let id = match services.cluster.osd_ids_unused.pop() {
                Some(id) => id,
                None => control.osd_create(host_name()).await?.0,
            };
            services.cluster.pending[at].id = Some(id);
            services.cluster.save(services.layout)?;
            id
        }
    };
    let pending = services.cluster.pending[at].clone();
    let path = pending.disk.clone().unwrap_or_else(|| services.layout.osd_disk(id));
    let taken = services::all_addresses(&services.cluster);
    let address = ports::choose(Service::Osd(id), services.cluster.osd_port_first, &taken)?;
    let config = configs::osd_config(services.layout, &services.cluster, id, &path, &address)?;
    disk::prepare(config, new_disk(&pending)).await?;
    services.cluster.osd.push(OsdEntry { id, address, disk: path });
    services.cluster.pending.remove(at);
    services.cluster.save(services.layout)
}

async fn make_default_pool(services: &Services<'_>, control: &Control) -> Result<(), CliError> {
    if !control.pools().await?.is_empty() || services.cluster.osd.is_empty() {
        return Ok(());
    }
    let replicas = services.cluster.osd.len().min(REPLICAS_DEFAULT);
    if replicas < REPLICAS_DEFAULT {
        note(&format!(
            "the pool {POOL_DEFAULT} keeps {replicas} {}, since there are only so many OSDs; {REPLICAS_DEFAULT} survive more",
            if replicas == 1 { "copy" } else { "copies" }
        ));
    }
    let name = Name::new(POOL_DEFAULT).expect("a name");
    let replicas = u8::try_from(replicas).expect("at most three");
    control.ask(ControlRequest::PoolCreate { name, replicas, min_size: None, over_commit: None }).await.map(|_| ())
}

async fn wait_for_primaries(control: &Control) -> Result<(), CliError> {
    let begin = Instant::now();
    while begin.elapsed() < PGS_PATIENCE {
        let view = control.view().await?;
        if health::summarize(&view).without_primary == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    note("some placement groups have no primary yet; `ashlar status` says why");
    Ok(())
}

async fn report(services: &Services<'_>, took: Duration) -> Result<Output, CliError> {
    let (layout, cluster) = (services.layout, &services.cluster);
    let started: Vec<String> = services.children.keys().map(Service::to_string).collect();
    let pools = services.control()?.pools().await?;
    let osds: Vec<serde_json::Value> = cluster
        .osd
        .iter()
        .map(|osd| json!({ "id": osd.id.0, "address": osd.address, "disk": osd.disk, "bytes": disk::bytes(&osd.disk).ok() }))
        .collect();
    let value = json!({
        "folder": layout.root(),
        "cluster": cluster.cluster,
        "mds": cluster.mds_addresses(),
        "nbd_address": cluster.gateway.nbd,
        "nbd_socket": cluster.gateway.nbd_socket,
        "gateway": cluster.gateway.name,
        "osds": osds,
        "pools": pools.iter().map(|pool| json!({ "name": pool.name, "replicas": pool.replicas })).collect::<Vec<_>>(),
        "started": started,
    });
    let mut text = String::new();
    let what =
        if started.is_empty() { "runs already".to_owned() } else { format!("is up after {:.1} s", took.as_secs_f64()) };
    let _ = writeln!(text, "The cluster in {} {what}.", layout.root().display());
    let _ = writeln!(text, "  mds   {}", cluster.mds_addresses().join(", "));
    for osd in &cluster.osd {
        let _ = writeln!(text, "  {} {}, {}", osd.id, osd.address, describe_disk(osd.id, &osd.disk));
    }
    for pool in &pools {
        let _ = writeln!(text, "  pool  {}, {} replicas, writes need {}", pool.name, pool.replicas, pool.min_size);
    }
    let _ = writeln!(text, "  NBD   {} and {}", cluster.gateway.nbd, cluster.gateway.nbd_socket.display());
    let _ = writeln!(text, "Try next:");
    if Place::default_folder().ok().as_deref() != Some(layout.root()) {
        let _ = writeln!(text, "  export ASHLAR_CLUSTER={}", shell_word(layout.root()));
    }
    text.push_str("  ashlar volume create disk1 --size 1GiB\n  ashlar volume attach disk1\n  ashlar status\n");
    Ok(Output::new(text, value))
}

fn describe_disk(_id: OsdId, path: &Path) -> String {
    match disk::bytes(path) {
        Ok(bytes) => format!("{} on {}", format_bytes(bytes), path.display()),
        Err(_) => path.display().to_string(),
    }
}

fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::shell_word;
    use std::path::Path;

    #[test]
    fn odd_folders_are_quoted_for_the_shell() {
        assert_eq!(shell_word(Path::new("/tmp/a-b")), "/tmp/a-b");
        assert_eq!(shell_word(Path::new("/tmp/it's mine")), r"'/tmp/it'\''s mine'");
    }
}
