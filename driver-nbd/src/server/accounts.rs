//! What the connections of one export have together, so that an export whose device does not answer can't take everything.
//!
//! A1: a seat is taken from the opening of an export until the device has answered all that was asked of it, which may be
//!     after the connection's end. So what is still at a device counts, whatever became of its clients.
//! A2: bytes are taken from the export's part first, then from what all share; whoever has both waits for nothing (O2).

use super::pool::Pool;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Debug)]
pub(super) struct Accounts {
    seats_max: usize,
    bytes_max: usize,
    shared: Pool,
    /// Of exports that have seats taken.
    accounts: Mutex<BTreeMap<String, Account>>,
}

#[derive(Debug)]
struct Account {
    seats: usize,
    part: Arc<Pool>,
}

/// One connection's; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    accounts: Arc<Accounts>,
    export: String,
    part: Arc<Pool>,
}

impl Accounts {
    pub fn new(seats_max: usize, bytes_max: usize, bytes_shared: usize) -> Accounts {
        let bytes_max = bytes_max.min(bytes_shared);
        Accounts { seats_max, bytes_max, shared: Pool::new(bytes_shared), accounts: Mutex::default() }
    }

    fn accounts(&self) -> MutexGuard<'_, BTreeMap<String, Account>> {
        self.accounts.lock().expect("nobody panics with it")
    }

    /// `None`: the export has all the connections that it may have.
    pub fn seat(self: &Arc<Self>, export: &str) -> Option<Seat> {
        let mut accounts = self.accounts();
        let taken = accounts.get(export).map_or(0, |account| account.seats);
        if taken >= self.seats_max {
            return None;
        }
        let new = || Account { seats: 0, part: Arc::new(Pool::new(self.bytes_max)) };
        let account = accounts.entry(export.to_owned()).or_insert_with(new);
        account.seats += 1;
        Some(Seat { accounts: self.clone(), export: export.to_owned(), part: account.part.clone() })
    }
}

impl Seat {
    /// Waits until there are `bytes`, and takes them. A request that is longer than the export's part takes all of it. Gives how
    /// much was taken.
    pub async fn take(&self, bytes: usize) -> usize {
        let bytes = bytes.min(self.part.bytes());
        let of_part = self.part.acquire(bytes).await;
        let of_shared = self.accounts.shared.acquire(bytes).await;
        of_part.forget();
        of_shared.forget();
        bytes
    }

    pub fn give_back(&self, bytes: usize) {
        self.accounts.shared.give_back(bytes);
        self.part.give_back(bytes);
    }

    #[cfg(test)]
    pub fn accounts(&self) -> Arc<Accounts> {
        self.accounts.clone()
    }

    #[cfg(test)]
    pub fn left(&self) -> usize {
        self.part.left()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut accounts = self.accounts.accounts();
        let account = accounts.get_mut(&self.export).expect("A1: there is an account while a seat is taken");
        account.seats -= 1;
        if account.seats == 0 {
            accounts.remove(&self.export);
        }
    }
}
