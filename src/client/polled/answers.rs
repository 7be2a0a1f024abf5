//! Answers to what a polled client has asked: streams, the ends of lists, and where to ask instead.

use super::Link;
use crate::client::{ClientError, Event, Publisher, Request, StreamDescription};
use crate::clock::Clock;
use crate::ids::{ProducerId, StreamId};
use crate::limits::STREAMS_MAX;
use crate::wire::control::{ListEnd, Redirect, StreamInfo};

/// Redirections followed one behind the other, at most: further is going round in a circle.
const REDIRECTS_MAX: u32 = 8;

impl<C: Clock> Link<C> {
    pub(super) fn on_stream_info(&mut self, info: &StreamInfo<'_>) {
        let request = info.head.request.get();
        let Some(index) = self.asked.iter().position(|asked| asked.id == request) else { return };
        self.redirects = 0;
        let id = info.head.stream.get();
        if self.asked[index].request == Request::ListStreams {
            // A repeated part of a list was told before.
            if id <= self.asked[index].after {
                return;
            }
            let asked = &mut self.asked[index];
            (asked.after, asked.since_ns) = (id, self.now_ns);
            asked.told = asked.told.saturating_add(1);
            if asked.told > STREAMS_MAX {
                // No shard has so many.
                self.fail(ClientError::Nonsense { server: self.server });
                return;
            }
        } else {
            self.asked.swap_remove(index);
        }
        let info = StreamDescription {
            id: StreamId(id),
            name: info.name.to_owned(),
            log_start: info.head.log_start.get(),
            durable_next: info.head.durable_next.get(),
            created_ns: info.head.created_ns.get(),
            bytes: info.head.bytes.get(),
            shard: info.head.shard.get(),
        };
        self.note(Event::Stream { request, info });
    }

    pub(super) fn on_list_end(&mut self, end: &ListEnd) {
        let (request, after) = (end.request.get(), end.after.get());
        let Some(index) = self.asked.iter().position(|asked| asked.id == request) else { return };
        if after == 0 {
            self.asked.swap_remove(index);
            self.note(Event::ListEnd { request });
        } else if after > self.asked[index].after {
            (self.asked[index].after, self.asked[index].wait_ns) = (after, 0);
            self.asked[index].since_ns = self.now_ns;
        }
    }

    /// The stream is on another shard: goes there, if there is nothing to be left behind here.
    pub(super) fn on_redirect(&mut self, redirect: &Redirect) {
        let (request, shard) = (redirect.request.get(), redirect.shard.get());
        let Some(index) = self.asked.iter().position(|asked| asked.id == request) else { return };
        // Not what the appliance takes for its address: between here and there ports may be mapped.
        let Some(server) = self.shards.address_of(shard) else {
            self.dropped = self.dropped.saturating_add(1);
            return;
        };
        let known = matches!(self.options.publisher, Publisher::Known(_));
        let is_free = !known && self.sender.next_seq() == 1 && self.subscriptions.is_empty();
        if !is_free || self.asked.len() > 1 || self.redirects == REDIRECTS_MAX {
            self.asked.swap_remove(index);
            self.note(Event::Redirected { request, shard, server });
            return;
        }
        self.redirects = self.redirects.saturating_add(1);
        self.left = Some((self.server, self.conn_id));
        self.sent_by = Some((self.server, shard));
        self.server = server;
        // Producers and epochs are the shard's own.
        (self.producer, self.epoch, self.log) = ((ProducerId(0), 0), 0, 0);
        // Nothing is taken for a producer that is not known yet.
        self.message_bytes_max = 0;
        self.register_again();
    }
}
