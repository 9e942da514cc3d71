//! Attachments: which gateway has which volume or snapshot, and the generations that fence (design.md §7).
//! A1: an attachment id or session id is never used twice. A2: a generation that a process was given is given to no other
//! process: a new process of the gateway gets the next one, behind a barrier. A3: nobody becomes the holder of a grant while the
//! volume's floor is still on its way to the PGs. Who holds one already asks again for the present stack and is answered at once: what is
//! on its way then doesn't fence it, for whoever is fenced has lost its process here (`active`) before the barrier began. Not so where a volume is
//! shared: its holders get a new stack when nobody can use the old one any more (docs/decisions/026-stacks-are-named-by-clients.md).
//! Nor while it is frozen together with others (U2, group.rs).
//! A4: snapshots are attached read-only, by as many as like, beside the attachments of the volume.
//! What is written to a non-persistent volume ends with the attachment (mode.rs).

use super::volume::VolumeRecord;
use super::{ClusterState, Outcome, check_text, invalid, not_found};
use ashlar_types::control::{AttachGrant, AttachMode, AttachmentInfo, ControlError, ControlReply};
use ashlar_types::{AttachmentId, BootId, DiskName, Generation, SessionId, SnapshotId, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

const GATEWAYS_MAX: usize = 10_000;
/// And as many of all its snapshots.
const ATTACHMENTS_PER_VOLUME_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AttachmentRecord {
    pub(super) id: AttachmentId,
    pub(super) gateway: String,
    /// `None`: of the volume itself.
    pub(super) snapshot: Option<SnapshotId>,
    pub(super) generation: Generation,
    pub(super) shared: bool,
    pub(super) read_only: bool,
    /// The gateway process that holds this generation; `BootId(0)` while none does.
    pub(super) boot: BootId,
    pub(super) session: SessionId,
    /// Whether a process was ever given a generation of this attachment: only then there is something to fence.
    pub(super) opened: bool,
    /// A process holds it and the floor holds (A3).
    pub(super) active: bool,
    /// Processes that were replaced; they don't take the attachment back when they wake up.
    pub(super) replaced: BTreeSet<BootId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GatewayRecord {
    pub(super) boot: BootId,
    pub(super) nbd_address: String,
    pub(super) nbd_socket: String,
}

impl ClusterState {
    pub(super) fn attach(&mut self, name: &DiskName, gateway: String, mode: AttachMode, read_only: bool) -> Outcome {
        check_text("the gateway's name", &gateway, false)?;
        let volume = self.usable_volume(&name.volume)?;
        let id = volume.id;
        let snapshot = volume.snapshot_id(name)?;
        let present = volume.attachments.values().find(|a| a.is_at(&gateway, snapshot)).map(|a| a.id);
        if snapshot.is_some() {
            return match present {
                Some(present) => self.attachment_reply(id, present),
                None => self.add_attachment(id, snapshot, gateway, true, true),
            };
        }
        self.check_attach_mode(volume, mode)?;
        match mode {
            AttachMode::Exclusive => {
                if let Some(holder) = volume.own_attachments().next() {
                    return Err(attached(name, &holder.gateway));
                }
            }
            AttachMode::Shared => {
                if let Some(holder) = volume.own_attachments().find(|a| !a.shared) {
                    return Err(attached(name, &holder.gateway));
                }
                if let Some(present) = present {
                    return self.attach_again(id, present, read_only);
                }
                self.check_not_shrinking(volume)?;
            }
            AttachMode::Force => self.take_over(id, present, read_only),
        }
        match present {
            Some(present) => self.attachment_reply(id, present),
            None => self.add_attachment(id, None, gateway, mode == AttachMode::Shared, read_only),
        }
    }

    /// The same once more is the same answer; a gateway has one attachment of a volume, which is not changed under its users.
    fn attach_again(&self, volume: VolumeId, present: AttachmentId, read_only: bool) -> Outcome {
        let record = &self.volumes[&volume];
        let attachment = &record.attachments[&present];
        if attachment.read_only == read_only {
            return self.attachment_reply(volume, present);
        }
        let text = |read_only| if read_only { "read-only" } else { "for reading and writing" };
        let (name, gateway) = (record.name.as_str(), &attachment.gateway);
        let (has, asked) = (text(attachment.read_only), text(read_only));
        Err(invalid(format!("volume {name:?} is attached to {gateway} {has}, not {asked}; detach it there first")))
    }

    /// Ends every attachment of the volume itself but `kept`, whose generation rises: its process, if it lives, has to ask again.
    fn take_over(&mut self, volume: VolumeId, kept: Option<AttachmentId>, read_only: bool) {
        let ended = self.attachment_ids(volume, |a| a.snapshot.is_none() && Some(a.id) != kept);
        self.end_attachments(volume, &ended);
        let record = self.volumes.get_mut(&volume).expect("the caller looked it up");
        let Some(attachment) = kept.and_then(|id| record.attachments.get_mut(&id)) else {
            return;
        };
        attachment.shared = false;
        attachment.read_only = read_only;
        if attachment.opened {
            self.next_generation(volume, kept.expect("it was found by this id"));
        }
    }

    fn add_attachment(
        &mut self,
        volume: VolumeId,
        snapshot: Option<SnapshotId>,
        gateway: String,
        shared: bool,
        read_only: bool,
    ) -> Outcome {
        let record = self.volumes.get_mut(&volume).expect("the caller looked it up");
        let alike = record.attachments.values().filter(|a| a.snapshot.is_some() == snapshot.is_some()).count();
        if alike >= ATTACHMENTS_PER_VOLUME_MAX {
            let of = if snapshot.is_some() { "the snapshots of a volume have" } else { "a volume has" };
            return Err(invalid(format!("{of} at most {ATTACHMENTS_PER_VOLUME_MAX} attachments")));
        }
        let id = AttachmentId(self.next.attachment);
        self.next.attachment += 1;
        let attachment = AttachmentRecord {
            id,
            gateway,
            snapshot,
            generation: Generation(1),
            shared,
            read_only,
            boot: BootId(0),
            session: SessionId(0),
            opened: false,
            active: false,
            replaced: BTreeSet::new(),
        };
        record.attachments.insert(id, attachment);
        self.attachment_reply(volume, id)
    }

    pub(super) fn detach(&mut self, name: &DiskName, gateway: Option<&str>) -> Outcome {
        let volume = self.volume(&name.volume)?;
        let (id, snapshot) = (volume.id, volume.snapshot_id(name)?);
        let ended = self.attachment_ids(id, |a| a.snapshot == snapshot && gateway.is_none_or(|g| a.gateway == g));
        if ended.is_empty() {
            return match gateway {
                Some(gateway) => Err(not_found("attachment", format!("{name} at {gateway}"))),
                None => Err(not_found("attachment", name)),
            };
        }
        self.end_attachments(id, &ended);
        self.done()
    }

    pub(super) fn open_attachment(&mut self, name: &DiskName, gateway: &str, boot: BootId) -> Outcome {
        if let Some(answer) = self.opened_before(name, gateway, boot) {
            return answer;
        }
        let volume = self.open_volume(&name.volume)?;
        let attachment = find_attachment(volume, name, gateway)?;
        let (volume, id, opened) = (volume.id, attachment.id, attachment.opened);
        // After a takeover for the same gateway the generation has risen already and nobody holds it.
        let holder = attachment.boot;
        let held = holder != BootId(0);
        if opened && held {
            self.next_generation(volume, id);
        }
        let session = SessionId(self.next.session);
        self.next.session += 1;
        let record = self.volumes.get_mut(&volume).expect("looked up above");
        let attachment = record.attachments.get_mut(&id).expect("looked up above");
        if held {
            attachment.replaced.insert(holder);
        }
        attachment.boot = boot;
        attachment.session = session;
        attachment.opened = true;
        attachment.active = record.barrier.is_none();
        self.opened_before(name, gateway, boot).expect("this process holds it now")
    }

    /// The answer where the same process asks again, or may not have it; `None` where state has to change.
    pub(super) fn opened_before(&self, name: &DiskName, gateway: &str, boot: BootId) -> Option<Outcome> {
        let found = self.open_volume(&name.volume).and_then(|v| Ok((v, find_attachment(v, name, gateway)?)));
        let (volume, attachment) = match found {
            Ok(found) => found,
            Err(refusal) => return Some(Err(refusal)),
        };
        if boot == BootId(0) {
            return Some(Err(invalid(format!("{boot} stands for no process of gateway {gateway:?}"))));
        }
        if attachment.replaced.contains(&boot) {
            return Some(Err(attached(name, &format!("a newer process of {gateway}"))));
        }
        if attachment.boot != boot {
            return None;
        }
        Some(self.grant_if_it_holds(volume, attachment))
    }

    /// A3, U2.
    fn grant_if_it_holds(&self, volume: &VolumeRecord, attachment: &AttachmentRecord) -> Outcome {
        if attachment.snapshot.is_none()
            && let Some(waiting_for) = self.cut_waits_for(volume.id)
        {
            return Err(ControlError::Fencing { waiting_for });
        }
        match volume.barrier {
            Some(barrier) if !attachment.active || (attachment.shared && attachment.snapshot.is_none()) => {
                Err(ControlError::Fencing { waiting_for: self.waiting_for(barrier) })
            }
            _ => Ok(ControlReply::Opened(self.grant(volume, attachment))),
        }
    }

    /// A question, not a claim: a process that was replaced, and doesn't know it yet, must not take the attachment back by asking.
    pub(super) fn session_grant(&self, name: &DiskName, session: SessionId) -> Outcome {
        let volume = self.open_volume(&name.volume)?;
        let is_it = |a: &&AttachmentRecord| a.session == session && a.boot != BootId(0);
        let found = volume.attachments.values().find(is_it);
        let attachment = found.ok_or_else(|| not_found("session", format!("{session} of {name}")))?;
        self.grant_if_it_holds(volume, attachment)
    }

    pub(super) fn register_gateway(
        &mut self,
        gateway: String,
        boot: BootId,
        nbd_address: String,
        nbd_socket: String,
    ) -> Outcome {
        check_text("the gateway's name", &gateway, false)?;
        check_text("the NBD address", &nbd_address, true)?;
        check_text("the NBD socket's path", &nbd_socket, true)?;
        if self.gateways.len() >= GATEWAYS_MAX && !self.gateways.contains_key(&gateway) {
            return Err(invalid(format!("there are {GATEWAYS_MAX} gateways already, which is the most a cluster has")));
        }
        self.gateways.insert(gateway, GatewayRecord { boot, nbd_address, nbd_socket });
        self.done()
    }

    pub(super) fn attachment_list(&self, gateway: Option<&str>) -> Vec<AttachmentInfo> {
        let wanted = |a: &AttachmentRecord| gateway.is_none_or(|g| a.gateway == g);
        let all = self.volumes.values().flat_map(|v| v.attachments.values().map(move |a| (v, a)));
        all.filter(|(_, a)| wanted(a)).map(|(v, a)| self.attachment_info(v, a)).collect()
    }

    pub(super) fn attachment_info(&self, volume: &VolumeRecord, attachment: &AttachmentRecord) -> AttachmentInfo {
        let gateway = self.gateways.get(&attachment.gateway);
        AttachmentInfo {
            id: attachment.id,
            volume: volume.id,
            name: volume.disk_name(attachment),
            gateway: attachment.gateway.clone(),
            generation: attachment.generation,
            shared: attachment.shared,
            read_only: attachment.read_only,
            active: attachment.active,
            nbd_address: gateway.map(|g| g.nbd_address.clone()).unwrap_or_default(),
            nbd_socket: gateway.map(|g| g.nbd_socket.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn grant(&self, volume: &VolumeRecord, attachment: &AttachmentRecord) -> AttachGrant {
        let (top, size) = match attachment.snapshot {
            Some(id) => {
                let snapshot = volume.snapshot_by_id(id);
                (snapshot.layer, snapshot.size)
            }
            None => (volume.top, volume.size),
        };
        AttachGrant {
            volume: volume.id,
            name: volume.disk_name(attachment),
            attachment: attachment.id,
            generation: attachment.generation,
            session: attachment.session,
            pool: volume.pool,
            placement_key: volume.placement_key,
            stack_revision: volume.stack_revision,
            layers: self.stack(top),
            size,
            read_only: attachment.read_only,
            // Of a snapshot of a clone too: it is read through what the clone stands on.
            base: self.base_of(volume),
        }
    }

    fn attachment_reply(&self, volume: VolumeId, attachment: AttachmentId) -> Outcome {
        let volume = &self.volumes[&volume];
        Ok(ControlReply::Attachment(self.attachment_info(volume, &volume.attachments[&attachment])))
    }

    fn attachment_ids(&self, volume: VolumeId, wanted: impl Fn(&AttachmentRecord) -> bool) -> Vec<AttachmentId> {
        self.volumes[&volume].attachments.values().filter(|a| wanted(a)).map(|a| a.id).collect()
    }

    /// Ends attachments and fences what their processes may still have on its way.
    pub(super) fn end_attachments(&mut self, volume: VolumeId, ended: &[AttachmentId]) {
        let record = self.volumes.get_mut(&volume).expect("the caller looked it up");
        let gone: Vec<AttachmentRecord> = ended.iter().filter_map(|id| record.attachments.remove(id)).collect();
        self.end_shrink_with_attachments(volume);
        if !gone.iter().any(|a| a.opened) {
            return;
        }
        let is_renewed = gone.iter().any(|a| a.opened && a.snapshot.is_none()) && self.drop_written(volume);
        let living = self.volumes[&volume].attachments.keys().next().copied();
        let next = AttachmentId(self.next.attachment);
        let oldest = living.into_iter().chain(self.worker_attachment(volume)).min().unwrap_or(next);
        self.raise_floor(volume, |floor| {
            floor.oldest_attachment = floor.oldest_attachment.max(oldest);
            for attachment in gone.iter().filter(|a| a.opened) {
                // Named where the age alone doesn't fence it: a PG may know it by name from an earlier floor.
                if attachment.id >= oldest || attachment.generation > Generation(1) {
                    floor.generations.insert(attachment.id, Generation(attachment.generation.0.saturating_add(1)));
                }
            }
        });
        if is_renewed {
            self.revise_merges(volume);
        }
    }

    /// Fences the process that holds an attachment, so that another can have it.
    fn next_generation(&mut self, volume: VolumeId, id: AttachmentId) {
        self.end_shrink_with_process(volume, id);
        let record = self.volumes.get_mut(&volume).expect("the caller looked it up");
        let attachment = record.attachments.get_mut(&id).expect("the caller looked it up");
        attachment.generation = Generation(attachment.generation.0.saturating_add(1));
        attachment.boot = BootId(0);
        attachment.active = false;
        let generation = attachment.generation;
        self.raise_floor(volume, |floor| {
            floor.generations.insert(id, generation);
        });
    }
}

fn attached(name: &DiskName, holder: &str) -> ControlError {
    ControlError::Attached { name: name.to_string(), holder: holder.to_owned() }
}

fn find_attachment<'a>(
    volume: &'a VolumeRecord,
    name: &DiskName,
    gateway: &str,
) -> Result<&'a AttachmentRecord, ControlError> {
    let snapshot = volume.snapshot_id(name)?;
    let found = volume.attachments.values().find(|a| a.is_at(gateway, snapshot));
    found.ok_or_else(|| not_found("attachment", format!("{name} at {gateway}")))
}

impl VolumeRecord {
    /// Which snapshot is named, if one is; this volume is.
    fn snapshot_id(&self, name: &DiskName) -> Result<Option<SnapshotId>, ControlError> {
        name.snapshot.as_ref().map(|snapshot| Ok(self.snapshot(snapshot)?.id)).transpose()
    }
}

impl AttachmentRecord {
    fn is_at(&self, gateway: &str, snapshot: Option<SnapshotId>) -> bool {
        self.gateway == gateway && self.snapshot == snapshot
    }
}
