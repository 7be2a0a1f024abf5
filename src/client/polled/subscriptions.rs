//! What a polled client is subscribed to.

use super::requests::Requests;
use crate::history::History;
use crate::ids::StreamId;
use crate::limits::SUBSCRIPTIONS_MAX;
use crate::session::consume::{Damaged, Subscription};
use crate::wire::publish::Data;
use crate::wire::record::Record;

/// Subscriptions, and the numbers of those that the server is to end.
#[derive(Debug)]
pub(super) struct Subscriptions {
    all: Vec<Subscription>,
    unsubscribe: Vec<u32>,
}

impl Subscriptions {
    pub(super) fn new() -> Self {
        Self { all: Vec::new(), unsubscribe: Vec::with_capacity(SUBSCRIPTIONS_MAX) }
    }

    pub(super) fn add(&mut self, subscription: Subscription) {
        self.all.push(subscription);
    }

    /// Ends one: the server is to stop sending, or may forget it.
    pub(super) fn end(&mut self, stream: StreamId) {
        let ended = self.all.iter().find(|subscription| subscription.stream == stream);
        self.unsubscribe.extend(ended.map(Subscription::request));
        self.all.retain(|subscription| subscription.stream != stream);
    }

    /// The server sends something of one that has ended here: it has not heard so.
    pub(super) fn end_unknown(&mut self, sub: u32) {
        if sub != 0 && !self.unsubscribe.contains(&sub) {
            self.unsubscribe.push(sub);
        }
    }

    pub(super) fn of(&self, stream: StreamId) -> Option<&Subscription> {
        self.all.iter().find(|subscription| subscription.stream == stream)
    }

    pub(super) fn of_mut(&mut self, stream: StreamId) -> Option<&mut Subscription> {
        self.all.iter_mut().find(|subscription| subscription.stream == stream)
    }

    pub(super) fn of_request_mut(&mut self, request: u32) -> Option<&mut Subscription> {
        self.all.iter_mut().find(|subscription| subscription.request() == request)
    }

    pub(super) fn of_request(&self, request: u32) -> Option<&Subscription> {
        self.all.iter().find(|subscription| subscription.request() == request)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn nth(&mut self, index: usize) -> &mut Subscription {
        &mut self.all[index]
    }

    /// A session begins: all are asked for in it, from where they are.
    pub(super) fn begin(&mut self, requests: &mut Requests) {
        // Of those the session before had there are none in this one.
        self.unsubscribe.clear();
        for subscription in &mut self.all {
            subscription.restart(requests.take_number());
        }
    }

    /// The server lost one: it is asked for again, from where it is.
    pub(super) fn restart(&mut self, lost: u32, request: u32) {
        if let Some(subscription) = self.of_request_mut(lost).filter(|sub| sub.is_open()) {
            subscription.restart(request);
        }
    }

    /// Since when the longest of those waits for an answer that stood before, or not.
    pub(super) fn oldest_ns(&self) -> Option<u64> {
        self.all.iter().filter_map(Subscription::asked_since_ns).min()
    }

    /// The same of those that never stood.
    pub(super) fn oldest_new_ns(&self) -> Option<u64> {
        let never_stood = self.all.iter().filter(|sub| sub.expected() == 0);
        never_stood.filter_map(Subscription::asked_since_ns).min()
    }

    /// Messages came: those that are next go to `sink`, and are written down.
    pub(super) fn on_data(
        &mut self,
        data: &Data<'_>,
        history: &mut Option<Box<History>>,
        sink: &mut dyn FnMut(&Record<'_>),
    ) -> Result<(), (StreamId, Damaged)> {
        let sub = data.head.sub.get();
        let Some(subscription) = self.of_request_mut(sub) else {
            self.end_unknown(sub);
            return Ok(());
        };
        let stream = subscription.stream;
        match history {
            None => subscription.on_data(data, sink),
            Some(history) => subscription.on_data(data, &mut |record| {
                history.delivered(record);
                sink(record);
            }),
        }
        .map(|_| ())
        .map_err(|damaged| (stream, damaged))
    }

    /// A subscription the server is to end.
    pub(super) fn take_unsubscribe(&mut self) -> Option<u32> {
        self.unsubscribe.pop()
    }

    /// It could not be told now.
    pub(super) fn put_back(&mut self, sub: u32) {
        self.unsubscribe.push(sub);
    }
}
