//! Screens of `top`, as text, against those kept beside this file.
//!
//! `BUSLANE_UPDATE_SCREENS=1 cargo test screens` writes them anew; read the difference before you keep it.

use std::collections::BTreeMap;
use std::path::Path;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::Model;
use super::view;
use crate::admin::state::{
    LogView, LostView, PlaceView, ProducerView, ProducersView, SCHEMA_VERSION, SessionView,
    SessionsView, ShardView, ShardsView, StageView, StallView, StreamView, StreamsView,
    SubscriptionView,
};
use crate::cli::arguments::TopView;
use crate::command::ask::Views;
use crate::metrics::latency::Percentiles;
use crate::metrics::stages::Stage;

const SECOND: u64 = 1_000_000_000;

fn stage(count: u64, p50: u64) -> StageView {
    let ns = Percentiles {
        p50,
        p90: p50 * 2,
        p99: p50 * 3,
        p99_9: p50 * 5,
        p99_99: p50 * 8,
        max: p50 * 10,
    };
    StageView { count, ns }
}

fn shard(number: usize, second: u64) -> ShardView {
    let factor = number as u64 + 1;
    let latencies = [310, 90, 4_700, 1_200, 6_300];
    let stages: BTreeMap<_, _> = Stage::ALL
        .iter()
        .zip(latencies)
        .map(|(one, ns)| (one.name().to_owned(), stage(20_000 * factor, ns * factor)))
        .collect();
    #[allow(clippy::cast_precision_loss, reason = "small")]
    let rate = (10_000 * factor + 1_000 * (second % 7)) as f64;
    let rates = ["messages_accepted", "batches_durable", "port_received", "port_transmitted"];
    let stall = StallView { unix_ns: (second - 3) * SECOND, ns: 1_234_567, stage: "commit".into() };
    ShardView {
        shard: number,
        condition: if number == 1 { "full" } else { "serving" }.into(),
        silent_ms: 0,
        place: PlaceView {
            address: format!("127.0.0.1:{}", 9310 + number),
            port: "kernel UDP".into(),
            security: "sealed".into(),
            disk: "/var/lib/buslane/orders.log".into(),
            durability: "no-write-cache".into(),
            core: Some(number + 2),
        },
        log: LogView {
            epoch: 7,
            segments_used: 24 * (number + 1),
            segments_free: 64 - 24 * (number + 1),
            room_bytes: 1 << 30,
            room_s: None,
            in_flight_bytes: 131_072 * number,
        },
        sessions: 3,
        unix_ns: second * SECOND,
        interval_s: 1.0,
        counters: BTreeMap::from([
            ("port_received".into(), 123_456_789 * factor),
            ("port_transmitted".into(), 98_765_432),
            ("port_receive_dropped".into(), number as u64),
        ]),
        rates: rates.iter().map(|name| ((*name).to_owned(), rate)).collect(),
        stages: stages.clone(),
        stages_total: stages,
        stalls: number as u64,
        stall_log: if number == 0 { Vec::new() } else { vec![stall] },
    }
}

fn views(second: u64) -> Views {
    let session = |number: u64| SessionView {
        shard: 0,
        connection: 7,
        peer: format!("10.0.0.{number}:40001"),
        producer_id: number % 3 * 100,
        accepted_to: 1_000 * number,
        durable_to: 1_000 * number - number,
        subscriptions: 1,
        subscribed: Vec::new(),
        silent_ns: number * 1_000_000,
    };
    let stream = |id: u32| StreamView {
        shard: id as usize % 2,
        id,
        name: format!("orders.{id:02}"),
        first_sequence: 1,
        durable_next: 1_000_000 + u64::from(id) * 500 * second,
        payload_bytes: 1 << (10 + id),
        subscriptions: 1,
    };
    let lost = LostView {
        shard: 1,
        connection: 9,
        peer: "10.0.0.99:40001".into(),
        subscription: SubscriptionView {
            stream: "orders.03".into(),
            next: 5_096,
            lag_messages: 4_711,
            lag_s: 17.0,
            stopped: false,
        },
        silent_ns: 18 * SECOND,
    };
    let producer = |number: u64| ProducerView {
        shard: 0,
        producer_id: number,
        peer: if number > 3 { format!("10.0.0.{number}:40001") } else { String::new() },
        connected: number > 6,
        ended: number.is_multiple_of(2),
        durable_to: 1_000 * number,
        seen_unix_ns: (second - 10 * (8 - number)) * SECOND,
    };
    Views {
        shards: ShardsView {
            schema_version: SCHEMA_VERSION,
            shards: (0..2).map(|number| shard(number, second)).collect(),
        },
        sessions: SessionsView {
            schema_version: SCHEMA_VERSION,
            sessions: (1..=40).map(session).collect(),
            lost: vec![lost],
        },
        streams: StreamsView {
            schema_version: SCHEMA_VERSION,
            streams: (0..24).map(stream).collect(),
        },
        producers: ProducersView {
            schema_version: SCHEMA_VERSION,
            producers: (1..=8).map(producer).collect(),
        },
    }
}

/// A model that has seen some seconds.
fn model(view: TopView) -> Model {
    let mut model = Model::new(view);
    (100..130).for_each(|second| model.take_in(Ok(views(second))));
    model
}

fn press(model: &mut Model, codes: &[KeyCode]) {
    for code in codes {
        model.press(KeyEvent::new(*code, KeyModifiers::NONE));
    }
}

fn screen(model: &Model, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a buffer");
    terminal.draw(|frame| view::draw(frame, model)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..height {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A screen is what it was, in both sizes.
fn check(name: &str, model: &Model) {
    for (width, height) in [(80, 24), (120, 40)] {
        let drawn = screen(model, (width, height));
        let file = format!("src/command/top/screens/{name}-{width}x{height}.txt");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
        if std::env::var_os("BUSLANE_UPDATE_SCREENS").is_some() {
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            std::fs::write(&path, &drawn).expect("written");
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(drawn == kept, "{file} is not what is drawn:\n{drawn}");
    }
}

#[test]
fn screens_of_all_views_are_as_kept() {
    check("shards", &model(TopView::Shards));
    let mut sessions = model(TopView::Sessions);
    press(&mut sessions, &[KeyCode::PageDown, KeyCode::Char('s'), KeyCode::Char('s')]);
    check("sessions", &sessions);
    let mut streams = model(TopView::Shards);
    press(&mut streams, &[KeyCode::Tab, KeyCode::Tab, KeyCode::Char('s'), KeyCode::End]);
    check("streams", &streams);
    check("producers", &model(TopView::Producers));
    check("disks", &model(TopView::Disks));
    let mut ports = model(TopView::Shards);
    press(&mut ports, &[KeyCode::BackTab, KeyCode::BackTab, KeyCode::Char('p')]);
    check("ports", &ports);
}

#[test]
fn screens_of_a_lost_appliance_keep_what_was_known() {
    let mut lost = model(TopView::Shards);
    lost.take_in(Err("/run/admin.sock: Connection refused".into()));
    check("lost", &lost);
    lost.take_in(Ok(views(140)));
    assert!(lost.lost.is_none());
    let mut never = Model::new(TopView::Disks);
    check("asking", &never);
    never.take_in(Err("/run/admin.sock: No such file or directory".into()));
    check("never", &never);
}

#[test]
fn screens_with_help_are_as_kept() {
    let mut helping = model(TopView::Streams);
    press(&mut helping, &[KeyCode::Char('?')]);
    check("help", &helping);
    press(&mut helping, &[KeyCode::Esc]);
    assert!(!helping.is_helping && !helping.is_over);
}

#[test]
fn a_consumer_that_was_lost_is_among_the_sessions() {
    let mut model = model(TopView::Sessions);
    press(&mut model, &[KeyCode::Char('s'); 3]);
    let shown = screen(&model, (120, 40));
    let first = shown.lines().nth(3).expect("rows");
    let cells: Vec<_> = first.split_whitespace().collect();
    assert_eq!(cells[..2], ["10.0.0.99:40001", "1"], "the longest silent: {shown}");
    assert_eq!(cells[5..], ["lost", "4,711", "18,000", "17", "orders.03"], "{first}");
}

#[test]
fn no_size_of_a_terminal_is_too_small() {
    for view in super::model::VIEWS {
        let mut model = model(view);
        model.is_helping = true;
        for size in [(1, 1), (3, 2), (20, 5), (80, 3), (10, 60), (300, 100)] {
            let _ = screen(&model, size);
        }
    }
}

#[test]
fn keys_move_and_stay_within_the_rows() {
    let mut model = model(TopView::Sessions);
    press(&mut model, &[KeyCode::Up]);
    assert_eq!(model.place().row, 0);
    press(&mut model, &[KeyCode::PageDown; 9]);
    assert_eq!(model.place().row, 40, "those that were lost are among them");
    let mut fewer = views(131);
    fewer.sessions.sessions.truncate(5);
    fewer.sessions.lost.clear();
    model.take_in(Ok(fewer));
    assert_eq!(model.place().row, 4);
    press(&mut model, &[KeyCode::Char('p')]);
    model.take_in(Ok(views(132)));
    assert_eq!(model.views.as_ref().expect("some").sessions.sessions.len(), 5, "paused");
    press(&mut model, &[KeyCode::Char('1'), KeyCode::Char('s'), KeyCode::Down]);
    assert_eq!((model.view, model.place().order, model.place().row), (TopView::Shards, 1, 1));
    press(&mut model, &[KeyCode::Char('s'); 3]);
    assert_eq!(model.place().order, 0, "orders come round");
    model.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert!(model.is_over);
}
