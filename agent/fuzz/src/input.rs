//! The fuzzer's bytes, one after the other; zeros when they are used up.

/// What is left of them.
pub struct Input<'a> {
    pub(crate) left: &'a [u8],
    /// Bytes of a piece, at most. A corpus means what it does with one number only.
    piece_bytes_max: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8], piece_bytes_max: usize) -> Self {
        Self { left: data, piece_bytes_max }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.left.split_first().unwrap_or((&0, &[]));
        self.left = rest;
        *first
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = self.below(self.piece_bytes_max).min(self.left.len());
        let (piece, rest) = self.left.split_at(length);
        self.left = rest;
        piece
    }

    /// Without NUL, as the protocol's strings are.
    pub(crate) fn text(&mut self) -> Vec<u8> {
        self.piece().iter().copied().filter(|byte| *byte != 0).collect()
    }
}
