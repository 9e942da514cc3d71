//! How far a copy is, on stderr: one line that changes where somebody looks on, and a new line now and then where it goes into a log.

use crate::output::note;
use ashlar_types::format_bytes;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const ON_TERMINAL: Duration = Duration::from_millis(200);
const IN_LOG: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Progress {
    /// As "importing vm-1".
    what: String,
    /// Bytes.
    all: u64,
    done: u64,
    begun: Instant,
    said: Instant,
    is_terminal: bool,
    /// A line stands there without its end.
    is_line_open: bool,
}

impl Progress {
    pub fn new(what: String, all: u64) -> Progress {
        let (now, is_terminal) = (Instant::now(), std::io::stderr().is_terminal());
        Progress { what, all, done: 0, begun: now, said: now, is_terminal, is_line_open: false }
    }

    /// So many bytes more are done.
    pub fn add(&mut self, bytes: u64) {
        self.done += bytes;
        let pause = if self.is_terminal { ON_TERMINAL } else { IN_LOG };
        if self.said.elapsed() < pause {
            return;
        }
        self.said = Instant::now();
        let text = self.line();
        if self.is_terminal {
            self.is_line_open = true;
            // Nothing depends on it being read.
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{text}");
        } else {
            note(&text);
        }
    }

    fn line(&self) -> String {
        let percent = self.done.checked_mul(100).and_then(|done| done.checked_div(self.all)).unwrap_or(100);
        let (done, all) = (format_bytes(self.done), format_bytes(self.all));
        format!("{}: {percent} %, {done} of {all}, {}/s", self.what, format_bytes(self.rate()))
    }

    /// Bytes a second.
    fn rate(&self) -> u64 {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        self.done.saturating_mul(1000) / millis / (1 << 20) * (1 << 20)
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The line gives way to what is said next.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.is_line_open) {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
