//! What fuzz targets share. Most structures carry a checksum that no mutation hits, so a target looks at its input twice: as it is, and
//! with a checksum that fits, as somebody would send it who means harm, or as a bug of ours would have written it.

use ashlar_osd_core::format::{Identity, PAGE_BYTES, prefix};
use ashlar_types::{ClusterId, OsdId};

/// That of the golden files.
pub const IDENTITY: Identity =
    Identity { cluster: ClusterId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff), osd: OsdId(7) };

/// A page with this beginning: `decode` gets it as it is, then sealed.
pub fn page(data: &[u8], magic: u64, mut decode: impl FnMut(&[u8])) {
    decode(data);
    let mut page = vec![0; PAGE_BYTES];
    let len = data.len().min(PAGE_BYTES);
    page[..len].copy_from_slice(&data[..len]);
    prefix::seal(&mut page, magic, IDENTITY);
    decode(&page);
}
