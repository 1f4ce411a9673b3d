//! Content codings (RFC 9110 section 8.4), decoded piece by piece with bounded output, so that a few bytes that stand
//! for gigabytes cost no memory.

use std::io;

use bytes::{Buf as _, Bytes};
use compression_codecs::core::util::{PartialBuffer, WriteBuffer};
use compression_codecs::{BrotliDecoder, DecodeV2, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue};

/// Bytes that one step decodes at most.
pub(super) const STEP_BYTES: usize = 16 * 1024;

/// Codings that can be looked into.
const KNOWN: [&str; 6] = ["gzip", "x-gzip", "deflate", "br", "zstd", "identity"];

/// A coding that is not among those that can be decoded, or several on top of each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is in a content coding that cannot be looked into")]
pub(super) struct UnknownCoding;

/// One coded body being decoded.
pub(super) struct Decoder {
    stage: Stage,
    /// The coded stream came to its end.
    ended: bool,
    /// Something was decoded, or at least begun.
    begun: bool,
    /// The last step filled its room: there may be more without more input.
    full: bool,
}

enum Stage {
    Brotli(Box<BrotliDecoder>),
    /// `deflate` is zlib's format (RFC 9110 section 8.4.1.2), and some send it bare: the first byte tells.
    DeflateOrZlib,
    Deflate(Box<DeflateDecoder>),
    Gzip(Box<GzipDecoder>),
    Zlib(Box<ZlibDecoder>),
    Zstd(Box<ZstdDecoder>),
}

impl Decoder {
    /// For a message with these header fields; `None` when its body is as it is.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, UnknownCoding> {
        let mut codings = headers.get_all(CONTENT_ENCODING).iter();
        let Some(value) = codings.next() else { return Ok(None) };
        if codings.next().is_some() {
            return Err(UnknownCoding);
        }
        let stage = match value.to_str().map_err(|_| UnknownCoding)?.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => return Ok(None),
            "gzip" | "x-gzip" => Stage::Gzip(Box::default()),
            "deflate" => Stage::DeflateOrZlib,
            "br" => Stage::Brotli(Box::default()),
            "zstd" => Stage::Zstd(Box::default()),
            _ => return Err(UnknownCoding),
        };
        Ok(Some(Self { stage, ended: false, begun: false, full: false }))
    }

    /// Decodes from the front of `input` and appends at most [`STEP_BYTES`] to `out`. To be called until `input` is
    /// empty and nothing more comes.
    ///
    /// # Errors
    /// `InvalidData` and the like when it is not what its coding says.
    pub(super) fn step(&mut self, input: &mut Bytes, out: &mut Vec<u8>) -> io::Result<()> {
        if input.is_empty() && !self.full {
            return Ok(());
        }
        if self.ended {
            self.next_member()?;
        }
        if let (Stage::DeflateOrZlib, Some(first)) = (&self.stage, input.first()) {
            // RFC 1950 section 2.2: method 8 in the low bits, a window of at most 32 KiB above them.
            let zlib = first & 0x0f == 8 && first >> 4 <= 7;
            self.stage = if zlib { Stage::Zlib(Box::default()) } else { Stage::Deflate(Box::default()) };
        }
        self.begun |= !input.is_empty();
        let drained = input.is_empty();
        let before = out.len();
        out.resize(before + STEP_BYTES, 0);
        let room = out.get_mut(before..).unwrap_or_default();
        let mut source = PartialBuffer::new(input.as_ref());
        let mut target = WriteBuffer::new_initialized(room);
        let decoded = match self.codec() {
            Some(codec) => codec.decode(&mut source, &mut target),
            None => Ok(false),
        };
        let (taken, written) = (source.written_len(), target.written_len());
        out.truncate(before + written);
        input.advance(taken.min(input.len()));
        self.full = written == STEP_BYTES;
        match decoded {
            Ok(ended) => self.ended = ended,
            // Asked for more without input, some codecs call it an error that there is none.
            Err(_) if drained => self.full = false,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The coded body is complete.
    ///
    /// # Errors
    /// `UnexpectedEof` when its coding says that more must come.
    pub(super) fn finish(&self) -> io::Result<()> {
        if self.ended || !self.begun { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Several gzip members or zstd frames may follow each other (RFC 1952 section 2.2, RFC 8878 section 3.1).
    fn next_member(&mut self) -> io::Result<()> {
        match &mut self.stage {
            Stage::Gzip(codec) => codec.reinit()?,
            Stage::Zstd(codec) => codec.reinit()?,
            Stage::Brotli(_) | Stage::Deflate(_) | Stage::DeflateOrZlib | Stage::Zlib(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "bytes follow the end of the coded body",
                ));
            }
        }
        self.ended = false;
        Ok(())
    }

    fn codec(&mut self) -> Option<&mut dyn DecodeV2> {
        match &mut self.stage {
            Stage::Brotli(codec) => Some(codec.as_mut()),
            Stage::DeflateOrZlib => None,
            Stage::Deflate(codec) => Some(codec.as_mut()),
            Stage::Gzip(codec) => Some(codec.as_mut()),
            Stage::Zlib(codec) => Some(codec.as_mut()),
            Stage::Zstd(codec) => Some(codec.as_mut()),
        }
    }
}

/// Decodes a whole body, up to `max` bytes of it; `None` when there is more or it cannot be decoded.
pub(super) fn decode_whole(headers: &HeaderMap, body: &Bytes, max: usize) -> Option<Bytes> {
    let Some(mut decoder) = Decoder::of(headers).ok()? else {
        return (body.len() <= max).then(|| body.clone());
    };
    let (mut input, mut out) = (body.clone(), Vec::new());
    loop {
        let before = (input.len(), out.len());
        decoder.step(&mut input, &mut out).ok()?;
        if out.len() > max {
            return None;
        }
        if (input.len(), out.len()) == before {
            break;
        }
    }
    decoder.finish().ok()?;
    input.is_empty().then(|| Bytes::from(out))
}

/// Leaves in `Accept-Encoding` only what can be looked into, so that the server does not choose anything else.
pub(super) fn restrict_accepted(headers: &mut HeaderMap) {
    let Some(accepted) = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()) else {
        return;
    };
    let known = |item: &&str| {
        let name = item.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        KNOWN.contains(&name.as_str())
    };
    let kept: Vec<&str> = accepted.split(',').map(str::trim).filter(known).collect();
    let kept = if kept.is_empty() { "identity".to_owned() } else { kept.join(", ") };
    if let Ok(value) = HeaderValue::from_str(&kept) {
        headers.insert(ACCEPT_ENCODING, value);
    }
}

#[cfg(test)]
mod tests {
    use compression_codecs::{
        BrotliEncoder, EncodeV2, GzipEncoder, ZlibEncoder, ZstdEncoder, brotli::params::EncoderParams,
    };

    use compression_codecs::core::Level;

    use super::*;

    fn encoded(name: &str, plain: &[u8]) -> Vec<u8> {
        let mut gzip = GzipEncoder::new(Level::Default.into());
        let mut zlib = ZlibEncoder::new(Level::Default.into());
        let mut zstd = ZstdEncoder::new(3);
        let mut brotli = BrotliEncoder::new(EncoderParams::default());
        let codec: &mut dyn EncodeV2 = match name {
            "gzip" => &mut gzip,
            "deflate" => &mut zlib,
            "zstd" => &mut zstd,
            _ => &mut brotli,
        };
        let mut room = vec![0; plain.len() + 4096];
        let mut target = WriteBuffer::new_initialized(&mut room);
        let mut source = PartialBuffer::new(plain);
        while !source.unwritten().is_empty() {
            codec.encode(&mut source, &mut target).unwrap();
        }
        while !codec.finish(&mut target).unwrap() {}
        let written = target.written_len();
        room.truncate(written);
        room
    }

    fn headers(coding: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, coding.parse().unwrap());
        headers
    }

    #[test]
    fn every_coding_decodes_whole_and_byte_by_byte() {
        let plain: Vec<u8> = (0..100_000_u32).flat_map(|n| (n % 251).to_string().into_bytes()).collect();
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let coded = Bytes::from(encoded(coding, &plain));
            let whole = decode_whole(&headers(coding), &coded, plain.len()).expect(coding);
            assert_eq!(whole, plain, "{coding}");
            assert!(decode_whole(&headers(coding), &coded, plain.len() - 1).is_none(), "{coding}");
            let mut decoder = Decoder::of(&headers(coding)).unwrap().unwrap();
            let mut out = Vec::new();
            for byte in &coded {
                let mut input = Bytes::copy_from_slice(&[*byte]);
                loop {
                    let before = (input.len(), out.len());
                    decoder.step(&mut input, &mut out).unwrap();
                    if before == (input.len(), out.len()) {
                        break;
                    }
                }
            }
            decoder.finish().unwrap();
            assert_eq!(out, plain, "{coding}");
        }
    }

    #[test]
    fn what_is_cut_or_garbled_is_an_error() {
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let coded = Bytes::from(encoded(coding, b"hello hello hello hello"));
            assert!(
                decode_whole(&headers(coding), &coded.slice(..coded.len() - 2), 1024).is_none(),
                "{coding}"
            );
            assert!(decode_whole(&headers(coding), &Bytes::from_static(b"\xff\xfe no"), 1024).is_none());
        }
        assert_eq!(Decoder::of(&headers("compress")).err(), Some(UnknownCoding));
        assert_eq!(Decoder::of(&headers("gzip, br")).err(), Some(UnknownCoding));
    }

    #[test]
    fn two_members_are_one_body() {
        let mut coded = encoded("gzip", b"one ");
        coded.extend(encoded("gzip", b"two"));
        assert_eq!(decode_whole(&headers("gzip"), &coded.into(), 64).unwrap(), "one two");
    }

    #[test]
    fn a_step_never_gives_more_than_its_bound() {
        let mut input = Bytes::from(encoded("gzip", &vec![0; 4 * 1024 * 1024]));
        let mut decoder = Decoder::of(&headers("gzip")).unwrap().unwrap();
        let mut out = Vec::new();
        while !input.is_empty() {
            let before = out.len();
            decoder.step(&mut input, &mut out).unwrap();
            assert!(out.len() - before <= STEP_BYTES);
            out.clear();
        }
    }

    #[test]
    fn only_known_codings_are_asked_for() {
        for (asked, left) in [
            ("gzip, deflate, br, zstd", "gzip, deflate, br, zstd"),
            ("compress;q=0.5, gzip;q=1.0", "gzip;q=1.0"),
            ("*", "identity"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, asked.parse().unwrap());
            restrict_accepted(&mut headers);
            assert_eq!(headers[ACCEPT_ENCODING], left);
        }
    }
}
