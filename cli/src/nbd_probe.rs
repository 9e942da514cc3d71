//! Asks an NBD server whether it serves an export, as a client would: fixed newstyle handshake, NBD_OPT_INFO, NBD_OPT_ABORT.
//! Numbers: <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>

use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const NBD_FLAG_C_FIXED_NEWSTYLE_NO_ZEROES: u32 = 3;
const NBD_OPT_ABORT: u32 = 2;
const NBD_OPT_INFO: u32 = 6;
const NBD_REP_ACK: u32 = 1;
const NBD_REP_FLAG_ERROR: u32 = 1 << 31;
/// The server could not do it *now* (proto.md: `NBD_REP_ERR_POLICY`): being taken over, no leader.
const NBD_REP_ERR_POLICY: u32 = NBD_REP_FLAG_ERROR | 2;
const REPLY_BYTES_MAX: u32 = 64 << 10;
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("it is no NBD server")]
    NotNbd,
    #[error("{text}")]
    Refused { reply: u32, text: String },
}

/// Returns when the export is served. Goes on asking while the server is busy or restarts; the caller sets the limit.
pub async fn wait_for_export(address: &str, export: &str) -> Result<(), ProbeError> {
    loop {
        match ask(address, export).await {
            Ok(()) => return Ok(()),
            Err(ProbeError::Refused { reply: NBD_REP_ERR_POLICY, .. }) => {}
            Err(ProbeError::Socket(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(ProbeError::Socket(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(address: &str, export: &str) -> Result<(), ProbeError> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    if stream.read_u64().await? != NBDMAGIC || stream.read_u64().await? != IHAVEOPT {
        return Err(ProbeError::NotNbd);
    }
    stream.read_u16().await?;
    let name_bytes = u32::try_from(export.len()).expect("names are short");
    let mut out = Vec::new();
    out.extend(NBD_FLAG_C_FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes());
    out.extend(IHAVEOPT.to_be_bytes());
    out.extend(NBD_OPT_INFO.to_be_bytes());
    out.extend((4 + name_bytes + 2).to_be_bytes());
    out.extend(name_bytes.to_be_bytes());
    out.extend(export.as_bytes());
    // No information wanted but what always comes.
    out.extend(0u16.to_be_bytes());
    stream.write_all(&out).await?;
    loop {
        let (reply, text) = read_reply(&mut stream).await?;
        if reply == NBD_REP_ACK {
            break;
        }
        if reply & NBD_REP_FLAG_ERROR != 0 {
            return Err(ProbeError::Refused { reply, text });
        }
    }
    let mut out = Vec::new();
    out.extend(IHAVEOPT.to_be_bytes());
    out.extend(NBD_OPT_ABORT.to_be_bytes());
    out.extend(0u32.to_be_bytes());
    // Only politeness: the question is answered.
    let _ = stream.write_all(&out).await;
    Ok(())
}

async fn read_reply(stream: &mut TcpStream) -> Result<(u32, String), ProbeError> {
    if stream.read_u64().await? != REPLY_MAGIC {
        return Err(ProbeError::NotNbd);
    }
    let _option = stream.read_u32().await?;
    let reply = stream.read_u32().await?;
    let len = stream.read_u32().await?;
    if len > REPLY_BYTES_MAX {
        return Err(ProbeError::NotNbd);
    }
    let mut data = vec![0u8; len as usize];
    stream.read_exact(&mut data).await?;
    Ok((reply, String::from_utf8_lossy(&data).into_owned()))
}
