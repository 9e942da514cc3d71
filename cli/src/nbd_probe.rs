//! Asks an NBD server whether it serves an export, as a client would: fixed newstyle handshake, NBD_OPT_INFO, NBD_OPT_ABORT.
//! Numbers: <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>

use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

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
/// A gateway that restarts listens again within this; one that is down doesn't.
const RESTART: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("it is no NBD server")]
    NotNbd,
    #[error("{text}")]
    Refused { reply: u32, text: String },
    /// It may still come; `last` is what stood in its way.
    #[error("not within {waited:?}: {}", last.as_ref().map_or_else(|| "no answer".to_owned(), ToString::to_string))]
    Patience { waited: Duration, last: Option<Box<ProbeError>> },
}

impl ProbeError {
    /// Whether it is worth asking again, after having asked for so long.
    fn may_pass(&self, waited: Duration) -> bool {
        match self {
            ProbeError::Refused { reply, .. } => *reply == NBD_REP_ERR_POLICY,
            ProbeError::Socket(error) => match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => true,
                io::ErrorKind::ConnectionRefused => waited < RESTART,
                _ => false,
            },
            ProbeError::NotNbd | ProbeError::Patience { .. } => false,
        }
    }
}

/// Returns when the export is served. Goes on asking while the server is busy or restarts.
pub async fn wait_for_export(address: &str, export: &str, patience: Duration) -> Result<(), ProbeError> {
    let begin = Instant::now();
    let mut last = None;
    while let Ok(answer) = timeout_at(begin + patience, ask(address, export)).await {
        match answer {
            Ok(()) => return Ok(()),
            Err(error) if error.may_pass(begin.elapsed()) => last = Some(Box::new(error)),
            Err(error) => return Err(error),
        }
        if begin.elapsed() + PAUSE > patience {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(ProbeError::Patience { waited: patience, last })
}

/// Asks once.
pub async fn ask_within(address: &str, export: &str, patience: Duration) -> Result<(), ProbeError> {
    timeout(patience, ask(address, export)).await.unwrap_or(Err(ProbeError::Patience { waited: patience, last: None }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Answers each client's one option with this reply, until dropped.
    async fn serve(listener: TcpListener, reply: u32, text: &str) {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut greeting = NBDMAGIC.to_be_bytes().to_vec();
            greeting.extend(IHAVEOPT.to_be_bytes());
            greeting.extend(3u16.to_be_bytes());
            stream.write_all(&greeting).await.expect("connected");
            let mut request = [0; 4 + 16 + 4 + 1 + 2];
            stream.read_exact(&mut request).await.expect("an option for an export with a name of one letter");
            let mut answer = REPLY_MAGIC.to_be_bytes().to_vec();
            answer.extend(NBD_OPT_INFO.to_be_bytes());
            answer.extend(reply.to_be_bytes());
            answer.extend(u32::try_from(text.len()).expect("short").to_be_bytes());
            answer.extend(text.as_bytes());
            stream.write_all(&answer).await.expect("connected");
        }
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
    }

    /// How waiting for an export of such a server ends.
    fn wait(reply: u32, text: &str) -> Result<(), ProbeError> {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound").to_string();
            tokio::select! {
                () = serve(listener, reply, text) => unreachable!("it serves for ever"),
                ended = wait_for_export(&address, "v", Duration::from_millis(200)) => ended,
            }
        })
    }

    #[test]
    fn a_served_export_is_known_and_a_refusal_is_told() {
        wait(NBD_REP_ACK, "").expect("served");
        let refused = wait(NBD_REP_FLAG_ERROR | 6, "v is not attached here").expect_err("unknown");
        assert_eq!(refused.to_string(), "v is not attached here");
    }

    #[test]
    fn who_waits_in_vain_is_told_what_for() {
        let late = wait(NBD_REP_ERR_POLICY, "waiting for pg.1.0 (no primary)").expect_err("never served");
        assert_eq!(late.to_string(), "not within 200ms: waiting for pg.1.0 (no primary)");
    }

    #[test]
    fn a_gateway_that_does_not_listen_may_be_restarting_for_a_while() {
        let refused = run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound").to_string();
            drop(listener);
            ask(&address, "v").await.expect_err("nobody listens")
        });
        assert!(refused.may_pass(Duration::ZERO) && !refused.may_pass(RESTART));
    }
}
