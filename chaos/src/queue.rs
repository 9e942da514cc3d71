//! What will happen and when. Events of one moment happen in the order in which they were put in.

use crate::clock::Instant;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug)]
struct Entry<T> {
    at: Instant,
    number: u64,
    what: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    /// Reversed: the heap gives its greatest, we want the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Entry<T>>,
    next_number: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { heap: BinaryHeap::new(), next_number: 0 }
    }
}

impl<T> Queue<T> {
    pub fn put(&mut self, at: Instant, what: T) {
        self.next_number += 1;
        self.heap.push(Entry { at, number: self.next_number, what });
    }

    pub fn take(&mut self) -> Option<(Instant, T)> {
        self.heap.pop().map(|entry| (entry.at, entry.what))
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;

    #[test]
    fn earlier_first_and_of_one_moment_in_order() {
        let mut queue = Queue::default();
        queue.put(5, 'b');
        queue.put(5, 'c');
        queue.put(1, 'a');
        let order: String = std::iter::from_fn(|| queue.take()).map(|(_, c)| c).collect();
        assert_eq!(order, "abc");
    }
}
