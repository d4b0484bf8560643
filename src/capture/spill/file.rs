//! The blocks of one streamed transaction on disk: written one behind the other, read once from the beginning.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::block::{self, HEADER};
use super::error::SpillError;

/// A file of blocks; it is removed with this.
#[derive(Debug)]
pub(super) struct Blocks {
    path: PathBuf,
    xid: u32,
    length: u64,
    /// Of header and content: what a damaged length cannot pass.
    largest: usize,
    /// Open while it is written or read, so that many transactions at rest hold no descriptor.
    file: Option<File>,
}

impl Blocks {
    /// Names the file; it is made with its first block.
    pub(super) fn new(path: PathBuf, xid: u32) -> Self {
        Self { path, xid, length: 0, largest: 0, file: None }
    }

    /// Returns how long the file is, bytes.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Seals a block and writes it behind the others.
    pub(super) fn append(&mut self, block: &mut [u8]) -> Result<(), SpillError> {
        block::seal(block, self.xid, self.length);
        let file = if let Some(file) = &mut self.file {
            file
        } else {
            let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path);
            let opened = opened.map_err(|reason| self.failed("open", reason))?;
            self.file.insert(opened)
        };
        let written = file.write_all(block);
        written.map_err(|reason| self.failed("write", reason))?;
        self.length += block.len() as u64;
        self.largest = self.largest.max(block.len());
        Ok(())
    }

    /// Gives the descriptor back until the next block.
    pub(super) fn rest(&mut self) {
        self.file = None;
    }

    /// Reads the block at `offset` into `into`, header and all; the next one begins behind it.
    pub(super) fn read(&mut self, offset: u64, into: &mut Vec<u8>) -> Result<(), SpillError> {
        let damaged = |what| SpillError::Damaged { file: self.path.clone(), offset, what };
        let mut file = match self.file.take() {
            Some(file) if offset > 0 => file,
            _ => File::open(&self.path).map_err(|reason| self.failed_at("open", offset, reason))?,
        };
        let mut read = |into: &mut [u8]| match file.read_exact(into) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(damaged("it is shorter than what was written"))
            }
            Err(reason) => Err(self.failed_at("read", offset, reason)),
        };
        let mut header = [0; HEADER];
        read(&mut header)?;
        let length = HEADER.saturating_add(block::announced(header));
        if length > self.largest {
            return Err(damaged("a block is longer than any that was written"));
        }
        into.clear();
        into.extend_from_slice(&header);
        into.resize(length, 0);
        read(&mut into[HEADER..])?;
        if !block::is_intact(into, self.xid, offset) {
            return Err(damaged("the checksum of a block is wrong"));
        }
        self.file = Some(file);
        Ok(())
    }

    fn failed(&self, what: &'static str, reason: io::Error) -> SpillError {
        self.failed_at(what, self.length, reason)
    }

    fn failed_at(&self, what: &'static str, offset: u64, reason: io::Error) -> SpillError {
        SpillError::Disk { what, file: self.path.clone(), offset, reason }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        // What cannot be removed now is removed with its session.
        let _ = fs::remove_file(&self.path);
    }
}
