//! Numbers of 16 bits: values are kept in them, and computed with in 32.

use half::bf16;
use rayon::prelude::*;

use crate::path::Path;

/// Values that a task handles.
const PART: usize = 1 << 15;

/// The values in 32 bits.
pub fn widen(path: Path, values: &[bf16]) -> Vec<f32> {
    map(path, values, bf16::to_f32)
}

/// The values in 16 bits: the nearest, of two that are as near the even one.
pub fn narrow(path: Path, values: &[f32]) -> Vec<bf16> {
    map(path, values, bf16::from_f32)
}

/// Applies a function to all values.
fn map<A: Copy + Sync, B: Copy + Default + Send>(path: Path, values: &[A], function: impl Fn(A) -> B + Sync) -> Vec<B> {
    let mut output = vec![B::default(); values.len()];
    let parts = output.par_chunks_mut(PART).zip(values.par_chunks(PART));
    parts.for_each(|(out, values)| {
        path.run(
            #[inline(always)]
            || out.iter_mut().zip(values).for_each(|(out, value)| *out = function(*value)),
        );
    });
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_of_16_bits_come_back_and_others_are_rounded_as_they_should_be() {
        let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        for path in Path::all() {
            let wide = widen(path, &all);
            let equal = |(wide, value): (&f32, &bf16)| *wide == value.to_f32() || wide.is_nan() && value.is_nan();
            assert!(wide.iter().zip(&all).all(equal));
            let between =
                |offset: u32| wide.iter().map(|wide| f32::from_bits(wide.to_bits() ^ offset)).collect::<Vec<_>>();
            for offset in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let values = between(offset);
                let same = |(narrow, value): (&bf16, &f32)| narrow.to_bits() == bf16::from_f32(*value).to_bits();
                assert!(narrow(path, &values).iter().zip(&values).all(same), "{path}, {offset:x}");
            }
        }
    }
}
