//! How far pieces reach without a gap.

use super::PieceName;

/// The end (exclusive) of what `pieces`, which are sorted by generation and start, hold without a gap of that generation from `start` on.
pub fn covered_from<'a>(pieces: impl IntoIterator<Item = &'a PieceName>, generation: u64, start: u64) -> u64 {
    let of_generation = pieces.into_iter().filter(|piece| piece.generation == generation);
    of_generation.fold(start, |end, piece| if piece.start <= end { end.max(piece.end) } else { end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_reach_to_the_first_gap_whoever_has_cut_them() {
        let piece = |generation, start, end| PieceName { generation, start, end, first_ms: 1, last_ms: 1 };
        // Two services have cut the log at different places.
        let pieces = [
            piece(0, 0, 900),
            piece(1, 10, 20),
            piece(1, 15, 40),
            piece(1, 20, 30),
            piece(1, 40, 50),
            piece(1, 60, 70),
        ];
        assert_eq!(covered_from(&pieces, 1, 10), 50);
        assert_eq!(covered_from(&pieces, 1, 25), 50);
        assert_eq!(covered_from(&pieces, 1, 5), 5);
        assert_eq!(covered_from(&pieces, 1, 55), 55);
        assert_eq!(covered_from(&pieces, 1, 60), 70);
    }
}
