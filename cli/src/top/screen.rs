//! The screen of `forebay top`.
//!
//! Must always hold: it fits any size of terminal; 80 columns and 24 lines show everything
//! important. Must not know: where a view comes from.

use forebay::{control::NodeView, explain::LimitView};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Paragraph, Row, Table},
};

use super::look::{QueueRow, View};
use crate::show::safe;

/// Lines of the heading, including its blank line.
const HEADING_LINES: u16 = 3;
/// The tables of services and of limits take at most this part of the lines each.
const SIDE_PART: u16 = 6;
/// And at most this many rows.
const SIDE_ROWS_MAX: u16 = 8;
/// Minimum number of columns for the queues' column of work.
const WORK_FROM: u16 = 120;
/// Age from which on the view shows how old it is, in seconds.
const OLD_FROM_S: u64 = 4;

/// Draws a view, without the first `scrolled` queues.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, scrolled: usize) {
    let side = (frame.area().height / SIDE_PART).clamp(1, SIDE_ROWS_MAX);
    // The rows are preceded by a header and a blank line.
    let lines = |rows: usize| match u16::try_from(rows).unwrap_or(u16::MAX).min(side) {
        0 => 0,
        rows => rows + 2,
    };
    let [head, services_area, limits_area, queues_area, keys] = Layout::vertical([
        Constraint::Length(HEADING_LINES),
        Constraint::Length(lines(view.services.len())),
        Constraint::Length(lines(view.limits.len())),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    heading(frame, head, view);
    services(frame, services_area, view, side);
    limits(frame, limits_area, &view.limits, side);
    queues(frame, queues_area, view, scrolled);
    let keys_line = match view.node.is_some() && !view.has_process() {
        true => "q quits, arrows scroll the queues, r reads the directory again",
        false => "q quits, arrows scroll the queues",
    };
    let dim = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(Paragraph::new(keys_line).style(dim), keys);
}

fn heading(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let first = match (&view.node, &view.problem) {
        (Some(node), _) => summary(view, node),
        (None, None) => "reading...".to_owned(),
        (None, Some(_)) => "no answer yet".to_owned(),
    };
    let bad = Style::new().fg(Color::Red);
    let lines = vec![
        Line::styled(first, Style::new().add_modifier(Modifier::BOLD)),
        Line::styled(problems(view), bad),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn summary(view: &View, node: &NodeView) -> String {
    let sum = |of: fn(&super::look::ServiceRow) -> u64| view.services.iter().map(of).sum::<u64>();
    let waiting = sum(|row| row.counts.inbox);
    let mut rest = format!("{waiting} waiting");
    match sum(|row| row.counts.parked) {
        0 => {}
        paused => rest.push_str(&format!(", {paused} paused")),
    }
    match (node.pid, view.running_max) {
        (None, _) => {
            format!("no process has the data directory open, so nothing runs; stored: {rest}")
        }
        (Some(pid), Some(most)) => {
            format!(
                "forebay {} (process {pid}): {} of {most} running, {rest}",
                node.version, node.running
            )
        }
        (Some(pid), None) => {
            format!("forebay {} (process {pid}): {} running, {rest}", node.version, node.running)
        }
    }
}

/// The problems, on one line.
fn problems(view: &View) -> String {
    let mut problems = Vec::new();
    if let Some(problem) = &view.problem {
        if let Some(found_at) = view.found_at {
            problems.push(format!("{} s old", found_at.elapsed().as_secs()));
        }
        problems.push(safe(problem));
    } else if let Some(found_at) = view.found_at
        && view.has_process()
        && found_at.elapsed().as_secs() >= OLD_FROM_S
    {
        problems.push(format!("{} s old", found_at.elapsed().as_secs()));
    }
    if let Some(node) = &view.node {
        for partition in &node.partitions {
            if let Some(reason) = &partition.stopped {
                problems.push(format!("partition {} stopped: {}", partition.id, safe(reason)));
            }
        }
        for unserved in &node.unserved {
            problems.push(format!("no handler for service {}", safe(&unserved.service)));
        }
    }
    problems.join("; ")
}

fn services(frame: &mut Frame<'_>, area: Rect, view: &View, side: u16) {
    let title = counted("SERVICE OR RUN", view.services.len(), usize::from(side));
    let rows = view.services.iter().take(usize::from(side)).map(|row| {
        let counts = &row.counts;
        let numbers = [counts.inbox, counts.running, counts.parked, counts.finished];
        let cells = [row.name.clone()].into_iter().chain(numbers.map(|it| it.to_string()));
        Row::new(cells.collect::<Vec<_>>())
    });
    let number = Constraint::Length(9);
    let widths = [Constraint::Min(20), number, number, number, number];
    let header = [title, "WAITING".into(), "RUNNING".into(), "PAUSED".into(), "ENDED".into()];
    table(frame, area, header.to_vec(), &widths, rows.collect());
}

fn limits(frame: &mut Frame<'_>, area: Rect, limits: &[LimitView], side: u16) {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows = limits.iter().take(usize::from(side)).map(|limit| {
        let used = match limit.limit {
            Some(most) => format!("{} of {most}", limit.usage),
            None => limit.usage.to_string(),
        };
        let backlog = limit.backlog.zip(limit.backlog_limit);
        let holds = limit.paused.is_some() || limit.limit.is_some_and(|most| limit.usage >= most);
        Row::new(vec![
            safe(&limit.key),
            used,
            or_dash(limit.tokens.map(|tokens| tokens.to_string())),
            limit.waiters.to_string(),
            or_dash(backlog.map(|(waiting, most)| format!("{waiting} of {most}"))),
            or_dash(limit.paused.as_deref().map(safe)),
        ])
        .style(warning(holds))
    });
    let widths = [
        Constraint::Min(16),
        Constraint::Length(11),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(12),
        Constraint::Length(14),
    ];
    let header = [
        counted("LIMIT", limits.len(), usize::from(side)),
        "USED".into(),
        "TOKENS".into(),
        "WAITERS".into(),
        "BACKLOG".into(),
        "PAUSED BY".into(),
    ];
    table(frame, area, header.to_vec(), &widths, rows.collect());
}

fn queues(frame: &mut Frame<'_>, area: Rect, view: &View, scrolled: usize) {
    let has_work = area.width >= WORK_FROM;
    let cells = |row: &QueueRow| {
        let numbers = [row.waiting, row.running, row.paused].map(|number| number.to_string());
        let mut cells = vec![row.service.clone(), row.name.clone()];
        cells.extend(numbers);
        cells.push(if row.blocked.is_empty() { "-".to_owned() } else { row.blocked.clone() });
        if has_work {
            cells.push(row.work.clone());
        }
        Row::new(cells).style(warning(!row.blocked.is_empty()))
    };
    let rows = view.queues.iter().skip(scrolled).take(usize::from(area.height)).map(cells);
    let number = Constraint::Length(7);
    let mut widths = vec![
        Constraint::Length(14),
        Constraint::Fill(2),
        number,
        number,
        number,
        Constraint::Fill(3),
    ];
    let at_least = if view.has_more { "+" } else { "" };
    let of = match view.queues.len() {
        0 => "QUEUE".to_owned(),
        all => format!("QUEUE {} of {all}{at_least}", scrolled + 1),
    };
    let mut header: Vec<String> =
        ["SERVICE", &of, "WAITING", "RUNNING", "PAUSED", "BLOCKED BY"].map(str::to_owned).to_vec();
    if has_work {
        widths.push(Constraint::Fill(3));
        header.push("RUNS NOW OR NEXT".to_owned());
    }
    table(frame, area, header, &widths, rows.collect());
}

fn table(
    frame: &mut Frame<'_>,
    area: Rect,
    header: Vec<String>,
    widths: &[Constraint],
    rows: Vec<Row<'static>>,
) {
    let header = Row::new(header).style(Style::new().add_modifier(Modifier::BOLD));
    frame.render_widget(Table::new(rows, widths.to_vec()).header(header), area);
}

/// A title with the number of omitted rows.
fn counted(title: &str, all: usize, shown: usize) -> String {
    if all > shown { format!("{title} (first {shown} of {all})") } else { title.to_owned() }
}

fn warning(holds: bool) -> Style {
    if holds { Style::new().fg(Color::Yellow) } else { Style::new() }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use forebay::PartitionId;
    use forebay_api::ServiceCounts;
    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::look::ServiceRow, *};

    fn view() -> View {
        let counts = |service: &str, inbox, running| ServiceCounts {
            service: service.to_owned(),
            inbox,
            running,
            parked: 1,
            finished: 9,
        };
        let service = |name: &str, inbox, running| ServiceRow {
            name: name.to_owned(),
            counts: counts(name, inbox, running),
        };
        let limit = |key: &str| LimitView {
            partition: PartitionId(0),
            key: key.to_owned(),
            usage: 3,
            limit: Some(3),
            tokens: None,
            waiters: 2,
            backlog: Some(12),
            backlog_limit: Some(1_000),
            rule: None,
            pattern: None,
            paused: None,
        };
        let queue = |n: u64| QueueRow {
            service: "mail".to_owned(),
            name: format!("tenant-{n}"),
            waiting: n,
            running: 0,
            paused: 0,
            blocked: "acme is full: 3 of 3".to_owned(),
            work: "the payload".to_owned(),
        };
        View {
            node: Some(NodeView {
                pid: Some(77),
                version: "1".to_owned(),
                running: 3,
                partitions: Vec::new(),
                unserved: Vec::new(),
            }),
            running_max: Some(8),
            services: (0..20).map(|n| service(&format!("service-{n}"), n, 0)).collect(),
            limits: ["acme", "b", "c", "d", "e", "f"].map(limit).to_vec(),
            queues: (0..50).map(queue).collect(),
            has_more: true,
            found_at: Some(Instant::now()),
            problem: None,
        }
    }

    fn drawn(view: &View, width: u16, height: u16, scrolled: usize) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view, scrolled)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_important_fits_into_80_columns_and_24_lines() {
        let text = drawn(&view(), 80, 24, 0);
        let parts = [
            "forebay 1 (process 77): 3 of 8 running, 190 waiting, 20 paused",
            "SERVICE OR RUN (first 4 of 20)",
            "LIMIT (first 4 of 6)",
            "3 of 3",
            "12 of 1000",
            "QUEUE 1 of 50+",
            "tenant-5",
            "acme is full: 3 of 3",
            "q quits",
        ];
        for part in parts {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        assert!(!text.contains("the payload"));
        assert!(drawn(&view(), 200, 24, 0).contains("the payload"));
    }

    #[test]
    fn queues_scroll_and_no_size_is_too_small() {
        let text = drawn(&view(), 80, 24, 40);
        assert!(text.contains("QUEUE 41 of 50+") && text.contains("tenant-40"), "{text}");
        assert!(!text.contains("tenant-39"), "{text}");
        for (width, height) in [(1, 1), (3, 2), (10, 5), (20, 100), (500, 3)] {
            drawn(&view(), width, height, 0);
            drawn(&View::default(), width, height, 0);
        }
        assert!(drawn(&View::default(), 80, 24, 0).contains("reading"));
    }

    #[test]
    fn an_old_view_shows_its_age_and_the_reason() {
        let problem = Some("it does not answer\x1b[2J".to_owned());
        let text = drawn(&View { problem, ..view() }, 80, 24, 0);
        assert!(text.contains(r"0 s old; it does not answer\u{1b}[2J"), "{text}");
    }
}
