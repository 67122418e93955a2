//! What is done to values as they are written, which saves passes over the memory.

/// What is done to the values of an output before anybody reads them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish<'a> {
    /// Values as many as the output has, which are added to it.
    pub residual: Option<&'a [f32]>,
    /// Whether what is below zero becomes zero then.
    pub rectifies: bool,
}

impl Finish<'_> {
    /// # Panics
    /// If there are not as many values to add as the output has.
    pub(crate) fn check(&self, output: usize) {
        assert!(self.residual.is_none_or(|residual| residual.len() == output));
    }

    /// Finishes the part of the output that begins at `first`.
    #[inline(always)]
    pub(crate) fn apply(&self, first: usize, part: &mut [f32]) {
        if let Some(residual) = self.residual {
            let residual = &residual[first..first + part.len()];
            part.iter_mut().zip(residual).for_each(|(value, residual)| *value += residual);
        }
        if self.rectifies {
            // What is no number stays so.
            part.iter_mut().for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value });
        }
    }
}
