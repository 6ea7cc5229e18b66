//! Memory for writes that bypass the page cache: disks read it in place, and only from the start of
//! a page.
//!
//! Must always hold: a taken buffer begins at a page and has the requested length.

/// The largest page size.
const ALIGNMENT: usize = 4 << 10;
/// A buffer larger than this is not kept.
const BYTES_MAX: usize = 4 << 20;

/// A reusable buffer.
#[derive(Default)]
pub(crate) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// A slice of `len` bytes with arbitrary contents.
    pub(crate) fn take(&mut self, len: usize) -> &mut [u8] {
        if self.memory.len() < len + ALIGNMENT {
            self.memory = vec![0; (len + ALIGNMENT).next_power_of_two()];
        }
        self.start = self.memory.as_ptr().align_offset(ALIGNMENT);
        self.len = len;
        &mut self.memory[self.start..self.start + len]
    }

    /// The last slice taken.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// Frees the memory of a large buffer.
    pub(crate) fn shrink(&mut self) {
        if self.memory.len() > BYTES_MAX + ALIGNMENT {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_at_a_page_and_large_ones_are_freed() {
        let mut buffer = Buffer::default();
        for len in [512, 100 * 512, 512, BYTES_MAX, BYTES_MAX + 512, 1024] {
            buffer.take(len).fill(7);
            assert_eq!(buffer.bytes().len(), len);
            assert_eq!(buffer.bytes().as_ptr().align_offset(ALIGNMENT), 0);
            assert!(buffer.bytes().iter().all(|byte| *byte == 7));
            buffer.shrink();
            assert!(buffer.memory.len() <= BYTES_MAX + ALIGNMENT);
        }
    }
}
