//! What has expired in the bin is purged by the leader, in a window of the day (docs/decisions/032-the-bin.md). The state has no clock, and this node
//! only the one that its shell hands in: without it nothing expires.

use super::{MetadataNode, NodeAction};
use crate::state::Command;
use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::{Tick, VolumeId};
use std::fmt;
use std::str::FromStr;

/// Volumes in one command: each begins a barrier, of which every OSD and gateway is told.
const PURGED_AT_ONCE: usize = 16;
/// Seconds between two looks, each of which goes through all volumes.
const LOOK_SECONDS: u64 = 5;
const DAY_MINUTES: u16 = 24 * 60;

/// A part of each day in UTC, by minutes from midnight: up to the end, which is not in it. Goes around midnight where the end is not after the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DailyWindow {
    from: u16,
    to: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a part of the day as 01:00-05:00, from 00:00 up to 24:00 in UTC")]
pub struct WindowError;

impl DailyWindow {
    pub const WHOLE_DAY: DailyWindow = DailyWindow { from: 0, to: DAY_MINUTES };

    /// Whether it is open at a time, in seconds since 1970.
    pub fn contains(self, unix: u64) -> bool {
        let minute = (unix / 60 % u64::from(DAY_MINUTES)) as u16;
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }
}

impl FromStr for DailyWindow {
    type Err = WindowError;
    fn from_str(text: &str) -> Result<DailyWindow, WindowError> {
        let (from, to) = text.split_once('-').ok_or(WindowError)?;
        let (from, to) = (minute(from)?, minute(to)?);
        // Is that a day or nothing?
        if from == to || from == DAY_MINUTES {
            return Err(WindowError);
        }
        Ok(DailyWindow { from, to })
    }
}

fn minute(text: &str) -> Result<u16, WindowError> {
    let (hour, minute) = text.split_once(':').ok_or(WindowError)?;
    let number = |text: &str| match text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u16>().map_err(|_| WindowError),
        false => Err(WindowError),
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let minutes = hour * 60 + minute;
    if minute < 60 && minutes <= DAY_MINUTES { Ok(minutes) } else { Err(WindowError) }
}

impl fmt::Display for DailyWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from, self.to);
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

/// The wall clock, as the shell has told it last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wall {
    /// Seconds since 1970.
    pub(super) unix: Option<u64>,
    looked: u64,
}

impl MetadataNode {
    pub(super) fn on_wall_clock(&mut self, unix: u64) {
        self.wall.unix = Some(unix);
        // A clock that was set back looks again at once.
        let is_due = unix.abs_diff(self.wall.looked) >= LOOK_SECONDS;
        if !self.is_leader() || !is_due || !self.config.bin_window.contains(unix) {
            return;
        }
        self.wall.looked = unix;
        let volumes = self.state.bin_expired(unix, PURGED_AT_ONCE);
        if !volumes.is_empty() {
            self.propose_own(Command::BinExpire { volumes, now: unix });
        }
    }

    /// By this clock, and not by that of whoever asks; outside of the window too. What has not expired costs no entry. Who brings the volume back at that
    /// moment, and deletes it again when he has heard that it is back, is not purged: this command stands before his then, and finds nothing in the bin.
    pub(super) fn on_purge_expired(
        &mut self,
        id: u64,
        volume: VolumeId,
        secure: bool,
        deadline: Tick,
        actions: &mut Vec<NodeAction>,
    ) {
        let Some(now) = self.wall.unix else { return self.reply(id, Err(ControlError::Busy), actions) };
        if !self.state.is_expired(volume, now) {
            return self.reply(id, Ok(ControlReply::Bin(Vec::new())), actions);
        }
        let command = match secure {
            true => Command::Request(ControlRequest::BinWipe { volume, at: now }),
            false => Command::BinExpire { volumes: vec![volume], now },
        };
        self.propose(id, command, deadline, actions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_part_of_each_day() {
        let open = |text: &str, time: &str| {
            let at = u64::from(minute(time).expect("a time")) * 60;
            text.parse::<DailyWindow>().expect("a window").contains(1_796_083_200 + at)
        };
        assert!(open("01:00-05:00", "01:00") && open("01:00-05:00", "04:59"));
        assert!(!open("01:00-05:00", "00:59") && !open("01:00-05:00", "05:00"));
        assert!(open("22:30-04:00", "23:00") && open("22:30-04:00", "03:59") && !open("22:30-04:00", "12:00"));
        assert!(open("00:00-24:00", "00:00") && open("00:00-24:00", "23:59"));
        assert_eq!("00:00-24:00".parse(), Ok(DailyWindow::WHOLE_DAY));
        for text in ["01:00-05:00", "22:30-04:00", "00:00-24:00"] {
            assert_eq!(text.parse::<DailyWindow>().expect("a window").to_string(), text);
        }
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in [
            "",
            "01:00",
            "01:00-",
            "1:00-5:00",
            "01:00-25:00",
            "01:60-02:00",
            "05:00-05:00",
            "24:00-01:00",
            "a-b",
            "01:00-05:00 ",
            "+1:00-05:00",
        ] {
            assert_eq!(text.parse::<DailyWindow>(), Err(WindowError), "{text:?}");
        }
    }
}
