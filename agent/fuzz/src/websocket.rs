//! Any bytes from either side of a WebSocket: no panic, the same messages however they are cut, and what is encoded again
//! decodes to the same.

use bytes::BytesMut;
use portcullis::codec::websocket::{Decoder, Item, Role, WebSocketError, encode};

/// What comes out: whole messages and control frames as they are, the parts of long messages joined.
fn decode(sender: Role, pieces: &[&[u8]]) -> (Vec<(String, Vec<u8>)>, Option<WebSocketError>) {
    let mut decoder = Decoder::new(sender, 64);
    let (mut input, mut seen) = (BytesMut::new(), Vec::<(String, Vec<u8>)>::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(Item::Part { opcode, payload, first, last })) => {
                    if first {
                        seen.push((format!("long {opcode:?}"), Vec::new()));
                    }
                    let open = seen.iter_mut().rev().find(|(name, _)| name.starts_with("long"));
                    open.expect("a part follows a first one").1.extend_from_slice(&payload);
                    if last {
                        let open = seen.iter_mut().rev().find(|(name, _)| name.starts_with("long"));
                        open.expect("it is open").0.insert_str(0, "whole ");
                    }
                }
                Ok(Some(Item::Message { opcode, payload } | Item::Control { opcode, payload })) => {
                    seen.push((format!("{opcode:?}"), payload.to_vec()));
                }
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
    }
    (seen, None)
}

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    for sender in [Role::Client, Role::Server] {
        let (whole, error) = decode(sender, &[data]);
        let bytes: Vec<&[u8]> = data.chunks(1).collect();
        let (cut, cut_error) = decode(sender, &bytes);
        assert_eq!(error, cut_error);
        assert!(whole == cut || error.is_some(), "a cut changes what is seen");
    }
    let mut out = BytesMut::new();
    encode(&mut out, Role::Client, [1, 2, 3, 4], portcullis::codec::websocket::Opcode::Binary, true, data);
    let (seen, error) = decode(Role::Client, &[&out]);
    assert_eq!(error, None);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].1, data);
}
