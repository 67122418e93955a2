//! Corrections of the p-values of a family of tests, so that many tests do not find by
//! chance what one test would not.

use std::collections::BTreeSet;

/// Holm's adjusted p-values, in the order given: the chance of any false finding
/// in the family stays below the level (Holm 1979).
pub fn holm(p: &[f64]) -> Vec<f64> {
    let each: Vec<usize> = (0..p.len()).collect();
    holm_by_group(p, &each)
}

/// Holm's adjusted p-values of tests in groups of which at most one null hypothesis can be
/// falsely rejected, such as tests of one mean against several numbers. A p-value is
/// multiplied by the number of groups with a test not yet rejected (Holm 1979, with the
/// count of Shaffer 1986). `groups` names the group of each test.
pub fn holm_by_group<G: Ord>(p: &[f64], groups: &[G]) -> Vec<f64> {
    let mut adjusted = vec![0.0; p.len()];
    let mut largest: f64 = 0.0;
    let order = ascending(p);
    for (rank, &index) in order.iter().enumerate() {
        let open: BTreeSet<&G> = order[rank..].iter().map(|&index| &groups[index]).collect();
        largest = largest.max(open.len() as f64 * p[index]).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

/// Benjamini and Hochberg's adjusted p-values, in the order given: the expected
/// share of false findings among the findings stays below the level (1995).
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut adjusted = vec![0.0; p.len()];
    let mut smallest: f64 = 1.0;
    for (rank, &index) in ascending(p).iter().enumerate().rev() {
        smallest = smallest.min(p.len() as f64 / (rank + 1) as f64 * p[index]);
        adjusted[index] = smallest;
    }
    adjusted
}

/// The indices of the p-values in rising order.
fn ascending(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_one_group_count_once() {
        assert_eq!(holm(&[0.03, 0.01, 0.04]), [0.06, 0.03, 0.06]);
        // Two groups: the first test is one of two, and so is its repetition.
        assert_eq!(holm_by_group(&[0.01, 0.01, 0.04], &["A", "A", "C"]), [0.02, 0.02, 0.04]);
        // A group is open until its last test is rejected.
        assert_eq!(holm_by_group(&[0.01, 0.9, 0.03], &["A", "A", "C"]), [0.02, 0.9, 0.06]);
        assert!(holm(&[]).is_empty());
    }
}
