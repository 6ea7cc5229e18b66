//! Blocks of the journal, cut into cells of one sector each.
//!
//! | bytes of a cell | what |
//! |---|---|
//! | 4 | crc32c over the rest of the cell |
//! | 8 | sequence of the block |
//! | 4 | index of the cell in its block |
//! | 4 | cells of the block |
//! | 2 | bytes of the block in this cell |
//! | 2 | zero |
//! | 488 | those bytes, then zeros |
//!
//! Numbers are big-endian. A disk writes a sector or does not: after a crash each cell of a block
//! that was being written is either new or unchanged (a cell of an older block, or zeros). So a
//! block that was never acknowledged can be distinguished from one that was damaged afterwards,
//! even if it is the last one. (SQLite's and RocksDB's checksums over whole frames cannot do that.)
//! Must always hold: golden tests pin these bytes.

/// Bytes of a cell: the smallest sector size of disks.
pub(super) const CELL_LEN: usize = 512;
/// Bytes of a cell's header.
const HEADER_LEN: usize = 24;
/// Bytes of a block in one cell.
pub(super) const DATA_LEN: usize = CELL_LEN - HEADER_LEN;

/// Contents of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    /// Never written.
    Blank,
    /// Not what was written there.
    Damaged,
    /// A part of a block.
    Part(Part<'a>),
}

/// A part of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// The block's sequence.
    pub(super) seq: u64,
    /// Index of the part, from 0.
    pub(super) index: u32,
    /// Number of parts of the block.
    pub(super) count: u32,
    /// Its bytes.
    pub(super) data: &'a [u8],
}

/// Number of cells of a block of this length.
pub(super) fn cells_of(len: usize) -> u32 {
    u32::try_from(len.div_ceil(DATA_LEN).max(1)).expect("a block is far below 2 TiB")
}

/// Writes the cells of a block over `buffer`, which must have their length.
pub(super) fn encode(seq: u64, block: &[u8], buffer: &mut [u8]) {
    let count = cells_of(block.len());
    assert_eq!(buffer.len(), count as usize * CELL_LEN, "room for the block's cells");
    for (index, cell) in (0..count).zip(buffer.chunks_exact_mut(CELL_LEN)) {
        let from = index as usize * DATA_LEN;
        let data = &block[from..block.len().min(from + DATA_LEN)];
        cell[4..12].copy_from_slice(&seq.to_be_bytes());
        cell[12..16].copy_from_slice(&index.to_be_bytes());
        cell[16..20].copy_from_slice(&count.to_be_bytes());
        let len = u16::try_from(data.len()).expect("less than a cell");
        cell[20..22].copy_from_slice(&len.to_be_bytes());
        cell[22..HEADER_LEN].fill(0);
        let (filled, rest) = cell[HEADER_LEN..].split_at_mut(data.len());
        filled.copy_from_slice(data);
        rest.fill(0);
        let sum = crc32c::crc32c(&cell[4..]);
        cell[..4].copy_from_slice(&sum.to_be_bytes());
    }
}

fn field<const N: usize>(cell: &[u8; CELL_LEN], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&cell[at..at + N]);
    bytes
}

/// Reads a cell.
pub(super) fn decode(cell: &[u8; CELL_LEN]) -> Cell<'_> {
    if crc32c::crc32c(&cell[4..]) != u32::from_be_bytes(field(cell, 0)) {
        let is_blank = cell.iter().all(|byte| *byte == 0);
        return if is_blank { Cell::Blank } else { Cell::Damaged };
    }
    let (index, count) = (u32::from_be_bytes(field(cell, 12)), u32::from_be_bytes(field(cell, 16)));
    let len = usize::from(u16::from_be_bytes(field(cell, 20)));
    if index >= count || len > DATA_LEN || (len < DATA_LEN && index + 1 < count) {
        return Cell::Damaged;
    }
    let seq = u64::from_be_bytes(field(cell, 4));
    Cell::Part(Part { seq, index, count, data: &cell[HEADER_LEN..HEADER_LEN + len] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(seq: u64, block: &[u8]) -> Vec<[u8; CELL_LEN]> {
        // Arbitrary previous contents.
        let mut buffer = vec![0xff; cells_of(block.len()) as usize * CELL_LEN];
        encode(seq, block, &mut buffer);
        buffer.chunks_exact(CELL_LEN).map(|cell| cell.try_into().unwrap()).collect()
    }

    #[test]
    fn golden_bytes() {
        let [cell] = cells(0x0102, b"forebay").try_into().unwrap();
        let head: String = cell[..32].iter().map(|byte| format!("{byte:02x}")).collect();
        insta::assert_snapshot!(head, @"d1e976cb0000000000000102000000000000000100070000666f726562617900");
        assert!(cell[31..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn blocks_of_every_length_decode() {
        for len in [0, 1, DATA_LEN - 1, DATA_LEN, DATA_LEN + 1, 5 * DATA_LEN, 5_000] {
            let block: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let cells = cells(9, &block);
            assert_eq!(cells.len(), cells_of(len) as usize);
            let mut found = Vec::new();
            for (n, cell) in cells.iter().enumerate() {
                let Cell::Part(part) = decode(cell) else { panic!("{len}") };
                assert_eq!(
                    (part.seq, part.index as usize, part.count as usize),
                    (9, n, cells.len())
                );
                found.extend_from_slice(part.data);
            }
            assert_eq!(found, block);
        }
    }

    #[test]
    fn every_bit_flip_is_found() {
        let [cell] = cells(7, &[3; 300]).try_into().unwrap();
        assert_eq!(decode(&[0; CELL_LEN]), Cell::Blank);
        for bit in 0..CELL_LEN * 8 {
            let mut flipped = cell;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), Cell::Damaged, "bit {bit}");
            let mut almost_blank = [0; CELL_LEN];
            almost_blank[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&almost_blank), Cell::Damaged, "bit {bit}");
        }
    }
}
