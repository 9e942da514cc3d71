//! An NBD client of a hundred lines, written from the specification and sharing nothing with the server: it can send what
//! no proper client would, and knows exactly which writes were acknowledged.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;

pub const CMD_READ: u16 = 0;
pub const CMD_WRITE: u16 = 1;
pub const CMD_DISC: u16 = 2;
const CMD_FLUSH: u16 = 3;
pub const CMD_TRIM: u16 = 4;
pub const CMD_WRITE_ZEROES: u16 = 6;
pub const EPERM: u32 = 1;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;

#[derive(Debug)]
pub struct Nbd {
    pub stream: TcpStream,
    pub size: u64,
    pub flags: u16,
    cookie: u64,
}

/// How a request ended: done, or with NBD's number of an error.
pub type Answer = io::Result<Result<(), u32>>;

impl Nbd {
    pub fn connect(address: &str, export: &str) -> io::Result<Nbd> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        // No test waits for ever; taking a volume over or finding a new primary takes seconds at most.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        greet(&mut stream)?;
        let mut data = u32::try_from(export.len()).expect("short").to_be_bytes().to_vec();
        data.extend(export.as_bytes());
        data.extend(0u16.to_be_bytes());
        send_option(&mut stream, OPT_GO, &data)?;
        let (mut size, mut flags) = (0, 0);
        loop {
            let (reply, data) = read_option_reply(&mut stream)?;
            match reply {
                REP_ACK => return Ok(Nbd { stream, size, flags, cookie: 0 }),
                // NBD_REP_INFO, NBD_INFO_EXPORT
                3 if data.len() == 12 && data[..2] == [0, 0] => {
                    size = u64::from_be_bytes(data[2..10].try_into().expect("8 bytes"));
                    flags = u16::from_be_bytes(data[10..].try_into().expect("2 bytes"));
                }
                3 => {}
                error => {
                    let text = format!("refused with {error:#x}: {}", String::from_utf8_lossy(&data));
                    return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
                }
            }
        }
    }

    /// Sends a request without waiting; its cookie.
    pub fn send(&mut self, command: u16, flags: u16, offset: u64, len: u32, data: &[u8]) -> io::Result<u64> {
        self.cookie += 1;
        let mut out = Vec::with_capacity(28 + data.len());
        out.extend(REQUEST.to_be_bytes());
        out.extend(flags.to_be_bytes());
        out.extend(command.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(offset.to_be_bytes());
        out.extend(len.to_be_bytes());
        out.extend(data);
        self.stream.write_all(&out)?;
        Ok(self.cookie)
    }

    /// The next reply's cookie and error.
    pub fn receive(&mut self) -> io::Result<(u64, u32)> {
        let mut head = [0u8; 16];
        self.stream.read_exact(&mut head)?;
        let magic = u32::from_be_bytes(head[..4].try_into().expect("4 bytes"));
        if magic != SIMPLE_REPLY {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("reply begins with {magic:#x}")));
        }
        let error = u32::from_be_bytes(head[4..8].try_into().expect("4 bytes"));
        Ok((u64::from_be_bytes(head[8..].try_into().expect("8 bytes")), error))
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Answer {
        let len = u32::try_from(data.len()).expect("short");
        self.send(CMD_WRITE, 0, offset, len, data)?;
        self.answer()
    }

    pub fn flush(&mut self) -> Answer {
        self.send(CMD_FLUSH, 0, 0, 0, &[])?;
        self.answer()
    }

    pub fn read(&mut self, offset: u64, len: u32) -> io::Result<Result<Vec<u8>, u32>> {
        self.send(CMD_READ, 0, offset, len, &[])?;
        Ok(match self.answer()? {
            Ok(()) => {
                let mut data = vec![0; len as usize];
                self.stream.read_exact(&mut data)?;
                Ok(data)
            }
            Err(error) => Err(error),
        })
    }

    fn answer(&mut self) -> Answer {
        let (cookie, error) = self.receive()?;
        assert_eq!(cookie, self.cookie, "one request at a time is under way");
        Ok(if error == 0 { Ok(()) } else { Err(error) })
    }

    pub fn disconnect(mut self) {
        // A server that is gone needs no good-bye.
        let _ = self.send(CMD_DISC, 0, 0, 0, &[]);
    }
}

/// Reads the server's greeting and says that we are a modern client.
pub fn greet(stream: &mut TcpStream) -> io::Result<()> {
    let mut greeting = [0u8; 18];
    stream.read_exact(&mut greeting)?;
    if &greeting[..8] != b"NBDMAGIC" || greeting[8..16] != IHAVEOPT.to_be_bytes() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no NBD greeting"));
    }
    // NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES
    stream.write_all(&3u32.to_be_bytes())
}

pub fn send_option(stream: &mut TcpStream, option: u32, data: &[u8]) -> io::Result<()> {
    let mut out = IHAVEOPT.to_be_bytes().to_vec();
    out.extend(option.to_be_bytes());
    out.extend(u32::try_from(data.len()).expect("short").to_be_bytes());
    out.extend(data);
    stream.write_all(&out)
}

pub fn read_option_reply(stream: &mut TcpStream) -> io::Result<(u32, Vec<u8>)> {
    let mut head = [0u8; 20];
    stream.read_exact(&mut head)?;
    if head[..8] != OPTION_REPLY.to_be_bytes() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no option reply"));
    }
    let reply = u32::from_be_bytes(head[12..16].try_into().expect("4 bytes"));
    let len = u32::from_be_bytes(head[16..].try_into().expect("4 bytes"));
    let mut data = vec![0; len as usize];
    stream.read_exact(&mut data)?;
    Ok((reply, data))
}
