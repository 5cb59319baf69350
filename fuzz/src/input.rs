//! An input, taken apart from its front: a few small numbers that choose what is done, then the bytes.

/// What is left of an input.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte; 0 when there is none left.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// The next two bytes as a number.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next eight bytes as a number.
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// So many bytes, or what is left.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes whose length stands before them.
    pub fn field(&mut self) -> &'a [u8] {
        let length = self.short();
        self.take(length.into())
    }
}

/// The same bytes in pieces, of lengths that go round in `step`.
pub fn pieces(bytes: &[u8], step: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut length = usize::from(step) + 1;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        length = length * 7 % 1021 + 1;
        Some(piece)
    })
}
