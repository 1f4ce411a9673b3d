//! Rows that are held, and rows that are too long for that and stream by.

use bytes::BytesMut;
use portcullis::codec::postgres::backend::decode_data_row;
use portcullis::codec::postgres::frame::HEADER_BYTES;
use portcullis::codec::postgres::row::{Edit, Rewritten, RowRewriter};
use portcullis::codec::postgres::split::{RowEvent, RowSplitter, ValueEvent};
use portcullis::codec::postgres::{BackendTag, Frame};
use portcullis::mask::types::{TypeClass, class_of};
use portcullis::mask::{
    CellAction, DetectedCell, Field, Findings, Format, HashKey, MaskedCell, Method, Overwriter, Scanner,
    StreamScanner, detect_cell, mask_cell,
};

use super::{Cells, Shape, assert_found, assert_hidden, pieces};

/// What replaces a value is a value of the same type.
pub fn assert_type(shape: Shape, original: &[u8], new: &[u8]) {
    let is_json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).is_ok();
    let class = class_of(shape.field.type_oid);
    match (class, shape.field.format) {
        (TypeClass::Json, _) | (TypeClass::Jsonb, Format::Text) => {
            let was = matches!(shape.action, CellAction::Mask(_)) || is_json(original);
            assert!(!was || is_json(new), "{} became {}", original.escape_ascii(), new.escape_ascii());
        }
        (TypeClass::Jsonb, Format::Binary) => {
            let was = matches!(shape.action, CellAction::Mask(_)) || original.get(1..).is_some_and(is_json);
            assert!(!was || (new[0] == 1 && is_json(&new[1..])), "{}", new.escape_ascii());
        }
        (TypeClass::Uuid, Format::Binary) => assert_eq!(new.len(), 16),
        (TypeClass::Uuid, Format::Text) => {
            let digit = |(at, byte): (usize, &u8)| match at {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            };
            assert!(new.len() == 36 && new.iter().enumerate().all(digit), "{}", new.escape_ascii());
        }
        (TypeClass::Text | TypeClass::User | TypeClass::TextArray, Format::Text)
        | (TypeClass::Text, Format::Binary) => {
            assert!(std::str::from_utf8(original).is_err() || std::str::from_utf8(new).is_ok());
        }
        // Nothing else has a safe value.
        _ => panic!("{class:?} was replaced by {}", new.escape_ascii()),
    }
}

/// What the relay does with a cell of a row that is held.
pub fn edit(shape: Shape, scanner: &Scanner, key: &HashKey, value: &[u8], scratch: &mut Vec<u8>) -> Edit {
    let Field { type_oid, format, .. } = shape.field;
    match shape.action {
        CellAction::Pass => Edit::Keep,
        CellAction::Mask(method) => match mask_cell(method, type_oid, format, value, key) {
            MaskedCell::Null => Edit::Null,
            MaskedCell::Bytes(bytes) => {
                scratch.extend_from_slice(&bytes);
                Edit::Replace
            }
        },
        CellAction::Detect => {
            match detect_cell(scanner, type_oid, format, value, key, scratch, &mut Findings::default()) {
                DetectedCell::Unchanged => Edit::Keep,
                DetectedCell::Null => Edit::Null,
                DetectedCell::Written => Edit::Replace,
            }
        }
    }
}

pub fn held_row(shapes: &[Shape], cells: &Cells, row: &[u8], scanner: &Scanner, key: &HashKey) {
    let masked: Vec<u16> =
        (0..).zip(shapes).filter(|(_, shape)| shape.action != CellAction::Pass).map(|(at, _)| at).collect();
    let mut output = BytesMut::new();
    let frame = Frame { tag: BackendTag::DataRow, bytes: row };
    let result = RowRewriter::default()
        .rewrite(frame, &masked, &mut output, |column, cell, scratch| {
            edit(shapes[usize::from(column)], scanner, key, cell, scratch)
        })
        .expect("a whole row");
    let row = if result == Rewritten::Changed { &output[..] } else { row };
    let new = decode_data_row(&row[HEADER_BYTES..]).expect("still a row");
    assert_eq!(new.len(), shapes.len());
    for ((shape, old), new) in shapes.iter().zip(cells).zip(new) {
        let (Some(old), Some(new)) = (old, new) else {
            assert!(new.is_none() || old.is_some(), "NULL became a value");
            continue;
        };
        if let CellAction::Mask(method) = shape.action {
            assert_ne!(method, Method::Null);
            // The domain of a mailbox is shown.
            if method != Method::Partial || !old.contains(&b'@') {
                assert_hidden(new, "a masked cell");
            }
        }
        if old != new || matches!(shape.action, CellAction::Mask(_)) {
            assert_type(*shape, old, new);
        }
        if shape.action == CellAction::Detect {
            assert_found(scanner, old, new);
        }
    }
}

/// What the relay does with a row that is too long to be held, in pieces.
pub fn streamed_row(
    shapes: &[Shape],
    body: &[u8],
    lengths: &[u8],
    scanner: &Scanner,
    key: &HashKey,
) -> Vec<u8> {
    enum Way {
        Detect(StreamScanner),
        Mask(Overwriter),
        Pass,
    }
    let mut splitter = RowSplitter::new(body.len());
    let (mut out, mut way) = (Vec::new(), Way::Pass);
    for mut piece in pieces(body, lengths) {
        while let Some(event) = splitter.next(&mut piece).expect("a whole row") {
            match event {
                RowEvent::Start { columns, .. } => out.extend_from_slice(&columns.to_be_bytes()),
                RowEvent::Cell(ValueEvent::Start { index, length }) => {
                    out.extend_from_slice(&length.map_or(-1, |length| length as i32).to_be_bytes());
                    let Shape { field, action } = shapes[usize::from(index)];
                    way = match action {
                        CellAction::Pass => Way::Pass,
                        CellAction::Detect => Way::Detect(StreamScanner::same_length()),
                        CellAction::Mask(_) => Way::Mask(Overwriter::new(
                            field.type_oid,
                            field.format,
                            length.unwrap_or(0) as usize,
                        )),
                    };
                }
                RowEvent::Cell(ValueEvent::Bytes { bytes, left, .. }) => {
                    match &mut way {
                        Way::Pass => out.extend_from_slice(bytes),
                        Way::Mask(overwriter) => {
                            let start = out.len();
                            out.extend_from_slice(bytes);
                            overwriter.overwrite(&mut out[start..]);
                        }
                        Way::Detect(stream) => stream.push(scanner, key, bytes, &mut out),
                    }
                    if left == 0
                        && let Way::Detect(stream) = std::mem::replace(&mut way, Way::Pass)
                    {
                        stream.finish(scanner, key, &mut out);
                    }
                }
                RowEvent::End => {}
            }
        }
    }
    out
}

pub fn long_row(
    shapes: &[Shape],
    cells: &Cells,
    body: &[u8],
    lengths: &[u8],
    scanner: &Scanner,
    key: &HashKey,
) {
    let cut = streamed_row(shapes, body, lengths, scanner, key);
    assert!(cut == streamed_row(shapes, body, &[255], scanner, key), "a cut changes what comes out");
    assert_eq!(cut.len(), body.len(), "its length was promised");
    let new = decode_data_row(&cut).expect("still a row");
    for ((shape, old), new) in shapes.iter().zip(cells).zip(new) {
        let (Some(old), Some(new)) = (old, new) else { continue };
        assert_eq!(old.len(), new.len());
        match shape.action {
            CellAction::Mask(_) => assert_hidden(new, "an overwritten cell"),
            CellAction::Detect => assert_found(scanner, old, new),
            CellAction::Pass => assert_eq!(old, new),
        }
    }
}
