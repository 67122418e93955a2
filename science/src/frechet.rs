//! The Fréchet distance between Gaussians that have the mean and the covariance
//! of features (Heusel et al., NeurIPS 2017, arXiv 1706.08500; ALGORITHM 4.3):
//! `|μ₁ − μ₂|² + Tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½)`, in 64-bit numbers.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

/// The share of the largest entry that is added to the diagonal while eigenvalues are sought,
/// and then taken off again. Of matrices of low rank (pictures that are nearly black) the
/// search otherwise comes to numbers whose squares are zero, divides by them, and finds
/// infinite eigenvalues.
const SHIFT: f64 = 1e-8;

/// Mean and unbiased covariance of features over samples.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// The mean of each feature, `[features]`.
    pub mean: DVector<f64>,
    /// The covariance of the features, `[features, features]`.
    pub covariance: DMatrix<f64>,
}

impl Statistics {
    /// The statistics of samples, `[features, samples]`, at least two.
    pub fn from_samples(samples: DMatrix<f64>) -> Self {
        Self::centred(samples).0
    }

    /// The statistics of samples, and what is left of these after taking the mean off.
    fn centred(mut samples: DMatrix<f64>) -> (Self, DMatrix<f64>) {
        let mean = samples.column_mean();
        samples.column_iter_mut().for_each(|mut sample| sample -= &mean);
        let covariance = &samples * samples.transpose() / (samples.ncols() as f64 - 1.0);
        (Self { mean, covariance }, samples)
    }
}

/// Statistics with a root of their covariance, for distances to many others.
#[derive(Clone, Debug)]
pub struct Rooted {
    statistics: Statistics,
    /// Any R with `R Rᵀ = Σ`.
    root: DMatrix<f64>,
}

impl Rooted {
    /// The root for statistics alone.
    pub fn new(statistics: Statistics) -> Self {
        let (shifted, shift) = shifted(statistics.covariance.clone());
        let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(shifted);
        let lengths = eigenvalues.map(|value| (value - shift).max(0.0).sqrt());
        Self { root: eigenvectors * DMatrix::from_diagonal(&lengths), statistics }
    }

    /// The root for samples, `[features, samples]`, at least two. With fewer samples than
    /// features, what is left of them after taking the mean off is a root already,
    /// and a narrow one: 200 pictures need no eigenvectors of 2048 features.
    pub fn from_samples(samples: DMatrix<f64>) -> Self {
        if samples.ncols() >= samples.nrows() {
            return Self::new(Statistics::from_samples(samples));
        }
        let (statistics, centred) = Statistics::centred(samples);
        let root = &centred / (centred.ncols() as f64 - 1.0).sqrt();
        Self { statistics, root }
    }

    /// The statistics that the root is of.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The squared distance; zero if both are the same.
    ///
    /// The trace of `(Σ₁Σ₂)^½` is the sum of √λ over the eigenvalues of
    /// `Rᵀ Σ₂ R`, which is symmetric: no complex roots can arise. Rounding may
    /// leave eigenvalues just below zero; they count as zero.
    pub fn distance(&self, other: &Statistics) -> f64 {
        let product = self.root.tr_mul(&(&other.covariance * &self.root));
        let (shifted, shift) = shifted((&product + product.transpose()) * 0.5);
        let roots: f64 = shifted.symmetric_eigenvalues().iter().map(|value| (value - shift).max(0.0).sqrt()).sum();
        let means = (&self.statistics.mean - &other.mean).norm_squared();
        means + self.statistics.covariance.trace() + other.covariance.trace() - 2.0 * roots
    }
}

/// The matrix with [`SHIFT`], and how much that is.
fn shifted(mut matrix: DMatrix<f64>) -> (DMatrix<f64>, f64) {
    let shift = SHIFT * matrix.amax();
    (0..matrix.nrows()).for_each(|i| matrix[(i, i)] += shift);
    (matrix, shift)
}

#[cfg(test)]
mod tests {
    use domain::seed::Seed;

    use super::*;
    use crate::random;

    #[test]
    fn distance_of_two_dimensions_is_the_printed_one() {
        let one = Statistics {
            mean: DVector::from_row_slice(&[0.3, -0.1]),
            covariance: DMatrix::from_row_slice(2, 2, &[2.0, 0.5, 0.5, 1.0]),
        };
        let other = Statistics {
            mean: DVector::from_row_slice(&[0.0, 0.0]),
            covariance: DMatrix::from_row_slice(2, 2, &[1.5, -0.2, -0.2, 0.8]),
        };
        assert!((Rooted::new(one).distance(&other) - 0.320802674).abs() < 1e-9);
    }

    #[test]
    fn covariance_is_unbiased() {
        let statistics = Statistics::from_samples(DMatrix::from_row_slice(2, 3, &[1.0, 2.0, 3.0, 5.0, 5.0, 8.0]));
        assert_eq!(statistics.mean, DVector::from_row_slice(&[2.0, 6.0]));
        assert!((statistics.covariance - DMatrix::from_row_slice(2, 2, &[1.0, 1.5, 1.5, 3.0])).abs().max() < 1e-12);
    }

    #[test]
    fn few_samples_are_a_root_of_their_own_covariance() {
        let samples = |name: &str, count: usize| {
            let values = random::normals(&mut random::stream(Seed(1), name, 0), 12 * count);
            DMatrix::from_iterator(12, count, values.into_iter().map(f64::from))
        };
        let (few, many) = (samples("few", 5), samples("many", 40));
        let (short, long) = (Rooted::from_samples(few.clone()), Rooted::new(Statistics::from_samples(few.clone())));
        assert_eq!(short.root.shape(), (12, 5));
        let other = Statistics::from_samples(many.clone());
        let distance = long.distance(&other);
        assert!((short.distance(&other) / distance - 1.0).abs() < 1e-6);
        assert!((Rooted::from_samples(many).distance(short.statistics()) / distance - 1.0).abs() < 1e-6);
        assert!(short.distance(&Statistics::from_samples(few)).abs() < 1e-6);
    }

    #[test]
    fn distances_of_nearly_constant_features_are_numbers() {
        for seed in 0..8 {
            let normals = |name: &str, count| random::normals(&mut random::stream(Seed(seed), name, 0), count);
            // 192 rectified features of three small numbers, rounded to 32 bits.
            let (weights, biases) = (normals("weights", 192 * 3), normals("biases", 192));
            let statistics = |name: &str| {
                let hidden = normals(name, 3 * 250);
                Statistics::from_samples(DMatrix::from_fn(192, 250, |i, j| {
                    let sum: f32 = (0..3).map(|k| weights[3 * i + k] * hidden[3 * j + k]).sum();
                    f64::from((biases[i] + 1e-5 * sum).max(0.0))
                }))
            };
            let (one, other) = (statistics("one"), statistics("other"));
            let largest = one.covariance.trace() + other.covariance.trace();
            let distance = Rooted::new(one).distance(&other);
            assert!(distance.abs() < largest, "seed {seed}: {distance} of {largest}");
        }
        let constant = || Statistics::from_samples(DMatrix::from_element(4, 9, 0.5));
        assert!(Rooted::new(constant()).distance(&constant()).abs() < 1e-30);
    }
}
