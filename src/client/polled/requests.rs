//! What a polled client has asked for and was not answered.

use crate::client::Request;
use crate::fired::Timer;
use crate::limits::STREAMS_MAX;

/// Repetition of a request: first, and at most.
const REQUEST_NS: (u64, u64) = (5_000_000, 100_000_000);

/// A request that is not answered.
#[derive(Debug)]
struct Asked {
    id: u32,
    request: Request,
    /// How far a list has come.
    after: u32,
    /// Streams of a list that came.
    streams: usize,
    /// When it was first asked for, or a list last came on.
    since_ns: u64,
    asked_ns: u64,
    wait_ns: u64,
}

/// What a stream's description means to the request it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// The owner is to have it.
    New,
    /// A repeated part of a list came before.
    Repeated,
    /// No shard has so many.
    TooMany,
}

/// Requests that are not answered, and the number of the next.
#[derive(Debug)]
pub(super) struct Requests {
    asked: Vec<Asked>,
    next: u32,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self { asked: Vec::new(), next: 1 }
    }

    /// A number for what is asked next; 0 is none.
    pub(super) fn take_number(&mut self) -> u32 {
        let id = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        id
    }

    pub(super) fn ask(&mut self, id: u32, request: Request, now_ns: u64) {
        let since_ns = now_ns;
        let asked = Asked { id, request, after: 0, streams: 0, since_ns, asked_ns: 0, wait_ns: 0 };
        self.asked.push(asked);
    }

    pub(super) fn len(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn waits_for(&self, id: u32) -> bool {
        self.asked.iter().any(|asked| asked.id == id)
    }

    /// Takes a request out that is answered or refused; whether it was there.
    pub(super) fn end(&mut self, id: u32) -> bool {
        let index = self.asked.iter().position(|asked| asked.id == id);
        index.map(|index| self.asked.swap_remove(index)).is_some()
    }

    /// A stream was described: to a list one of many, to others the answer. `None` where nobody waits for it.
    pub(super) fn on_stream(&mut self, id: u32, stream: u32, now_ns: u64) -> Option<Listed> {
        let index = self.asked.iter().position(|asked| asked.id == id)?;
        let asked = &mut self.asked[index];
        if asked.request != Request::ListStreams {
            self.asked.swap_remove(index);
            return Some(Listed::New);
        }
        if stream <= asked.after {
            return Some(Listed::Repeated);
        }
        (asked.after, asked.since_ns) = (stream, now_ns);
        asked.streams = asked.streams.saturating_add(1);
        Some(if asked.streams > STREAMS_MAX { Listed::TooMany } else { Listed::New })
    }

    /// A part of a list ended, and goes on after a stream, or with 0 the list; whether it did.
    pub(super) fn on_list_end(&mut self, id: u32, after: u32, now_ns: u64) -> bool {
        if after == 0 {
            return self.end(id);
        }
        if let Some(asked) = self.asked.iter_mut().find(|asked| asked.id == id)
            && after > asked.after
        {
            (asked.after, asked.wait_ns, asked.since_ns) = (after, 0, now_ns);
        }
        false
    }

    /// A session begins: everything is asked for in it at once.
    pub(super) fn begin(&mut self) {
        for asked in &mut self.asked {
            asked.wait_ns = 0;
        }
    }

    /// Since when the longest waits.
    pub(super) fn oldest_ns(&self) -> Option<u64> {
        self.asked.iter().map(|asked| asked.since_ns).min()
    }

    /// A request that is to be sent now, its number, and after which stream a list goes on.
    pub(super) fn due(&mut self, index: usize, now_ns: u64) -> Option<(u32, u32, Request)> {
        let asked = &mut self.asked[index];
        if now_ns.saturating_sub(asked.asked_ns) < asked.wait_ns {
            return None;
        }
        if asked.wait_ns > 0 {
            Timer::RequestAgain.fired();
        }
        asked.asked_ns = now_ns;
        asked.wait_ns = asked.wait_ns.saturating_mul(2).clamp(REQUEST_NS.0, REQUEST_NS.1);
        Some((asked.id, asked.after, asked.request.clone()))
    }
}
