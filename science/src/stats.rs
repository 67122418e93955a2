//! Means, spreads and distances of samples. Pure functions.

// ---- means and spreads ----

/// The mean; absent for an empty sample.
pub fn mean(values: &[f64]) -> Option<f64> {
    match values.len() {
        0 => None,
        n => Some(values.iter().sum::<f64>() / n as f64),
    }
}

/// The standard deviation with n − 1 below the sum; absent below two values.
pub fn sample_std(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let centre = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod mean_tests {
    use super::*;

    #[test]
    fn spread_divides_by_one_less_than_the_count() {
        assert_eq!(mean(&[2.0, 4.0, 9.0]), Some(5.0));
        assert_eq!(sample_std(&[2.0, 4.0, 9.0]), Some(13.0_f64.sqrt()));
    }

    #[test]
    fn too_few_values_have_no_number() {
        assert_eq!(mean(&[]), None);
        assert_eq!(sample_std(&[3.0]), None);
    }
}
