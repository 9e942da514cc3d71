//! The control socket: lets scripts and tests in other processes fail and revive a mount.
//! One command per line, one line of answer: `ok …` or `error …`. Figures come as `name=value`.

use crate::mount::{Error, Mounted, PowerLossFs};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A longer command is refused unread.
const COMMAND_BYTES_MAX: u64 = 256;

/// What the control socket understands.
pub const COMMANDS: &str = "\
  loss SEED            the power fails; answers what was lost
  power-on             the machine starts again, on the same mount; files opened before stay dead
  remount              the same, but unmounts and mounts anew; fails while anybody uses the old mount
  arm CHANGES SEED     the power fails by itself after so many more changes
  wait SECONDS         waits until an armed loss has struck; answers what was lost
  stats                counts since the start
  unsynced             what a loss at this moment could take
  sync                 makes everything durable
  honour-sync on|off   off: fsync answers that all is well and does nothing
  quit                 unmounts and ends the process";

/// Why the control socket could not be served or asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("control socket {path}: {source}")]
    Socket { path: String, source: io::Error },
    #[error("the control socket closed without an answer")]
    NoAnswer,
    #[error(transparent)]
    Unmount(Error),
}

#[derive(Debug)]
enum Command {
    Loss { seed: u64 },
    PowerOn,
    Remount,
    Arm { changes: u64, seed: u64 },
    Wait { seconds: u64 },
    Stats,
    Unsynced,
    Sync,
    HonourSync { honour: bool },
    Quit,
}

impl Command {
    fn parse(line: &str) -> Result<Command, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Ok(match words[..] {
            ["loss", seed] => Command::Loss { seed: number(seed)? },
            ["power-on"] => Command::PowerOn,
            ["remount"] => Command::Remount,
            ["arm", changes, seed] => Command::Arm { changes: number(changes)?, seed: number(seed)? },
            ["wait", seconds] => Command::Wait { seconds: number(seconds)? },
            ["stats"] => Command::Stats,
            ["unsynced"] => Command::Unsynced,
            ["sync"] => Command::Sync,
            ["honour-sync", "on"] => Command::HonourSync { honour: true },
            ["honour-sync", "off"] => Command::HonourSync { honour: false },
            ["quit"] => Command::Quit,
            _ => return Err(format!("unknown command {:?}", line.trim())),
        })
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|error| format!("{word:?}: {error}"))
}

/// Listens on a control socket for a mount.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    socket: PathBuf,
    control: Arc<Control>,
    quit_asked: Receiver<()>,
}

/// What the connections share.
#[derive(Debug)]
struct Control {
    fs: PowerLossFs,
    mounted: Mutex<Mounted>,
    quit: Sender<()>,
}

impl ControlServer {
    /// Listens on `socket`, which must not exist. Commands sent from now on wait for [`run`](Self::run).
    pub fn bind(mounted: Mounted, socket: &Path) -> Result<ControlServer, ControlError> {
        let listener = UnixListener::bind(socket)
            .map_err(|source| ControlError::Socket { path: socket.display().to_string(), source })?;
        let (quit, quit_asked) = channel();
        let control = Arc::new(Control { fs: mounted.fs().clone(), mounted: Mutex::new(mounted), quit });
        Ok(ControlServer { listener, socket: socket.to_owned(), control, quit_asked })
    }

    /// What is sent here ends [`run`](Self::run) as the command `quit` does: for a signal's thread.
    pub fn quitter(&self) -> Sender<()> {
        self.control.quit.clone()
    }

    /// Serves each connection on its own thread until somebody asks to quit; then unmounts and removes the socket.
    pub fn run(self) -> Result<(), ControlError> {
        let ControlServer { listener, socket, control, quit_asked } = self;
        let accepting = control.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let control = accepting.clone();
                std::thread::spawn(move || control.serve(connection));
            }
        });
        quit_asked.recv().expect("`control` holds a sender");
        std::fs::remove_file(&socket)
            .map_err(|source| ControlError::Socket { path: socket.display().to_string(), source })?;
        control.mounted.lock().expect("no holder panics").unmount().map_err(ControlError::Unmount)
    }
}

impl Control {
    fn serve(&self, connection: UnixStream) {
        let Ok(mut answers) = connection.try_clone() else { return };
        let mut commands = BufReader::new(connection);
        loop {
            let mut line = String::new();
            match (&mut commands).take(COMMAND_BYTES_MAX).read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let parsed = if line.ends_with('\n') { Command::parse(&line) } else { Err("command too long".into()) };
            let is_last = parsed.is_err() || matches!(parsed, Ok(Command::Quit));
            let answer = match parsed.map(|command| self.answer(command)) {
                Ok(Ok(answer)) if answer.is_empty() => "ok\n".to_owned(),
                Ok(Ok(answer)) => format!("ok {answer}\n"),
                Ok(Err(error)) => format!("error {error}\n"),
                Err(error) => format!("error {error}\n"),
            };
            if answers.write_all(answer.as_bytes()).is_err() {
                return;
            }
            if is_last {
                return;
            }
        }
    }

    fn answer(&self, command: Command) -> Result<String, Error> {
        match command {
            Command::Loss { seed } => return Ok(self.fs.power_loss(seed).to_string()),
            Command::PowerOn => self.fs.power_on(),
            Command::Remount => self.mounted.lock().expect("no holder panics").remount()?,
            Command::Arm { changes, seed } => self.fs.arm(changes, seed),
            Command::Wait { seconds } => {
                let report = self.fs.wait_for_loss(Duration::from_secs(seconds)).ok_or(Error::NoLoss)?;
                return Ok(report.to_string());
            }
            Command::Stats => return Ok(self.fs.stats().to_string()),
            Command::Unsynced => return Ok(self.fs.unsynced().to_string()),
            Command::Sync => self.fs.sync_all()?,
            Command::HonourSync { honour } => self.fs.honour_sync(honour),
            // Nobody listens any more only if the process is ending already.
            Command::Quit => self.quit.send(()).unwrap_or_default(),
        }
        Ok(String::new())
    }
}

/// Sends one command to a control socket; gives the line that answers it.
pub fn ask(socket: &Path, command: &str) -> Result<String, ControlError> {
    let failed = |source| ControlError::Socket { path: socket.display().to_string(), source };
    let mut connection = UnixStream::connect(socket).map_err(failed)?;
    connection.write_all(format!("{}\n", command.trim()).as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(connection).read_line(&mut answer).map_err(failed)?;
    if answer.is_empty() { Err(ControlError::NoAnswer) } else { Ok(answer.trim_end().to_owned()) }
}
