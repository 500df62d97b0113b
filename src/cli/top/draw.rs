//! How it is drawn, on screens of any size.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{LineGauge, Paragraph, Row};

use super::view::{Full, Table, View};

/// Two tables fit beside each other on a screen that is as wide as this.
const WIDE: u16 = 96;

const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);

pub(super) fn draw(view: &View, frame: &mut Frame<'_>) {
    let wide = frame.area().width >= WIDE;
    let (tools, operations) = (rows(&view.tools), rows(&view.operations));
    let middle = match wide {
        true => tools.max(operations),
        false => tools + operations + 1,
    };
    let health = u16::from(view.degraded.is_some());
    let readers = rows(&view.readers);
    let [title, degraded, live, space, kept, rates, _, middle, _, readers, foot] =
        Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(health),
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(1),
            // Both get their share of a screen that is too low for them.
            Constraint::Max(middle),
            Constraint::Length(1),
            Constraint::Min(readers.min(4)),
            Constraint::Length(1),
        ])
        .areas(frame.area());
    frame.render_widget(Line::styled(&view.title, HEAD), title);
    if let Some(reason) = &view.degraded {
        let style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
        frame.render_widget(Line::styled(format!("degraded: {reason}"), style), degraded);
    }
    gauge(frame, live, "live ", view.live.as_ref());
    gauge(frame, space, "disk ", view.space.as_ref());
    frame.render_widget(Paragraph::new(view.kept.as_str()), kept);
    frame.render_widget(Paragraph::new(view.rates.as_str()), rates);
    if wide {
        let [left, _, right] = Layout::horizontal([
            Constraint::Percentage(55),
            Constraint::Length(3),
            Constraint::Fill(1),
        ])
        .areas(middle);
        table(frame, left, &view.tools, [9, 8, 8, 8, 7]);
        table(frame, right, &view.operations, [8, 10, 10]);
    } else {
        let [above, _, below] = Layout::vertical([
            Constraint::Max(tools),
            Constraint::Length(1),
            Constraint::Max(operations),
        ])
        .areas(middle);
        table(frame, above, &view.tools, [9, 6, 7, 7, 6]);
        table(frame, below, &view.operations, [8, 10, 10]);
    }
    table(frame, readers, &view.readers, [8, 6, 6, 9]);
    let dim = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(Line::styled("q ends this", dim), foot);
}

/// With its heads.
fn rows<const N: usize>(table: &Table<N>) -> u16 {
    u16::try_from(table.rows.len()).unwrap_or(u16::MAX).saturating_add(1)
}

fn gauge(frame: &mut Frame<'_>, area: Rect, name: &'static str, full: Option<&Full>) {
    let Some(full) = full else {
        return frame.render_widget(Line::raw(format!("{name} being counted")), area);
    };
    let colour = match full.share {
        ..0.8 => Color::Green,
        ..0.95 => Color::Yellow,
        _ => Color::Red,
    };
    let width = u16::try_from(full.text.chars().count()).unwrap_or(u16::MAX);
    let [bar, _, text] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(1), Constraint::Length(width)])
            .areas(area);
    let gauge = LineGauge::default().ratio(full.share).filled_style(Style::new().fg(colour));
    frame.render_widget(gauge.label(format!("{name}{:3.0}%", full.share * 100.0)), bar);
    frame.render_widget(Line::raw(&full.text), text);
}

/// The first column takes what the others, which are so wide, leave.
fn table<const N: usize, const M: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    table: &Table<N>,
    widths: [u16; M],
) {
    const { assert!(N == M + 1) };
    let cells = |texts: &[String]| -> Vec<Line<'static>> {
        let cell = |(column, text): (usize, &String)| {
            let line = Line::from(Span::raw(text.clone()));
            if column == 0 { line } else { line.right_aligned() }
        };
        texts.iter().enumerate().map(cell).collect()
    };
    let mut columns = vec![Constraint::Fill(1)];
    columns.extend(widths.map(Constraint::Length));
    let heads: Vec<String> = table.heads.iter().map(|head| (*head).to_owned()).collect();
    let rows = table.rows.iter().map(|row| Row::new(cells(row)));
    let widget =
        ratatui::widgets::Table::new(rows, columns).header(Row::new(cells(&heads)).style(HEAD));
    frame.render_widget(widget, area);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::super::text;
    use super::super::view::{Sample, View};

    fn view(readers: usize) -> View {
        let status = |hits: u64| {
            json!({
                "mountpoint": "/mnt/cache", "store": "/var/lib/cachefs", "access": "shared",
                "degraded": {"reason": "the store is full"}, "hits": hits, "misses": 7,
                "live": {"bytes": 15u64 << 30, "files": 1_000_000}, "units": 20_000,
                "limits": {"max_size": "20G"}, "space": {"bytes": 1u64 << 40, "available": 1u64 << 39},
                "retired": {"bytes": 4096, "files": 1, "readers": 1}, "readers": readers,
                "tools": [
                    {"tool": "pip", "bytes": 1 << 20, "units": 12, "hits": 5, "misses": 1, "pruned_units": 0},
                    {"tool": "uv", "bytes": 14u64 << 30, "units": 19_988, "hits": hits, "misses": 6,
                     "pruned_units": 42},
                ],
                "requests": {"open": hits, "lookup": 10, "poll": 0},
                "latency": {"open": {"p50": 5, "p99": 25}},
            })
        };
        let one = |pid: usize| {
            json!({"pid": pid, "command": format!("uv pip install {pid}"), "uid": 1000,
            "open_files": 3, "retired_bytes": pid})
        };
        let readers: Vec<_> = (1..=readers).map(one).collect();
        let at = Instant::now();
        let sample =
            |hits, at| Sample { at, status: status(hits), readers: json!({"readers": readers}) };
        View::between(&sample(100, at), &sample(300, at + Duration::from_secs(2)))
    }

    #[test]
    fn all_of_it_is_there() {
        let shown = text(&view(2), 110, 40);
        for said in [
            "/mnt/cache on /var/lib/cachefs, access shared",
            "degraded: the store is full",
            "15.0 GiB in 1000000 files, 20000 units, of 20G",
            "512 GiB of 1.00 TiB free",
            "100/s hits",
            "4.00 KiB kept for 1 of 2 readers",
            "uv pip install 2",
        ] {
            assert!(shown.contains(said), "{said}\n{shown}");
        }
        let line = |with: &str| shown.lines().position(|line| line.contains(with)).unwrap();
        // The largest first, and what was asked for most.
        assert!(line("uv  ") < line("pip  "), "{shown}");
        assert!(line("open ") < line("lookup"), "{shown}");
        assert!(shown.contains("25 us") && !shown.contains("poll"), "{shown}");
        // For whom most is kept.
        assert!(line("install 2") < line("install 1"), "{shown}");
    }

    #[test]
    fn it_fits_on_any_screen() {
        for readers in [0, 3, 500] {
            let view = view(readers);
            for (width, height) in [(1, 1), (20, 5), (40, 12), (80, 24), (96, 24), (250, 100)] {
                let shown = text(&view, width, height);
                assert_eq!(shown.lines().count(), usize::from(height));
                assert!(shown.lines().all(|line| line.chars().count() <= usize::from(width)));
                if height >= 24 {
                    let readers_head = shown.lines().any(|line| line.starts_with("READER"));
                    assert!(readers_head && shown.contains("TOOL"), "{shown}");
                }
            }
        }
    }

    #[test]
    fn the_first_look_tells_no_rates() {
        let at = Instant::now();
        let sample = Sample { at, status: json!({"hits": 5}), readers: json!({}) };
        let shown = text(&View::between(&sample, &sample), 90, 30);
        assert!(shown.contains("0/s hits") && shown.contains("being counted"), "{shown}");
    }
}
