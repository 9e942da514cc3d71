//! Several devices of one size as one, one behind the other: one job then makes load on all of them.

use crate::error::BenchError;
use ashlar_types::{BlockDevice, BlockOp, BlockRequest, Completions, DeviceInfo};
use std::sync::Arc;

pub struct Joined {
    devices: Vec<Arc<dyn BlockDevice>>,
    /// Of each.
    bytes: u64,
}

impl Joined {
    /// One alone stays as it is.
    pub fn of(mut devices: Vec<Arc<dyn BlockDevice>>) -> Result<Arc<dyn BlockDevice>, BenchError> {
        let bytes = devices.first().map_or(0, |device| device.info().size);
        if bytes == 0 || devices.iter().any(|device| device.info().size != bytes) {
            return Err(BenchError::Wrong("the volumes are not all of one size".to_owned()));
        }
        match devices.len() {
            1 => Ok(devices.remove(0)),
            _ => Ok(Arc::new(Joined { devices, bytes })),
        }
    }

    fn offset_in_part(&self, offset: &mut u64) -> usize {
        // What lies beyond the end goes to the last, which refuses it.
        let part = (*offset / self.bytes).min(self.devices.len() as u64 - 1);
        *offset -= part * self.bytes;
        part as usize
    }
}

impl BlockDevice for Joined {
    fn info(&self) -> DeviceInfo {
        let size = self.bytes * self.devices.len() as u64;
        DeviceInfo { size, ..self.devices[0].info() }
    }

    /// A request across a border goes to the first of the two, which refuses it; a flush too, since who joins devices sends none.
    fn submit(&self, mut request: BlockRequest, completions: &Arc<dyn Completions>) {
        let part = match &mut request.op {
            BlockOp::Read { offset, .. }
            | BlockOp::Write { offset, .. }
            | BlockOp::Fill { offset, .. }
            | BlockOp::Discard { offset, .. }
            | BlockOp::WriteZeroes { offset, .. }
            | BlockOp::Extents { offset, .. }
            | BlockOp::Layers { offset, .. } => self.offset_in_part(offset),
            BlockOp::Flush => 0,
        };
        self.devices[part].submit(request, completions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::{BlockError, BlockReply};
    use std::sync::Mutex;

    /// Notes where it was asked to read.
    #[derive(Default)]
    struct Part {
        size: u64,
        reads: Mutex<Vec<u64>>,
    }

    impl BlockDevice for Part {
        fn info(&self) -> DeviceInfo {
            DeviceInfo { size: self.size, read_only: false, description: String::new() }
        }

        fn submit(&self, request: BlockRequest, completions: &Arc<dyn Completions>) {
            if let BlockOp::Read { offset, .. } = request.op {
                self.reads.lock().expect("not poisoned").push(offset);
            }
            completions.complete(request.tag, Ok(BlockReply::Done));
        }
    }

    struct Nobody;

    impl Completions for Nobody {
        fn complete(&self, _: u64, _: Result<BlockReply, BlockError>) {}
    }

    fn part(size: u64) -> Arc<Part> {
        Arc::new(Part { size, ..Part::default() })
    }

    #[test]
    fn a_request_goes_to_its_part() {
        let parts = [part(8192), part(8192), part(8192)];
        let device = Joined::of(parts.iter().map(|part| part.clone() as Arc<dyn BlockDevice>).collect()).expect("same");
        assert_eq!(device.info().size, 24_576);
        let nobody: Arc<dyn Completions> = Arc::new(Nobody);
        for offset in [0, 8191, 8192, 20_480, 24_576] {
            device.submit(BlockRequest { tag: 0, op: BlockOp::Read { offset, len: 1 } }, &nobody);
        }
        let reads = parts.map(|part| part.reads.lock().expect("not poisoned").clone());
        assert_eq!(reads, [vec![0, 8191], vec![0], vec![4096, 8192]]);
    }

    #[test]
    fn parts_of_different_sizes_are_refused() {
        assert!(Joined::of(vec![part(4096), part(8192)]).is_err());
        assert!(Joined::of(Vec::new()).is_err());
    }
}
