//! The messages of a gRPC body (gRPC over HTTP/2: Length-Prefixed-Message).

/// Counts messages; each begins with a flag and its length in four bytes.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of the prefix that have come, up to four.
    prefix: u8,
    /// The length so far, then what is left of it.
    length: u32,
    /// Whether the message itself comes.
    inside: bool,
}

impl Frames {
    /// How many messages begin in `data`, which follows what came before.
    pub(super) fn begun_in(&mut self, mut data: &[u8]) -> u64 {
        let mut begun = 0;
        while let Some((first, rest)) = data.split_first() {
            if self.inside {
                let taken = data.len().min(usize::try_from(self.length).unwrap_or(usize::MAX));
                data = data.get(taken..).unwrap_or_default();
                self.length = self.length.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
                self.inside = self.length > 0;
                continue;
            }
            data = rest;
            match self.prefix {
                0 => {
                    begun += 1;
                    self.length = 0;
                    self.prefix = 1;
                }
                n => {
                    self.length = self.length << 8 | u32::from(*first);
                    self.prefix = (n + 1) % 5;
                    self.inside = self.prefix == 0 && self.length > 0;
                }
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_are_counted_however_they_are_cut(
            sizes in prop::collection::vec(0_usize..40, 0..20),
            cut in 1_usize..17,
        ) {
            let body: Vec<u8> = sizes
                .iter()
                .flat_map(|size| [&[1][..], &u32::try_from(*size).unwrap().to_be_bytes(), &vec![0xff; *size]].concat())
                .collect();
            let mut frames = Frames::default();
            let begun: u64 = body.chunks(cut).map(|piece| frames.begun_in(piece)).sum();
            prop_assert_eq!(begun, sizes.len() as u64);
        }
    }
}
