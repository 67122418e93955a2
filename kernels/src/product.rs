//! The matrix product, by the crate `gemm`.
//!
//! `gemm` itself always takes the fastest instructions; here it is called one floor below, so
//! that a [`Path`] can be asked for.

use gemm_common::Parallelism;
use gemm_common::gemm::gemm_basic_generic;
use gemm_common::microkernel::{HMicroKernelFn, MicroKernelFn};
use gemm_common::simd::MixedSimd;
use gemm_f32::microkernel;

use crate::path::Path;

/// A matrix within a slice: the value of row `r` and column `c` is at
/// `r * row_stride + c * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows are contiguous and begin `stride` apart.
    pub(crate) fn rows(values: &'a [f32], stride: usize) -> Self {
        Self { values, row_stride: stride, column_stride: 1 }
    }

    /// A matrix whose columns are contiguous and begin `stride` apart.
    pub(crate) fn columns(values: &'a [f32], stride: usize) -> Self {
        Self { values, row_stride: 1, column_stride: stride }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.values.len()
    }
}

/// Writes `left × right` to `out`, or adds it to what is there.
///
/// # Shapes
/// - `size`: rows and columns of `out`, and the length of the sums
/// - `out`: rows that are contiguous and begin `stride` apart
///
/// # Panics
/// If a slice is shorter than its matrix.
pub(crate) fn product(
    path: Path,
    [rows, columns, depth]: [usize; 3],
    (out, stride): (&mut [f32], usize),
    adds: bool,
    left: Matrix,
    right: Matrix,
) {
    assert!(stride >= columns && Matrix::rows(out, stride).holds(rows, columns));
    assert!(left.holds(rows, depth) && right.holds(depth, columns));
    let call = Call { rows, columns, depth, out, stride, adds, left, right };
    match path {
        Path::Portable => {
            use microkernel::scalar::f32::{H_M, H_N, H_UKR, MR_DIV_N, NR, UKR};
            call.by::<gemm_common::simd::Scalar, 1, MR_DIV_N, NR, MR_DIV_N, H_M, H_N>(&UKR, &H_UKR);
        }
        #[cfg(target_arch = "aarch64")]
        Path::Neon => {
            use microkernel::neon::f32::{H_M, H_N, H_UKR, MR_DIV_N, NR, UKR};
            call.by::<gemm_common::simd::Scalar, 4, { MR_DIV_N * 4 }, NR, MR_DIV_N, H_M, H_N>(&UKR, &H_UKR);
        }
        #[cfg(target_arch = "x86_64")]
        Path::Avx2(_) => {
            use microkernel::fma::f32::{H_M, H_N, H_UKR, MR_DIV_N, NR, UKR};
            call.by::<gemm_common::simd::V3, 8, { MR_DIV_N * 8 }, NR, MR_DIV_N, H_M, H_N>(&UKR, &H_UKR);
        }
        #[cfg(target_arch = "x86_64")]
        Path::Avx512(_) => {
            use microkernel::avx512f::f32::{H_M, H_N, H_UKR, MR_DIV_N, NR, UKR};
            call.by::<gemm_common::simd::V4, 16, { MR_DIV_N * 16 }, NR, MR_DIV_N, H_M, H_N>(&UKR, &H_UKR);
        }
    }
}

struct Call<'a> {
    rows: usize,
    columns: usize,
    depth: usize,
    out: &'a mut [f32],
    stride: usize,
    adds: bool,
    left: Matrix<'a>,
    right: Matrix<'a>,
}

impl Call<'_> {
    /// `gemm` wants its output by columns, so it is asked for the transposed product.
    #[expect(unsafe_code, reason = "gemm takes pointers")]
    fn by<
        S,
        const N: usize,
        const MR: usize,
        const NR: usize,
        const MR_DIV_N: usize,
        const H_M: usize,
        const H_N: usize,
    >(
        self,
        kernels: &[[MicroKernelFn<f32>; NR]; MR_DIV_N],
        horizontal: &[[HMicroKernelFn<f32>; H_N]; H_M],
    ) where
        S: MixedSimd<f32, f32, f32, f32>,
    {
        let Some(simd) = S::try_new() else { unreachable!("a path exists only where its instructions do") };
        let alpha = if self.adds { 1.0 } else { 0.0 };
        // SAFETY: `product` has checked that all three matrices lie within their slices, rows of
        // `out` do not overlap, and `out` is borrowed for this call alone.
        unsafe {
            gemm_basic_generic::<S, f32, N, MR, NR, MR_DIV_N, H_M, H_N>(
                simd,
                self.columns,
                self.rows,
                self.depth,
                self.out.as_mut_ptr(),
                self.stride as isize,
                1,
                self.adds,
                self.right.values.as_ptr(),
                self.right.row_stride as isize,
                self.right.column_stride as isize,
                self.left.values.as_ptr(),
                self.left.row_stride as isize,
                self.left.column_stride as isize,
                alpha,
                1.0,
                false,
                false,
                false,
                |a, b, c| a * b + c,
                kernels,
                horizontal,
                false,
                Parallelism::None,
            );
        }
    }
}
