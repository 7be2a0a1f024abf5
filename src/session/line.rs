//! A line that sessions stand in.

use crate::limits::SESSIONS_MAX;
use crate::position::SessionSlot;

/// Who stands before and behind a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Links {
    before: usize,
    behind: usize,
}

/// Sessions in a line, each at most once, in the order they came; whoever stands anywhere in it leaves at once.
#[derive(Debug)]
pub(super) struct Line {
    /// By slot. The last entry is that of the line's two ends.
    links: Box<[Links]>,
    pub(super) len: usize,
}

impl Line {
    const ENDS: usize = SESSIONS_MAX;
    /// Of a slot that stands in no line.
    const NOBODY: Links = Links { before: usize::MAX, behind: usize::MAX };

    pub(super) fn new() -> Self {
        let mut links = vec![Self::NOBODY; SESSIONS_MAX + 1].into_boxed_slice();
        links[Self::ENDS] = Links { before: Self::ENDS, behind: Self::ENDS };
        Self { links, len: 0 }
    }

    pub(super) fn push(&mut self, slot: SessionSlot) {
        let at = slot.index();
        assert_eq!(self.links[at], Self::NOBODY, "slot {slot} stands in the line once");
        let last = self.links[Self::ENDS].before;
        self.links[at] = Links { before: last, behind: Self::ENDS };
        self.links[last].behind = at;
        self.links[Self::ENDS].before = at;
        self.len = self.len.saturating_add(1);
    }

    /// Takes a slot out, if it is there.
    pub(super) fn remove(&mut self, slot: SessionSlot) {
        let links = std::mem::replace(&mut self.links[slot.index()], Self::NOBODY);
        if links != Self::NOBODY {
            self.links[links.before].behind = links.behind;
            self.links[links.behind].before = links.before;
            self.len = self.len.saturating_sub(1);
        }
    }

    pub(super) fn first(&self) -> Option<SessionSlot> {
        self.slots().next()
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = SessionSlot> {
        let behind = |at: usize| Some(self.links[at].behind).filter(|next| *next != Self::ENDS);
        std::iter::successors(behind(Self::ENDS), move |at| behind(*at)).map(SessionSlot::new)
    }
}
