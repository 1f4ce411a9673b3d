//! Captures with seeded damage: never a panic, the same outcome however they are cut, and bounded memory.

use super::{CAPTURES, Random, Reader, Seen};
use crate::codec::postgres::frame::{Frame, HEADER_BYTES};
use crate::codec::postgres::split::{RowEvent, RowSplitter};
use crate::codec::postgres::tag::SQL_BODY_BYTES_MAX;
use crate::codec::postgres::{BackendTag, DecodeError, FrontendTag, Tag, backend, frontend, startup};

const MUTATIONS_PER_CAPTURE: u64 = 300;

/// Does to `bytes` one to four of the things that damage does.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.next() as u8),
            2 if !bytes.is_empty() => drop(bytes.remove(at)),
            3 => {
                let extreme = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
                bytes.iter_mut().skip(at).take(4).for_each(|byte| *byte = extreme);
            }
            4 => {
                let again = bytes[at..(at + random.below(64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
}

/// What a stream gives when cut at `cuts`: the messages, and how it ended.
fn outcome<T: Tag>(
    stream: &[u8],
    cuts: impl IntoIterator<Item = usize>,
) -> (Vec<Seen<T>>, Option<DecodeError>, usize) {
    let mut reader = Reader::<T>::new();
    let mut from = 0;
    for cut in cuts.into_iter().chain([stream.len()]) {
        if let Err(error) = reader.feed(&stream[from..cut]) {
            return (reader.seen, Some(error), 0);
        }
        from = cut;
        let wanted = reader.scanner.wanted(&reader.buffer);
        assert!((1..=SQL_BODY_BYTES_MAX + HEADER_BYTES).contains(&wanted));
    }
    (reader.seen, None, reader.buffer.len())
}

fn survive<T: Tag>(
    stream: &[u8],
    random: &mut Random,
    check: fn(Frame<'_, T>) -> Result<(), DecodeError>,
) -> usize {
    let mut stream = stream.to_vec();
    damage(&mut stream, random);
    let whole = outcome::<T>(&stream, []);
    assert!(whole == outcome::<T>(&stream, random.cuts(stream.len())), "cut at random");
    assert!(whole == outcome::<T>(&stream, 0..stream.len()), "byte by byte");
    let mut refused = usize::from(whole.1.is_some());
    for seen in &whole.0 {
        let bytes = super::message(seen.tag.byte(), &seen.body);
        if let Err(error) = check(Frame { tag: seen.tag, bytes: &bytes }) {
            assert_eq!(error.side(), T::SIDE, "{error}");
            refused += 1;
        }
    }
    refused
}

#[test]
fn damaged_sessions_are_refused_or_read_but_never_panic() {
    let mut refused = 0;
    for (number, capture) in CAPTURES.iter().enumerate() {
        for seed in 0..MUTATIONS_PER_CAPTURE {
            let mut random = Random::new(seed + number as u64 * 1_000);
            refused += survive::<FrontendTag>(capture.client_messages(), &mut random, frontend::check);
            refused += survive::<BackendTag>(capture.server_messages(), &mut random, backend::check);
        }
    }
    assert!(refused > 1_000, "the damage must show: only {refused} messages were refused");
}

#[test]
fn damaged_startup_packets_are_refused_or_read_but_never_panic() {
    let mut refused = 0;
    for (number, capture) in CAPTURES.iter().enumerate() {
        for seed in 0..MUTATIONS_PER_CAPTURE {
            let mut random = Random::new(seed + number as u64 * 1_000);
            let mut bytes = capture.client[..capture.client.len().min(100)].to_vec();
            damage(&mut bytes, &mut random);
            match startup::decode(&bytes) {
                Ok(Some((_, used))) => assert!(used <= bytes.len()),
                Ok(None) => {}
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 100, "the damage must show: only {refused} packets were refused");
}

#[test]
fn a_row_is_judged_alike_whole_and_in_pieces() {
    let mut agreed = [0, 0];
    for capture in CAPTURES {
        let rows = super::read::<BackendTag>(capture.server_messages(), []).unwrap();
        for (number, row) in rows.iter().filter(|seen| seen.tag == BackendTag::DataRow).enumerate() {
            for seed in 0..20 {
                let mut random = Random::new(seed + number as u64 * 1_000);
                let mut body = row.body.clone();
                damage(&mut body, &mut random);
                let whole = backend::decode_data_row(&body).is_ok();
                assert_eq!(whole, splits(&body, &random.cuts(body.len())));
                agreed[usize::from(whole)] += 1;
            }
        }
    }
    assert!(agreed[0] > 50 && agreed[1] > 50, "both outcomes must be met: {agreed:?}");
}

/// Whether a row in pieces is taken apart to its end.
fn splits(body: &[u8], cuts: &[usize]) -> bool {
    let mut splitter = RowSplitter::new(body.len());
    let mut from = 0;
    for cut in cuts.iter().copied().chain([body.len()]) {
        let mut input = &body[from..cut];
        from = cut;
        loop {
            match splitter.next(&mut input) {
                Ok(Some(RowEvent::End)) => return true,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return false,
            }
        }
    }
    panic!("a whole body ends or fails")
}
