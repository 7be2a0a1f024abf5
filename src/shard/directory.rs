//! Which stream lives on which shard: the only thing the shards of an appliance have in common, and never looked
//! at on the path.
//!
//! One table of fixed size; an entry is written once, by the one [`Placer`] there is, then published, and never
//! changes. So a shard looks up a name without a lock, an allocation or a system call. Before anybody serves,
//! launch adds what recovery has found; from then on the placer belongs to shard 0, which alone decides where a
//! new stream goes. A name that was placed and never made keeps its shard until the appliance is restarted:
//! whoever makes it later is sent to the same one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use crate::limits::{SHARDS_MAX, STREAM_NAME_BYTES_MAX, STREAMS_MAX};

/// Words of a name.
const WORDS: usize = STREAM_NAME_BYTES_MAX / 8;

const _: () = assert!(STREAM_NAME_BYTES_MAX.is_multiple_of(8), "a name fills whole words");

/// In `Entry::said`: the entry holds a name. Below it, 32 bits each, length and shard.
const PUBLISHED: u64 = 1 << 63;

/// A name and its shard.
#[derive(Debug, Default)]
struct Entry {
    name: [AtomicU64; WORDS],
    /// 0 until the name is there.
    said: AtomicU64,
}

/// Streams and their shards, to look up.
#[derive(Debug)]
pub struct Directory {
    /// Open addressing; twice as many as there can be streams, so that a search ends soon.
    entries: Vec<Entry>,
    /// Shards that take nothing new: full, failed, or without their disk.
    closed: Vec<AtomicBool>,
}

/// The only one that adds to a directory.
#[derive(Debug)]
pub struct Placer {
    directory: Arc<Directory>,
    /// Streams placed on each shard.
    streams: Vec<usize>,
}

/// A directory for `shards` shards, and what adds to it.
///
/// # Panics
/// When the number of shards is out of range.
#[must_use]
pub fn directory(shards: u32) -> (Placer, Arc<Directory>) {
    assert!((1..=SHARDS_MAX).contains(&shards), "{shards} shards");
    let shards = usize::try_from(shards).expect("few");
    let entries = shards.saturating_mul(2 * STREAMS_MAX).next_power_of_two();
    let entries = (0..entries).map(|_| Entry::default()).collect();
    let closed = (0..shards).map(|_| AtomicBool::default()).collect();
    let directory = Arc::new(Directory { entries, closed });
    (Placer { directory: Arc::clone(&directory), streams: vec![0; shards] }, directory)
}

fn words(name: &str) -> [u64; WORDS] {
    let mut bytes = [0; STREAM_NAME_BYTES_MAX];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|index| u64::from_le_bytes(words[index]))
}

impl Directory {
    /// Says whether a shard takes new streams.
    pub fn set_closed(&self, shard: u32, closed: bool) {
        // A hint that orders nothing: whoever is sent to a full shard is told so there.
        self.closed[shard as usize].store(closed, Ordering::Relaxed);
    }

    fn is_closed(&self, shard: u32) -> bool {
        self.closed[shard as usize].load(Ordering::Relaxed)
    }

    /// The shard of a stream, or of one that was placed and is not made yet.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u32> {
        self.search(name).ok()
    }

    /// The shard of a stream, or else where it would stand in the table.
    fn search(&self, name: &str) -> Result<u32, usize> {
        let wanted = words(name);
        let last = self.entries.len().saturating_sub(1);
        let mut at = usize::try_from(xxh3_64(name.as_bytes())).expect("64 bits") & last;
        loop {
            let entry = &self.entries[at];
            // Partner of the Release in `Placer::add`: a name that is said to be there is there whole.
            let said = entry.said.load(Ordering::Acquire);
            if said & PUBLISHED == 0 {
                return Err(at);
            }
            let len = (said & !PUBLISHED) >> 32;
            let words = entry.name.iter().map(|word| word.load(Ordering::Relaxed));
            if len == name.len() as u64 && words.eq(wanted) {
                return Ok(u32::try_from(said & u64::from(u32::MAX)).expect("masked"));
            }
            at = at.wrapping_add(1) & last;
        }
    }
}

impl Placer {
    /// Notes that a stream lives on a shard, as recovery has found.
    ///
    /// # Errors
    /// The other shard that it is on already.
    ///
    /// # Panics
    /// When there are more streams than fit: a shard's own table is smaller.
    pub fn add(&mut self, name: &str, shard: u32) -> Result<(), u32> {
        let at = match self.directory.search(name) {
            Ok(known) if known == shard => return Ok(()),
            Ok(other) => return Err(other),
            Err(at) => at,
        };
        let count = &mut self.streams[shard as usize];
        assert!(*count < STREAMS_MAX, "a shard has {STREAMS_MAX} streams at most");
        *count = count.saturating_add(1);
        let entry = &self.directory.entries[at];
        for (word, value) in entry.name.iter().zip(words(name)) {
            word.store(value, Ordering::Relaxed);
        }
        let said = PUBLISHED | (name.len() as u64) << 32 | u64::from(shard);
        // Partner of the Acquire in `Directory::search`.
        entry.said.store(said, Ordering::Release);
        Ok(())
    }

    /// The shard of a stream; a new one is placed on the shard wanted, or else on the one with the fewest
    /// streams of those that take new ones. `None` when there is no room for it.
    pub fn place(&mut self, name: &str, wanted: Option<u32>) -> Option<u32> {
        if let Some(known) = self.directory.find(name) {
            return Some(known);
        }
        let key = |shard: u32, count: usize| (self.directory.is_closed(shard), count);
        let emptiest =
            || (0u32..).zip(&self.streams).min_by_key(|(shard, count)| key(*shard, **count));
        let shard = wanted.or_else(|| emptiest().map(|(shard, _)| shard))?;
        if *self.streams.get(shard as usize)? >= STREAMS_MAX {
            return None;
        }
        self.add(name, shard).expect("it was not there a moment ago");
        Some(shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_stream_goes_where_the_fewest_are_and_keeps_its_shard() {
        let (mut placer, directory) = directory(3);
        placer.add("old", 0).unwrap();
        let placed: Vec<_> = ["a", "b", "c", "d"].map(|name| placer.place(name, None)).into();
        assert_eq!(placed, [Some(1), Some(2), Some(0), Some(1)]);
        assert_eq!(placer.place("e", Some(2)), Some(2), "as wanted");
        assert_eq!(placer.place("a", Some(2)), Some(1), "a name keeps its shard");
        assert_eq!((directory.find("d"), directory.find("f")), (Some(1), None));
        assert_eq!((placer.add("old", 0), placer.add("old", 2)), (Ok(()), Err(0)));
    }

    #[test]
    fn a_shard_that_is_full_gets_nothing_new_unless_it_is_wanted() {
        let (mut placer, directory) = directory(3);
        directory.set_closed(1, true);
        let placed: Vec<_> = ["a", "b", "c"].map(|name| placer.place(name, None)).into();
        assert_eq!(placed, [Some(0), Some(2), Some(0)]);
        assert_eq!(placer.place("d", Some(1)), Some(1), "it says itself that it is full");
        directory.set_closed(1, false);
        assert_eq!((placer.place("e", None), placer.place("f", None)), (Some(1), Some(2)));
        for shard in 0..3 {
            directory.set_closed(shard, true);
        }
        assert_eq!(placer.place("g", None), Some(0), "all are: the one asked says so");
    }

    #[test]
    fn names_differ_in_length_and_in_every_byte() {
        let (mut placer, directory) = directory(2);
        let long = "x".repeat(STREAM_NAME_BYTES_MAX);
        placer.add(&long, 1).unwrap();
        assert_eq!(directory.find(&long), Some(1));
        assert_eq!(directory.find(&long[1..]), None);
        assert_eq!(directory.find(&format!("{}y", &long[1..])), None);
    }

    #[test]
    fn all_shards_full_of_streams_are_found_and_one_more_is_refused() {
        let (mut placer, directory) = directory(2);
        for number in 0..2 * STREAMS_MAX {
            assert!(placer.place(&format!("stream-{number}"), None).is_some());
        }
        assert_eq!((placer.place("more", None), placer.place("more", Some(1))), (None, None));
        for number in 0..2 * STREAMS_MAX {
            let shard = u32::try_from(number % 2).unwrap();
            assert_eq!(directory.find(&format!("stream-{number}")), Some(shard));
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a reader beside the writer")]
    fn a_reader_never_sees_half_a_name() {
        let (mut placer, directory) = directory(2);
        let name = |number: usize| format!("a-stream-with-a-name-of-several-words-{number}");
        let reader = std::thread::spawn(move || {
            for number in 0..STREAMS_MAX {
                let shard = loop {
                    if let Some(shard) = directory.find(&name(number)) {
                        break shard;
                    }
                    std::thread::yield_now();
                };
                assert_eq!(shard as usize, number % 2);
            }
        });
        for number in 0..STREAMS_MAX {
            placer.add(&name(number), u32::try_from(number % 2).unwrap()).unwrap();
        }
        reader.join().unwrap();
    }
}
