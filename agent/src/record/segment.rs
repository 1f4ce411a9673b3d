//! Segment files: created with their space reserved, written at the end, read frame by frame past damage.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::format::{
    FRAME_HEADER_BYTES, FormatError, Frame, Preamble, SEGMENT_HEADER_BYTES, SegmentHeader, StoreId,
    resynchronise,
};

/// Largest segment file this program reads, in bytes.
pub const SEGMENT_FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Read-ahead of a [`SegmentCursor`], in bytes.
const READ_BYTES: usize = 256 * 1024;

/// Path of a segment in its store folder.
#[must_use]
pub fn segment_path(store_dir: &Path, number: u32) -> PathBuf {
    store_dir.join(format!("seg-{number:06}.pcr"))
}

/// Numbers of the segments in a store folder, ascending. Other files are ignored.
///
/// # Errors
/// The folder cannot be read.
pub fn list_segments(store_dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in store_dir.read_dir()? {
        let name = entry?.file_name();
        let number: Option<u32> =
            name.to_str().and_then(|name| name.strip_prefix("seg-")?.strip_suffix(".pcr")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A segment being written.
#[derive(Debug)]
pub(super) struct SegmentFile {
    file: File,
    #[cfg(test)]
    pub(super) faults: Arc<Faults>,
}

/// Failures that a test asks for and that no file system here produces on demand.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) sync: std::sync::atomic::AtomicBool,
    pub(super) write: std::sync::atomic::AtomicBool,
}

#[cfg(test)]
impl Faults {
    fn check(fault: &std::sync::atomic::AtomicBool) -> io::Result<()> {
        if fault.load(std::sync::atomic::Ordering::Relaxed) {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }
}

impl SegmentFile {
    /// Creates a segment that must not exist yet, readable by root only.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self {
            file,
            #[cfg(test)]
            faults: Arc::default(),
        })
    }

    /// Sets blocks aside so that writing up to `bytes` cannot run out of space. The file's length stays.
    ///
    /// File systems that cannot do this leave only the free-space check between us and a full disk.
    pub(super) fn reserve(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes all of `bytes` at `offset`.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        Faults::check(&self.faults.write)?;
        self.file.write_all_at(bytes, offset)
    }

    /// Puts everything written on stable storage.
    pub(super) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        Faults::check(&self.faults.sync)?;
        self.file.sync_data()
    }

    /// Gives back the reserved blocks behind `length`.
    pub(super) fn trim(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}

/// The segment being written, or one that waits for its last sync.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) file: Arc<SegmentFile>,
    pub(super) number: u32,
    pub(super) written: u64,
    pub(super) reserved: u64,
}

impl Segment {
    /// Creates a segment with its opening bytes written and its space set aside; leaves nothing behind when it fails.
    pub(super) fn create(store_dir: &Path, number: u32, reserved: u64, opening: &[u8]) -> io::Result<Self> {
        let path = segment_path(store_dir, number);
        let file = SegmentFile::create(&path)?;
        let reserved = reserved.max((SEGMENT_HEADER_BYTES + opening.len()) as u64);
        let result = file.reserve(reserved).and_then(|()| file.write_at(opening, 0));
        match result {
            Ok(()) => Ok(Self { file: Arc::new(file), number, written: opening.len() as u64, reserved }),
            Err(error) => {
                fs::remove_file(&path)?;
                Err(error)
            }
        }
    }
}

/// Puts complete segments, the current one and, if it changed, their folder on stable storage.
pub(super) fn sync_files(
    retired: &[Segment],
    current: &SegmentFile,
    directory: Option<&PathBuf>,
) -> io::Result<()> {
    for segment in retired {
        segment.file.trim(segment.written)?;
        segment.file.sync()?;
    }
    current.sync()?;
    directory.map_or(Ok(()), |path| sync_directory(path))
}

/// Whether an error means that there is no space left, and not that the disk failed.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT))
}

/// Puts a folder's entries on stable storage.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// What a [`SegmentCursor`] meets next.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// An intact frame.
    Frame {
        /// Where it starts.
        offset: u64,
        /// The frame.
        frame: Frame,
    },
    /// Bytes that are no intact frame, with intact ones behind them.
    Damaged {
        /// Where they start.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// Bytes that are no intact frame, and none behind them: a torn tail, or a frame being written right now.
    Torn {
        /// Where they start.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// Nothing left.
    End,
}

/// Reads a segment's frames in order.
#[derive(Debug)]
pub struct SegmentCursor {
    file: File,
    header: SegmentHeader,
    offset: u64,
    limit: u64,
    window_start: u64,
    window: Vec<u8>,
}

impl SegmentCursor {
    /// Opens a segment at its first frame.
    ///
    /// # Errors
    /// Reading fails, the file is larger than [`SEGMENT_FILE_BYTES_MAX`], or (`InvalidData`) the header is bad.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let limit = file.metadata()?.len();
        if limit > SEGMENT_FILE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "segment larger than any this program writes",
            ));
        }
        let mut head = [0; SEGMENT_HEADER_BYTES];
        let header = match file.read_exact_at(&mut head, 0) {
            Ok(()) => SegmentHeader::decode(&head),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(FormatError::Truncated),
            Err(error) => return Err(error),
        };
        let header = header.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let offset = SEGMENT_HEADER_BYTES as u64;
        Ok(Self { file, header, offset, limit, window_start: 0, window: Vec::new() })
    }

    /// The segment's header.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Where the next frame starts.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on at `offset`, which must be a frame's start, or the segment's first frame if that is later.
    pub fn seek(&mut self, offset: u64) {
        self.offset = offset.max(SEGMENT_HEADER_BYTES as u64);
    }

    /// Reads nothing at or behind `limit`, which must be a frame's end.
    pub fn stop_at(&mut self, limit: u64) {
        self.limit = self.limit.min(limit);
    }

    /// The next frame, or what is in its place. After `Torn` and `End` the cursor stays.
    ///
    /// # Errors
    /// Reading the file fails.
    pub fn step(&mut self) -> io::Result<Step> {
        let (offset, store) = (self.offset, self.header.store);
        let remaining = self.limit.saturating_sub(offset);
        if remaining == 0 {
            return Ok(Step::End);
        }
        if let Some((frame, length)) = self.frame_at(offset, store)? {
            self.offset += length as u64;
            return Ok(Step::Frame { offset, frame });
        }
        let rest = self.bytes(offset, usize::try_from(remaining).unwrap_or(usize::MAX))?;
        // The bad frame's own first byte cannot start a good one.
        match resynchronise(store, rest.get(1..).unwrap_or_default()) {
            Some(skipped) => {
                let bytes = skipped as u64 + 1;
                self.offset += bytes;
                Ok(Step::Damaged { offset, bytes })
            }
            None => Ok(Step::Torn { offset, bytes: remaining }),
        }
    }

    fn frame_at(&mut self, offset: u64, store: StoreId) -> io::Result<Option<(Frame, usize)>> {
        let Ok(preamble) = Preamble::decode(self.bytes(offset, FRAME_HEADER_BYTES)?) else {
            return Ok(None);
        };
        let length = FRAME_HEADER_BYTES + preamble.stored_length;
        Ok(Frame::decode(store, self.bytes(offset, length)?).ok())
    }

    /// Up to `length` bytes at `offset`: fewer at the limit. The length is bounded by the file's, whatever was asked.
    fn bytes(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let available = usize::try_from(self.limit.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = length.min(available);
        let window_end = self.window_start + self.window.len() as u64;
        if offset < self.window_start || offset + length as u64 > window_end {
            self.window.resize(length.max(READ_BYTES).min(available), 0);
            self.window_start = offset;
            self.file.read_exact_at(&mut self.window, offset)?;
        }
        let start = usize::try_from(offset - self.window_start).unwrap_or(usize::MAX);
        Ok(self.window.get(start..).and_then(|rest| rest.get(..length)).unwrap_or_default())
    }
}
