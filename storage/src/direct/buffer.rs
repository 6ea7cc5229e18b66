//! The memory that is written past the page cache: a disk takes it from where it lies, and
//! only from the beginning of a page.
//!
//! Must always hold: what was taken begins with a page, and is as long as was asked for.

/// The largest page there is.
const ALIGNMENT: usize = 4 << 10;
/// What is larger than this leaves no buffer of its size behind.
const BYTES_MAX: usize = 4 << 20;

/// A buffer that is used again and again.
#[derive(Default)]
pub(crate) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// So many bytes, whatever is in them.
    pub(crate) fn take(&mut self, len: usize) -> &mut [u8] {
        if self.memory.len() < len + ALIGNMENT {
            self.memory = vec![0; (len + ALIGNMENT).next_power_of_two()];
        }
        self.start = self.memory.as_ptr().align_offset(ALIGNMENT);
        self.len = len;
        &mut self.memory[self.start..self.start + len]
    }

    /// What was taken last.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// Gives back the memory of something large.
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
    fn what_was_taken_begins_with_a_page_and_large_ones_leave_nothing() {
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
