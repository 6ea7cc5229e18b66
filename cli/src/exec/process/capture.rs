//! One output of a command, read as it arrives.
//!
//! Must always hold: memory is bounded by [`OUTPUT_KEPT_BYTES_MAX`]; longer outputs are written to
//! a file, completely, from the first byte. If the file cannot be written the loss is recorded
//! ([`Capture::is_lost`]); an incomplete output must not count as one.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use bytes::Bytes;
use bytestring::ByteString;

use crate::exec::report::{OUTPUT_KEPT_BYTES_MAX, Output};

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// Reads in a row before others get their turn: an endless output must not starve the rest.
const READS_IN_A_ROW_MAX: usize = 16;

/// Reads one output.
#[derive(Debug)]
pub(super) struct Capture {
    /// The read end, non-blocking; `None` when it is closed.
    pipe: Option<File>,
    head: Vec<u8>,
    len: u64,
    /// The file for outputs that do not fit in the head.
    spill: PathBuf,
    file: Option<File>,
    lost: Option<ByteString>,
}

impl Capture {
    /// Reads `pipe`; a long output is written to the file `spill`, which must not exist.
    pub(super) fn new(pipe: OwnedFd, spill: PathBuf) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let pipe = Some(File::from(pipe));
        Ok(Self { pipe, head: Vec::new(), len: 0, spill, file: None, lost: None })
    }

    /// The pipe, while it is open.
    pub(super) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads everything available. Closes the pipe at its end.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) {
        buffer.resize(READ_BYTES, 0);
        for _ in 0..READS_IN_A_ROW_MAX {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(buffer) {
                Ok(0) => self.pipe = None,
                Ok(len) => self.take(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.lose(&error);
                    self.pipe = None;
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        let room = OUTPUT_KEPT_BYTES_MAX - self.head.len();
        let fits = &bytes[..bytes.len().min(room)];
        let spilled_before = self.file.is_some();
        self.head.extend_from_slice(fits);
        if self.lost.is_none()
            && (spilled_before || fits.len() < bytes.len())
            && let Err(error) = self.write(bytes, fits.len(), spilled_before)
        {
            self.lose(&error);
        }
    }

    /// Writes to the file; to a new one the whole head first.
    fn write(&mut self, bytes: &[u8], in_head: usize, spilled_before: bool) -> io::Result<()> {
        if spilled_before {
            let file = self.file.as_mut().expect("spilled before");
            return file.write_all(bytes);
        }
        // `create_new` does not follow symbolic links either.
        let mut file = File::create_new(&self.spill)?;
        file.write_all(&self.head)?;
        file.write_all(&bytes[in_head..])?;
        self.file = Some(file);
        Ok(())
    }

    /// Whether a part of it could not be kept.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    fn lose(&mut self, error: &io::Error) {
        let dir = self.spill.parent().unwrap_or(&self.spill).display();
        self.lost = Some(ByteString::from(format!("cannot write a file in {dir}: {error}")));
        if self.file.take().is_some() || self.spill.exists() {
            // Half an output is useless, and its space is needed.
            let _ = std::fs::remove_file(&self.spill);
        }
    }

    /// The output read so far.
    pub(super) fn finish(self) -> Output {
        let file = self.file.as_ref();
        let file = file.map(|_| Bytes::copy_from_slice(self.spill.as_os_str().as_bytes()));
        Output { head: Bytes::from(self.head), len: self.len, file, lost: self.lost }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::{Capture, OUTPUT_KEPT_BYTES_MAX};
    use crate::exec::report::Output;

    /// Captures `bytes`, fed in parts of `part` bytes.
    fn captured(bytes: &[u8], part: usize, spill: &std::path::Path) -> Output {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut capture = Capture::new(reader.into(), spill.to_owned()).unwrap();
        for part in bytes.chunks(part) {
            writer.write_all(part).unwrap();
            capture.read(&mut Vec::new());
        }
        drop(writer);
        // A process forked by another test holds the writing end for a moment.
        while capture.pipe().is_some() {
            capture.read(&mut Vec::new());
            std::thread::yield_now();
        }
        capture.finish()
    }

    #[test]
    fn short_outputs_stay_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![7; OUTPUT_KEPT_BYTES_MAX];
        let output = captured(&bytes, 999, &dir.path().join("o"));
        assert!(output.is_whole() && output.file.is_none());
        assert_eq!(output.head, bytes);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn long_outputs_are_whole_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..OUTPUT_KEPT_BYTES_MAX * 3 + 1).map(|i| (i % 251) as u8).collect();
        for part in [1000, 32_768, 50_000] {
            let spill = dir.path().join(part.to_string());
            let output = captured(&bytes, part, &spill);
            assert_eq!(output.head, bytes[..OUTPUT_KEPT_BYTES_MAX]);
            assert_eq!((output.len, output.lost), (bytes.len() as u64, None));
            assert_eq!(fs::read(spill).unwrap(), bytes);
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_reported_as_lost() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![7; OUTPUT_KEPT_BYTES_MAX * 2];
        let output = captured(&bytes, 4096, &dir.path().join("no/such/directory"));
        assert_eq!(output.head.len(), OUTPUT_KEPT_BYTES_MAX);
        assert_eq!((output.len, output.file.clone()), (bytes.len() as u64, None));
        assert!(output.lost.as_ref().is_some_and(|why| why.contains("No such file")), "{output:?}");
        assert!(!output.is_whole());
    }
}
