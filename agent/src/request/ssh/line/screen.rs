//! The part of a terminal's screen that a line is typed on: the last rows, and where the cursor is among them. What it does not
//! follow it says, and nothing is then known until the next line begins.

use crate::codec::terminal::{Effect, Piece, Splitter};

/// Rows that are remembered.
const ROWS_MAX: usize = 64;

/// Widest terminal, in columns.
const COLUMNS_MAX: usize = 1000;

/// Distance of tab stops, in columns.
const TAB_COLUMNS: usize = 8;

/// Longest character in UTF-8, in bytes.
const CHARACTER_BYTES_MAX: usize = 4;

/// A place on the screen: a row, counted from the first that there ever was, and a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    row: u64,
    column: usize,
}

impl Place {
    /// The first column of its row.
    pub(super) fn row_begin(self) -> Self {
        Self { column: 0, ..self }
    }
}

/// What is drawn, and where the next character goes.
#[derive(Clone, Debug, Default)]
struct Drawn {
    rows: Vec<Vec<char>>,
    /// Rows above that are forgotten.
    above: u64,
    row: usize,
    column: usize,
    /// The last column was written: the next character begins a new row.
    full: bool,
    /// Something was done that is not followed.
    lost: bool,
}

/// The screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    columns: usize,
    drawn: Drawn,
    /// What was drawn before a program took the whole screen.
    behind: Option<Drawn>,
    /// The shell wants pastes marked (`CSI ? 2004 h`), as readline does while it reads a line.
    bracketed: bool,
    /// Lines that were ended.
    lines: u64,
    /// A character whose end has not come.
    partial: Vec<u8>,
    splitter: Splitter,
}

impl Screen {
    pub(super) fn new(columns: u32) -> Self {
        let mut screen = Self::default();
        screen.resize(columns);
        screen
    }

    /// The terminal has another width; none is as good as endless.
    pub(super) fn resize(&mut self, columns: u32) {
        let columns = usize::try_from(columns).unwrap_or(COLUMNS_MAX).min(COLUMNS_MAX);
        self.columns = if columns == 0 { COLUMNS_MAX } else { columns };
    }

    /// The server wrote this.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let mut splitter = std::mem::take(&mut self.splitter);
        splitter.push(bytes, &mut |piece| match piece {
            Piece::Text(text) => self.text(text),
            Piece::Sequence(sequence, effect) => self.sequence(sequence, effect),
            Piece::String(..) => {}
        });
        self.splitter = splitter;
    }

    /// A program has the whole screen.
    pub(super) fn is_alternate(&self) -> bool {
        self.behind.is_some()
    }

    pub(super) fn is_bracketed(&self) -> bool {
        self.bracketed
    }

    /// How many lines were ended so far.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Where the cursor is; `None` when that is not known.
    pub(super) fn cursor(&self) -> Option<Place> {
        let Drawn { above, row, column, lost, .. } = self.drawn;
        (!lost && !self.is_alternate()).then_some(Place { row: above + row as u64, column })
    }

    /// What stands before the cursor on its row; `None` when that is not known.
    pub(super) fn before_cursor(&self) -> Option<String> {
        self.before(self.cursor()?)
    }

    /// What stands before a place on its row; `None` when that is not known.
    pub(super) fn before(&self, place: Place) -> Option<String> {
        self.cursor()?;
        let index = usize::try_from(place.row.checked_sub(self.drawn.above)?).ok()?;
        let row = self.drawn.rows.get(index).map(Vec::as_slice).unwrap_or_default();
        let blanks = place.column.saturating_sub(row.len());
        Some(row.iter().take(place.column).copied().chain(std::iter::repeat_n(' ', blanks)).collect())
    }

    /// What stands from a place on, without the blanks at its end; `None` when that is not known.
    pub(super) fn after(&self, place: Place) -> Option<String> {
        self.cursor()?;
        let first = usize::try_from(place.row.checked_sub(self.drawn.above)?).ok()?;
        let rows = self.drawn.rows.iter().skip(first).enumerate();
        let mut text = String::new();
        for (at, row) in rows {
            text.extend(row.iter().skip(if at == 0 { place.column } else { 0 }));
        }
        text.truncate(text.trim_end_matches(' ').len());
        Some(text)
    }

    fn text(&mut self, bytes: &[u8]) {
        if self.is_alternate() {
            return;
        }
        for byte in bytes {
            match byte {
                0x80.. => self.part(*byte),
                b' '..=b'~' => self.put(char::from(*byte)),
                b'\r' => self.drawn.go(0),
                b'\n' | 0x0b | 0x0c => self.line_feed(),
                0x08 => self.drawn.go(self.drawn.column.saturating_sub(1)),
                b'\t' => {
                    let next = (self.drawn.column / TAB_COLUMNS + 1) * TAB_COLUMNS;
                    self.drawn.go(next.min(self.columns - 1));
                }
                // Terminals ignore the rest.
                _ => {}
            }
        }
    }

    /// A byte of a character of several.
    fn part(&mut self, byte: u8) {
        self.partial.push(byte);
        match std::str::from_utf8(&self.partial).map(|text| text.chars().next()) {
            Ok(Some(character)) => {
                self.partial.clear();
                self.put(character);
            }
            Err(error) if error.error_len().is_none() && self.partial.len() < CHARACTER_BYTES_MAX => {}
            Ok(None) | Err(_) => {
                self.partial.clear();
                self.put(char::REPLACEMENT_CHARACTER);
            }
        }
    }

    fn put(&mut self, character: char) {
        if self.drawn.full {
            self.drawn.down();
            self.drawn.go(0);
        }
        let column = self.drawn.column;
        self.drawn.edit(|row| {
            if row.len() <= column {
                row.resize(column + 1, ' ');
            }
            if let Some(cell) = row.get_mut(column) {
                *cell = character;
            }
        });
        if column + 1 < self.columns {
            self.drawn.column += 1;
        } else {
            self.drawn.full = true;
        }
    }

    fn line_feed(&mut self) {
        self.lines += 1;
        self.drawn.lost = false;
        self.drawn.full = false;
        self.drawn.down();
    }

    fn sequence(&mut self, sequence: &[u8], effect: Effect) {
        match control_sequence(sequence) {
            Some((parameters, last)) => self.control(parameters, last),
            None if sequence == b"\x1bc" => self.drawn.clear(),
            None if effect == Effect::Move => self.drawn.lost = true,
            // Character sets, keypad modes, the bell.
            None => {}
        }
    }

    /// A control sequence (ECMA-48 §8.3).
    fn control(&mut self, parameters: &str, last: u8) {
        if matches!(last, b'h' | b'l') {
            return self.mode(parameters, last == b'h');
        }
        if self.is_alternate() {
            return;
        }
        let number: Option<usize> = parameters.split(';').next().and_then(|first| first.parse().ok());
        let count = number.unwrap_or(1).clamp(1, COLUMNS_MAX);
        let drawn = &mut self.drawn;
        let column = drawn.column;
        match last {
            // SGR, DSR, DA, cursor style, window operations, soft reset.
            b'm' | b'n' | b'c' | b'q' | b't' | b'p' => {}
            b'A' if count <= drawn.row => {
                drawn.row -= count;
                drawn.full = false;
            }
            b'B' if count <= ROWS_MAX => {
                drawn.full = false;
                (0..count).for_each(|_| drawn.down());
            }
            b'C' => drawn.go((column + count).min(self.columns - 1)),
            b'D' => drawn.go(column.saturating_sub(count)),
            b'G' => drawn.go((count - 1).min(self.columns - 1)),
            b'K' => drawn.erase_in_line(number.unwrap_or(0)),
            b'J' => match number.unwrap_or(0) {
                0 => drawn.erase_below(),
                2 => drawn.clear(),
                // The lines above, that are out of sight.
                3 => {}
                _ => drawn.lost = true,
            },
            b'H' if drawn.is_blank() && matches!(parameters, "" | "1;1") => drawn.go(0),
            b'P' => drawn.edit(|row| {
                row.drain(column.min(row.len())..(column + count).min(row.len()));
            }),
            b'@' => drawn.edit(|row| {
                let at = column.min(row.len());
                row.splice(at..at, std::iter::repeat_n(' ', count));
                row.truncate(COLUMNS_MAX);
            }),
            b'X' => drawn.edit(|row| row.iter_mut().skip(column).take(count).for_each(|cell| *cell = ' ')),
            _ => drawn.lost = true,
        }
    }

    /// Modes set and reset (DECSET and DECRST of xterm where they are private).
    fn mode(&mut self, parameters: &str, on: bool) {
        let Some(private) = parameters.strip_prefix('?') else {
            // Insert mode moves what stands behind.
            self.drawn.lost |= on && parameters == "4";
            return;
        };
        for mode in private.split(';') {
            match (mode, on) {
                ("47" | "1047" | "1049", true) if self.behind.is_none() => {
                    self.behind = Some(std::mem::take(&mut self.drawn));
                }
                ("47" | "1047" | "1049", false) => {
                    if let Some(behind) = self.behind.take() {
                        self.drawn = behind;
                    }
                }
                ("2004", _) => self.bracketed = on,
                _ => {}
            }
        }
    }
}

impl Drawn {
    /// Changes the row that the cursor is on.
    fn edit(&mut self, change: impl FnOnce(&mut Vec<char>)) {
        if self.rows.len() <= self.row {
            self.rows.resize(self.row + 1, Vec::new());
        }
        if let Some(row) = self.rows.get_mut(self.row) {
            change(row);
        }
    }

    fn go(&mut self, column: usize) {
        self.column = column;
        self.full = false;
    }

    fn down(&mut self) {
        self.row += 1;
        self.edit(|_| ());
        if self.rows.len() > ROWS_MAX {
            self.rows.remove(0);
            self.above += 1;
            self.row = self.row.saturating_sub(1);
        }
    }

    fn erase_in_line(&mut self, part: usize) {
        let column = self.column;
        self.edit(|row| match part {
            0 => row.truncate(column),
            1 => row.iter_mut().take(column + 1).for_each(|cell| *cell = ' '),
            _ => row.clear(),
        });
    }

    fn erase_below(&mut self) {
        self.erase_in_line(0);
        self.rows.truncate(self.row + 1);
    }

    fn is_blank(&self) -> bool {
        self.row == 0 && self.rows.iter().flatten().all(|cell| *cell == ' ')
    }

    /// Nothing is drawn any more; programs go to the first column then.
    fn clear(&mut self) {
        let above = self.above + self.rows.len() as u64;
        *self = Self { above, ..Self::default() };
    }
}

/// Parameters and last byte of a control sequence.
fn control_sequence(sequence: &[u8]) -> Option<(&str, u8)> {
    let introducers: [&[u8]; 3] = [b"\x1b[", b"\x9b", "\u{9b}".as_bytes()];
    let body = introducers.iter().find_map(|introducer| sequence.strip_prefix(*introducer))?;
    let (last, parameters) = body.split_last()?;
    Some((std::str::from_utf8(parameters).ok()?, *last))
}
