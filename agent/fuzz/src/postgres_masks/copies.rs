//! COPY TO STDOUT, as the server writes it and as it does not.

use std::sync::Arc;

use portcullis::mask::copy::{CopyColumn, CopyFormat, CopyMasker};
use portcullis::mask::{CellAction, HashKey, Scanner};

use super::{Cells, Shape, pieces};
use crate::input::Input;

fn copy(
    format: &CopyFormat,
    shapes: &[Shape],
    scanner: &Arc<Scanner>,
    key: &Arc<HashKey>,
    pieces: &[&[u8]],
) -> (Vec<u8>, bool, u64) {
    let column = |shape: &Shape| CopyColumn { action: shape.action, type_oid: shape.field.type_oid };
    let columns = shapes.iter().map(column).collect();
    let mut masker = CopyMasker::new(format.clone(), columns, Arc::clone(scanner), Arc::clone(key));
    let mut out = Vec::new();
    let taken = pieces.iter().try_for_each(|piece| masker.push(piece, &mut out));
    let ended = taken.and_then(|()| masker.finish(&mut out));
    (out, ended.is_ok(), masker.rows())
}

/// The same however it is cut. Says whether the copy came to its end.
pub fn copies(
    format: &CopyFormat,
    shapes: &[Shape],
    data: &[u8],
    lengths: &[u8],
    scanner: &Arc<Scanner>,
    key: &Arc<HashKey>,
) -> (Vec<u8>, bool) {
    let whole = copy(format, shapes, scanner, key, &[data]);
    let cut = copy(format, shapes, scanner, key, &pieces(data, lengths));
    assert!(whole == cut, "a cut changes what is copied");
    (whole.0, whole.1)
}

/// A copy as the server writes it is read to its end, and what comes out is such a copy, too.
pub fn server_copy(
    format: &CopyFormat,
    shapes: &[Shape],
    rows: &[&Cells],
    lengths: &[u8],
    scanner: &Arc<Scanner>,
    key: &Arc<HashKey>,
) -> Vec<u8> {
    let data = written(format, rows);
    let (out, complete) = copies(format, shapes, &data, lengths, scanner, key);
    assert!(complete, "the server's own form is read: {}", data.escape_ascii());
    let open: Vec<Shape> = shapes.iter().map(|shape| Shape { action: CellAction::Pass, ..*shape }).collect();
    let (same, complete, count) = copy(format, &open, scanner, key, &[&out]);
    let before = copy(format, &open, scanner, key, &[&data]).2;
    assert!(
        complete && same == out,
        "{format:?}: {} became {}, which is no such copy",
        data.escape_ascii(),
        out.escape_ascii()
    );
    assert_eq!(count, before, "{} became {}", data.escape_ascii(), out.escape_ascii());
    out
}

pub fn copy_format(input: &mut Input<'_>) -> Option<CopyFormat> {
    let mut options = Vec::new();
    let name = input.pick(&["text", "csv", "csv", "binary"]);
    options.push(("format", Some(name)));
    let (delimiter, quote, escape, null) = (input.byte(), input.byte(), input.byte(), input.piece());
    let texts =
        [[delimiter], [quote], [escape]].map(|byte| String::from_utf8(byte.to_vec()).unwrap_or_default());
    let null = String::from_utf8(null.to_vec()).unwrap_or_default();
    for (at, name) in [(0, "delimiter"), (1, "quote"), (2, "escape")] {
        if input.below(3) == 0 {
            options.push((name, Some(texts[at].as_str())));
        }
    }
    match input.below(6) {
        0 => options.push(("null", Some(null.as_str()))),
        1 => options.push(("header", None)),
        _ => {}
    }
    CopyFormat::from_options(&options).ok()
}

/// As the server writes it (`src/backend/commands/copyto.c`).
fn written(format: &CopyFormat, rows: &[&Cells]) -> Vec<u8> {
    let mut out = Vec::new();
    match format {
        CopyFormat::Binary => {
            out.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
            for cells in rows {
                out.extend_from_slice(&(cells.len() as i16).to_be_bytes());
                for cell in *cells {
                    out.extend_from_slice(&cell.as_ref().map_or(-1, |cell| cell.len() as i32).to_be_bytes());
                    out.extend_from_slice(cell.as_deref().unwrap_or_default());
                }
            }
            out.extend_from_slice(&[0xff, 0xff]);
        }
        CopyFormat::Csv { delimiter, null, .. } | CopyFormat::Text { delimiter, null, .. } => {
            for cells in rows {
                for (at, cell) in cells.iter().enumerate() {
                    if at > 0 {
                        out.push(*delimiter);
                    }
                    match cell {
                        None => out.extend_from_slice(null),
                        Some(cell) => written_field(format, cell, &mut out),
                    }
                }
                out.push(b'\n');
            }
        }
    }
    out
}

fn written_field(format: &CopyFormat, cell: &[u8], out: &mut Vec<u8>) {
    match format {
        CopyFormat::Binary => {}
        CopyFormat::Csv { delimiter, quote, escape, null, .. } => {
            let special = |byte: &u8| byte == delimiter || byte == quote || matches!(byte, b'\n' | b'\r');
            if cell != null.as_slice() && !cell.iter().any(special) {
                return out.extend_from_slice(cell);
            }
            out.push(*quote);
            for byte in cell {
                if byte == quote || byte == escape {
                    out.push(*escape);
                }
                out.push(*byte);
            }
            out.push(*quote);
        }
        CopyFormat::Text { delimiter, .. } => {
            for byte in cell {
                match byte {
                    b'\n' => out.extend_from_slice(b"\\n"),
                    b'\r' => out.extend_from_slice(b"\\r"),
                    b'\t' => out.extend_from_slice(b"\\t"),
                    b'\\' => out.extend_from_slice(b"\\\\"),
                    byte if byte == delimiter => out.extend_from_slice(&[b'\\', *byte]),
                    byte => out.push(*byte),
                }
            }
        }
    }
}
