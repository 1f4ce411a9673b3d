//! Lines and answers of scp's old protocol, cut at will: the same is understood however they come, and what goes out is read by
//! everybody as it was read here.

use bytes::Bytes;
use portcullis::codec::scp::{LINE_BYTES_MAX, Lines, Message};

fn messages(stream: &[u8], mut cuts: impl Iterator<Item = usize>) -> (Vec<Message>, bool) {
    let (mut lines, mut all, mut rest) = (Lines::default(), Vec::new(), Bytes::copy_from_slice(stream));
    while !rest.is_empty() {
        let mut piece = rest.split_to(cuts.next().unwrap_or(rest.len()).clamp(1, rest.len()));
        while !piece.is_empty() {
            match lines.message(&mut piece) {
                Ok(message) => all.extend(message),
                Err(_) => return (all, false),
            }
        }
    }
    (all, true)
}

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    let (stream, cuts) = crate::cut(data);
    let whole = messages(stream, std::iter::empty());
    let cut = messages(stream, cuts.iter().map(|cut| usize::from(*cut)));
    // A line that is too long is refused as soon as it is, which is earlier when it comes in pieces.
    assert!(whole == cut || !whole.1 && !cut.1 && whole.0 == cut.0);
    for message in whole.0 {
        let said = message.encode();
        assert!(said.len() <= LINE_BYTES_MAX);
        assert_eq!(messages(&said, std::iter::empty()), (vec![message], true));
    }
    let (mut lines, mut rest) = (Lines::default(), Bytes::copy_from_slice(stream));
    while let Ok(Some(reply)) = lines.reply(&mut rest) {
        let mut said = reply.encode();
        assert_eq!(Lines::default().reply(&mut said), Ok(Some(reply)));
        assert!(said.is_empty());
    }
}
