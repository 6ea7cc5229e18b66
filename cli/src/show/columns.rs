//! Tables that are printed page by page, with the last column cut to the width.
//!
//! Must always hold: a page is printed without knowing the next ones; columns stay where the first
//! page has put them, or move to the right; without a terminal no column is omitted. Must not know:
//! the meaning of the cells.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Width of the last column when standard output is not a terminal.
const PIPED_WIDTH: usize = 120;
/// Minimum width of the last column, if other columns can be omitted for it.
const LAST_WIDTH_MIN: usize = 24;
/// Space between two columns.
const GAP: usize = 2;
/// Text of an empty cell.
pub(super) const NONE: &str = "-";

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) header: &'static str,
    /// On a terminal: omitted if all cells of the first page are empty.
    pub(super) hides_empty: bool,
    /// On a narrow terminal: omitted to make room for the last column; 1 goes first.
    pub(super) goes: Option<u8>,
}

impl Column {
    pub(super) const fn new(header: &'static str) -> Self {
        Self { header, hides_empty: false, goes: None }
    }

    pub(super) const fn hides_empty(self) -> Self {
        Self { hides_empty: true, ..self }
    }

    pub(super) const fn goes(self, order: u8) -> Self {
        Self { goes: Some(order), ..self }
    }
}

/// A table that grows.
#[derive(Debug)]
pub(super) struct Columns {
    columns: &'static [Column],
    /// Width of the terminal.
    terminal: Option<usize>,
    /// Displayed columns, with their widths. Empty before the first page.
    shown: Vec<(usize, usize)>,
}

impl Columns {
    pub(super) fn new(columns: &'static [Column], terminal: Option<usize>) -> Self {
        Self { columns, terminal, shown: Vec::new() }
    }

    /// Whether nothing was printed yet.
    pub(super) fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Some rows as text, with the header before the first ones.
    pub(super) fn page(&mut self, rows: &[Vec<String>]) -> String {
        let Some(first) = rows.first() else { return String::new() };
        assert_eq!(first.len(), self.columns.len(), "a cell for each column");
        let is_first = self.shown.is_empty();
        if is_first {
            self.choose(rows);
        }
        for (index, width) in &mut self.shown {
            let widest = rows.iter().map(|row| row[*index].width()).max().unwrap_or(0);
            *width = widest.max(*width);
        }
        let mut text = String::new();
        if is_first {
            let headers: Vec<String> =
                self.columns.iter().map(|column| column.header.to_owned()).collect();
            self.line(&headers, &mut text);
        }
        for row in rows {
            self.line(row, &mut text);
        }
        text
    }

    fn choose(&mut self, rows: &[Vec<String>]) {
        let last = self.columns.len() - 1;
        let is_said = |index: usize| rows.iter().any(|row| row[index] != NONE);
        let width = |index: usize| {
            let widest = rows.iter().map(|row| row[index].width()).max().unwrap_or(0);
            widest.max(self.columns[index].header.width())
        };
        let mut shown: Vec<(usize, usize)> = (0..=last)
            .filter(|index| {
                let may_go = self.terminal.is_some() && self.columns[*index].hides_empty;
                !may_go || is_said(*index)
            })
            .map(|index| (index, width(index)))
            .collect();
        while let Some(terminal) = self.terminal
            && before_last(&shown) + LAST_WIDTH_MIN > terminal
            && let Some(goes) = shown
                .iter()
                .filter_map(|(index, _)| Some((self.columns[*index].goes?, *index)))
                .min()
        {
            shown.retain(|(index, _)| *index != goes.1);
        }
        self.shown = shown;
    }

    fn line(&self, cells: &[String], text: &mut String) {
        let room = match self.terminal {
            None => PIPED_WIDTH,
            Some(terminal) => terminal.saturating_sub(before_last(&self.shown)).max(LAST_WIDTH_MIN),
        };
        let from = text.len();
        let last = self.shown.len().saturating_sub(1);
        for (at, (index, width)) in self.shown.iter().enumerate() {
            let cell = &cells[*index];
            if at == last {
                text.push_str(&cut(cell, room));
            } else {
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', width - cell.width().min(*width) + GAP));
            }
        }
        let len = text[from..].trim_end().len();
        text.truncate(from + len);
        text.push('\n');
    }
}

/// Start of the last column.
fn before_last(shown: &[(usize, usize)]) -> usize {
    let (_, others) = shown.split_last().unwrap_or((&(0, 0), &[]));
    others.iter().map(|(_, width)| width + GAP).sum()
}

/// A text of at most this width, with a mark for the cut part. Rows often differ at the end, so the
/// end is kept too.
fn cut(text: &str, width_max: usize) -> String {
    if text.width() <= width_max {
        return text.to_owned();
    }
    let room = width_max.saturating_sub(1);
    let within = |room: usize| {
        let mut width = 0;
        move |c: &char| {
            width += c.width().unwrap_or(0);
            width <= room
        }
    };
    let end: Vec<char> = text.chars().rev().take_while(within(room / 3)).collect();
    let start = text.chars().take_while(within(room - room / 3));
    start.chain(['…']).chain(end.into_iter().rev()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &[Column] =
        &[Column::new("ID"), Column::new("SCOPE").hides_empty().goes(1), Column::new("COMMAND")];

    fn row(cells: [&str; 3]) -> Vec<String> {
        cells.map(str::to_owned).to_vec()
    }

    #[test]
    fn pages_keep_their_columns_and_widen_them() {
        let mut columns = Columns::new(THREE, None);
        assert_eq!(columns.page(&[]), "");
        let first = columns.page(&[row(["1", "-", "echo"])]);
        assert_eq!(first, "ID  SCOPE  COMMAND\n1   -      echo\n");
        let second = columns.page(&[row(["1000", "a", "-"])]);
        assert_eq!(second, "1000  a      -\n");
    }

    #[test]
    fn cut_text_keeps_its_beginning_and_its_end() {
        assert_eq!(cut("0123456789", 10), "0123456789");
        assert_eq!(cut("0123456789x", 10), "012345…89x");
        assert_eq!(cut("0123456789x", 1), "…");
    }

    #[test]
    fn a_terminal_hides_empty_columns_and_cuts_the_last_one() {
        let mut columns = Columns::new(THREE, Some(30));
        let text = columns.page(&[row(["1", "-", &"x".repeat(100)])]);
        assert_eq!(text, format!("ID  COMMAND\n1   {}…{}\n", "x".repeat(17), "x".repeat(8)));
        let mut columns = Columns::new(THREE, Some(30));
        let text = columns.page(&[row(["1", "scope", "\u{65e5}\u{672c}".repeat(20).as_str()])]);
        assert!(!text.contains("SCOPE"), "it makes room: {text}");
        assert!(text.lines().all(|line| line.width() <= 30), "{text}");
    }
}
