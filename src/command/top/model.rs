//! What `top` knows and how keys change it. Nothing here draws, asks or looks at a clock.

use std::collections::{BTreeMap, VecDeque};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::Answer;
use crate::admin::state::{ShardView, StreamView};
use crate::cli::arguments::TopView;
use crate::command::ask::Views;

/// Views, in the order of their keys.
pub(super) const VIEWS: [TopView; 6] = [
    TopView::Shards,
    TopView::Sessions,
    TopView::Streams,
    TopView::Disks,
    TopView::Ports,
    TopView::Producers,
];

/// Rows that PgUp and PgDn go.
const PAGE: usize = 10;

/// Intervals a sparkline has.
const HISTORY: usize = 240;

/// A shard's past intervals, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) messages_a_second: VecDeque<u64>,
    pub(super) p99_ns: VecDeque<u64>,
    unix_ns: u64,
}

impl History {
    fn note(&mut self, shard: &ShardView) {
        if self.unix_ns == shard.unix_ns {
            return;
        }
        self.unix_ns = shard.unix_ns;
        let rate = shard.rates.get("messages_accepted").copied().unwrap_or(0.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is positive and far below 2^53"
        )]
        let rate = rate.round() as u64;
        let p99_ns = shard.stages.get("whole").map_or(0, |whole| whole.ns.p99);
        for (values, value) in [(&mut self.messages_a_second, rate), (&mut self.p99_ns, p99_ns)] {
            if values.len() == HISTORY {
                values.pop_front();
            }
            values.push_back(value);
        }
    }
}

/// How fast a stream grows, from two of its views.
#[derive(Clone, Copy, Debug)]
struct Growth {
    unix_ns: u64,
    next: u64,
    a_second: f64,
}

/// Where a view stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// The row that arrows move.
    pub(super) row: usize,
    /// Which of the view's orders rows are in.
    pub(super) order: usize,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) view: TopView,
    places: [Place; VIEWS.len()],
    /// The newest answer; it stays when the appliance is lost.
    pub(super) views: Option<Views>,
    /// Why there is no newer one.
    pub(super) lost: Option<String>,
    pub(super) is_paused: bool,
    pub(super) is_helping: bool,
    pub(super) is_over: bool,
    history: BTreeMap<usize, History>,
    growth: BTreeMap<(usize, u32), Growth>,
}

impl Model {
    pub(super) fn new(view: TopView) -> Self {
        Self {
            view,
            places: [Place::default(); VIEWS.len()],
            views: None,
            lost: None,
            is_paused: false,
            is_helping: false,
            is_over: false,
            history: BTreeMap::new(),
            growth: BTreeMap::new(),
        }
    }

    /// Takes an answer in. While paused only a loss, and its end, are shown.
    pub(super) fn take_in(&mut self, answer: Answer) {
        let views = match answer {
            Ok(views) => views,
            Err(why) => {
                self.lost = Some(why);
                return;
            }
        };
        self.lost = None;
        if self.is_paused {
            return;
        }
        for shard in &views.shards.shards {
            self.history.entry(shard.shard).or_default().note(shard);
        }
        let now = |shard: usize| views.shards.shards.iter().find(|view| view.shard == shard);
        for stream in &views.streams.streams {
            if let Some(shard) = now(stream.shard) {
                self.note_growth(stream, shard.unix_ns);
            }
        }
        self.views = Some(views);
        let last = self.rows().saturating_sub(1);
        let place = self.place_mut();
        place.row = place.row.min(last);
    }

    fn note_growth(&mut self, stream: &StreamView, unix_ns: u64) {
        let next = stream.durable_next;
        let new = Growth { unix_ns, next, a_second: 0.0 };
        let growth = self.growth.entry((stream.shard, stream.id)).or_insert(new);
        let lasted_ns = unix_ns.saturating_sub(growth.unix_ns);
        if lasted_ns == 0 {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let a_second = next.saturating_sub(growth.next) as f64 / (lasted_ns as f64 / 1e9);
        *growth = Growth { unix_ns, next, a_second };
    }

    /// Messages a second that became durable in a stream.
    pub(super) fn stream_rate(&self, stream: &StreamView) -> f64 {
        self.growth.get(&(stream.shard, stream.id)).map_or(0.0, |growth| growth.a_second)
    }

    pub(super) fn history(&self, shard: usize) -> Option<&History> {
        self.history.get(&shard)
    }

    fn index(&self) -> usize {
        VIEWS.iter().position(|view| *view == self.view).expect("all views are in it")
    }

    pub(super) fn place(&self) -> Place {
        self.places[self.index()]
    }

    fn place_mut(&mut self) -> &mut Place {
        &mut self.places[self.index()]
    }

    /// Rows of the view that is shown.
    fn rows(&self) -> usize {
        let Some(views) = &self.views else { return 0 };
        match self.view {
            TopView::Sessions => views.sessions.sessions.len() + views.sessions.lost.len(),
            TopView::Streams => views.streams.streams.len(),
            TopView::Producers => views.producers.producers.len(),
            TopView::Shards | TopView::Disks | TopView::Ports => views.shards.shards.len(),
        }
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        #[allow(clippy::wildcard_enum_match_arm, reason = "all other keys mean nothing")]
        match key.code {
            KeyCode::Char('c') if control => self.is_over = true,
            KeyCode::Char('q') => self.is_over = true,
            KeyCode::Esc if self.is_helping => self.is_helping = false,
            KeyCode::Esc => self.is_over = true,
            KeyCode::Char('?' | 'h') => self.is_helping = !self.is_helping,
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => {
                let orders = super::tables::orders(self.view).len();
                let place = self.place_mut();
                place.order = (place.order + 1) % orders;
            }
            KeyCode::Char(digit @ '1'..='6') => self.view = VIEWS[digit as usize - '1' as usize],
            KeyCode::Tab | KeyCode::Right => self.view = VIEWS[(self.index() + 1) % VIEWS.len()],
            KeyCode::BackTab | KeyCode::Left => {
                self.view = VIEWS[(self.index() + VIEWS.len() - 1) % VIEWS.len()];
            }
            code => self.go(code),
        }
    }

    fn go(&mut self, code: KeyCode) {
        let last = self.rows().saturating_sub(1);
        let row = self.place().row;
        #[allow(clippy::wildcard_enum_match_arm, reason = "all other keys mean nothing")]
        let to = match code {
            KeyCode::Up => row.saturating_sub(1),
            KeyCode::Down => row + 1,
            KeyCode::PageUp => row.saturating_sub(PAGE),
            KeyCode::PageDown => row + PAGE,
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => row,
        };
        self.place_mut().row = to.min(last);
    }
}
