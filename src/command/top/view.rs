//! How `top` looks.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Sparkline, Table, TableState, Wrap};

use super::model::{Model, VIEWS};
use super::tables::{Column, STAGES, listing, orders, shards, stage_rows};
use crate::admin::state::ShardView;
use crate::cli::arguments::TopView;
use crate::report::{micros, thousands};

/// From this width on there is room for all columns.
const WIDE: u16 = 110;

/// Rows of shards shown at once in the first view; arrows reach the others.
const SHARD_ROWS: usize = 6;

/// Stalls shown.
const STALLS: usize = 4;

/// A shard that is silent for so long is told of.
const SILENT_MS: u64 = 1_000;

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let [head, tabs, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(heading(model), head);
    frame.render_widget(tab_line(model), tabs);
    frame.render_widget(foot_line(model), foot);
    match &model.views {
        None => draw_nothing(frame, model, body),
        Some(_) if model.view == TopView::Shards => draw_shards(frame, model, body),
        Some(_) => draw_listing(frame, model, body),
    }
    if model.is_helping {
        draw_help(frame, body);
    }
}

/// Who is shown, and how it is.
fn heading(model: &Model) -> Line<'_> {
    let mut spans = vec!["buslane top".bold(), "  ".into()];
    if let Some(why) = &model.lost {
        spans.push(Span::styled("LOST", Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)));
        spans.push(format!("  asking again: {why}").into());
        return Line::from(spans);
    }
    let Some(views) = &model.views else {
        spans.push("asking".into());
        return Line::from(spans);
    };
    let rows = &views.shards.shards;
    let serving = rows.iter().filter(|shard| shard.condition == "serving").count();
    let style = if serving == rows.len() { Style::new() } else { Style::new().fg(Color::Red) };
    spans.push(Span::styled(format!("{serving} of {} shards serving", rows.len()), style));
    if let Some(silent) = rows.iter().find(|shard| shard.silent_ms >= SILENT_MS) {
        let what =
            format!("  shard {} is silent for {} ms", silent.shard, thousands(silent.silent_ms));
        spans.push(Span::styled(what, Style::new().fg(Color::Red)));
    }
    if model.is_paused {
        spans.push("  PAUSED".bold());
    }
    Line::from(spans)
}

fn tab_line(model: &Model) -> Line<'_> {
    let names = ["Shards", "Sessions", "Streams", "Disks", "Ports", "Producers"];
    let mut spans = Vec::new();
    for (index, (view, name)) in VIEWS.iter().zip(names).enumerate() {
        let text = format!(" {} {name} ", index + 1);
        let chosen = *view == model.view;
        spans.push(if chosen { text.reversed() } else { text.into() });
        spans.push(" ".into());
    }
    Line::from(spans)
}

fn foot_line(model: &Model) -> Line<'_> {
    let order = orders(model.view)[model.place().order];
    Line::from(format!(
        "q quit  1-6 Tab view  arrows PgUp PgDn row  s sort: {order}  p pause  ? help"
    ))
    .dim()
}

fn draw_nothing(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let text = match &model.lost {
        Some(why) => format!("No appliance answers.\n\n{why}\n\nIt is asked again twice a second."),
        None => "Asking.".to_owned(),
    };
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
}

fn draw_listing(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let Some(views) = &model.views else { return };
    let listing = listing(model, views);
    let chosen = Some(model.place().row).filter(|row| *row < listing.rows.len());
    if listing.rows.is_empty() {
        frame.render_widget(Paragraph::new("none").dim(), below(area, 1));
    }
    draw_table(frame, area, listing.columns, &listing.rows, chosen);
}

/// What is left of an area below so many lines.
fn below(area: Rect, lines: u16) -> Rect {
    let taken = lines.min(area.height);
    Rect { y: area.y + taken, height: area.height - taken, ..area }
}

fn draw_table(
    frame: &mut Frame<'_>,
    area: Rect,
    columns: &[Column],
    rows: &[Vec<String>],
    chosen: Option<usize>,
) {
    let fits = |column: &&Column| !column.is_extra || area.width >= WIDE;
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = columns.iter().zip(cells).filter(|(column, _)| fits(column));
        Row::new(cells.map(|(column, cell)| {
            let side = if column.is_number { Alignment::Right } else { Alignment::Left };
            Cell::from(Text::from(cell.to_owned()).alignment(side))
        }))
    };
    let widths = columns.iter().filter(fits).map(|column| Constraint::Length(column.width));
    let header = line(&mut columns.iter().map(|column| column.title)).bold();
    let body = rows.iter().map(|cells| line(&mut cells.iter().map(String::as_str)));
    let table = Table::new(body, widths)
        .header(header)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(chosen);
    frame.render_stateful_widget(table, area, &mut state);
}

fn draw_shards(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let Some(views) = &model.views else { return };
    let listing = listing(model, views);
    let shards = shards(model, views);
    let Some(shard) = shards.get(model.place().row) else {
        frame.render_widget(Paragraph::new("No shard has reported yet."), area);
        return;
    };
    let rows = u16::try_from(listing.rows.len().min(SHARD_ROWS)).unwrap_or(1);
    let [all, title, stages, lines, stalls] = Layout::vertical([
        Constraint::Length(rows + 1),
        Constraint::Length(2),
        Constraint::Length(6),
        Constraint::Min(3),
        Constraint::Length(2 + u16::try_from(STALLS).unwrap_or(1)),
    ])
    .areas(area);
    draw_table(frame, all, listing.columns, &listing.rows, Some(model.place().row));
    let what = format!(
        "shard {}, newest interval of {:.1} s, latencies in us",
        shard.shard, shard.interval_s
    );
    frame.render_widget(Paragraph::new(what).dim(), below(title, 1));
    draw_table(frame, stages, &STAGES, &stage_rows(shard), None);
    draw_lines(frame, model, shard, below(lines, 1));
    frame.render_widget(stall_text(shard), below(stalls, 1));
}

/// Two sparklines side by side: how much, and how long.
fn draw_lines(frame: &mut Frame<'_>, model: &Model, shard: &ShardView, area: Rect) {
    let Some(history) = model.history(shard.shard) else { return };
    let [left, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(2).areas(area);
    let most = |values: &VecDeque<u64>| values.iter().copied().max().unwrap_or(0);
    let rates = &history.messages_a_second;
    let title = format!("messages/s, at most {}", thousands(most(rates)));
    draw_sparkline(frame, left, title, rates);
    let title = format!("p99 of the whole in us, at most {}", micros(most(&history.p99_ns)));
    draw_sparkline(frame, right, title, &history.p99_ns);
}

fn draw_sparkline(frame: &mut Frame<'_>, area: Rect, title: String, values: &VecDeque<u64>) {
    let skip = values.len().saturating_sub(usize::from(area.width));
    let newest: Vec<u64> = values.iter().skip(skip).copied().collect();
    let line = Sparkline::default().block(Block::new().title(title.dim())).data(newest);
    frame.render_widget(line, area);
}

fn stall_text(shard: &ShardView) -> Paragraph<'static> {
    if shard.stalls == 0 {
        return Paragraph::new("no turn took too long").dim();
    }
    let mut lines = vec![Line::from(format!(
        "{} turns took longer than limits.turn_us; the newest:",
        thousands(shard.stalls)
    ))];
    lines.extend(shard.stall_log.iter().take(STALLS).map(|stall| {
        let ago_s = shard.unix_ns.saturating_sub(stall.unix_ns) / 1_000_000_000;
        Line::from(format!("{:>12} us in {:<8} {} s ago", micros(stall.ns), stall.stage, ago_s))
    }));
    Paragraph::new(lines)
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let text = "\
1-6, Tab, left, right   choose the view
up, down, PgUp, PgDn    choose a row; Home, End: first, last
s                       sort by the next column of the view
p                       pause; what is shown stays
?                       this help
q, Esc, Ctrl-C          end

P50 to MAX are microseconds of the newest interval, from
taking a message off the port to handing its acknowledgement
to it. STALLS counts turns longer than limits.turn_us.
NOT DURABLE are messages accepted and not yet on media.";
    let [height, width] = [13, 64];
    let area = Rect {
        x: area.x + area.width.saturating_sub(width) / 2,
        y: area.y + area.height.saturating_sub(height) / 2,
        width: width.min(area.width),
        height: height.min(area.height),
    };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title(" help ")), area);
}
