//! Which server a polled client talks to, and how it came there.

use std::net::SocketAddrV4;

use crate::client::ClientError;
use crate::limits::REDIRECTS_MAX;
use crate::session::last_word::LastWord;

/// A session with another shard that was given up for this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) server: SocketAddrV4,
    pub(super) goodbye: LastWord,
}

/// Where the session is, or is to be.
#[derive(Debug)]
pub(super) struct Route {
    server: SocketAddrV4,
    /// Followed since something was last answered.
    redirects: u32,
    /// Who sent it to the server, and that shard's number, until it is there.
    sent_by: Option<(SocketAddrV4, u32)>,
    /// Its server is to hear of it.
    left: Option<Left>,
}

impl Route {
    pub(super) fn new(server: SocketAddrV4) -> Self {
        Self { server, redirects: 0, sent_by: None, left: None }
    }

    pub(super) fn server(&self) -> SocketAddrV4 {
        self.server
    }

    /// The appliance has another address now; whether that is news.
    pub(super) fn set_server(&mut self, server: SocketAddrV4) -> bool {
        let is_news = self.server != server;
        self.server = server;
        is_news
    }

    pub(super) fn may_follow(&self) -> bool {
        self.redirects < REDIRECTS_MAX
    }

    /// Goes to another shard.
    pub(super) fn follow(&mut self, shard: u32, server: SocketAddrV4, goodbye: LastWord) {
        self.redirects = self.redirects.saturating_add(1);
        self.left = Some(Left { server: self.server, goodbye });
        self.sent_by = Some((self.server, shard));
        self.server = server;
    }

    pub(super) fn take_left(&mut self) -> Option<Left> {
        self.left.take()
    }

    /// There is a session.
    pub(super) fn arrived(&mut self) {
        self.sent_by = None;
    }

    /// Something was answered: it is no circle.
    pub(super) fn answered(&mut self) {
        self.redirects = 0;
    }

    /// Why there is nobody.
    pub(super) fn unreachable(&self) -> ClientError {
        let server = self.server;
        match self.sent_by {
            Some((by, shard)) => ClientError::ShardUnreachable { shard, server, by },
            None => ClientError::Unreachable { server },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnId;

    #[test]
    fn so_many_redirections_are_followed_one_behind_the_other() {
        let server = |port| SocketAddrV4::new([127, 0, 0, 1].into(), port);
        let mut route = Route::new(server(1));
        let follow = |route: &mut Route| {
            let followed = (0..2 * REDIRECTS_MAX).take_while(|&shard| {
                let may_follow = route.may_follow();
                if may_follow {
                    route.follow(shard, server(2), LastWord::new(ConnId(1), 1, None, 0));
                }
                may_follow
            });
            followed.count()
        };
        assert_eq!(follow(&mut route), REDIRECTS_MAX as usize);
        route.answered();
        assert_eq!(follow(&mut route), REDIRECTS_MAX as usize, "it was no circle");
    }
}
